"""Skeleton pictures: 16 limbs in their own hues on black, as the pose-controlled model reads them. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detectors.types import LIMB_COLORS, LIMBS, Person

Image = NDArray[np.uint8]

REFERENCE: Final = 512
"""Longer side in pixels at which `thickness` is meant as given."""
FINEST: Final = 10.0
"""Thinner limbs (pixels) are drawn this thick, larger, and averaged down: OpenCV makes thin lines too wide."""
FRACTION_BITS: Final = 4


def draw_skeleton(
    people: Sequence[Person], height: int, width: int, thickness: float = 10.0, min_confidence: float = 0.3
) -> Image:
    """Draw limbs and joints; return RGB uint8 (height, width, 3) on black.

    thickness: of a limb, in pixels of a picture whose longer side is 512; it scales with the picture. Each limb ends in
    two filled circles of its colour, as wide as it is thick. A limb is drawn where both its keypoints have at least
    `min_confidence`. Later people and later limbs cover earlier ones.
    """
    return draw_keypoints([person.keypoints for person in people], height, width, thickness, min_confidence)


def draw_keypoints(
    keypoints: Iterable[NDArray[np.float32]],
    height: int,
    width: int,
    thickness: float = 10.0,
    min_confidence: float = 0.3,
) -> Image:
    """As `draw_skeleton`, of people's keypoints alone, each (17, 3)."""
    own = thickness * max(height, width) / REFERENCE
    factor = max(1, math.ceil(FINEST / own))
    canvas = np.zeros((height * factor, width * factor, 3), np.uint8)
    for points in keypoints:
        places = _fixed_point((points[:, :2].astype(np.float64) + 0.5) * factor - 0.5, 4.0 * max(canvas.shape))
        sure = (points[:, 2] >= min_confidence).tolist()
        for (start, end), color in zip(LIMBS, LIMB_COLORS, strict=True):
            if sure[start] and sure[end]:
                _limb(canvas, places[start], places[end], own * factor, color)
    if factor > 1:
        canvas = np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return canvas


def _fixed_point(places: NDArray[np.float64], limit: float) -> list[tuple[int, int]]:
    """Places (17, 2) as OpenCV's fixed-point numbers; those far outside are cut to what it can draw."""
    cut = np.nan_to_num(places, nan=-limit).clip(-limit, limit) * (1 << FRACTION_BITS)
    return [(x, y) for x, y in np.rint(cut).astype(int).tolist()]


def _limb(
    canvas: Image, start: tuple[int, int], end: tuple[int, int], thickness: float, color: tuple[int, int, int]
) -> None:
    """A line with round ends; places in the canvas's pixels, as fixed-point numbers."""
    cv2.line(canvas, start, end, color, max(1, round(thickness)), cv2.LINE_AA, FRACTION_BITS)
    radius = round(thickness / 2 * (1 << FRACTION_BITS))
    for place in (start, end):
        cv2.circle(canvas, place, radius, color, -1, cv2.LINE_AA, FRACTION_BITS)


def overlay(
    image: Image, people: Sequence[Person], thickness: float = 6.0, opacity: float = 0.85, min_confidence: float = 0.3
) -> Image:
    """Return a copy of the RGB picture (height, width, 3) with the people's skeletons drawn over it."""
    skeleton = draw_skeleton(people, image.shape[0], image.shape[1], thickness, min_confidence).astype(np.float32)
    brightest = max(max(color) for color in LIMB_COLORS)
    cover = opacity * np.clip(skeleton.max(-1, keepdims=True) / brightest, 0, 1)
    blended = np.round(image * (1 - cover) + opacity * skeleton).clip(0, 255)
    return np.asarray(blended, np.uint8)
