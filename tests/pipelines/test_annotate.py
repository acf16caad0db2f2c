"""Columns by a user's function: made, joined by key, resumed, found stale, verified and repaired."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines import dataset, open_dataset, shards
from pipelines.annotate import Annotation, Poses, as_table, compose, parse_arguments, run_annotate
from pipelines.cli import main
from pipelines.config import UserError
from pipelines.images import decode_image
from pipelines.job import JobReport, Runtime
from pipelines.record import Sample
from pipelines.store import Store
from pipelines.work import ShardContext, ShardTask
from tests.pipelines.jobs import kill_midway
from tests.pipelines.small_dataset import SHARD, add_columns, sample, write_dataset

HERE = "tests.pipelines.annotations"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "out", 3)
    return tmp_path / "out"


def annotate(out: Path, fn: str, name: str, workers: int = 1, **arguments: Any) -> JobReport:
    return run_annotate(str(out), Annotation(f"{HERE}:{fn}", name, arguments, 3), Runtime(workers=workers))


def make_here(out: Path, fn: str, name: str = "new", **arguments: Any) -> None:
    """The same without Ray."""
    add_columns(out, Annotation(fn if ":" in fn else f"{HERE}:{fn}", name, arguments, 3))


def files(out: Path, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "columns" / name).glob("*.parquet"))}


def frame(out: Path, name: str) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(out / "columns" / name / file) for file in files(out, name)])


def test_columns_lie_beside_their_shard_in_its_order(out: Path, cluster: str) -> None:
    report = annotate(out, "brightness", "light", workers=2)
    assert (report.exit_code, report.shards_done, report.counts["annotated"]) == (0, 3, 11)
    for index in range(3):
        rows = pd.read_parquet(out / f"shards/{index:08d}.parquet")
        new = pd.read_parquet(out / f"columns/light/{index:08d}.parquet")
        assert list(new["key"]) == list(rows["key"])
        for image, mean, colour in zip(rows["image"], new["mean"], new["colour"], strict=True):
            pixels = decode_image(image["bytes"])
            assert mean == pixels.mean()
            np.testing.assert_array_equal(colour, pixels.mean((0, 1)).astype(np.float32))
    assert list(dataset.verify(str(out))) == []
    make_here(out, "brightness", "again")
    assert frame(out, "again").equals(frame(out, "light"))
    assert annotate(out, "brightness", "light").shards_done == 0


def test_only_what_is_missing_or_of_other_rows_is_made(out: Path, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    make_here(out, "Suffix", suffix="!", log=log)
    whole = files(out, "new")
    assert len(Path(log).read_text().splitlines()) == 5
    (out / "columns/new/done/00000001.json").unlink()
    store = Store(str(out))
    manifest = dataset.read_manifest(store)
    shorter = shards.read_back(store, next(shards.read_markers(store, range(2, 3))))
    assert shorter is not None
    del shorter.accepted[-1]
    shards.commit(store, manifest.task(2), shorter, manifest.identity_hash, "run")
    assert [(p.file, p.columns) for p in dataset.verify(str(out))] == [
        ("columns/new/00000001.parquet", "new"),
        ("columns/new/00000002.parquet", "new"),
    ]
    with pytest.raises(UserError, match=r"columns new of shard 1 .* again"):
        open_dataset(str(out), ["new"]).table(["key"])
    Path(log).unlink()
    make_here(out, "Suffix", suffix="!", log=log)
    assert {line.split()[0].rpartition("-")[2] for line in Path(log).read_text().splitlines()} == {"4", "8"}
    assert list(dataset.verify(str(out))) == []
    assert files(out, "new")["00000001.parquet"] == whole["00000001.parquet"]
    assert len(open_dataset(str(out), ["new"]).table(["key"])) == 10


def test_damage_is_found_and_repaired(out: Path) -> None:
    make_here(out, "Suffix", suffix="!")
    whole = files(out, "new")
    path = out / "columns/new/00000000.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    (out / "columns/new/.00000002.parquet.r.tmp").write_bytes(b"x")
    found = list(dataset.verify(str(out)))
    assert [problem.file for problem in found] == [
        "columns/new/00000000.parquet",
        "columns/new/.00000002.parquet.r.tmp",
    ]
    assert dataset.repair(str(out)) == found
    assert list(dataset.verify(str(out))) == []
    make_here(out, "Suffix", suffix="!")
    assert files(out, "new") == whole
    (out / "done/00000000.json").unlink()  # the shard's own: its columns go with it
    assert {problem.columns for problem in dataset.repair(str(out))} == {None, "new"}
    assert not path.exists()
    assert list(dataset.verify(str(out))) == []


def test_columns_join_by_key(out: Path) -> None:
    make_here(out, "brightness", "light")
    make_here(out, "sizes", "sizes")
    table = open_dataset(str(out), ["light", "sizes"]).table(["key", "caption"])
    assert table.column_names == ["key", "caption", "light.mean", "light.colour", "light.words", "sizes.size"]
    assert table.num_rows == 11
    assert dataset.write_index(str(out), ["sizes", "light"]) == 11
    index = pd.read_parquet(out / "index.parquet")
    assert list(index["light.mean"]) == table["light.mean"].to_pylist()
    assert list(index["sizes.size"]) == table["sizes.size"].to_pylist()
    with pytest.raises(UserError, match=r"shard 0 has no columns nothing.*there: light, sizes"):
        open_dataset(str(out), ["nothing"]).table()
    with pytest.raises(UserError, match="hold no poses"):
        open_dataset(str(out), poses="light").table()


def test_poses_take_the_place_of_the_records(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_here(out, "pipelines.annotate:Poses", "posed", detector="mini-pose", min_score=0.1)
    own, other = list(open_dataset(str(out)).samples()), list(open_dataset(str(out), poses="posed").samples())
    assert [row.key for row in own] == [row.key for row in other]
    expected = Poses("mini-pose", min_score=0.1)(own)
    assert [len(row.people) for row in other] == expected["num_people"].to_pylist()
    assert sum(len(row.people) for row in other) > 0
    for one, found in zip(other, expected["people"].to_pylist(), strict=True):
        for person, row in zip(one.people, found, strict=True):
            np.testing.assert_array_equal(person.keypoints.reshape(-1), np.float32(row["keypoints"]))
    assert main(["inspect", str(out), "--poses", "posed", "--json"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["people"] for row in shown] == [len(row.people) for row in other]
    with pytest.raises(UserError, match="mini-pos"):
        compose(str(out), Annotation("pipelines.annotate:Poses", "x", {"detector": "mini-pos"}))


def test_killed_and_run_again_it_is_the_same(out: Path, cluster: str, tmp_path: Path) -> None:
    own = out / "columns" / "new"
    line = ["annotate", str(out), "--fn", f"{HERE}:Suffix", "--name", "new", "--arg", "suffix=!"]
    kill_midway([*line, "--address", cluster], own)
    assert run_annotate(str(out), Annotation(f"{HERE}:Suffix", "new", {"suffix": "!"}), Runtime()).shards_complete == 3
    add_columns(out, Annotation(f"{HERE}:Suffix", "sound", {"suffix": "!"}))
    assert files(out, "new").keys() == files(out, "sound").keys()
    assert frame(out, "new").equals(frame(out, "sound"))


def test_on_an_object_store_it_is_the_same(out: Path, s3: str) -> None:
    url = f"{s3}/annotated"
    write_dataset(url, 3)
    for place in (out, url):
        add_columns(place, Annotation(f"{HERE}:Suffix", "new", {"suffix": "!"}))
    store = Store(url)
    for name, data in files(out, "new").items():
        assert store.read(f"columns/new/{name}") == data
    assert list(dataset.verify(url)) == []
    assert open_dataset(url, ["new"]).table(["key"]).equals(open_dataset(str(out), ["new"]).table(["key"]))
    store.remove(["columns/new/00000001.parquet"])
    assert [problem.file for problem in dataset.repair(url)] == ["columns/new/00000001.parquet"]


def test_other_arguments_are_other_columns(out: Path, cluster: str) -> None:
    assert annotate(out, "Suffix", "new", suffix="!").exit_code == 0
    with pytest.raises(UserError, match=r"arguments\.suffix: ! -> \?.*another --name"):
        annotate(out, "Suffix", "new", suffix="?")
    with pytest.raises(UserError, match="fn: "):
        annotate(out, "sizes", "new")


def test_what_the_function_raises_is_one_line_and_a_traceback_in_failed(
    out: Path, cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = open_dataset(str(out)).table(["key"])["key"].to_pylist()[5]
    line = ["annotate", str(out), "--fn", f"{HERE}:Suffix", "--name", "new", "--batch-size", "3"]
    line += ["--arg", "suffix=!", "--arg", f"fail={bad}"]
    assert main(line) == 1
    assert f"failed: shard 1: ValueError: cannot name {bad}" in capsys.readouterr().err
    report = json.loads((out / "columns/new/failed/00000001.json").read_text())
    assert "Traceback" in report["traceback"]
    assert "annotations.py" in report["traceback"]
    assert sorted(files(out, "new")) == ["00000000.parquet", "00000002.parquet"]


def test_a_row_that_kills_its_process_is_null_and_no_other(out: Path) -> None:
    keys = open_dataset(str(out)).table(["key"])["key"].to_pylist()
    _, make_work = compose(str(out), Annotation(f"{HERE}:Suffix", "new", {"suffix": "!", "kill": keys[1]}, 3))
    table = make_work()(ShardContext(ShardTask(0, 0, SHARD, 1, quarantined=frozenset({keys[1]})))).table
    assert table["name"].to_pylist() == [f"{keys[0]}!", None, f"{keys[2]}!", f"{keys[3]}!"]
    _, make_work = compose(str(out), Annotation(f"{HERE}:Suffix", "new", {"suffix": "!"}, 3))
    task = ShardTask(0, 0, SHARD, 1, isolate=frozenset(keys[:3]), quarantined=frozenset(keys[3:4]))
    table = make_work()(ShardContext(task)).table
    assert table["name"].to_pylist() == [*(f"{key}!" for key in keys[:3]), None]


@pytest.mark.parametrize(
    ("fn", "arguments", "message"),
    [
        ("nowhere.at_all:fn", {}, "No module named 'nowhere'"),
        (f"{HERE}:nothing", {}, "nothing"),
        (HERE, {}, "must be module:function"),
        (f"{HERE}:sizes", {"a": 1}, "is a function, which takes rows alone"),
        (f"{HERE}:Suffix", {}, "missing a required argument: 'suffix'"),
        (f"{HERE}:Suffix", {"suffix": "!", "colour": 1}, "unexpected keyword argument 'colour'"),
        (f"{HERE}:__doc__", {}, "neither a function nor a class"),
    ],
)
def test_what_cannot_run_is_said_before_it_runs(out: Path, fn: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(str(out), Annotation(fn, "new", arguments))
    assert not (out / "columns").exists()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the user's own, in the folder that the command is run in; what it imports is forgotten at the end."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_captions", raising=False)
    file = tmp_path / "here" / "my_captions.py"
    file.write_text("def twice(rows):\n    return {'twice': [2 * row.caption for row in rows]}\n", encoding="utf-8")
    return file


def on_another_machine(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this process has neither the file nor the module."""
    sys.path.remove(str(own.parent))
    for name in [name for name in sys.modules if name.startswith("my_captions")]:
        monkeypatch.delitem(sys.modules, name)
    own.unlink()


