"""People as COCO annotations, both ways. Formats: cocodataset.org/#format-data, and Human-Art's additional keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from detectors.types import AREA_PER_BOX, KEYPOINTS, LIMBS, NUM_KEYPOINTS, Person

Json = dict[str, Any]

PERSON: Final = "person"
CONFIDENCE: Final = (0.0, 0.5, 1.0)
"""Keypoint confidence of COCO's visibility 0 (not annotated), 1 (hidden), 2 (seen)."""
FARTHEST: Final = 1e6
"""Coordinates (pixels) beyond this are a mistake, and areas beyond its square."""

PERSON_CATEGORY: Final[Mapping[str, Any]] = {
    "id": 1,
    "name": PERSON,
    "supercategory": PERSON,
    "keypoints": list(KEYPOINTS),
    "skeleton": [[start + 1, end + 1] for start, end in LIMBS],
}
"""What a file of ours says of its only category."""


class UnusableError(ValueError):
    """An annotation that is no person's; its text is the reason as the ledger has it."""


def person_categories(head: Mapping[str, Any]) -> frozenset[int] | None:
    """Return the ids of a file's categories that are people; None where it names no categories (then all are).

    Raises ValueError where its people have not the 17 keypoints of COCO.
    """
    categories = [one for one in head.get("categories") or () if isinstance(one, dict)]
    if not categories:
        return None
    people = [one for one in categories if str(one.get("name")).lower() == PERSON]
    if not people:
        raise ValueError("none of its categories is called 'person'")
    for one in people:
        names = one.get("keypoints")
        if isinstance(names, list) and names and len(names) < NUM_KEYPOINTS:
            raise ValueError(f"its people have {len(names)} keypoints, not the {NUM_KEYPOINTS} of COCO")
    return frozenset(one["id"] for one in people if isinstance(one.get("id"), int))


def is_person(annotation: Mapping[str, Any], categories: frozenset[int] | None) -> bool:
    """Whether an annotation is of a person: its category says so, or it has none."""
    category = annotation.get("category_id")
    return categories is None or category is None or (isinstance(category, int) and category in categories)


