"""Which shard goes to which worker next, and what a failure means: pure bookkeeping, no processes, no clock.

- A shard whose work *raises* goes to another worker; it has failed when no worker that is any good could make it.
- A row that *kills its process* is found: three deaths of the same batch → its rows run one at a time → the row that
  kills alone, twice, while its neighbours run, is quarantined. Deaths that were not a row's fault (node, preemption,
  memory) count nothing.
- A *worker* on which three shards in a row fail is retired; what failed on it is not held against the shards.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pipelines.work import ShardTask

FAILURES_OF_A_WORKER: Final = 3
"""Different shards failing in a row after which a worker is retired."""

DEATHS_OF_A_BATCH: Final = 3
"""Deaths after which the rows of a batch are run one at a time."""

DEATHS_OF_A_ROW: Final = 2
"""Deaths of a row that runs alone after which it is quarantined; once could be somebody's `kill -9`."""

MOST_DEATHS: Final = 10
"""Deaths of a shard, without a row being found in between, after which it has failed."""

MOST_MEMORY_KILLS: Final = 5
MOST_HANGS: Final = 3


Ready = Callable[[int], bool]
"""Whether a shard can be made now."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a shard failed on a worker: what `failed/` tells. error is one line."""

    error: str
    traceback: str = ""
    stderr: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Death:
    """The rows that ran when a process died (none: outside any batch), and the rounds it had finished before."""

    keys: tuple[str, ...] = ()
    rounds: int = 0


@dataclass(slots=True)
class _Trouble:
    """What has gone wrong with one shard so far. raised and hung name the worker slot, once for each time."""

    raised: list[int] = field(default_factory=list)
    hung: list[int] = field(default_factory=list)
    deaths: list[tuple[int, Death]] = field(default_factory=list)
    memory_kills: int = 0
    last: Failure = field(default_factory=lambda: Failure(""))

    def slots(self) -> set[int]:
        return {*self.raised, *self.hung, *(slot for slot, _ in self.deaths)}

    def forget(self, slot: int) -> None:
        self.raised = [other for other in self.raised if other != slot]
        self.hung = [other for other in self.hung if other != slot]
        self.deaths = [(other, death) for other, death in self.deaths if other != slot]


