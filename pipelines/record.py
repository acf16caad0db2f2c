"""The one record: a sample is a Parquet row, a candidate that was not accepted is a ledger row.

The schemas are written here by hand and nowhere else. None means *not measured*; empty means *measured, nothing there*.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from detectors.types import NUM_KEYPOINTS, Person

SCHEMA_VERSION: Final = 1
"""Raised when columns or their meaning change."""

DATA_VERSION: Final = 1
"""Raised only when the same identity gives other output bytes than before; never a commit id."""

ROW_GROUP_ROWS: Final = 100

_MOST_BYTES: Final = 2**31 - 1
"""That one Arrow array of bytes can hold; Arrow makes several of more."""

WORKER_STAGE: Final = "worker"
"""`LedgerRow.stage` of a candidate that was lost to its process rather than judged by a gate."""

KILLED_WORKER: Final = "killed_worker"
"""`LedgerRow.reason` of a quarantined candidate: running it killed the worker process, three times."""

PROMPT_PARTS: Final[tuple[str, ...]] = (
    "realism",
    "scene",
    "people",
    "age_looks",
    "clothing",
    "action",
    "companion",
    "place",
    "time_of_day",
    "season_weather",
    "camera",
    "composition",
    "light",
    "mood",
    "medium",
    "colour",
    "resolution",
    "praise",
)
"""The grammar's 18 parts, as columns of the `prompt` struct."""

PromptColumns = Mapping[str, str | int | None]
"""The 18 parts as chosen (None where dropped), `num_people` as asked (int) and `negative` (str)."""


@dataclass(frozen=True, slots=True)
class Generation:
    """How an image was sampled. seed is the dataset's seed; the noise seed follows from (seed, index, attempt)."""

    model: str
    revision: str | None
    scheduler: str
    steps: int
    guidance: float
    seed: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an image came from. width and height are those of the original file, in pixels."""

    url: str | None = None
    page: str | None = None
    width: int | None = None
    height: int | None = None
    sha256: str | None = None
    licence: str | None = None
    author: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its text and poses: one row of `shards/` (and of `rejected/`, which adds stage and reason).

    key: unique across runs: `ghi-<8 hex of the identity hash>-<index>`, `laion-<sha256[:16] of url>`, `humanart-<id>`.
    image: encoded JPEG, WebP or PNG bytes; None only for rejects that must not keep bytes (safety).
    image_path: the image's file name, `<key>.<extension>`.
    people: boxes measured from the image's corner, keypoints from the centre of its first pixel (`detectors.types`).
    width, height: pixels of `image`. phash: unsigned 64-bit perceptual hash of it.
    annotation: JSON of what else an imported record carried.
    The scores are stored as measured; None means not measured.
    """

    key: str
    source: str
    image: bytes | None
    image_path: str
    width: int
    height: int
    caption: str
    people: tuple[Person, ...]
    annotation: str | None = None
    scene: str | None = None
    action: str | None = None
    prompt: PromptColumns | None = None
    generation: Generation | None = None
    origin: Origin | None = None
    clip_score: float | None = None
    aesthetic: float | None = None
    nsfw: float | None = None
    watermark: float | None = None
    phash: int | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A candidate that a gate turned down, kept with its image for a second look."""

    sample: Sample
    stage: str
    reason: str
    attempt: int


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One candidate that was not accepted, and why. No image.

    stage and reason name where and why it ended; measured holds what was measured until then (non-finite → null).
    attempt is 1-based; sources without attempts use 1.
    """

    key: str
    shard: int
    attempt: int
    stage: str
    reason: str
    measured: Mapping[str, float | None]
    asked_people: int | None = None
    found_people: int | None = None
    caption: str | None = None
    scene: str | None = None
    action: str | None = None
    url: str | None = None
    seed: int | None = None


_FLOATS = pa.list_(pa.float32())

PERSON_TYPE: Final = pa.struct(
    [
        ("bbox", _FLOATS),
        ("score", pa.float32()),
        ("area", pa.float32()),
        ("keypoints", _FLOATS),
        ("visibility", pa.list_(pa.int8())),
        ("keypoints21", _FLOATS),
        ("self_contact", _FLOATS),
        ("iscrowd", pa.int8()),
        ("annotation_id", pa.int64()),
    ]
)

PROMPT_TYPE: Final = pa.struct(
    [*((part, pa.string()) for part in PROMPT_PARTS), ("num_people", pa.int8()), ("negative", pa.string())]
)

