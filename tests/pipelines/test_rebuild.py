"""Datasets again from their recipes: by the miniature models, and from the small web."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import cli, dataset, lease, shards
from pipelines.config import identity_of_values, load_config, plain
from pipelines.images import decode_image, encode_image, perceptual_hash
from pipelines.laion.blocklist import Hashes
from pipelines.laion.config import LaionConfig
from pipelines.laion.fetch import Downloads
from pipelines.laion.job import identity_of
from pipelines.laion.optout import OptOut
from pipelines.laion.plan import CANDIDATES
from pipelines.mini import web
from pipelines.reading import open_dataset
from pipelines.recipe import METADATA, SCHEMA, RecipeRow, open_recipe
from pipelines.record import Sample
from pipelines.store import Store
from pipelines.work import ShardResult, ShardTask
from tests.pipelines import in_process
from tests.pipelines.jobs import keys
from tests.pipelines.small_dataset import sample, write_dataset

GATES = ("--set", "gates.constant=33.0")
"""Strict enough that first attempts fail."""


@pytest.fixture(scope="module")
def ghi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated dataset of two shards, the second one shorter, with later attempts among the accepted."""
    out = tmp_path_factory.mktemp("rebuild") / "ghi"
    small = ["--n", "7", "--set", "shard_size=4", "--set", "sampler.batch_size=4", "--set", "sampler.steps=6", *GATES]
    with pytest.MonkeyPatch.context() as patched:
        in_process.patch(patched)
        assert cli.main(["ghi", "--config", "mini", *small, "--out", str(out)]) in (0, 1)
    return out


@pytest.fixture(scope="module")
def recipe(ghi: Path) -> Path:
    out = ghi.parent / "recipe"
    assert cli.main(["export", str(ghi), "--to", "recipe", "--out", str(out)]) == 0
    return out / "recipe.parquet"


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("shards/*.parquet"))}