class Schedule:
    """The queue of a job and the standing of its worker slots (numbered; a slot outlives its process)."""

    def __init__(self, tasks: Sequence[ShardTask]) -> None:
        self._queue = deque(tasks)
        self._again: list[ShardTask] = []  # failed before: served first, but to other workers
        self._trouble: dict[int, _Trouble] = {}
        self._failed: dict[int, ShardTask] = {}
        self._ready: set[int] = set()
        self._proven: set[int] = set()
        self._streak: dict[int, set[int]] = {}
        self._seconds: deque[float] = deque(maxlen=1001)
        self.in_flight: dict[int, ShardTask] = {}
        self.retired: set[int] = set()

    @property
    def waiting(self) -> int:
        """Shards that are not in flight, made, or failed."""
        return len(self._queue) + len(self._again)

    @property
    def failed(self) -> dict[int, Failure]:
        """Shards that have failed for good in this run."""
        return {index: self._trouble[index].last for index in sorted(self._failed)}

    @property
    def troubled(self) -> dict[int, Failure]:
        """Shards that went wrong and wait for another try."""
        waiting = sorted(task.index for task in self._again if task.index in self._trouble)
        return {index: self._trouble[index].last for index in waiting}

    @property
    def median_seconds(self) -> float | None:
        """Median time of the shards made last; None before the first."""
        return statistics.median(self._seconds) if self._seconds else None

    def ready(self, slot: int) -> None:
        """A slot's worker is up."""
        assert slot not in self.retired
        self._ready.add(slot)

    def gone(self, slot: int) -> None:
        """A slot's worker is down, for now."""
        self._ready.discard(slot)

    def can_start(self, ready: Ready) -> bool:
        """Whether any waiting shard is ready."""
        return any(ready(task.index) for task in [*self._again, *self._queue])

    def take(self, slot: int, ready: Ready | None = None) -> ShardTask | None:
        """The next shard for an idle worker; None where there is none for it now. ready: None = all are."""
        assert slot in self._ready
        assert slot not in self.in_flight
        task = next((task for task in self._again if self._may_try(slot, task)), None)
        if task is not None:
            self._again.remove(task)
        else:
            task = next((task for task in self._queue if ready is None or ready(task.index)), None)
            if task is None:
                return None
            self._queue.remove(task)  # nearly always the first
        self.in_flight[slot] = task
        return task

    def _may_try(self, slot: int, task: ShardTask) -> bool:
        trouble = self._trouble.get(task.index)
        tried = trouble.slots() if trouble else set()
        return slot not in tried or self._ready <= tried

    def succeeded(self, slot: int, seconds: float) -> None:
        """The slot's shard is committed."""
        task = self.in_flight.pop(slot)
        self._trouble.pop(task.index, None)
        self._proven.add(slot)
        self._streak.pop(slot, None)
        self._seconds.append(seconds)

    def dropped(self, slot: int) -> None:
        """The slot's shard came back for a reason that says nothing about it: its node died or was taken away."""
        self._again.append(self._give_back(slot))

    def raised(self, slot: int, failure: Failure) -> None:
        """The work raised."""
        task = self._give_back(slot)
        trouble = self._note(task, failure)
        trouble.raised.append(slot)
        tried = set(trouble.raised)
        hopeless = len(trouble.raised) >= 2 and (len(tried & self._proven) >= 2 or self._ready <= tried)
        self._requeue(task, failed=hopeless)
        self._count_against(slot, task)

    def hung(self, slot: int, failure: Failure) -> None:
        """The shard took too long and its process was killed."""
        task = self._give_back(slot)
        trouble = self._note(task, failure)
        trouble.hung.append(slot)
        self._requeue(task, failed=len(trouble.hung) >= MOST_HANGS)
        self._count_against(slot, task)

    def killed_for_memory(self, slot: int, failure: Failure) -> None:
        """The system killed the process for its memory: no row's fault, but not to be repeated for ever."""
        task = self._give_back(slot)
        trouble = self._note(task, failure)
        trouble.memory_kills += 1
        self._requeue(task, failed=trouble.memory_kills >= MOST_MEMORY_KILLS)

    def died(self, slot: int, death: Death, failure: Failure) -> None:
        """The process died by itself."""
        task = self._give_back(slot)
        trouble = self._note(task, failure)
        trouble.deaths.append((slot, death))
        found = _narrow(task, [death for _, death in trouble.deaths])
        if (found.isolate, found.quarantined) != (task.isolate, task.quarantined):
            trouble.deaths.clear()
        silent = sum(not death.keys for _, death in trouble.deaths)
        self._requeue(found, failed=len(trouble.deaths) >= MOST_DEATHS or silent >= DEATHS_OF_A_BATCH)
        self._count_against(slot, task)

    def retire(self, slot: int) -> None:
        """Take a slot out for good and forget what failed on it; shards that failed nowhere else get another try."""
        self.retired.add(slot)
        self.gone(slot)
        for index, trouble in self._trouble.items():
            before = trouble.slots()
            trouble.forget(slot)
            if before and not trouble.slots() and index in self._failed:
                self._again.append(self._failed.pop(index))

    def _give_back(self, slot: int) -> ShardTask:
        return self.in_flight.pop(slot)

    def _note(self, task: ShardTask, failure: Failure) -> _Trouble:
        trouble = self._trouble.setdefault(task.index, _Trouble())
        trouble.last = failure
        return trouble

    def _requeue(self, task: ShardTask, *, failed: bool) -> None:
        if failed:
            self._failed[task.index] = task
        else:
            self._again.append(task)

    def _count_against(self, slot: int, task: ShardTask) -> None:
        streak = self._streak.setdefault(slot, set())
        streak.add(task.index)
        if len(streak) >= FAILURES_OF_A_WORKER:
            self.retire(slot)


def _narrow(task: ShardTask, deaths: Sequence[Death]) -> ShardTask:
    """The task with the rows isolated, suspected or quarantined that its deaths since the last step point to."""
    alone = [death for death in deaths if len(death.keys) == 1 and death.keys[0] in task.isolate]
    times = Counter(death.keys[0] for death in alone)
    # A worker that dies whatever it runs must not cost a row: a row is only to blame where others ran before it.
    sound = {death.keys[0] for death in alone if death.rounds > 0}
    killers = {key for key in sound if times[key] >= DEATHS_OF_A_ROW}
    if killers:
        isolate = task.isolate - killers
        return replace(task, quarantined=task.quarantined | killers, isolate=isolate, suspects=task.suspects - killers)
    # Where stages overlap, a breadcrumb names two batches: counting rows finds the one that is in all three deaths.
    present = Counter(key for death in deaths for key in set(death.keys))
    batch = {key for key, count in present.items() if count >= DEATHS_OF_A_BATCH} - task.isolate
    return replace(task, isolate=task.isolate | batch, suspects=task.suspects | set(times))
