"""Whole jobs over real Ray workers: made, resumed, grown, stopped. What kills processes is in test_engine_faults."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from pipelines import dataset, lease, shards
from pipelines.config import UserError
from pipelines.engine import JobReport, Runtime, run_job
from pipelines.store import Store
from tests.pipelines.disks import small_disk
from tests.pipelines.jobs import SHARD_SIZE, N, keys, make, tables
from tests.pipelines.toy import Toy, make_job, sample_key


def test_every_slot_is_there_once_and_the_folder_is_sound(sound: Path) -> None:
    assert Counter(keys(sound)) == Counter(sample_key(index) for index in range(N))
    assert list(dataset.verify(str(sound))) == []
    progress = json.loads((sound / "progress.json").read_text())
    assert (progress["shards_done"], progress["accepted"], progress["stopped"]) == (5, N, None)
    assert list((sound / ".run").glob("*/*")) == []
    done = json.loads((sound / "done/00000000.json").read_text())
    assert done["counts"]["threads"] == 1
    assert done["counts"]["mimalloc"] == 1
    assert done["seconds"]["total"] > 0


def test_more_workers_and_a_resume_give_the_same_bytes(sound: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    make(tmp_path / "out")
    assert tables(tmp_path / "out") == tables(sound)
    for name in ("done/00000001.json", "done/00000004.json", "shards/00000004.parquet"):
        (tmp_path / "out" / name).unlink()
    report = make(tmp_path / "out", Toy(log=str(log)))
    assert (report.shards_done, report.shards_complete, report.exit_code) == (2, 5, 0)
    assert {int(name.split("#")[0]) // SHARD_SIZE for name in log.read_text().split()} == {1, 4}
    assert tables(tmp_path / "out") == tables(sound)
    assert make(tmp_path / "out").shards_done == 0


def test_workers_that_stand_elsewhere_write_to_the_same_folder(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert make(Path("out")).exit_code == 0
    assert tables(tmp_path / "out") == tables(sound)


def test_an_object_store_holds_the_same_dataset_and_resumes(
    s3: str, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(f"{s3}/{tmp_path.name}")
    job = make_job(store.root, N, SHARD_SIZE, 8)
    for left in (5, 1):
        report = run_job(job, Toy(), Runtime(workers=2))
        assert (report.exit_code, report.shards_done, report.shards_complete) == (0, left, 5)
        assert {name: store.read(name) for name in tables(sound)} == tables(sound)
        store.remove(["done/00000003.json"])
    assert "best effort" in capsys.readouterr().err
    assert store.names(".run/leases") == store.names(".run/inflight") == []
    run_job(job, Toy(), Runtime())
    assert list(dataset.verify(store.root)) == []
    with pytest.raises(UserError, match=r"cannot write to s3://nowhere/out: .*bucket does not exist"):
        run_job(dataclasses.replace(job, out="s3://nowhere/out"), Toy(), Runtime())


def test_growing_makes_only_what_is_new(sound: Path, tmp_path: Path) -> None:
    toy = Toy(log=str(tmp_path / "log"))
    out = tmp_path / "out"
    first = make(out, toy, n=18, max_attempts=1, workers=1)
    assert first.exit_code == 1
    assert set(first.short) == {sample_key(i) for i in range(18)} - set(keys(out))
    second = make(out, toy, workers=1)
    assert (second.exit_code, second.short, first.accepted + second.accepted) == (0, [], N)
    assert tables(out) == tables(sound)
    ran = Counter((tmp_path / "log").read_text().split())
    assert set(ran.values()) == {1}
    with pytest.raises(UserError, match="n can only grow"):
        make(out, n=10)


def test_a_shard_that_raises_is_told_and_made_by_the_next_run(sound: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = make(out, Toy(fail=("9#1",)), workers=1)
    assert (report.exit_code, report.shards_done, report.missing) == (1, 4, 0)
    assert report.failed == {2: "ValueError: cannot make 9#1"}
    told = json.loads((out / "failed/00000002.json").read_text())
    assert "Traceback" in told["traceback"]
    assert "about to make 9#1" in told["stderr"]
    assert {"host", "versions", "run", "time"} <= set(told)
    assert make(out, workers=1).exit_code == 0
    assert list((out / "failed").iterdir()) == []
    assert tables(out) == tables(sound)


def test_a_worker_that_always_raises_costs_nothing(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = make(tmp_path / "out", Toy(bad=str(tmp_path / "bad"), pause=0.3))
    assert (report.exit_code, report.failed) == (0, {})
    assert tables(tmp_path / "out") == tables(sound)
    assert "is retired" in capsys.readouterr().err


def test_a_worker_that_hangs_is_killed_and_costs_nothing(sound: Path, tmp_path: Path) -> None:
    report = make(tmp_path / "out", Toy(bad=str(tmp_path / "bad"), bad_way="hang"), hang_seconds=8.0)
    assert (report.exit_code, report.failed) == (0, {})
    assert tables(tmp_path / "out") == tables(sound)


def test_when_every_worker_is_broken_the_job_stops(cluster: str, tmp_path: Path) -> None:
    fails = tuple(f"{index}#1" for index in range(N))
    report = make(tmp_path / "out", Toy(fail=fails), workers=1)
    assert report.exit_code == 1
    assert "no worker is left" in (report.stopped or "")
    assert report.failed
    assert (report.missing, len(list((tmp_path / "out/failed").iterdir()))) == (
        5 - len(report.failed),
        len(report.failed),
    )


def test_a_model_that_cannot_be_had_is_the_user_s_mistake_and_any_other_failure_is_not(
    cluster: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no such model: toy"):
        make(tmp_path / "out", Toy(no_start="user"))
    report = make(tmp_path / "out", Toy(no_start="crash"), workers=1)
    assert (report.exit_code, report.missing, report.failed) == (1, 5, {})
    assert "cannot load the model" in (report.stopped or "")


def test_a_spent_budget_stops_after_the_shards_in_flight(cluster: str, tmp_path: Path) -> None:
    report = make(tmp_path / "out", Toy(pause=0.2), budget_gpu_hours=0.5 / 3600, workers=1)
    assert (report.exit_code, report.failed) == (1, {})
    assert "budget" in (report.stopped or "")
    assert report.missing == 5 - report.shards_done > 0
    assert list(dataset.verify(str(tmp_path / "out"))) == []


def test_drivers_need_ranges_of_their_own(sound: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = make_job(str(out), N, SHARD_SIZE, 8)
    with closing(lease.acquire(Store(str(out)), range(3), lease.new_run())):
        with pytest.raises(UserError, match="another driver"):
            run_job(dataclasses.replace(job, shards=range(2, 5)), Toy(), Runtime())
        assert run_job(dataclasses.replace(job, shards=range(3, 9)), Toy(), Runtime()).shards_complete == 2
    assert run_job(dataclasses.replace(job, shards=range(3)), Toy(), Runtime()).exit_code == 0
    assert tables(out) == tables(sound)
    with pytest.raises(UserError, match="--shards 5:6: the dataset has the shards 0:5"):
        run_job(dataclasses.replace(job, shards=range(5, 6)), Toy(), Runtime())


def test_a_driver_that_loses_its_lease_stops_and_so_do_its_workers(cluster: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = JobReport()

    def drive() -> None:
        nonlocal report
        report = make(out, Toy(pause=0.3), stale_seconds=2.0, workers=1)

    driver = threading.Thread(target=drive)
    driver.start()
    while not list(out.glob(".run/inflight/*.json")):
        time.sleep(0.05)
    for held in out.glob(".run/leases/*.json"):
        held.unlink()
    driver.join()
    assert report.exit_code == 1
    assert "lease" in (report.stopped or "") or "took over" in (report.stopped or "")
    assert report.missing > 0


def test_another_identity_does_not_get_in(sound: Path) -> None:
    before = tables(sound)
    with pytest.raises(UserError, match=r"seed: 0 -> 1.*another --out"):
        run_job(make_job(str(sound), N, SHARD_SIZE, 8, seed=1), Toy(), Runtime())
    assert tables(sound) == before


def test_a_full_disk_stops_the_job_and_keeps_what_is_committed(sound: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "300k") as folder:
        report = make(folder / "out", Toy(image_bytes=9000), workers=1)
        assert report.exit_code == 1
        assert "No space left on device" in (report.stopped or "")
        assert "\n" not in (report.stopped or "")
        assert 0 < report.shards_done < 5
        assert (report.failed, report.missing) == ({}, 5 - report.shards_done)
        assert list(dataset.verify(str(folder / "out"))) == []
        assert len(shards.done_indices(Store(str(folder / "out")))) == report.shards_done


def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    script = (
        "import sys; from pipelines.cluster.session import ray_session; from pipelines.job import Runtime\n"
        "with ray_session(Runtime(address='127.0.0.1:1')): pass\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert "UserError: no Ray cluster at 127.0.0.1:1: Connection refused" in told.stderr


def test_a_folder_that_cannot_be_written_is_the_user_s_mistake(cluster: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "64k", "ro") as folder, pytest.raises(UserError, match="Read-only file system"):
        make(folder / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*Not a directory"):
        make(tmp_path / "file" / "out")


def test_uv_run_does_not_make_ray_build_a_second_environment() -> None:
    script = "import pipelines.engine, ray._private.ray_constants as c; print(c.RAY_ENABLE_UV_RUN_RUNTIME_ENV)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


class Earlier:
    """An earlier stage that makes the shards ready one by one, and may end before it made them all."""

    def __init__(self, shards: int, every: float = 0.3) -> None:
        self.began, self.shards, self.every = time.monotonic(), shards, every

    def made(self) -> int:
        return min(self.shards, int((time.monotonic() - self.began) / self.every))

    def ready(self, index: int) -> bool:
        return index < self.made()

    def ended(self) -> bool:
        return self.made() == self.shards


def test_shards_are_made_as_an_earlier_stage_makes_them_ready(sound: Path, tmp_path: Path) -> None:
    job = make_job(str(tmp_path / "out"), N, SHARD_SIZE, 8)
    half = run_job(job, Toy(), Runtime(workers=2), Earlier(3))
    assert (half.exit_code, half.shards_done, half.missing) == (1, 3, 2)
    assert half.stopped == "what the other shards are made from is not there"
    assert run_job(job, Toy(), Runtime(workers=2), Earlier(5)).exit_code == 0
    assert tables(tmp_path / "out") == tables(sound)


def test_jobs_of_several_threads_stop_together(cluster: str, tmp_path: Path) -> None:
    stop = threading.Event()
    reports: list[JobReport] = []

    def work(name: str) -> None:
        job = make_job(str(tmp_path / name), N, SHARD_SIZE, 8)
        reports.append(run_job(job, Toy(pause=0.5), Runtime(), stop=stop))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    assert [report.exit_code for report in reports] == [130, 130]
