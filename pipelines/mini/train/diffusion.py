"""Train the miniature's UNet on latents of the drawn world, with the frozen text tower of the miniature CLIP.

v-prediction on a scaled-linear schedule rescaled to zero terminal SNR (Lin et al. 2024, arXiv 2305.08891).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prompts.grammar import load_grammar
from torch.nn import functional as F

from pipelines.mini.render import draw
from pipelines.mini.train import common
from pipelines.mini.train.captions import Captions, disturb, encode
from pipelines.mini.train.vae import to_tensor

POOL = 80_000
CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (64, 96, 128),
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
EMPTY_SHARE = 0.12
"""Share of samples whose text is left out, half of them for the empty text and half for a negative prompt."""


def main(argv: list[str]) -> None:
    """Entry of `python -m pipelines.mini.train diffusion`."""
    options = common.parser("Train the miniature's UNet.", samples=600_000, batch=64, rate=1e-3)
    options.add_argument("--vae", type=Path, required=True, help="diffusers folder of the trained autoencoder")
    options.add_argument("--clip", type=Path, required=True, help="transformers folder of the trained miniature CLIP")
    args = options.parse_args(argv)
    args.run.mkdir(parents=True, exist_ok=True)
    build_pool(args)
    common.launch(train, args)


def build_pool(args: argparse.Namespace) -> None:
    """Draw pictures of grammar prompts and keep their latents (N, 4, 16, 16) and text states (N, 77, 128), float16."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

    if (args.run / "texts.npy").exists():
        return
    torch.set_num_threads(2)
    vae = AutoencoderKL.from_pretrained(args.vae)
    tokenizer = CLIPTokenizer.from_pretrained(args.clip)
    encoder = CLIPTextModel.from_pretrained(args.clip)
    captions = Captions(load_grammar(None, None))
    opened = np.lib.format.open_memmap
    latents = opened(args.run / "latents.npy", "w+", np.float16, (POOL, 4, 16, 16))
    texts = opened(args.run / "texts.tmp.npy", "w+", np.float16, (POOL, 77, 128))
    negatives: list[str] = []
    for start in range(0, POOL, 200):
        pictures, sentences = [], []
        for index in range(start, start + 200):
            rng = np.random.default_rng((args.seed + 21, index))
            prompt, world = captions.at(index)
            pictures.append(draw(world, rng).image)
            sentences.append(disturb(prompt.text, rng))
            negatives.append(prompt.negative)
        with torch.no_grad():
            mean = vae.encode(to_tensor(np.stack(pictures))).latent_dist.mean * vae.config.scaling_factor
            states = encoder(input_ids=torch.from_numpy(encode(tokenizer, sentences))).last_hidden_state
        latents[start : start + 200] = mean.numpy()
        texts[start : start + 200] = states.numpy()
    empty = ["", *sorted(set(negatives))[:63]]
    with torch.no_grad():
        states = encoder(input_ids=torch.from_numpy(encode(tokenizer, empty))).last_hidden_state
    np.save(args.run / "empty.npy", states.numpy().astype(np.float16))
    texts.flush()
    (args.run / "texts.tmp.npy").replace(args.run / "texts.npy")


def train(rank: int, args: argparse.Namespace) -> None:
    """Train until `samples` or `minutes`, saving state and averaged UNet every 500 steps."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    started = time.monotonic()
    torch.manual_seed(args.seed)
    model = UNet2DConditionModel(**CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.98), weight_decay=0.01)
    average = common.Average(model, 0.999)
    step = 0
    state = common.load_state(args.run / "state.pt")
    if state is not None:
        model.load_state_dict(state["model"])
        average.shadow = state["average"]
        optimizer.load_state_dict(state["optimizer"])
        step = int(state["step"])
    scheduler = DDPMScheduler(**SCHEDULER)
    latents, texts, empty = (np.load(args.run / f"{name}.npy", mmap_mode="r") for name in ("latents", "texts", "empty"))
    share, steps = args.batch // args.processes, args.samples // args.batch
    log = common.Log(common.RESULTS / "diffusion_curve.tsv", every=100)
    while step < steps and time.monotonic() - started < 60 * args.minutes:
        rng = np.random.default_rng((args.seed, step, rank))
        chosen = np.sort(rng.choice(len(latents), share, replace=False))
        clean = torch.from_numpy(latents[chosen].astype(np.float32))
        text = texts[chosen].astype(np.float32)
        dropped = rng.random(share) < EMPTY_SHARE
        other = np.where(rng.random(share) < 0.5, 0, rng.integers(len(empty), size=share))
        text[dropped] = empty[other[dropped]]
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        times = torch.from_numpy((rng.permutation(share) + rng.random(share)) / share * 1000).long().clamp(0, 999)
        noisy = scheduler.add_noise(clean, noise, times)
        target = scheduler.get_velocity(clean, noise, times)
        for group in optimizer.param_groups:
            group["lr"] = common.cosine(step, steps, args.rate)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model(noisy, times, torch.from_numpy(text)).sample
        loss = F.mse_loss(predicted.float(), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        common.average_gradients(model.parameters(), args.processes)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(step)
        step += 1
        if rank == 0:
            log.add(step - 1, step * args.batch, loss=loss.item(), grad_norm=float(norm))
            if step % 500 == 0 or step == steps:
                save(args.run, model, average, optimizer, step)
    if rank == 0:
        save(args.run, model, average, optimizer, step)


def save(run: Path, model: Any, average: common.Average, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write the state and the averaged UNet."""
    from diffusers import UNet2DConditionModel

    state = {"model": model.state_dict(), "average": average.shadow, "optimizer": optimizer.state_dict(), "step": step}
    common.save_state(run / "state.pt", state)
    averaged = UNet2DConditionModel(**CONFIG)
    averaged.load_state_dict(average.shadow)
    averaged.save_pretrained(run / "unet")
