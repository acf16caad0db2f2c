"""The list of what was taken down, and what a shard's rows look like without it."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest

from pipelines import shards
from pipelines.config import UserError
from pipelines.record import Origin
from pipelines.store import Store
from pipelines.taken import LIST, Entry, Takedowns, parse, removed, spread, unsettled
from pipelines.work import ShardContext, ShardResult, ShardTask
from tests.pipelines.toy import HASH, fill_slots, make_sample, sample_key

TASK = ShardTask(0, 0, 12, 2)


@pytest.fixture
def rows() -> ShardResult:
    """A toy shard with accepted, rejected and short slots."""
    made = fill_slots(ShardContext(TASK), lambda name: None)
    assert made.short
    assert made.rejected
    return made


def keys_of(rows: ShardResult) -> set[str]:
    samples = [*rows.accepted, *(row.sample for row in rows.rejected)]
    return {sample.key for sample in samples} | {row.key for row in rows.ledger} | set(rows.short)


def test_the_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert Takedowns.read(store) == Takedowns()
    taken = Takedowns().add(parse(["a", "a"], ["http://x/y"], ["AB" * 8, "cd" * 32], "2026-01-01T00:00:00+00:00"))
    taken.write(store, "run")
    assert Takedowns.read(store) == taken
    assert taken.keys == {"a"}
    assert taken.urls == {"http://x/y"}
    assert taken.files == {"cd" * 32}
    assert taken.images == {0xABABABABABABABAB}
    later = taken.add(parse(["a", "b"], time="2027-01-01T00:00:00+00:00"))
    assert later.entries[:-1] == taken.entries
    other = Store(str(tmp_path / "stage"))
    spread(store, [other], "run")
    assert Takedowns.read(other) == taken


def test_a_list_that_cannot_be_read_stops_every_write(tmp_path: Path, rows: ShardResult) -> None:
    (tmp_path / LIST).write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match="not readable, and nothing is written without it"):
        shards.commit(Store(str(tmp_path)), TASK, rows, HASH, "run")
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("given", [{"hashes": ["xyz"]}, {"hashes": ["ab" * 9]}, {"keys": [" "]}, {"urls": [""]}])
def test_what_is_no_key_url_or_hash_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--"):
        parse(**given)


@pytest.mark.parametrize("slot", range(12))
def test_one_row_that_tells_nothing_stands_for_a_key(rows: ShardResult, slot: int) -> None:
    key = sample_key(slot)
    left = Takedowns((Entry("key", key),)).apply(rows, 0)
    assert keys_of(left) == keys_of(rows)
    assert [row for row in left.ledger if row.key == key] == [removed(key, 0)] == left.ledger[-1:]
    assert key not in keys_of(unsettled(left))
    assert left.accepted == [sample for sample in rows.accepted if sample.key != key]
    assert left.rejected == [row for row in rows.rejected if row.sample.key != key]
    assert repr(left.ledger[:-1]) == repr([row for row in rows.ledger if row.key != key])


def test_one_after_the_other_is_the_same_as_both_at_once(rows: ShardResult) -> None:
    first, second = Entry("key", sample_key(7)), Entry("key", sample_key(2))
    both = Takedowns((first, second)).apply(rows, 0)
    for one, other in ((first, second), (second, first)):
        assert repr(Takedowns((one, other)).apply(Takedowns((one,)).apply(rows, 0), 0)) == repr(both)


def test_an_image_is_known_by_its_url_its_file_its_bytes_and_its_look() -> None:
    sample = dataclasses.replace(make_sample(5, 1), origin=Origin(url="http://x/y", sha256="ef" * 32))
    assert sample.image is not None
    own = hashlib.sha256(sample.image).hexdigest()
    for kind, value in (("url", "http://x/y"), ("hash", "ef" * 32), ("hash", own), ("hash", f"{5:016x}")):
        taken = Takedowns((Entry(kind, value),))
        assert taken.matches(sample) == [value]
        assert taken.apply(ShardResult([sample]), 3).ledger == [removed(sample.key, 3)]
        assert taken.matches(make_sample(6, 1)) == []


def test_nothing_listed_changes_nothing(rows: ShardResult) -> None:
    assert Takedowns((Entry("key", "another"), Entry("look", f"{5:016x}"))).apply(rows, 0) is rows
