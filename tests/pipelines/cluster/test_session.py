"""What is sent to a cluster, and both ways to run a job there, on a real one that wants its token."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cluster import session
from pipelines.job import Runtime
from tests.pipelines.cluster.real_ray import RealCluster, real_cluster

ROOT = Path(__file__).resolve().parents[3]
JOB = ["ghi", "--config", "mini", "--n", "8", "--workers", "2", "--set", "shard_size=4", "--set", "sampler.steps=4"]
JOB += ["--set", "gates.people_count=false", "--set", "gates.min_usable_keypoints=0"]


def packed(folder: Path, excludes: list[str], target: Path) -> set[str]:
    """Names of the files in the package that Ray makes of a folder."""
    from ray._private.runtime_env.packaging import create_package

    create_package(str(folder), target, include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(target) as package:
        assert sum(info.file_size for info in package.infolist()) < 100 * 2**20
        return {name for name in package.namelist() if not name.endswith("/")}


def test_a_submitted_job_brings_code_and_configs_never_data_or_tests(tmp_path: Path) -> None:
    """`.rayignore` in a checkout where all kinds of things lie about."""
    there = [
        "pipelines/cli.py",
        "pipelines/configs/mini.toml",
        "prompts/data/actions.tsv",
        "detectors/mini_pose.safetensors",
    ]
    there += ["my.toml", "pipelines/mini/sd/unet/config.json"]
    not_there = ["ghi/shards/00000000.parquet", "out/demo/sheet.png", "tests/test_house.py", "uv.lock", ".git/config"]
    not_there += [".venv/bin/python", "weights.safetensors", "pipelines/mini/results/mini.png", "secrets.env"]
    for name in [*there, *not_there]:
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", encoding="utf-8")
    for name in (".rayignore", ".gitignore"):
        (tmp_path / "checkout" / name).write_bytes((ROOT / name).read_bytes())
    assert packed(tmp_path / "checkout", [], tmp_path / "package.zip") == set(there)


def test_a_driver_brings_its_packages_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(session.SUBMITTED, raising=False)
    environment = session.code_environment()
    assert environment is not None
    assert [Path(folder).name for folder in environment["py_modules"]] == ["pipelines", "prompts", "detectors"]
    for folder in map(Path, environment["py_modules"]):
        names = packed(folder, environment["excludes"], tmp_path / f"{folder.name}.zip")
        assert "__init__.py" in names
        assert not [name for name in names if "results/" in name or "__pycache__" in name]
    monkeypatch.setenv(session.SUBMITTED, "{}")
    assert session.code_environment() is None


def test_the_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert session.cluster_of(Runtime()) == "10.0.0.1:6379"
    assert session.cluster_of(Runtime(address="auto")) == "auto"
    monkeypatch.delenv("RAY_ADDRESS")
    assert session.cluster_of(Runtime()) is None


@pytest.fixture(scope="module")
def cluster() -> Iterator[RealCluster]:
    with real_cluster() as made:
        yield made


def run(command: list[str], cluster: RealCluster, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**cluster.environment, **more}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def done_shards(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("done/*"))


@pytest.mark.slow
def test_a_driver_joins_with_address_and_its_code_goes_along(cluster: RealCluster, tmp_path: Path) -> None:
    code = """if True:
        import json, sys
        from pipelines.cluster.session import ray_session
        from pipelines.job import Runtime
        with ray_session(Runtime(address=sys.argv[1])):
            import ray

            def look():
                import importlib.util, pipelines
                return pipelines.__file__, importlib.util.find_spec("tests.pipelines") is None

            print(json.dumps(ray.get(ray.remote(look).remote())))
    """
    command = [sys.executable, "-c", code, cluster.address]
    looked = run(command, cluster, tmp_path, PYTHONPATH=str(ROOT))
    assert looked.returncode == 0, looked.stderr
    where, no_tests = json.loads(looked.stdout.splitlines()[-1])
    assert "runtime_resources/py_modules" in where
    assert no_tests
    command = [sys.executable, "-m", "pipelines", *JOB, "--out", str(tmp_path / "out"), "--address", cluster.address]
    made = run(command, cluster, tmp_path, PYTHONPATH=str(ROOT))
    assert made.returncode == 0, made.stderr
    assert done_shards(tmp_path / "out") == ["00000000.json", "00000001.json"]


@pytest.mark.slow
def test_a_job_is_submitted(cluster: RealCluster, tmp_path: Path) -> None:
    ray = str(Path(sys.executable).parent / "ray")
    job = ["python", "-m", "pipelines", *JOB, "--out", str(tmp_path / "out")]
    command = [ray, "job", "submit", "--address", cluster.dashboard, "--working-dir", ".", "--", *job]
    submitted = run(command, cluster, ROOT)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "succeeded" in submitted.stdout + submitted.stderr
    assert done_shards(tmp_path / "out") == ["00000000.json", "00000001.json"]


@pytest.mark.slow
def test_without_the_token_nobody_gets_in(cluster: RealCluster, tmp_path: Path) -> None:
    without = RealCluster(cluster.address, cluster.dashboard, {**cluster.environment, "RAY_AUTH_TOKEN": "0" * 64})
    ray = str(Path(sys.executable).parent / "ray")
    listed = run([ray, "job", "list", "--address", cluster.dashboard], without, tmp_path)
    assert listed.returncode != 0
    command = [sys.executable, "-m", "pipelines", *JOB, "--out", str(tmp_path / "out"), "--address", cluster.address]
    refused = run(command, without, tmp_path, PYTHONPATH=str(ROOT))
    assert refused.returncode == 2, refused.stderr
    assert "RAY_AUTH_MODE=token" in refused.stderr.splitlines()[-1]
