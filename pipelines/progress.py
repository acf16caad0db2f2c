"""How a job gets on: a bar on a terminal, else one plain line a minute; OUT/progress.json every 30 seconds."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from pipelines.dataset import Standing
from pipelines.job import JobReport, Runtime
from pipelines.lease import Holder
from pipelines.schedule import Failure
from pipelines.shards import now, versions
from pipelines.store import StorageError, Store
from pipelines.worker import Made

PROGRESS: Final = "progress.json"
METRICS: Final = {
    "shards": "shards of the range that the driver works on",
    "shards_done": "committed shards, those of earlier runs included",
    "failed": "shards that failed for good in this run",
    "workers": "workers that are up",
    "accepted": "accepted samples, those of earlier runs included",
    "rejected": "rejected candidates, those of earlier runs included",
    "accept_rate": "accepted share of the candidates (0-1)",
    "images_per_second": "candidates judged by this run a second of wall-clock time",
    "eta_seconds": "seconds to the end at the speed so far",
    "gpu_seconds": "GPUs of this run x the time they were held",
    "gpu_seconds_per_1000": "the same for 1,000 accepted samples",
    "cost_per_1000": "cost of 1,000 accepted samples at the configured price",
}
"""Numbers of a `Snapshot` that go to Ray's metrics (Prometheus) as `humansd_<name>`, and what each says."""

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
        rate = "" if self.accept_rate is None else f" ({100 * self.accept_rate:.1f}%)"
        parts = [f"{self.shards_done:,}/{self.shards:,} shards", f"{self.accepted:,} accepted{rate}"]
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

    def __init__(self, store: Store, run: str, clock: Callable[[], float] = time.monotonic, label: str = "") -> None:
        """label: what the job calls itself where several run together."""
        self._label = f"{label}: " if label else ""
        self._store = store
        self._run = run
        self._clock = clock
        self._line_at = clock()  # the first plain line comes after a minute, the first file at once
        self._file_at = clock() - FILE_SECONDS
        self._bar = None
        if sys.stderr.isatty() and threading.current_thread() is threading.main_thread():  # a terminal has one bar
            columns = (BarColumn(8), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=2)
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
            self._bar.update(self._task, total=total, completed=done, description=self._label + snapshot.line())
        elif last or clock - self._line_at >= LINE_SECONDS:
            self._line_at = clock
            self.note(self._label + snapshot.line())
        if last or clock - self._file_at >= FILE_SECONDS:
            self._file_at = clock
            data = json.dumps({**asdict(snapshot), "updated": now()}, indent=1).encode()
            with contextlib.suppress(StorageError, OSError):  # the shards' own writes will tell
                self._store.write(PROGRESS, data, self._run, durable=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


class Account:
    """What a run has done so far: the report it will end with, GPU time, and the files in OUT/failed/."""

    def __init__(
        self,
        store: Store,
        holder: Holder,
        standing: Standing,
        runtime: Runtime,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._holder = holder
        self._standing = standing
        self._runtime = runtime
        self._clock = clock
        self._began = self._ticked = clock()
        self._workers = 0
        self._held_seconds = 0.0  # worker processes x time
        self._failure_files = set(store.names("failed"))
        self.report = JobReport(short=list(standing.short), missing=len(standing.tasks))

    def made(self, made: Made) -> None:
        """A shard is committed."""
        report, name = self.report, _failure_name(made.done.shard)
        report.shards_done += 1
        report.missing -= 1
        report.accepted += made.accepted
        report.rejected += made.rejected
        report.short += made.done.short
        for stage, seconds in made.seconds.items():
            report.seconds[stage] = report.seconds.get(stage, 0.0) + seconds
        for what, count in made.counts.items():
            report.counts[what] = report.counts.get(what, 0) + count
        if name in self._failure_files:
            self._failure_files.remove(name)
            self._store.remove([f"failed/{name}"])

    def failed(self, failures: Mapping[int, Failure]) -> None:
        """The shards that have failed for good; replaces what was said before."""
        self.report.missing += len(self.report.failed) - len(failures)
        for index, failure in failures.items():
            if self.report.failed.get(index) != failure.error:
                told = {"shard": index, **asdict(failure), "versions": versions()}
                told |= {"run": self._holder.run, "time": now()}
                self._failure_files.add(_failure_name(index))
                with contextlib.suppress(StorageError, OSError):
                    data = json.dumps(told, indent=1).encode()
                    self._store.write(f"failed/{_failure_name(index)}", data, self._holder.run)
        self.report.failed = {index: failure.error for index, failure in failures.items()}

    def tick(self, workers: int) -> Snapshot:
        """Charge the time since the last call to so many worker processes and tell how the job stands."""
        clock = self._clock()
        self._held_seconds += (clock - self._ticked) * workers
        self._ticked, self._workers = clock, workers
        return self.snapshot()

    @property
    def budget_spent(self) -> bool:
        """Whether the workers have used up `budget_gpu_hours` (a worker without GPU counts as one)."""
        budget, gpus = self._runtime.budget_gpu_hours, self._runtime.num_gpus or 1.0
        return budget is not None and self._held_seconds * gpus >= 3600 * budget

    def snapshot(self) -> Snapshot:
        """The job now."""
        standing, report = self._standing, self.report
        accepted, rejected = standing.accepted + report.accepted, standing.rejected + report.rejected
        left = len(standing.tasks) - report.shards_done
        judged, seconds = report.accepted + report.rejected, self._ticked - self._began
        report.gpu_seconds = self._held_seconds * self._runtime.num_gpus
        report.shards_complete = standing.complete + report.shards_done
        gpu = 1000 * report.gpu_seconds / report.accepted if report.accepted and report.gpu_seconds else None
        price = self._runtime.price_per_gpu_hour
        return Snapshot(
            run=self._holder.run,
            start=self._holder.start,
            stop=self._holder.stop,
            shards=standing.complete + len(standing.tasks),
            shards_done=report.shards_complete,
            failed=len(report.failed),
            workers=self._workers,
            accepted=accepted,
            rejected=rejected,
            accept_rate=accepted / (accepted + rejected) if accepted + rejected else None,
            images_per_second=judged / seconds if judged and seconds else None,
            eta_seconds=left * seconds / report.shards_done if report.shards_done else None,
            gpu_seconds=report.gpu_seconds,
            gpu_seconds_per_1000=gpu,
            cost_per_1000=gpu * price / 3600 if gpu is not None and price is not None else None,
            stopped=report.stopped,
        )


def _failure_name(index: int) -> str:
    return f"{index:08d}.json"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"
