"""Fourteen looks: what each scene does to the ground behind people, to their colours and to the finished picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.mini.world import World

Image = NDArray[np.uint8]
Color = tuple[float, float, float]
Mask = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Look:
    """How figures are drawn in a scene. Widths are shares of the picture's height, tints (colour, strength 0-1)."""

    outline: Color | None = None
    outline_width: float = 0.0
    tint: Color = (0.0, 0.0, 0.0)
    tint_strength: float = 0.0
    colored_outline: bool = False
    shine: bool = False
    finish: Callable[[Image, Mask, np.random.Generator], Image] | None = None


def mix(a: Color, b: Color, share: float) -> Color:
    """Blend `share` of b into a."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def toward(image: Image, color: Color, share: float) -> Image:
    """Blend a colour into the whole picture."""
    return cv2.addWeighted(image, 1 - share, np.full_like(image, np.array(color, np.uint8)), share, 0)  # type: ignore[no-any-return]


def blotches(size: int, cells: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise (size, size) in [-1, 1] with about `cells` bumps a side."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))


def modulate(image: Image, field: NDArray[np.float32], strength: float) -> Image:
    """Brighten and darken by a field in [-1, 1]; strength in grey levels."""
    return np.clip(image + (field * strength)[..., None], 0, 255).astype(np.uint8)


def gray(image: Image) -> Image:
    """The picture without colour, still three channels."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))


# ---- grounds -------------------------------------------------------------------------------------------------------

SKY: Final[dict[str, tuple[Color, Color]]] = {
    "day": ((120, 175, 230), (205, 228, 245)),
    "night": ((18, 22, 58), (50, 52, 96)),
    "sunset": ((110, 80, 140), (250, 165, 95)),
}
GROUND: Final[dict[str, Color]] = {
    "beach": (226, 200, 145),
    "water": (45, 105, 160),
    "snow": (236, 242, 248),
    "mountain": (120, 125, 100),
    "forest": (70, 120, 60),
    "stage": (120, 75, 45),
    "street": (118, 116, 118),
    "room": (165, 125, 85),
    "field": (100, 165, 70),
}


def gradient(size: int, top: Color, bottom: Color) -> Image:
    """A vertical gradient, RGB (size, size, 3)."""
    share = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    row = np.array(top, np.float32) * (1 - share) + np.array(bottom, np.float32) * share
    return np.broadcast_to(row, (size, size, 3)).astype(np.uint8).copy()


