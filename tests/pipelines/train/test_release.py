from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.checkpoint import MINI_FOLDER
from pipelines.config import UserError
from pipelines.train import release
from pipelines.train.model import Parts, load_parts
from pipelines.train.pipeline import HumanSDPipeline
from tests.pipelines.train import ldm

WIDTH = 128
"""Of the miniature's text encoder."""


def random_parts() -> Parts:
    """A model of the miniature's shapes, with a skeleton's channels and weights of chance."""
    parts = load_parts(MINI_FOLDER)
    generator = torch.Generator().manual_seed(0)
    for part in (parts.unet, parts.vae, parts.text_encoder):
        for parameter in part.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 10
    return parts


def checkpoint_of(parts: Parts, text: str) -> dict[str, torch.Tensor]:
    weights = ldm.unet(parts.unet.state_dict(), 1, (True, True, False)) | ldm.vae(parts.vae.state_dict(), 3)
    states = parts.text_encoder.state_dict()
    return weights | (ldm.open_clip(states, WIDTH) if text == "open_clip" else ldm.clip(states))


@pytest.mark.parametrize("text", ["open_clip", "clip"])
def test_the_authors_layout_becomes_a_folder_of_ours(tmp_path: Path, text: str) -> None:
    parts = random_parts()
    file = tmp_path / "humansd-v1.ckpt"
    others = {"pose_model.conv1.weight": torch.ones(3), "global": 7}
    torch.save({"state_dict": checkpoint_of(parts, text) | others, "global_step": 3}, file)
    folder = release.convert(file, "mini")
    assert folder == tmp_path / "humansd-v1.diffusers"
    pipe = HumanSDPipeline.from_pretrained(folder)
    for name in ("unet", "vae", "text_encoder"):
        loaded = getattr(pipe, name).state_dict()
        for key, value in getattr(parts, name).state_dict().items():
            assert torch.equal(loaded[key], value), f"{name}.{key}"
    assert pipe.unet.config.in_channels == 16
    assert release.convert(file, "no such base") == folder  # it is there


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    weights = checkpoint_of(random_parts(), "clip")
    weights["model.diffusion_model.input_blocks.0.0.weight"] = torch.ones(64, 8, 3, 3)  # without a skeleton
    torch.save({"state_dict": weights}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="its UNet does not fit the base"):
        release.convert(tmp_path / "other.ckpt", "mini")
    assert not (tmp_path / "other.diffusers").exists()


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    weights = checkpoint_of(random_parts(), "clip")
    del weights["first_stage_model.decoder.conv_in.bias"]
    torch.save(weights, tmp_path / "half.ckpt")
    with pytest.raises(UserError, match=r"its VAE lacks 1 weights, as decoder\.conv_in\.bias"):
        release.convert(tmp_path / "half.ckpt", "mini")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (tmp_path / "ran").write_text, ("x",)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="cannot be read as weights only"):
        release.convert(tmp_path / "evil.ckpt", "mini")
    assert not (tmp_path / "ran").exists()


def test_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        release.convert(tmp_path / "none.ckpt", "mini")
