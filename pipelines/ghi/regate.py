"""A GHI dataset under another detector or other gates, from the images that are there: nothing is sampled.

Attempts count in order, as when they were made: the lowest accepted one fills its slot, and one whose outcome is not
known leaves it open from there on. What is known of a shard goes through the same batches as if it were sampled
(`slots`): where they need nothing else, the shard comes out byte for byte as `humansd ghi` would make it; else all that
is known is kept, for `humansd ghi` to fill what is short without sampling it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detectors.types import Detector, Person
from pipelines import follow
from pipelines.checkpoint import Checkpoint
from pipelines.config import UserError, difference, of_kind, plain, restore
from pipelines.detector import check_detector, detector_digests, load_pinned
from pipelines.gates import SAFETY, Rejection
from pipelines.ghi.config import GhiConfig
from pipelines.ghi.job import device_of, identity_of, runtime_of
from pipelines.ghi.outcomes import SURPLUS, Outcome, assemble, candidate_of, key_of, outcomes_on_disk
from pipelines.ghi.slots import Candidate, Slots
from pipelines.images import decode_image, encode_image
from pipelines.judging import Steps, Unchanged, find_people, judge_without_image, score_safety, unchanged, verdict
from pipelines.record import KILLED_WORKER, WORKER_STAGE, LedgerRow, Rejected, Sample
from pipelines.store import Store
from pipelines.work import ShardContext, ShardResult, ShardTask

if TYPE_CHECKING:
    from pipelines.dataset import Manifest
    from pipelines.job import Job, Runtime
    from pipelines.safety import SafetyScorer


@dataclass(slots=True)
class Look:
    """A candidate whose image is looked at again; `people` and `pixels` are set step by step.

    clip_score: as stored; neither detector nor gates change it.
    """

    candidate: Candidate
    sample: Sample
    finite: bool
    pixels: NDArray[np.uint8] = field(init=False)
    people: tuple[Person, ...] = field(init=False)
    nsfw: float | None = None
    clip_score: float | None = None
    failure: Rejection | None = None

    @property
    def label(self) -> str:
        """Names the attempt in logs, breadcrumbs and quarantine: `<sample key>#<attempt>`."""
        return f"{self.sample.key}#{self.candidate.attempt}"


@dataclass(frozen=True)
class MakeRegateWork:
    """Builds the work on a worker: the detector is loaded there, and nothing else."""

    source: str
    config: GhiConfig
    identity_hash: str
    still: Unchanged
    detector_digests: Mapping[str, str]

    def __call__(self) -> RegateWork:
        """Load the detector. Raises UserError where it cannot be had on this machine."""
        import torch

        from pipelines.safety import SafetyScorer

        config = self.config
        torch.set_num_threads(config.sampler.threads)
        detector = load_pinned(config.detector, device_of(config), self.detector_digests)
        safety = SafetyScorer(config.sampler.threads) if config.gates.max_nsfw is not None else None
        return RegateWork(Store(self.source), config, self.identity_hash, self.still, detector, safety)

    def judge_without_image(self, row: LedgerRow) -> Rejection | None:
        """Why a candidate whose image was not kept stays rejected; None where that cannot be told."""
        return judge_without_image(row, self.config.gates, self.still)


def compose(
    source: Store,
    manifest: Manifest,
    to: str,
    overrides: Sequence[str],
    shards: range | None = None,
    address: str | None = None,
) -> tuple[Job, MakeRegateWork, Runtime]:
    """Return the job that makes `to` from the dataset `source`, what builds its work, and where it runs.

    overrides: `detector.…`, `gates.…` and keys that decide no bytes. Raises UserError for any other, and where the
    detector cannot be had; the diffusion model is neither loaded nor needed on this machine.
    """
    from pipelines.job import Job

    where = source.path("dataset.json")
    before, config = (restore(GhiConfig, manifest.config, where, given) for given in ((), overrides))
    for line in difference(_of_images(before), _of_images(config)):
        raise UserError(f"{line}: regate changes detector and gates only; for other images run humansd ghi")
    check_detector(config.detector)
    detector = detector_digests(config.detector)
    pinned = manifest.identity  # without "score.clip" where it is older than that key: then nothing was scored
    checkpoint = Checkpoint(pinned["model.name"], pinned["model.name"], pinned["model.revision"], config.model.variant)
    named, hashed = identity_of(config, pinned["grammar.digest"], checkpoint, detector, pinned.get("score.clip"))
    job = Job(
        out=to,
        source="ghi",
        identity=named,
        identity_hash=hashed,
        config=plain(config),
        n=manifest.n,
        shard_size=manifest.shard_size,
        max_attempts=manifest.max_attempts,
        shards=shards,
        files=_grammar_files(source),
        standing=partial(follow.regated, source),
    )
    make_work = MakeRegateWork(source.url, config, hashed, unchanged(pinned, named), detector)
    return job, make_work, runtime_of(config, address)


def _of_images(config: GhiConfig) -> dict[str, Any]:
    """The keys that decide which images there are, and how well they match their captions."""
    named = of_kind(config, "identity") | of_kind(config, "extendable")
    kept = {name: value for name, value in named.items() if not name.startswith(("detector.", "gates."))}
    return kept | {"score.clip_model": config.score.clip_model}


def _grammar_files(source: Store) -> dict[str, bytes]:
    """The copy of the grammar that every GHI dataset carries."""
    return dict(source.read_many(source.names_below("grammar")))


class RegateWork:
    """Makes shards from those of another GHI dataset (`pipelines.work.Work`)."""

    def __init__(
        self,
        source: Store,
        config: GhiConfig,
        identity_hash: str,
        still: Unchanged,
        detector: Detector,
        safety: SafetyScorer | None,
    ) -> None:
        self._source = source
        self._config = config
        self._identity_hash = identity_hash
        self._still = still
        self._detector = detector
        self._safety = safety
        self._steps = Steps(_harmless_look)

    def __call__(self, context: ShardContext) -> ShardResult:
        task, gates = context.task, self._config.gates
        self._steps.seconds = {}
        done, rows = follow.read_shard(self._source, task.index)
        known = outcomes_on_disk(context.previous)
        looks = [look for look in self._looks(rows) if look.candidate not in known]
        size = self._config.detector.batch_size
        for start in range(0, len(looks), size):
            known |= self._look(looks[start : start + size], context)
        counts = {"detected": len(looks), "judged_without_image": 0}
        seen = known.keys() | {look.candidate for look in looks}
        for row in rows.ledger:
            candidate = candidate_of(row.key, row.attempt)
            why = None if candidate in seen else judge_without_image(row, gates, self._still)
            if why is not None:
                known[candidate] = Outcome(False, row=self._carry_over(row, why, task.index))
                counts["judged_without_image"] += 1
        result = fill(task, known, self._config, self._identity_hash)
        result.counts, result.seconds = counts, dict(self._steps.seconds)
        result.follows = follow.fingerprint(done)
        return result

    def _looks(self, rows: ShardResult) -> Iterator[Look]:
        finite = {(row.key, row.attempt): row.measured.get("finite") != 0 for row in rows.ledger}
        for sample in rows.accepted:
            assert sample.generation is not None
            yield self._to_look(sample, sample.generation.attempt, True)
        for row in rows.rejected:
            if row.sample.image is not None:
                yield self._to_look(row.sample, row.attempt, finite.get((row.sample.key, row.attempt), True))

    def _to_look(self, sample: Sample, attempt: int, finite: bool) -> Look:
        candidate = candidate_of(sample.key, attempt)
        key = key_of(self._identity_hash, candidate.slot)
        renamed = replace(sample, key=key, image_path=key + PurePosixPath(sample.image_path).suffix)
        nsfw = sample.nsfw if self._still.safety else None
        return Look(candidate, renamed, finite, nsfw, sample.clip_score)

    def _look(self, batch: Sequence[Look], context: ShardContext) -> dict[Candidate, Outcome]:
        """Detect, score and judge a batch."""
        by_label = {look.label: look for look in batch}
        for live in context.rounds(list(by_label)):
            self._run([by_label[label] for label in live])
        for label in by_label.keys() & context.task.quarantined:
            by_label[label].failure = Rejection(WORKER_STAGE, KILLED_WORKER)
        return {look.candidate: self._outcome(look, context.task.index) for look in batch}

    def try_one_batch(self) -> None:
        """Look at one whole batch of grey pictures; raises what only this machine is to blame for."""
        self._run([_harmless_look() for _ in range(self._config.detector.batch_size)])

    def _run(self, looks: Sequence[Look]) -> None:
        self._steps.run("decode", _decode, looks)
        self._steps.run("detect", self._detect, looks)
        self._steps.run("safety", self._score, looks)

    def _detect(self, looks: Sequence[Look]) -> None:
        find_people(looks, self._detector, self._config.detector.min_score)

    def _score(self, looks: Sequence[Look]) -> None:
        if self._safety is not None:
            score_safety([look for look in looks if look.nsfw is None], self._safety)

    def _outcome(self, look: Look, shard: int) -> Outcome:
        if look.failure is not None:
            return Outcome(False, row=_ledger_row(look, shard, look.failure, {}))
        asked = int((look.sample.prompt or {}).get("num_people") or 0)
        measured, rejection = verdict(look, asked, self._config.gates)
        why = rejection or SURPLUS
        row = _ledger_row(look, shard, why, measured)
        if why.stage == SAFETY:
            return Outcome(False, row=row)
        sample = replace(look.sample, people=look.people, nsfw=look.nsfw)
        keep = self._config.keep_rejected
        kept = Rejected(sample, why.stage, why.reason, look.candidate.attempt) if keep else None
        return Outcome(rejection is None, sample, row, kept)

    def _carry_over(self, row: LedgerRow, why: Rejection, shard: int) -> LedgerRow:
        key = key_of(self._identity_hash, candidate_of(row.key, row.attempt).slot)
        measured = self._still.measured(row.measured)
        found = row.found_people if self._still.people else None
        return replace(
            row, key=key, shard=shard, stage=why.stage, reason=why.reason, measured=measured, found_people=found
        )


def fill(task: ShardTask, known: Mapping[Candidate, Outcome], config: GhiConfig, identity_hash: str) -> ShardResult:
    """Fill a shard's slots from the outcomes that are known."""

    def key(slot: int) -> str:
        return key_of(identity_hash, slot)

    slots = Slots(range(task.start, task.stop), config.max_attempts, config.sampler.batch_size)
    outcomes = replay(slots, known)
    if outcomes is not None:
        result = assemble(slots.accepted, slots.short(), outcomes, key)
        result.max_attempts = config.max_attempts
        return result
    accepted: dict[int, int] = {}
    tried: dict[int, int] = {}
    for slot in range(task.start, task.stop):
        attempt = 1
        while (outcome := known.get(Candidate(slot, attempt))) is not None and not outcome.passed:
            attempt += 1
        if outcome is not None:
            accepted[slot] = attempt
        else:
            tried[slot] = attempt - 1
    result = assemble(accepted, list(tried), known, key)
    result.max_attempts = min(tried.values(), default=config.max_attempts)
    return result


