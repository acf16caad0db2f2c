"""The last stage: with every image measured, which ones are accepted, and the shards that say so.

Gates and near-duplicates are decided for the whole dataset at once and written to OUT/verdicts/; each shard then
follows from its verdicts, its raw images and its annotations alone. When more is fetched (a larger n, a retry) the
verdicts are made anew, and exactly the shards whose verdicts changed are written again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import follow, record, shards
from pipelines.dataset import Manifest, Standing
from pipelines.duplicates import near_duplicates
from pipelines.gates import SAFETY, Rejection
from pipelines.laion.config import LaionGates
from pipelines.laion.gates import judge, measure_people
from pipelines.laion.images import merge, read_kept, read_notes, read_raw
from pipelines.laion.plan import read_candidates
from pipelines.laion.stages import ANNOTATED, close, is_closed, raw_folder, verdicts_name
from pipelines.record import LedgerRow, Rejected, Sample
from pipelines.store import Store
from pipelines.taken import Takedowns
from pipelines.work import ShardContext, ShardResult, ShardTask

VERDICTS: Final = pa.schema(
    [("key", pa.string()), ("stage", pa.string()), ("reason", pa.string()), ("measured", pa.string())]
)
"""One row an annotated image, in the candidates' order; stage and reason are null where it is accepted."""

DUPLICATE: Final = Rejection("duplicates", "near_duplicate")
_SCORES: Final = ("clip_score", "aesthetic", "nsfw", "watermark")
_SEEN: Final = ("key", "width", "height", "caption", "people", "annotation", "origin", "phash", *_SCORES)


@dataclass(slots=True)
class _Judged:
    """An annotated image: where it stands, how good it is among its likes, and what the gates say."""

    shard: int
    key: str
    phash: int
    quality: tuple[float, float, float]
    measured: dict[str, float | None]
    why: Rejection | None


def decide(store: Store, gates: LaionGates, indices: Iterable[int], run: str, closed: Iterable[int] = ()) -> None:
    """Judge every annotated image of these shards and write the verdicts that are new or have changed.

    closed: shards that stay as they are: near-duplicates of what they accepted give way.
    """
    judged = {index: [_judge(row, index, gates) for row in _annotated(store, index)] for index in indices}
    if gates.duplicate_distance is not None:
        passed = [row for rows in judged.values() for row in rows if row.why is None]
        passed.sort(key=lambda row: (*(-value for value in row.quality), row.key))
        # What was taken down comes first: no near-duplicate takes its place.
        first = [*Takedowns.read(store).looks, *(phash for index in closed for phash in _looks(store, index))]
        hashes = [*first, *(row.phash for row in passed)]
        for row, original in zip(passed, near_duplicates(hashes, gates.duplicate_distance)[len(first) :], strict=True):
            if original is not None:
                row.why = DUPLICATE
                row.measured["duplicate_bits"] = float((row.phash ^ hashes[original]).bit_count())
    for index, rows in judged.items():
        data = _encode(rows)
        if not store.exists(verdicts_name(index)) or store.read(verdicts_name(index)) != data:
            store.write(verdicts_name(index), data, run)


def _looks(store: Store, index: int) -> list[int]:
    """The perceptual hashes of a shard's accepted images."""
    found: list[int] = shards.read_table(store, "shards", index, ["phash"])["phash"].to_pylist()
    return found


def _annotated(store: Store, index: int) -> list[dict[str, Any]]:
    table = shards.read_table(store.below(ANNOTATED), "shards", index, list(_SEEN))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _judge(row: dict[str, Any], index: int, gates: LaionGates) -> _Judged:
    people = tuple(record.row_to_person(person) for person in row["people"])
    measured: dict[str, float | None] = {
        **json.loads(row["annotation"]),
        **measure_people(people, row["width"], row["height"], gates),
        **{name: row[name] for name in _SCORES},
    }
    size = (row["origin"]["width"] or 0) * (row["origin"]["height"] or 0)
    quality = (float(size), row["aesthetic"] or 0.0, row["clip_score"] or 0.0)
    return _Judged(index, row["key"], row["phash"], quality, measured, judge(measured, row["caption"], gates))


def _encode(rows: list[_Judged]) -> bytes:
    columns = {
        "key": [row.key for row in rows],
        "stage": [row.why.stage if row.why else None for row in rows],
        "reason": [row.why.reason if row.why else None for row in rows],
        "measured": [record.dump_measured(row.measured) for row in rows],
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pydict(columns, schema=VERDICTS), sink, compression="zstd")
    return bytes(sink.getvalue())


