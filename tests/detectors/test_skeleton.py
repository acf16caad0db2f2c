"""Skeleton pictures: the right limbs in the right hues, left and right told apart, nothing drawn that is not known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.skeleton import draw_skeleton, overlay
from detectors.types import FLIP_SWAP, LIMB_COLORS, LIMBS, Person

Places = NDArray[np.float32]
STANDING: Places = np.array(
    [
        (256, 60), (266, 50), (246, 50), (280, 58), (232, 58), (300, 130), (212, 130), (330, 200), (182, 200),
        (350, 270), (162, 270), (290, 290), (222, 290), (300, 380), (212, 380), (305, 470), (207, 470),
    ],
    np.float32,
)  # fmt: skip


def person(keypoints: Places, confidence: float = 1.0, scale: float = 1.0) -> Person:
    """A person from places (17, 2), all with one confidence."""
    points = np.concatenate((keypoints * scale, np.full((17, 1), confidence)), axis=1).astype(np.float32)
    return Person(bbox=(0.0, 0.0, 1.0, 1.0), score=1.0, area=1.0, keypoints=points)


def lopsided() -> Places:
    """A pose with the left arm raised: mirroring it shows."""
    places = STANDING.copy()
    places[7], places[9] = (350, 80), (380, 20)
    return places


def mirrored(places: Places, width: int) -> Places:
    out = places[list(FLIP_SWAP)].copy()
    out[:, 0] = width - 1 - out[:, 0]
    return out


def test_each_limb_has_its_own_hue_at_its_middle() -> None:
    picture = draw_skeleton([person(STANDING)], 512, 512)
    for index in (6, 7, 8, 9, 10, 11, 12, 13, 14, 15):  # arms, trunk and legs: no other limb crosses their middles
        start, end = LIMBS[index]
        x, y = (STANDING[start] + STANDING[end]) / 2
        assert tuple(picture[round(float(y)), round(float(x))]) == LIMB_COLORS[index]
    assert picture.dtype == np.uint8
    assert tuple(picture[5, 5]) == (0, 0, 0)


def test_thickness_scales_with_the_longer_side() -> None:
    def width_of_shin(side: int) -> float:
        picture = draw_skeleton([person(STANDING, scale=side / 512)], side, side)
        row = picture[round(425 * side / 512), side // 2 :]
        return float((row.max(-1) / max(LIMB_COLORS[13])).sum()) / side

    assert width_of_shin(512) == pytest.approx(10 / 512, rel=0.25)
    assert width_of_shin(64) == pytest.approx(10 / 512, rel=0.25)
    assert width_of_shin(1024) == pytest.approx(10 / 512, rel=0.25)


@pytest.mark.parametrize("side", [64, 512])
def test_mirrored_people_give_the_mirrored_picture_with_left_and_right_hues_exchanged(side: int) -> None:
    places = lopsided() * side / 512
    straight = draw_skeleton([person(places)], side, side)
    turned = draw_skeleton([person(mirrored(places, side))], side, side)
    difference = np.abs(straight[:, ::-1].astype(int) - turned)
    assert np.abs((straight[:, ::-1].max(-1) > 60).astype(int) - (turned.max(-1) > 60)).mean() < 0.004  # one shape
    assert difference.max() > 60  # but not the same hues
    swap = {index: LIMBS.index((FLIP_SWAP[a], FLIP_SWAP[b])) for index, (a, b) in enumerate(LIMBS)}
    for index in (7, 9, 12, 13, 14, 15):
        start, end = LIMBS[index]
        x, y = (places[start] + places[end]) / 2
        there = turned[round(float(y)), side - 1 - round(float(x))].astype(int)
        assert np.abs(there - LIMB_COLORS[swap[index]]).max() < (80 if side == 64 else 3)


def test_limbs_with_an_uncertain_end_are_not_drawn() -> None:
    unsure = person(STANDING)
    unsure.keypoints[9, 2] = 0.2
    picture = draw_skeleton([unsure], 512, 512, min_confidence=0.3)
    assert tuple(picture[235, 340]) == (0, 0, 0)
    assert tuple(picture[235, 172]) == LIMB_COLORS[9]
    assert not draw_skeleton([person(STANDING, confidence=0.1)], 512, 512).any()
    assert not draw_skeleton([], 32, 48).any()
    assert draw_skeleton([], 32, 48).shape == (32, 48, 3)


def test_places_outside_the_picture_are_survived() -> None:
    wild = STANDING.copy()
    wild[9], wild[10] = (1e9, -1e9), (np.nan, np.inf)
    assert draw_skeleton([person(wild)], 256, 256).any()


def test_overlay_keeps_the_picture_where_there_is_no_limb() -> None:
    image = np.full((512, 512, 3), 90, np.uint8)
    drawn = overlay(image, [person(STANDING)])
    assert (image == 90).all()
    assert tuple(drawn[5, 5]) == (90, 90, 90)
    assert np.abs(drawn[425, 303].astype(int) - LIMB_COLORS[13]).max() < 40
