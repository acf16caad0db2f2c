from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.checkpoint import MINI_FOLDER
from pipelines.config import UserError
from pipelines.train.model import grow_conv_in, in_floats, load_parts


def tiny_unet(seed: int, channels: int) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.sampled_from([4, 8]), st.integers(0, 999), st.floats(0.01, 1e4))
def test_a_grown_unet_begins_as_its_base_whatever_the_skeleton(
    seed: int, channels: int, time: int, scale: float
) -> None:
    base, grown = tiny_unet(seed, channels), tiny_unet(seed, channels)
    grow_conv_in(grown, channels)
    noisy, skeleton, text = torch.randn(2, channels, 8, 8), torch.randn(2, channels, 8, 8), torch.randn(2, 5, 8)
    with torch.no_grad():
        before = base(noisy, time, text).sample
        after = grown(torch.cat([noisy, skeleton * scale], 1), time, text).sample
        again = grown(torch.cat([noisy, torch.zeros_like(skeleton)], 1), time, text).sample
    assert torch.equal(after, again)
    assert torch.allclose(after, before, rtol=1e-4, atol=1e-5)


def test_images_are_read_as_bytes_or_as_floats() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(3 * 64 * 64 * 2 // 256).reshape(2, 3, 64, 64)
    floats = in_floats(images)
    assert floats.min() == -1
    assert floats.max() == 1
    np.testing.assert_allclose((floats + 1) * 127.5, images.float(), atol=1e-4)
    assert in_floats(floats) is floats
    parts = load_parts(MINI_FOLDER)
    assert torch.equal(parts.encode_images(images), parts.encode_images(floats))


def test_the_new_half_learns() -> None:
    unet = tiny_unet(0, 4)
    grow_conv_in(unet, 4)
    unet(torch.randn(1, 8, 8, 8), 5, torch.randn(1, 5, 8)).sample.square().sum().backward()
    assert unet.conv_in.weight.grad[:, 4:].abs().max() > 0


def test_a_grown_unet_is_saved_as_it_is(tmp_path: Path) -> None:
    unet = tiny_unet(0, 4)
    grow_conv_in(unet, 4)
    unet.save_pretrained(tmp_path)
    loaded = UNet2DConditionModel.from_pretrained(tmp_path)
    assert loaded.config.in_channels == 8
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), loaded.parameters(), strict=True))


def test_the_miniature_base_draws_the_same_after_growing() -> None:
    base, grown = load_parts(MINI_FOLDER, extra=False), load_parts(MINI_FOLDER)
    channels = base.vae.config.latent_channels
    assert grown.unet.config.in_channels == 2 * channels == 16
    torch.manual_seed(0)
    noisy, skeleton = torch.randn(2, channels, 16, 16), torch.randn(2, channels, 16, 16)
    text = base.encode_text(["two dancers", ""])
    with torch.no_grad():
        expected = base.unet(noisy, 500, text).sample
        found = grown.unet(torch.cat([noisy, skeleton], 1), 500, text).sample
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_only_the_unet_is_trained() -> None:
    parts = load_parts(MINI_FOLDER)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in parts.unet.parameters())
    for frozen in (parts.vae, parts.text_encoder):
        assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_a_folder_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded") as told:
        load_parts(tmp_path)
    assert "\n" not in str(told.value)
