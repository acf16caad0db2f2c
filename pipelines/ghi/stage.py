"""The work of a GHI shard: fill its slots, batch by batch, and account for every attempt.

While a batch is decoded, detected and judged, the next one is sampled (on a GPU in a second thread; on a CPU, whose
cores the models share, one after the other). Which attempts a batch holds is `Slots`' decision, the same in both cases.

A shard that is grown goes through the same batches as one made at once; outcomes that are on disk are taken from there
instead of being sampled again, so both give the same bytes (on a GPU, to a pixel's rounding: attempts move to other
places of their batches). Only attempts that the longer shard has no use for (surplus of the shorter one) leave the
ledger.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipelines.gates import Rejection
from pipelines.ghi.candidates import CandidateMaker, Row
from pipelines.ghi.outcomes import Outcome, assemble, outcomes_on_disk
from pipelines.ghi.slots import Candidate, Slots
from pipelines.record import KILLED_WORKER, WORKER_STAGE
from pipelines.work import ShardContext, ShardResult, ShardTask
from prompts.sampling import prompt_at

Finish = Callable[[Sequence[Row], int], list[Outcome]]
Submit = Callable[[Finish, Sequence[Row], int], "Future[list[Outcome]]"]


@dataclass(slots=True)
class _Batch:
    """A batch under way: its candidates, the outcomes known beforehand, and those that are being made."""

    candidates: list[Candidate]
    outcomes: dict[Candidate, Outcome]
    running: list[tuple[list[Candidate], Future[list[Outcome]]]] = field(default_factory=list)

    def keys(self, maker: CandidateMaker) -> list[str]:
        return [attempt_key(maker, candidate) for candidates, _ in self.running for candidate in candidates]


class GhiWork:
    """Makes the shards of one worker (`pipelines.work.Work`).

    overlap: decode and judge a batch in a second thread while the next is sampled.
    """

    def __init__(self, maker: CandidateMaker, overlap: bool = False) -> None:
        self.maker = maker
        self.overlap = overlap

    def __call__(self, context: ShardContext) -> ShardResult:
        task = context.task
        self.maker.steps.seconds = {}
        known = outcomes_on_disk(context.previous)
        slots = Slots(range(task.start, task.stop), task.max_attempts, self.maker.sampler.batch_size)
        outcomes: dict[Candidate, Outcome] = {}
        in_flight: deque[_Batch] = deque()
        with _submitter(self.overlap) as submit:
            while True:
                candidates = slots.next_batch()
                if candidates:
                    in_flight.append(self._start(candidates, known, context, in_flight, submit))
                    if len(in_flight) == 1:
                        continue
                elif not in_flight:
                    break
                settled = _settle(in_flight.popleft())
                outcomes |= settled
                slots.settle((candidate, outcome.passed) for candidate, outcome in settled.items())
        result = assemble(slots.accepted, slots.short(), outcomes, self.maker.key)
        result.counts = {"sampled": len(outcomes.keys() - known.keys()), "reused": len(outcomes.keys() & known.keys())}
        result.seconds = dict(self.maker.steps.seconds)
        return result

    def try_one_batch(self) -> None:
        """Make one whole batch and throw it away; raises what no row but this machine is to blame for."""
        size = self.maker.sampler.batch_size
        self.maker.finish(self.maker.draw([Candidate(slot, 1) for slot in range(size)]), 0)

    def _start(
        self,
        candidates: list[Candidate],
        known: Mapping[Candidate, Outcome],
        context: ShardContext,
        in_flight: Sequence[_Batch],
        submit: Submit,
    ) -> _Batch:
        """Sample the candidates whose outcome is not known, and hand them on to be finished."""
        maker, task = self.maker, context.task
        batch = _Batch(candidates, {candidate: known[candidate] for candidate in candidates if candidate in known})
        todo = {attempt_key(maker, candidate): candidate for candidate in candidates if candidate not in known}
        for key in todo.keys() & task.quarantined:
            batch.outcomes[todo[key]] = self._quarantined(todo[key], task)
        unfinished = in_flight if self.overlap and not context.isolating else ()
        busy = [key for earlier in unfinished for key in earlier.keys(maker)]
        for live in context.rounds(list(todo), busy):
            rows = maker.draw([todo[key] for key in live])
            future = submit(maker.finish, rows, task.index)
            batch.running.append(([row.candidate for row in rows], future))
            if context.isolating:
                future.result()
        return batch

    def _quarantined(self, candidate: Candidate, task: ShardTask) -> Outcome:
        maker = self.maker
        prompt = prompt_at(maker.grammar, maker.config.seed, candidate.slot, candidate.attempt)
        why = Rejection(WORKER_STAGE, KILLED_WORKER)
        return Outcome(False, row=maker.ledger_row(candidate, task.index, why, prompt))


def attempt_key(maker: CandidateMaker, candidate: Candidate) -> str:
    """Return the name of an attempt in breadcrumbs and quarantine: `<sample key>#<attempt>`."""
    return f"{maker.key(candidate.slot)}#{candidate.attempt}"


@contextmanager
def _submitter(overlap: bool) -> Iterator[Submit]:
    """Yield what runs a function in a second thread, or at once."""
    if overlap:
        with ThreadPoolExecutor(1, thread_name_prefix="finish") as pool:
            yield pool.submit
        return

    def run(
        finish: Callable[[Sequence[Row], int], list[Outcome]], rows: Sequence[Row], shard: int
    ) -> Future[list[Outcome]]:
        future: Future[list[Outcome]] = Future()
        future.set_result(finish(rows, shard))
        return future

    yield run


def _settle(batch: _Batch) -> dict[Candidate, Outcome]:
    outcomes = dict(batch.outcomes)
    for candidates, future in batch.running:
        outcomes.update(zip(candidates, future.result(), strict=True))
    assert outcomes.keys() == set(batch.candidates)
    return outcomes
