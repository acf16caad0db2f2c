"""Toy jobs of one size, made in this process over the tests' Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines import dataset
from pipelines.engine import JobReport, Runtime, run_job
from tests.pipelines.toy import Toy, make_job

N, SHARD_SIZE = 20, 4


def make(out: Path, toy: Toy | None = None, n: int = N, max_attempts: int = 8, **runtime: Any) -> JobReport:
    job = make_job(str(out), n, SHARD_SIZE, max_attempts)
    return run_job(job, toy or Toy(), Runtime(**{"workers": 2, **runtime}))


def tables(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("*/*.parquet"))}


def keys(out: Path) -> list[str]:
    found: list[str] = dataset.open_dataset([str(out)]).to_table(columns=["key"])["key"].to_pylist()
    return found
