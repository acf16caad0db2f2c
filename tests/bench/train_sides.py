"""What the training benchmarks time, on a CPU and on a GPU alike: HumanSD, the release's arithmetic, ControlNet.

A side is built alone or beside others; called, it makes one step and comes back when the device is done. All sides at
one scale have the same UNet, VAE, text encoder, pictures and noise; weights are random, as time does not depend on
what a network has learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

import torch
from diffusers import ControlNetModel
from diffusers.utils.logging import set_verbosity_error
from torch import Tensor
from torch.nn import functional as F

from detectors.bottomup import BottomUp, build_ae_hrnet, fused
from detectors.grouping import Grouping
from detectors.types import NUM_KEYPOINTS
from pipelines.checkpoint import MINI_FOLDER
from pipelines.train.config import LossConfig, OptimizerConfig
from pipelines.train.loop import make_optimizer
from pipelines.train.model import Parts, grow_conv_in, in_floats, load_parts
from pipelines.train.objective import Draws, Heatmaps, Objective, draw, load_heatmaps
from tests.bench.random_sd import random_parts

Step = Callable[[], object]

PAPERS: Final = "higherhrnet-w48"
"""The detector of the paper."""
RELEASES: Final = "ae-hrnet-w32"
"""A detector of half its size, at a quarter of the pictures' size."""
GUIDED: Final = 2
"""Forwards of a guided sampling step: with text and without."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large all is.

    divisor: of the channels of Stable Diffusion 2.1 and of the paper's detector, so that their shares stay; 0 is the
    miniature model, with its own weights. detector: of the loss. pixels: sides of the square pictures. batch: pictures
    a step.
    """

    divisor: int
    detector: str
    pixels: int
    batch: int


SCALES: Final = {
    "sd21": Scale(1, PAPERS, 512, 4),
    "sd21/4": Scale(4, PAPERS, 256, 2),  # tokens and channels a quarter each: attention keeps its share
    "mini": Scale(0, "mini-pose", 64, 8),
    "tiny": Scale(16, "mini-pose", 64, 2),
}


