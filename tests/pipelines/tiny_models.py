"""Tiny random checkpoints of every family, in the layout of the real ones: built in a second, loaded by `Sampler`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SIZE = 32
"""Pixels of the tiny models' images: 16 latent pixels, as the VAE halves once."""

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def build_tiny(folder: Path, family: str, seed: int = 0) -> Path:
    """Save a random checkpoint of `family`: sd1 (eps), sd2 (v-prediction, zero terminal SNR) or sdxl (two encoders)."""
    torch.manual_seed(seed)
    build = {"sd1": _sd1, "sd2": _sd2, "sdxl": _sdxl}[family]
    tokens = folder.parent / f"{folder.name}-tokens"
    pipe = build(_tokenizer(tokens))
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def _sd1(tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    scheduler = PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)
    return _sd(tokenizer, scheduler, _unet(), _text_encoder(CLIPTextModel))


def _sd2(tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    scheduler = DDIMScheduler(
        **BETAS,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=False,
    )
    unet = _unet(use_linear_projection=True, attention_head_dim=(2, 4), cross_attention_dim=48)
    return _sd(tokenizer, scheduler, unet, _text_encoder(CLIPTextModel, hidden_size=48, num_hidden_layers=3))


def _sdxl(tokenizer: CLIPTokenizer) -> StableDiffusionXLPipeline:
    unet = _unet(
        use_linear_projection=True,
        attention_head_dim=(2, 4),
        cross_attention_dim=64,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(CLIPTextModel),
        text_encoder_2=_text_encoder(CLIPTextModelWithProjection, hidden_act="gelu", projection_dim=24),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


def _sd(tokenizer: CLIPTokenizer, scheduler: Any, unet: Any, text_encoder: Any) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _unet(**options: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": SIZE // 2,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(**settings | options)


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=SIZE,
    )


def _text_encoder(kind: Any, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 300,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    return kind(CLIPTextConfig(**settings | options)).eval()


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """Save a CLIP tokenizer that knows single letters."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
