"""The annotate stage: raw images → people and scores in OUT/annotated/, one row an image, without the image.

It runs on a shard as soon as its raw shard is there. Nothing is judged here: thresholds are asked when everything is
known (`pipelines.laion.settle`), so another threshold costs no GPU time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.types import Detector, Person
from pipelines import preflight
from pipelines.detector import load_pinned
from pipelines.gates import Rejection
from pipelines.images import decode_image, perceptual_hash
from pipelines.judging import Steps, find_people, score_safety
from pipelines.laion.config import LaionConfig
from pipelines.laion.images import read_raw
from pipelines.laion.score import AestheticHead, Clip, load_clip_by_name
from pipelines.record import KILLED_WORKER, WORKER_STAGE, LedgerRow, Sample
from pipelines.safety import SafetyScorer
from pipelines.store import Store
from pipelines.work import ShardContext, ShardResult, ShardTask


@dataclass(slots=True)
class Row:
    """A raw image on its way; fields without default are set step by step."""

    sample: Sample
    pixels: NDArray[np.uint8] = field(init=False)
    phash: int = field(init=False)
    people: tuple[Person, ...] = field(init=False)
    clip: float | None = None
    aesthetic: float | None = None
    nsfw: float | None = None
    finite: bool = True
    failure: Rejection | None = None

    @property
    def label(self) -> str:
        return self.sample.key


@dataclass(frozen=True)
class MakeAnnotateWork:
    """Builds the work on a worker. out: the dataset whose raw shards are read; named: its identity."""

    config: LaionConfig
    out: str
    named: Mapping[str, Any]

    def __call__(self) -> AnnotateWork:
        """Load detector, CLIP and safety classifier. Raises UserError where they cannot be had on this machine."""
        import torch

        config = self.config
        device = "cuda" if config.gpus_per_worker > 0 else "cpu"
        if device == "cuda":
            preflight.require_gpu()
        torch.set_num_threads(config.score.threads)
        detector = load_pinned(config.detector, device, self.named)
        return AnnotateWork(self, detector, load_clip_by_name(config.score.clip_model))


class AnnotateWork:
    """Makes annotated shards (`pipelines.work.Work`)."""

    def __init__(self, make: MakeAnnotateWork, detector: Detector, clip: Clip) -> None:
        self._config = make.config
        self._store = Store(make.out)
        self._detector = detector
        self._clip = clip
        self._head = (
            None if make.config.score.aesthetic_head is None else AestheticHead(make.config.score.aesthetic_head)
        )
        self._safety = SafetyScorer(make.config.score.threads) if make.config.score.nsfw else None

    def __call__(self, context: ShardContext) -> ShardResult:
        task = context.task
        before = context.previous or ShardResult()
        done = {sample.key: sample for sample in before.accepted}
        failed = {row.key: row for row in before.ledger}
        raw, transient = read_raw(self._store, task)
        todo = {key: sample for key, sample in raw.items() if key not in done and key not in failed}
        steps = Steps(harmless_row)
        for batch in batches(list(todo), self._config.score.clip_batch_size):
            for live in context.rounds(batch):
                rows = [Row(todo[key]) for key in live]
                for stage, step in self._steps():
                    steps.run(stage, step, rows)
                for row in rows:
                    if row.failure is None:
                        done[row.sample.key] = annotated(row)
                    else:
                        failed[row.sample.key] = ledger_row(row.sample, task, row.failure)
        for key in task.quarantined & raw.keys():
            failed[key] = ledger_row(raw[key], task, Rejection(WORKER_STAGE, KILLED_WORKER))
        return ShardResult(
            accepted=[done[key] for key in raw if key in done],
            ledger=[failed[key] for key in raw if key in failed],
            seconds=steps.seconds,
            counts={"annotated": len(todo)},
            short=transient,
        )

    def try_one_batch(self) -> None:
        """Look at one whole batch of grey pictures; raises what only this machine is to blame for."""
        rows = [harmless_row() for _ in range(self._config.score.clip_batch_size)]
        steps = Steps(harmless_row)
        for stage, step in self._steps():
            steps.run(stage, step, rows)

    def _steps(self) -> list[tuple[str, Callable[[Sequence[Row]], None]]]:
        config = self._config
        found: list[tuple[str, Callable[[Sequence[Row]], None]]] = [("decode", decode), ("clip", self._compare)]
        found.append(("detect", lambda rows: find_people(rows, self._detector, config.detector.min_score)))
        if (safety := self._safety) is not None:
            found.append(("safety", lambda rows: score_safety(rows, safety)))
        return found

    def _compare(self, rows: Sequence[Row]) -> None:
        """CLIP score (100 x cosine, at least 0) and aesthetic score; batches are filled up, as bits depend on size."""
        size = self._config.score.clip_batch_size
        filled = [*rows, *[rows[-1]] * (size - len(rows))]
        images = self._clip.images([row.pixels for row in filled])
        texts = self._clip.texts([row.sample.caption for row in filled])
        cosines = (images * texts).sum(1)
        scores = None if self._head is None else self._head.scores(images)
        for number, row in enumerate(rows):
            row.clip = max(0.0, 100 * float(cosines[number]))
            row.aesthetic = None if scores is None else scores[number]


def annotated(row: Row) -> Sample:
    """What is known of an image now; `annotation` holds what gates ask beside the record's columns."""
    measured = {"brightest": float(row.pixels.max()), "deviation": float(row.pixels.std())}
    return replace(
        row.sample,
        image=None,
        people=row.people,
        annotation=json.dumps(measured),
        clip_score=row.clip,
        aesthetic=row.sample.aesthetic if row.aesthetic is None else row.aesthetic,
        nsfw=row.nsfw,
        phash=row.phash,
    )


def decode(rows: Sequence[Row]) -> None:
    """Fill in `pixels` and `phash`."""
    for row in rows:
        assert row.sample.image is not None
        row.pixels = decode_image(row.sample.image)
        row.phash = perceptual_hash(row.pixels)


def harmless_row() -> Row:
    """A row that every step should be able to take."""
    from pipelines.images import encode_image

    pixels = np.full((64, 64, 3), 127, np.uint8)
    row = Row(Sample("", "laion-human", encode_image(pixels, "png", 95), "", 64, 64, "a man", ()))
    row.pixels, row.phash, row.people = pixels, 0, ()
    return row


def batches(keys: list[str], size: int) -> list[list[str]]:
    """The keys, so many at a time."""
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def ledger_row(sample: Sample, task: ShardTask, why: Rejection) -> LedgerRow:
    """The ledger row of an image that nothing could be found on."""
    return LedgerRow(
        key=sample.key,
        shard=task.index,
        attempt=1,
        stage=why.stage,
        reason=why.reason,
        measured={},
        caption=sample.caption,
        url=None if sample.origin is None else sample.origin.url,
    )