GENERATION_TYPE: Final = pa.struct(
    [
        ("model", pa.string()),
        ("revision", pa.string()),
        ("scheduler", pa.string()),
        ("steps", pa.int32()),
        ("guidance", pa.float32()),
        ("seed", pa.int64()),
        ("attempt", pa.int32()),
    ]
)

ORIGIN_TYPE: Final = pa.struct(
    [
        ("url", pa.string()),
        ("page", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("licence", pa.string()),
        ("author", pa.string()),
    ]
)

# `source` is a plain string with Parquet's dictionary encoding: an Arrow dictionary type would make readers that check
# schemas (`datasets`, Ray) disagree between files.
SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("caption", pa.string()),
        ("num_people", pa.int8()),
        ("min_keypoint_score", pa.float32()),
        ("people", pa.list_(PERSON_TYPE)),
        ("annotation", pa.string()),
        ("scene", pa.string()),
        ("action", pa.string()),
        ("prompt", PROMPT_TYPE),
        ("generation", GENERATION_TYPE),
        ("origin", ORIGIN_TYPE),
        ("clip_score", pa.float32()),
        ("aesthetic", pa.float32()),
        ("nsfw", pa.float32()),
        ("watermark", pa.float32()),
        ("phash", pa.uint64()),
    ]
)

REJECTED_SCHEMA: Final = pa.schema([*SCHEMA, ("attempt", pa.int32()), ("stage", pa.string()), ("reason", pa.string())])

LEDGER_SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("attempt", pa.int32()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("measured", pa.string()),
        ("asked_people", pa.int8()),
        ("found_people", pa.int8()),
        ("caption", pa.string()),
        ("scene", pa.string()),
        ("action", pa.string()),
        ("url", pa.string()),
        ("seed", pa.int64()),
    ]
)


def min_keypoint_score(people: Sequence[Person]) -> float | None:
    """The lowest of the mean keypoint confidences (0-1) of `people`: how sure the least sure pose is. None if empty.

    Crowds, which are annotated as one region, do not count.
    """
    return min((float(person.keypoints[:, 2].mean()) for person in people if not person.iscrowd), default=None)


def samples_to_table(samples: Sequence[Sample]) -> pa.Table:
    """Samples as a table of `SCHEMA`, in the order given.

    num_people and min_keypoint_score follow from people, crowds left out.
    """
    return pa.Table.from_pydict(_sample_columns(samples), schema=SCHEMA)


def rejected_to_table(rejected: Sequence[Rejected]) -> pa.Table:
    """Rejected candidates as a table of `REJECTED_SCHEMA`."""
    columns = _sample_columns([row.sample for row in rejected])
    columns["attempt"] = [row.attempt for row in rejected]
    columns["stage"] = [row.stage for row in rejected]
    columns["reason"] = [row.reason for row in rejected]
    return pa.Table.from_pydict(columns, schema=REJECTED_SCHEMA)


def ledger_to_table(rows: Sequence[LedgerRow]) -> pa.Table:
    """Ledger rows as a table of `LEDGER_SCHEMA`."""
    columns = {name: [getattr(row, name) for row in rows] for name in LEDGER_SCHEMA.names}
    columns["measured"] = [dump_measured(row.measured) for row in rows]
    return pa.Table.from_pydict(columns, schema=LEDGER_SCHEMA)


def table_to_samples(table: pa.Table) -> list[Sample]:
    """The inverse of `samples_to_table`; columns beyond `SCHEMA` are ignored."""
    return [_row_to_sample(row) for row in table.select(SCHEMA.names).to_pylist()]


def table_to_rejected(table: pa.Table) -> list[Rejected]:
    """The inverse of `rejected_to_table`."""
    return [
        Rejected(_row_to_sample(row), row["stage"], row["reason"], row["attempt"])
        for row in table.select(REJECTED_SCHEMA.names).to_pylist()
    ]


def table_to_ledger(table: pa.Table) -> list[LedgerRow]:
    """The inverse of `ledger_to_table`."""
    rows = table.select(LEDGER_SCHEMA.names).to_pylist()
    return [LedgerRow(**{**row, "measured": json.loads(row["measured"])}) for row in rows]


def huggingface_features(schema: pa.Schema) -> dict[str, Any]:
    """The Hugging Face `datasets` feature dictionary of a schema: `image` decodes, lists of structs stay lists."""
    return {field.name: _feature(field.name, field.type) for field in schema}


