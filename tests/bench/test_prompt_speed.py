"""A million prompts with all their parts as columns: how long they take, and how many are unique.

python -m tests.bench.test_prompt_speed [--n 1000000]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.bench.report import table, write


@pytest.mark.bench
def test_a_million_prompts_take_less_than_two_minutes() -> None:
    seconds, unique = main(1_000_000)
    assert seconds < 120
    assert unique >= 0.999


def main(n: int) -> tuple[float, float]:
    """Write n prompts as a user does; return the seconds of the whole command and the share of unique texts."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.parquet"
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "pipelines", "prompts", "--n", str(n), "--out", str(file)], check=True)
        seconds = time.perf_counter() - began
        texts = pq.read_table(file, columns=["text"])["text"]
        unique = pc.count_distinct(texts).as_py() / n
        row = [
            f"{n:,}",
            f"{seconds:.0f}",
            f"{n / seconds:,.0f}",
            f"{unique:.4%}",
            f"{file.stat().st_size / 1e6:.0f} MB",
        ]
    cores = len(os.sched_getaffinity(0))
    head = ["prompts", f"seconds, {cores} processes", "prompts/s", "unique", "file"]
    write("prompt_speed", "Prompts written as Parquet, every part a column", table(head, [row]))
    return seconds, unique


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    print(*main(parser.parse_args().n))
