"""What is in a dataset is counted right: funnel, coverage, duplicates, diversity, and what gates shift."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import cli
from pipelines.config import UserError
from pipelines.evaluate import contents
from pipelines.evaluate.contents import caption_words, count, read_contents
from pipelines.evaluate.dataset_text import as_text
from pipelines.evaluate.datasets import (
    evenness,
    histogram,
    near_duplicate_rate,
    shift,
    summarize,
    total_variation,
)
from pipelines.evaluate.diversity import normalised_poses, spread_out
from pipelines.reading import open_dataset
from tests.bench.many_rows import write_rows
from tests.pipelines.small_dataset import write_dataset


@pytest.fixture(scope="module")
def outs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder / "a", 3)
    write_dataset(folder / "b", 1, n=8)
    return [str(folder / "a"), str(folder / "b")]


def test_the_funnel_and_the_coverage_are_those_of_the_rows(outs: list[str]) -> None:
    first, second = summarize([read_contents(out) for out in outs])
    assert first["funnel"] == {
        "slots": 12,
        "candidates": 18,
        "accepted": 11,
        "surplus": 0,
        "turned_down": 7,
        "short": 1,
        "accept_rate": 11 / 18,
        "reasons": {"people_count: too_few": 7},
    }
    assert second["funnel"]["slots"] == 8
    frame = open_dataset(outs[0]).table(["scene", "action", "num_people", "caption"]).to_pandas()
    assert first["scenes"]["counts"] == frame["scene"].value_counts().to_dict()
    assert first["actions"]["different"] == frame["action"].nunique()
    assert first["people"] == {str(k): v for k, v in sorted(frame["num_people"].value_counts().to_dict().items())}
    assert first["caption_words"]["mean"] == pytest.approx(frame["caption"].str.split().str.len().mean())
    assert first["scores"]["min_keypoint_score"]["counts"] is not None
    assert set(first["shifts"]) == {"people_count", "all gates"}
    assert first["shifts"]["people_count"]["turned_down"] == 7


def test_text_and_json_say_the_same(outs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "dataset", *outs]) == 0
    text = capsys.readouterr().out
    assert "| accepted | 11 | 4 |" in text
    assert "| – people_count: too_few | 7 | 2 |" in text
    assert cli.main(["evaluate", "dataset", *outs, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["out"] for line in lines] == outs
    assert as_text(lines) + "\n" == text


def test_no_image_is_read(outs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import shards

    asked: list[Any] = []
    plain = shards.read_table

    def watched(store: Any, folder: str, index: int, columns: list[str] | None = None) -> Any:
        asked.append(columns)
        return plain(store, folder, index, columns)

    monkeypatch.setattr(shards, "read_table", watched)
    read_contents(outs[0])
    assert asked
    assert all(columns is not None and "image" not in columns for columns in asked)


def test_rows_counted_together_are_the_same_as_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "ROWS", 300)
    monkeypatch.setattr(contents, "POSES", 90)
    write_rows(str(tmp_path), 700, 100)
    found = read_contents(str(tmp_path))
    rows = [row for i in range(7) for row in pq.read_table(tmp_path / f"shards/{i:08d}.parquet").to_pylist()]
    ledger = [row for i in range(7) for row in pq.read_table(tmp_path / f"ledger/{i:08d}.parquet").to_pylist()]
    assert found.coverage == Counter((row["scene"], row["action"]) for row in rows)
    assert found.accepted.scenes == Counter(row["scene"] for row in rows)
    assert found.accepted.people == Counter(row["prompt"]["num_people"] for row in rows)
    assert found.found_people == Counter(row["num_people"] for row in rows)
    assert found.caption_words.tolist() == [len(row["caption"].split()) for row in rows]
    assert found.hashes.tolist() == [row["phash"] for row in rows]
    assert set(found.values) == {"min_keypoint_score", "clip_score", "aesthetic"}
    assert found.values["clip_score"].tolist() == [row["clip_score"] for row in rows]
    np.testing.assert_array_equal(
        found.poses, np.concatenate([normalised_poses(row["people"]) for row in rows[:: 700 // 90]])[:90]
    )
    down = [row for row in ledger if row["reason"] != "surplus"]
    assert found.reasons == Counter((row["stage"], row["reason"]) for row in down)
    assert found.surplus.number == len(ledger) - len(down)
    for stage, group in found.gates.items():
        own = [row for row in down if row["stage"] == stage]
        measured = [json.loads(row["measured"]) for row in own]
        assert (group.number, group.captions) == (len(own), len(own))
        assert group.words == sum(len(row["caption"].split()) for row in own)
        assert group.scenes == Counter(row["scene"] for row in own)
        assert group.people == Counter(row["asked_people"] for row in own)
        assert set(group.scores) == {"min_keypoint_score"}
        assert group.mean("min_keypoint_score") == pytest.approx(np.mean([one["keypoint_score"] for one in measured]))


def test_an_empty_dataset_has_no_figures_and_no_dataset_is_a_mistake(tmp_path: Path) -> None:
    write_dataset(tmp_path / "empty", 0, n=4)
    (one,) = summarize([read_contents(str(tmp_path / "empty"))])
    assert one["funnel"]["accept_rate"] is None
    assert one["near_duplicates"] is None
    assert one["pose_diversity"]["entropy"] is None
    assert "| accepted | 0 |" in as_text([one])
    with pytest.raises(UserError, match="holds no dataset"):
        read_contents(str(tmp_path / "absent"))


def test_distance_and_evenness_worked_by_hand() -> None:
    assert total_variation({"a": 1, "b": 1}, {"a": 4}) == pytest.approx(0.5)
    assert total_variation({"a": 2}, {"b": 5}) == 1
    assert total_variation({}, {"a": 1}) is None
    assert evenness({"a": 5, "b": 5, "c": 0}) == pytest.approx(1)
    assert evenness({"a": 3, "b": 1}) == pytest.approx(-(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25)))
    assert evenness({}) is None
    assert histogram([0, 0.05, 0.95, 1.0], 0, 1) == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1), st.integers(1, 9))
def test_distributions_that_differ_in_size_alone_are_at_no_distance(counts: dict[str, int], factor: int) -> None:
    assert total_variation(counts, {key: factor * value for key, value in counts.items()}) == pytest.approx(0)


def test_a_gate_that_turns_down_one_kind_shifts_it() -> None:
    scenes, people = ["mural", "mural", "sketch", "sketch"], [1, 1, 3, 3]
    table = pa.table({"scene": scenes, "people": people, "words": [2] * 4, "clip_score": [20.0, 20.0, 30.0, 50.0]})
    before, after = count(table), count(table.slice(2))
    assert shift(before, after) == {"scenes": 0.5, "people": 0.5, "caption_words": 0.0, "clip_score": 10.0}


@given(st.lists(st.none() | st.text() | st.text(" \t\n\x1c\x85\u2003a,"), min_size=1))
def test_words_are_those_that_python_splits(captions: list[str | None]) -> None:
    found = caption_words(pa.chunked_array([pa.array(captions, pa.string())])).to_pylist()
    assert found == [None if caption is None else len(caption.split()) for caption in captions]


def test_near_duplicates_are_counted_once_each() -> None:
    assert near_duplicate_rate([0, 0b111, 2**40 - 1, 0]) == pytest.approx(2 / 4)
    assert near_duplicate_rate([0b1111, 0]) == 0
    assert near_duplicate_rate([]) is None


def person(keypoints: Any, iscrowd: int | None = None) -> dict[str, Any]:
    return {"keypoints": np.asarray(keypoints, np.float32).reshape(-1), "iscrowd": iscrowd}


def poses(seed: int, kinds: int, count: int, noise: float = 0.05) -> Any:
    rng = np.random.default_rng(seed)
    shapes = np.random.default_rng(99).normal(0, 1, (kinds, 17, 2))
    people = [
        person(np.concatenate([shapes[i % kinds] + rng.normal(0, noise, (17, 2)), np.ones((17, 1))], 1))
        for i in range(count)
    ]
    return normalised_poses(people)


def test_a_pose_is_the_same_wherever_and_however_large() -> None:
    rng = np.random.default_rng(0)
    keypoints = np.concatenate([rng.uniform(0, 50, (17, 2)), np.ones((17, 1))], 1)
    moved = keypoints * (3, 3, 1) + (100, -20, 0)
    a, b = normalised_poses([person(keypoints), person(moved)])
    np.testing.assert_allclose(a, b, atol=1e-4)
    keypoints[8:, 2] = 0.1
    few, crowd = person(np.where(np.arange(17)[:, None] < 7, keypoints, 0)), person(moved, 1)
    assert normalised_poses([few, crowd]).shape == (0, 34)
    assert normalised_poses([person(keypoints)]).shape == (1, 34)


def test_more_kinds_of_poses_are_more_diverse() -> None:
    same, few, many = spread_out([poses(1, 1, 400), poses(2, 4, 400), poses(3, 32, 400)])
    assert same["entropy"] is not None
    assert few["entropy"] is not None
    assert many["entropy"] is not None
    assert same["entropy"] < few["entropy"] < many["entropy"] <= 1
    assert spread_out([poses(1, 1, 400), poses(2, 4, 400), poses(3, 32, 400)])[2] == many
    assert spread_out([poses(1, 1, 1)])[0]["entropy"] is None
    empty, some = spread_out([poses(1, 1, 0), poses(2, 4, 50)])
    assert empty["entropy"] is None
    assert some["entropy"] is not None


def test_counts_merge() -> None:
    table = pa.table(
        {"scene": ["a", None], "people": [1, None], "words": [2, None], "nsfw": [0.5, None], "clip_score": [None, 3.0]}
    )
    both = count(table.slice(0, 1)).merged(count(table.slice(1)))
    assert both == count(table)
    assert (both.words, both.captions) == (2, 1)
    assert (both.number, both.scenes, both.people) == (2, Counter(a=1), Counter({1: 1}))
    assert (both.mean("nsfw"), both.mean("clip_score"), both.mean("aesthetic")) == (0.5, 3.0, None)
