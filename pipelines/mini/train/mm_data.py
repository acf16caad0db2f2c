"""Drawn figures as an annotated set on disk, in Human-Art's layout, for trainings that read COCO JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from detectors.types import KEYPOINTS, LIMBS, Person
from pipelines.mini.render import Drawing, draw
from pipelines.mini.train.pose_data import NOTHING, nothing, wear
from pipelines.mini.world import random_world

WIDE: Final = 0.4
"""Share of the pictures with figures bent, turned, sized and overlapping in any way."""
WORN: Final = 0.45
"""Share of the pictures worn as small generators and codecs wear them."""


def write_set(root: Path, seed: int, training: int, validation: int) -> None:
    """Draw ROOT/images/ and ROOT/annotations/{training,validation}_humanart.json; what is there is left as it is."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    for split, first, count in (("training", 0, training), ("validation", training, validation)):
        path = root / "annotations" / f"{split}_humanart.json"
        if path.exists():
            continue
        written = path.with_suffix(".tmp")
        written.write_text(json.dumps(_coco(root, seed, range(first, first + count))))
        written.replace(path)


def _coco(root: Path, seed: int, indices: range) -> dict[str, Any]:
    images, annotations = [], []
    for index in indices:
        drawing = drawn(seed, index)
        name = f"images/{index:06}.png"
        cv2.imwrite(str(root / name), drawing.image[..., ::-1])
        height, width = drawing.image.shape[:2]
        images.append({"id": index, "file_name": name, "width": width, "height": height})
        annotations += [annotation(person, index) for person in drawing.people]
    numbered = [dict(annotation, id=number) for number, annotation in enumerate(annotations, start=1)]
    return {"images": images, "annotations": numbered, "categories": list(_categories())}


def _categories() -> Iterator[dict[str, Any]]:
    skeleton = [[a + 1, b + 1] for a, b in LIMBS]
    yield {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(KEYPOINTS), "skeleton": skeleton}


def drawn(seed: int, index: int) -> Drawing:
    """Picture `index` of a set: the same whatever was drawn before."""
    rng = np.random.default_rng((seed, index))
    drawing = draw(replace(random_world(rng), wide=bool(rng.random() < WIDE)), rng)
    if rng.random() < NOTHING:
        return replace(drawing, image=nothing(drawing.image, rng), people=())
    return replace(drawing, image=wear(drawing.image, rng)) if rng.random() < WORN else drawing


def annotation(person: Person, image: int) -> dict[str, Any]:
    """A drawn person as COCO has one, but for its id."""
    keypoints = person.keypoints.copy()
    keypoints[:, 2] = person.visibility
    return {
        "image_id": image,
        "category_id": 1,
        "bbox": list(person.bbox),
        "area": person.area,
        "iscrowd": 0,
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
        "keypoints": [round(float(value), 3) for value in keypoints.reshape(-1)],
    }
