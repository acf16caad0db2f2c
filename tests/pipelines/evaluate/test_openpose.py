"""OpenPose's skeleton picture: the right joints in the right colours, the neck between the shoulders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from detectors.types import KEYPOINTS
from pipelines.evaluate.openpose import COLORS, LIMBS, NAMES, draw_openpose, to_openpose
from tests.pipelines.evaluate.test_keypoints import somebody


def test_the_neck_is_between_the_shoulders_and_all_else_keeps_its_name() -> None:
    person = somebody(1)
    body = to_openpose(person)
    left, right = (person.keypoints[KEYPOINTS.index(f"{side}_shoulder")] for side in ("left", "right"))
    np.testing.assert_allclose(body[NAMES.index("neck"), :2], (left[:2] + right[:2]) / 2)
    for index, name in enumerate(NAMES):
        if name != "neck":
            np.testing.assert_array_equal(body[index], person.keypoints[KEYPOINTS.index(name)])
    assert sorted(NAMES) == sorted([*KEYPOINTS, "neck"])


def test_colours_are_eighteen_hues_round_the_circle() -> None:
    assert COLORS[:4] == ((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0))
    assert COLORS[6] == (0, 255, 0)
    assert COLORS[12] == (0, 0, 255)
    assert len(set(COLORS)) == 18
    assert len(LIMBS) == 17


def test_joints_are_drawn_where_they_are() -> None:
    person = somebody(3, x=256, size=400)
    person.keypoints[:, 1] += 156
    picture = draw_openpose([person], 512, 512)
    seen = 0
    for joint, color in zip(to_openpose(person), COLORS, strict=True):
        x, y = (round(float(value)) for value in joint[:2])
        seen += tuple(picture[y, x]) == color
    assert seen >= 15, "a joint may cover another"


def test_what_is_not_sure_is_not_drawn() -> None:
    person = somebody(3, x=256, size=200)
    keypoints = person.keypoints.copy()
    keypoints[:, 2] = 0.2
    assert not draw_openpose([replace(person, keypoints=keypoints)], 128, 512).any()
    assert not draw_openpose([], 64, 64).any()
    far = replace(person, keypoints=np.full((17, 3), 1e30, np.float32))
    assert draw_openpose([far], 64, 64).shape == (64, 64, 3)
