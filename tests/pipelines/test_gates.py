import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from detectors.types import Person
from pipelines.gates import GATES, GatesConfig, Rejection, judge, measure

DEFAULT = GatesConfig()


def picture(value: int | None = None) -> NDArray[np.uint8]:
    if value is not None:
        return np.full((100, 200, 3), value, np.uint8)
    return np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8)


def person(
    bbox: tuple[float, float, float, float] = (50, 20, 40, 60), confidence: float = 0.9, found: int = 17
) -> Person:
    keypoints = np.zeros((17, 3), np.float32)
    keypoints[:, 0] = bbox[0] + bbox[2] / 2
    keypoints[:, 1] = bbox[1] + bbox[3] / 2
    keypoints[:found, 2] = confidence
    return Person(bbox, 0.9, bbox[2] * bbox[3], keypoints)


def verdict(people: list[Person], asked: int = 1, config: GatesConfig = DEFAULT, **measured: float) -> Rejection | None:
    values = measure(picture(), people, config)
    return judge({**values, **measured}, asked, config)


def test_good_image_passes() -> None:
    assert verdict([person()]) is None
    assert verdict([person(), person()], asked=2) is None


@pytest.mark.parametrize(
    ("found", "asked", "reason"), [(0, 1, "nobody"), (1, 2, "too_few"), (3, 2, "too_many"), (0, 3, "nobody")]
)
def test_people_count(found: int, asked: int, reason: str) -> None:
    assert verdict([person()] * found, asked) == Rejection("people_count", reason)
    off = dataclasses.replace(DEFAULT, people_count=False)
    assert verdict([person()] * found, asked, off) is None


def test_usable_pose_is_asked_of_each_person() -> None:
    assert verdict([person(), person(found=5)], 2) is None
    assert verdict([person(), person(found=4)], 2) == Rejection("usable_pose", "too_few_keypoints")
    assert verdict([person(confidence=0.29)]) == Rejection("usable_pose", "too_few_keypoints")


@pytest.mark.parametrize(("value", "reason"), [(0, "black"), (7, "black"), (8, "constant"), (255, "constant")])
def test_flat_images_are_broken(value: int, reason: str) -> None:
    values = measure(picture(value), [person()], DEFAULT)
    assert judge(values, 1, DEFAULT) == Rejection("broken_image", reason)


def test_non_finite_images_are_broken() -> None:
    values = measure(picture(), [person()], DEFAULT, finite=False)
    assert judge(values, 1, DEFAULT) == Rejection("broken_image", "nan")


def test_dark_picture_with_a_figure_is_not_broken() -> None:
    pixels = picture(0)
    pixels[20:60, 40:60] = 30
    assert judge(measure(pixels, [person()], DEFAULT), 1, DEFAULT) is None


def test_safety_comes_before_everything_a_reject_would_be_kept_for() -> None:
    assert verdict([], 3, nsfw=0.81) == Rejection("safety", "nsfw")
    assert verdict([person()], nsfw=0.8) is None
    assert verdict([person()], config=dataclasses.replace(DEFAULT, max_nsfw=None), nsfw=1.0) is None


@pytest.mark.parametrize(
    ("config", "people", "rejection"),
    [
        (GatesConfig(min_visible=0.5), [person(found=8)], Rejection("visible_keypoints", "hidden")),
        (
            GatesConfig(min_keypoint_score=0.8),
            [person(), person(confidence=0.7)],
            Rejection("keypoint_score", "uncertain"),
        ),
        (GatesConfig(min_person_size=0.7), [person()], Rejection("person_size", "too_small")),
        (GatesConfig(max_truncation=0.25), [person((0, 0, 40, 60))], Rejection("truncation", "truncated")),
    ],
)
def test_gates_off_by_default(config: GatesConfig, people: list[Person], rejection: Rejection) -> None:
    assert verdict(people, len(people)) is None
    assert verdict(people, len(people), config) == rejection


def test_clip_score_gates_only_where_measured() -> None:
    config = dataclasses.replace(DEFAULT, min_clip_score=0.2)
    assert verdict([person()], config=config) is None
    assert verdict([person()], config=config, clip_score=0.1) == Rejection("clip_score", "off_caption")
    assert verdict([person()], clip_score=0.1) is None


def test_measured_values() -> None:
    values = measure(picture(), [person(), person((0, 90, 20, 10), confidence=0.5, found=10)], DEFAULT)
    assert values["people"] == 2
    assert values["usable_keypoints"] == 10
    assert values["visible"] == pytest.approx(27 / 34)
    assert values["keypoint_score"] == pytest.approx(0.5 * 10 / 17)
    assert values["person_size"] == pytest.approx(0.1)
    assert values["truncation"] == 0.5


def test_nobody_is_not_measured_rather_than_zero() -> None:
    values = measure(picture(), [], DEFAULT)
    assert values["people"] == 0
    assert [values[name] for name in ("usable_keypoints", "visible", "keypoint_score", "person_size")] == [None] * 4


def test_keypoints_outside_the_image_are_not_visible() -> None:
    values = measure(picture(), [person((190, 20, 40, 60))], DEFAULT)
    assert values["visible"] == 0
    assert values["usable_keypoints"] == 17


def test_a_keypoint_in_the_half_pixel_beyond_the_outer_centres_is_inside() -> None:
    height, width = picture().shape[:2]
    someone = person((0, 0, width, height))
    for place, inside in (((-0.4, -0.4), True), ((width - 0.6, height - 0.6), True), ((width - 0.4, 5.0), False)):
        someone.keypoints[:, :2] = place
        assert measure(picture(), [someone], DEFAULT)["visible"] == float(inside)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 17)), max_size=4), st.integers(1, 3), st.floats(0, 1))
def test_every_rejection_names_a_gate_and_only_a_clean_image_passes(
    people: list[tuple[float, int]], asked: int, nsfw: float
) -> None:
    found = [person(confidence=confidence, found=count) for confidence, count in people]
    rejection = verdict(found, asked, nsfw=nsfw)
    if rejection is None:
        assert len(found) == asked
        assert nsfw <= 0.8
        assert all((p.keypoints[:, 2] >= 0.3).sum() >= 5 for p in found)
    else:
        assert rejection.stage in GATES
