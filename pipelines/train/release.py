"""The authors' checkpoint (`humansd-v1.ckpt`, in the layout of the original latent diffusion code) as a folder of ours.

diffusers converts the weights; which numbers go where follows from the keys `model.diffusion_model.*` (UNet),
`first_stage_model.*` (VAE) and `cond_stage_model.*` (text encoder). Other keys, such as a detector's, are left out.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor, nn

from pipelines.checkpoint import ModelConfig, resolve
from pipelines.config import UserError
from pipelines.train import checkpoints
from pipelines.train.model import Parts, grow_conv_in, load_parts
from pipelines.train.output import make_pipeline

OPEN_CLIP = "cond_stage_model.model."
CLIP = "cond_stage_model.transformer."


def convert(checkpoint: Path, base: str) -> Path:
    """Write `<name>.diffusers` beside a .ckpt, unless it is there; return that folder.

    base: the Stable Diffusion whose configs, tokenizer and noise schedule the checkpoint was trained with: a hub id or
        a diffusers folder. Raises UserError where either cannot be read or they do not fit. The file is read
        weights-only: what would run code is refused.
    """
    folder = checkpoint.with_suffix(".diffusers")
    if (folder / "model_index.json").is_file():
        return folder
    weights = read(checkpoint)
    parts = load_parts(resolve(ModelConfig(id=base)).folder(), extra=False)
    fill(parts, weights, checkpoint.name)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    make_pipeline(parts, "ddim").save_pretrained(temporary)
    checkpoints.replace_folder(temporary, folder)
    return folder


def read(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a .ckpt by name, without running anything in it. Raises UserError."""
    try:
        found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{checkpoint}: no such checkpoint") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        why = str(error).strip().splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{checkpoint}: cannot be read as weights only: {why}") from None
    state = found.get("state_dict", found) if isinstance(found, Mapping) else {}
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def fill(parts: Parts, weights: Mapping[str, Tensor], name: str) -> None:
    """Put the checkpoint's weights into a base's parts, in place. name: of the checkpoint, for errors.

    Raises UserError where they do not fit.
    """
    if parts.unet.config.in_channels == parts.vae.config.latent_channels:
        grow_conv_in(parts.unet, parts.vae.config.latent_channels)
    checkpoint = dict(weights)  # diffusers takes out of it what it has used
    _load(parts.unet, lambda: convert_ldm_unet_checkpoint(checkpoint, config=parts.unet.config), "UNet", name)
    _load(parts.vae, lambda: convert_ldm_vae_checkpoint(dict(weights), config=parts.vae.config), "VAE", name)
    _load(parts.text_encoder, lambda: _text(parts.text_encoder, dict(weights)), "text encoder", name)


def _text(encoder: Any, checkpoint: dict[str, Tensor]) -> Any:
    if any(name.startswith(OPEN_CLIP) for name in checkpoint):
        return convert_open_clip_checkpoint(encoder, checkpoint, prefix=OPEN_CLIP)
    return convert_ldm_clip_checkpoint(checkpoint, remove_prefix=CLIP)


def _load(model: nn.Module, converted: Callable[[], Mapping[str, Tensor]], what: str, name: str) -> None:
    try:
        found = {key: value.float() if value.is_floating_point() else value for key, value in converted().items()}
        result = model.load_state_dict(found, strict=False)
    except (KeyError, RuntimeError, IndexError, ValueError, TypeError) as error:
        why = str(error).strip().splitlines()[-1].strip()[:200] if str(error) else type(error).__name__
        raise UserError(f"{name}: its {what} does not fit the base: {why}") from None
    missing = [key for key in result.missing_keys if not key.endswith("position_ids")]
    if missing:
        raise UserError(f"{name}: its {what} lacks {len(missing)} weights, as {missing[0]}")
