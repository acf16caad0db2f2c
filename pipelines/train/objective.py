"""What a training step computes: noise drawn, the UNet asked, its error weighted.

Shapes: B samples of a global batch over all workers, b of them here; C latent channels of h x w cells; T tokens of D.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from pipelines.config import UserError
from pipelines.train.config import LossConfig
from pipelines.train.loss import keypoint_heat, loss_weight, mask_of, noise_of, weighted_mse
from pipelines.train.model import Parts

Heatmaps = Callable[[Tensor], Tensor]
"""Keypoint heat (B, K, ., .) in [0, 1] of pictures (B, 3, H, W) in [-1, 1]."""


@dataclass(frozen=True, slots=True)
class Draws:
    """What chance decides for some samples of a batch, on the CPU.

    noise: (b, C, h, w) float32. times: (b,) int64 time steps. without_text: (b,) bool, whose text is left out.
    """

    noise: Tensor
    times: Tensor
    without_text: Tensor


def _generator(seed: int, step: int, place: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{step}/{place}".encode(), digest_size=8, person=b"humansd-train").digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)


def draw(
    seed: int, step: int, places: range, batch_size: int, shape: Sequence[int], num_times: int, text_dropout: float
) -> Draws:
    """What chance decides for the samples at `places` of the global batch of a step.

    It follows from (seed, step, place) alone, so it is the same on any number of workers. Each time step is uniform
    over 0 … num_times - 1; within a batch they are stratified, one to each of its equal parts, which steadies the loss.
    shape: (C, h, w).
    """
    strata = torch.randperm(batch_size, generator=_generator(seed, step, "strata"))
    noise, times, without = [], [], []
    for place in places:
        generator = _generator(seed, step, str(place))
        noise.append(torch.randn(tuple(shape), generator=generator))
        position, chance = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        times.append(min(int((float(strata[place]) + position) / batch_size * num_times), num_times - 1))
        without.append(chance < text_dropout)
    return Draws(torch.stack(noise), torch.tensor(times), torch.tensor(without))


class _HasHeatmaps(Protocol):
    def heatmaps(self, images: Tensor) -> Tensor: ...


def load_heatmaps(name: str, device: str) -> Heatmaps:
    """The heatmaps of a frozen detector. Raises UserError where it has none or cannot be had on this machine."""
    from detectors import load_detector

    try:
        detector = load_detector(name, device)
    except ValueError as error:
        raise UserError(f"loss.detector={name}: {error}") from error
    if not hasattr(detector, "heatmaps"):
        raise UserError(
            f"loss.detector={name}: finds people one by one and has no dense heatmaps; mini-pose, ae-hrnet-w32 and "
            "higherhrnet-w48 have"
        )
    return cast(_HasHeatmaps, detector).heatmaps


@dataclass(frozen=True, slots=True)
class Losses:
    """weighted: what is minimised, with gradient. plain: the unweighted mean squared error, without."""

    weighted: Tensor
    plain: Tensor


class Objective:
    """The loss of a batch under HumanSD's weights, for models on one device."""

    def __init__(
        self,
        parts: Parts,
        config: LossConfig,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        heatmaps: Heatmaps | None = None,
    ) -> None:
        """dtype: of products (autocast); sums and the loss are float32. heatmaps: needed for the heat 'detector'."""
        assert config.heat != "detector" or heatmaps is not None
        self.parts, self.config, self.device, self.dtype = parts, config, device, dtype
        self._heatmaps = heatmaps
        self._alphas = parts.scheduler.alphas_cumprod.to(device)
        with self._autocast():
            self._no_text = parts.encode_text([""])

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture of size x size pixels."""
        cells = size // 2 ** (len(self.parts.vae.config.block_out_channels) - 1)
        return self.parts.vae.config.latent_channels, cells, cells

    def __call__(self, unet: Callable[..., Any], batch: Mapping[str, Any], draws: Draws) -> Losses:
        """The losses of some samples.

        unet: the trained UNet, perhaps wrapped for several workers. batch: as `PoseShards` collates it, either with
        `image`, `skeleton` and `caption` or with `latent`, `skeleton_latent` and `text_states`; always `keypoints`.
        """
        with self._autocast():
            clean, skeleton, text = self._encode(batch)
        text = torch.where(draws.without_text.to(self.device)[:, None, None], self._no_text, text)
        noise, times = draws.noise.to(self.device), draws.times.to(self.device)
        scheduler = self.parts.scheduler
        noisy = scheduler.add_noise(clean, noise, times)
        kind = scheduler.config.prediction_type
        target = scheduler.get_velocity(clean, noise, times) if kind == "v_prediction" else noise
        with self._autocast():
            predicted = unet(torch.cat([noisy, skeleton], 1), times, encoder_hidden_states=text).sample
        predicted = predicted.float()
        weight = self._weight(predicted.detach(), target, noisy, times, batch)
        weighted = weighted_mse(predicted, target, weight)
        with torch.no_grad():
            plain = weighted_mse(predicted.detach(), target, torch.ones_like(weight))
        return Losses(weighted, plain)

    def _encode(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Latents of images and skeletons (b, C, h, w), and text states (b, T, D)."""
        if "latent" in batch:
            names = ("latent", "skeleton_latent", "text_states")
            latent, skeleton, text = (batch[name].to(self.device, torch.float32) for name in names)
            return latent, skeleton, text
        images, skeletons = batch["image"].to(self.device), batch["skeleton"].to(self.device)
        both = self.parts.encode_images(torch.cat([images, skeletons]))
        return both[: len(images)], both[len(images) :], self.parts.encode_text(list(batch["caption"]))

    @torch.no_grad()
    def _weight(
        self, predicted: Tensor, target: Tensor, noisy: Tensor, times: Tensor, batch: Mapping[str, Any]
    ) -> Tensor:
        height, width = target.shape[-2:]
        if self.config.heat == "none" or self.config.weight == 0:
            return torch.ones_like(target[:, :1])
        if self.config.heat == "keypoints":
            stride = 2 ** (len(self.parts.vae.config.block_out_channels) - 1)
            keypoints = batch["keypoints"].to(self.device)
            heat = keypoint_heat(keypoints, height, width, stride, self.config.sigma)
        else:
            assert self._heatmaps is not None
            kind, alpha = self.parts.scheduler.config.prediction_type, self._alphas[times]
            difference = noise_of(predicted, noisy, alpha, kind) - noise_of(target, noisy, alpha, kind)
            with self._autocast():
                heat = self._heatmaps(self.parts.decode(difference).clamp(-1, 1))
        return loss_weight(mask_of(heat, height, width, self.config.threshold), self.config.weight)
