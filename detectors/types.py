"""What a detected person is, and the one COCO-17 keypoint table that drawing, flipping and metrics all use."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

KEYPOINTS: Final[tuple[str, ...]] = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""COCO keypoint names in annotation order; "left" is the person's own left."""

NUM_KEYPOINTS: Final = len(KEYPOINTS)

FLIP_SWAP: Final[tuple[int, ...]] = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
"""Keypoint k of a mirrored image is keypoint FLIP_SWAP[k] of the original."""

LIMBS: Final[tuple[tuple[int, int], ...]] = (
    (0, 1),
    (0, 2),
    (1, 3),
    (2, 4),
    (0, 5),
    (0, 6),
    (5, 7),
    (7, 9),
    (6, 8),
    (8, 10),
    (5, 11),
    (6, 12),
    (11, 13),
    (13, 15),
    (12, 14),
    (14, 16),
)
"""The 16 limbs that a skeleton picture draws, as pairs of keypoint indices."""

OKS_SIGMAS: Final[tuple[float, ...]] = (
    0.026,
    0.025,
    0.025,
    0.035,
    0.035,
    0.079,
    0.079,
    0.072,
    0.072,
    0.062,
    0.062,
    0.107,
    0.107,
    0.087,
    0.087,
    0.089,
    0.089,
)
"""Per-keypoint standard deviations of the COCO keypoint evaluation; its `vars` are (2 * sigma) ** 2."""

AREA_PER_BOX: Final = 0.53
"""Person area as a share of its box where no segmentation area is annotated (the COCO convention of top-down poses)."""


def limb_colors() -> tuple[tuple[int, int, int], ...]:
    """One RGB colour (0-255) a limb: equally spaced hues of the "hls" palette, lightness .6, saturation .65."""
    hues = ((0.01 + i / len(LIMBS)) % 1.0 for i in range(len(LIMBS)))
    rgb = (colorsys.hls_to_rgb(hue, 0.6, 0.65) for hue in hues)
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in rgb)


LIMB_COLORS: Final = limb_colors()


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """One person found or annotated in an image.

    bbox: (x, y, width, height) in pixels of the image, from its top left corner: a box of the whole image is
        (0, 0, image width, image height).
    score: detection confidence, 0-1.
    area: annotated area in square pixels, else width x height x `AREA_PER_BOX`.
    keypoints: float32 (17, 3): x px, y px, confidence 0-1, in `KEYPOINTS` order. Whole numbers are pixel centres: the
        first pixel's is (0, 0), which is (0.5, 0.5) from the image's corner.
    The remaining fields are what an annotated set carries; None where unknown.
    """

    bbox: tuple[float, float, float, float]
    score: float
    area: float
    keypoints: Float32
    visibility: tuple[int, ...] | None = None
    keypoints21: tuple[float, ...] | None = None
    self_contact: tuple[float, ...] | None = None
    iscrowd: int | None = None
    annotation_id: int | None = None


class Detector(Protocol):
    """Finds people and poses in a batch of images."""

    name: str

    def detect(self, images: list[NDArray[np.uint8]]) -> list[tuple[Person, ...]]:
        """Return the people of each image, best score first.

        images: RGB uint8 arrays (height, width, 3) of any sizes.
        """
        ...
