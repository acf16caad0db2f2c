"""What HumanSD is compared with, trained on the same batches with the same noise, for as many steps.

- `plain`: the base's UNet goes on learning from text alone.
- `controlnet`: a copy of the UNet's encoder reads the skeleton (Zhang et al. 2023, arXiv 2302.05543), UNet frozen.
- `t2i`: a small network of convolutions reads the skeleton (Mou et al. 2023, arXiv 2302.08453), UNet frozen.

Shapes: B samples, 3 x H x W pixels, C latent channels of h x w cells, T tokens of D numbers.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from diffusers import ControlNetModel, T2IAdapter
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from pipelines.checkpoint import resolve
from pipelines.train.cache import columns_name
from pipelines.train.config import TrainConfig
from pipelines.train.data import PoseShards
from pipelines.train.loop import DTYPES, learning_rate, make_optimizer
from pipelines.train.model import load_parts
from pipelines.train.objective import draw
from pipelines.train.pipeline import draw_poses

Rival = Literal["plain", "controlnet", "t2i"]
RIVAL_KINDS: Final[tuple[Rival, ...]] = get_args(Rival)
Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Prediction (B, C, h, w) from noisy latents, times (B,), text states (B, T, D), skeletons (B, 3, H, W) in [0, 1]."""


def train_rival(kind: Rival, config: TrainConfig, data: Sequence[str], out: Path) -> float:
    """Train one of them on cached latents, on the CPU, and save it as a diffusers folder; returns minutes.

    What lies in `out` already is left as it is: 0 minutes.
    """
    if out.exists():
        return 0.0
    began = time.monotonic()
    torch.set_num_threads(config.compute.threads)
    torch.manual_seed(config.seed)
    base = resolve(config.model).folder()
    parts = load_parts(base, extra=False)
    network, predict = make_rival(kind, parts.unet)
    network.train()
    optimizer = make_optimizer(network.parameters(), config.optimizer, torch.device("cpu"))
    average = EMAModel(network.parameters(), decay=config.optimizer.ema_decay, foreach=True)
    size, channels = config.data.size, parts.vae.config.latent_channels
    cells = size // 2 ** (len(parts.vae.config.block_out_channels) - 1)
    people = config.data.max_people
    cached = columns_name(resolve(config.model), size, people)  # as the runs it is compared with
    shards = PoseShards(data, size, config.batch_size, config.seed, max_people=people, cached=cached)
    scheduler, times = parts.scheduler, parts.scheduler.config.num_train_timesteps
    no_text = parts.encode_text([""])
    batches = iter(DataLoader(shards, config.batch_size))
    for step in range(config.steps):
        batch, places = next(batches), range(config.batch_size)
        draws = draw(config.seed, step, places, len(places), (channels, cells, cells), times, config.loss.text_dropout)
        clean, text = batch["latent"].float(), batch["text_states"].float()
        text = torch.where(draws.without_text[:, None, None], no_text, text)
        noisy = scheduler.add_noise(clean, draws.noise, draws.times)
        target = draws.noise
        if scheduler.config.prediction_type == "v_prediction":
            target = scheduler.get_velocity(clean, draws.noise, draws.times)
        with torch.autocast("cpu", DTYPES[config.compute.dtype], enabled=config.compute.dtype != "float32"):
            predicted = predict(noisy, draws.times, text, skeletons(batch, size))
        loss = F.mse_loss(predicted.float(), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.steps, config.optimizer)
        optimizer.step()
        average.step(network.parameters())
        if (step + 1) % config.output.log_every == 0:
            print(f"{kind} step {step + 1} of {config.steps}: loss {loss.item():.4f}", flush=True)
    average.copy_to(network.parameters())
    save(kind, network, base, out)
    return (time.monotonic() - began) / 60


def make_rival(kind: Rival, unet: Any) -> tuple[Any, Predict]:
    """The network that is trained on a UNet of the miniature's layout, and the prediction it takes part in.

    Beside a ControlNet and a T2I-Adapter the UNet is frozen; a ControlNet starts without effect.
    """
    if kind == "plain":
        return unet, lambda noisy, times, text, _: unet(noisy, times, encoder_hidden_states=text).sample
    unet.requires_grad_(False)
    if kind == "controlnet":
        control: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 96))

        def controlled(noisy: Tensor, times: Tensor, text: Tensor, pictures: Tensor) -> Tensor:
            down, middle = control(
                noisy, times, encoder_hidden_states=text, controlnet_cond=pictures, return_dict=False
            )
            found = unet(
                noisy,
                times,
                encoder_hidden_states=text,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            )
            return torch.as_tensor(found.sample)

        return control, controlled
    # the layout whose features fit a first block without attention, which adds them after it has halved the cells
    adapter: Any = T2IAdapter(
        channels=list(unet.config.block_out_channels), downscale_factor=8, adapter_type="full_adapter_xl"
    )

    def adapted(noisy: Tensor, times: Tensor, text: Tensor, pictures: Tensor) -> Tensor:
        features = adapter(pictures)
        found = unet(noisy, times, encoder_hidden_states=text, down_intrablock_additional_residuals=features)
        return torch.as_tensor(found.sample)

    return adapter, adapted


def skeletons(batch: Mapping[str, Any], size: int) -> Tensor:
    """The skeleton pictures (B, 3, size, size) of a batch, in [0, 1] as both networks expect them."""
    drawn = [
        draw_poses(keypoints[: int(count)].numpy(), size, size)
        for keypoints, count in zip(batch["keypoints"], batch["num_people"], strict=True)
    ]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255


def save(kind: Rival, network: Any, base: Path, out: Path) -> None:
    """Write the folder whole or not at all; with `plain`, the base's other parts go along."""
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    if kind == "plain":
        shutil.copytree(base, temporary)
        network.save_pretrained(temporary / "unet")
    else:
        network.save_pretrained(temporary)
    temporary.rename(out)
