"""Drawn pictures with poses for training `mini-pose`: rendered without end, kept a while, moved and worn before use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detectors.mini import FILL, NATIVE
from detectors.types import FLIP_SWAP, NUM_KEYPOINTS, Float32
from pipelines.mini.render import Drawing, draw
from pipelines.mini.world import random_world

Image = NDArray[np.uint8]

MOST_PEOPLE: Final = 3
HARDER: Final = 0.5
"""Share of the pictures that take any articulation, size and view, besides those that do anyway."""

NOTHING: Final = 0.03
"""Share of the pictures that show no world at all: noise, blotches, a drawing in shuffled pieces."""


@dataclass(frozen=True, slots=True)
class Batch:
    """images: uint8 (B, 64, 64, 3) RGB. keypoints: (B, 3, 17, 3) px, confidence. areas: (B, 3), 0 where nobody is."""

    images: Image
    keypoints: Float32
    areas: Float32


class Drawings:
    """A ring of drawn pictures: each batch takes some fresh ones from the renderer and the rest from earlier ones."""

    def __init__(self, seed: int, capacity: int, fresh: float) -> None:
        """capacity: pictures kept. fresh: share of a batch that is newly drawn."""
        self.rng = np.random.default_rng(seed)
        self.fresh = fresh
        self.images = np.zeros((capacity, NATIVE, NATIVE, 3), np.uint8)
        self.keypoints = np.zeros((capacity, MOST_PEOPLE, NUM_KEYPOINTS, 3), np.float32)
        self.areas = np.zeros((capacity, MOST_PEOPLE), np.float32)
        self.drawn = 0

    def batch(self, size: int) -> Batch:
        """Draw, choose and augment `size` pictures."""
        new = size if self.drawn < 4 * size else max(1, round(size * self.fresh))
        rows = [self._draw() for _ in range(new)]
        rows += list(self.rng.integers(0, min(self.drawn, len(self.images)), size - new))
        made = [self._made(row) for row in rows]
        images, keypoints, areas = zip(*made, strict=True)
        return Batch(np.stack(images), np.stack(keypoints), np.stack(areas))

    def _made(self, row: int) -> tuple[Image, Float32, Float32]:
        if self.rng.random() < NOTHING:
            return nothing(self.images[row], self.rng), np.zeros_like(self.keypoints[0]), np.zeros_like(self.areas[0])
        return augment(self.images[row], self.keypoints[row], self.areas[row], self.rng)

    def _draw(self) -> int:
        row = self.drawn % len(self.images)
        world = random_world(self.rng)
        if self.rng.random() < HARDER:
            world = replace(world, wide=True)
        drawing = draw(world, self.rng, NATIVE)
        self.images[row] = drawing.image
        self.keypoints[row], self.areas[row] = people_arrays(drawing)
        self.drawn += 1
        return row


def people_arrays(drawing: Drawing) -> tuple[Float32, Float32]:
    """Keypoints (3, 17, 3) and areas (3,) of a drawing's people, zeros behind the last."""
    keypoints = np.zeros((MOST_PEOPLE, NUM_KEYPOINTS, 3), np.float32)
    areas = np.zeros(MOST_PEOPLE, np.float32)
    for index, person in enumerate(drawing.people[:MOST_PEOPLE]):
        keypoints[index], areas[index] = person.keypoints, person.area
    return keypoints, areas


def augment(
    image: Image, keypoints: Float32, areas: Float32, rng: np.random.Generator
) -> tuple[Image, Float32, Float32]:
    """Mirror half, move and wear some of the pictures."""
    if rng.random() < 0.5:
        image = image[:, ::-1]
        keypoints = keypoints[:, list(FLIP_SWAP)].copy()
        keypoints[..., 0] = np.where(keypoints[..., 2] > 0, image.shape[1] - 1 - keypoints[..., 0], 0)
    if rng.random() < 0.25:
        image, keypoints, areas = move(image, keypoints, areas, rng)
    if rng.random() < 0.45:
        image = wear(image, rng)
    return np.ascontiguousarray(image), keypoints, areas


