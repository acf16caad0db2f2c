"""What became of a slot's attempts, and how they become a shard's rows: pure logic, no models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pipelines.gates import Rejection
from pipelines.ghi.slots import Candidate
from pipelines.record import LedgerRow, Rejected, Sample
from pipelines.work import ShardResult

SURPLUS: Final = Rejection("slot", "surplus")
"""A candidate that passed every gate, but a lower attempt fills its slot."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a candidate. `row` and `rejected` are what is written unless it fills its slot, `sample` if so.

    passed: every gate let it through; then `row` and `rejected` call it surplus.
    """

    passed: bool
    sample: Sample | None = None
    row: LedgerRow | None = None
    rejected: Rejected | None = None


def key_of(identity_hash: str, slot: int) -> str:
    """Return the key of the sample that fills a slot."""
    return f"ghi-{identity_hash[:8]}-{slot}"


def candidate_of(key: str, attempt: int) -> Candidate:
    """Return the slot that a GHI key names, and the attempt."""
    return Candidate(int(key.rpartition("-")[2]), attempt)


def outcomes_on_disk(previous: ShardResult | None) -> dict[Candidate, Outcome]:
    """Return the outcomes that a shard's rows tell of.

    One that passed but has neither image nor an accepted attempt below it could not be used: it is left out.
    """
    if previous is None:
        return {}
    outcomes: dict[Candidate, Outcome] = {}
    kept = {(row.sample.key, row.attempt): row for row in previous.rejected}
    filled: dict[str, int] = {}
    for sample in previous.accepted:
        assert sample.generation is not None
        filled[sample.key] = sample.generation.attempt
        outcomes[candidate_of(sample.key, sample.generation.attempt)] = Outcome(True, sample)
    for row in previous.ledger:
        passed = (row.stage, row.reason) == SURPLUS
        rejected = kept.get((row.key, row.attempt))
        if not passed:
            outcomes[candidate_of(row.key, row.attempt)] = Outcome(False, row=row, rejected=rejected)
        elif rejected is not None or filled.get(row.key, row.attempt) < row.attempt:
            passing = rejected.sample if rejected else None
            outcomes[candidate_of(row.key, row.attempt)] = Outcome(True, passing, row, rejected)
    return outcomes


def assemble(
    accepted: Mapping[int, int], short: list[int], outcomes: Mapping[Candidate, Outcome], key: Callable[[int], str]
) -> ShardResult:
    """Sort outcomes into accepted, rejected and ledger rows, by slot and attempt.

    accepted: slot → the attempt that fills it. short: slots that none fills. key: a slot's sample key.
    """
    result = ShardResult(short=[key(slot) for slot in short])
    for candidate, outcome in sorted(outcomes.items(), key=lambda item: item[0]):
        if accepted.get(candidate.slot) == candidate.attempt:
            assert outcome.sample is not None
            result.accepted.append(outcome.sample)
            continue
        assert outcome.row is not None
        result.ledger.append(outcome.row)
        if outcome.rejected is not None:
            result.rejected.append(outcome.rejected)
    return result
