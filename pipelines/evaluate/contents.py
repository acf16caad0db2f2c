"""What is in a dataset, counted: columns of shards and ledgers, many shards at a time, and never an image.

Memory grows by some 50 bytes a row (scores and perceptual hashes); everything else is counts.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
from numpy.typing import NDArray

from pipelines import dataset, shards
from pipelines.duplicates import Hashes
from pipelines.evaluate.diversity import normalised_poses
from pipelines.store import Store

SCORES: Final = ("min_keypoint_score", "clip_score", "aesthetic", "nsfw", "watermark")
COLUMNS: Final = ["scene", "action", "caption", "num_people", "people", "prompt.num_people", "phash", *SCORES]
LEDGER: Final = ["stage", "reason", "scene", "asked_people", "caption", "measured"]
SURPLUS: Final = "surplus"
"""Ledger reason of a candidate that passed every gate, but whose slot a lower attempt fills."""
POSES: Final = 20_000
ROWS: Final = 50_000
"""Rows of shards and ledgers that are counted together, at least; the last may be fewer."""
READERS: Final = 8

Counts = Counter[Any]

_MEASURED: Final = pa.schema([(name, pa.float64()) for name in ("people", "keypoint_score", *SCORES)])


@dataclass(slots=True)
class Candidates:
    """Candidates of one fate, counted. scores: name → (sum, number) of what was measured; words: of their captions."""

    number: int = 0
    scenes: Counts = field(default_factory=Counter)
    people: Counts = field(default_factory=Counter)
    words: int = 0
    captions: int = 0
    scores: dict[str, tuple[float, int]] = field(default_factory=dict)

    def merged(self, other: Candidates) -> Candidates:
        """Return both together."""
        scores = dict(self.scores)
        for name, (total, number) in other.scores.items():
            before = scores.get(name, (0.0, 0))
            scores[name] = (before[0] + total, before[1] + number)
        return Candidates(
            self.number + other.number,
            self.scenes + other.scenes,
            self.people + other.people,
            self.words + other.words,
            self.captions + other.captions,
            scores,
        )

    def mean(self, name: str) -> float | None:
        """Return the mean of a score, None where nobody has it."""
        total, number = self.scores.get(name, (0.0, 0))
        return total / number if number else None


@dataclass(slots=True)
class Contents:
    """What was read of a dataset.

    reasons: (stage, reason) → candidates turned down, surplus ones left out. gates: stage → those it turned down.
    coverage: (scene, action) → accepted rows, either of them None where a row has none.
    caption_words: (rows,) words of each caption. values: score → all finite ones. hashes: perceptual ones.
    poses: (P, 34) as `normalised_poses` has them, of at most `POSES` people in rows spread evenly.
    """

    out: str
    slots: int
    accepted: Candidates = field(default_factory=Candidates)
    surplus: Candidates = field(default_factory=Candidates)
    gates: dict[str, Candidates] = field(default_factory=dict)
    reasons: Counts = field(default_factory=Counter)
    short: int = 0
    coverage: Counts = field(default_factory=Counter)
    found_people: Counts = field(default_factory=Counter)
    caption_words: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    values: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    hashes: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))
    poses: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 34), np.float32))


def read_contents(out: str) -> Contents:
    """Read the columns of all committed shards. Raises UserError where `out` is no dataset."""
    store = Store(out)
    manifest = dataset.read_manifest(store)
    found = Contents(out, manifest.n)
    markers = list(shards.read_markers(store))
    found.short = sum(len(done.short) for done in markers)
    every = max(1, sum(done.accepted for done in markers) // POSES)
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in ("words", "phash", *SCORES)}
    poses: list[NDArray[np.float32]] = []
    number = 0
    with ThreadPoolExecutor(READERS) as pool:
        for indices in _batches(markers):
            accepted = pa.concat_tables(pool.map(lambda i: shards.read_table(store, "shards", i, COLUMNS), indices))
            ledger = pa.concat_tables(pool.map(lambda i: shards.read_table(store, "ledger", i, LEDGER), indices))
            sampled = pa.array(range(-number % every, accepted.num_rows, every), pa.int64())
            poses += [normalised_poses(people) for people in accepted["people"].take(sampled).to_pylist()]
            number += accepted.num_rows
            counted = _of_accepted(accepted)
            _count_accepted(found, accepted, counted)
            for name, parts in columns.items():
                values = counted[name].drop_null().to_numpy()
                parts.append(values[np.isfinite(values)] if name in SCORES else values)
            _count_ledger(found, ledger)
    found.poses = np.concatenate(poses)[:POSES] if poses else found.poses
    arrays = {name: np.concatenate(parts) for name, parts in columns.items() if parts}
    found.caption_words = arrays.pop("words", found.caption_words)
    found.hashes = arrays.pop("phash", found.hashes)
    found.values = {name: values for name, values in arrays.items() if len(values)}
    return found


def _batches(markers: Iterable[shards.Done]) -> Iterator[list[int]]:
    """Yield the shards in order, so many together that they have `ROWS` rows."""
    batch: list[int] = []
    rows = 0
    for done in markers:
        batch.append(done.shard)
        rows += done.accepted + done.files["ledger"].rows
        if rows >= ROWS:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch


def count(table: pa.Table) -> Candidates:
    """Count candidates.

    table: scene; people (asked for, else found); words (of the caption, null where there is none); any of the SCORES.
    """
    words = table["words"]
    names = [name for name in SCORES if name in table.column_names]
    measured = {name: (pc.sum(table[name]).as_py(), len(table) - table[name].null_count) for name in names}
    return Candidates(
        len(table),
        _value_counts(table["scene"]),
        _value_counts(table["people"]),
        pc.sum(words).as_py() or 0,
        len(words) - words.null_count,
        {name: (total, number) for name, (total, number) in measured.items() if number},
    )


def _value_counts(column: pa.ChunkedArray) -> Counts:
    counts = pc.value_counts(column.drop_null())
    return Counter(dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)))


def _pair_counts(table: pa.Table, one: str, other: str) -> Counts:
    """Return the rows by two columns, in the order in which the pairs first come."""
    counts = table.group_by([one, other], use_threads=False).aggregate([([], "count_all")])
    pairs = zip(counts[one].to_pylist(), counts[other].to_pylist(), strict=True)
    return Counter(dict(zip(pairs, counts["count_all"].to_pylist(), strict=True)))


def caption_words(captions: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return how many words each text has, as `len(text.split())` counts them: int32, null for null."""
    trimmed = pc.utf8_trim_whitespace(captions)
    words = pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(0, pa.int32()), words)


