"""A dataset in formats of others: COCO JSON with its images beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from pipelines import dataset, shards
from pipelines.coco import PERSON_CATEGORY, annotation_of
from pipelines.config import UserError
from pipelines.record import Sample, table_to_samples
from pipelines.store import Store
from pipelines.taken import Takedowns

Json = dict[str, Any]

COCO_FILE: Final = "annotations.json"
IMAGES: Final = "images"
HEAD: Final = "annotations/coco.json"
"""Where an imported dataset keeps what its annotation file said besides images and annotations."""


def to_coco(out: str, folder: Path) -> tuple[int, int]:
    """Write the accepted samples of a dataset as `folder`/annotations.json and `folder`/images/; return how many
    images and annotations those are.

    What was imported from COCO JSON comes out as it went in: the same images and annotations, key for key and value
    for value, and the file's categories, licences and info. Other samples get ids from 1 on, in the dataset's order;
    caption, scene and key become `description`, `category` and `key`.

    Images keep their file names; those that the import encoded anew have other bytes under the same name.
    Raises UserError where `out` is no dataset, `folder` is not empty, or samples share an image id, or a file name but
    not its bytes.
    """
    store = Store(out)
    dataset.read_manifest(store)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; take another --out")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{COCO_FILE}.part"
    head = _head(store)
    with part.open("w", encoding="utf-8") as file:
        file.write("{")
        for name, value in head.items():
            file.write(f"{json.dumps(name)}: {json.dumps(value)},\n")
        images, annotations = _write(file, store, folder / IMAGES)
        file.write("}\n")
    part.replace(folder / COCO_FILE)  # last: a folder without it is not whole
    return images, annotations


def coco_records(sample: Sample, image_id: int, annotation_id: int) -> tuple[Json, list[Json]]:
    """Return a sample's COCO image and annotations: those it was imported with, else made of its columns.

    image_id, annotation_id: the ids to take (of the image, and of its first annotation) where it has none.
    """
    carried = json.loads(sample.annotation) if sample.annotation else {}
    if "image" in carried and "annotations" in carried:
        return carried["image"], carried["annotations"]
    image: Json = {
        "id": image_id,
        "file_name": sample.image_path,
        "width": sample.width,
        "height": sample.height,
        "description": sample.caption,
        "category": sample.scene,
        "key": sample.key,
    }
    people = [annotation_of(person, annotation_id + i, image_id) for i, person in enumerate(sample.people)]
    return image, people


def _head(store: Store) -> Json:
    try:
        head: Json = json.loads(store.read(HEAD))
    except FileNotFoundError:
        head = {"categories": [dict(PERSON_CATEGORY)]}
    return head


def _samples(store: Store) -> Iterator[Sample]:
    gone = Takedowns.read(store).keys
    for index in shards.done_indices(store):
        for sample in table_to_samples(shards.read_table(store, "shards", index)):
            if sample.key not in gone:  # a takedown that was interrupted leaves rows that must not go out
                yield sample


def _write(file: IO[str], store: Store, folder: Path) -> tuple[int, int]:
    """Write images and annotations as they come; the annotations wait in a file of their own."""
    seen: dict[Any, str] = {}
    waiting = folder.parent / ".waiting.part"
    images = annotations = 0
    file.write('"images": [')
    with waiting.open("w+", encoding="utf-8") as later:
        for sample in _samples(store):
            image, theirs = coco_records(sample, images + 1, annotations + 1)
            if image["id"] in seen:
                raise UserError(f"{seen[image['id']]} and {sample.key} have the same image id: {image['id']}")
            seen[image["id"]] = sample.key
            _write_image(folder, image["file_name"], sample)
            file.write(("," if images else "") + "\n" + json.dumps(image))
            for one in theirs:
                later.write(("," if annotations else "") + "\n" + json.dumps(one))
                annotations += 1
            images += 1
        file.write('],\n"annotations": [')
        later.seek(0)
        for line in later:
            file.write(line)
    file.write("]")
    waiting.unlink()
    return images, annotations


def _write_image(folder: Path, name: str, sample: Sample) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or sample.image is None:
        raise UserError(f"{sample.key}: its file name leads out of the folder: {name}")
    target = folder / path
    if target.exists() and target.read_bytes() != sample.image:
        raise UserError(f"{sample.key}: another image has its file name: {name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(sample.image)
