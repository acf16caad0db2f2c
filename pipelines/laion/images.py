"""The images of a shard, wherever they lie: as they were downloaded, or as the dataset kept them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pipelines import follow, shards
from pipelines.laion.plan import read_candidates
from pipelines.laion.stages import ANNOTATED, is_closed, raw_folder
from pipelines.record import LedgerRow, Sample, table_to_samples
from pipelines.shards import Done
from pipelines.store import Store
from pipelines.work import ShardTask

NEVER_AN_IMAGE: Final = ("fetch", "takedown")
"""Ledger stages of candidates of which there is no image, neither here nor in OUT/raw."""


def read_raw(store: Store, task: ShardTask) -> tuple[dict[str, Sample], list[str]]:
    """The raw images of a shard over all generations, in the candidates' order; and the keys that may come later."""
    found: dict[str, Sample] = {}
    short: list[str] = []
    for generation in range(task.max_attempts):
        raw = store.below(raw_folder(generation))
        found |= {sample.key: sample for sample in table_to_samples(shards.read_table(raw, "shards", task.index))}
        short = list(shards.parse_done(raw.read(shards.done_name(task.index))).short)
    order = [row["key"] for row in read_candidates(store, task.index)[: task.stop - task.start]]
    return {key: found[key] for key in order if key in found}, short


def read_notes(store: Store, index: int) -> dict[str, Sample]:
    """What was found on the images of a shard, by key."""
    table = shards.read_table(store.below(ANNOTATED), "shards", index)
    return {note.key: note for note in table_to_samples(table)}


def merge(image: Sample, note: Sample) -> Sample:
    """A raw image with what was found on it."""
    return replace(
        image,
        people=note.people,
        clip_score=note.clip_score,
        aesthetic=note.aesthetic,
        nsfw=note.nsfw,
        phash=note.phash,
    )


def read_kept(store: Store, index: int) -> tuple[Done, dict[str, Sample], list[LedgerRow]]:
    """A finished shard's images with what was found on them, and the ledger rows of candidates that have none.

    Accepted and rejected images are taken from the dataset itself; those that it did not keep from its downloads,
    unless they were cleaned away. Raises ValueError where the shard does not match its done marker.
    """
    done, rows = follow.read_shard(store, index)
    samples = [*rows.accepted, *(row.sample for row in rows.rejected)]
    found = {sample.key: sample for sample in samples if sample.image is not None}
    lost = [row for row in rows.ledger if row.key not in found]
    if not is_closed(done) and any(row.stage not in NEVER_AN_IMAGE for row in lost):
        notes = read_notes(store, index)
        images, _ = read_raw(store, ShardTask(index, done.start, done.stop, done.max_attempts))
        found |= {row.key: merge(images[row.key], notes[row.key]) for row in lost if row.key in notes}
        lost = [row for row in lost if row.key not in found]
    return done, found, lost
