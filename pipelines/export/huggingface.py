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
from pipelines.card import about_source
from pipelines.dataset import read_manifest
from pipelines.export.part import Part, stores_of
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
    """The card, which says of each dataset what its own card says: licence, safety, limits."""
    abouts = [about_source(read_manifest(store)) for store in stores_of(parts)]
    licences = {about.licence for about in abouts}
    said = [
        f"## {about.title}\n\n{about.summary}\n\n{about.about_licence} {about.safety}\n\n{about.limits}\n"
        for about in abouts
    ]
    text = _CARD.format(
        licence=licences.pop() if len(licences) == 1 else "other",
        rows=f"{sum(part.rows for part in parts):,}",
        columns=_PAIRS if conditioning else _RECORD,
        sources="\n".join(said),
    )

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
license: {licence}
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

{sources}"""
_RECORD: Final = """Each is an image, its `caption`, and its `people`: boxes (x, y, width, height) and 17 COCO
keypoints (x, y, confidence), in pixels."""
_PAIRS: Final = """Each is an image, its skeletons as a picture of the same size (`conditioning_image`: the limbs
of 17 COCO keypoints, a hue each, on black), its `text`, and the `key` it has in the dataset it comes from."""
