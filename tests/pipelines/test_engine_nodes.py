"""Several machines: the raylets of one Ray cluster here, with GPUs in name; they come and go under real jobs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines import dataset, lease, shards
from pipelines.cli import main
from pipelines.progress import METRICS
from pipelines.store import Store
from tests.pipelines.jobs import PATIENCE, ROOT, SHARD_SIZE, N, lines, start, tables, wait_for, wait_for_lines
from tests.pipelines.machines import Machines

SHARDS = N // SHARD_SIZE


@pytest.fixture(scope="module")
def one_cluster(s3: str) -> Iterator[Machines]:
    """Started after the object store, whose place its processes have to know."""
    with closing(Machines()) as machines:
        yield machines


@pytest.fixture
def machines(one_cluster: Machines) -> Iterator[Machines]:
    """A cluster without nodes."""
    yield one_cluster
    one_cluster.kill_all()


class Shift:
    """A job's workers, which note where they begin a shard and wait there until they are let go."""

    def __init__(self, folder: Path) -> None:
        self._places, self._hold = folder / "places", folder / "hold"

    @property
    def options(self) -> dict[str, str]:
        """Options of `toy`."""
        return {"places": str(self._places), "hold": str(self._hold)}

    def places(self) -> list[dict[str, Any]]:
        """Where shards were begun."""
        return [json.loads(line) for line in self._places.read_text().splitlines()] if self._places.exists() else []

    def wait_for(self, number: int, driver: subprocess.Popen[str]) -> list[dict[str, Any]]:
        """Wait until so many shards were begun."""
        wait_for(lambda: len(self.places()) >= number, driver)
        assert len(self.places()) >= number, driver.communicate()
        return self.places()

    def go(self) -> None:
        """Let the workers go on."""
        self._hold.touch()

    def processes(self) -> list[int]:
        """Workers that are alive."""
        return [place["pid"] for place in self.places() if psutil.pid_exists(place["pid"])]


@pytest.fixture
def shift(tmp_path: Path) -> Shift:
    return Shift(tmp_path)


