"""Sides of a benchmark that are each a process of its own: what one leaves in its heap, or sets, is not the others'."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from tests.bench.report import Seconds

KEEPS_MEMORY: Final = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
"""For glibc: whether it gives memory back and has it cleared anew is up to what happened to be freed before, and can
cost a loader a quarter of its time (measured). All sides keep it."""

Side = Callable[[str], Seconds]
"""Does what a line says, and says what it took."""


@contextmanager
def apart(module: str, *arguments: str) -> Iterator[Side]:
    """Run `python -m module arguments` of one thread, which must end in `answer`."""
    from pipelines.worker import thread_variables  # not for a side that is to load nothing of ours

    variables = {**os.environ, **thread_variables(1), **KEEPS_MEMORY, "NO_ALBUMENTATIONS_UPDATE": "1"}
    variables.pop("ARROW_DEFAULT_MEMORY_POOL", None)  # this process's, by way of `pipelines`: each sets its own
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdin as asked, process.stdout as answers:

        def side(line: str) -> Seconds:
            print(line, file=asked, flush=True)
            wall, cpu = answers.readline().split()
            return Seconds(float(wall), float(cpu))

        yield side


def answer(run: Callable[[str], object]) -> None:
    """Do what each line of stdin says, and answer with the seconds it took; what else is printed goes to stderr."""
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            began = time.perf_counter(), time.process_time()
            run(line.strip())
            print(time.perf_counter() - began[0], time.process_time() - began[1], file=answers)


def in_turns(sides: Mapping[str, Callable[[int], Seconds]], rounds: int) -> dict[str, list[Seconds]]:
    """The seconds of each side in each round, of which the first is thrown away; who was last begins the next."""
    seconds: dict[str, list[Seconds]] = {name: [] for name in sides}
    order = list(sides)
    for number in range(rounds + 1):
        for name in order if number % 2 else order[::-1]:
            spent = sides[name](number)
            if number:
                seconds[name].append(spent)
    return seconds
