"""`humansd evaluate dataset` and `inspect --html` as datasets grow: seconds and memory, on rows that are made up.

    python -m tests.bench.test_evaluate_dataset [--rows 10000 100000 1000000]

Each command runs in a process of its own, whose highest resident memory is what the kernel says (`ru_maxrss`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import pytest

from tests.bench.many_rows import write_rows
from tests.bench.report import table, write

ROOT: Final = Path(__file__).resolve().parents[2]
SHARD: Final = 500
COMMANDS: Final = {"evaluate dataset": ["evaluate", "dataset"], "inspect --html": ["inspect", "--html", "{page}"]}
MOST_SECONDS: Final = 120
MOST_BYTES: Final = 400
"""Bars: seconds at the largest size, and bytes of memory that each row adds."""


@pytest.mark.bench
def test_a_million_rows_take_seconds_and_little_memory() -> None:
    sizes = [10_000, 100_000, 1_000_000]
    found = main(sizes)
    for small, large in zip(found[:2], found[-2:], strict=True):
        assert large["seconds"] <= MOST_SECONDS
        assert large["megabytes"] - small["megabytes"] <= MOST_BYTES * (sizes[-1] - sizes[0]) / 1e6


def measure(what: str, out: str, page: str) -> dict[str, float]:
    """Run a command in this process: its seconds, those of CPU, and the megabytes of its highest resident memory."""
    from pipelines import cli

    began, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        code = cli.main([*(word.format(page=page) for word in COMMANDS[what]), out])
    assert code == 0
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    seconds = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    return {**seconds, "megabytes": megabytes}


def main(sizes: list[int]) -> list[dict[str, float]]:
    """Run and write the results; returns the measures of each size's commands, in turn."""
    lines, found = [], []
    with tempfile.TemporaryDirectory() as root:
        for rows in sizes:
            out = f"{root}/{rows}"
            write_rows(out, rows, SHARD)
            for what in COMMANDS:
                command = [sys.executable, "-m", "tests.bench.test_evaluate_dataset", "--measure", what, out]
                done = subprocess.run(
                    [*command, f"{root}/page.html"], cwd=ROOT, check=True, capture_output=True, text=True
                )
                one = json.loads(done.stdout.splitlines()[-1])
                found.append(one)
                figures = (f"{one['seconds']:.1f}", f"{one['cpu']:.1f}", f"{one['megabytes']:,.0f}")
                lines.append((f"{rows:,}", what, *figures))
    write(
        "evaluate_dataset",
        "Looking at datasets as they grow",
        f"Made-up datasets in shards of {SHARD} rows, with 0.6 rows of ledger and 0.2 kept rejects for each accepted "
        "one. Each line is a process of its own, with the time to import; its highest resident memory includes Python "
        "and its libraries.",
        table(("accepted rows", "what", "seconds", "CPU seconds", "peak memory, MB"), lines),
    )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "OUT", "PAGE"), help="for the processes it starts")
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(*given.measure)))
    else:
        main(given.rows)
