"""Stored pictures to training pictures: decoded, flipped, turned, resized and cropped in one affine warp, recoloured.

The paper's augmentation: horizontal flip .2, vertical flip .1, rotation .1, short side to the size, random crop, colour
jitter. Keypoints go the same way, and a mirrored person's left and right are exchanged.
Places are (x, y) in pixels from the centre of a picture's first pixel; an affine map is a 2 x 3 matrix on them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detectors.types import FLIP_SWAP

Image = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Matrix = NDArray[np.float64]

VISIBLE: Final = 0.02
"""Keypoints of less confidence are neither drawn nor kept in the frame (the release's threshold)."""

_REDUCED: Final = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))
_LUMA: Final = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, slots=True)
class Augment:
    """Chances (0-1) and ranges of the random changes; the defaults are the paper's, where it names them.

    degrees: a turn is uniform in ± this, about the centre; what comes in at the corners is the picture mirrored at its
    edges. jitter: chance of a change of colour: brightness, contrast and saturation by a factor of 1 ± colour, hue by
    ± hue of a whole turn. crop: whether the crop is anywhere (with people in it) or in the middle.
    """

    hflip: float = 0.2
    vflip: float = 0.1
    rotate: float = 0.1
    degrees: float = 45.0
    jitter: float = 0.5
    colour: float = 0.2
    hue: float = 0.05
    crop: bool = True


NONE: Final = Augment(hflip=0, vflip=0, rotate=0, jitter=0, crop=False)


def decode_reduced(data: bytes | memoryview, least: int) -> Image:
    """Decode to BGR, JPEG at 1/2, 1/4 or 1/8 of its size where its short side stays at least `least` pixels.

    Raises ValueError where the bytes are no whole picture.
    """
    if data[:2] == b"\xff\xd8" and b"\xff\xd9" not in bytes(data[-64:]):
        raise ValueError("the JPEG is cut off")  # OpenCV would fill it up with grey
    short = _jpeg_short_side(data)
    flag = next((flag for factor, flag in _REDUCED if short >= factor * least), cv2.IMREAD_COLOR)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(f"not a picture: {error}") from None
    if image is None:
        raise ValueError("not a picture that can be read")
    return np.asarray(image, np.uint8)


