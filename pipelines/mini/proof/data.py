"""Drawn pictures of grammar prompts as an annotated set in Human-Art's layout: what `humansd humanart` imports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from pipelines.coco import PERSON_CATEGORY
from pipelines.mini.render import draw
from pipelines.mini.train.captions import Captions
from pipelines.mini.train.mm_data import annotation
from prompts.grammar import load_grammar

SEED: Final = 40_000_003
"""Grammar seed of these pictures; the miniatures were trained and are judged on others."""
HELD_OUT: Final = 1_000_000
"""Grammar index of the first picture that is not trained on."""


def write_set(root: Path, first: int, count: int) -> Path:
    """Draw the pictures of `count` prompts from index `first` on, with captions and poses; return the annotation file.

    What is there is left as it is.
    """
    path = root / "annotations.json"
    if path.exists():
        return path
    (root / "images").mkdir(parents=True, exist_ok=True)
    captions = Captions(load_grammar(), SEED)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(first, first + count):
        prompt, world = captions.at(index)
        drawing = draw(world, np.random.default_rng((SEED, index)))
        name = f"images/{index:07d}.png"
        cv2.imwrite(str(root / name), drawing.image[..., ::-1])
        height, width = drawing.image.shape[:2]
        about = {"description": prompt.text, "category": prompt.scene.replace("-", "_")}
        images.append({"id": index, "file_name": name, "width": width, "height": height, **about})
        for number, person in enumerate(drawing.people):
            annotations.append({**annotation(person, index), "id": index * 10 + number})
    told = {"images": images, "annotations": annotations, "categories": [dict(PERSON_CATEGORY)]}
    written = path.with_suffix(".tmp")
    written.write_text(json.dumps(told), encoding="utf-8")
    written.replace(path)
    return path
