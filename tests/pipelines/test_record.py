"""The record: what goes in comes out, and foreign readers see what they need."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from detectors.types import Person
from pipelines import record
from pipelines.record import Generation, LedgerRow, Origin, Rejected, Sample
from pipelines.shards import encode
from prompts.grammar import PARTS


def a_person(seed: int = 0) -> Person:
    keypoints = np.random.default_rng(seed).random((17, 3), dtype=np.float32)
    return Person(
        bbox=(1.0, 2.0, 30.0, 60.5),
        score=0.5,
        area=954.25,
        keypoints=keypoints,
        visibility=(0, 1, 2) * 5 + (0, 1),
        keypoints21=(1.0, 2.0, 0.5) * 21,
        self_contact=(3.0, 4.0),
        iscrowd=0,
        annotation_id=2**40,
    )


def a_png(color: tuple[int, int, int] = (200, 10, 10)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(file, "PNG")
    return file.getvalue()


def a_full_sample() -> Sample:
    parts = {part: f"some {part}" for part in record.PROMPT_PARTS}
    return Sample(
        key="ghi-01234567-5",
        source="ghi",
        image=a_png(),
        image_path="ghi-01234567-5.png",
        width=8,
        height=6,
        caption="two people – dancing",
        people=(a_person(0), a_person(1)),
        annotation='{"license": 3}',
        scene="ukiyoe",
        action="dancing",
        prompt={**parts, "praise": None, "num_people": 2, "negative": "blurry"},
        generation=Generation("mini", "abc", "dpm++", 20, 7.5, 2**62, 3),
        origin=Origin("https://a/b.jpg", "https://a/", 800, 600, "f" * 64, "CC0", "A. Uthor"),
        clip_score=0.25,
        aesthetic=5.5,
        nsfw=0.125,
        watermark=0.0,
        phash=2**64 - 1,
    )


def a_bare_sample() -> Sample:
    return Sample("laion-1", "laion-human", a_png(), "laion-1.png", 8, 6, "", ())


def equal(one: Sample, two: Sample) -> bool:
    """Equality through everything, float arrays bit for bit."""

    def plain(sample: Sample) -> object:
        people = [
            [
                value.tobytes() if isinstance(value, np.ndarray) else value
                for value in (getattr(p, s) for s in p.__slots__)
            ]
            for p in sample.people
        ]
        return (dataclasses.replace(sample, people=()), people)

    return plain(one) == plain(two)


def parquet(samples: Sequence[Sample]) -> bytes:
    """Samples as a shard's file."""
    file = io.BytesIO()
    encode(record.samples_to_table(samples), "h", file)
    return file.getvalue()


def test_samples_survive_parquet_unchanged() -> None:
    samples = [a_full_sample(), a_bare_sample()]
    table = pq.read_table(pa.BufferReader(parquet(samples)))
    back = record.table_to_samples(table)
    assert all(equal(one, two) for one, two in zip(samples, back, strict=True))
    assert table["num_people"].to_pylist() == [2, 0]


def test_an_image_that_must_not_be_kept_is_null_beside_others() -> None:
    gone = dataclasses.replace(a_bare_sample(), image=None)
    images = record.samples_to_table([gone, a_bare_sample(), gone])["image"].to_pylist()
    assert images == [None, {"bytes": a_png(), "path": "laion-1.png"}, None]


def test_the_least_sure_person_decides_the_keypoint_score() -> None:
    sample = a_full_sample()
    stored = record.samples_to_table([sample, a_bare_sample()])["min_keypoint_score"].to_pylist()
    assert stored[0] == pytest.approx(min(person.keypoints[:, 2].mean() for person in sample.people))
    assert stored[1] is None


def test_a_sample_without_bytes_has_a_null_image() -> None:
    sample = dataclasses.replace(a_full_sample(), image=None)
    table = record.rejected_to_table([Rejected(sample, "gate", "safety", 4)])
    assert table["image"].to_pylist() == [None]
    (back,) = record.table_to_rejected(table)
    assert (back.sample.image, back.stage, back.reason, back.attempt) == (None, "gate", "safety", 4)


def test_ledger_rows_survive_with_their_measurements() -> None:
    row = LedgerRow(
        "k", 3, 2, "gate", "people_count", {"b": 0.1, "a": 1e-9, "n": None}, 2, 3, "c", "s", "x", None, 2**62
    )
    (back,) = record.table_to_ledger(record.ledger_to_table([row]))
    assert back == row


def test_what_is_not_finite_is_measured_as_null() -> None:
    row = LedgerRow("k", 0, 1, "gate", "broken", {"mean": float("nan"), "max": float("inf")})
    text = record.ledger_to_table([row])["measured"][0].as_py()
    assert json.loads(text) == {"max": None, "mean": None}


def test_the_prompt_columns_are_the_grammar_s_parts() -> None:
    assert record.PROMPT_PARTS == PARTS


def test_the_same_rows_give_the_same_bytes_in_groups_of_a_hundred() -> None:
    samples = [dataclasses.replace(a_full_sample(), key=f"k{i}") for i in range(250)]
    one, two = (parquet(samples) for _ in range(2))
    assert one == two
    metadata = pq.read_metadata(pa.BufferReader(one))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [100, 100, 50]
    assert metadata.metadata[b"humansd.identity"] == b"h"
    assert metadata.metadata[b"humansd.schema_version"] == b"1"
    assert metadata.metadata[b"humansd.data_version"] == b"1"


def test_pandas_reads_the_columns_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "00000000.parquet"
    path.write_bytes(parquet([a_full_sample(), a_bare_sample()]))
    frame = pd.read_parquet(path)
    documented = (
        "key source image width height caption num_people min_keypoint_score people annotation scene action prompt "
        "generation origin clip_score aesthetic nsfw watermark phash"
    )
    assert list(frame.columns) == documented.split()
    people = frame["people"][0]
    assert np.stack([person["keypoints"] for person in people]).reshape(-1, 17, 3).shape == (2, 17, 3)
    assert Image.open(io.BytesIO(frame["image"][0]["bytes"])).size == (8, 6)
    assert frame["prompt"][0]["num_people"] == 2
    assert len(frame["prompt"][0]) == 20


def test_datasets_decodes_the_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "00000000.parquet"
    path.write_bytes(parquet([a_full_sample(), a_bare_sample()]))
    rows = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows[0]["image"].size == (8, 6)
    assert rows[0]["image"].getpixel((0, 0)) == (200, 10, 10)
    assert len(rows[0]["people"]) == 2
    assert len(rows[0]["people"][0]["keypoints"]) == 51
    assert rows[1]["people"] == []
    assert rows.features["phash"].dtype == "uint64"