def source_print(store: Store, task: ShardTask, source: Store | None = None) -> str:
    """What a shard follows from (`Done.follows`): its verdicts, its annotations, and its raw images or the source's.

    Raises FileNotFoundError where one of them is not there.
    """
    index = task.index
    digest = hashlib.sha256(store.read(verdicts_name(index)))
    raw = [] if source is not None else map(raw_folder, range(task.max_attempts))
    for folder in (ANNOTATED, *raw):
        done = shards.parse_done(store.below(folder).read(shards.done_name(index)))
        digest.update(" ".join(info.sha256 for info in done.files.values()).encode())
    if source is None:
        return digest.hexdigest()
    digest.update(follow.fingerprint(shards.parse_done(source.read(shards.done_name(index)))).encode())
    return close(digest.hexdigest())


def _other(source: str | None) -> Store | None:
    return None if source is None else Store(source)


@dataclass(frozen=True)
class SettleStanding:
    """Which shards are missing, or follow from verdicts that have changed (`Job.standing`).

    source: the dataset whose images are judged anew; None: this one's own downloads are.
    """

    out: str
    source: str | None = None

    def __call__(self, manifest: Manifest, wanted: range, markers: Iterable[shards.Done]) -> Standing:
        store = Store(self.out)
        there = {done.shard: done for done in markers}
        found = Standing([])
        for index in wanted:
            done = there.get(index)
            task = manifest.task(index)
            if done is not None and self._stands(store, done, task):
                found.complete += 1
                found.accepted += done.accepted
                found.rejected += done.rejected
            else:
                found.tasks.append(task)
        return found

    def _stands(self, store: Store, done: shards.Done, task: ShardTask) -> bool:
        if self.source is None and is_closed(done):
            return True
        return done.follows == source_print(store, task, _other(self.source))


@dataclass(frozen=True)
class MakeSettleWork:
    """Builds the work on a worker: no models are needed. source: as in `SettleStanding`."""

    out: str
    keep_rejected: bool
    source: str | None = None

    def __call__(self) -> SettleWork:
        return SettleWork(Store(self.out), self.keep_rejected, _other(self.source))


class SettleWork:
    """Writes shards from what is decided (`pipelines.work.Work`)."""

    def __init__(self, store: Store, keep_rejected: bool, source: Store | None = None) -> None:
        self._store = store
        self._keep_rejected = keep_rejected
        self._source = source

    def __call__(self, context: ShardContext) -> ShardResult:
        store, task = self._store, context.task
        images, lost = self._images(task)
        notes = read_notes(store, task.index)
        seen = shards.read_table(store.below(ANNOTATED), "ledger", task.index)
        lost |= {row.key: row for row in record.table_to_ledger(seen)}
        verdicts = {row["key"]: row for row in read_verdicts(store, task.index)}
        result = ShardResult(follows=source_print(store, task, self._source))
        for candidate in read_candidates(store, task.index)[: task.stop - task.start]:
            key = candidate["key"]
            if key in verdicts:
                self._put(result, task.index, merge(images[key], notes[key]), verdicts[key])
            else:
                result.ledger.append(lost[key])
        return result

    def _put(self, result: ShardResult, index: int, sample: Sample, verdict: dict[str, Any]) -> None:
        if verdict["stage"] is None:
            result.accepted.append(sample)
            return
        why = Rejection(verdict["stage"], verdict["reason"])
        assert sample.origin is not None
        result.ledger.append(
            LedgerRow(
                key=sample.key,
                shard=index,
                attempt=1,
                stage=why.stage,
                reason=why.reason,
                measured=json.loads(verdict["measured"]),
                found_people=len(sample.people),
                caption=sample.caption,
                url=sample.origin.url,
            )
        )
        if self._keep_rejected and why.stage != SAFETY:
            result.rejected.append(Rejected(sample, why.stage, why.reason, 1))

    def _images(self, task: ShardTask) -> tuple[dict[str, Sample], dict[str, LedgerRow]]:
        """A shard's images, and the last failure of every candidate that was never downloaded (and of some later)."""
        if self._source is not None:  # whose failures were noted when its images were looked at again
            return read_kept(self._source, task.index)[1], {}
        lost: dict[str, LedgerRow] = {}
        for generation in range(task.max_attempts):
            raw = self._store.below(raw_folder(generation))
            lost |= {row.key: row for row in record.table_to_ledger(shards.read_table(raw, "ledger", task.index))}
        return read_raw(self._store, task)[0], lost


def read_verdicts(store: Store, index: int) -> list[dict[str, Any]]:
    """The verdicts of a shard, as rows of `VERDICTS`."""
    rows: list[dict[str, Any]] = shards.read_parquet(pa.BufferReader(store.read(verdicts_name(index)))).to_pylist()
    return rows
