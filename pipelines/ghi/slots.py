"""Which attempts a shard makes, in which order and in which batches: pure logic, no models.

A slot is open until one of its attempts is accepted or its attempts are used up. Batches are always full:

1. While the open slots that wait for nothing fill a batch, the next attempt of each of the first of them is taken.
2. Otherwise everything in flight is awaited, and the attempts of the open slots are taken in rounds: the next one of
   each, then one more of each, until the batch is full. The lowest accepted attempt of a slot wins.

Rule 1 lets one batch be decoded and judged while the next is sampled. The order follows from the outcomes alone, not
from time, so a shard that is made again, or grown with outcomes that are already known, goes the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Candidate(NamedTuple):
    """One try at a slot; attempts count from 1. Sorts by slot, then attempt."""

    slot: int
    attempt: int


class Slots:
    """The slots of one shard. Call `next_batch` and `settle` in turn until a batch is empty with nothing in flight."""

    def __init__(self, slots: Iterable[int], max_attempts: int, batch_size: int) -> None:
        self._tried = dict.fromkeys(slots, 0)
        self._in_flight: set[Candidate] = set()
        self._max_attempts = max_attempts
        self._batch_size = batch_size
        self.accepted: dict[int, int] = {}
        """Slot → its lowest accepted attempt."""

    def next_batch(self) -> list[Candidate]:
        """Return the attempts to make next, now in flight; empty where others must be settled first or all is done."""
        waiting = {candidate.slot for candidate in self._in_flight}
        ready = [slot for slot in self._open() if slot not in waiting]
        if len(ready) >= self._batch_size:
            batch = [self._take(slot) for slot in ready[: self._batch_size]]
        elif waiting:
            return []
        else:
            batch = self._fill(ready)
        self._in_flight.update(batch)
        return batch

    def settle(self, outcomes: Iterable[tuple[Candidate, bool]]) -> None:
        """Take the outcomes (candidate, accepted) of a batch."""
        for candidate, accepted in outcomes:
            self._in_flight.remove(candidate)
            if accepted:
                self.accepted[candidate.slot] = min(
                    candidate.attempt, self.accepted.get(candidate.slot, candidate.attempt)
                )

    def short(self) -> list[int]:
        """Return the slots that no attempt filled."""
        return [slot for slot in self._tried if slot not in self.accepted]

    def _open(self) -> list[int]:
        return [slot for slot, tried in self._tried.items() if slot not in self.accepted and tried < self._max_attempts]

    def _take(self, slot: int) -> Candidate:
        self._tried[slot] += 1
        return Candidate(slot, self._tried[slot])

    def _fill(self, ready: Sequence[int]) -> list[Candidate]:
        batch: list[Candidate] = []
        while True:
            room = self._batch_size - len(batch)
            able = [slot for slot in ready if self._tried[slot] < self._max_attempts][:room]
            if not able:
                return batch
            batch += [self._take(slot) for slot in able]