def scenery(world: World, place: str, size: int, horizon: int, rng: np.random.Generator) -> Image:
    """Sky or wall, ground and what stands there; drawn before the scene's look changes it."""
    top, bottom = SKY[world.time]
    indoor = place in ("room", "stage")
    if indoor:
        wall: Color = (214, 203, 184) if place == "room" else (58, 26, 36)
        dim = {"day": 0.0, "sunset": 0.15, "night": 0.4}[world.time]
        canvas = gradient(size, mix(wall, (0, 0, 0), dim), mix(wall, (20, 16, 20), dim * 0.8 + 0.1))
    else:
        canvas = gradient(size, top, bottom)
    unit = size / 64
    if place == "street":
        x = -rng.uniform(0, 10) * unit
        while x < size:
            width, height = rng.uniform(9, 17) * unit, rng.uniform(14, 34) * unit
            color = mix(((150, 95, 85), (140, 140, 150), (170, 150, 120))[rng.integers(3)], top, 0.25)
            cv2.rectangle(canvas, (int(x), int(horizon - height)), (int(x + width), horizon), color, -1)
            x += width + rng.uniform(0, 3) * unit
    elif place == "mountain":
        for _ in range(3):
            x, peak = rng.uniform(0, size), horizon - rng.uniform(14, 32) * unit
            half = rng.uniform(16, 30) * unit
            points = np.array([[x - half, horizon], [x, peak], [x + half, horizon]], np.int32)
            cv2.fillPoly(canvas, [points], mix((95, 100, 115), top, 0.3), cv2.LINE_AA)
    elif place == "room":
        x, y = rng.uniform(0.1, 0.7) * size, rng.uniform(0.08, 0.2) * size
        cv2.rectangle(canvas, (int(x), int(y)), (int(x + 14 * unit), int(y + 12 * unit)), mix(top, bottom, 0.5), -1)
        cv2.rectangle(
            canvas, (int(x), int(y)), (int(x + 14 * unit), int(y + 12 * unit)), (110, 80, 55), max(1, round(unit))
        )
    ground = mix(GROUND[place], (235, 240, 246), 0.85 if world.snow and not indoor else 0.0)
    ground = mix(ground, top, {"day": 0.0, "sunset": 0.2, "night": 0.5}[world.time] if not indoor else 0.1)
    if place == "beach":
        cv2.rectangle(canvas, (0, int(horizon - 7 * unit)), (size, horizon), mix((40, 120, 175), top, 0.3), -1)
    cv2.rectangle(canvas, (0, horizon), (size, size), ground, -1)
    if place == "forest":
        for x in rng.permutation(np.linspace(0.02, 0.98, 5))[:4]:
            radius = rng.uniform(5.5, 8.5) * unit
            crown = horizon - rng.uniform(9, 15) * unit
            trunk = mix((100, 70, 45), ground, 0.2)
            cv2.line(canvas, (int(x * size), horizon), (int(x * size), int(crown)), trunk, max(1, round(2.2 * unit)))
            cv2.circle(
                canvas, (int(x * size), int(crown)), int(radius), mix((45, 105, 50), ground, 0.25), -1, cv2.LINE_AA
            )
    elif place == "water":
        for _ in range(5):
            x, y = rng.uniform(0, size), rng.uniform(horizon, size)
            cv2.line(
                canvas,
                (int(x), int(y)),
                (int(x + 9 * unit), int(y)),
                mix(ground, (255, 255, 255), 0.35),
                max(1, round(unit)),
            )
    elif place == "stage":
        for x in (0, size):
            cv2.rectangle(canvas, (int(x - 9 * unit), 0), (int(x + 9 * unit), size), (150, 28, 38), -1)
    if world.time == "night" and not indoor:
        cv2.circle(
            canvas,
            (int(rng.uniform(0.15, 0.85) * size), int(0.12 * size)),
            int(3.2 * unit),
            (240, 236, 205),
            -1,
            cv2.LINE_AA,
        )
    elif world.time == "sunset" and not indoor:
        cv2.circle(
            canvas,
            (int(rng.uniform(0.15, 0.85) * size), int(horizon - 5 * unit)),
            int(5 * unit),
            (255, 205, 90),
            -1,
            cv2.LINE_AA,
        )
        cv2.rectangle(canvas, (0, horizon), (size, int(horizon + unit)), mix(ground, (255, 170, 80), 0.4), -1)
    return canvas


# ---- what a look does to the ground ----------------------------------------------------------------------------------


