"""From a slot's attempt to its outcome: prompt, image, people, measures, verdict. One function a step, batch in hand.

`pipelines.judging` says what becomes of a row that makes a step raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.types import Detector, Person
from pipelines.clip import ClipScorer
from pipelines.gates import SAFETY, Rejection
from pipelines.ghi.config import GhiConfig
from pipelines.ghi.outcomes import SURPLUS, Outcome, key_of
from pipelines.ghi.slots import Candidate
from pipelines.images import SUFFIXES, decode_image, encode_image, perceptual_hash
from pipelines.judging import Steps, find_people, score_safety, verdict
from pipelines.record import Generation, LedgerRow, Rejected, Sample
from pipelines.safety import SafetyScorer
from pipelines.sampling import Sampler, noise_seed
from prompts.grammar import Grammar
from prompts.sampling import Prompt, prompt_at


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
    clip_score: float | None = None
    failure: Rejection | None = None

    @property
    def label(self) -> str:
        """For logs."""
        return f"{self.key}, attempt {self.candidate.attempt}"


class CandidateMaker:
    """The models of a worker, and the steps that use them."""

    def __init__(
        self,
        config: GhiConfig,
        grammar: Grammar,
        sampler: Sampler,
        detector: Detector,
        identity_hash: str,
        clip: ClipScorer | None = None,
    ) -> None:
        self.config = config
        self.grammar = grammar
        self.sampler = sampler
        self.detector = detector
        self.safety = SafetyScorer(config.sampler.threads) if config.gates.max_nsfw is not None else None
        self.clip = clip
        self.identity_hash = identity_hash
        self.steps = Steps(self._harmless_row)

    def key(self, slot: int) -> str:
        """Return the key of the sample that fills a slot."""
        return key_of(self.identity_hash, slot)

    def draw(self, candidates: Sequence[Candidate]) -> list[Row]:
        """Write the prompts of at most a batch of candidates and denoise their latents."""
        rows = [Row(candidate, self.key(candidate.slot)) for candidate in candidates]
        self.steps.run("prompt", self._prompt, rows)
        self.steps.run("sample", self._sample, rows)
        return rows

    def finish(self, rows: Sequence[Row], shard: int) -> list[Outcome]:
        """Decode, encode, detect, score and judge drawn rows. May run beside the next `draw`."""
        with self.sampler.beside():
            self.steps.run("decode", self._decode, rows)
            self.steps.run("encode", self._encode, rows)
            self.steps.run("detect", self._detect, rows)
            self.steps.run("safety", self._score, rows)
            self.steps.run("clip", self._compare, rows)
        return [self._outcome(row, shard) for row in rows]

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
        find_people(rows, self.detector, self.config.detector.min_score)

    def _score(self, rows: Sequence[Row]) -> None:
        if self.safety is not None:
            score_safety(rows, self.safety)

    def _compare(self, rows: Sequence[Row]) -> None:
        """CLIP scores, in full batches as everything else: another number of images could change bits."""
        if self.clip is not None:
            padding = self.sampler.batch_size - len(rows)
            images = [row.pixels for row in rows] + [np.zeros_like(rows[0].pixels)] * padding
            scores = self.clip.score(images, [row.prompt.text for row in rows] + [""] * padding)
            for row, score in zip(rows, scores[: len(rows)], strict=True):
                row.clip_score = float(score)

    def _outcome(self, row: Row, shard: int) -> Outcome:
        gates = self.config.gates
        if row.failure is not None:
            return Outcome(False, row=self.ledger_row(row.candidate, shard, row.failure, prompt=_prompt_of(row)))
        measured, rejection = verdict(row, row.prompt.num_people, gates)
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
            clip_score=row.clip_score,
            nsfw=row.nsfw,
            phash=row.phash,
        )


def _prompt_of(row: Row) -> Prompt | None:
    return getattr(row, "prompt", None)
