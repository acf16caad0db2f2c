"""The files that bring a cluster up, held against what reads them: Ray's launcher, bash, the locked dependencies."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from detectors import names
from pipelines.config import load_config
from pipelines.ghi.config import GhiConfig

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "pipelines" / "cluster"
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
CLOSED = {6379: "GCS", 8265: "dashboard", 10001: "Ray client"}
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
LOCKED = {package["name"]: package["version"] for package in LOCK["package"]}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """ray_cluster.yaml as `ray up` completes and checks it, before it asks the cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.setenv("HOME", str(tmp_path))  # `ray up` keeps the keys that it makes there
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    prepared: dict[str, Any] = prepare_config(yaml.safe_load((ROOT / "ray_cluster.yaml").read_text(encoding="utf-8")))
    validate_config(prepared)
    return prepared


def test_ray_accepts_the_cluster(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0  # no worker on the head
    workers = {name: kind for name, kind in types.items() if name != config["head_node_type"]}
    assert any(kind["resources"].get("GPU") for kind in workers.values())
    for kind in workers.values():
        assert kind["min_workers"] == 0 < kind["max_workers"]
        assert kind["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert 0 < config["idle_timeout_minutes"] <= 15
    starts = [line for kind in ("head", "worker") for line in config[f"{kind}_start_ray_commands"] if "start" in line]
    assert len(starts) == 2
    assert all("--object-spilling-directory=/mnt/nvme/" in line for line in starts)


def test_nothing_is_installed_or_compiled_on_a_node(config: dict[str, Any]) -> None:
    assert not config["setup_commands"]
    assert not config["worker_setup_commands"]
    for line in config["initialization_commands"]:
        assert not re.search(r"\b(pip|uv|apt|apt-get|conda|make|g\+\+)\b", line), line


def test_every_call_needs_the_token(config: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["~/.ray/auth_token"].endswith(".ray/auth_token")


def test_amazon_takes_it_and_only_ssh_is_open(config: dict[str, Any]) -> None:
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    with mocked_aws():
        region = config["provider"]["region"]
        for name in {kind["node_config"]["IamInstanceProfile"]["Name"] for kind in types_of(config)}:
            boto3.client("iam", region).create_instance_profile(InstanceProfileName=name)
        ready = bootstrap_aws(config)
        provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
        for name, kind in ready["available_node_types"].items():
            made = provider.create_node(kind["node_config"], {"ray-user-node-type": name}, 1)
            assert [node.instance_type for node in made.values()] == [kind["node_config"]["InstanceType"]]
        groups = boto3.client("ec2", region).describe_security_groups()["SecurityGroups"]
        used = {group for kind in types_of(ready) for group in kind["node_config"]["SecurityGroupIds"]}
        rules = [rule for group in groups if group["GroupId"] in used for rule in group["IpPermissions"]]
        world = [rule for rule in rules if rule["IpRanges"] or rule.get("Ipv6Ranges")]
        assert [(rule["FromPort"], rule["ToPort"]) for rule in world] == [(22, 22)]
        assert not any(rule["FromPort"] <= port <= rule["ToPort"] for rule in world for port in CLOSED)


@contextlib.contextmanager
def mocked_aws() -> Iterator[None]:
    """Moto in place of Amazon. Its state is the process's, where other tests' buckets are: it is not wiped."""
    from moto import mock_aws

    aws = mock_aws()
    aws.start(reset=False)
    try:
        yield
    finally:
        aws.stop(remove_data=False)


def types_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    return list(config["available_node_types"].values())


def test_the_kubernetes_job_has_what_it_needs() -> None:
    job = yaml.safe_load((FOLDER / "rayjob.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec["entrypoint"].startswith("python -m pipelines ghi ")
    assert spec["shutdownAfterJobFinishes"] is True
    assert cluster["rayVersion"] == LOCKED["ray"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    detector = load_config(GhiConfig, re.findall(r"--config (\w+)", spec["entrypoint"])[0]).detector.name
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):  # wherever a detector is loaded or checked
        pod = group["template"]["spec"]
        [fetch], [container] = pod["initContainers"], pod["containers"]
        assert fetch["command"][:3] == ["humansd", "models", "fetch"]
        assert "+".join(name.removesuffix(names.SUFFIX) for name in fetch["command"][3:]) == detector
        for key in ("image", "env", "volumeMounts"):
            assert fetch[key] == container[key]
        cache = next(one["value"] for one in fetch["env"] if one["name"] == "HUMANSD_CACHE")
        [mount] = [one["name"] for one in fetch["volumeMounts"] if cache.startswith(one["mountPath"] + "/")]
        assert "hostPath" in next(volume for volume in pod["volumes"] if volume["name"] == mount)
        assert fetch["resources"]["requests"] == fetch["resources"]["limits"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    for name, group in groups.items():
        pod = group["template"]["spec"]
        assert group["minReplicas"] == 0 < group["maxReplicas"]
        assert "spot" in " ".join(pod["nodeSelector"])
        assert any("spot" in toleration["key"] for toleration in pod["tolerations"])
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["image"] == groups["gpu"]["template"]["spec"]["containers"][0]["image"]
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (name == "gpu")
    assert any(one["key"] == "nvidia.com/gpu" for one in groups["gpu"]["template"]["spec"]["tolerations"])


def test_the_image_is_the_lock_without_a_compiler() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    build, last = stages[-2], stages[-1]
    assert "g++" in build
    assert not re.search(r"g\+\+|gcc|build-essential|cuda-nvcc|-devel", last)
    assert re.search(r"^COPY --from=build \S*/humansd ", last, re.MULTILINE)
    synced = re.findall(r"^RUN uv sync (.*)$", DOCKERFILE, re.MULTILINE)
    assert synced
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for line in synced:
        assert line.startswith("--frozen ")
        assert set(re.findall(r"--extra (\w+)", line)) == set(extras)


def test_the_image_names_the_driver_that_its_torch_needs() -> None:
    from pipelines.preflight import DRIVERS

    major, minor, *_ = LOCKED["cuda-toolkit"].split(".")
    assert len(set(re.findall(r"^FROM nvidia/cuda:(\d+\.\d+)", DOCKERFILE, re.MULTILINE))) == 1
    assert f"nvidia/cuda:{major}.{minor}." in DOCKERFILE
    assert f'humansd.min-driver="{DRIVERS[int(major)]}"' in DOCKERFILE


def run_array(tasks: int, folder: Path, python: Path, *more: str) -> list[subprocess.CompletedProcess[str]]:
    """Run the script as it is, once for each task of an array; its jobs are dry runs."""
    given = {"CONFIG": str(folder / "five.toml"), "OUT": str(folder / "out"), "PATH": f"{python}:{os.environ['PATH']}"}
    (folder / "five.toml").write_text("n = 42\nshard_size = 10\n", encoding="utf-8")
    command = ["bash", str(FOLDER / "array.sh"), "--dry-run", "--json", *more]
    done = []
    for task in range(10, 10 + tasks):
        slurm = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_MIN": 10, "SLURM_ARRAY_TASK_COUNT": tasks}
        environment = {**os.environ, **given, **{name: str(value) for name, value in slurm.items()}}
        done.append(subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True))
    return done


def test_two_slurm_tasks_share_five_shards(tmp_path: Path) -> None:
    told = [json.loads(one.stdout) for one in run_array(2, tmp_path, Path(sys.executable).parent)]
    assert [one["shards"] for one in told] == [2, 3]
    assert [one["slots"] for one in told] == [20, 22]


def test_what_the_array_is_given_counts_in_its_shards(tmp_path: Path) -> None:
    told = [json.loads(one.stdout) for one in run_array(2, tmp_path, Path(sys.executable).parent, "--n", "90")]
    assert [one["slots"] for one in told] == [40, 50]


def test_an_array_whose_shards_cannot_be_counted_fails(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        run_array(1, tmp_path, Path(sys.executable).parent, "--n", "none")


@pytest.mark.parametrize("tasks", [1, 3, 5, 7])
def test_a_slurm_array_makes_every_shard_once(tasks: int, tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text("""#!/bin/sh\ncase "$*" in *--shards*) echo "$*";; *) echo '{"slots": 42, "shards": 5}';; esac\n""")
    stub.chmod(0o755)
    told = " ".join(one.stdout for one in run_array(tasks, tmp_path, tmp_path))
    ranges = [range(int(start), int(stop)) for start, stop in re.findall(r"--shards (\d+):(\d+)", told)]
    assert len(ranges) == min(tasks, 5)
    assert sorted(shard for one in ranges for shard in one) == list(range(5))