def test_a_module_of_ones_own_travels(own: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, make_work = compose(str(out), Annotation("my_captions:twice", "new"))
    on_another_machine(own, monkeypatch)
    table = make_work()(ShardContext(ShardTask(0, 0, SHARD, 1))).table
    captions = open_dataset(str(out)).table(["caption"])["caption"].to_pylist()[: table.num_rows]
    assert table["twice"].to_pylist() == [2 * caption for caption in captions]


def test_a_package_of_ones_own_must_be_there(own: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own.parent / "my_captions").mkdir()
    own = own.rename(own.parent / "my_captions" / "__init__.py")
    _, make_work = compose(str(out), Annotation("my_captions:twice", "new"))
    assert make_work.code is None
    sys.path.remove(str(own.parents[1]))
    monkeypatch.delitem(sys.modules, "my_captions")
    own.unlink()
    own.parent.rmdir()
    with pytest.raises(UserError, match=r"No module named 'my_captions'.*folder of every machine"):
        make_work()


def test_a_gpu_that_is_not_there_is_said(out: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    _, make_work = compose(str(out), Annotation(f"{HERE}:sizes", "new"))
    with pytest.raises(UserError, match=r"gpus_per_worker is above 0, but .* NVIDIA driver"):
        replace(make_work, gpu=True)()


def test_bad_names_and_places_are_refused(out: Path, tmp_path: Path) -> None:
    for name in ("../x", "", "a/b", ".x"):
        with pytest.raises(UserError, match="--name"):
            compose(str(out), Annotation(f"{HERE}:sizes", name))
    with pytest.raises(UserError, match="holds no dataset"):
        compose(str(tmp_path / "nothing"), Annotation(f"{HERE}:sizes", "x"))


def test_what_a_function_returns_is_checked() -> None:
    rows: list[Sample] = [sample("ab" * 32, slot, 1) for slot in range(2)]
    for found, message in (
        ({"a": [1]}, "column 'a' has 1 values for 2 rows"),
        ({}, "names of their own"),
        ({"key": ["a", "b"]}, "names of their own"),
        ([1, 2], "returned list"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            as_table(rows, found)
    table = as_table(rows, {"a": np.zeros((2, 3), np.float32), "b": [None, "x"]})
    assert table["a"].type.value_type == "float"
    assert table["key"].to_pylist() == [row.key for row in rows]


def test_arguments_are_toml_or_text() -> None:
    given = ["a=1", "b=0.5", "c=mini-pose", "d=true", 'e="x y"', "f=[1, 2]", "g=2024-01-01", "h="]
    assert parse_arguments(given) == {
        "a": 1, "b": 0.5, "c": "mini-pose", "d": True, "e": "x y", "f": [1, 2], "g": "2024-01-01", "h": ""
    }  # fmt: skip
    with pytest.raises(UserError, match="key=value"):
        parse_arguments(["x"])


def test_a_dry_run_counts_and_writes_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", str(out), "--fn", f"{HERE}:sizes", "--name", "new", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["shards"], found["shards_to_do"], found["rows_to_do"]) == (3, 3, 11)
    assert not (out / "columns").exists()
