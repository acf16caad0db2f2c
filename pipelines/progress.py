"""How a job gets on: a bar on a terminal, else one plain line a minute; OUT/progress.json every 30 seconds."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from pipelines.shards import now
from pipelines.store import StorageError, Store

PROGRESS: Final = "progress.json"
LINE_SECONDS: Final = 60.0
FILE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job at one moment.

    shards, shards_done, accepted, rejected: of the range that this driver works on, earlier runs included.
    images_per_second: candidates judged by this run over its wall-clock time; eta_seconds: to the end at that speed.
    gpu_seconds_per_1000, cost_per_1000: of this run's accepted rows; None before the first and without GPUs or price.
    """

    run: str
    start: int
    stop: int
    shards: int
    shards_done: int
    failed: int
    workers: int
    accepted: int
    rejected: int
    accept_rate: float | None
    images_per_second: float | None
    eta_seconds: float | None
    gpu_seconds: float
    gpu_seconds_per_1000: float | None
    cost_per_1000: float | None
    stopped: str | None = None

    def line(self) -> str:
        """For people."""
        parts = [f"{self.shards_done:,}/{self.shards:,} shards", f"{self.accepted:,} accepted"]
        if self.accept_rate is not None:
            parts.append(f"{100 * self.accept_rate:.1f}% of candidates")
        if self.images_per_second is not None:
            parts.append(f"{self.images_per_second:.2f} images/s")
        if self.eta_seconds is not None:
            parts.append(f"{_duration(self.eta_seconds)} to go")
        if self.gpu_seconds_per_1000 is not None:
            parts.append(f"{self.gpu_seconds_per_1000:,.0f} GPU-s per 1,000 accepted")
        if self.cost_per_1000 is not None:
            parts.append(f"cost {self.cost_per_1000:,.2f} per 1,000")
        if self.failed:
            parts.append(f"{self.failed} failed")
        parts.append(f"{self.workers} workers")
        return " · ".join(parts)


class Display:
    """Shows snapshots on stderr and writes them to OUT; `note` tells of single events in between."""

    def __init__(self, store: Store, run: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._run = run
        self._clock = clock
        self._line_at = clock()  # the first plain line comes after a minute, the first file at once
        self._file_at = clock() - FILE_SECONDS
        self._bar = None
        if sys.stderr.isatty():
            columns = (BarColumn(20), TaskProgressColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None)

    def note(self, line: str) -> None:
        """Tell of one event."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def show(self, snapshot: Snapshot, *, last: bool = False) -> None:
        """Bring the display up to date; cheap enough to call every second."""
        clock = self._clock()
        if self._bar is not None:
            total, done = snapshot.shards, snapshot.shards_done
            self._bar.update(self._task, total=total, completed=done, description=snapshot.line())
        elif last or clock - self._line_at >= LINE_SECONDS:
            self._line_at = clock
            self.note(snapshot.line())
        if last or clock - self._file_at >= FILE_SECONDS:
            self._file_at = clock
            data = json.dumps({**asdict(snapshot), "updated": now()}, indent=1).encode()
            with contextlib.suppress(StorageError, OSError):  # the shards' own writes will tell
                self._store.write(PROGRESS, data, self._run, durable=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"
