"""Some rows of a dataset to look at: the same ones each time, drawn evenly from all committed shards."""

from __future__ import annotations

import random
from typing import Any, Literal

import pyarrow as pa

from pipelines import columns, dataset, record, shards
from pipelines.record import Rejected, Sample
from pipelines.store import Store

Folder = Literal["shards", "rejected"]


def pick(
    out: str, folder: Folder, count: int, seed: int = 0, poses: str | None = None
) -> tuple[list[Sample] | list[Rejected], int]:
    """Return up to `count` random rows in the dataset's order, and how many there are to pick from.

    poses: added columns whose people take the place of the accepted samples' own.
    Raises UserError where `out` is no dataset.
    """
    store = Store(out)
    dataset.read_manifest(store)
    sizes = {done.shard: done.files[folder].rows for done in shards.read_markers(store)}
    total = sum(sizes.values())
    chosen = sorted(random.Random(seed).sample(range(total), min(count, total)))
    tables: list[pa.Table] = []
    start = 0
    for shard, rows in sizes.items():
        here = [row - start for row in chosen if start <= row < start + rows]
        if here:
            rejected = folder == "rejected"
            table = (
                shards.read_table(store, folder, shard) if rejected else columns.read_shard(store, shard, poses=poses)
            )
            tables.append(table.take(here))
        start += rows
    if folder == "rejected":
        return [row for table in tables for row in record.table_to_rejected(table)], total
    return [row for table in tables for row in record.table_to_samples(table)], total


def summary(row: Sample | Rejected) -> dict[str, Any]:
    """Return what a line of text can say of a row: JSON values, no image."""
    sample = row.sample if isinstance(row, Rejected) else row
    found: dict[str, Any] = {
        "key": sample.key,
        "scene": sample.scene,
        "asked_people": sample.prompt and sample.prompt["num_people"],
        "people": len(sample.people),
        "keypoint_score": record.min_keypoint_score(sample.people),
        "caption": sample.caption,
    }
    if isinstance(row, Rejected):
        found |= {"attempt": row.attempt, "stage": row.stage, "reason": row.reason}
    return found


def as_text(row: Sample | Rejected) -> str:
    """Return a row as one line for people."""
    found = summary(row)
    score = found["keypoint_score"]
    why = f"{found['stage']}: {found['reason']} (attempt {found['attempt']})  " if "stage" in found else ""
    asked = found["asked_people"]
    people = f"{found['people']} of {asked}" if asked is not None else str(found["people"])
    pose = f"{score:.2f}" if score is not None else "-"
    return f"{found['key']}  {found['scene'] or '-':15s} people {people:6s} pose {pose:4s}  {why}{found['caption']}"