class ReleaseObjective(Objective):
    """The arithmetic of a step of the authors' public code, where it is more than ours.

    `p_losses` there sends the mask, three channels of the pictures' size, through the VAE encoder and samples from what
    comes out; `get_input` decodes the clean latent to a reconstruction that no one reads. Values are ours here.
    """

    reconstruct = True

    def _encode(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        clean, skeleton, text = super()._encode(batch)
        if self.reconstruct:
            self.parts.decode(clean)
        return clean, skeleton, text

    @torch.no_grad()
    def _weight(
        self, predicted: Tensor, target: Tensor, noisy: Tensor, times: Tensor, batch: Mapping[str, Any]
    ) -> Tensor:
        weight = super()._weight(predicted, target, noisy, times, batch)
        factor = 2 ** (len(self.parts.vae.config.block_out_channels) - 1)
        mask = F.interpolate(weight.repeat(1, 3, 1, 1), scale_factor=factor, mode="bicubic")
        with self._autocast():
            self.parts.vae.encode(mask.to(self.parts.vae.dtype)).latent_dist.sample()
        return weight


class ReleaseWithoutReconstruction(ReleaseObjective):
    """The same without the decoding that nobody needs."""

    reconstruct = False


class Sides:
    """What the sides at one scale have in common, each part made when it is first asked for."""

    def __init__(self, scale: Scale, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        """dtype: of products while training (autocast), and of the UNet while sampling."""
        set_verbosity_error()  # casting a model is no reason to warn here
        self.scale, self.device, self.dtype = scale, torch.device(device), dtype
        self.frozen = dtype if self.device.type == "cuda" else torch.float32
        self._heatmaps: dict[tuple[str, bool], Heatmaps] = {}

    @cached_property
    def base(self) -> Parts:
        """Stable Diffusion as it is, for a ControlNet beside it."""
        return self._load()

    @cached_property
    def parts(self) -> Parts:
        """Another one, whose UNet reads skeletons too: all of it is trained."""
        parts = self._load()
        grow_conv_in(parts.unet, parts.vae.config.latent_channels)
        parts.unet.train()
        return parts

    def _load(self) -> Parts:
        scale = self.scale
        if scale.divisor:
            parts = random_parts(scale.divisor, scale.pixels, str(self.device))
        else:
            parts = load_parts(MINI_FOLDER, extra=False)
        parts.to(self.device, self.frozen)
        return parts

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """Of the whole UNet, as `humansd train` makes it."""
        return make_optimizer(self.parts.unet.parameters(), OptimizerConfig(learning_rate=1e-6), self.device)

    @cached_property
    def control(self) -> Any:
        """A ControlNet on the base, whose UNet is frozen from here on."""
        unet = self.base.unet.requires_grad_(False)
        strides = len(self.base.vae.config.block_out_channels) - 1
        widths = [max(4, width * unet.config.block_out_channels[0] // 320) for width in (16, 32, 96, 256)]
        made: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=tuple(widths[: strides + 1]))
        return made.to(self.device).train()

    def heatmaps(self, network: str, ours: bool) -> Heatmaps:
        """Of a detector. ours: as it is loaded for a training; else, as the release loads it, not fused."""
        if (network, ours) not in self._heatmaps:
            self._heatmaps[network, ours] = self._load_heatmaps(network, ours)
        return self._heatmaps[network, ours]

    def _load_heatmaps(self, network: str, ours: bool) -> Heatmaps:
        if network not in (PAPERS, RELEASES):
            return load_heatmaps(network, str(self.device))
        from detectors.higherhrnet import WIDTH, HigherHRNet

        torch.manual_seed(0)
        scale = self.scale.divisor
        net = HigherHRNet(WIDTH // scale) if network == PAPERS else build_ae_hrnet(32 // scale)
        stride = 2 if network == PAPERS else 1
        made = BottomUp(network, fused(net) if ours else net, Grouping(udp=network == PAPERS), stride, str(self.device))
        return made.heatmaps

    @cached_property
    def pictures(self) -> dict[str, Any]:
        """A batch as `PoseShards` gives it."""
        count, pixels = self.scale.batch, self.scale.pixels
        generator = torch.Generator().manual_seed(0)
        keypoints = torch.ones(count, 10, NUM_KEYPOINTS, 3)
        keypoints[..., :2] = torch.rand(count, 10, NUM_KEYPOINTS, 2, generator=generator) * (pixels - 1)
        shape = (2, count, 3, pixels, pixels)
        image, skeleton = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        captions = ["an oil painting of a man waving hello in the street at midnight"] * count
        return {"image": image, "skeleton": skeleton, "keypoints": keypoints, "caption": captions}

    def stored(self, parts: Parts) -> dict[str, Any]:
        """The same batch with what `humansd train cache` stores in place of its pictures and captions."""
        batch = self.pictures
        latent, skeleton = (parts.encode_images(batch[name].to(self.device)).cpu() for name in ("image", "skeleton"))
        text = parts.encode_text(batch["caption"]).cpu()
        latents = {"latent": latent, "skeleton_latent": skeleton, "text_states": text}
        return {**latents, "keypoints": batch["keypoints"], "skeleton": batch["skeleton"]}

    def draws(self, parts: Parts) -> Draws:
        """Noise and times of a step."""
        cells = self.scale.pixels // 2 ** (len(parts.vae.config.block_out_channels) - 1)
        shape = (parts.vae.config.latent_channels, cells, cells)
        return draw(0, 0, range(self.scale.batch), self.scale.batch, shape, 1000, 0.0)

    def objective(self, heat: Any, kind: type[Objective] = Objective, network: str | None = None) -> Objective:
        """The loss with heat from `heat`. network: in place of the scale's detector."""
        network = network or self.scale.detector
        heatmaps = self.heatmaps(network, kind is Objective) if heat == "detector" else None
        return kind(self.parts, LossConfig(heat=heat, text_dropout=0.0), self.device, self.dtype, heatmaps)

    def autocast(self) -> torch.autocast:
        """Products in `dtype`."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def finish(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def build(self, name: str) -> Step:
        """The side of that name, a key of `SIDES`."""
        step = SIDES[name](self)

        def run() -> None:
            step()
            self.finish()

        return run


def _update(loss: Tensor, model: Any, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def training(
    heat: str, stored: bool = False, kind: type[Objective] = Objective, network: str | None = None
) -> Callable[[Sides], Step]:
    """A training step of HumanSD: loss, gradients of the whole UNet, AdamW."""

    def make(sides: Sides) -> Step:
        objective, parts, optimizer = sides.objective(heat, kind, network), sides.parts, sides.optimizer
        batch, draws = (sides.stored(parts) if stored else sides.pictures), sides.draws(parts)
        return lambda: _update(objective(parts.unet, batch, draws).weighted, parts.unet, optimizer)

    return make


def control_training(stored: bool, fused: bool = False) -> Callable[[Sides], Step]:
    """A training step of ControlNet as in diffusers' example: gradients pass the frozen UNet's decoder into the copy.

    The frozen encoder needs no gradient, so it keeps no activations. fused: with AdamW as ours; the example takes
    PyTorch's default.
    """

    def make(sides: Sides) -> Step:
        control, base = sides.control, sides.base
        optimizer = torch.optim.AdamW(control.parameters(), lr=1e-6, fused=fused or None)
        batch, draws = (sides.stored(base) if stored else sides.pictures), sides.draws(base)
        noise, times = draws.noise.to(sides.device), draws.times.to(sides.device)
        base.unet.to(sides.frozen)

        def step() -> None:
            picture = in_floats(batch["skeleton"].to(sides.device))
            with sides.autocast():
                if stored:
                    clean, text = batch["latent"].to(sides.device), batch["text_states"].to(sides.device)
                else:
                    clean = base.encode_images(batch["image"].to(sides.device))
                    text = base.encode_text(batch["caption"])
                noisy = base.scheduler.add_noise(clean, noise, times)
                predicted = _controlled(control, base.unet, noisy, times, text, picture)
            _update(F.mse_loss(predicted.float(), noise), control, optimizer)

        return step

    return make


def _controlled(control: Any, unet: Any, noisy: Tensor, times: Tensor, text: Tensor, picture: Tensor) -> Tensor:
    down, middle = control(noisy, times, text, controlnet_cond=picture, return_dict=False)
    answer = unet(noisy, times, text, down_block_additional_residuals=down, mid_block_additional_residual=middle)
    return cast(Tensor, answer.sample)


def mask(kind: type[Objective]) -> Callable[[Sides], Step]:
    """The weights of the heatmap-guided loss alone: decode the error, detect, and what the release does beyond."""

    def make(sides: Sides) -> Step:
        objective, draws = sides.objective("detector", kind), sides.draws(sides.parts)
        noise, times = draws.noise.to(sides.device), draws.times.to(sides.device)
        return lambda: objective._weight(noise + 0.5, noise, noise, times, {})

    return make


def sampling(controlled: bool) -> Callable[[Sides], Step]:
    """A guided sampling step's network evaluations, with text and without."""

    def make(sides: Sides) -> Step:
        parts = sides.base if controlled else sides.parts
        unet, stored = parts.unet.to(sides.dtype), sides.stored(parts)

        def doubled(value: Tensor) -> Tensor:
            return torch.cat([value] * GUIDED).to(sides.device, sides.dtype)

        noisy, text = doubled(sides.draws(parts).noise), doubled(stored["text_states"])
        skeleton, picture = doubled(stored["skeleton_latent"]), doubled(in_floats(stored["skeleton"]))
        time = torch.tensor(500, device=sides.device)
        control = sides.control.to(sides.dtype) if controlled else None

        @torch.inference_mode()
        def step() -> Tensor:
            if control is not None:
                return _controlled(control, unet, noisy, time, text, picture)
            answer = unet(torch.cat([noisy, skeleton], 1), time, encoder_hidden_states=text)
            return cast(Tensor, answer.sample)

        return step

    return make


PLAIN: Final = "plain MSE (`none`)"
KEYPOINTS: Final = "`keypoints`"
DETECTOR: Final = "`detector`"
RELEASE: Final = "the release's arithmetic"
DETECTOR_AE: Final = "`detector`, AE-HRNet-w32"
RELEASE_AE: Final = "the release's arithmetic, AE-HRNet-w32"
RELEASE_LESS: Final = "the release's, without its unread reconstruction"
CONTROL: Final = "ControlNet"
STORED_PLAIN: Final = "plain MSE, stored latents"
STORED_DETECTOR: Final = "`detector`, stored latents"
STORED_CONTROL: Final = "ControlNet, stored latents"
STORED_CONTROL_FUSED: Final = "ControlNet, stored latents, fused AdamW"
MASK: Final = "mask of `detector` alone"
RELEASE_MASK: Final = "mask of the release alone"
SAMPLE: Final = "guided sampling step, HumanSD"
CONTROL_SAMPLE: Final = "guided sampling step, ControlNet"

SIDES: Final[dict[str, Callable[[Sides], Step]]] = {
    PLAIN: training("none"),
    KEYPOINTS: training("keypoints"),
    DETECTOR: training("detector"),
    RELEASE: training("detector", kind=ReleaseObjective),
    DETECTOR_AE: training("detector", network=RELEASES),
    RELEASE_AE: training("detector", kind=ReleaseObjective, network=RELEASES),
    RELEASE_LESS: training("detector", kind=ReleaseWithoutReconstruction),
    CONTROL: control_training(stored=False),
    STORED_PLAIN: training("none", stored=True),
    STORED_DETECTOR: training("detector", stored=True),
    STORED_CONTROL: control_training(stored=True),
    STORED_CONTROL_FUSED: control_training(stored=True, fused=True),
    MASK: mask(Objective),
    RELEASE_MASK: mask(ReleaseWithoutReconstruction),
    SAMPLE: sampling(controlled=False),
    CONTROL_SAMPLE: sampling(controlled=True),
}


def names_of(scale: Scale) -> list[str]:
    """The sides at a scale: AE-HRNet-w32 is compared where the paper's detector is."""
    return [name for name in SIDES if scale.detector == PAPERS or name not in (DETECTOR_AE, RELEASE_AE)]


def peak_megabytes(scale: str, name: str, steps: int = 2) -> float:
    """The most memory (MB) that this process has held after a few steps of one side; it should have done nothing else.

    From /proc: `ru_maxrss` of a child also counts what its parent held.
    """
    torch.set_num_threads(1)
    run = Sides(SCALES[scale]).build(name)
    for _ in range(steps):
        run()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
