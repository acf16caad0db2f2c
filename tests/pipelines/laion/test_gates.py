from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detectors.types import Person
from pipelines.laion.config import LaionGates
from pipelines.laion.gates import judge, measure_people

GATES = LaionGates()


def person(keypoints: int, side: float) -> Person:
    points = np.zeros((17, 3), np.float32)
    points[:keypoints, 2] = 0.9
    return Person((0, 0, side, side), 0.9, side * side, points)


@pytest.mark.parametrize(
    ("people", "expected"),
    [
        ([], ("people_count", "too_few")),
        ([person(8, 25)], None),
        ([person(7, 25)], ("pose", "no_usable_person")),
        ([person(8, 22)], ("pose", "no_usable_person")),  # 4.84% of the area
        ([person(17, 10), person(5, 90)], ("pose", "no_usable_person")),  # nobody has both
        ([person(17, 90), *[person(0, 5)] * 9], None),
        ([person(17, 90)] * 11, ("people_count", "too_many")),
    ],
)
def test_somebody_must_be_large_and_complete_enough(people: list[Person], expected: tuple[str, str] | None) -> None:
    assert judge(measure_people(people, 100, 100, GATES), "a man", GATES) == expected


def test_safety_comes_first_and_is_stricter_for_minors() -> None:
    measured = {"nsfw": 0.4, "brightest": 0.0, "people": 0.0}
    assert judge({**measured, "nsfw": 0.9}, "a man", GATES) == ("safety", "nsfw")
    assert judge(measured, "a boy in the park", GATES) == ("safety", "nsfw_minors")
    assert judge(measured, "two Schoolgirls", GATES) == ("safety", "nsfw_minors")
    assert judge(measured, "a cowboy", GATES) == ("broken_image", "black")


def test_what_was_not_measured_is_not_held_against_an_image() -> None:
    strict = replace(GATES, min_clip_score=25.0, min_aesthetic=5.0, max_watermark=0.5)
    people = measure_people([person(17, 90)], 100, 100, strict)
    assert judge(people, "a man", strict) is None
    assert judge({**people, "clip_score": 20.0}, "a man", strict) == ("clip_score", "low")
    assert judge({**people, "aesthetic": 4.0}, "a man", strict) == ("aesthetic", "low")
    assert judge({**people, "watermark": 0.9}, "a man", strict) == ("watermark", "high")