def annotated_size(image: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the width and height that an image record says, (None, None) where it says neither or no numbers."""
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else (None, None)


def scene_of(image: Mapping[str, Any]) -> str | None:
    """Return Human-Art's category of an image as the grammar's scenes are spelled: `oil_painting` → `oil-painting`."""
    category = text_of(image, "category")
    return "-".join(category.lower().replace("_", " ").split()) if category else None


def text_of(record: Mapping[str, Any], *names: str) -> str | None:
    """Return the first text under these names, fit to be stored; None where there is none."""
    found = next((record[name] for name in names if isinstance(record.get(name), str) and record[name]), None)
    return None if found is None else found.encode("utf-8", "replace").decode()


def person_of(annotation: Mapping[str, Any], width: int | None = None, height: int | None = None) -> Person:
    """Read a person off an annotation: visibility 2, 1, 0 becomes confidence 1, 0.5, 0; no keypoints, all are 0.

    width, height: of the image, where known, in pixels. Area and box are as annotated (area: box x 0.53 if absent).
    Raises UnusableError: `bad_box` (no four numbers, or empty), `box_outside` (nothing of it in the image), `bad_area`,
    `bad_keypoints` (not 17, or 21 for `keypoints_21`, times three numbers with visibility 0, 1 or 2), `bad_contact`,
    `bad_crowd`.
    """
    bbox = _numbers(annotation.get("bbox"), "bad_box")
    if len(bbox) != 4 or bbox[2] <= 0 or bbox[3] <= 0:
        raise UnusableError("bad_box")
    x, y, w, h = bbox
    if x + w <= 0 or y + h <= 0 or (width is not None and x >= width) or (height is not None and y >= height):
        raise UnusableError("box_outside")
    area = annotation.get("area")
    measured = w * h * AREA_PER_BOX if area is None else _numbers([area], "bad_area", FARTHEST**2)[0]
    if measured < 0:
        raise UnusableError("bad_area")
    keypoints, visibility = _keypoints(annotation.get("keypoints"))
    more = annotation.get("keypoints_21")
    crowd, number = annotation.get("iscrowd"), annotation.get("id")
    if crowd not in (None, 0, 1):
        raise UnusableError("bad_crowd")
    return Person(
        bbox=(x, y, w, h),
        score=1.0,
        area=measured,
        keypoints=keypoints,
        visibility=visibility,
        keypoints21=None if more is None else _triples(more, 21),
        self_contact=_contact(annotation.get("self_contact")),
        iscrowd=None if crowd is None else int(crowd),
        annotation_id=number if _is_int64(number) else None,
    )


def annotation_of(person: Person, annotation_id: int, image_id: int) -> Json:
    """Write a person as an annotation of ours, with its score; numbers are rounded to what float32 holds.

    Visibility is as annotated, else 2 for a confidence above 0.5, 1 above 0, and 0. Keypoints keep pixels only where
    visibility is not 0, as COCO has it.
    """
    keypoints = np.asarray(person.keypoints, np.float64)
    levels = np.where(keypoints[:, 2] <= 0, 0, np.where(keypoints[:, 2] > 0.5, 2, 1))
    seen = levels if person.visibility is None else np.asarray(person.visibility)
    flat: list[float] = []
    for (x, y), level in zip(keypoints[:, :2].tolist(), seen.tolist(), strict=True):
        flat += [_short(x), _short(y), level] if level else [0, 0, 0]
    written: Json = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": PERSON_CATEGORY["id"],
        "bbox": [_short(value) for value in person.bbox],
        "area": _short(person.area),
        "iscrowd": person.iscrowd or 0,
        "num_keypoints": int((seen > 0).sum()),
        "keypoints": flat,
        "score": _short(person.score),
    }
    if person.keypoints21 is not None:
        written["keypoints_21"] = [_short(value) for value in person.keypoints21]
    if person.self_contact is not None:
        written["self_contact"] = [_short(value) for value in person.self_contact]
    return written


def _keypoints(given: Any) -> tuple[Any, tuple[int, ...] | None]:
    if given is None or given == []:
        return np.zeros((NUM_KEYPOINTS, 3), np.float32), None
    triples = np.asarray(_triples(given, NUM_KEYPOINTS), np.float32).reshape(NUM_KEYPOINTS, 3)
    visibility = triples[:, 2].astype(np.int8)
    triples[:, 2] = np.asarray(CONFIDENCE, np.float32)[visibility]
    return triples, tuple(visibility.tolist())


def _triples(given: Any, count: int) -> tuple[float, ...]:
    """Numbers x, y, visibility of so many keypoints."""
    values = _numbers(given, "bad_keypoints")
    if len(values) != 3 * count or not set(values[2::3]) <= {0, 1, 2}:
        raise UnusableError("bad_keypoints")
    return tuple(values)


def _contact(given: Any) -> tuple[float, ...] | None:
    """Human-Art's self-contact as one list of numbers, whether it came flat or as a list of points."""
    if given is None:
        return None
    if isinstance(given, list) and given and all(isinstance(point, list) for point in given):
        given = [value for point in given for value in point]
    return tuple(_numbers(given, "bad_contact"))


def _numbers(given: Any, reason: str, most: float = FARTHEST) -> Sequence[float]:
    """The list as finite numbers no farther from 0 than `most`; UnusableError with this reason where it is not."""
    if not isinstance(given, list):
        raise UnusableError(reason)
    for value in given:
        # `not <=` is true of NaN as well
        if isinstance(value, bool) or not isinstance(value, int | float) or not -most <= value <= most:
            raise UnusableError(reason)
    return [float(value) for value in given]


def _is_int64(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _short(value: float) -> float:
    """The shortest decimal number that is this float32."""
    return float(str(np.float32(value)))
