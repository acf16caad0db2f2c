"""COCO JSON with its images beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final

from pipelines.coco import PERSON_CATEGORY, annotation_of
from pipelines.config import UserError
from pipelines.export.part import FRAGMENTS, Part, stores_of
from pipelines.record import Sample, table_to_samples
from pipelines.store import Store

Json = dict[str, Any]

COCO_FILE: Final = "annotations.json"
IMAGES: Final = "images"
HEAD: Final = "annotations/coco.json"
"""Where an imported dataset keeps what its annotation file said besides images and annotations."""


def files(part: Part) -> Iterator[tuple[str, bytes]]:
    """Yield the images of a part under their file names, and a line a sample for `_records`.

    What was imported from COCO JSON comes out as it went in, unless other poses take the place of its own. Raises
    UserError for a file name that leads out of the folder.
    """
    lines = []
    for sample in table_to_samples(part.read()):
        carried = _carried(sample) if part.poses is None else None
        image, people = carried or coco_records(sample, 0, 0)
        name = PurePosixPath(image["file_name"])
        if name.is_absolute() or ".." in name.parts or sample.image is None:
            raise UserError(f"{sample.key}: its file name leads out of the folder: {image['file_name']}")
        yield f"{IMAGES}/{name}", sample.image
        digest = hashlib.sha256(sample.image).hexdigest()
        lines.append(json.dumps([sample.key, digest, carried is not None, image, people]) + "\n")
    yield f"{FRAGMENTS}/{part.name}.json", "".join(lines).encode()


def finish(target: Store, parts: Sequence[Part]) -> Mapping[str, Any]:
    """The annotation file: categories, licences and info of the imported set, images and annotations of all parts.

    Samples that carry no ids of their own get them from 1 on, in the dataset's order; caption, scene and key are their
    `description`, `category` and `key`. Raises UserError where samples share an image id, or datasets have annotation
    files with other categories, licences or info.
    """
    head = _head(parts)
    _check_ids(target, parts)

    def write(file: BinaryIO) -> None:
        file.write(b"{")
        for name, value in head.items():
            file.write(f"{json.dumps(name)}: {json.dumps(value)},\n".encode())
        file.write(b'"images": [')
        _write_list(file, ([image] for _, _, image, _ in _records(target, parts)))
        file.write(b',\n"annotations": [')
        _write_list(file, (people for _, _, _, people in _records(target, parts)))
        file.write(b"}\n")

    return {COCO_FILE: write}


def coco_records(sample: Sample, image_id: int, annotation_id: int) -> tuple[Json, list[Json]]:
    """Return a sample's COCO image and annotations: those it was imported with, else made of its columns.

    image_id, annotation_id: the ids to take (of the image, and of its first annotation) where it has none.
    """
    carried = _carried(sample)
    if carried is not None:
        return carried
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


def _carried(sample: Sample) -> tuple[Json, list[Json]] | None:
    carried = json.loads(sample.annotation) if sample.annotation else {}
    if "image" in carried and "annotations" in carried:
        return carried["image"], carried["annotations"]
    return None


def _head(parts: Sequence[Part]) -> Json:
    heads: list[Json] = []
    for store in stores_of(parts):
        try:
            head = json.loads(store.read(HEAD))
        except FileNotFoundError:
            head = {"categories": [dict(PERSON_CATEGORY)]}
        if head not in heads:
            heads.append(head)
    if len(heads) > 1:
        raise UserError("these datasets have other categories or licences each: export them one by one")
    return heads[0]


def _records(target: Store, parts: Sequence[Part]) -> Iterator[tuple[str, str, Json, list[Json]]]:
    """Yield (key, sha256 of the file, image, annotations) of all samples, with ids."""
    images = annotations = 0
    for part in parts:
        for line in target.read(f"{FRAGMENTS}/{part.name}.json").splitlines():
            key, digest, has_ids, image, people = json.loads(line)
            if not has_ids:
                image["id"] = images + 1
                for number, one in enumerate(people, annotations + 1):
                    one["id"], one["image_id"] = number, images + 1
            images += 1
            annotations += len(people)
            yield key, digest, image, people


def _check_ids(target: Store, parts: Sequence[Part]) -> None:
    ids: dict[Any, str] = {}
    files: dict[str, tuple[str, str]] = {}
    for key, digest, image, _ in _records(target, parts):
        if image["id"] in ids:
            raise UserError(f"{ids[image['id']]} and {key} have the same image id: {image['id']}")
        ids[image["id"]] = key
        other, its = files.setdefault(image["file_name"], (key, digest))
        if its != digest:
            raise UserError(f"{other} and {key} have the same file name and other bytes: {image['file_name']}")


def _write_list(file: BinaryIO, groups: Iterator[Sequence[Json]]) -> None:
    separator = b"\n"
    for group in groups:
        for one in group:
            file.write(separator + json.dumps(one).encode())
            separator = b",\n"
    file.write(b"]")
