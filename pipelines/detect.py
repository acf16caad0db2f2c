"""Poses of any images: a detector over files, Parquet and datasets, part by part, into Parquet, COCO JSON, overlays."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from detectors.skeleton import overlay
from detectors.types import Detector
from pipelines import lease, record
from pipelines.coco import PERSON_CATEGORY
from pipelines.config import UserError, difference
from pipelines.detect_inputs import Source, find_sources, read_sources
from pipelines.export.coco import coco_records
from pipelines.images import Pixels
from pipelines.inspect.sheet import card_of, draw_sheet
from pipelines.pictures import PictureError, open_picture
from pipelines.record import Sample, samples_to_table, table_to_samples
from pipelines.shards import read_table, table_name
from pipelines.store import Store

PART: Final = 256
"""Images of a part: what is written at once, and lost at most by a kill."""
MAX_PIXELS: Final = 80_000_000
SHEET: Final = 24
"""Images of the contact sheet."""
MANIFEST: Final = "detect.json"
POSES: Final = "poses"
LEDGER: Final = "ledger"
COLUMNS: Final = ("key", "width", "height", "num_people", "min_keypoint_score", "people")
LEDGER_SCHEMA: Final = pa.schema([("key", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True, slots=True)
class Asked:
    """What to look for: detector by name, images a batch, the least confidence (0-1), a picture of each overlay."""

    model: str
    batch_size: int
    min_score: float
    overlays: bool


@dataclass(slots=True)
class Found:
    """What was found: images looked at, people in them, and key → reason of the images that could not be used."""

    images: int = 0
    people: int = 0
    unusable: dict[str, str] | None = None


def run_detect(
    inputs: Sequence[str],
    out: str,
    asked: Asked,
    load: Callable[[], tuple[Detector, dict[str, str]]],
    note: Callable[[str], None] = lambda text: None,
) -> Found:
    """Find the people of all images; the same call again goes on where it stopped.

    Writes OUT/poses/ (Parquet, one row an image: `COLUMNS`), OUT/ledger/ (images that cannot be used, with reason),
    OUT/coco.json, OUT/sheet.png and, if asked, OUT/overlays/. Images are looked at as viewers show them, turned as EXIF
    says. load: gives the detector and what it is by content. Raises UserError where OUT holds something else.
    """
    sources = find_sources(inputs)
    detector, digests = load()
    store, run = Store(out), lease.new_run()
    _check(store, run, {**asdict(asked), **digests, "images": _digest(sources), "part": PART})
    for index in range(-(-len(sources) // PART)):
        if not store.exists(table_name(LEDGER, index)):
            _write_part(store, run, index, sources[index * PART : (index + 1) * PART], detector, asked)
        note(f"{min(len(sources), (index + 1) * PART):,} of {len(sources):,} images")
    return _summarize(store, run, -(-len(sources) // PART), sources, detector.name)


def _digest(sources: Sequence[Source]) -> str:
    return hashlib.sha256(json.dumps([asdict(source) for source in sources]).encode()).hexdigest()


def _check(store: Store, run: str, now: dict[str, Any]) -> None:
    try:
        before = json.loads(store.read(MANIFEST))
    except FileNotFoundError:
        if store.names(""):
            raise UserError(f"{store.root}: is not empty and holds no poses; take another --out") from None
        store.write(MANIFEST, json.dumps(now, indent=1).encode(), run)
        return
    if changed := difference(before, now):
        raise UserError(f"{store.root} holds poses of something else ({'; '.join(changed)}): take another --out")


def _write_part(
    store: Store, run: str, index: int, sources: Sequence[Source], detector: Detector, asked: Asked
) -> None:
    samples: list[Sample] = []
    ledger: list[dict[str, str]] = []
    waiting: list[tuple[str, Pixels]] = []

    def flush() -> None:
        for (key, pixels), people in zip(waiting, detector.detect([pixels for _, pixels in waiting]), strict=True):
            sure = tuple(person for person in people if person.score >= asked.min_score)
            samples.append(Sample(key, "detect", None, key, pixels.shape[1], pixels.shape[0], "", sure))
            if asked.overlays:
                number = index * PART + len(samples) - 1
                drawn = _png(Image.fromarray(overlay(pixels, sure)))
                store.write(f"overlays/{number:08d}.png", drawn, run, durable=False)
        waiting.clear()

    for key, data in read_sources(sources):
        try:
            if data is None:
                raise PictureError("unreadable")
            waiting.append((key, open_picture(data, MAX_PIXELS).upright()))
        except PictureError as error:
            ledger.append({"key": key, "reason": str(error)})
        if len(waiting) == asked.batch_size:
            flush()
    if waiting:
        flush()
    tables = {
        POSES: samples_to_table(samples).select(list(COLUMNS)),
        LEDGER: pa.Table.from_pylist(ledger, LEDGER_SCHEMA),
    }
    # The ledger comes last: where it is, the part is there.
    store.write_all({table_name(folder, index): _parquet(table) for folder, table in tables.items()}, run)


def read_poses(store: Store, index: int) -> list[Sample]:
    """Return a part's rows as samples without images."""
    table = read_table(store, POSES, index)
    for field in record.SCHEMA:
        if field.name not in table.schema.names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table_to_samples(table)


def _summarize(store: Store, run: str, parts: int, sources: Sequence[Source], name: str) -> Found:
    """Write coco.json and the sheet from all parts."""
    found = Found(unusable={})
    images: list[str] = []
    annotations: list[str] = []
    shown: list[Sample] = []
    for index in range(parts):
        for sample in read_poses(store, index):
            image, theirs = coco_records(sample, len(images) + 1, len(annotations) + 1)
            kept = {name: image[name] for name in ("id", "file_name", "width", "height")}
            images.append(json.dumps({**kept, "file_name": sample.key}))
            annotations += map(json.dumps, theirs)
            shown += [sample] if len(shown) < SHEET else []
        rows = read_table(store, LEDGER, index).to_pylist()
        found.unusable = {**(found.unusable or {}), **{row["key"]: row["reason"] for row in rows}}
    found.images, found.people = len(images), len(annotations)
    text = (
        f'{{"info": {json.dumps({"detector": name})},\n"categories": {json.dumps([dict(PERSON_CATEGORY)])},\n'
        f'"images": [\n{",".join(images)}],\n"annotations": [\n{",".join(annotations)}]}}\n'
    )
    store.write("coco.json", text.encode(), run)
    store.write("sheet.png", _sheet(shown, sources, name, found), run)
    return found


def _sheet(shown: Sequence[Sample], sources: Sequence[Source], name: str, found: Found) -> bytes:
    wanted = {sample.key: sample for sample in shown}
    cards = []
    for key, data in read_sources(sources[:PART]):
        if key in wanted and data is not None and wanted[key].image is None:
            upright = Image.fromarray(open_picture(data, MAX_PIXELS).upright())
            wanted[key] = replace(wanted[key], image=_png(upright), caption=key)
            cards.append(card_of(wanted[key]))
    return _png(draw_sheet(cards, name, f"{len(cards)} of {found.images:,} images, {found.people:,} people in all"))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data
