"""`PoseShards`: the same batches for any layout, what a sample holds, what takes the place of what cannot be read."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipelines import columns, record, shards
from pipelines.annotate import Annotation
from pipelines.config import UserError
from pipelines.images import decode_image, encode_image
from pipelines.record import table_to_samples
from pipelines.store import Store
from pipelines.takedown import take_down
from pipelines.taken import Entry
from pipelines.train.augment import Augment, decode_reduced
from pipelines.train.data import PoseShards, RowError, make_sample
from pipelines.train.listing import from_json, list_shards, to_json
from pipelines.train.rows import read_rows, stored_row
from pipelines.work import ShardResult, ShardTask
from tests.pipelines.small_dataset import add_columns, write_dataset
from tests.pipelines.small_dataset import sample as draw_sample

SIZE = 64


@pytest.fixture(scope="module")
def outs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root / "a", 3)
    write_dataset(root / "b", 2)
    return [str(root / "a"), f"{root / 'b'}@2"]


def batches(
    data: Any, n: int, rank: int = 0, world_size: int = 1, workers: int = 0, batch_size: int = 4, **options: Any
) -> list[dict[str, Any]]:
    stream = PoseShards(data, SIZE, batch_size, 5, rank, world_size, **{"augment": None, **options})
    return list(itertools.islice(DataLoader(stream, batch_size=batch_size // world_size, num_workers=workers), n))


def joined(parts: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Global batches from those of each rank."""
    found = []
    for ranks in zip(*parts, strict=True):
        one = {name: [value for rank in ranks for value in rank[name]] for name in ("key", "caption")}
        found.append(one | {n: torch.cat([rank[n] for rank in ranks]) for n in ("image", "skeleton", "keypoints")})
    return found


def test_workers_start_where_opencv_has_threads(outs: list[str]) -> None:
    cv2.setNumThreads(4)
    cv2.warpAffine(np.zeros((1024, 1024, 3), np.uint8), np.eye(2, 3), (1024, 1024))
    assert batches(outs, 1, workers=1)[0]["key"] == batches(outs, 1)[0]["key"]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("world_size", "workers"), [(1, 3), (2, 0), (2, 2), (4, 1)])
def test_global_batches_are_the_same_for_any_ranks_and_workers(outs: list[str], world_size: int, workers: int) -> None:
    alone = joined([batches(outs, 6, augment=Augment(hflip=0.5, rotate=0.5))])
    ranks = [
        batches(outs, 6, rank, world_size, workers, augment=Augment(hflip=0.5, rotate=0.5))
        for rank in range(world_size)
    ]
    for one, other in zip(alone, joined(ranks), strict=True):
        assert one["key"] == other["key"]
        for name in ("image", "skeleton", "keypoints"):
            assert torch.equal(one[name], other[name])


def test_a_start_goes_on_with_the_batches_that_follow(outs: list[str]) -> None:
    whole = batches(outs, 9, augment=Augment())
    rest = batches(outs, 4, start=5, augment=Augment())
    for one, other in zip(whole[5:], rest, strict=True):
        assert one["key"] == other["key"]
        assert torch.equal(one["image"], other["image"])


def test_seeds_and_epochs_differ(outs: list[str]) -> None:
    one = PoseShards(outs[:1], SIZE, 4, 0, augment=None)
    other = PoseShards(outs[:1], SIZE, 4, 1, augment=None)
    rows = one.parts[0].rows
    keys = [sample["key"] for sample in itertools.islice(one, 2 * rows)]
    assert sorted(keys[:rows]) == sorted(keys[rows:])
    assert len(set(keys)) == rows
    assert keys[:rows] != keys[rows:]
    assert keys[:rows] != [sample["key"] for sample in itertools.islice(other, rows)]


def test_samples_are_what_is_stored(outs: list[str]) -> None:
    stored = {row.key: row for row in table_to_samples(shards.read_table(Store(outs[0]), "shards", 0))}
    found = 0
    for sample in itertools.islice(PoseShards(outs[:1], SIZE, 4, 0, augment=None), 11):
        row = stored.get(sample["key"])
        if row is None:
            continue
        found += 1
        image = torch.from_numpy(decode_image(row.image or b"").copy()).permute(2, 0, 1)
        assert (sample["skeleton"].dtype, sample["keypoints"].dtype) == (torch.uint8, torch.float32)
        assert torch.equal(sample["image"], image)
        assert sample["caption"] == row.caption
        people = sorted((person for person in row.people), key=lambda person: -person.area)
        assert sample["num_people"] == len(people)
        expected = np.stack([person.keypoints for person in people])
        np.testing.assert_allclose(sample["keypoints"][: len(people)], expected, atol=1e-4)
        assert not sample["keypoints"][len(people) :].any()
        assert sample["skeleton"].min() == 0
        assert sample["skeleton"].max() > 127
    assert found == 4


def test_weights_say_how_often_rows_come(outs: list[str]) -> None:
    drawn = [sample["key"] for sample in itertools.islice(PoseShards(outs, SIZE, 1, 0, augment=None), 540)]
    # 11 rows of weight 1 and 7 of weight 2; both datasets hold the same first rows, under the same keys
    only_a = sum(int(key.rsplit("-", 1)[1]) >= 8 for key in drawn)
    assert only_a / len(drawn) == pytest.approx(4 / (11 + 14), abs=0.05)


