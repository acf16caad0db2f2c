"""Draw the drawn world: a `World` becomes a picture and the exact poses in it.

Figures are drawn at `OVERSAMPLING` times the size and averaged down, so that joints lie at sub-pixel places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detectors.types import KEYPOINTS, Person
from pipelines.mini import looks
from pipelines.mini.body import HEAD_RADIUS, Body, pose_body
from pipelines.mini.looks import Color, Image, Mask, mix
from pipelines.mini.world import COLORS, PLACES, POSES, World

OVERSAMPLING: Final = 3
SKINS: Final[tuple[Color, ...]] = ((244, 208, 178), (226, 178, 140), (190, 138, 98), (140, 94, 64), (96, 62, 44))
HAIRS: Final[tuple[Color, ...]] = ((34, 26, 24), (84, 54, 34), (150, 98, 48), (214, 174, 96), (120, 44, 26))
OLD_HAIR: Final[Color] = (214, 214, 216)
BOTTOMS: Final[tuple[Color, ...]] = ((44, 52, 92), (64, 62, 66), (112, 84, 58), (150, 140, 118))
SHOE: Final[Color] = (40, 34, 34)
STANDING: Final = {0: (0.5, 0.6), 1: (0.74, 0.88), 2: (0.62, 0.74), 3: (0.54, 0.64)}
"""Standing height as a share of the picture's, by number of people."""
BITS: Final = 4


@dataclass(frozen=True, slots=True)
class Drawing:
    """image: RGB uint8 (size, size, 3). people: what was drawn, keypoint confidence 1 seen, 0.5 hidden, 0 outside."""

    image: Image
    people: tuple[Person, ...]
    world: World


@dataclass(frozen=True, slots=True)
class Figure:
    """One person ready to draw: joints (x px, y px, depth) at drawing size, colours and proportions."""

    joints: dict[str, NDArray[np.float64]]
    body: Body
    height: float
    skin: Color
    hair: Color
    top: Color
    bottom: Color
    garment: str
    long_hair: bool
    sleeves: bool


def draw(world: World, rng: np.random.Generator, size: int = 64) -> Drawing:
    """Draw one picture. The same world and generator state give the same picture, whatever ran before."""
    canvas_size = size * OVERSAMPLING
    place = world.place or str(rng.choice(list(PLACES)))
    horizon = int(canvas_size * rng.uniform(0.58, 0.7))
    image = looks.ground_of(world, place, canvas_size, horizon, rng)
    figures = place_figures(world, canvas_size, rng)
    look = looks.LOOKS[world.scene]
    everyone = np.zeros(image.shape[:2], np.uint8)
    masks: list[Mask] = []
    for figure in figures:
        if world.scene in ("garage-kits", "sculpture"):
            pedestal(image, figure, world.scene)
        mask = np.zeros(image.shape[:2], np.uint8)
        draw_figure(image, mask, figure, look, world.scene)
        for earlier in masks:
            earlier[mask > 0] = 0
        masks.append(mask)
        everyone = np.maximum(everyone, mask)
    if look.finish is not None:
        image = look.finish(image, everyone, rng)
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    found = [person_of(figure, mask, everyone) for figure, mask in zip(figures, masks, strict=True)]
    return Drawing(np.asarray(small, np.uint8), tuple(person for person in found if person is not None), world)


