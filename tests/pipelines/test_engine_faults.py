"""Real processes, really killed: whatever dies, and whenever, a rerun gives the same dataset."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines import dataset, reading, shards
from pipelines.engine import Runtime, run_job
from pipelines.record import table_to_ledger
from pipelines.store import Store
from tests.pipelines.jobs import PATIENCE, SHARD_SIZE, N, keys, lines, make, start, tables, wait_for, wait_for_lines
from tests.pipelines.toy import Toy, is_good, make_job, sample_key

ROOT = Path(__file__).resolve().parents[2]
CI_SEEDS, ALL_SEEDS = (0, 2, 4, 5, 7), range(20)
"""Of the first, three kill a worker before they kill the driver."""


def breadcrumbs(out: Path) -> list[dict[str, Any]]:
    """What the workers do now; a file that is being replaced is left out."""
    found = []
    for path in out.glob(".run/inflight/0*.json"):
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads(path.read_text()))
    return found


@dataclass(frozen=True)
class Ordeal:
    """What was done to a job, the shards in flight when it was done, and what was made again."""

    seed: int
    kills: tuple[str, ...]
    in_flight: int
    shards: int
    candidates: int


def go_through(seed: int, out: Path, address: str | None, sound: Path) -> Ordeal:
    """Kill workers and then the driver at random points, run the job again, and compare with an undisturbed one."""
    rng = random.Random(seed)
    log = out.parent / "log"
    options: dict[str, Any] = {"pause": 0.05, "log": str(log)}
    kills: list[str] = []
    in_flight = 0
    driver = start(out, address, **options)
    points = sorted(rng.sample(range(1, N), rng.randrange(1, 3)))
    for point in points:
        if not wait_for_lines(log, point, driver):
            break
        time.sleep(rng.random() * 0.1)
        last = point == points[-1]
        if not last and (crumbs := breadcrumbs(out)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(crumbs)["pid"], signal.SIGKILL)
                kills.append(f"a worker in candidate {point}")
                in_flight += 1
        if last:
            driver.kill()
            kills.append(f"the driver in candidate {point}")
            in_flight += 2
    driver.communicate()
    report = make(out, Toy(log=str(log)), workers=1)
    assert (report.exit_code, report.stopped) == (0, None)

    expected = [sample_key(index) for index in range(N)]
    assert sorted(keys(out)) == sorted(expected)
    assert shards.done_indices(Store(str(out))) == list(range(N // SHARD_SIZE))
    assert list(dataset.verify(str(out))) == []
    assert tables(out) == tables(sound)
    ran = Counter(lines(log))
    assert set(ran) == {f"{index}#{attempt}" for index in range(N) for attempt in range(1, first_good(index) + 1)}
    again = {int(name.split("#")[0]) // SHARD_SIZE for name, times in ran.items() if times > 1}
    assert len(again) <= in_flight
    return Ordeal(seed, tuple(kills), in_flight, len(again), sum(ran.values()) - len(ran))


def first_good(index: int) -> int:
    return next(attempt for attempt in range(1, 100) if is_good(index, attempt))


@pytest.mark.parametrize("seed", CI_SEEDS)
def test_killed_at_any_point_a_rerun_gives_the_same_dataset(
    seed: int, cluster: str, sound: Path, tmp_path: Path
) -> None:
    assert go_through(seed, tmp_path / "out", cluster, sound).kills


@pytest.mark.slow
def test_twenty_times_killed_at_any_point(cluster: str, sound: Path, tmp_path: Path) -> None:
    """Writes its result to tests/bench/results/kills.md."""
    ordeals = [go_through(seed, tmp_path / str(seed) / "out", cluster, sound) for seed in ALL_SEEDS]
    rows = [f"| {o.seed} | {'; '.join(o.kills)} | {o.in_flight} | {o.shards} | {o.candidates} |" for o in ordeals]
    head = (
        f"# Killed {len(ordeals)} times, and run again\n\n"
        f"{N} slots in shards of {SHARD_SIZE}, 2 workers, real SIGKILLs at random points, then the same command again. "
        "Every time: done markers = readable files = unique keys = expected keys, and every Parquet file is equal, "
        "byte for byte, to that of an undisturbed run by one worker.\n\n"
        "| seed | killed | shards in flight then | shards made again | candidates run again |\n|---|---|---|---|---|\n"
    )
    (ROOT / "tests/bench/results/kills.md").write_text(head + "\n".join(rows) + "\n")


def test_a_row_that_kills_its_process_is_lost_and_no_other(
    sound: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    guilty = "5#1"
    assert is_good(5, 1)
    out = tmp_path / "out"
    report = make(out, Toy(kill=(guilty,)), workers=1)
    assert (report.exit_code, report.failed, report.short) == (0, {}, [])
    same = [name for name, data in tables(sound).items() if tables(out)[name] == data]
    assert len(same) == len(tables(sound)) - 2  # one shard and its ledger
    (lost,) = [row for row in ledger(out) if row not in ledger(sound)]
    assert (lost.key, lost.attempt, lost.stage, lost.reason) == (sample_key(5), 1, "worker", "killed_worker")
    (filled,) = [row for row in samples(out) if row not in samples(sound)]
    assert filled[0] == sample_key(5)
    assert report.counts["sampled"] == len(samples(out)) + len(ledger(out)) - 1
    told = capfd.readouterr()
    assert told.out == ""
    assert f"died while it ran {guilty};" in told.err


def ledger(out: Path) -> list[Any]:
    store = Store(str(out))
    tables = [shards.read_table(store, "ledger", index) for index in shards.done_indices(store)]
    return [row for table in tables for row in table_to_ledger(table)]


def samples(out: Path) -> list[tuple[str, bytes]]:
    table = reading.open_dataset(str(out)).table(["key", "image"])
    return [(row["key"], row["image"]["bytes"]) for row in table.to_pylist()]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_job_ends_in_order(number: int, cluster: str, sound: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    driver = start(out, cluster, pause=0.2, log=str(log))
    assert wait_for(lambda: lines(log), driver)
    driver.send_signal(number)
    told, notes = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 130, notes
    report = json.loads(told)
    assert "run the same command again" in report["stopped"]
    assert report["missing"] > 0
    assert list(out.glob(".run/leases/*")) == []
    make(out)
    assert tables(out) == tables(sound)


def test_drivers_at_the_same_time_share_a_folder_by_ranges(cluster: str, sound: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    first = start(out, cluster, pause=0.5, log=str(log), workers=1, shards=[0, 3])
    assert wait_for(lambda: lines(log), first)
    overlapping = start(out, cluster, workers=1, shards=[2, 5])
    _, told = overlapping.communicate(timeout=PATIENCE)
    assert overlapping.returncode == 2
    assert "another driver" in told
    assert len(told.strip().splitlines()) == 1
    beside = make_job(str(out), N, SHARD_SIZE, 8)
    report = run_job(type(beside)(**{**beside.__dict__, "shards": range(3, 5)}), Toy(), Runtime())
    assert (report.exit_code, report.shards_complete) == (0, 2)
    _, told = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, told
    assert tables(out) == tables(sound)


@pytest.mark.slow
def test_on_a_laptop_ray_starts_and_ends_with_the_job(sound: Path, tmp_path: Path) -> None:
    """Without --address: killed with everything it started, run again, and no process stays."""
    ordeal = go_through(99, tmp_path / "out", None, sound)
    assert ordeal.kills
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout
    assert left == ""
