"""A small annotated set in Human-Art's layout, drawn, with every odd record that such sets have."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from detectors.types import Person
from pipelines.coco import PERSON_CATEGORY
from pipelines.mini.render import draw
from pipelines.mini.world import SCENES, World

Json = dict[str, Any]

SIZE = 96
FIRST = 2_000_000_000_001
ODD_IMAGES = ("turned", "shown", "upside", "cmyk", "sixteen", "palette", "grey", "animated", "alpha")
"""Images that are accepted, but encoded anew."""
GOOD = 8
"""Plain images; 1 has a crowd, 2 a person without keypoints, 3 another category, 4 neither size nor area."""


def drawing(seed: int, people: int) -> tuple[Image.Image, tuple[Person, ...]]:
    """Draw a picture of so many people."""
    world = World(scene=SCENES[seed % len(SCENES)], num_people=people, pose="stand")
    drawn = draw(world, np.random.default_rng(seed), SIZE)
    return Image.fromarray(drawn.image), drawn.people


def image_record(number: int, scene: str, suffix: str = "png") -> Json:
    return {
        "file_name": f"HumanArt/images/{scene}/{number:06d}.{suffix}",
        "id": FIRST + number,
        "width": SIZE,
        "height": SIZE,
        "page_url": f"https://example.org/page/{number}",
        "image_url": f"https://example.org/image/{number}.{suffix}",
        "picture_name": f"Nº {number}",
        "author": "测试",
        "description": f"a drawn person, number {number}",
        "category": scene,
        "license": 3,
    }


def annotation(person: Person, image_id: int, annotation_id: int) -> Json:
    """Return a person as Human-Art annotates one, in numbers that float32 does not hold exactly."""
    assert person.visibility is not None
    rng = np.random.default_rng(annotation_id)
    flat: list[float] = []
    for (x, y, _), seen in zip(person.keypoints.tolist(), person.visibility, strict=True):
        flat += [round(x, 3) + 0.1, round(y, 3) + 0.1, seen] if seen else [0, 0, 0]
    more = [round(float(value), 2) for value in rng.uniform(1, SIZE, 12)]
    more[2::3] = [2.0, 1.0, 0.0, 2.0]
    return {
        "keypoints": flat,
        "keypoints_21": flat + more,
        "self_contact": [round(float(value), 2) for value in rng.uniform(1, SIZE, 4)],
        "num_keypoints": sum(seen > 0 for seen in person.visibility),
        "num_keypoints_21": 20,
        "iscrowd": 0,
        "image_id": image_id,
        "area": person.area + 0.123456789,
        "bbox": [value + 0.01 for value in person.bbox],
        "category_id": 1,
        "id": annotation_id,
        "annotator": 7,
        "segmentation": [],
    }


def png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


def _turned(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return png(image, format="JPEG", quality=95, exif=exif)


def _sixteen(image: Image.Image) -> bytes:
    return png(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257))


def _animated(image: Image.Image) -> bytes:
    return png(image, format="GIF", save_all=True, append_images=[image.rotate(90)])


def _alpha(image: Image.Image) -> bytes:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return png(image)


ENCODINGS: dict[str, Callable[[Image.Image], bytes]] = {
    # annotations refer to the pixels as stored, a third of the width cut off so that sides tell
    "turned": lambda image: _turned(image.crop((0, 0, SIZE - 32, SIZE)), 6),
    # annotations refer to the picture as shown: stored lying
    "shown": lambda image: _turned(image.crop((0, 0, SIZE - 32, SIZE)).transpose(Image.Transpose.ROTATE_90), 6),
    "upside": lambda image: _turned(image, 3),
    "cmyk": lambda image: png(image.convert("CMYK"), format="JPEG", quality=95),
    "sixteen": _sixteen,
    "palette": lambda image: png(image.quantize(32), transparency=0),
    "grey": lambda image: png(image.convert("L")),
    "animated": _animated,
    "alpha": _alpha,
}

REJECTED = {
    "only_crowd": ("annotation", "no_keypoints"),
    "zero": ("annotation", "no_keypoints"),
    "nobody": ("annotation", "no_annotations"),
    "nan": ("annotation", "not_finite"),
    "short": ("annotation", "bad_keypoints"),
    "outside": ("annotation", "box_outside"),
    "empty_box": ("annotation", "bad_box"),
    "legion": ("annotation", "too_many_people"),
    "missing": ("file", "missing_file"),
    "folder": ("file", "not_a_file"),
    "escape": ("file", "outside_root"),
    "absolute": ("file", "outside_root"),
    "link": ("file", "outside_root"),
    "mismatch": ("image", "size_mismatch"),
    "broken": ("image", "broken"),
    "truncated": ("image", "truncated"),
    "bomb": ("image", "too_many_pixels"),
    "float": ("image", "unsupported"),
}
"""What is wrong with an image → stage and reason in the ledger."""


def write_set(root: Path, odd: bool = True, copies: int = 1) -> Path:
    """Write the set below `root`; return the annotation file. odd: with all that is odd. copies: of the plain part."""
    images: list[Json] = []
    annotations: list[Json] = []
    scenes = ("cartoon", "oil_painting", "kids_drawing", "stained_glass")

    def add(
        number: int, data: bytes | None, people: tuple[Person, ...], suffix: str = "png"
    ) -> tuple[Json, list[Json]]:
        record = image_record(number, scenes[number % len(scenes)], suffix)
        theirs = [annotation(p, record["id"], 100 * number + i) for i, p in enumerate(people, 1)]
        if data is not None:
            path = root / record["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        images.append(record)
        annotations.extend(theirs)
        return record, theirs

    for number in range(GOOD * copies):
        image, people = drawing(number, 1 + number % 3)
        data = png(image) if number % 2 else png(image, format="JPEG", quality=95)
        record, theirs = add(number, data, people, "png" if number % 2 else "jpg")
        _vary(number, record, theirs, annotations)
    if odd:
        _add_odd(root, add, annotations)
        images.append({**image_record(5, "mural"), "picture_name": "another image of this id"})
        images.append(dict(images[0]))  # the same image twice
        images.append({"file_name": "no id.png"})
        annotations.append({**copy.deepcopy(annotations[0]), "id": 999_001, "image_id": 77})
        annotations.append({**copy.deepcopy(annotations[0]), "id": 999_002, "image_id": "what"})
    head = {
        "info": {"description": "drawn", "version": 1.0},
        "licenses": [{"id": 3, "name": "Apache-2.0"}],
        "categories": [dict(PERSON_CATEGORY), {"id": 2, "name": "dog"}],
    }
    rng = np.random.default_rng(0)
    rng.shuffle(images)  # type: ignore[arg-type]
    file = root / "HumanArt" / "annotations" / "training_humanart.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**head, "images": images, "annotations": annotations}, indent=1), encoding="utf-8")
    return file


def _vary(number: int, record: Json, theirs: list[Json], annotations: list[Json]) -> None:
    if number == 1:
        annotations.append({**copy.deepcopy(theirs[0]), "id": 990_001, "iscrowd": 1, "keypoints": [0] * 51})
    if number == 2:
        theirs[0] |= {"keypoints": [0] * 51, "num_keypoints": 0}
    if number == 3:
        dog = {"id": 990_003, "image_id": record["id"], "category_id": 2, "bbox": [1, 2, 3, 4], "note": "a dog"}
        annotations.append(dog)
    if number == 4:
        del record["width"], record["height"], theirs[0]["area"], theirs[0]["self_contact"]


def _add_odd(root: Path, add: Callable[..., tuple[Json, list[Json]]], annotations: list[Json]) -> None:
    number = 1000
    for name in ODD_IMAGES:
        image, people = drawing(number, 1)
        record, _ = add(number, ENCODINGS[name](image), people)
        record["picture_name"] = name
        if name in ("turned", "shown"):
            record["width"] = SIZE - 32
        number += 1
    for name in REJECTED:
        image, people = drawing(number, 1)
        data: bytes | None = png(image)
        if name == "truncated":
            data = png(image, format="JPEG")[:-200]
        elif name == "broken":
            data = b"no picture" * 20
        elif name == "bomb":
            data = png(Image.new("1", (12_000, 9_000)))
        elif name == "float":
            data = png(Image.fromarray(np.zeros((SIZE, SIZE), np.float32)), format="TIFF")
        elif name in ("missing", "folder", "escape", "absolute", "link"):
            data = None
        record, theirs = add(number, data, () if name == "nobody" else people)
        record["picture_name"] = name
        _spoil(root, name, record, theirs, annotations)
        number += 1


def _spoil(root: Path, name: str, record: Json, theirs: list[Json], annotations: list[Json]) -> None:
    outside = root.parent / "outside.png"
    outside.write_bytes(png(ImageOps.invert(drawing(1, 1)[0])))
    if name == "only_crowd":
        theirs[0]["iscrowd"] = 1
    elif name == "zero":
        theirs[0]["keypoints"] = [0] * 51
    elif name == "nan":
        theirs[0]["keypoints"][0] = float("nan")
    elif name == "short":
        theirs[0]["keypoints"].pop()
    elif name == "outside":
        theirs[0]["bbox"] = [SIZE + 3, 1, 4, 5]
    elif name == "empty_box":
        theirs[0]["bbox"] = [1, 1, 0, 5]
    elif name == "legion":
        annotations += [{**copy.deepcopy(theirs[0]), "id": 1_000_000 + index} for index in range(130)]
    elif name == "folder":
        (root / record["file_name"]).mkdir(parents=True)
    elif name == "escape":
        record["file_name"] = "../outside.png"
    elif name == "absolute":
        record["file_name"] = str(outside)
    elif name == "link":
        (root / record["file_name"]).symlink_to(outside)
    elif name == "mismatch":
        record["width"] = SIZE + 1