def place_figures(world: World, size: int, rng: np.random.Generator) -> list[Figure]:
    """Pose, dress and place everyone; farther people first."""
    number = world.num_people
    if number == 0:
        return []
    low, high = STANDING[number]
    top = COLORS[world.top] if world.top else COLORS[str(rng.choice(list(COLORS)))]
    bottom = BOTTOMS[rng.integers(len(BOTTOMS))]
    pose = world.pose or str(rng.choice(POSES))
    slots = (np.arange(number) + 0.5) / number
    slots = 0.5 + (slots - 0.5) * {1: 0.0, 2: 0.98, 3: 1.0}[number]
    figures = []
    for index in range(number):
        own = str(rng.choice(POSES)) if world.wide and rng.random() < 0.5 else pose
        body = pose_body(own, rng, wide=world.wide and rng.random() < 0.8)
        height = rng.uniform(low, high) * size * (0.82 if world.child else 1.0)
        if world.wide:
            height *= rng.uniform(0.62, 1.12)
        if own == "lie" and not world.wide:
            height *= {1: 1.05, 2: 1.1, 3: 1.2}[number]
        x = (slots[index] + rng.normal(0.0, {1: 0.05, 2: 0.02, 3: 0.012}[number] * (2.5 if world.wide else 1))) * size
        ground = rng.uniform(0.91, 0.97) * size
        if own == "lie" and not world.wide:  # one above the other: side by side nobody would be seen
            x = size * (0.5 + rng.normal(0, 0.02))
            ground = size * ({1: (0.85,), 2: (0.66, 0.92), 3: (0.5, 0.72, 0.94)}[number][index] + rng.normal(0, 0.01))
        figures.append(dress(place_body(body, x, ground, height), body, height, top, bottom, world, rng))
    if world.wide:
        rng.shuffle(figures)  # type: ignore[arg-type]
    return figures


def place_body(body: Body, x: float, ground: float, height: float) -> dict[str, NDArray[np.float64]]:
    """Scale joints to pixels so that the lowest stands on the ground and the middle at x."""
    points = np.stack(list(body.joints.values()))
    lowest = points[:, 1].min()
    center = (points[:, 0].min() + points[:, 0].max()) / 2
    placed = {}
    for label, joint in body.joints.items():
        px = x + (joint[0] - center) * height
        py = ground - (joint[1] - lowest + body.lift + 0.02) * height
        placed[label] = np.array([px, py, joint[2]])
    return placed


def dress(
    joints: dict[str, NDArray[np.float64]],
    body: Body,
    height: float,
    top: Color,
    bottom: Color,
    world: World,
    rng: np.random.Generator,
) -> Figure:
    """Choose what the words leave open."""
    long_hair = bool(rng.random() < 0.5) if world.long_hair is None else world.long_hair
    skirt = world.garment == "skirt"
    return Figure(
        joints=joints,
        body=body,
        height=height,
        skin=SKINS[rng.integers(len(SKINS))],
        hair=OLD_HAIR if world.old else HAIRS[rng.integers(len(HAIRS))],
        top=top,
        bottom=top if skirt else bottom,
        garment=world.garment,
        long_hair=long_hair,
        sleeves=bool(rng.random() < 0.5),
    )


def pedestal(image: Image, figure: Figure, scene: str) -> None:
    """What figurines and statues stand on."""
    points = np.stack(list(figure.joints.values()))
    x, y = (points[:, 0].min() + points[:, 0].max()) / 2, points[:, 1].max() + 0.02 * figure.height
    half = 0.24 * figure.height
    if scene == "garage-kits":
        cv2.ellipse(image, (int(x), int(y)), (int(half), int(half * 0.28)), 0, 0, 360, (44, 46, 56), -1, cv2.LINE_AA)
    else:
        corner = (int(x - half * 0.8), int(y - 0.01 * figure.height))
        cv2.rectangle(image, corner, (int(x + half * 0.8), image.shape[0]), (176, 168, 156), -1)


