"""A dataset of as many rows as asked for, written as columns: valid shards whose images are of 8 x 8 pixels."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from detectors.types import NUM_KEYPOINTS, Person
from pipelines import dataset, record, shards
from pipelines.config import identity, plain
from pipelines.ghi.config import GhiConfig
from pipelines.images import encode_image
from pipelines.record import LedgerRow, Rejected, Sample
from pipelines.store import Store
from prompts.grammar import load_grammar
from prompts.sampling import prompt_at

RUN: Final = "20250101T000000-00000000"
KINDS: Final = 2_000
"""Different texts and poses; rows repeat them, each with a key, a perceptual hash and scores of its own."""
TURNED_DOWN: Final = (
    ("people_count", "too_few"),
    ("people_count", "too_many"),
    ("pose", "too_small"),
    ("gate", "surplus"),
)
LEDGER: Final = 0.6
REJECTED: Final = 0.2
"""Rows of the ledger, and of the rejected, for each accepted one."""
ALIKE: Final = 0.02
"""Share of the images that look like an earlier one of their shard."""


def write_rows(out: str, rows: int, shard_size: int = 500) -> None:
    """Write a dataset of `rows` accepted samples, their ledger and rejected candidates; every shard has its marker."""
    store = Store(out)
    config = GhiConfig(n=rows, shard_size=shard_size)
    named, digest = identity(config, {"grammar": "made up"})
    manifest = dataset.Manifest("ghi", digest, named, rows, shard_size, config.max_attempts, plain(config))
    dataset.write_manifest(store, manifest, {}, RUN)
    kinds = _kinds(min(rows, KINDS))
    for index in manifest.shards:
        _write_shard(store, manifest, index, kinds)


def _kinds(number: int) -> dict[str, pa.Table]:
    """Return rows of each folder to choose from."""
    rng = np.random.default_rng(0)
    grammar = load_grammar()
    image = encode_image(np.full((8, 8, 3), 127, np.uint8), "png", 0)
    samples, rejected, ledger = [], [], []
    for slot in range(number):
        prompt = prompt_at(grammar, 0, slot)
        people = tuple(_person(rng) for _ in range(prompt.num_people))
        words = {**prompt.parts, "num_people": prompt.num_people, "negative": prompt.negative}
        sample = Sample("", "ghi", image, "", 8, 8, prompt.text, people, None, prompt.scene, prompt.action, words)
        stage, reason = TURNED_DOWN[int(rng.integers(len(TURNED_DOWN)))]
        measured = {"people": float(rng.integers(4)), "keypoint_score": float(rng.random()), "nsfw": None}
        samples.append(sample)
        rejected.append(Rejected(sample, stage, reason, 2))
        ledger.append(LedgerRow("", 0, 2, stage, reason, measured, prompt.num_people, None, prompt.text, prompt.scene))
    return {
        "shards": record.samples_to_table(samples),
        "rejected": record.rejected_to_table(rejected),
        "ledger": record.ledger_to_table(ledger),
    }


def _person(rng: np.random.Generator) -> Person:
    keypoints = np.concatenate([rng.uniform(0, 8, (NUM_KEYPOINTS, 2)), rng.random((NUM_KEYPOINTS, 1))], 1)
    return Person((1.0, 1.0, 6.0, 6.0), 0.9, 19.08, keypoints.astype(np.float32))


def _write_shard(store: Store, manifest: dataset.Manifest, index: int, kinds: dict[str, pa.Table]) -> None:
    task = manifest.task(index)
    accepted = task.stop - task.start
    sizes = {"shards": accepted, "rejected": int(REJECTED * accepted), "ledger": int(LEDGER * accepted)}
    rng = np.random.default_rng((1, index))
    files: dict[str, shards.FileInfo] = {}
    for folder, size in sizes.items():
        keys = [f"ghi-{manifest.identity_hash[:8]}-{task.start + row}" for row in range(size)]
        changes: dict[str, Any] = {"key": keys, "shard": [index] * size}
        if folder != "ledger":
            hashes = rng.integers(0, 2**64, size, np.uint64)
            alike = np.flatnonzero(rng.random(size) < ALIKE)
            hashes[alike] = hashes[0] ^ (np.uint64(1) << rng.integers(0, 64, len(alike), np.uint64))
            changes |= {"phash": hashes, "clip_score": rng.normal(25, 4, size), "aesthetic": rng.normal(5, 1, size)}
        table = kinds[folder].take(pa.array(rng.integers(0, len(kinds[folder]), size)))
        table = _changed(table, changes)

        def write(file: BinaryIO, folder: str = folder, table: pa.Table = table) -> None:
            files[folder] = shards.encode(table, manifest.identity_hash, file)

        store.write(shards.table_name(folder, index), write, RUN, durable=False)
    done = shards.Done(
        shard=index,
        start=task.start,
        stop=task.stop,
        max_attempts=task.max_attempts,
        accepted=accepted,
        rejected=sizes["ledger"],
        short=(),
        files=files,
        counts={},
        seconds={},
        identity=manifest.identity_hash,
        data_version=record.DATA_VERSION,
        run=RUN,
        host="bench",
        versions={},
        finished="2025-01-01T00:00:00+00:00",
    )
    store.write(shards.done_name(index), json.dumps(dataclasses.asdict(done)).encode(), RUN, durable=False)


def _changed(table: pa.Table, columns: dict[str, Any]) -> pa.Table:
    """Return a table with other values in those of the columns that it has."""
    for name, values in columns.items():
        if name in table.column_names:
            field = table.schema.field(name)
            place = table.column_names.index(name)
            table = table.set_column(place, field, pc.cast(pa.array(values), field.type))
    return table