def move(image: Image, keypoints: Float32, areas: Float32, rng: np.random.Generator) -> tuple[Image, Float32, Float32]:
    """Scale, turn a little and shift; what leaves the picture gets confidence 0, who leaves it mostly is dropped."""
    size = image.shape[0]
    scale, angle = rng.uniform(0.82, 1.15), np.radians(rng.normal(0, 4))
    shift = rng.uniform(-0.07, 0.07, 2) * size
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([size - 1, size - 1]) / 2
    matrix = np.concatenate((turn, (middle + shift - turn @ middle)[:, None]), axis=1)
    border = cv2.BORDER_CONSTANT if rng.random() < 0.4 else cv2.BORDER_REPLICATE
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    moved = cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=border, borderValue=(FILL, FILL, FILL))
    places = keypoints[..., :2] @ turn.T.astype(np.float32) + matrix[:, 2].astype(np.float32)
    inside = ((places > -0.5) & (places < size - 0.5)).all(-1) & (keypoints[..., 2] > 0)
    out = np.concatenate((places, keypoints[..., 2:]), axis=-1).astype(np.float32) * inside[..., None]
    stays = inside.sum(-1) >= 0.3 * np.maximum(1, (keypoints[..., 2] > 0).sum(-1))
    return moved.astype(np.uint8), out * stays[:, None, None], areas * np.float32(scale**2) * stays


def nothing(image: Image, rng: np.random.Generator) -> Image:
    """A picture in which nobody may be found, as a generator gives that has failed."""
    size, kind = image.shape[0], rng.integers(3)
    if kind == 0:
        flat = rng.uniform(0, 255, 3) + rng.normal(0, rng.uniform(5, 90), (size, size, 3))
        return np.asarray(np.clip(flat, 0, 255), np.uint8)
    if kind == 1:
        cells = int(rng.integers(3, 24))
        blotches = rng.uniform(0, 255, (cells, cells, 3)).astype(np.float32)
        return np.asarray(np.clip(cv2.resize(blotches, (size, size), interpolation=cv2.INTER_CUBIC), 0, 255), np.uint8)
    side = int(rng.choice((4, 8)))
    count = size // side
    pieces = image.reshape(count, side, count, side, 3).swapaxes(1, 2).reshape(count**2, side, side, 3)
    shuffled = rng.permutation(pieces).reshape(count, count, side, side, 3).swapaxes(1, 2)
    return np.ascontiguousarray(shuffled.reshape(size, size, 3))


def wear(image: Image, rng: np.random.Generator) -> Image:
    """Damage a picture as small diffusion models and codecs do: one or two of blur, coarseness, noise, JPEG, colour."""
    for kind in rng.choice(len(WEARS), size=int(rng.integers(1, 3)), replace=False):
        image = WEARS[int(kind)](image, rng)
    return image


def _blur(image: Image, rng: np.random.Generator) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 1.0)), np.uint8)


def _coarse(image: Image, rng: np.random.Generator) -> Image:
    size = image.shape[0]
    small = int(size * rng.uniform(0.5, 0.85))
    shrunk = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(shrunk, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)


def _noise(image: Image, rng: np.random.Generator) -> Image:
    noisy = image + rng.normal(0, rng.uniform(2, 14), image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _soft_noise(image: Image, rng: np.random.Generator) -> Image:
    """Noise of a decoder's grain: a few pixels wide, in colour."""
    cells = int(image.shape[0] * rng.uniform(0.25, 0.5))
    coarse = rng.normal(0, rng.uniform(4, 22), (cells, cells, 3)).astype(np.float32)
    grain = cv2.resize(coarse, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(image + grain, 0, 255), np.uint8)


def _jpeg(image: Image, rng: np.random.Generator) -> Image:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 75))])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _median(image: Image, rng: np.random.Generator) -> Image:
    smooth = cv2.medianBlur(np.ascontiguousarray(image), 3)
    return np.asarray(cv2.addWeighted(image, 0.3, smooth, 0.7, 0) if rng.random() < 0.5 else smooth, np.uint8)


def _colour(image: Image, rng: np.random.Generator) -> Image:
    worn = (image - 127.5) * rng.uniform(0.7, 1.2) * rng.uniform(0.92, 1.08, 3) + 127.5 + rng.uniform(-18, 18)
    return np.asarray(np.clip(worn, 0, 255), np.uint8)


def _wobble(image: Image, rng: np.random.Generator) -> Image:
    """Shift parts by a fraction of a pixel, as uncertain outlines do."""
    size = image.shape[0]
    shift = [cv2.resize(rng.normal(0, 0.45, (12, 12)).astype(np.float32), (size, size)) for _ in range(2)]
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    return np.asarray(
        cv2.remap(image, columns + shift[0], rows + shift[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
        np.uint8,
    )


WEARS: Final[tuple[Callable[[Image, np.random.Generator], Image], ...]] = (
    _blur,
    _coarse,
    _noise,
    _soft_noise,
    _jpeg,
    _median,
    _colour,
    _wobble,
)
