"""Accept or reject: measured values against thresholds; every rejection is named (stage, reason).

`measure` turns an image and its people into numbers, each gate is a small function of them, `judge` returns the first
that fails. A gate whose threshold is none (or whose switch is false) is off; its value is measured all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.types import Person
from pipelines.config import key

SAFETY: Final = "safety"
"""The gate whose rejects keep no bytes."""

Measured = Mapping[str, float | None]
"""Name → value; None where it could not be or was not measured."""


@dataclass(frozen=True, slots=True)
class GatesConfig:
    """The `[gates]` table. Generated images bring no new distribution, so the first four only are on by default."""

    broken_image: bool = key(True, "identity", "reject images with non-finite numbers, black and constant ones")
    black: float = key(8.0, "identity", "an image whose brightest value (0-255) is below this is black")
    constant: float = key(2.0, "identity", "an image whose values (0-255) deviate by less than this is constant")
    max_nsfw: float | None = key(0.8, "identity", "highest score (0-1) of the safety classifier; none: not measured")
    people_count: bool = key(True, "identity", "people found must be as many as asked for")
    keypoint_threshold: float = key(0.3, "identity", "a keypoint of at least this confidence (0-1) is found")
    min_usable_keypoints: int | None = key(5, "identity", "keypoints (of 17) that each person must have found")
    min_visible: float | None = key(
        None, "identity", "share (0-1) of all keypoints that must be found inside the image"
    )
    min_keypoint_score: float | None = key(None, "identity", "lowest mean keypoint confidence (0-1) of a person")
    min_person_size: float | None = key(None, "identity", "smallest person: longer box side as share of the image's")
    max_truncation: float | None = key(None, "identity", "largest share (0-1) of a person's box sides on the border")
    min_clip_score: float | None = key(None, "identity", "lowest CLIP score of image and caption (100 x cosine)")


class Rejection(NamedTuple):
    """Why a candidate was not accepted: the gate's name and what it found."""

    stage: str
    reason: str


def measure(
    pixels: NDArray[np.uint8], people: Sequence[Person], config: GatesConfig, finite: bool = True
) -> dict[str, float | None]:
    """Measure an image (H, W, 3) and the people found in it.

    finite: whether all numbers were finite before they became pixels.
    Scores of other models (`nsfw`, `clip_score`) are added by who measured them. Per-person values are those of the
    worst person, None where there is nobody.
    """
    height, width = pixels.shape[:2]
    found = [person.keypoints[:, 2] >= config.keypoint_threshold for person in people]
    inside = [_inside(person.keypoints, width, height) for person in people]
    visible = [here & there for here, there in zip(found, inside, strict=True)]
    return {
        "finite": float(finite),
        "brightest": float(pixels.max()),
        "deviation": float(pixels.std()),
        "people": float(len(people)),
        "usable_keypoints": min((float(found_.sum()) for found_ in found), default=None),
        "visible": float(np.mean(visible)) if visible else None,
        "keypoint_score": min((float(person.keypoints[:, 2].mean()) for person in people), default=None),
        "person_size": min((max(p.bbox[2] / width, p.bbox[3] / height) for p in people), default=None),
        "truncation": max((_sides_on_border(p.bbox, width, height) for p in people), default=None),
    }


def judge(measured: Measured, asked_people: int, config: GatesConfig) -> Rejection | None:
    """Return the first gate that fails, None where all pass.

    Safety is asked right after broken images, so that no other rejection can hide an unsafe one.
    """
    for stage, gate in GATES.items():
        reason = gate(measured, asked_people, config)
        if reason is not None:
            return Rejection(stage, reason)
    return None


def broken_image(measured: Measured, asked: int, config: GatesConfig) -> str | None:
    """Non-finite numbers, black and constant images."""
    if not config.broken_image:
        return None
    if measured["finite"] == 0:
        return "nan"
    return blank(measured, config.black, config.constant)


def safety(measured: Measured, asked: int, config: GatesConfig) -> str | None:
    """The safety classifier's score."""
    return "nsfw" if above(measured, "nsfw", config.max_nsfw) else None


def people_count(measured: Measured, asked: int, config: GatesConfig) -> str | None:
    """As many people as asked for."""
    found = measured["people"]
    if not config.people_count or found is None or found == asked:
        return None
    if found == 0:
        return "nobody"
    return "too_few" if found < asked else "too_many"


def usable_pose(measured: Measured, asked: int, config: GatesConfig) -> str | None:
    """Each person has enough keypoints found to be a pose at all."""
    return "too_few_keypoints" if below(measured, "usable_keypoints", config.min_usable_keypoints) else None


def visible_keypoints(measured: Measured, asked: int, config: GatesConfig) -> str | None:
    """Enough keypoints are found and lie inside the image."""
    return "hidden" if below(measured, "visible", config.min_visible) else None


def keypoint_score(measured: Measured, asked: int, config: GatesConfig) -> str | None:
    """The least certain pose is certain enough."""
    return "uncertain" if below(measured, "keypoint_score", config.min_keypoint_score) else None


def person_size(measured: Measured, asked: int, config: GatesConfig) -> str | None:
    """The smallest person is large enough."""
    return "too_small" if below(measured, "person_size", config.min_person_size) else None


def truncation(measured: Measured, asked: int, config: GatesConfig) -> str | None:
    """Nobody is cut off by the image's border too much."""
    return "truncated" if above(measured, "truncation", config.max_truncation) else None


def clip_score(measured: Measured, asked: int, config: GatesConfig) -> str | None:
    """The image shows what the caption says."""
    return "off_caption" if below(measured, "clip_score", config.min_clip_score) else None


Gate = Callable[[Measured, int, GatesConfig], str | None]

GATES: Final[Mapping[str, Gate]] = {
    "broken_image": broken_image,
    SAFETY: safety,
    "people_count": people_count,
    "usable_pose": usable_pose,
    "visible_keypoints": visible_keypoints,
    "keypoint_score": keypoint_score,
    "person_size": person_size,
    "truncation": truncation,
    "clip_score": clip_score,
}
"""Every gate by the name that rejections carry, in the order they are asked."""


def blank(measured: Measured, black: float, constant: float) -> str | None:
    """Whether an image is black, or of one colour: its brightest value and deviation (0-255) against thresholds."""
    if below(measured, "brightest", black):
        return "black"
    return "constant" if below(measured, "deviation", constant) else None


def below(measured: Measured, name: str, threshold: float | None) -> bool:
    """Whether a value was measured and lies below a threshold that is set."""
    value = measured.get(name)
    return threshold is not None and value is not None and value < threshold


def above(measured: Measured, name: str, threshold: float | None) -> bool:
    """Whether a value was measured and lies above a threshold that is set."""
    value = measured.get(name)
    return threshold is not None and value is not None and value > threshold


def _inside(keypoints: NDArray[np.float32], width: int, height: int) -> NDArray[np.bool_]:
    """Which keypoints lie in the image, which reaches from -0.5 to width - 0.5: whole numbers are pixel centres."""
    x, y = keypoints[:, 0], keypoints[:, 1]
    inside: NDArray[np.bool_] = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    return inside


def _sides_on_border(bbox: tuple[float, float, float, float], width: int, height: int) -> float:
    """Share of a box's four sides within a pixel of the image's border."""
    x, y, w, h = bbox
    return float(np.mean([x <= 1, y <= 1, x + w >= width - 1, y + h >= height - 1]))
