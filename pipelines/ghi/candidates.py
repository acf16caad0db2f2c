"""From a slot's attempt to its outcome: prompt, image, people, measures, verdict. One function a step, batch in hand.

A step takes rows and fills in fields. A row that makes a step raise fails alone, with the step as its stage and the
exception's name as its reason; what makes every row raise is no row's fault and fails the shard.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.types import Detector, Person
from pipelines.gates import Rejection, judge, measure
from pipelines.ghi.config import GhiConfig
from pipelines.ghi.slots import Candidate
from pipelines.images import SUFFIXES, decode_image, encode_image, perceptual_hash
from pipelines.record import Generation, LedgerRow, Rejected, Sample
from pipelines.safety import SafetyScorer
from pipelines.sampling import Sampler, noise_seed
from prompts.grammar import Grammar
from prompts.sampling import Prompt, prompt_at

SURPLUS = Rejection("slot", "surplus")
"""A candidate that passed every gate, but a lower attempt fills its slot."""

SAFETY = "safety"
"""The gate whose rejects keep no bytes."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Row:
    """A candidate on its way; fields without default are set step by step. `pixels` are those of `image`, decoded."""

    candidate: Candidate
    key: str
    prompt: Prompt = field(init=False)
    latents: torch.Tensor = field(init=False)
    drawn: NDArray[np.uint8] = field(init=False)
    finite: bool = field(init=False)
    image: bytes = field(init=False)
    pixels: NDArray[np.uint8] = field(init=False)
    phash: int = field(init=False)
    people: tuple[Person, ...] = field(init=False)
    nsfw: float | None = None
    failure: Rejection | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a candidate. `row` and `rejected` are what is written unless it fills its slot, `sample` if so.

    passed: every gate let it through; then `row` and `rejected` call it surplus.
    """

    passed: bool
    sample: Sample | None = None
    row: LedgerRow | None = None
    rejected: Rejected | None = None


class CandidateMaker:
    """The models of a worker, and the steps that use them. `seconds` adds up wall-clock time by step."""

    def __init__(
        self, config: GhiConfig, grammar: Grammar, sampler: Sampler, detector: Detector, identity_hash: str
    ) -> None:
        self.config = config
        self.grammar = grammar
        self.sampler = sampler
        self.detector = detector
        self.safety = SafetyScorer(config.sampler.threads) if config.gates.max_nsfw is not None else None
        self.key_prefix = f"ghi-{identity_hash[:8]}-"
        self.seconds: dict[str, float] = {}

    def key(self, slot: int) -> str:
        """Return the key of the sample that fills a slot."""
        return f"{self.key_prefix}{slot}"

    def draw(self, candidates: Sequence[Candidate]) -> list[Row]:
        """Write the prompts of at most a batch of candidates and denoise their latents."""
        rows = [Row(candidate, self.key(candidate.slot)) for candidate in candidates]
        self._step("prompt", self._prompt, rows)
        self._step("sample", self._sample, rows)
        return rows

    def finish(self, rows: Sequence[Row], shard: int) -> list[Outcome]:
        """Decode, encode, detect, score and judge drawn rows. May run beside the next `draw`."""
        with self.sampler.beside():
            self._step("decode", self._decode, rows)
            self._step("encode", self._encode, rows)
            self._step("detect", self._detect, rows)
            self._step("safety", self._score, rows)
        return [self._outcome(row, shard) for row in rows]

    def _step(self, stage: str, function: Callable[[Sequence[Row]], None], rows: Sequence[Row]) -> None:
        alive = [row for row in rows if row.failure is None]
        start = time.perf_counter()
        try:
            if alive:
                function(alive)
        except Exception as error:
            log.warning("%s: %s; looking for the row that raises it", stage, error)
            self._one_by_one(stage, function, alive)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def _one_by_one(self, stage: str, function: Callable[[Sequence[Row]], None], rows: Sequence[Row]) -> None:
        for row in rows:
            try:
                function([row])
            except Exception as error:
                log.warning("%s, attempt %d: %s: %s", row.key, row.candidate.attempt, stage, error)
                row.failure = Rejection(stage, type(error).__name__)
        if all(row.failure is not None for row in rows):
            function([self._harmless_row()])  # raises as well where the fault is the machine's or ours

    def _harmless_row(self) -> Row:
        """A row that every step should be able to take."""
        sampler = self.sampler
        row = Row(Candidate(0, 1), "")
        row.prompt = prompt_at(self.grammar, self.config.seed, 0)
        row.latents = sampler.empty_latents()
        row.drawn = row.pixels = np.full((sampler.height, sampler.width, 3), 127, np.uint8)
        row.finite = True
        return row

    def _prompt(self, rows: Sequence[Row]) -> None:
        for row in rows:
            row.prompt = prompt_at(self.grammar, self.config.seed, row.candidate.slot, row.candidate.attempt)

    def _sample(self, rows: Sequence[Row]) -> None:
        texts, negatives = [row.prompt.text for row in rows], [row.prompt.negative for row in rows]
        latents = self.sampler.denoise(texts, negatives, [noise_seed(self.config.seed, *row.candidate) for row in rows])
        for row, own in zip(rows, latents, strict=True):
            row.latents = own

    def _decode(self, rows: Sequence[Row]) -> None:
        decoded = self.sampler.decode(torch.stack([row.latents for row in rows]))
        for row, pixels, finite in zip(rows, decoded.pixels, decoded.finite, strict=True):
            row.drawn, row.finite = pixels, finite

    def _encode(self, rows: Sequence[Row]) -> None:
        """Everything after is measured on the image as it is stored, so that anyone can measure it again."""
        output = self.config.output
        for row in rows:
            row.image = encode_image(row.drawn, output.format, output.quality)
            row.pixels = decode_image(row.image)
            row.phash = perceptual_hash(row.pixels)

    def _detect(self, rows: Sequence[Row]) -> None:
        found = self.detector.detect([row.pixels for row in rows])
        for row, people in zip(rows, found, strict=True):
            row.people = tuple(person for person in people if person.score >= self.config.detector.min_score)

    def _score(self, rows: Sequence[Row]) -> None:
        if self.safety is not None:
            for row, score in zip(rows, self.safety.scores([row.pixels for row in rows]), strict=True):
                row.nsfw = score

    def _outcome(self, row: Row, shard: int) -> Outcome:
        gates = self.config.gates
        if row.failure is not None:
            return Outcome(False, row=self.ledger_row(row.candidate, shard, row.failure, prompt=_prompt_of(row)))
        measured = measure(row.pixels, row.people, gates, row.finite)
        measured["nsfw"] = row.nsfw
        rejection = judge(measured, row.prompt.num_people, gates)
        why = rejection or SURPLUS
        ledger = self.ledger_row(row.candidate, shard, why, row.prompt, measured)
        if why.stage == SAFETY:
            return Outcome(False, row=ledger)
        sample = self._to_sample(row)
        kept = Rejected(sample, why.stage, why.reason, row.candidate.attempt) if self.config.keep_rejected else None
        return Outcome(rejection is None, sample, ledger, kept)

    def ledger_row(
        self,
        candidate: Candidate,
        shard: int,
        why: Rejection,
        prompt: Prompt | None = None,
        measured: dict[str, float | None] | None = None,
    ) -> LedgerRow:
        """Return the ledger row of a candidate; `prompt` None where not even that could be made."""
        people = (measured or {}).get("people")
        return LedgerRow(
            key=self.key(candidate.slot),
            shard=shard,
            attempt=candidate.attempt,
            stage=why.stage,
            reason=why.reason,
            measured=measured or {},
            asked_people=None if prompt is None else prompt.num_people,
            found_people=None if people is None else int(people),
            caption=None if prompt is None else prompt.text,
            scene=None if prompt is None else prompt.scene,
            action=None if prompt is None else prompt.action,
            seed=self.config.seed,
        )

    def _to_sample(self, row: Row) -> Sample:
        prompt, sampler = row.prompt, self.sampler
        return Sample(
            key=row.key,
            source="ghi",
            image=row.image,
            image_path=f"{row.key}.{SUFFIXES[self.config.output.format]}",
            width=row.pixels.shape[1],
            height=row.pixels.shape[0],
            caption=prompt.text,
            people=row.people,
            scene=prompt.scene,
            action=prompt.action,
            prompt={**prompt.parts, "num_people": prompt.num_people, "negative": prompt.negative},
            generation=Generation(
                model=sampler.name,
                revision=sampler.revision,
                scheduler=sampler.scheduler,
                steps=sampler.config.steps,
                guidance=sampler.config.guidance,
                seed=self.config.seed,
                attempt=row.candidate.attempt,
            ),
            nsfw=row.nsfw,
            phash=row.phash,
        )


def _prompt_of(row: Row) -> Prompt | None:
    return getattr(row, "prompt", None)
