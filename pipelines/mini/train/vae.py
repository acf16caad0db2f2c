"""Train the miniature's autoencoder: 64 px pictures to 8 x 16 x 16 latents and back."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipelines.mini.render import draw
from pipelines.mini.train import common
from pipelines.mini.world import random_world

CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 32, 64),
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
    "sample_size": 64,
}
POOL = 16_000
LATENT_NOISE = 0.12
"""Noise on the latents the decoder sees, as a share of their spread: diffusion never hits them exactly."""
ANCHORED, ANCHOR_SCALE = slice(4, 7), 25.0
"""Three latent channels are held to the mean colour of their 4 x 4 pixels: left alone, small figures lose theirs."""


def main(argv: list[str]) -> None:
    """Entry of `python -m pipelines.mini.train vae`."""
    options = common.parser("Train the miniature's autoencoder.", samples=80_000, batch=8, rate=2e-3)
    options.add_argument("--freeze-encoder", action="store_true", help="go on with the decoder alone")
    args = options.parse_args(argv)
    args.run.mkdir(parents=True, exist_ok=True)
    common.launch(train, args)


def pool(path: Path, seed: int, size: int = POOL) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draw (or find drawn) pictures, uint8 (size, 64, 64, 3), half of them of wide articulation."""
    if not path.exists():
        images = np.empty((size, 64, 64, 3), np.uint8)
        for index in range(size):
            rng = np.random.default_rng((seed, index))
            images[index] = draw(random_world(rng), rng).image
        np.save(path.with_suffix(".tmp.npy"), images)
        path.with_suffix(".tmp.npy").replace(path)
    loaded: np.ndarray[Any, np.dtype[np.uint8]] = np.load(path, mmap_mode="r")
    return loaded


def to_tensor(images: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def chroma_loss(a: Tensor, b: Tensor) -> Tensor:
    """L1 between what two pictures have beside their brightness: without it small coloured things come out brown."""
    return ((a - a.mean(1, keepdim=True)) - (b - b.mean(1, keepdim=True))).abs().mean()


def gradient_loss(a: Tensor, b: Tensor) -> Tensor:
    """L1 between the horizontal and vertical differences of two pictures."""
    horizontal = ((a[..., 1:] - a[..., :-1]) - (b[..., 1:] - b[..., :-1])).abs().mean()
    vertical = ((a[..., 1:, :] - a[..., :-1, :]) - (b[..., 1:, :] - b[..., :-1, :])).abs().mean()
    return horizontal + vertical


def train(rank: int, args: argparse.Namespace) -> None:
    """Train until `samples` or `minutes`, saving the state every 500 steps and the diffusers folder at the end."""
    from diffusers import AutoencoderKL

    started = time.monotonic()
    torch.manual_seed(args.seed)
    model = AutoencoderKL(**CONFIG)
    common.start(model, args.start)
    state = common.load_state(args.run / "state.pt")
    step = 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.98), weight_decay=1e-4)
    average = common.Average(model, 0.998)
    if state is not None:
        model.load_state_dict(state["model"])
        average.shadow = state["average"]
        optimizer.load_state_dict(state["optimizer"])
        step = int(state["step"])
    if args.freeze_encoder:
        model.load_state_dict(average.shadow)
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    images = pool(args.run / "pool.npy", args.seed + 1)
    steps = args.samples // args.batch
    log = common.Log(common.RESULTS / "vae_curve.tsv")
    share = args.batch // args.processes
    while step < steps and time.monotonic() - started < 60 * args.minutes:
        rng = np.random.default_rng((args.seed, step, rank))
        batch = to_tensor(images[np.sort(rng.choice(len(images), share, replace=False))])
        if rng.random() < 0.5:
            batch = batch.flip(-1)
        for group in optimizer.param_groups:
            group["lr"] = common.cosine(step, steps, args.rate)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(batch).latent_dist
            latents = posterior.sample()
            noise = LATENT_NOISE * latents.detach().float().std() * torch.randn_like(latents)
            decoded = model.decode(latents + noise).sample.float()
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        error = F.mse_loss(decoded, batch)
        loss = (decoded - batch).abs().mean() + error + 0.5 * gradient_loss(decoded, batch)
        anchor = F.mse_loss(mean[:, ANCHORED] / ANCHOR_SCALE, F.avg_pool2d(batch, 4))
        loss = loss + chroma_loss(decoded, batch) + anchor + 1e-5 * divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        common.average_gradients(model.parameters(), args.processes)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(step)
        step += 1
        if rank == 0:
            log.add(
                step - 1,
                args.seen + step * args.batch,
                loss=loss.item(),
                anchor=anchor.item(),
                psnr=float(10 * torch.log10(4 / error.detach())),
            )
            if step % 500 == 0 or step == steps:
                save(args.run, model, average, optimizer, step, images)
    if rank == 0:
        save(args.run, model, average, optimizer, step, images)


def save(
    run: Path,
    model: Any,
    average: common.Average,
    optimizer: torch.optim.Optimizer,
    step: int,
    images: np.ndarray[Any, np.dtype[np.uint8]],
) -> None:
    """Write the state, and the averaged model as a diffusers folder whose scaling factor gives latents unit spread."""
    from diffusers import AutoencoderKL

    state = {"model": model.state_dict(), "average": average.shadow, "optimizer": optimizer.state_dict(), "step": step}
    common.save_state(run / "state.pt", state)
    averaged = AutoencoderKL(**CONFIG)
    averaged.load_state_dict(average.shadow)
    with torch.no_grad():
        spread = averaged.encode(to_tensor(images[:256])).latent_dist.mean.std().item()
    averaged.register_to_config(scaling_factor=1 / spread)
    averaged.save_pretrained(run / "vae")
