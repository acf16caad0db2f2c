"""An articulated body in three dimensions: pose words to joints.

Body frame: x towards the person's own left, y up, z forward; lengths in units of the standing height. A limb's
direction is (swing, abduct) in degrees from hanging down: swing forward in the y-z plane, abduct away from the body.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vec = NDArray[np.float64]
Angles = tuple[float, float]

UPPER_ARM, FOREARM, THIGH, SHIN, TORSO = 0.155, 0.15, 0.235, 0.235, 0.275
SHOULDER_HALF, HIP_HALF, NECK, HEAD_RADIUS, FOOT = 0.112, 0.062, 0.118, 0.088, 0.07

SIDE_ON: Final = ((-80.0, -45.0), (45.0, 80.0))
FACING: Final = ((-28.0, 28.0),)
TURNED: Final = ((-60.0, -22.0), (22.0, 60.0))


@dataclass(frozen=True, slots=True)
class Pose:
    """Angles of one pose, first the left then the right limb; `mirror` draws it the other way round half the time."""

    arms: tuple[Angles, Angles]
    forearms: tuple[Angles, Angles]
    thighs: tuple[Angles, Angles] = ((0, 5), (0, 5))
    shins: tuple[Angles, Angles] = ((0, 4), (0, 4))
    lean: float = 0.0
    side_lean: float = 0.0
    yaw: tuple[tuple[float, float], ...] = FACING
    roll: float = 0.0
    lift: float = 0.0
    prop: str = ""


BODY_POSES: Final[dict[str, Pose]] = {
    "stand": Pose(arms=((4, 10), (4, 10)), forearms=((10, 8), (10, 8))),
    "walk": Pose(
        arms=((-28, 6), (28, 6)),
        forearms=((-8, 4), (45, 4)),
        thighs=((28, 2), (-22, 2)),
        shins=((16, 2), (-42, 2)),
        lean=4,
        yaw=SIDE_ON,
    ),
    "run": Pose(
        arms=((-50, 8), (42, 8)),
        forearms=((20, 4), (125, 4)),
        thighs=((68, 3), (-28, 3)),
        shins=((-8, 2), (-88, 2)),
        lean=16,
        yaw=SIDE_ON,
    ),
    "sit": Pose(
        arms=((18, 8), (18, 8)),
        forearms=((62, 2), (62, 2)),
        thighs=((86, 8), (86, 8)),
        shins=((4, 4), (4, 4)),
        yaw=((-70.0, -35.0), (35.0, 70.0)),
        prop="seat",
    ),
    "crouch": Pose(
        arms=((42, 16), (42, 16)),
        forearms=((70, 0), (70, 0)),
        thighs=((100, 26), (100, 26)),
        shins=((-32, 8), (-32, 8)),
        lean=24,
        yaw=TURNED,
    ),
    "kneel": Pose(
        arms=((20, 10), (24, 10)),
        forearms=((60, 0), (64, 0)),
        thighs=((86, 4), (2, 4)),
        shins=((2, 2), (-86, 2)),
        lean=4,
        yaw=SIDE_ON,
    ),
    "lie": Pose(arms=((6, 16), (10, 30)), forearms=((10, 12), (14, 40)), thighs=((0, 7), (0, 4)), roll=90.0),
    "jump": Pose(
        arms=((10, 140), (10, 140)),
        forearms=((5, 160), (5, 160)),
        thighs=((34, 24), (34, 24)),
        shins=((-50, 14), (-50, 14)),
        lift=0.16,
    ),
    "arms-up": Pose(arms=((0, 158), (0, 158)), forearms=((0, 170), (0, 170)), thighs=((0, 9), (0, 9))),
    "wave": Pose(arms=((4, 10), (6, 112)), forearms=((10, 8), (6, 168))),
    "arms-out": Pose(
        arms=((0, 86), (0, 86)), forearms=((0, 88), (0, 88)), thighs=((0, 12), (0, 12)), shins=((0, 9), (0, 9))
    ),
    "bend": Pose(
        arms=((24, 4), (24, 4)),
        forearms=((20, 2), (20, 2)),
        thighs=((4, 4), (-4, 4)),
        shins=((-4, 3), (-8, 3)),
        lean=78,
        yaw=SIDE_ON,
    ),
    "kick": Pose(
        arms=((-20, 50), (24, 50)),
        forearms=((10, 60), (60, 40)),
        thighs=((88, 6), (-4, 4)),
        shins=((80, 4), (-10, 3)),
        lean=-12,
        yaw=SIDE_ON,
    ),
    "dance": Pose(
        arms=((0, 140), (6, 78)),
        forearms=((4, 172), (50, 60)),
        thighs=((10, 42), (0, 4)),
        shins=((-40, 10), (0, 3)),
        side_lean=10,
    ),
    "reach": Pose(
        arms=((84, 4), (92, 4)),
        forearms=((96, 2), (100, 2)),
        thighs=((24, 4), (-16, 4)),
        shins=((6, 3), (-22, 3)),
        lean=10,
        yaw=SIDE_ON,
    ),
    "carry": Pose(arms=((18, 14), (18, 14)), forearms=((86, -4), (86, -4)), yaw=TURNED, prop="box"),
}


@dataclass(slots=True)
class Body:
    """Joints of one person after turning, before scaling: name → (3,), x to the right, y up, z to the viewer.

    `lift` is how far the lowest point hangs above the ground, `prop` what is drawn with it.
    """

    joints: dict[str, Vec]
    yaw: float
    roll: float
    lift: float
    prop: str
    head_up: Vec = field(default_factory=lambda: np.array([0.0, 1.0, 0.0]))


def pose_body(name: str, rng: np.random.Generator, wide: bool = False, mirror: bool | None = None) -> Body:
    """Place a body in the named pose, angles jittered by a few degrees (`wide`: by tens, in any direction of view)."""
    pose = BODY_POSES[name]
    sd = 24.0 if wide else 6.0
    mirrored = bool(rng.random() < 0.5) if mirror is None else mirror

    def limb(pair: tuple[Angles, Angles], spread: float) -> tuple[Angles, Angles]:
        left, right = (pair[1], pair[0]) if mirrored else pair
        noise = rng.normal(0.0, spread, 4)
        return (left[0] + noise[0], left[1] + noise[1]), (right[0] + noise[2], right[1] + noise[3])

    arms, forearms = limb(pose.arms, sd), limb(pose.forearms, sd * 1.3)
    thighs, shins = limb(pose.thighs, sd * 0.8), limb(pose.shins, sd * 0.8)
    low, high = pose.yaw[rng.integers(len(pose.yaw))]
    yaw = rng.uniform(-180, 180) if wide else rng.uniform(low, high)
    roll = pose.roll * (1 if rng.random() < 0.5 else -1) + rng.normal(0.0, 9.0 if wide else 2.0)
    if wide and rng.random() < 0.03:
        roll += 180
    lean = np.radians(pose.lean + rng.normal(0.0, sd * 0.6))
    side = np.radians((-pose.side_lean if mirrored else pose.side_lean) + rng.normal(0.0, sd * 0.4))

    up = np.array([np.sin(side), np.cos(lean) * np.cos(side), np.sin(lean)])
    up /= np.linalg.norm(up)
    head_up = up + np.array([0.0, 0.9, 0.0])  # people hold the head straighter than the back
    head_up /= np.linalg.norm(head_up)
    across = np.array([1.0, 0.0, 0.0]) - up[0] * up
    across /= np.linalg.norm(across)
    joints: dict[str, Vec] = {}
    shoulders = up * TORSO
    for index, (label, sign) in enumerate((("left", 1.0), ("right", -1.0))):
        hip = np.array([sign * HIP_HALF, 0.0, 0.0])
        shoulder = shoulders + sign * SHOULDER_HALF * across
        joints[f"{label}_hip"], joints[f"{label}_shoulder"] = hip, shoulder
        joints[f"{label}_elbow"] = shoulder + UPPER_ARM * direction(sign, *arms[index])
        joints[f"{label}_wrist"] = joints[f"{label}_elbow"] + FOREARM * direction(sign, *forearms[index])
        joints[f"{label}_knee"] = hip + THIGH * direction(sign, *thighs[index])
        shin = direction(sign, *shins[index])
        joints[f"{label}_ankle"] = joints[f"{label}_knee"] + SHIN * shin
        forward = np.array([0.0, 0.0, 1.0]) - 0.55 * shin * shin[2] + np.array([sign * 0.25, -0.1, 0.0])
        joints[f"{label}_toe"] = joints[f"{label}_ankle"] + FOOT * forward / np.linalg.norm(forward)
    head = shoulders + NECK * head_up + np.array([0.0, 0.0, 0.012])
    joints["neck"], joints["head"] = shoulders, head
    turn = np.radians(rng.normal(0.0, 30.0 if wide else 10.0))
    forward = np.cross(across, head_up)
    forward /= np.linalg.norm(forward)
    side_axis = np.cos(turn) * across + np.sin(turn) * -forward
    front_axis = np.cos(turn) * forward + np.sin(turn) * across
    for label, offset in FACE.items():
        joints[label] = head + HEAD_RADIUS * (offset[0] * side_axis + offset[1] * head_up + offset[2] * front_axis)
    rotation = turn_matrix(np.radians(yaw), np.radians(roll))
    return Body(
        joints={label: rotation @ point for label, point in joints.items()},
        yaw=float((yaw + 180) % 360 - 180),
        roll=float(roll),
        lift=pose.lift * float(rng.uniform(0.7, 1.2)),
        prop=pose.prop if not wide or rng.random() < 0.5 else "",
        head_up=rotation @ head_up,
    )


FACE: Final[dict[str, tuple[float, float, float]]] = {
    "nose": (0.0, -0.12, 0.98),
    "left_eye": (0.40, 0.14, 0.88),
    "right_eye": (-0.40, 0.14, 0.88),
    "left_ear": (0.98, 0.02, 0.0),
    "right_ear": (-0.98, 0.02, 0.0),
}


def direction(sign: float, swing: float, abduct: float) -> Vec:
    """Unit vector of a limb of the left (sign 1) or right (-1) side."""
    a, b = np.radians(swing), np.radians(abduct)
    return np.array([sign * np.sin(b), -np.cos(a) * np.cos(b), np.sin(a) * np.cos(b)])


def turn_matrix(yaw: float, roll: float) -> Vec:
    """Rotate about the vertical axis, then in the image plane (radians)."""
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    in_plane = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return np.asarray(in_plane @ about_y)