def test_a_generated_dataset_comes_out_byte_for_byte(
    ghi: Path, recipe: Path, cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempts = pd.read_parquet(recipe)["generation"].map(lambda made: made["attempt"])
    assert attempts.max() > 1, "only first attempts: the test shows less than it should"
    assert cli.main(["rebuild", str(recipe), "--out", str(tmp_path / "again"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = len(keys(ghi))
    assert (told["equal"], told["perceptual"], told["different"], told["missing"]) == (rows, 0, 0, 0)
    assert bytes_of(tmp_path / "again") == bytes_of(ghi)
    assert list(dataset.verify(str(tmp_path / "again"))) == []
    matches = pd.read_parquet(tmp_path / "again/rebuild.parquet")
    assert list(matches["key"]) == keys(ghi)
    assert (matches["sha256"] == matches["expected_sha256"]).all()
    ends = [
        [(done.short, done.start, done.stop) for done in shards.read_markers(Store(str(out)))]
        for out in (ghi, tmp_path / "again")
    ]
    assert ends[0] == ends[1]


@pytest.mark.usefixtures("in_process")
def test_a_dry_run_says_what_is_to_be_sampled_and_makes_nothing(
    ghi: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again, images = (
        tmp_path / "again",
        [row["bytes"] for row in open_dataset(str(ghi)).table(["image"])["image"].to_pylist()],
    )
    assert cli.main(["rebuild", str(recipe), "--out", str(again), "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = len(keys(ghi))
    assert (told["shards_to_do"], told["shards_complete"], told["accepted"]) == (2, 0, 0)
    assert (told["rows_to_make"], told["sampled"], told["bytes"]) == (rows, 8, sum(map(len, images)))
    assert told["model"].startswith("mini (sha256:")
    assert not again.exists()
    assert cli.main(["rebuild", str(recipe), "--out", str(again), "--shards", "0:1"]) == 1
    there = len(keys(again))
    capsys.readouterr()
    assert cli.main(["rebuild", str(recipe), "--out", str(again), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert f"there     {there} rows, 1 shards complete" in text
    assert f"to do     {rows - there} rows in 1 shards, to be sampled" in text
    assert cli.main(["rebuild", str(recipe), "--out", str(again), "--set", "sampler.steps=9", "--dry-run"]) == 2


@pytest.mark.usefixtures("in_process")
def test_it_goes_on_where_it_stopped_and_heeds_takedowns(ghi: Path, recipe: Path, tmp_path: Path) -> None:
    again, last = tmp_path / "again", keys(ghi)[-1]
    assert cli.main(["rebuild", str(recipe), "--out", str(again), "--shards", "0:1"]) == 1
    assert Counter(pd.read_parquet(again / "rebuild.parquet")["reason"])["not_made"] == 3
    before = (again / "done/00000000.json").stat().st_mtime_ns
    cli.main(["takedown", str(again), "--key", last])  # before it is made
    assert cli.main(["rebuild", str(recipe), "--out", str(again)]) == 1
    assert (again / "done/00000000.json").stat().st_mtime_ns == before
    assert keys(again) == [key for key in keys(ghi) if key != last]


def test_what_was_taken_down_before_stays_away(ghi: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "ghi", 1)
    key = keys(tmp_path / "ghi")[1]
    assert cli.main(["takedown", str(tmp_path / "ghi"), "--key", key]) == 0
    assert cli.main(["export", str(tmp_path / "ghi"), "--to", "recipe", "--out", str(tmp_path / "r")]) == 0
    found = open_recipe(str(tmp_path / "r/recipe.parquet"))
    assert found.taken == (key,)
    assert key not in [row.sample.key for row in found.read(0)]


def test_a_recipe_is_small_and_tells_nothing_of_the_machine(ghi: Path, recipe: Path) -> None:
    data = recipe.read_bytes()
    assert b"\xff\xd8\xff" not in data
    assert str(ghi).encode() not in data
    table = pq.read_table(recipe)
    assert table.schema.names == SCHEMA.names
    assert table["prompt"].null_count == table["image_sha256"].null_count == 0


def test_images_are_compared_by_bytes_then_by_look() -> None:
    one = sample("0" * 64, 0, 1)
    assert one.image is not None
    pixels = decode_image(one.image)
    row = RecipeRow(replace(one, image=None, phash=perceptual_hash(pixels)), "f" * 64)
    assert row.match(one.image) == "perceptual"
    assert row.match(encode_image(pixels[::-1].copy(), "png", 0)) == "different"
    assert row.match(encode_image(pixels.repeat(2, 0).repeat(2, 1), "png", 0)) == "different"


def write_laion(out: Path, paths: list[str]) -> list[str]:
    """A LAION-Human dataset of one shard, of pages of the small web; return its keys."""
    config = load_config(LaionConfig, "mini", [], "laion")
    named = identity_of(config, "fingerprint")
    hashed = identity_of_values(named)
    rows = []
    for number, path in enumerate(paths):
        url = f"http://{web.HOST}/{path}"
        rows.append({**dict.fromkeys(CANDIDATES.names), "key": f"laion-{number:016x}", "url": url, "caption": path})
    with web.serve() as address:
        got = Downloads(config.fetch, OptOut(), Hashes(), {f"{web.HOST}:80": address}).get(rows)
    found = [one for one in got.values() if isinstance(one, Sample)]
    assert len(found) == len(paths)
    store = Store(str(out))
    manifest = dataset.Manifest("laion-human", hashed, named, len(paths), len(paths), 1, plain(config))
    dataset.write_manifest(store, manifest, {}, lease.new_run())
    shards.commit(store, ShardTask(0, 0, len(paths), 1), ShardResult(found), hashed, "run")
    return [one.key for one in found]


def test_downloaded_images_come_again(cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_laion(tmp_path / "laion", ["people/1.jpg", "people/2.jpg", "people/3.jpg"])
    arguments = ["export", str(tmp_path / "laion"), "--to", "recipe", "--out", str(tmp_path / "r")]
    assert cli.main(arguments) == 0
    recipe = tmp_path / "r/recipe.parquet"
    gone(recipe, "people/2.jpg", "people/none.jpg")
    capsys.readouterr()
    mini = ("--set", "metadata.files=['mini']", "--set", f"fetch.allow_hosts=['{web.HOST}:80']")
    dry = ("rebuild", str(recipe), "--out", str(tmp_path / "again"), *mini, "--dry-run", "--json")
    assert cli.main(dry) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows_to_make"], told["hosts"], told["asked_most"]) == (3, 1, {web.HOST: 3})
    assert told["bytes"] == sum(pd.read_parquet(recipe)["image_bytes"])
    assert cli.main(["rebuild", str(recipe), "--out", str(tmp_path / "again"), *mini, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["equal"], told["different"], told["missing"]) == (2, 0, 1)
    matches = pd.read_parquet(tmp_path / "again/rebuild.parquet")
    assert list(matches["match"]) == ["equal", "missing", "equal"]
    assert matches["reason"][1] == "http_404"
    assert cli.main(dry) == 0
    assert json.loads(capsys.readouterr().out)["rows_to_make"] == 0  # what is not there will not be: none to try again
    assert cli.main(["takedown", str(tmp_path / "again"), "--key", matches["key"][0]]) == 0
    assert keys(tmp_path / "again") == [matches["key"][2]]


def gone(recipe: Path, path: str, other: str) -> None:
    """Let an address of a recipe lead elsewhere."""
    table = pq.read_table(recipe)
    rows = table.to_pylist()
    for row in rows:
        row["origin"]["url"] = row["origin"]["url"].replace(path, other)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), recipe)


@pytest.mark.usefixtures("in_process")
def test_addresses_of_a_recipe_are_guarded(tmp_path: Path) -> None:
    write_laion(tmp_path / "laion", ["people/1.jpg"])
    assert cli.main(["export", str(tmp_path / "laion"), "--to", "recipe", "--out", str(tmp_path / "r")]) == 0
    recipe = tmp_path / "r/recipe.parquet"
    gone(recipe, f"http://{web.HOST}/people/1.jpg", "http://169.254.169.254/latest")
    assert cli.main(["rebuild", str(recipe), "--out", str(tmp_path / "again")]) == 1
    assert list(pd.read_parquet(tmp_path / "again/rebuild.parquet")["reason"]) == ["refused_address"]


def edited(recipe: Path, to: Path, **changes: object) -> str:
    table = pq.read_table(recipe)
    told = json.loads(table.schema.metadata[METADATA]) | changes
    pq.write_table(table.replace_schema_metadata({METADATA: json.dumps(told)}), to)
    return str(to)


def test_what_is_no_sound_recipe_is_said(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.parquet").write_text("no Parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    wrong = {
        str(tmp_path / "absent.parquet"): "no such file",
        str(tmp_path / "text.parquet"): "is no recipe",
        str(tmp_path / "other.parquet"): "is no recipe",
        edited(recipe, tmp_path / "a", identity={}): "its identity is not what its hash says",
        edited(recipe, tmp_path / "b", shards=[[0, 0, 4, 1, 9]]): "sizes that can be",
        edited(recipe, tmp_path / "c", source="human-art"): "import your own copy",
        edited(recipe, tmp_path / "d", data_version=99): "take that version",
    }
    for path, message in wrong.items():
        assert cli.main(["rebuild", path, "--out", str(tmp_path / "x")]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["rebuild", str(recipe), "--out", str(tmp_path / "x"), "--set", "sampler.steps=9"]) == 2
    assert "would make other images" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
