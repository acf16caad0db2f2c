"""Cached latents: what the models make of the pictures themselves, kept right when rows change."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipelines import columns, shards
from pipelines.annotate import Annotation
from pipelines.checkpoint import MINI_FOLDER, ModelConfig, resolve
from pipelines.config import UserError
from pipelines.record import table_to_samples
from pipelines.store import Store
from pipelines.takedown import take_down
from pipelines.taken import Entry
from pipelines.train.cache import Latents, cache_latents, columns_name
from pipelines.train.data import PoseShards
from pipelines.train.model import load_parts
from tests.pipelines.small_dataset import add_columns, sample, write_dataset

SIZE = 64
MODEL = ModelConfig()
BASE = resolve(MODEL)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset with latents, made in this process."""
    folder = tmp_path_factory.mktemp("cache") / "out"
    write_dataset(folder, 2)
    add_latents(folder)
    return str(folder)


def add_latents(folder: Path) -> None:
    arguments = {"model": "mini", "size": SIZE, "max_people": 10}
    add_columns(folder, Annotation("pipelines.train.cache:Latents", columns_name(BASE, SIZE), arguments, 8))


def batches(out: str, **options: Any) -> list[dict[str, Any]]:
    stream = PoseShards([out], SIZE, 4, 0, augment=None, **options)
    return list(itertools.islice(DataLoader(stream, batch_size=4), 3))


def test_cached_batches_equal_the_uncached_within_half_precision(out: str) -> None:
    parts = load_parts(MINI_FOLDER)
    for plain, cached in zip(batches(out), batches(out, cached=columns_name(BASE, SIZE)), strict=True):
        assert cached["key"] == plain["key"]
        assert cached["caption"] == plain["caption"]
        assert torch.equal(cached["keypoints"], plain["keypoints"])
        assert not {"image", "skeleton"} & set(cached)
        made = {
            "latent": parts.encode_images(plain["image"]),
            "skeleton_latent": parts.encode_images(plain["skeleton"]),
            "text_states": parts.encode_text(plain["caption"]),
        }
        for name, expected in made.items():
            assert cached[name].dtype == torch.float16
            assert expected.std() > 0.1
            # half an ulp of float16, and what other batch sizes change in float32
            torch.testing.assert_close(cached[name].float(), expected, rtol=2**-10, atol=2e-4)


def test_the_only_latents_there_are_need_no_name(out: str) -> None:
    for one, other in zip(batches(out, cached=True), batches(out, cached=columns_name(BASE, SIZE)), strict=True):
        assert torch.equal(one["latent"], other["latent"])


def test_the_name_follows_from_model_size_and_people(out: str) -> None:
    names = {columns_name(BASE, SIZE), columns_name(BASE, 128), columns_name(BASE, SIZE, 3)}
    assert len(names) == 3
    with pytest.raises(UserError, match="has no columns latents-"):
        batches(out, cached=columns_name(BASE, 128))
    with pytest.raises(UserError, match="own poses"):
        batches(out, cached=True, poses="other")


def test_a_picture_that_cannot_be_read_has_no_latents() -> None:
    latents = Latents("mini", size=SIZE)
    whole = sample("0" * 16, 0, 1)
    table = latents([whole, replace(whole, key="broken", image=b"no picture")])
    assert table["latent"].to_pylist()[1] is None
    stored = np.frombuffer(table["latent"].to_pylist()[0], np.float16).reshape(table["latent_shape"].to_pylist()[0])
    assert stored.shape == (load_parts(MINI_FOLDER).vae.config.latent_channels, 16, 16)
    assert latents([replace(whole, image=b"")])["text_states"].to_pylist() == [None]


def test_latents_follow_their_rows(tmp_path: Path) -> None:
    keys = write_dataset(tmp_path, 2)
    add_latents(tmp_path)
    take_down(str(tmp_path), [Entry("key", keys[0])])
    name = columns_name(BASE, SIZE)
    with pytest.raises(UserError, match="columns latents-"):
        batches(str(tmp_path), cached=True)  # those of the changed shard are gone, not wrong
    add_latents(tmp_path)
    assert {key for batch in batches(str(tmp_path), cached=True) for key in batch["key"]} <= set(keys[1:])
    kept = columns.read_shard(Store(str(tmp_path)), 1, add=[name])
    assert [row.key for row in table_to_samples(kept)] == shards.read_table(Store(str(tmp_path)), "shards", 1)[
        "key"
    ].to_pylist()


def test_the_command_tells_what_cannot_be_cached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines import cli

    for told, setting in (("data.augment=false", "data.augment=true"), ("own poses", "data.poses=sure")):
        words = ["train", "cache", "--data", str(tmp_path), "--set", "data.augment=false", "--set", setting]
        assert cli.main(words) == 2
        assert told in capsys.readouterr().err


@pytest.mark.usefixtures("cluster")
def test_the_engine_makes_them_once(tmp_path: Path) -> None:
    from pipelines.job import Runtime

    write_dataset(tmp_path / "a", 2)
    data, runtime = [f"{tmp_path / 'a'}@2"], Runtime(workers=1)
    first = cache_latents(data, MODEL, SIZE, 10, runtime)[str(tmp_path / "a")]
    again = cache_latents(data, MODEL, SIZE, 10, runtime)[str(tmp_path / "a")]
    assert (first.exit_code, first.shards_done, again.exit_code, again.shards_done) == (0, 2, 0, 0)
    assert batches(str(tmp_path / "a"), cached=True)[0]["latent"].shape[0] == 4