def ground_of(world: World, place: str, size: int, horizon: int, rng: np.random.Generator) -> Image:
    """The picture without people, RGB (size, size, 3), in the look of `world.scene`."""
    base = scenery(world, place, size, horizon, rng)
    unit = size / 64
    scene = world.scene
    if scene == "digital-art":
        glow = gradient(size, (52, 18, 98), (18, 160, 190))
        base = cv2.addWeighted(base, 0.45, glow, 0.55, 0)
    elif scene == "ink-painting":
        base = toward(gray(base), (236, 230, 214), 0.66)
        base = modulate(base, blotches(size, 5, rng), 12)
    elif scene == "kids-drawing":
        base = toward(base, (252, 252, 248), 0.62)
        cv2.circle(base, (int(4 * unit), int(4 * unit)), int(8 * unit), (250, 205, 50), -1, cv2.LINE_AA)
        for x in range(0, size, max(2, int(4 * unit))):
            cv2.line(
                base,
                (x, size),
                (int(x + 2 * unit), int(size - 7 * unit)),
                (95, 190, 85),
                max(1, round(unit)),
                cv2.LINE_AA,
            )
    elif scene == "mural":
        base = toward(base, (200, 120, 85), 0.32)
    elif scene == "oil-painting":
        base = toward(base, (110, 72, 30), 0.3)
    elif scene == "shadow-play":
        y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
        light = np.clip(1.15 - 2.0 * (x * x + y * y), 0, 1)[..., None]
        base = (np.array([250, 176, 78], np.float32) * light).astype(np.uint8)
        cv2.rectangle(base, (0, horizon), (size, size), (70, 34, 14), -1)
    elif scene == "sketch":
        base = toward(gray(base), (246, 246, 246), 0.84)
        cv2.line(base, (0, horizon), (size, horizon), (175, 175, 175), max(1, round(unit)), cv2.LINE_AA)
    elif scene == "stained-glass":
        base = mosaic(base, rng)
    elif scene == "ukiyoe":
        base = toward(base, (226, 208, 168), 0.45)
        base[: int(0.12 * size)] = (38, 66, 118)
        cv2.circle(base, (int(0.82 * size), int(0.24 * size)), int(6 * unit), (200, 62, 44), -1, cv2.LINE_AA)
    elif scene == "watercolor":
        base = modulate(toward(base, (255, 255, 255), 0.45), blotches(size, 5, rng), 14)
        y, x = np.abs(np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5) * 2
        edge = np.clip((np.maximum(x, y) - 0.78) / 0.2, 0, 1)[..., None]
        base = (base * (1 - edge) + 252 * edge).astype(np.uint8)
    elif scene == "garage-kits":
        base = gradient(size, (84, 98, 124), (196, 206, 218))
    elif scene == "relief":
        base = modulate(np.full_like(base, np.array((172, 160, 140), np.uint8)), blotches(size, 8, rng), 8)
        frame = max(2, round(3 * unit))
        cv2.rectangle(base, (0, 0), (size - 1, size - 1), (128, 116, 98), frame)
    elif scene == "sculpture":
        base = gradient(size, (66, 62, 66), (112, 104, 98))
        cv2.rectangle(base, (0, int(size - 7 * unit)), (size, size), (150, 140, 126), -1)
    return np.asarray(base, np.uint8)


def mosaic(base: Image, rng: np.random.Generator) -> Image:
    """Cut a picture into jittered panes of one saturated colour each, between black leads."""
    size = base.shape[0]
    cells = 4
    grid = np.stack(np.meshgrid(np.arange(cells + 1), np.arange(cells + 1)), -1).astype(np.float64) / cells
    inner = rng.uniform(-0.05, 0.05, grid.shape)
    inner[[0, -1]] = inner[:, [0, -1]] = 0
    points = ((grid + inner) * size).astype(np.int32)
    panes = np.array([(200, 60, 60), (60, 90, 190), (230, 180, 60), (60, 150, 100), (140, 70, 160)], np.float64)
    out = base.copy()
    for row in range(cells):
        for column in range(cells):
            quad = points[[row, row, row + 1, row + 1], [column, column + 1, column + 1, column]]
            center = base[min(size - 1, quad[:, 1].mean().astype(int)), min(size - 1, quad[:, 0].mean().astype(int))]
            color = (center * 0.6 + panes[rng.integers(len(panes))] * 0.4) * 0.62 + 255 * 0.38
            cv2.fillPoly(out, [quad], color.tolist(), cv2.LINE_AA)
            cv2.polylines(out, [quad], True, (22, 20, 24), max(1, round(1.3 * size / 64)), cv2.LINE_AA)
    return out


# ---- what a look does to the finished picture ------------------------------------------------------------------------


def hatch(image: Image, mask: Mask, rng: np.random.Generator) -> Image:
    """White crayon gaps across the figures."""
    size = image.shape[0]
    step = max(3, round(3.2 * size / 64))
    gaps = np.zeros(image.shape[:2], np.uint8)
    for start in range(-size, size, step):
        cv2.line(gaps, (start, size), (start + size, 0), 255, max(1, round(0.8 * size / 64)), cv2.LINE_AA)
    share = (cv2.bitwise_and(gaps, mask).astype(np.float32) / 255 * 0.45)[..., None]
    return np.asarray(image * (1 - share) + 255 * share).astype(np.uint8)


