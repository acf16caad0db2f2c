"""Toy jobs of one size, made in this process over the tests' Ray or by a driver in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines import reading
from pipelines.engine import JobReport, Runtime, run_job
from tests.pipelines.toy import Toy, make_job

N, SHARD_SIZE = 20, 4
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600.0


def make(out: Path, toy: Toy | None = None, n: int = N, max_attempts: int = 8, **runtime: Any) -> JobReport:
    job = make_job(str(out), n, SHARD_SIZE, max_attempts)
    return run_job(job, toy or Toy(), Runtime(**{"workers": 2, **runtime}))


def tables(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("*/*.parquet"))}


def keys(out: Path) -> list[str]:
    found: list[str] = reading.open_dataset(str(out)).table(["key"])["key"].to_pylist()
    return found


def start(out: Path | str, address: str | None, **options: Any) -> subprocess.Popen[str]:
    """A driver in a process of its own."""
    given = json.dumps({"n": N, "shard_size": SHARD_SIZE, "workers": 2, "address": address, **options})
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.pipelines.toy", str(out), given]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    """The first true value of `what`; None when the process has ended before."""
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        if process is not None and process.poll() is not None:
            return what() or None
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)
    return found


def lines(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def wait_for_lines(log: Path, number: int, driver: subprocess.Popen[str]) -> bool:
    """Whether so many candidates ran before the driver ended."""
    return bool(wait_for(lambda: len(lines(log)) >= number, driver))


def kill_midway(arguments: list[str], out: Path) -> None:
    """Run a command in a process of its own and kill it as soon as it has committed a shard."""
    driver = subprocess.Popen([sys.executable, "-m", "pipelines", *arguments], cwd=ROOT, text=True)
    assert wait_for(lambda: any((out / "done").glob("*.json")), driver), "it ended before a shard was committed"
    driver.kill()
    driver.wait()
