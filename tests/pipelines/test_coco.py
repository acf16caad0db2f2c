"""People as COCO annotations, both ways."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detectors.types import Person
from pipelines.coco import UnusableError, annotation_of, is_person, person_categories, person_of, scene_of

GOOD: dict[str, Any] = {"bbox": [1, 2, 30.5, 40], "area": 500, "keypoints": [3.25, 4, 2, 5, 6, 1] + [0, 0, 0] * 15}


def test_visibility_becomes_confidence() -> None:
    person = person_of({**GOOD, "id": 7, "iscrowd": 0, "keypoints_21": [1.5, 2, 2] * 21, "self_contact": [[1, 2], [3]]})
    assert person.keypoints[:3].tolist() == [[3.25, 4, 1], [5, 6, 0.5], [0, 0, 0]]
    assert (person.bbox, person.area, person.score) == ((1, 2, 30.5, 40), 500, 1)
    assert person.visibility == (2, 1) + (0,) * 15
    assert (person.annotation_id, person.iscrowd, person.self_contact) == (7, 0, (1, 2, 3))
    assert person.keypoints21 == (1.5, 2, 2) * 21


def test_what_is_not_annotated_is_unknown() -> None:
    person = person_of({"bbox": [1, 2, 10, 10]})
    assert person.area == pytest.approx(53)
    assert not person.keypoints.any()
    assert (person.visibility, person.keypoints21, person.iscrowd, person.annotation_id) == (None,) * 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bbox": None}, "bad_box"),
        ({"bbox": [1, 2, 3]}, "bad_box"),
        ({"bbox": [1, 2, 3, -4]}, "bad_box"),
        ({"bbox": [1, 2, math.nan, 4]}, "bad_box"),
        ({"bbox": [1, 2, 10**400, 4]}, "bad_box"),
        ({"bbox": [100, 2, 3, 4]}, "box_outside"),
        ({"bbox": [1, -9, 3, 4]}, "box_outside"),
        ({"area": -1}, "bad_area"),
        ({"area": "large"}, "bad_area"),
        ({"keypoints": [1] * 50}, "bad_keypoints"),
        ({"keypoints": [1, 1, 3] * 17}, "bad_keypoints"),
        ({"keypoints": [math.inf, 1, 2] * 17}, "bad_keypoints"),
        ({"keypoints": "nose"}, "bad_keypoints"),
        ({"keypoints": [True, True, True] * 17}, "bad_keypoints"),
        ({"keypoints_21": [1, 1, 2] * 17}, "bad_keypoints"),
        ({"self_contact": [None]}, "bad_contact"),
        ({"iscrowd": 2}, "bad_crowd"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableError, match=f"^{reason}$"):
        person_of({**GOOD, **changes}, 100, 100)


coordinates = st.floats(-500, 500, width=32)


@given(
    arrays(np.float32, (17, 2), elements=coordinates),
    st.lists(st.sampled_from([0, 1, 2]), min_size=17, max_size=17),
    st.tuples(*[st.floats(0.125, 900, width=32)] * 5),
)
def test_written_and_read_again_a_person_is_the_same(
    places: Any, visibility: list[int], sizes: tuple[float, float, float, float, float]
) -> None:
    seen = np.array(visibility, np.float32)
    keypoints = np.concatenate((places * (seen[:, None] > 0), seen[:, None] / 2), 1).astype(np.float32)
    person = Person(sizes[:4], 0.5, sizes[4], keypoints, tuple(visibility), annotation_id=3)
    written = annotation_of(person, 3, 1)
    again = person_of(written)
    assert np.array_equal(again.keypoints, keypoints)
    assert np.array([*again.bbox, again.area], np.float32).tolist() == list(sizes)
    assert again.visibility == person.visibility
    assert written["num_keypoints"] == int((seen > 0).sum())


def test_a_found_person_gets_visibility_from_confidence() -> None:
    keypoints = np.zeros((17, 3), np.float32)
    keypoints[:3] = [(1, 2, 0.9), (3, 4, 0.4), (5, 6, 0)]
    written = annotation_of(Person((0, 0, 1, 1), 0.75, 1, keypoints), 1, 1)
    assert written["keypoints"][:9] == [1, 2, 2, 3, 4, 1, 0, 0, 0]
    assert written["score"] == 0.75


def test_people_are_told_by_their_category() -> None:
    people = person_categories({"categories": [{"id": 4, "name": "Person"}, {"id": 5, "name": "cat"}]})
    assert people == frozenset({4})
    categories: list[Any] = [4, 5, None, []]
    assert [is_person({"category_id": category}, people) for category in categories] == [True, False, True, False]
    assert person_categories({}) is None
    with pytest.raises(ValueError, match="14 keypoints"):
        person_categories({"categories": [{"id": 1, "name": "person", "keypoints": ["x"] * 14}]})


def test_scenes_are_spelled_as_the_grammar_does() -> None:
    assert scene_of({"category": "Oil_painting"}) == scene_of({"category": "oil painting"}) == "oil-painting"
    assert scene_of({}) is None
