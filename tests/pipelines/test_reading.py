"""Several datasets read as one."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pytest

from pipelines import dataset, open_dataset, shards
from pipelines.config import UserError
from pipelines.store import Store
from tests.pipelines.small_dataset import write_dataset
from tests.pipelines.test_dataset import MANIFEST, make


def test_several_outs_open_as_one_without_the_uncommitted(tmp_path: Path) -> None:
    one = make(tmp_path / "one")
    make(tmp_path / "two", dataclasses.replace(MANIFEST, n=0, source="other"))
    keys = write_dataset(tmp_path / "three", 2)
    outs = [str(tmp_path / name) for name in ("one", "two", "three")]
    opened = open_dataset(outs)
    rows = len(opened)
    assert rows == sum(done.accepted for done in shards.read_markers(one)) + len(keys)
    assert opened.table(["key"])["key"].to_pylist()[-len(keys) :] == keys
    assert [sample.key for sample in opened.samples()] == opened.table(["key"])["key"].to_pylist()
    assert opened.arrow().count_rows() == rows
    assert opened.arrow().to_table(columns=["key"], filter=pc.field("num_people") == 2).num_rows < rows
    one.remove(["done/00000000.json"])
    assert len(open_dataset(outs)) < rows
    assert open_dataset(outs[1]).table(["caption", "key"]).column_names == ["caption", "key"]


def test_a_key_in_two_outs_is_an_error_that_names_both(tmp_path: Path) -> None:
    make(tmp_path / "one")
    make(tmp_path / "two")
    with pytest.raises(UserError, match=r"one/shards/00000000\.parquet and .*two/shards/00000000\.parquet"):
        open_dataset([str(tmp_path / "one"), str(tmp_path / "two")])


def test_a_folder_without_a_dataset_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no dataset"):
        open_dataset(str(tmp_path))


def test_reading_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    write_dataset(tmp_path, 1)
    assert dataset.read_manifest(Store(str(tmp_path))).n == 4
    code = (
        "import sys; from pipelines import open_dataset\n"
        "assert 'pyarrow' not in sys.modules\n"
        f"assert len(open_dataset({str(tmp_path)!r}).table(['key'])) == 4\n"
        "assert not {'torch', 'ray', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
