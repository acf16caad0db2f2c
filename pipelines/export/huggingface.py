"""A folder that `datasets.load_dataset` reads: one Parquet file a shard, and a card.

With conditioning its columns are those of diffusers' ControlNet training example (`--train_data_dir`): `image`,
`conditioning_image` (the skeletons on black, as large as the image), `text`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

import pyarrow as pa
from PIL import Image

from detectors.skeleton import draw_skeleton
from pipelines import record, shards
from pipelines.export.part import Part
from pipelines.record import Sample, table_to_samples
from pipelines.store import Store

DATA: Final = "data"
CONDITIONING: Final = pa.schema(
    [
        record.SCHEMA.field("image"),
        pa.field("conditioning_image", record.SCHEMA.field("image").type),
        ("text", pa.string()),
        ("key", pa.string()),
    ]
)


def files(part: Part, conditioning: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the Parquet file of a part."""
    table = part.read()
    if conditioning:
        table = pa.Table.from_pylist([_pair(sample) for sample in table_to_samples(table)], CONDITIONING)
    sink = io.BytesIO()
    shards.encode(table, part.done.identity, sink)
    yield f"{DATA}/{part.name}.parquet", sink.getvalue()


def finish(target: Store, parts: Sequence[Part], conditioning: bool) -> Mapping[str, Any]:
    """The card."""
    rows = sum(part.rows for part in parts)
    text = _CARD.format(rows=f"{rows:,}", columns=_PAIRS if conditioning else _RECORD)

    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    return {"README.md": write}


def _pair(sample: Sample) -> dict[str, Any]:
    people = [person for person in sample.people if not person.iscrowd]
    file = io.BytesIO()
    Image.fromarray(draw_skeleton(people, sample.height, sample.width)).save(file, "PNG", compress_level=6)
    return {
        "image": {"bytes": sample.image, "path": sample.image_path},
        "conditioning_image": {"bytes": file.getvalue(), "path": f"{sample.key}-skeleton.png"},
        "text": sample.caption,
        "key": sample.key,
    }


_CARD: Final = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
task_categories:
- text-to-image
---
# Images of people with text and poses

{rows} rows, exported by humansd. {columns}
"""
_RECORD: Final = """Each is an image, its `caption`, and its `people`: boxes (x, y, width, height) and 17 COCO
keypoints (x, y, confidence), in pixels."""
_PAIRS: Final = """Each is an image, its skeletons as a picture of the same size (`conditioning_image`: the limbs
of 17 COCO keypoints, a hue each, on black), its `text`, and the `key` it has in the dataset it comes from."""
