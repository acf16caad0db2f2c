"""Rows of shards as a training needs them: picture, caption and keypoints, or what was computed of them before."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from detectors.types import NUM_KEYPOINTS
from pipelines import columns
from pipelines.record import Sample
from pipelines.store import Store

Float32 = NDArray[np.float32]

LATENTS: Final = ("latent", "skeleton_latent", "text_states")
"""What added columns hold that `humansd train cache` makes: float16 arrays as bytes, their shapes beside them."""

_WANTED: Final = ("key", "width", "height", "caption", "people")


@dataclass(frozen=True, slots=True)
class Row:
    """A sample as stored.

    keypoints: (N, 17, 3) of all people but crowds, the largest first. image: encoded; None where `latents` are read.
    """

    key: str
    width: int
    height: int
    caption: str
    keypoints: Float32
    image: memoryview | bytes | None
    latents: dict[str, NDArray[np.float16]]


def read_rows(
    store: Store, index: int, wanted: Sequence[int], poses: str | None = None, latents: str | None = None
) -> list[Row | None]:
    """Some rows of a shard, in the order asked for; None in place of rows that it does not have any more.

    poses, latents: names of added columns to take people from, and latents in place of the image.
    Raises what reading a damaged file raises, and UserError where there are no such columns.
    """
    names = [*_WANTED] if latents else [*_WANTED, "image"]
    table = columns.read_shard(store, index, names, [latents] if latents else [], poses)
    there = [row for row in wanted if row < table.num_rows]
    places: Sequence[int] = there
    if 2 * len(there) < table.num_rows:  # a copy costs less than to keep all the others in memory
        table, places = table.take(pa.array(there, pa.int64())), range(len(there))
    rows = _rows(table.combine_chunks(), latents)
    found = {row: rows[place] for row, place in zip(there, places, strict=True)}
    return [found.get(row) for row in wanted]


def stored_row(sample: Sample) -> Row:
    """A sample of the record as a training needs it."""
    people = sorted((person for person in sample.people if not person.iscrowd), key=lambda person: -person.area)
    keypoints = np.array([person.keypoints for person in people], np.float32).reshape(-1, NUM_KEYPOINTS, 3)
    return Row(sample.key, sample.width, sample.height, sample.caption, keypoints, sample.image or b"", {})


def _rows(table: pa.Table, latents: str | None) -> list[Row]:
    """The rows of a table of one chunk a column; images stay where they are, in its memory."""
    if not table.num_rows:
        return []
    people = _keypoints(table["people"].chunk(0))
    keys, captions = table["key"].to_pylist(), table["caption"].to_pylist()
    widths, heights = table["width"].to_pylist(), table["height"].to_pylist()
    if latents is None:
        encoded = pc.struct_field(table["image"].chunk(0), "bytes")
        # Arrow's bytes are signed to Python: no JPEG's marker would be found in them
        images: list[memoryview | None] = [memoryview(data.as_buffer() or b"").cast("B") for data in encoded]
        arrays: list[dict[str, NDArray[np.float16]]] = [{} for _ in keys]
    else:
        images = [None] * len(keys)
        arrays = [
            _arrays(row, latents) for row in table.select([n for n in table.column_names if "." in n]).to_pylist()
        ]
    return [
        Row(key, width, height, caption or "", keypoints, image, more)
        for key, width, height, caption, keypoints, image, more in zip(
            keys, widths, heights, captions, people, images, arrays, strict=True
        )
    ]


def _arrays(row: dict[str, object], name: str) -> dict[str, NDArray[np.float16]]:
    found = {}
    for column in LATENTS:
        data, shape = row[f"{name}.{column}"], row[f"{name}.{column}_shape"]
        if isinstance(data, bytes) and isinstance(shape, list):  # null where the row killed the process that made it
            found[column] = np.frombuffer(data, np.float16).reshape(shape)
    return found


def _keypoints(people: pa.Array) -> list[Float32]:
    """Keypoints (N, 17, 3) of each row of a `people` column, without crowds, the largest person first."""
    offsets = people.offsets.to_numpy()
    person = people.values
    points = person.field("keypoints")
    lengths = np.diff(points.offsets.to_numpy())
    if (lengths != NUM_KEYPOINTS * 3).any():
        raise ValueError(f"a person has not {NUM_KEYPOINTS} keypoints")
    flat = points.values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    first = int(points.offsets[0].as_py())
    every = flat[first : first + int(lengths.sum())].reshape(-1, NUM_KEYPOINTS, 3)
    area = person.field("area").to_numpy(zero_copy_only=False)
    crowd = pc.fill_null(person.field("iscrowd"), 0).to_numpy(zero_copy_only=False) != 0
    found = []
    for start, stop in itertools.pairwise(offsets):
        kept = start + np.flatnonzero(~crowd[start:stop])
        found.append(every[kept[np.argsort(-area[kept], kind="stable")]])
    return found
