"""The work of an import shard: read each image, check it and its annotations, and account for every record.

What a record needs travels in OUT/annotations (`write_records`), so that workers never see the annotation file.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from detectors.types import Person
from pipelines.coco import UnusableError, annotated_size, is_person, person_of, scene_of, text_of
from pipelines.coco_file import Json, Record
from pipelines.humanart.config import ImportConfig
from pipelines.images import SUFFIXES, encode_image, perceptual_hash
from pipelines.pictures import SUFFIX, Folder, Picture, PictureError, open_picture, read_first
from pipelines.record import KILLED_WORKER, WORKER_STAGE, LedgerRow, Origin, Rejected, Sample
from pipelines.shards import read_table
from pipelines.store import Store, UnreachableError
from pipelines.taken import STAGE, removed
from pipelines.work import ShardContext, ShardResult

ANNOTATIONS: Final = "annotations"
"""Folder of OUT with each shard's records of the annotation file, as Parquet."""
ROUND: Final = 16
"""Images between two breadcrumbs."""
MOST_PEOPLE: Final = 127
"""`num_people` is a column of int8."""

RECORD_SCHEMA: Final = pa.schema(
    [("name", pa.string()), ("image", pa.string()), ("annotations", pa.list_(pa.string())), ("trouble", pa.string())]
)

URLS: Final = ("image_url", "coco_url")
"""Where image records say an image was found."""


class Why(NamedTuple):
    """Why a record was not accepted: `annotation` (what is said of the image), `file`, `image` (its pixels)."""

    stage: str
    reason: str


@dataclass(slots=True)
class Row:
    """A record on its way. first: the first of what is wrong; what comes later is looked at only to keep the image."""

    key: str
    image: Json
    annotations: list[Json]
    people: tuple[Person, ...] = ()
    data: bytes = b""
    picture: Picture | None = None
    stored: bytes = b""
    suffix: str = ""
    size: tuple[int, int] = (0, 0)
    anew: tuple[str, ...] = ()
    phash: int | None = None
    why: Why | None = None


Outcome = Sample | tuple[LedgerRow, Rejected | None]


def write_records(records: Iterable[Record]) -> bytes:
    """Return the records of a shard as the file that its worker reads."""
    rows = [
        {"name": r.name, "image": r.image, "annotations": list(r.annotations), "trouble": r.trouble} for r in records
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, RECORD_SCHEMA), sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_records(store: Store, shard: int) -> list[Record]:
    """Return what `write_records` wrote for a shard."""
    rows = read_table(store, ANNOTATIONS, shard).to_pylist()
    return [Record(row["name"], row["image"], tuple(row["annotations"]), row["trouble"]) for row in rows]