def bricks(image: Image, mask: Mask, rng: np.random.Generator) -> Image:
    """Mortar lines over everything: a picture painted on a wall."""
    size = image.shape[0]
    lines = image.copy()
    high, wide = size // 8, size // 4
    color = (150, 110, 92)
    for row in range(8):
        cv2.line(lines, (0, row * high), (size, row * high), color, max(1, round(size / 64)))
        for x in range((row % 2) * wide // 2, size, wide):
            cv2.line(lines, (x, row * high), (x, (row + 1) * high), color, max(1, round(size / 64)))
    return np.asarray(cv2.addWeighted(image, 0.68, lines, 0.32, 0))


def strokes(image: Image, mask: Mask, rng: np.random.Generator) -> Image:
    """Broad strokes: a small rotation of brightness that follows one direction."""
    size = image.shape[0]
    field = cv2.resize(rng.uniform(-1, 1, (20, 7)).astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    return modulate(image, field, 17)


def pencil(image: Image, mask: Mask, rng: np.random.Generator) -> Image:
    """Grey, with only a breath of colour."""
    return np.asarray(cv2.addWeighted(gray(image), 0.85, image, 0.15, 0))


def washed(image: Image, mask: Mask, rng: np.random.Generator) -> Image:
    """Paint that dried unevenly."""
    return modulate(image, blotches(image.shape[0], 9, rng), 13)


def emboss(image: Image, mask: Mask, rng: np.random.Generator) -> Image:
    """Stone lit from the upper left: shifted differences of a grey picture over the figures."""
    size = image.shape[0]
    height = cv2.GaussianBlur(mask.astype(np.float32) * 0.6 + gray(image)[..., 0] * 0.4, (0, 0), size / 110)
    shift = max(1, round(size / 64))
    relief = height - np.roll(height, (-shift, -shift), (0, 1))
    return np.asarray(np.clip(image.astype(np.float32) - (relief * 0.85)[..., None], 0, 255), np.uint8)


def marble(image: Image, mask: Mask, rng: np.random.Generator) -> Image:
    """Light from one side over the figures, none on the wall."""
    size = image.shape[0]
    inside = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), size / 40)
    shift = max(1, round(1.6 * size / 64))
    light = inside - np.roll(inside, (shift, shift), (0, 1))
    return np.asarray(np.clip(image + (light * (mask > 0) * -75)[..., None], 0, 255), np.uint8)


STONE: Final[Color] = (168, 156, 136)
LOOKS: Final[dict[str, Look]] = {
    "cartoon": Look(outline=(18, 16, 20), outline_width=0.016),
    "digital-art": Look(outline=(120, 240, 255), outline_width=0.011, tint=(60, 30, 110), tint_strength=0.18),
    "ink-painting": Look(outline=(38, 36, 38), outline_width=0.012, tint=(150, 148, 144), tint_strength=0.72),
    "kids-drawing": Look(colored_outline=True, outline=(40, 40, 60), outline_width=0.018, finish=hatch),
    "mural": Look(outline=(96, 48, 36), outline_width=0.010, tint=(205, 130, 95), tint_strength=0.22, finish=bricks),
    "oil-painting": Look(tint=(120, 80, 35), tint_strength=0.22, finish=strokes),
    "shadow-play": Look(tint=(16, 10, 8), tint_strength=0.93, outline=(16, 10, 8), outline_width=0.006),
    "sketch": Look(outline=(62, 62, 64), outline_width=0.012, tint=(236, 236, 236), tint_strength=0.55, finish=pencil),
    "stained-glass": Look(outline=(18, 16, 22), outline_width=0.022),
    "ukiyoe": Look(outline=(34, 44, 78), outline_width=0.010, tint=(222, 200, 158), tint_strength=0.28),
    "watercolor": Look(tint=(255, 255, 255), tint_strength=0.26, finish=washed),
    "garage-kits": Look(shine=True, outline=(54, 62, 80), outline_width=0.007),
    "relief": Look(tint=STONE, tint_strength=0.9, finish=emboss),
    "sculpture": Look(
        tint=(232, 228, 220), tint_strength=0.86, outline=(92, 88, 86), outline_width=0.008, finish=marble
    ),
}