class Pen:
    """Draws parts of one figure with its look: outline below, fill above, the mask beside."""

    def __init__(self, image: Image, mask: Mask, look: looks.Look) -> None:
        self.image, self.mask, self.look = image, mask, look
        self.line = look.outline_width * image.shape[0]

    def color(self, color: Color) -> Color:
        return mix(color, self.look.tint, self.look.tint_strength)

    def outline(self, color: Color) -> Color | None:
        if self.look.outline is None:
            return None
        return mix(self.color(color), (0, 0, 0), 0.35) if self.look.colored_outline else self.look.outline

    def stroke(self, points: list[NDArray[np.float64]], width: float, color: Color) -> None:
        """A limb: a thick line through the points."""
        path = [np.array([[p[0], p[1]] for p in points]) * (1 << BITS)]
        edge = self.outline(color)
        if edge is not None:
            cv2.polylines(self.image, fixed(path), False, edge, max(1, round(width + 2 * self.line)), cv2.LINE_AA, BITS)
        fill = self.color(color)
        cv2.polylines(self.image, fixed(path), False, fill, max(1, round(width)), cv2.LINE_AA, BITS)
        cv2.polylines(self.mask, fixed(path), False, 255, max(1, round(width)), cv2.LINE_8, BITS)
        if self.look.shine:
            shifted = [path[0] - np.array([0.22, 0.1]) * width * (1 << BITS)]
            light = mix(fill, (255, 255, 255), 0.5)
            cv2.polylines(self.image, fixed(shifted), False, light, max(1, round(width * 0.22)), cv2.LINE_AA, BITS)

    def area(self, points: list[tuple[float, float]], color: Color) -> None:
        """A filled polygon."""
        path = [np.array(points) * (1 << BITS)]
        edge = self.outline(color)
        if edge is not None:
            cv2.polylines(self.image, fixed(path), True, edge, max(1, round(2 * self.line)), cv2.LINE_AA, BITS)
        cv2.fillPoly(self.image, fixed(path), self.color(color), cv2.LINE_AA, BITS)
        cv2.fillPoly(self.mask, fixed(path), 255, cv2.LINE_8, BITS)

    def disc(self, x: float, y: float, radius: float, color: Color, edged: bool = True) -> None:
        """A filled circle."""
        center = (round(x * (1 << BITS)), round(y * (1 << BITS)))
        edge = self.outline(color) if edged else None
        if edge is not None:
            cv2.circle(self.image, center, round((radius + self.line) * (1 << BITS)), edge, -1, cv2.LINE_AA, BITS)
        cv2.circle(self.image, center, round(radius * (1 << BITS)), self.color(color), -1, cv2.LINE_AA, BITS)
        cv2.circle(self.mask, center, round(radius * (1 << BITS)), 255, -1, cv2.LINE_8, BITS)


def fixed(paths: list[NDArray[Any]]) -> list[NDArray[np.int32]]:
    """Round to OpenCV's fixed point."""
    return [np.round(path).astype(np.int32) for path in paths]


def draw_figure(image: Image, mask: Mask, figure: Figure, look: looks.Look, scene: str) -> None:
    """Draw one person, far parts first; parts turned away are a little darker."""
    pen = Pen(image, mask, look)
    joints, height = figure.joints, figure.height
    order: list[tuple[float, str, str]] = [(0.0, "torso", "")]
    for side in ("left", "right"):
        leg = float(np.mean([joints[f"{side}_{j}"][2] for j in ("hip", "knee", "ankle")]))
        arm = float(np.mean([joints[f"{side}_{j}"][2] for j in ("shoulder", "elbow", "wrist")]))
        order.append((leg if abs(leg) > 0.03 else -0.03, "leg", side))
        order.append((arm + 0.005, "arm", side))
    order.append((float(joints["head"][2] - joints["neck"][2]) * 0.5 + 0.002, "head", ""))
    if figure.body.prop == "seat":
        seat(pen, figure)
    for depth, part, side in sorted(order):
        shade = 0.26 if depth < -0.035 else 0.0
        if part == "leg":
            draw_leg(pen, figure, side, shade)
        elif part == "arm":
            draw_arm(pen, figure, side, shade)
        elif part == "torso":
            draw_torso(pen, figure)
        else:
            draw_head(pen, figure, scene)
    if figure.body.prop == "box":
        hands = (joints["left_wrist"] + joints["right_wrist"]) / 2
        half = 0.075 * height
        x, y = hands[0], hands[1] - 0.02 * height
        saved = pen.mask.copy()
        pen.area(
            [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)], (176, 132, 82)
        )
        pen.mask[:] = saved


