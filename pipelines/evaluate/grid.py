"""Samples side by side: the pose that was asked for, the real image, and each model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detectors.skeleton import draw_skeleton
from pipelines.images import decode_image
from pipelines.record import Sample

CELL: Final = 192
LABEL: Final = 150
GAP: Final = 4
PAPER: Final = (250, 249, 246)
INK: Final = (32, 33, 36)


def draw_grid(rows: Sequence[tuple[str, Sequence[Sample | None]]], asked: Sequence[Sample]) -> Image.Image:
    """Return a picture whose first row shows the poses of `asked`; below, a row for each (label, samples).

    A sample that is not there leaves its cell empty.
    """
    step = CELL + GAP
    sheet = Image.new("RGB", (LABEL + step * len(asked), step * (len(rows) + 1)), PAPER)
    _label(sheet, 0, "pose")
    for column, sample in enumerate(asked):
        pose = draw_skeleton(sample.people, sample.height, sample.width)
        _paste(sheet, 0, column, Image.fromarray(pose))
    for number, (label, samples) in enumerate(rows, start=1):
        _label(sheet, number, label)
        for column, one in enumerate(samples):
            if one is not None and one.image is not None:
                _paste(sheet, number, column, Image.fromarray(np.asarray(decode_image(one.image))))
    return sheet


def _label(sheet: Image.Image, row: int, text: str) -> None:
    shown = text if len(text) <= 20 else f"…{text[-19:]}"
    place = (GAP * 2, row * (CELL + GAP) + CELL / 2)
    ImageDraw.Draw(sheet).text(place, shown, INK, ImageFont.load_default(13), anchor="lm")


def _paste(sheet: Image.Image, row: int, column: int, image: Image.Image) -> None:
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    left = LABEL + column * (CELL + GAP) + (CELL - size[0]) // 2
    sheet.paste(image, (left, row * (CELL + GAP) + (CELL - size[1]) // 2))