@dataclass
class ImportWork:
    """Makes the shards of one worker (`pipelines.work.Work`).

    prefix: of keys. categories: ids of the categories that are people. licences: id → name. inner: look for a file also
    without the first folder of its name (Human-Art's names start with the name of the set's own folder).
    """

    config: ImportConfig
    source: str
    prefix: str
    store: Store
    folder: Folder
    categories: frozenset[int] | None
    licences: Mapping[Any, str]
    inner: bool

    def __call__(self, context: ShardContext) -> ShardResult:
        task, start = context.task, time.perf_counter()
        theirs = read_records(self.store, task.index)[: task.stop - task.start]
        records = {f"{self.prefix}{record.name}": record for record in theirs}
        outcomes = _settled(context.previous)
        reused = len(outcomes)
        todo = [key for key in records if key not in outcomes]
        for key in task.quarantined & set(todo):
            outcomes[key] = self._outcome(self._row(key, records[key]), task.index, Why(WORKER_STAGE, KILLED_WORKER))
        for first in range(0, len(todo), ROUND):
            for live in context.rounds(todo[first : first + ROUND]):
                for key in live:
                    outcomes[key] = self._import(key, records[key], task.index)
        result = ShardResult()
        for outcome in (outcomes[key] for key in records):
            if isinstance(outcome, Sample):
                result.accepted.append(outcome)
            else:
                result.ledger.append(outcome[0])
                result.rejected += [outcome[1]] if outcome[1] is not None else []
        result.counts = {"imported": len(records) - reused, "reused": reused}
        result.seconds = {"import": time.perf_counter() - start}
        return result

    def _import(self, key: str, record: Record, shard: int) -> Outcome:
        """Take one record through every step; whatever it makes a step raise is a ledger row."""
        if record.trouble == STAGE:
            return removed(key, shard), None
        row = self._row(key, record)
        row.why = Why("annotation", record.trouble) if record.trouble else None
        steps = {"annotation": self._people, "file": self._read, "image": self._open}
        for stage, step in steps.items():
            if row.why is not None and (stage == "annotation" or not (self.config.keep_rejected and row.image)):
                continue
            try:
                step(row)
            except (PictureError, UnusableError) as error:
                row.why = row.why or Why(stage, str(error))
                if stage == "file":
                    break
            except UnreachableError:
                raise
            except Exception as error:
                row.why = row.why or Why(stage, type(error).__name__)
                break
        return self._outcome(row, shard, row.why)

    def _row(self, key: str, record: Record) -> Row:
        return Row(key, *record.parse())

    def _people(self, row: Row) -> None:
        """Read everybody off the annotations; those of other categories stay in `annotation` only."""
        try:
            json.dumps([row.image, row.annotations], allow_nan=False)
        except ValueError:
            raise UnusableError("not_finite") from None
        if not isinstance(row.image.get("file_name"), str):
            raise UnusableError("no_file_name")
        theirs = [one for one in row.annotations if is_person(one, self.categories)]
        row.people = tuple(person_of(one, *annotated_size(row.image)) for one in theirs)
        posed = sum(not p.iscrowd and bool((p.keypoints[:, 2] > 0).any()) for p in row.people)
        if len(row.people) > MOST_PEOPLE:
            raise UnusableError("too_many_people")
        if posed < self.config.gates.min_people:
            raise UnusableError("no_annotations" if not row.people else "too_few_people" if posed else "no_keypoints")

    def _read(self, row: Row) -> None:
        name = row.image.get("file_name")
        if not isinstance(name, str):
            raise PictureError("missing_file")
        names = [name, name.partition("/")[2]] if self.inner and "/" in name else [name]
        row.data = read_first(self.folder, names, self.config.limits.max_file_bytes)

    def _open(self, row: Row) -> None:
        """Decode; keep the file as it is, or encode the pixels that the annotations mean anew."""
        limits, output = self.config.limits, self.config.output
        picture = row.picture = open_picture(row.data, limits.max_pixels)
        mismatch: PictureError | None = None
        try:
            pixels = picture.as_annotated(annotated_size(row.image))
        except PictureError as error:
            mismatch, pixels = error, picture.pixels
        row.anew = picture.odd + (("large",) if len(row.data) > limits.max_bytes else ())
        if row.anew:
            row.stored, row.suffix = encode_image(pixels, output.format, output.quality), SUFFIXES[output.format]
        else:
            row.stored, row.suffix = row.data, SUFFIX[picture.format]
        row.size = pixels.shape[1], pixels.shape[0]
        row.phash = perceptual_hash(pixels)
        if len(row.stored) > limits.max_bytes:
            row.stored = b""
            raise PictureError("too_large")
        if mismatch is not None:
            raise mismatch

    def _outcome(self, row: Row, shard: int, why: Why | None) -> Outcome:
        if why is None:
            return self._sample(row)
        ledger = LedgerRow(
            key=row.key,
            shard=shard,
            attempt=1,
            stage=why.stage,
            reason=why.reason,
            measured=_measured(row),
            found_people=min(len(row.people), MOST_PEOPLE),
            caption=text_of(row.image, "description", "caption"),
            scene=scene_of(row.image),
            url=text_of(row.image, *URLS),
        )
        keep = self.config.keep_rejected and row.stored and len(row.people) <= MOST_PEOPLE
        return ledger, Rejected(self._sample(row), why.stage, why.reason, 1) if keep else None

    def _sample(self, row: Row) -> Sample:
        width, height = row.picture.size if row.picture else (None, None)
        carried: Json = {"image": row.image, "annotations": row.annotations}
        if row.anew:
            carried["encoded_anew"] = list(row.anew)
        return Sample(
            key=row.key,
            source=self.source,
            image=row.stored,
            image_path=f"{row.key}.{row.suffix}",
            width=row.size[0],
            height=row.size[1],
            caption=text_of(row.image, "description", "caption") or "",
            people=row.people,
            annotation=json.dumps(_finite(carried), allow_nan=False),
            scene=scene_of(row.image),
            origin=Origin(
                url=text_of(row.image, *URLS),
                page=text_of(row.image, "page_url", "flickr_url"),
                width=width,
                height=height,
                sha256=hashlib.sha256(row.data).hexdigest(),
                licence=self.licences.get(row.image.get("license")) if _hashable(row.image.get("license")) else None,
                author=text_of(row.image, "author"),
            ),
            phash=row.phash,
        )


def _settled(previous: ShardResult | None) -> dict[str, Outcome]:
    """Return what an earlier, shorter version of the shard holds."""
    if previous is None:
        return {}
    kept = {row.sample.key: row for row in previous.rejected}
    settled: dict[str, Outcome] = {sample.key: sample for sample in previous.accepted}
    return settled | {row.key: (row, kept.get(row.key)) for row in previous.ledger}


def _measured(row: Row) -> dict[str, float | None]:
    width, height = annotated_size(row.image)
    annotated = {"annotated_width": width, "annotated_height": height, "annotations": len(row.annotations)}
    found = {"bytes": len(row.data)} if row.data else {}
    found |= {"width": row.picture.size[0], "height": row.picture.size[1]} if row.picture else {}
    return {name: None if value is None else _float(value) for name, value in (annotated | found).items()}


def _float(value: int) -> float | None:
    return float(value) if abs(value) < 2**53 else None


def _finite(value: Any) -> Any:
    """The value with null in place of numbers that JSON cannot hold: those of rejected records only."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list) else value


def _hashable(value: Any) -> bool:
    return isinstance(value, str | int)


def licences_of(licences: Any) -> dict[Any, str]:
    """Return the file's list of licences as id → name."""
    named: Sequence[Any] = licences if isinstance(licences, list) else ()
    return {
        one["id"]: text_of(one, "name", "url") or ""
        for one in named
        if isinstance(one, dict) and _hashable(one.get("id"))
    }