def replay(slots: Slots, known: Mapping[Candidate, Outcome]) -> dict[Candidate, Outcome] | None:
    """Go through the batches that sampling would go through; None where an outcome is not known."""
    outcomes: dict[Candidate, Outcome] = {}
    in_flight: deque[list[Candidate]] = deque()
    while True:
        batch = slots.next_batch()
        if any(candidate not in known for candidate in batch):
            return None
        if batch:
            in_flight.append(batch)
            if len(in_flight) == 1:
                continue
        elif not in_flight:
            return outcomes
        settled = in_flight.popleft()
        outcomes |= {candidate: known[candidate] for candidate in settled}
        slots.settle((candidate, known[candidate].passed) for candidate in settled)


def _ledger_row(look: Look, shard: int, why: Rejection, measured: Mapping[str, float | None]) -> LedgerRow:
    sample, people = look.sample, measured.get("people")
    asked = (sample.prompt or {}).get("num_people")
    return LedgerRow(
        key=sample.key,
        shard=shard,
        attempt=look.candidate.attempt,
        stage=why.stage,
        reason=why.reason,
        measured=measured,
        asked_people=None if asked is None else int(asked),
        found_people=None if people is None else int(people),
        caption=sample.caption,
        scene=sample.scene,
        action=sample.action,
        seed=None if sample.generation is None else sample.generation.seed,
    )


def _decode(looks: Sequence[Look]) -> None:
    for look in looks:
        look.pixels = decode_image(look.sample.image or b"")


def _harmless_look() -> Look:
    """A row that every step should be able to take."""
    pixels = np.full((64, 64, 3), 127, np.uint8)
    sample = Sample("", "ghi", encode_image(pixels, "png", 0), "", 64, 64, "", ())
    look = Look(Candidate(0, 1), sample, True)
    look.pixels = pixels
    return look