def test_other_poses_take_the_place_of_the_stored_ones(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", 1)
    add_columns(tmp_path / "out", Annotation("tests.pipelines.train.test_data:nobody", "none"))
    for sample in itertools.islice(PoseShards([str(tmp_path / "out")], SIZE, 1, 0, augment=None, poses="none"), 4):
        assert sample["num_people"] == 0
        assert not sample["skeleton"].any()
    with pytest.raises(UserError, match="no columns missing"):
        PoseShards([str(tmp_path / "out")], SIZE, 1, 0, augment=None, poses="missing")


def nobody(rows: list[Any]) -> Any:
    """Annotate with no people."""
    return record.samples_to_table([replace(row, people=()) for row in rows]).select(list(columns.POSES))


def spoil(out: Path, index: int) -> None:
    path = out / "shards" / f"{index:08d}.parquet"
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) // 2])


def test_a_corrupt_shard_is_named_and_other_samples_take_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_dataset(tmp_path, 3)
    before = [batch["key"] for batch in batches([str(tmp_path)], 6)]
    lost = set(shards.read_table(Store(str(tmp_path)), "shards", 1, ["key"])["key"].to_pylist())
    spoil(tmp_path, 1)
    with caplog.at_level(logging.WARNING, "pipelines.train"):
        after = [batch["key"] for batch in batches([str(tmp_path)], 6)]
    assert [record.getMessage() for record in caplog.records if "00000001.parquet" in record.getMessage()]
    assert len(caplog.records) == 1
    for old, new in zip(itertools.chain(*before), itertools.chain(*after), strict=True):
        assert new not in lost
        assert new == old or old in lost
    other = joined([batches([str(tmp_path)], 6, rank, 2) for rank in (0, 1)])
    assert [batch["key"] for batch in other] == after
    with pytest.raises(RowError, match=r"00000001\.parquet"):
        batches([str(tmp_path)], 6, on_error="raise")


def test_a_jpeg_that_is_cut_off_is_told_and_a_large_one_is_decoded_small(tmp_path: Path) -> None:
    write_dataset(tmp_path, 1)
    store = Store(str(tmp_path))
    whole = table_to_samples(shards.read_table(store, "shards", 0))[0]
    pixels = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8), (0, 0), 8)
    jpeg = encode_image(pixels, "jpeg", 90)
    for data, told in ((jpeg, ""), (jpeg[: len(jpeg) // 2], "cut off")):
        stored = replace(whole, image=data, width=512, height=512)
        shards.commit(store, ShardTask(0, 0, 1, 1), ShardResult(accepted=[stored]), "0" * 16, "run")
        row = read_rows(store, 0, [0])[0]
        assert row is not None
        assert row.image is not None
        if told:
            with pytest.raises(ValueError, match=told):
                decode_reduced(row.image, SIZE)
        else:
            assert decode_reduced(row.image, SIZE).shape == (SIZE, SIZE, 3)


def test_pictures_of_another_size_and_places_that_are_no_numbers_do_no_harm() -> None:
    row = stored_row(draw_sample("0" * 16, 0, 1))
    rng = np.random.default_rng(0)
    with pytest.raises(RowError, match="not of 65 x 64 pixels"):
        make_sample(replace(row, width=65), Augment(), SIZE, 10, rng)
    spoilt = row.keypoints.copy()
    spoilt[0, 5, 0], spoilt[0, 6, 1] = np.nan, np.inf
    made = make_sample(replace(row, keypoints=spoilt), Augment(), SIZE, 10, rng)
    assert np.isfinite(made["keypoints"]).all()


def test_a_listing_that_was_kept_gives_the_same_order_while_the_dataset_grows(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", 2, n=12)
    kept = to_json(list_shards([str(tmp_path / "out")]))
    before = [batch["key"] for batch in batches([str(tmp_path / "out")], 5)]
    write_dataset(tmp_path / "out", 3, n=12)
    assert [batch["key"] for batch in batches(from_json(kept), 5)] == before
    assert [batch["key"] for batch in batches([str(tmp_path / "out")], 5)] != before


def test_rows_taken_down_do_not_come_back_with_a_kept_listing(tmp_path: Path) -> None:
    keys = write_dataset(tmp_path / "out", 2)
    kept = list_shards([str(tmp_path / "out")])
    take_down(str(tmp_path / "out"), [Entry("key", keys[0])])
    seen = set(itertools.chain(*(batch["key"] for batch in batches(kept, 8))))
    assert keys[0] not in seen
    assert seen == set(keys[1:])


def test_mistakes_are_told(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", 1)
    out = str(tmp_path / "out")
    for told, data, options in (
        ("must be a multiple", [out], {"world_size": 3}),
        ("weight above 0", [f"{out}@0"], {}),
        ("named twice", [out, f"{out}@2"], {}),
        ("holds no dataset", [str(tmp_path / "nothing")], {}),
        ("cannot be augmented", [out], {"cached": True, "augment": Augment()}),
        ("humansd train cache", [out], {"cached": True}),
    ):
        with pytest.raises(UserError, match=told):
            batches(data, 1, **options)
