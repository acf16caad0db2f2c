"""Metadata to candidates, by DuckDB."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pipelines.config import UserError, bundled, load_config
from pipelines.laion import plan
from pipelines.laion.config import FilterConfig, LaionConfig, MetadataConfig
from pipelines.store import Store

ROWS = {
    "url": ["http://a/1", "http://a/1", "http://a/2", "http://b/3", "", None, "http://c/4", "http://d/5"],
    "TEXT": ["low", "high", "small", "no person", "x", "x", "  ", "good"],
    "WIDTH": [600.0, 600.0, 100.0, 600.0, 600.0, 600.0, 600.0, None],
    "HEIGHT": [600, 600, 600, 600, 600, 600, 600, 600],
    "similarity": [0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3],
}


@pytest.fixture
def file(tmp_path: Path) -> str:
    pq.write_table(pa.table(ROWS), tmp_path / "meta.parquet")
    return str(tmp_path / "meta.parquet")


def made(tmp_path: Path, file: str, conditions: FilterConfig, **changes: object) -> tuple[plan.Plan, list[str]]:
    config = replace(LaionConfig(metadata=MetadataConfig(files=(file,)), filter=conditions), **changes)  # type: ignore[arg-type]
    store = Store(str(tmp_path / "out"))
    found = plan.make_plan(config, store, plan.metadata_files((file,)))
    shards = -(-found.candidates // config.shard_size)
    return found, [row["caption"] for index in range(shards) for row in plan.read_candidates(store, index)]


def test_the_funnel_counts_what_each_condition_leaves(tmp_path: Path, file: str) -> None:
    found, captions = made(tmp_path, file, FilterConfig(min_size=500, where="caption NOT LIKE '%person%'"))
    assert found.funnel == (
        ("all rows", 8),
        ("has url", 6),
        ("has caption", 5),
        ("min_size", 4),
        ("where", 3),
        ("one row a url", 2),
    )
    assert sorted(captions) == ["good", "high"]  # the better row of a url; unknown size passes


def test_the_order_follows_from_url_and_seed(tmp_path: Path, file: str) -> None:
    _, one = made(tmp_path / "1", file, FilterConfig(), shard_size=2)
    _, same = made(tmp_path / "2", file, FilterConfig(), shard_size=3)
    others = {tuple(made(tmp_path / f"s{seed}", file, FilterConfig(), seed=seed)[1]) for seed in range(1, 9)}
    assert one == same
    assert any(list(other) != one for other in others)
    store = Store(str(tmp_path / "1" / "out"))
    for row in plan.read_candidates(store, 0):
        assert row["key"] == "laion-" + hashlib.sha256(row["url"].encode()).hexdigest()[:16]


def test_what_is_sorted_in_parts_comes_as_what_is_sorted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = range(700)
    urls, texts = [f"http://a/{number % 500}" for number in numbers], [f"text {number}" for number in numbers]
    similarity = [number % 7 / 10 for number in numbers]
    pq.write_table(pa.table({"url": urls, "TEXT": texts, "similarity": similarity}), tmp_path / "meta.parquet")
    file = str(tmp_path / "meta.parquet")
    whole, at_once = made(tmp_path / "1", file, FilterConfig(), shard_size=64)
    for rows in (3, 90):  # the most parts, many of them empty; a few
        monkeypatch.setattr(plan, "PART_ROWS", rows)
        assert made(tmp_path / str(rows), file, FilterConfig(), shard_size=64) == (whole, at_once)
    assert len(at_once) == len(set(at_once)) == 500


def test_too_little_memory_is_told_in_one_line(tmp_path: Path, file: str) -> None:
    config = LaionConfig(metadata=MetadataConfig(files=(file,), memory_mb=1))
    with pytest.raises(UserError, match=r"metadata\.memory_mb gives it more"):
        plan.make_plan(config, Store(str(tmp_path / "out")), (file,))


def test_csv_reads_like_parquet(tmp_path: Path, file: str) -> None:
    pyarrow.csv.write_csv(pa.table(ROWS), tmp_path / "meta.csv")
    conditions = FilterConfig(min_size=500)
    assert made(tmp_path / "p", file, conditions)[1] == made(tmp_path / "c", str(tmp_path / "meta.csv"), conditions)[1]


def test_a_frozen_plan_is_not_mixed_with_other_metadata(tmp_path: Path, file: str) -> None:
    made(tmp_path, file, FilterConfig())
    pq.write_table(pa.table({**ROWS, "similarity": [0.9] * 8}), file)
    with pytest.raises(UserError, match="planned from other metadata"):
        made(tmp_path, file, FilterConfig())


def test_opted_out_urls_and_hosts_are_no_candidates(tmp_path: Path, file: str) -> None:
    (tmp_path / "no.txt").write_text("http://a/1\nd\n")
    found, captions = made(tmp_path, file, FilterConfig(opt_out=tmp_path / "no.txt"))
    assert dict(found.funnel)["opt_out"] == 2
    assert sorted(captions) == ["no person", "small"]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (FilterConfig(where="nonsense >"), "metadata: "),
        (FilterConfig(where="no_such_column = 1"), "no_such_column"),
        (FilterConfig(min_similarity=2.0), "no candidate is left of 8 rows"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, file: str, conditions: FilterConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        made(tmp_path, file, conditions)
    assert "\n" not in str(caught.value)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"link": ["http://a/1"], "TEXT": ["x"]}), tmp_path / "m.parquet")
    with pytest.raises(
        UserError, match=r"metadata\.columns\.url = 'URL': the files have no such column; they have link"
    ):
        made(tmp_path, str(tmp_path / "m.parquet"), FilterConfig())


def test_files_that_are_not_there_are_named() -> None:
    with pytest.raises(UserError, match="no such file"):
        plan.metadata_files(("nowhere/*.parquet",))
    with pytest.raises(UserError, match="is empty"):
        plan.metadata_files(())


def test_every_bundled_preset_loads() -> None:
    names = bundled("laion")
    assert {"mini", "laion2b-en-aesthetic", "relaion2b", "laion-coco", "datacomp", "coyo"} <= set(names)
    for name in names:
        assert load_config(LaionConfig, name, [], "laion").shard_size > 0
