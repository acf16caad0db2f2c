"""10,000 trivial shards: what the engine itself costs, and that its driver's memory stays flat.

python -m tests.bench.test_engine_speed [--shards 10000] [--workers 2]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipelines.engine import Runtime, run_job
from pipelines.work import ShardContext, ShardResult, Work
from tests.bench.report import table, write
from tests.pipelines.toy import make_job, make_sample

SAMPLES = 20


@pytest.mark.bench
def test_ten_thousand_shards_leave_the_driver_flat() -> None:
    first, last = main(shards=10_000, workers=2)
    assert last < 1.1 * first


def make_trivial() -> Work:
    """A work function that takes no time: one row a shard, no model."""

    def work(context: ShardContext) -> ShardResult:
        return ShardResult(accepted=[make_sample(index, 1) for index in range(context.task.start, context.task.stop)])

    return work


def main(shards: int, workers: int) -> tuple[float, float]:
    """Run the job and write results/engine.md; returns the driver's resident MB after a tenth and at the end."""
    process = psutil.Process()
    memory: list[tuple[float, int, float]] = []
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as out:

        def watch() -> None:
            began = time.perf_counter()
            while not ended.wait(0.5):
                done = len(list(Path(out).glob("done/*.json")))
                memory.append((time.perf_counter() - began, done, process.memory_info().rss / 1e6))

        watcher = threading.Thread(target=watch)
        watcher.start()
        report = run_job(make_job(out, shards, 1, 1), make_trivial, Runtime(workers=workers))
        ended.set()
        watcher.join()
        assert (report.exit_code, report.shards_done, report.accepted) == (0, shards, shards)
        began = time.perf_counter()
        resumed = run_job(make_job(out, shards, 1, 1), make_trivial, Runtime(workers=workers))
        resume = time.perf_counter() - began
        assert (resumed.shards_done, resumed.shards_complete) == (0, shards)
    running = [row for row in memory if shards // 10 <= row[1] < shards]
    first, last = running[0], running[-1]
    speed = (last[1] - first[1]) / (last[0] - first[0])
    picked = running[:: max(1, len(running) // SAMPLES)]
    rows = [[f"{seconds:.0f}", f"{done:,}", f"{megabytes:.0f}"] for seconds, done, megabytes in picked]
    write(
        "engine",
        f"{shards:,} trivial shards over {workers} workers",
        f"One row a shard, no model: each task is dispatched, makes its rows, and commits four files durably. "
        f"**{speed:.0f} shards/s**; the driver's memory goes from {first[2]:.0f} MB after a tenth of the shards to "
        f"{last[2]:.0f} MB at the end. Finding out that nothing is left to do takes {resume:.1f} s.",
        table(["s", "shards done", "driver's resident MB"], rows),
    )
    return first[2], last[2]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    main(**vars(parser.parse_args()))
