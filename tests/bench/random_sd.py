"""Stable Diffusion 2.1 with random weights, at full width or narrower: its time and memory without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipelines.checkpoint import MINI_FOLDER
from pipelines.train.model import Parts

BETAS: Final[dict[str, Any]] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def save_random_sd(folder: Path, divisor: int, pixels: int, device: str) -> None:
    """Write a diffusers folder of `random_parts`."""
    parts = random_parts(divisor, pixels, device)
    pipe = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=parts.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, safe_serialization=True)


def random_parts(divisor: int, pixels: int, device: str) -> Parts:
    """Stable Diffusion 2.1 base as its configs describe it, its channels over `divisor`, with random weights."""
    torch.manual_seed(0)
    groups = 32 // divisor

    def over(*channels: int) -> tuple[int, ...]:
        return tuple(max(1, number // divisor) for number in channels)

    width = 1024 // divisor
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=pixels // 8,
            block_out_channels=over(320, 640, 1280, 1280),
            attention_head_dim=over(5, 10, 20, 20),
            cross_attention_dim=width,
            use_linear_projection=True,
            norm_num_groups=groups,
        )
        vae = AutoencoderKL(
            block_out_channels=over(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=groups,
            sample_size=pixels,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_attention_heads=16 // divisor,
                num_hidden_layers=23,  # the last but one of OpenCLIP-H is the last that is kept
                vocab_size=49408,
                hidden_act="gelu",
            )
        )
    for frozen in (vae, text):
        frozen.eval().requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(MINI_FOLDER / "tokenizer", local_files_only=True)
    return Parts(unet, vae, text, tokenizer, DDPMScheduler(**BETAS, clip_sample=False, steps_offset=1))
