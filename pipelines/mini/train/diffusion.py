"""Train the miniature's UNet on latents of the drawn world, with the frozen text tower of the miniature CLIP.

v-prediction on a scaled-linear schedule rescaled to zero terminal SNR (Lin et al. 2024, arXiv 2305.08891).
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from pipelines.mini.render import draw
from pipelines.mini.train import common
from pipelines.mini.train.captions import Captions, disturb, encode
from pipelines.mini.train.vae import to_tensor
from prompts.grammar import load_grammar

PART = 20_000
STRIDE = 100_000
"""Pictures a part, and the grammar indices a part may take them from."""
CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
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
    options.add_argument("--parts", type=int, default=4, help=f"parts of {PART} drawn pictures to train on")
    options.add_argument("--draw-only", action="store_true", help="draw the parts and stop")
    args = options.parse_args(argv)
    args.run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for part in range(args.parts):
        draw_part(args.run, args.clip, part, args.seed)
        if not args.draw_only:
            encode_part(args.run, args.vae, args.clip, part)
    if not args.draw_only:
        common.launch(train, args)


def draw_part(run: Path, clip: Path, part: int, seed: int) -> None:
    """Draw pictures of grammar prompts: `images-P.npy` uint8 (N, 64, 64, 3) and `tokens-P.npy` int16 (N, 77)."""
    from transformers import CLIPTokenizer

    if (run / f"tokens-{part}.npy").exists():
        return
    tokenizer = CLIPTokenizer.from_pretrained(clip)
    pairs = Captions(load_grammar()).training(part * STRIDE)
    images = np.empty((PART, 64, 64, 3), np.uint8)
    sentences = []
    for row, (index, prompt, world) in enumerate(itertools.islice(pairs, PART)):
        rng = np.random.default_rng((seed + 21, index))
        images[row] = draw(world, rng).image
        sentences.append(disturb(prompt.text, rng))
    np.save(run / f"images-{part}.npy", images)
    np.save(run / f"tokens-{part}.npy", encode(tokenizer, sentences).astype(np.int16))


def encode_part(run: Path, vae: Path, clip: Path, part: int) -> None:
    """Keep a part's latents (N, 8, 16, 16) and text states (N, 77, 128), float16."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

    if (run / f"texts-{part}.npy").exists():
        return
    autoencoder, encoder = AutoencoderKL.from_pretrained(vae), CLIPTextModel.from_pretrained(clip)
    images, tokens = np.load(run / f"images-{part}.npy"), np.load(run / f"tokens-{part}.npy")
    latents, texts = np.empty((PART, 8, 16, 16), np.float16), np.empty((PART, 77, 128), np.float16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, PART, 100):
            rows = slice(start, start + 100)
            mean = autoencoder.encode(to_tensor(images[rows])).latent_dist.mean.float()
            latents[rows] = (mean * autoencoder.config.scaling_factor).numpy()
            ids = torch.from_numpy(tokens[rows].astype(np.int64))
            texts[rows] = encoder(input_ids=ids).last_hidden_state.float().numpy()
    np.save(run / f"latents-{part}.npy", latents)
    if part == 0:
        captions = Captions(load_grammar())
        empty = ["", *sorted({captions.at(index)[0].negative for index in range(2_000)})[:63]]
        ids = torch.from_numpy(encode(CLIPTokenizer.from_pretrained(clip), empty))
        with torch.no_grad():
            np.save(run / "empty.npy", encoder(input_ids=ids).last_hidden_state.numpy().astype(np.float16))
    np.save(run / f"texts-{part}.npy", texts)


def train(rank: int, args: argparse.Namespace) -> None:
    """Train until `samples` or `minutes`, saving state and averaged UNet every 500 steps."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    started = time.monotonic()
    torch.manual_seed(args.seed)
    model = UNet2DConditionModel(**CONFIG)
    common.start(model, args.start)
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
    latents = [np.load(args.run / f"latents-{part}.npy", mmap_mode="r") for part in range(args.parts)]
    texts = [np.load(args.run / f"texts-{part}.npy", mmap_mode="r") for part in range(args.parts)]
    empty = np.load(args.run / "empty.npy")
    share, steps = args.batch // args.processes, args.samples // args.batch
    log = common.Log(common.RESULTS / "diffusion_curve.tsv", every=100)
    while step < steps and time.monotonic() - started < 60 * args.minutes:
        rng = np.random.default_rng((args.seed, step, rank))
        part = int(rng.integers(args.parts))
        chosen = np.sort(rng.choice(PART, share, replace=False))
        clean = torch.from_numpy(latents[part][chosen].astype(np.float32))
        text = texts[part][chosen].astype(np.float32)
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
        loss.backward()
        common.average_gradients(model.parameters(), args.processes)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(step)
        step += 1
        if rank == 0:
            log.add(step - 1, args.seen + step * args.batch, loss=loss.item(), grad_norm=float(norm))
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
