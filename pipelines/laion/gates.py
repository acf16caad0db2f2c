"""Which downloaded images are people with poses: measured values against thresholds, every rejection named.

Stricter than HumanSD's release by default, which kept whatever had a score above 0 and later advised 0.02; its users
complained of images with nobody in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from detectors.types import Person
from pipelines.gates import SAFETY, Measured, Rejection, above, below, blank
from pipelines.laion.config import LaionGates

OF_PEOPLE: Final = ("people", "usable_people", "best_keypoints", "best_area", "keypoint_score")
"""What `measure_people` measures."""

OF_USABLE: Final = ("keypoint_threshold", "min_keypoints", "min_person_area")
"""The keys that decide `usable_people`."""

MINORS: Final = re.compile(
    r"\b(child|children|kids?|boys?|girls?|bab(y|ies)|toddlers?|infants?|newborns?|teen(ager)?s?|minors?|preteens?|"
    r"school(boy|girl|child|children)s?|(little|young) (one|sister|brother)s?|daughters?|sons?)\b",
    re.IGNORECASE,
)
"""Words that may mean someone under age: such images are held to `max_nsfw_minors`."""


def measure_people(people: Sequence[Person], width: int, height: int, gates: LaionGates) -> dict[str, float | None]:
    """Measure the people of an image.

    usable_people: people with enough found keypoints *and* enough area; best_keypoints, best_area: the most of either
    that anybody has, area as a share of the image.
    """
    found = [int((person.keypoints[:, 2] >= gates.keypoint_threshold).sum()) for person in people]
    areas = [person.bbox[2] * person.bbox[3] / (width * height) for person in people]
    usable = [n >= gates.min_keypoints and a >= gates.min_person_area for n, a in zip(found, areas, strict=True)]
    return {
        "people": float(len(people)),
        "usable_people": float(sum(usable)),
        "best_keypoints": max(map(float, found), default=None),
        "best_area": max(areas, default=None),
        "keypoint_score": max((float(np.mean(person.keypoints[:, 2])) for person in people), default=None),
    }


def judge(measured: Measured, caption: str, gates: LaionGates) -> Rejection | None:
    """Return the first gate that fails, None where all pass; safety first, so that nothing hides an unsafe image."""
    for stage, gate in GATES.items():
        reason = gate(measured, caption, gates)
        if reason is not None:
            return Rejection(stage, reason)
    return None


def safety(measured: Measured, caption: str, gates: LaionGates) -> str | None:
    """The classifier's score and the metadata's; a lower bar where the text may speak of someone under age."""
    if above(measured, "nsfw", gates.max_nsfw) or above(measured, "punsafe", gates.max_punsafe):
        return "nsfw"
    strict = gates.max_nsfw_minors if MINORS.search(caption) else None
    if above(measured, "nsfw", strict) or above(measured, "punsafe", strict):
        return "nsfw_minors"
    return None


def broken_image(measured: Measured, caption: str, gates: LaionGates) -> str | None:
    """Black and constant images."""
    return blank(measured, gates.black, gates.constant) if gates.broken_image else None


def people_count(measured: Measured, caption: str, gates: LaionGates) -> str | None:
    """Somebody is there, and not a crowd."""
    if below(measured, "people", gates.min_people):
        return "too_few"
    return "too_many" if above(measured, "people", gates.max_people) else None


def pose(measured: Measured, caption: str, gates: LaionGates) -> str | None:
    """At least one person is large enough and has enough keypoints."""
    return "no_usable_person" if gates.min_people and below(measured, "usable_people", 1) else None


def clip_score(measured: Measured, caption: str, gates: LaionGates) -> str | None:
    """Image and caption belong together."""
    return "low" if below(measured, "clip_score", gates.min_clip_score) else None


def aesthetic(measured: Measured, caption: str, gates: LaionGates) -> str | None:
    """The aesthetic score."""
    return "low" if below(measured, "aesthetic", gates.min_aesthetic) else None


def watermark(measured: Measured, caption: str, gates: LaionGates) -> str | None:
    """The metadata's probability of a watermark."""
    return "high" if above(measured, "watermark", gates.max_watermark) else None


Gate = Callable[[Measured, str, LaionGates], str | None]
GATES: Final[Mapping[str, Gate]] = {
    SAFETY: safety,
    "broken_image": broken_image,
    "people_count": people_count,
    "pose": pose,
    "clip_score": clip_score,
    "aesthetic": aesthetic,
    "watermark": watermark,
}
"""Every gate by the name that rejections carry, in the order they are asked."""
