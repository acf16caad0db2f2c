"""From an image as it is stored to a verdict: its people, its safety score, the gates.

A new image and an old one that is looked at again go through the same functions, so both get the same verdict.
A step takes rows and fills in fields. A row that makes a step raise fails alone, with the step as its stage and the
exception's name as its reason; what makes every row raise is no row's fault and fails the shard.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from detectors.types import Detector, Person
from pipelines.gates import SAFETY, GatesConfig, Rejection, judge, measure
from pipelines.record import WORKER_STAGE, LedgerRow
from pipelines.safety import SafetyScorer

log = logging.getLogger(__name__)

NO_IMAGE: Final = Rejection("regate", "no_image")
"""An unsafe image was not kept, and under the new gates it might pass: it stays rejected."""

BEFORE_AN_IMAGE: Final = ("prompt", "sample", "decode", "encode", WORKER_STAGE)
"""Stages that an attempt can fail at before there is an image to judge: no gate changes that."""

OF_PEOPLE: Final = ("people", "keypoint_score", "person_size", "truncation")
OF_KEYPOINTS: Final = ("usable_keypoints", "visible")
OF_SAFETY: Final = ("nsfw",)


class Failing(Protocol):
    """A row that a step may fail on. label names it in logs."""

    failure: Rejection | None

    @property
    def label(self) -> str: ...


class Seen(Failing, Protocol):
    """A row with an image to look at: decoded RGB (H, W, 3), finite as `measure` takes it."""

    pixels: NDArray[np.uint8]
    finite: bool
    people: tuple[Person, ...]
    nsfw: float | None


class Scored(Seen, Protocol):
    """A row whose image and caption were compared by CLIP; None where that is not measured."""

    clip_score: float | None


F = TypeVar("F", bound=Failing)


class Steps(Generic[F]):
    """Runs steps over rows. `seconds` adds up wall-clock time by step.

    harmless_row: makes a row that every step should be able to take.
    """

    def __init__(self, harmless_row: Callable[[], F]) -> None:
        self._harmless_row = harmless_row
        self.seconds: dict[str, float] = {}

    def run(self, stage: str, function: Callable[[Sequence[F]], None], rows: Sequence[F]) -> None:
        """Run one step over the rows that have not failed."""
        alive = [row for row in rows if row.failure is None]
        start = time.perf_counter()
        try:
            if alive:
                function(alive)
        except Exception as error:
            log.warning("%s: %s; looking for the row that raises it", stage, error)
            self._one_by_one(stage, function, alive)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def _one_by_one(self, stage: str, function: Callable[[Sequence[F]], None], rows: Sequence[F]) -> None:
        for row in rows:
            try:
                function([row])
            except Exception as error:
                log.warning("%s: %s: %s", row.label, stage, error)
                row.failure = Rejection(stage, type(error).__name__)
        if all(row.failure is not None for row in rows):
            function([self._harmless_row()])  # raises as well where the fault is the machine's or ours


def find_people(rows: Sequence[Seen], detector: Detector, min_score: float) -> None:
    """Fill in `people`: those found with a confidence (0-1) of at least `min_score`."""
    found = detector.detect([row.pixels for row in rows])
    for row, people in zip(rows, found, strict=True):
        row.people = tuple(person for person in people if person.score >= min_score)


def score_safety(rows: Sequence[Seen], scorer: SafetyScorer) -> None:
    """Fill in `nsfw`."""
    for row, score in zip(rows, scorer.scores([row.pixels for row in rows]), strict=True):
        row.nsfw = score


def verdict(row: Scored, asked_people: int, gates: GatesConfig) -> tuple[dict[str, float | None], Rejection | None]:
    """Measure a row that the steps have filled in, and ask the gates."""
    measured = measure(row.pixels, row.people, gates, row.finite)
    measured |= {"nsfw": row.nsfw, "clip_score": row.clip_score}
    return measured, judge(measured, asked_people, gates)


@dataclass(frozen=True, slots=True)
class Unchanged:
    """What of a dataset's measurements still holds under other settings: those of people, of keypoints, of safety."""

    people: bool
    keypoints: bool
    safety: bool

    def measured(self, old: Mapping[str, float | None]) -> dict[str, float | None]:
        """What was measured, None where that no longer holds."""
        holds = {OF_PEOPLE: self.people, OF_KEYPOINTS: self.keypoints, OF_SAFETY: self.safety}
        gone = {name for names, still in holds.items() if not still for name in names}
        return {name: None if name in gone else value for name, value in old.items()}


def unchanged(old: Mapping[str, Any], new: Mapping[str, Any]) -> Unchanged:
    """Compare two identities."""

    def same(prefix: str) -> bool:
        return all(old.get(name) == new.get(name) for name in old.keys() | new.keys() if name.startswith(prefix))

    people = same("detector.")
    safety = new["gates.classifier"] is not None and same("gates.classifier")
    return Unchanged(people, people and same("gates.keypoint_threshold"), safety)


def judge_without_image(row: LedgerRow, gates: GatesConfig, still: Unchanged) -> Rejection | None:
    """Why a candidate whose image was not kept is rejected under other gates; None where that cannot be told."""
    if row.stage in BEFORE_AN_IMAGE:
        return Rejection(row.stage, row.reason)
    if not row.measured:  # a step that looks at the image raised
        return None
    measured = {"finite": None, "people": None} | still.measured(row.measured)
    found = judge(measured, row.asked_people or 0, gates)
    return NO_IMAGE if found is None and row.stage in (SAFETY, NO_IMAGE.stage) else found
