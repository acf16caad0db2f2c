"""Scores by a CLIP of one's own and an aesthetic head on it. The CLIPs here are small and random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipelines import shards
from pipelines.clip import ClipScorer
from pipelines.config import UserError
from pipelines.images import decode_image
from pipelines.laion.annotate import MakeAnnotateWork
from pipelines.laion.job import identity_of
from pipelines.laion.regate import MakeRegateWork, Still
from pipelines.laion.score import AestheticHead, Clip, clip_digest, load_clip_by_name
from pipelines.mini import web
from pipelines.store import Store
from pipelines.work import ShardContext, ShardTask
from tests.pipelines.laion.mini_job import SIZE, config

TEXTS = ["a man running", "a woman sitting", "a landscape"]


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP in transformers layout, with the vocabulary that all_clip tokenizes for (OpenAI's)."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    from pipelines.clip import MINI_CLIP

    torch.manual_seed(0)
    part = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**part, "vocab_size": 49_408, "eos_token_id": 49_407, "bos_token_id": 49_406}
    sizes = CLIPConfig(text_config=text, vision_config={**part, "image_size": 64, "patch_size": 16}, projection_dim=24)
    folder = tmp_path_factory.mktemp("clips") / "hf"
    CLIPModel(sizes).save_pretrained(folder, safe_serialization=True)
    own = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    CLIPProcessor(own, CLIPTokenizer.from_pretrained(MINI_CLIP)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def open_clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import open_clip
    import torch
    from safetensors.torch import save_file as save_tensors

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("clips") / "open.safetensors"
    save_tensors(open_clip.create_model("ViT-S-32-alt").state_dict(), file)
    return file


def check(clip: Clip) -> None:
    """Unit vectors in one space, the same for the same input whatever is beside it."""
    pictures = web.Pictures()
    images = [decode_image(pictures.get(f"people/{index}.jpg") or b"") for index in range(3)]
    seen, read = clip.images(images), clip.texts(TEXTS)
    assert seen.shape == read.shape
    assert seen.dtype == read.dtype == np.float32
    assert np.allclose(np.linalg.norm(seen, axis=1), 1, atol=1e-3)
    assert np.allclose(np.linalg.norm(read, axis=1), 1, atol=1e-3)
    assert np.allclose(clip.images(images[::-1])[::-1], seen, atol=2e-3)
    assert np.abs(read[0] - read[1]).max() > 1e-3
    assert np.abs(seen[0] - seen[1]).max() > 1e-3


def test_a_folder_in_transformers_layout(hf_folder: Path) -> None:
    check(load_clip_by_name(f"hf_clip:{hf_folder}"))


def test_an_open_clip_checkpoint_of_ones_own(open_clip_file: Path) -> None:
    check(load_clip_by_name(f"open_clip:ViT-S-32-alt/{open_clip_file}"))


def test_a_clip_is_pinned_by_its_files(hf_folder: Path, open_clip_file: Path, tmp_path: Path) -> None:
    named = [f"hf_clip:{hf_folder}", f"open_clip:ViT-S-32-alt/{open_clip_file}", "mini"]
    digests = [clip_digest(name) for name in named]
    assert None not in digests
    assert len(set(digests)) == 3
    assert clip_digest("ViT-B/32") is clip_digest("open_clip:ViT-H-14/laion2b") is None
    file = hf_folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert clip_digest(named[0]) != digests[0]
    file.write_bytes(data)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_clip_by_name(f"hf_clip:{tmp_path}")


def test_the_aesthetic_head_scores_the_images_embedding(made: Path, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)
    width = ClipScorer().images([np.zeros((64, 64, 3), np.uint8)]).shape[1]
    weight = np.resize(weight, (1, width))
    save_file({"weight": weight, "bias": np.array([5.0], np.float32)}, tmp_path / "head.safetensors")
    own = config(f"score.aesthetic_head={tmp_path / 'head.safetensors'}")
    task = ShardTask(0, 0, SIZE, 1)
    notes = MakeAnnotateWork(own, str(made), identity_of(own, ""))()(ShardContext(task)).accepted
    raw = {row["key"]: row for row in shards.read_table(Store(str(made / "raw/0")), "shards", 0).to_pylist()}
    assert len(notes) > SIZE // 2
    for note in notes[:4]:
        embedding = ClipScorer().images([decode_image(raw[note.key]["image"]["bytes"])])[0]
        assert note.aesthetic == pytest.approx(float(embedding @ weight[0] + 5), abs=1e-3)
        assert note.aesthetic != raw[note.key]["aesthetic"]  # the metadata's


def test_a_head_for_another_clip_or_without_tensors_is_told(tmp_path: Path) -> None:
    save_file({"weight": np.zeros(7, np.float32), "bias": np.zeros(1, np.float32)}, tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match="takes 7 values, CLIP gives 3"):
        AestheticHead(tmp_path / "head.safetensors").scores(np.zeros((1, 3), np.float32))
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match="no safetensors of weight and bias"):
        AestheticHead(tmp_path / "junk.safetensors")


def test_a_machine_looks_at_one_batch_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = config()
    works: list[Any] = [
        MakeAnnotateWork(own, str(tmp_path), identity_of(own, ""))(),
        MakeRegateWork(str(tmp_path), own, identity_of(own, ""), Still(people=False, usable=False))(),
    ]
    for work in works:
        work.try_one_batch()
        monkeypatch.setattr(work._detector, "detect", broken)
        with pytest.raises(RuntimeError, match="no kernel image"):
            work.try_one_batch()


def broken(images: object) -> None:
    raise RuntimeError("no kernel image is available for execution on the device")