def with_file_metadata(table: pa.Table, identity_hash: str) -> pa.Table:
    """The table with the Parquet file metadata of this record: versions, identity and Hugging Face features."""
    return table.replace_schema_metadata(
        {
            "humansd.schema_version": str(SCHEMA_VERSION),
            "humansd.data_version": str(DATA_VERSION),
            "humansd.identity": identity_hash,
            "huggingface": _huggingface_metadata(table.schema.remove_metadata()),
        }
    )


@functools.cache
def _huggingface_metadata(schema: pa.Schema) -> str:
    return json.dumps({"info": {"features": huggingface_features(schema)}})


def _feature(name: str, kind: pa.DataType) -> Any:
    if name in ("image", "conditioning_image"):
        return {"_type": "Image"}
    if pa.types.is_struct(kind):
        fields = (kind.field(i) for i in range(kind.num_fields))
        return {field.name: _feature(field.name, field.type) for field in fields}
    if pa.types.is_list(kind):
        return [_feature("", kind.value_type)]  # the list notation is read by every version of `datasets`
    return {"dtype": {"float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}


def _sample_columns(samples: Sequence[Sample]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name in SCHEMA.names:
        if name in Sample.__slots__:
            columns[name] = [getattr(sample, name) for sample in samples]
    columns["image"] = _images(samples)
    columns["num_people"] = [sum(not person.iscrowd for person in sample.people) for sample in samples]
    columns["min_keypoint_score"] = [min_keypoint_score(sample.people) for sample in samples]
    columns["people"] = [[_slots_to_dict(person) for person in sample.people] for sample in samples]
    for person in (person for people in columns["people"] for person in people):
        person["keypoints"] = np.asarray(person["keypoints"], np.float32).reshape(3 * NUM_KEYPOINTS)
    columns["generation"] = [sample.generation and _slots_to_dict(sample.generation) for sample in samples]
    columns["origin"] = [sample.origin and _slots_to_dict(sample.origin) for sample in samples]
    return {name: columns[name] for name in SCHEMA.names}


def _images(samples: Sequence[Sample]) -> pa.StructArray | pa.ChunkedArray:
    """The image column, its bytes copied once: Arrow's own way from Python objects grows and moves them."""
    kind = SCHEMA.field("image").type
    sizes = [0, *(len(sample.image or b"") for sample in samples)]
    if sum(sizes) > _MOST_BYTES:
        images = ({"bytes": sample.image, "path": sample.image_path} for sample in samples)
        return pa.array([image if image["bytes"] is not None else None for image in images], kind)
    offsets = pa.array(np.cumsum(sizes), pa.int32())
    data = pa.py_buffer(b"".join(sample.image for sample in samples if sample.image is not None))
    missing = pa.array([sample.image is None for sample in samples], pa.bool_())
    values = pa.Array.from_buffers(pa.binary(), len(samples), [None, offsets.buffers()[1], data])
    paths = pa.array([sample.image_path for sample in samples], pa.string())
    return pa.StructArray.from_arrays([values, paths], fields=list(kind), mask=missing)


def _slots_to_dict(record: Person | Generation | Origin) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _row_to_sample(row: dict[str, Any]) -> Sample:
    image = row["image"] or {"bytes": None, "path": ""}
    return Sample(
        **{name: row[name] for name in Sample.__slots__ if name in row and name not in _NESTED},
        image=image["bytes"],
        image_path=image["path"],
        people=tuple(row_to_person(person) for person in row["people"]),
        generation=row["generation"] and Generation(**row["generation"]),
        origin=row["origin"] and Origin(**row["origin"]),
    )


_NESTED: Final = ("image", "image_path", "people", "generation", "origin")


def row_to_person(row: dict[str, Any]) -> Person:
    """A person of the `people` column as Python reads it."""
    keypoints = np.array(row["keypoints"], np.float32).reshape(NUM_KEYPOINTS, 3)
    lists = {name: None if row[name] is None else tuple(row[name]) for name in _PERSON_LISTS}
    return Person(**{**row, **lists, "keypoints": keypoints})


_PERSON_LISTS: Final = ("bbox", "visibility", "keypoints21", "self_contact")


def dump_measured(measured: Mapping[str, float | None]) -> str:
    """The ledger's `measured` column: JSON, sorted by name, non-finite values as null."""
    finite: Iterable[tuple[str, float | None]] = (
        (name, value if value is not None and math.isfinite(value) else None) for name, value in measured.items()
    )
    return json.dumps(dict(sorted(finite)))