def seat(pen: Pen, figure: Figure) -> None:
    """A box under the hips of somebody who sits."""
    joints, height = figure.joints, figure.height
    hips = (joints["left_hip"] + joints["right_hip"]) / 2
    floor = max(joints["left_ankle"][1], joints["right_ankle"][1]) + 0.03 * height
    half = 0.14 * height
    top = hips[1] + 0.055 * height
    saved = pen.mask.copy()
    pen.area(
        [(hips[0] - half, top), (hips[0] + half, top), (hips[0] + half, floor), (hips[0] - half, floor)], (128, 92, 66)
    )
    pen.mask[:] = saved


def draw_leg(pen: Pen, figure: Figure, side: str, shade: float) -> None:
    joints, height = figure.joints, figure.height
    bare = mix(figure.skin, (30, 20, 30), shade)
    cloth = mix(figure.bottom, (10, 10, 20), shade)
    hip, knee, ankle, toe = (joints[f"{side}_{j}"] for j in ("hip", "knee", "ankle", "toe"))
    if figure.garment == "trousers":
        pen.stroke([hip, knee, ankle], 0.085 * height, cloth)
    else:
        pen.stroke([hip, knee, ankle], 0.07 * height, bare)
        if figure.garment == "shorts":
            pen.stroke([hip, hip + (knee - hip) * 0.6], 0.095 * height, cloth)
    pen.stroke([ankle, toe], 0.058 * height, mix(SHOE, (10, 10, 20), shade))


def draw_arm(pen: Pen, figure: Figure, side: str, shade: float) -> None:
    joints, height = figure.joints, figure.height
    shoulder, elbow, wrist = (joints[f"{side}_{j}"] for j in ("shoulder", "elbow", "wrist"))
    skin = mix(figure.skin, (30, 20, 30), shade)
    cloth = mix(mix(figure.top, (10, 10, 20), shade), (20, 20, 30), 0.1)
    hand = wrist + (wrist - elbow) * 0.12
    pen.stroke([elbow, hand], 0.05 * height, skin)
    pen.stroke([shoulder, elbow, wrist] if figure.sleeves else [shoulder, elbow], 0.066 * height, cloth)
    pen.disc(hand[0], hand[1], 0.033 * height, skin)


def draw_torso(pen: Pen, figure: Figure) -> None:
    joints, height = figure.joints, figure.height
    ls, rs, lh, rh = (joints[j][:2] for j in ("left_shoulder", "right_shoulder", "left_hip", "right_hip"))
    down = (lh + rh) / 2 - (ls + rs) / 2
    down = down / max(1e-6, float(np.hypot(*down)))
    across = np.array([-down[1], down[0]])
    top_mid, low_mid = (ls + rs) / 2, (lh + rh) / 2
    sign = 1.0 if float(across @ (ls - rs)) >= 0 else -1.0
    half_top = max(abs(float(across @ (ls - rs))) / 2 + 0.03 * height, 0.085 * height)
    half_low = max(abs(float(across @ (lh - rh))) / 2 + 0.04 * height, 0.078 * height)
    along = across * sign
    if figure.garment == "skirt":
        hem = low_mid + down * 0.17 * height
        wide = half_low + 0.075 * height
        skirt = [low_mid - along * half_low, low_mid + along * half_low, hem + along * wide, hem - along * wide]
        pen.area([(float(p[0]), float(p[1])) for p in skirt], mix(figure.top, (10, 10, 20), 0.12))
    neck = joints["neck"] + (joints["head"] - joints["neck"]) * 0.5
    pen.stroke([joints["neck"], neck], 0.06 * height, mix(figure.skin, (40, 20, 20), 0.12))
    corners = [
        top_mid - along * half_top - down * 0.02 * height,
        top_mid + along * half_top - down * 0.02 * height,
        low_mid + along * half_low + down * 0.035 * height,
        low_mid - along * half_low + down * 0.035 * height,
    ]
    pen.area([(float(p[0]), float(p[1])) for p in corners], figure.top)
    facing = float(np.cos(np.radians(figure.body.yaw)))
    if facing > 0.2:  # a line of buttons: seen from the front only
        chest = joints["neck"][:2] + (low_mid - joints["neck"][:2]) * np.array([[0.12], [0.8]])
        light = mix(figure.top, (255, 255, 255) if sum(figure.top) < 420 else (40, 40, 60), 0.45)
        if pen.look.outline_width < 0.02:
            pen.stroke([chest[0], chest[1]], 0.016 * height, light)