def _jpeg_short_side(data: bytes | memoryview) -> int:
    """The short side from a JPEG's frame header; 0 for what is no JPEG."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return min(int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big"))
        at += 2 + length
    return 0


@dataclass(frozen=True, slots=True)
class View:
    """How a stored picture becomes a square one. matrix: from the stored picture's places to the square's."""

    matrix: Matrix
    mirrored: bool


def draw_view(
    rng: np.random.Generator, augment: Augment, width: int, height: int, size: int, keypoints: Float32
) -> View:
    """Draw flips, turn and crop of a picture of width x height pixels. keypoints: (N, 17, 3) of its people.

    The crop has in it all places of visible keypoints, or as many in a row as it holds.
    """
    flip_x, flip_y, turn, angle, place = rng.random(5)
    mirror_x, mirror_y = bool(flip_x < augment.hflip), bool(flip_y < augment.vflip)
    scale = size / min(width, height)
    matrix = _translate(0.5 - width / 2, 0.5 - height / 2)
    if turn < augment.rotate:
        radians = np.deg2rad((2 * angle - 1) * augment.degrees)
        matrix = _linear(np.cos(radians), -np.sin(radians), np.sin(radians), np.cos(radians)) @ matrix
    matrix = _linear(-scale if mirror_x else scale, 0, 0, -scale if mirror_y else scale) @ matrix
    resized = np.array([width, height]) * scale
    matrix = _translate(*(resized / 2 - 0.5)) @ matrix
    seen = move(matrix[:2], keypoints[keypoints[..., 2] >= VISIBLE][:, :2])
    offset = [
        _crop(float(resized[axis]) - size, size, seen[:, axis], place if augment.crop else 0.5) for axis in (0, 1)
    ]
    return View((_translate(-offset[0], -offset[1]) @ matrix)[:2], mirror_x != mirror_y)


def _crop(room: float, size: int, seen: Matrix, place: float) -> float:
    """Where the crop begins on one axis: `place` (0-1) of the way through where it may begin. room: of its offset."""
    low, high = 0.0, max(room, 0.0)
    if len(seen):
        first, last = float(seen.min()) + 0.5, float(seen.max()) + 0.5
        low, high = np.clip(sorted((last - size, first)), low, high)
    return float(round(low + place * (high - low)))  # whole pixels: what is not resized keeps its pixels


def _linear(a: float, b: float, c: float, d: float) -> Matrix:
    return np.array([[a, b, 0], [c, d, 0], [0, 0, 1]], np.float64)


def _translate(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def move(matrix: Matrix, places: NDArray[np.floating[Any]]) -> Matrix:
    """Places (..., 2) through an affine map."""
    return np.asarray(places @ matrix[:, :2].T + matrix[:, 2], np.float64)


def warp(image: Image, view: View, width: int, height: int, size: int) -> Image:
    """The square picture (size, size, 3). image: the stored one of width x height pixels, or 1/2, 1/4 or 1/8 of it.

    Raises ValueError where the picture is of another size.
    """
    factor = max(round(width / image.shape[1]), 1)
    if image.shape[:2] != (math.ceil(height / factor), math.ceil(width / factor)):
        raise ValueError(f"the picture is not of {width} x {height} pixels, as its row says")
    # a pixel of the smaller picture covers factor x factor stored ones, edge to edge
    inverse = np.array([[factor, 0, factor / 2 - 0.5], [0, factor, factor / 2 - 0.5], [0, 0, 1]])
    matrix = view.matrix @ inverse
    if np.array_equal(np.abs(matrix[:, :2]), np.eye(2)):  # neither turned nor resized
        return _cut(image, matrix, size)
    border = cv2.BORDER_REFLECT_101
    return np.asarray(cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border), np.uint8)


def _cut(image: Image, matrix: Matrix, size: int) -> Image:
    """What the warp gives where pixels only move: much faster."""
    first = []
    for axis in (0, 1):
        offset = round(float(matrix[axis, 2]))
        first.append(-offset if matrix[axis, axis] > 0 else offset - size + 1)
    image = image[first[1] : first[1] + size, first[0] : first[0] + size]
    mirror_x, mirror_y = matrix[0, 0] < 0, matrix[1, 1] < 0
    if not (mirror_x or mirror_y):
        return np.ascontiguousarray(image)
    return np.asarray(cv2.flip(image, -1 if mirror_x and mirror_y else int(mirror_x)), np.uint8)


def move_keypoints(keypoints: Float32, view: View) -> Float32:
    """Keypoints (N, 17, 3) in the square picture; a mirrored person's left and right are exchanged."""
    moved = keypoints.copy()
    moved[..., :2] = move(view.matrix, keypoints[..., :2])
    return moved[:, FLIP_SWAP] if view.mirrored else moved


def jitter(rng: np.random.Generator, augment: Augment, image: Image) -> Image:
    """Change brightness, contrast, saturation and hue of a BGR picture by one matrix on colours; or return it as is."""
    chance, *amounts = rng.random(5)
    if chance >= augment.jitter:
        return image
    brightness, contrast, saturation = (1 + augment.colour * (2 * amount - 1) for amount in amounts[:3])
    turn = 2 * np.pi * augment.hue * (2 * amounts[3] - 1)
    grey = np.tile(_LUMA, (3, 1))
    colours = saturation * _about_grey(turn) @ (np.eye(3) - grey) + grey  # RGB to RGB
    mean = float(_LUMA @ cv2.mean(image)[2::-1]) * brightness
    matrix = np.empty((3, 4))
    matrix[:, :3] = (brightness * contrast * colours)[::-1, ::-1]
    matrix[:, 3] = (1 - contrast) * mean
    return np.asarray(cv2.transform(image, matrix), np.uint8)


def _about_grey(radians: float) -> Matrix:
    """A turn of RGB colours about the grey axis (Rodrigues' formula)."""
    axis = np.full(3, 1 / np.sqrt(3))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.asarray(np.eye(3) + np.sin(radians) * cross + (1 - np.cos(radians)) * cross @ cross, np.float64)
