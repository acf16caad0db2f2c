"""The samples of an evaluation: spread evenly over the data, frozen once, the same for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import shards
from pipelines.config import UserError
from pipelines.evaluate.reference import freeze, spread
from pipelines.reading import open_dataset
from pipelines.store import Store
from tests.pipelines.small_dataset import write_dataset


def keys_of(out: Path) -> list[str]:
    return [key for table in open_dataset(str(out)).tables(["key"]) for key in table["key"].to_pylist()]


def test_samples_are_spread_evenly_and_copied_whole(tmp_path: Path) -> None:
    keys = write_dataset(tmp_path / "ghi", 3)  # 11 samples: one slot is short
    manifest = freeze([str(tmp_path / "ghi")], str(tmp_path / "reference"), 5, 2)
    assert manifest.n == 5
    assert keys_of(tmp_path / "reference") == [keys[index * 11 // 5] for index in range(5)]
    assert shards.done_indices(Store(str(tmp_path / "reference"))) == [0, 1, 2]
    original = {one.key: one for one in open_dataset(str(tmp_path / "ghi")).samples()}
    for one in open_dataset(str(tmp_path / "reference")).samples():
        assert (one.image, one.caption, one.scene) == (original[one.key].image, original[one.key].caption, one.scene)
        assert len(one.people) == len(original[one.key].people)


def test_all_samples_where_there_is_no_limit(tmp_path: Path) -> None:
    keys = write_dataset(tmp_path / "ghi", 2)
    places, content = spread([str(tmp_path / "ghi")], None)
    assert len(places) == len(keys)
    assert len(spread([str(tmp_path / "ghi")], 100)[0]) == len(keys)
    assert list(content) == [str(tmp_path / "ghi")]


def test_it_goes_on_where_it_stopped_and_is_not_mixed(tmp_path: Path) -> None:
    write_dataset(tmp_path / "ghi", 2)
    data, to = [str(tmp_path / "ghi")], tmp_path / "reference"
    freeze(data, str(to), 4, 2)
    before = (to / "shards" / "00000001.parquet").read_bytes()
    first = to / "done" / "00000000.json"
    stamp = (to / "done" / "00000001.json").read_bytes()
    first.unlink()
    freeze(data, str(to), 4, 2)
    assert first.exists()
    assert (to / "done" / "00000001.json").read_bytes() == stamp
    assert (to / "shards" / "00000001.parquet").read_bytes() == before
    with pytest.raises(UserError, match="another identity"):
        freeze(data, str(to), 3, 2)


def test_a_dataset_without_samples_is_the_users_mistake(tmp_path: Path) -> None:
    write_dataset(tmp_path / "ghi", 0, n=4)
    with pytest.raises(UserError, match="no sample to measure on yet"):
        freeze([str(tmp_path / "ghi")], str(tmp_path / "reference"), None, 2)