def draw_head(pen: Pen, figure: Figure, scene: str) -> None:
    joints, height = figure.joints, figure.height
    radius = HEAD_RADIUS * height
    x, y, z = joints["head"]
    up = figure.body.head_up
    nose = joints["nose"]
    front = (nose[2] - z) / HEAD_RADIUS  # 1 looks at us, -1 away
    hair = figure.hair
    if figure.long_hair:
        back = np.array([x, y]) + np.array([-up[0], up[1]]) * radius * 1.1 - 0.35 * (nose[:2] - np.array([x, y]))
        if front >= -0.2:
            pen.stroke([np.array([x, y]), back], radius * 2.05, hair)
    pen.disc(x, y, radius * 1.06, hair)
    if front > -0.35:
        look_at = (nose[:2] - np.array([x, y])) * 0.32
        low = np.array([-up[0], up[1]]) * radius * 0.2
        face = np.array([x, y]) + look_at + low
        pen.disc(float(face[0]), float(face[1]), radius * 0.82, figure.skin, edged=False)
        dark = (28, 22, 26) if scene not in ("shadow-play", "relief", "sculpture") else (250, 190, 95)
        if scene in ("relief", "sculpture"):
            dark = (84, 78, 72)
        for eye in ("left_eye", "right_eye"):
            ex, ey, ez = joints[eye]
            if ez - z > -0.02:
                center = (round(ex * (1 << BITS)), round(ey * (1 << BITS)))
                cv2.circle(pen.image, center, round(max(1.3, radius * 0.16) * (1 << BITS)), dark, -1, cv2.LINE_AA, BITS)
        tip = (round(nose[0] * (1 << BITS)), round(nose[1] * (1 << BITS)))
        shade = mix(pen.color(figure.skin), (150, 60, 50) if scene != "shadow-play" else dark, 0.5)
        cv2.circle(pen.image, tip, round(max(1.0, radius * 0.13) * (1 << BITS)), shade, -1, cv2.LINE_AA, BITS)
    elif figure.long_hair:
        back = np.array([x, y]) + np.array([-up[0], up[1]]) * radius * 1.3
        pen.stroke([np.array([x, y]), back], radius * 2.05, hair)


def person_of(figure: Figure, mask: Mask, everyone: Mask) -> Person | None:
    """The annotation of a drawn figure, in pixels of the small picture; None when next to nothing of it is seen."""
    if int((mask > 0).sum()) < 40 * OVERSAMPLING**2:
        return None
    size = mask.shape[0]
    keypoints = np.zeros((17, 3), np.float32)
    visibility = []
    for index, label in enumerate(KEYPOINTS):
        x, y = figure.joints[label][:2]
        inside = 0 <= x < size and 0 <= y < size
        reach = max(2, round(0.03 * figure.height))
        seen = inside and bool(
            mask[max(0, int(y) - reach) : int(y) + reach + 1, max(0, int(x) - reach) : int(x) + reach + 1].any()
        )
        keypoints[index] = (
            ((x + 0.5) / OVERSAMPLING - 0.5, (y + 0.5) / OVERSAMPLING - 0.5, 1.0 if seen else 0.5)
            if inside
            else (0, 0, 0)
        )
        visibility.append(2 if seen else 1 if inside else 0)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x0, y0 = columns[0] / OVERSAMPLING, rows[0] / OVERSAMPLING
    x1, y1 = (columns[-1] + 1) / OVERSAMPLING, (rows[-1] + 1) / OVERSAMPLING
    return Person(
        bbox=(float(x0), float(y0), float(x1 - x0), float(y1 - y0)),
        score=1.0,
        area=float((mask > 0).sum()) / OVERSAMPLING**2,
        keypoints=keypoints,
        visibility=tuple(visibility),
    )
