"""The skeleton picture that public pose ControlNets and T2I-Adapters were trained on: OpenPose's 18 keypoints.

Its 18th is the neck, half-way between the shoulders; hues go round the circle
in 18 steps, and limbs are dimmer than joints.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detectors.skeleton import REFERENCE
from detectors.types import KEYPOINTS, Person

NAMES: Final = (
    *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist"),
    *("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
)
LIMBS: Final = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
COLORS: Final = tuple(
    tuple(round(255 * value) for value in colorsys.hsv_to_rgb(index / len(NAMES), 1, 1)) for index in range(len(NAMES))
)
DIMMED: Final = 0.6
WIDTH: Final = 8
"""Pixels of a limb and of a joint in a picture whose longer side is 512."""


def draw_openpose(people: Sequence[Person], height: int, width: int, min_confidence: float = 0.3) -> NDArray[np.uint8]:
    """Draw limbs, and joints over them; return RGB uint8 (height, width, 3) on black.

    A limb is drawn where both its keypoints have at least `min_confidence`.
    """
    canvas = np.zeros((height, width, 3), np.uint8)
    thickness = max(1, round(WIDTH * max(height, width) / REFERENCE))
    bodies = [to_openpose(person) for person in people]
    for body in bodies:
        for number, (start, end) in enumerate(LIMBS):
            if min(body[start, 2], body[end, 2]) >= min_confidence:
                dimmed = [int(DIMMED * value) for value in COLORS[number]]
                cv2.line(canvas, _pixel(body[start]), _pixel(body[end]), dimmed, thickness, cv2.LINE_AA)
    for body in bodies:
        for joint, color in zip(body, COLORS, strict=True):
            if joint[2] >= min_confidence:
                cv2.circle(canvas, _pixel(joint), thickness // 2, color, -1, cv2.LINE_AA)
    return canvas


def to_openpose(person: Person) -> NDArray[np.float32]:
    """Return a person's keypoints (18, 3) in OpenPose's order; the neck is as sure as the less sure shoulder."""
    by_name = dict(zip(KEYPOINTS, person.keypoints, strict=True))
    left, right = by_name["left_shoulder"], by_name["right_shoulder"]
    neck = np.array([*(left[:2] + right[:2]) / 2, min(left[2], right[2])])
    return np.array([neck if name == "neck" else by_name[name] for name in NAMES], np.float32)


def _pixel(joint: NDArray[np.float32]) -> tuple[int, int]:
    limit = 1e4  # what is far outside is cut to what OpenCV can draw
    x, y = np.clip(np.nan_to_num(joint[:2]), -limit, limit)
    return round(float(x)), round(float(y))
