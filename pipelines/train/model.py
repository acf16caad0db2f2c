"""The model: a Stable Diffusion whose UNet also reads the latent of a drawn skeleton, next to the noisy latent.

Shapes: B samples, 3 x H x W pixels, C latent channels of h x w cells, T tokens of D numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.config import UserError


def grow_conv_in(unet: Any, extra: int) -> None:
    """Let a `UNet2DConditionModel` take `extra` more input channels, in place; its config says so too.

    The new weights are zero: until they are trained, the output is the same whatever the new channels hold. So
    HumanSD starts from all that its base knows (the paper's section 3.2 concatenates image and skeleton latents).
    """
    old = unet.conv_in
    assert isinstance(old, nn.Conv2d)
    assert isinstance(old.padding, tuple)
    new = nn.Conv2d(
        old.in_channels + extra,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        assert new.bias is not None
        assert old.bias is not None
        new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=old.in_channels + extra)


def in_floats(images: Tensor) -> Tensor:
    """Images as the VAE reads them, float32 in [-1, 1], of uint8; others as they are."""
    if images.dtype != torch.uint8:
        return images
    floats = torch.empty_like(images, dtype=torch.float32)
    for own, image in zip(floats, images, strict=True):  # one by one they stay in a CPU's cache
        own.copy_(image).mul_(1 / 127.5).sub_(1)
    return floats


@dataclass
class Parts:
    """What a training holds: the UNet is trained, all else is frozen.

    scheduler: a `DDPMScheduler` with the base's noise schedule and prediction type.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    def to(self, device: torch.device, frozen: torch.dtype) -> None:
        """Move to the device; the frozen parts also to that dtype."""
        self.unet.to(device)
        self.vae.to(device, frozen)
        self.text_encoder.to(device, frozen)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w) of unit variance, float32, of images (B, 3, H, W): uint8, or floats in [-1, 1].

        They are the means of the VAE's posterior: its spread is far below the noise that is added, and a mean can be
        stored and gives the same training whatever the workers draw.
        """
        encoded = self.vae.encode(in_floats(images).to(self.vae.dtype)).latent_dist.mean
        return torch.as_tensor(encoded).float() * float(self.vae.config.scaling_factor)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), about [-1, 1], float32, of latents (B, C, h, w) of unit variance."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return torch.as_tensor(self.vae.decode(scaled).sample).float()

    @torch.no_grad()
    def encode_text(self, captions: list[str]) -> Tensor:
        """Text states (B, T, D), float32, of captions, cut where the text encoder's context ends."""
        tokens = self.tokenizer(
            captions,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        ids = tokens.input_ids.to(self.text_encoder.device)
        return torch.as_tensor(self.text_encoder(input_ids=ids).last_hidden_state).float()


def load_parts(folder: Path, extra: bool = True) -> Parts:
    """Load a diffusers folder of Stable Diffusion 1.x or 2.x in float32, on the CPU, for training.

    extra: grow the UNet by the channels of a skeleton's latent; a folder that was trained so already stays as it is.
    Raises UserError where the folder cannot be loaded or is of another family.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    def load(cls: Any, name: str, **options: Any) -> Any:
        model = cls.from_pretrained(folder, subfolder=name, local_files_only=True, use_safetensors=True, **options)
        return model.float()

    if (folder / "text_encoder_2").exists():
        raise UserError(f"{folder}: SDXL cannot be trained here; Stable Diffusion 1.x and 2.x can")
    try:
        parts = Parts(
            unet=load(UNet2DConditionModel, "unet"),
            vae=load(AutoencoderKL, "vae"),
            text_encoder=load(CLIPTextModel, "text_encoder"),
            tokenizer=CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True),
            scheduler=DDPMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True),
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model folder {folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    kind = parts.scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(f"{folder}: its UNet predicts {kind!r}; epsilon and v_prediction can be trained")
    for frozen in (parts.vae, parts.text_encoder):
        frozen.eval().requires_grad_(False)
    channels = parts.vae.config.latent_channels
    if extra and parts.unet.config.in_channels == channels:
        grow_conv_in(parts.unet, channels)
    return parts
