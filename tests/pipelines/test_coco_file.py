"""Reading annotation files: every record is found where it is, in the order of the ids."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.coco_file import AnnotationFile
from pipelines.config import UserError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=3,
)
EXTRAS = st.dictionaries(st.sampled_from(["a", "b", 'é\\"]}']), VALUES, max_size=3)
IDS = st.integers(0, 6)


def read(content: Any, indent: int | None = None, ascii: bool = True) -> AnnotationFile:
    return AnnotationFile(json.dumps(content, indent=indent, ensure_ascii=ascii).encode(), "x.json")


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(
    st.lists(st.tuples(IDS, EXTRAS), max_size=4, unique_by=lambda pair: pair[0]),
    st.lists(st.tuples(IDS, EXTRAS), max_size=5),
    EXTRAS,
    st.sampled_from([None, 0, 2]),
    st.booleans(),
)
def test_what_is_read_is_what_was_written(
    images: list[tuple[int, Any]], annotations: list[tuple[int, Any]], head: Any, indent: int | None, ascii: bool
) -> None:
    pictures = [{"id": i, **more} for i, more in images]
    theirs = [{"image_id": i, **more} for i, more in annotations]
    file = read({**head, "annotations": theirs, "images": pictures}, indent, ascii)
    assert file.head == head
    records = list(file.records())
    assert len(records) == len(file)
    known = {image["id"] for image in pictures}
    assert [record.name for record in records] == [str(i) for i in sorted(known | {i for i, _ in annotations})]
    for record in records:
        image, found = record.parse()
        assert found == [one for one in theirs if str(one["image_id"]) == record.name]
        assert ([image] if image else []) == [one for one in pictures if str(one["id"]) == record.name]
        assert record.trouble == (None if image else "unknown_image")


def test_nan_is_read_and_numbers_keep_their_digits() -> None:
    file = AnnotationFile(b'{"images": [{"id": 1, "x": NaN, "y": 12345678901234567890, "z": 1e2}]}', "x")
    (record,) = file.records()
    assert record.image == '{"id": 1, "x": NaN, "y": 12345678901234567890, "z": 1e2}'


def test_an_id_twice_cannot_be_told_apart() -> None:
    file = read({"images": [{"id": 1, "a": 1}, {"id": 1, "a": 2}], "annotations": [{"image_id": 1}]})
    assert [(r.name, r.trouble, len(r.annotations)) for r in file.records()] == [
        ("1", "duplicate_id", 1),
        ("1#2", "duplicate_id", 0),
    ]


def test_an_image_listed_twice_is_one_image() -> None:
    file = read({"images": [{"id": 1, "a": 1}, {"a": 1, "id": 1}], "annotations": [{"image_id": 1}]})
    assert [(r.name, r.trouble) for r in file.records()] == [("1", None), ("1#2", "duplicate_id")]


@pytest.mark.parametrize("bad", [{"id": "1"}, {"id": True}, {"id": 1.0}, {}, 5, None, []])
def test_a_record_without_an_id_is_kept_and_named(bad: Any) -> None:
    file = read({"images": [{"id": 3}, bad], "annotations": [{"image_id": None}]})
    assert [(r.name, r.trouble) for r in file.records()] == [
        ("3", None),
        ("image-1", "bad_record"),
        ("annotation-0", "unknown_image"),
    ]
    assert [r.parse()[0] for r in file.records()][1] == (bad if isinstance(bad, dict) else {})


def test_any_part_can_be_had() -> None:
    file = read({"images": [{"id": i} for i in range(9, -1, -1)]})
    assert [record.name for record in file.records(3, 5)] == ["3", "4"]


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(UserError, match="not UTF-8"):
        AnnotationFile(b'{"images": [\xff]}', "x")
