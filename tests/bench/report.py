"""What every benchmark needs: interleaved runs, medians, and a Markdown page that says on what and when."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

RESULTS: Final = Path(__file__).parent / "results"


class Seconds(NamedTuple):
    """What a run took: on the wall's clock, and of this process's CPU time, which other processes disturb less."""

    wall: float
    cpu: float


def interleaved(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Seconds]]:
    """The seconds of each side in each round; sides take turns, and the first round is thrown away."""
    seconds: dict[str, list[Seconds]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            began = time.perf_counter(), time.process_time()
            run()
            if number:
                seconds[name].append(Seconds(time.perf_counter() - began[0], time.process_time() - began[1]))
    return seconds


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def machine() -> str:
    """The machine and the date, in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    load = os.getloadavg()[0]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}, load before {load:.1f}, {today}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def write(name: str, title: str, *parts: str) -> None:
    """Write tests/bench/results/<name>.md."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text("\n\n".join([f"# {title}", machine(), *parts]) + "\n")
