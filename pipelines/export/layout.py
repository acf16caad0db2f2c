"""The layout of HumanSD's release: images, one `.npz` of poses an image, and a mapping from keys to both.

The release's loader takes the mapping's values in their order, joins `img_path` and `pose_path` to its `base_path`, and
reads person i's `["keypoints"]` (17 x (x px, y px, confidence)) from the array `arr_0`. There that is an array of
pickled dicts; a structured array answers to the same names and needs no pickle.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from detectors.types import NUM_KEYPOINTS, Person
from pipelines.export.part import FRAGMENTS, Part, suffix_of
from pipelines.record import table_to_samples
from pipelines.store import Store

MAPPING: Final = "mapping_file_training.json"
POSE: Final = np.dtype(
    [
        ("keypoints", np.float32, (NUM_KEYPOINTS, 3)),
        ("bbox", np.float32, (4,)),
        ("score", np.float32),
        ("area", np.float32),
    ]
)
"""A person of `arr_0`: keypoints and box (x, y, width, height) in pixels, confidence 0-1, area in square pixels."""


def files(part: Part) -> Iterator[tuple[str, bytes]]:
    """Yield the images and poses of a part, and what it adds to the mapping: one line a sample."""
    lines = []
    for sample in table_to_samples(part.read()):
        assert sample.image is not None
        image = f"images/{part.name}/{sample.key}.{suffix_of(sample.image)}"
        pose = f"pose/{part.name}/{sample.key}.npz"
        yield image, sample.image
        yield pose, _npz(poses(sample.people))
        entry = {"img_path": image, "pose_path": pose, "prompt": sample.caption}
        lines.append(f"{json.dumps(sample.key)}: {json.dumps(entry, ensure_ascii=False)}\n")
    yield f"{FRAGMENTS}/{part.name}.json", "".join(lines).encode()


def finish(target: Store, parts: Sequence[Part]) -> Mapping[str, Any]:
    """The mapping of all parts."""

    def write(file: BinaryIO) -> None:
        file.write(b"{")
        separator = b"\n"
        for part in parts:
            for line in target.read(f"{FRAGMENTS}/{part.name}.json").splitlines():
                file.write(separator + line)
                separator = b",\n"
        file.write(b"\n}\n")

    return {MAPPING: write}


def poses(people: Sequence[Person]) -> NDArray[Any]:
    """People as an array of `POSE`, crowds left out."""
    single = [person for person in people if not person.iscrowd]
    found = np.zeros(len(single), POSE)
    for row, person in zip(found, single, strict=True):
        row["keypoints"], row["bbox"], row["score"], row["area"] = (
            person.keypoints,
            person.bbox,
            person.score,
            person.area,
        )
    return found


def _npz(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, array)  # under the name `arr_0`, with the date that zip files start at
    return file.getvalue()