@pytest.fixture(params=["local", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path, s3: str) -> str:
    return str(tmp_path / "out") if request.param == "local" else f"{s3}/{tmp_path.name}/out"


def stored(out: str) -> dict[str, bytes]:
    """The Parquet files of a dataset, wherever it is, by their path in it."""
    store = Store(out)
    return {
        f"{folder}/{name}": store.read(f"{folder}/{name}") for folder in shards.FOLDERS for name in store.names(folder)
    }


def end(driver: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    """A driver's report, once it has ended well, and what it told."""
    report, told = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, told
    found: dict[str, Any] = json.loads(report)
    assert (found["failed"], found["short"], found["shards_complete"]) == ({}, [], SHARDS)
    return found, told


def killed_rows(out: str) -> list[str]:
    """Rows that the ledger says have killed their worker."""
    tables = (shards.read_table(Store(out), "ledger", index, ["reason"]) for index in range(SHARDS))
    return [reason for table in tables for reason in table["reason"].to_pylist() if reason == "killed_worker"]


def test_workers_share_a_gpu(machines: Machines, shift: Shift, sound: Path, tmp_path: Path) -> None:
    """Three are asked for, and there is room for two, of half a GPU each."""
    machines.add(gpus=1)
    driver = start(tmp_path / "out", machines.address, workers=3, num_gpus=0.5, num_cpus=0.1, **shift.options)
    together = shift.wait_for(2, driver)
    time.sleep(1.0)
    assert len(shift.places()) == 2
    assert len({place["pid"] for place in together}) == 2
    assert {place["gpu"] for place in together} == {"0"}
    shift.go()
    report, _ = end(driver)
    assert report["gpu_seconds"] > 0
    assert len({place["pid"] for place in shift.places()}) == 2
    assert tables(tmp_path / "out") == tables(sound)


@pytest.mark.slow
def test_a_machine_that_dies_costs_no_shard(machines: Machines, shift: Shift, sound: Path, out: str) -> None:
    lost, _ = machines.add(), machines.add()
    driver = start(out, machines.address, num_gpus=1.0, **shift.options)
    assert len({place["node"] for place in shift.wait_for(2, driver)}) == 2
    machines.kill(lost)
    shift.go()
    report, told = end(driver)
    assert report["shards_done"] == SHARDS
    assert "its machine is gone; it goes elsewhere" in told
    assert "retired" not in told
    assert killed_rows(out) == []
    assert Store(out).names("failed") == []
    assert stored(out) == tables(sound)


@pytest.mark.slow
def test_machines_that_die_again_and_again_under_one_batch_cost_no_row(
    machines: Machines, sound: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    driver = start(out, machines.address, pause=0.5, log=str(log), workers=1, num_gpus=1.0)
    for _ in range(4):
        before = len(lines(log))
        machine = machines.add()
        assert wait_for_lines(log, before + 1, driver)
        machines.kill(machine)
    machines.add()
    _, told = end(driver)
    assert "its machine is gone" in told
    assert killed_rows(str(out)) == []
    assert tables(out) == tables(sound)


@pytest.mark.slow
def test_a_machine_that_comes_later_is_used(machines: Machines, shift: Shift, sound: Path, out: str) -> None:
    machines.add()
    driver = start(out, machines.address, workers=3, num_gpus=1.0, **shift.options)
    shift.wait_for(1, driver)
    machines.add(gpus=2)
    places = shift.wait_for(3, driver)
    assert len({place["node"] for place in places}) == 2
    shift.go()
    end(driver)
    assert stored(out) == tables(sound)


@pytest.mark.slow
def test_a_job_that_starts_before_its_machines_waits_and_says_so(
    machines: Machines, sound: Path, tmp_path: Path
) -> None:
    driver = start(tmp_path / "out", machines.address, workers=2, num_gpus=1.0)
    assert driver.stderr is not None
    told = next(line for line in driver.stderr if line.startswith("no worker"))  # Ray tells of nodes of tests before
    assert told.strip() == "no worker is up yet: each wants 1 CPU, 1 GPU; free on the cluster: 0 CPU, 0 GPU"
    machines.add()
    end(driver)
    assert tables(tmp_path / "out") == tables(sound)


@pytest.mark.slow
def test_a_killed_driver_is_followed_by_another_on_the_same_cluster(
    machines: Machines, shift: Shift, sound: Path, out: str
) -> None:
    machines.add(gpus=2)
    driver = start(out, machines.address, num_gpus=1.0, pause=0.2, **shift.options)
    orphans = {place["pid"] for place in shift.wait_for(2, driver)}
    shift.go()
    wait_for(lambda: shards.done_indices(Store(out)), driver)
    driver.kill()
    driver.communicate()
    before = shards.done_indices(Store(out))
    assert len(before) < SHARDS
    report, told = end(start(out, machines.address, num_gpus=1.0))
    assert report["shards_done"] <= SHARDS - len(before)
    assert ("best effort" in told) == out.startswith("s3://")
    assert stored(out) == tables(sound)
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in orphans))
    assert list(dataset.verify(out)) == []


@pytest.mark.slow
def test_orphans_stop_when_their_driver_s_lease_is_lost(
    machines: Machines, shift: Shift, sound: Path, out: str
) -> None:
    """A driver that hangs keeps its workers: what ends them is the lease, which it does not renew."""
    machines.add(gpus=2)
    driver = start(out, machines.address, workers=1, num_gpus=1.0, stale_seconds=3.0, **shift.options)
    shift.wait_for(1, driver)
    driver.send_signal(signal.SIGSTOP)
    try:
        store = Store(out)
        wait_for(lambda: not lease.live(store, 4.0))
        with closing(lease.acquire(store, range(SHARDS), lease.new_run(), 3.0)):
            shift.go()
            time.sleep(3.0)
            assert store.names("done") == []
        report, _ = end(start(out, machines.address, workers=1, num_gpus=1.0))
        assert report["shards_done"] == SHARDS
        assert stored(out) == tables(sound)
    finally:
        driver.send_signal(signal.SIGCONT)
    report_of_the_first, told = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 1, told
    assert json.loads(report_of_the_first)["shards_done"] == 0
    assert stored(out) == tables(sound)


@pytest.mark.slow
def test_a_relative_folder_is_the_driver_s(machines: Machines, sound: Path, tmp_path: Path) -> None:
    """Workers have a working folder of their own."""
    machines.add()
    out = os.path.relpath(tmp_path / "out")
    end(start(out, machines.address, workers=1))
    assert tables(tmp_path / "out") == tables(sound)


@pytest.mark.slow
def test_a_dataset_in_an_object_store_is_read_checked_and_repaired_there(
    machines: Machines, sound: Path, s3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import pandas as pd

    machines.add(gpus=2)
    out = f"{s3}/whole/out"
    end(start(out, machines.address))
    store = Store(out)
    times = {path: store.fs.info(path)["LastModified"] for path in store.fs.find(store.base)}
    for index in range(SHARDS):
        files = [times[store.path(shards.table_name(folder, index))] for folder in shards.FOLDERS]
        assert max(files) <= times[store.path(shards.done_name(index))]
    assert [path for path in times if "/.run/" in path] == []
    assert main(["status", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"]
    assert main(["index", out]) == 0
    rows = pd.read_parquet(f"{out}/index.parquet")
    assert len(rows) == len(pd.read_parquet(f"{out}/shards/00000000.parquet")) * SHARDS == N
    assert main(["inspect", out, "--n", "3"]) == 0
    assert capsys.readouterr().out.count("toy-") >= 3
    assert main(["verify", out]) == 0
    store.write("shards/00000002.parquet", b"damaged", "run")
    store.remove(["ledger/00000003.parquet"])
    assert main(["verify", out]) == 1
    assert main(["repair", out]) == 0
    assert store.names("done") == [f"{index:08d}.json" for index in (0, 1, 4)]
    assert main(["status", out]) == 0
    report, _ = end(start(out, machines.address))
    assert report["shards_done"] == 2
    assert main(["verify", out]) == 0
    assert stored(out) == tables(sound)


@pytest.mark.slow
def test_progress_is_among_the_metrics_that_ray_exports(machines: Machines, shift: Shift, tmp_path: Path) -> None:
    """Prometheus scrapes the agent of each node; these series come from the driver's."""
    machines.add(gpus=2)
    out = str(tmp_path / "out")
    driver = start(out, machines.address, **shift.options)
    shift.wait_for(2, driver)
    names = {f"ray_humansd_{name}" for name in METRICS}
    documented = (ROOT / "pipelines" / "cluster" / "README.md").read_text(encoding="utf-8")
    assert names == set(re.findall(r"`(ray_humansd_\w+)`", documented))
    found = wait_for(lambda: seen if (seen := machines.metrics(out)).keys() == names else None, driver)
    assert found["ray_humansd_shards_done"] == 0
    shift.go()
    end(driver)


@pytest.mark.slow
def test_generated_images_are_the_same_in_an_object_store_and_in_a_folder(
    machines: Machines, s3: str, tmp_path: Path
) -> None:
    """The embedded default's real models, two machines and one; the object store's workers killed half way."""
    machines.add()
    machines.add()
    command = [sys.executable, "-m", "pipelines", "ghi", "--config", "mini", "--n", "12", "--set", "shard_size=4"]
    command += ["--address", machines.address]
    there, here = f"{s3}/mini/out", str(tmp_path / "out")
    first = subprocess.Popen([*command, "--out", there, "--workers", "2"], cwd=ROOT, text=True)
    wait_for(lambda: Store(there).names("done"), first)
    first.kill()
    first.wait()
    for out, workers in ((there, "2"), (here, "1")):
        subprocess.run([*command, "--out", out, "--workers", workers], cwd=ROOT, check=True)
    assert stored(there) == stored(here)
    assert len(stored(there)) == 9
    sheet = tmp_path / "sheet.png"
    assert main(["inspect", there, "--sheet", str(sheet)]) == 0
    assert sheet.stat().st_size > 0
