"""A contact sheet: images beside their skeletons and captions, on one picture to look at.

A card is the image, the same image with its skeletons, and text; the sheet is a grid of cards under a heading.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detectors.skeleton import overlay
from detectors.types import Person
from pipelines.record import Rejected, Sample

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

CELL: Final = 192
"""Pixels of an image's longer side on the sheet."""
TEXT: Final = 236
GAP: Final = 10
MARGIN: Final = 28
CARD_GAP: Final = 22
HEADING: Final = 92
COLUMNS: Final = 3

PAPER: Final[Color] = (250, 249, 246)
CARD: Final[Color] = (255, 255, 255)
RULE: Final[Color] = (226, 223, 216)
INK: Final[Color] = (32, 33, 36)
FADED: Final[Color] = (124, 122, 116)
GOOD: Final[Color] = (24, 118, 74)
BAD: Final[Color] = (178, 46, 46)
VOID: Final[Color] = (236, 234, 229)


@dataclass(frozen=True, slots=True)
class Card:
    """What the sheet shows of one sample.

    verdict: one line above the caption; good says its colour.
    details: short lines below the caption.
    """

    image: bytes | None
    people: tuple[Person, ...]
    verdict: str
    good: bool
    caption: str
    details: tuple[str, ...]


def card_of(row: Sample | Rejected) -> Card:
    """Return the card of an accepted sample or of a rejected candidate."""
    sample = row.sample if isinstance(row, Rejected) else row
    asked = sample.prompt["num_people"] if sample.prompt else None
    found = len(sample.people)
    people = f"{found} found" if asked is None else f"{asked} asked, {found} found"
    if isinstance(row, Rejected):
        verdict = f"{row.stage}: {row.reason}".replace("_", " ")
    else:
        verdict = f"{found} {'person' if found == 1 else 'people'}"
    scores = " ".join(f"{person.keypoints[:, 2].mean():.2f}" for person in sample.people)
    attempt = row.attempt if isinstance(row, Rejected) else sample.generation and sample.generation.attempt
    details = [
        " · ".join(word for word in (sample.scene, people) if word),
        f"pose {scores}" if scores else "no pose",
        sample.key if attempt is None else f"{sample.key} · attempt {attempt}",
    ]
    return Card(sample.image, sample.people, verdict, not isinstance(row, Rejected), sample.caption, tuple(details))


def draw_sheet(cards: Sequence[Card], title: str, subtitle: str) -> Image.Image:
    """Draw the cards in rows of `COLUMNS` under a heading; RGB."""
    columns = min(COLUMNS, max(1, len(cards)))
    rows = -(-len(cards) // columns)
    card_width, card_height = 2 * CELL + TEXT + 4 * GAP, CELL + 2 * GAP
    width = 2 * MARGIN + columns * card_width + (columns - 1) * CARD_GAP
    height = HEADING + rows * (card_height + CARD_GAP) + MARGIN
    sheet = Image.new("RGB", (width, max(height, HEADING + MARGIN)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 22), title, INK, _font(26))
    pen.text((MARGIN, 58), subtitle, FADED, _font(15))
    for number, card in enumerate(cards):
        row, column = divmod(number, columns)
        left = MARGIN + column * (card_width + CARD_GAP)
        top = HEADING + row * (card_height + CARD_GAP)
        pen.rounded_rectangle((left, top, left + card_width, top + card_height), 8, CARD, RULE)
        plain, posed = pictures(card)
        sheet.paste(plain, (left + GAP, top + GAP))
        sheet.paste(posed, (left + 2 * GAP + CELL, top + GAP))
        _write(pen, card, left + 3 * GAP + 2 * CELL, top + GAP)
    return sheet


def pictures(card: Card) -> tuple[Image.Image, Image.Image]:
    """Return the image, and the image dimmed under its skeletons, both fitted into a square cell of `CELL` pixels."""
    empty = Image.new("RGB", (CELL, CELL), VOID)
    image = None
    if card.image is not None:
        with contextlib.suppress(OSError):
            image = Image.open(io.BytesIO(card.image)).convert("RGB")
    if image is None:
        _centred(empty, "image not kept" if card.image is None else "image not readable")
        return empty, empty
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    plain = image.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    dimmed = np.asarray(Image.blend(plain, Image.new("RGB", size), 0.4))
    posed = Image.fromarray(
        overlay(dimmed, [_scaled(person, scale) for person in card.people], thickness=9.0, opacity=1)
    )
    place = ((CELL - size[0]) // 2, (CELL - size[1]) // 2)
    cells = empty, empty.copy()
    for cell, picture in zip(cells, (plain, posed), strict=True):
        cell.paste(picture, place)
    return cells


def _scaled(person: Person, scale: float) -> Person:
    """Return a person with the keypoints that the enlarged picture has: a pixel's centre stays its centre."""
    keypoints = person.keypoints.copy()
    keypoints[:, :2] = (keypoints[:, :2] + 0.5) * scale - 0.5
    return dataclasses.replace(person, keypoints=keypoints)


def _centred(cell: Image.Image, text: str) -> None:
    ImageDraw.Draw(cell).text((CELL / 2, CELL / 2), text, FADED, _font(14), anchor="mm")


def _write(pen: ImageDraw.ImageDraw, card: Card, left: int, top: int) -> None:
    verdict, caption, details = _font(15), _font(14), _font(12)
    pen.text((left, top), _fitted(pen, card.verdict, verdict), GOOD if card.good else BAD, verdict)
    bottom = top + CELL - 16 * len(card.details)
    lines = _wrapped(pen, card.caption, caption)
    room = (bottom - 6 - (top + 24)) // 18
    if len(lines) > room:
        lines = [*lines[: room - 1], _fitted(pen, lines[room - 1] + " …", caption)]
    for number, line in enumerate(lines):
        pen.text((left, top + 24 + 18 * number), line, INK, caption)
    for number, line in enumerate(card.details):
        pen.text((left, bottom + 16 * number), _fitted(pen, line, details), FADED, details)


def _wrapped(pen: ImageDraw.ImageDraw, text: str, font: Font) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font) <= TEXT or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [_fitted(pen, line, font) for line in lines]


def _fitted(pen: ImageDraw.ImageDraw, text: str, font: Font) -> str:
    if pen.textlength(text, font) <= TEXT:
        return text
    while text and pen.textlength(text + "…", font) > TEXT:
        text = text[:-1]
    return text.rstrip(" …") + "…"


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def save(sheet: Image.Image, file: Path) -> None:
    """Write a sheet as PNG, making its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, "PNG", optimize=True)