def _of_accepted(table: pa.Table) -> pa.Table:
    """Return accepted rows as `count` takes them, and their perceptual hashes."""
    asked = pc.struct_field(table["prompt"], "num_people")
    names = ("scene", "phash", *SCORES)
    return pa.table(
        {
            **{name: table[name] for name in names},
            "people": pc.coalesce(asked, table["num_people"]),
            "words": caption_words(table["caption"]),
        }
    )


def _count_accepted(found: Contents, table: pa.Table, counted: pa.Table) -> None:
    found.accepted = found.accepted.merged(count(counted))
    found.coverage += _pair_counts(table, "scene", "action")
    found.found_people += _value_counts(table["num_people"])


def _count_ledger(found: Contents, table: pa.Table) -> None:
    measured = _measured(table["measured"])
    scores = {name: measured[name] for name in SCORES}
    scores["min_keypoint_score"] = pc.coalesce(measured["keypoint_score"], scores["min_keypoint_score"])
    people = pc.coalesce(table["asked_people"].cast(pa.int64()), measured["people"].cast(pa.int64(), safe=False))
    counted = pa.table({"scene": table["scene"], "people": people, "words": caption_words(table["caption"]), **scores})
    surplus = pc.equal(table["reason"], SURPLUS)
    found.surplus = found.surplus.merged(count(counted.filter(surplus)))
    down = pc.invert(surplus)
    found.reasons += _pair_counts(table.filter(down), "stage", "reason")
    for stage in pc.unique(table["stage"].filter(down)).to_pylist():
        group = count(counted.filter(pc.and_(down, pc.equal(table["stage"], stage))))
        found.gates[stage] = found.gates.get(stage, Candidates()).merged(group)


def _measured(texts: pa.ChunkedArray) -> pa.Table:
    """Return what the ledger's JSON says as columns, null where it says nothing."""
    if not len(texts):
        return _MEASURED.empty_table()
    lines = "\n".join(text or "{}" for text in texts.to_pylist()).encode()
    return pyarrow.json.read_json(
        io.BytesIO(lines),
        read_options=pyarrow.json.ReadOptions(use_threads=False),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=_MEASURED, unexpected_field_behavior="ignore"),
    )
