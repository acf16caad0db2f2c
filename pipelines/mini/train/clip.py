"""Train the miniature CLIP: pictures of the drawn world and grammar sentences into one space.

Beside the contrastive loss small heads read the world's attributes off either side; they steer the first minutes and
are thrown away. The text tower becomes the frozen text encoder of the miniature Stable Diffusion, as CLIP's does there.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.mini.render import draw
from pipelines.mini.train import common
from pipelines.mini.train.captions import ATTRIBUTES, Captions, attributes, disturb, encode, train_tokenizer
from pipelines.mini.train.vae import to_tensor
from prompts.grammar import load_grammar

POOL = 40_000
HEADS = sum(len(names) for names in ATTRIBUTES.values())


def config(vocabulary: int, start: int, end: int) -> Any:
    """The miniature's CLIPConfig: width 128, three text and four image layers, 8 px patches."""
    from transformers import CLIPConfig

    text = {
        "vocab_size": vocabulary,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "projection_dim": 128,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
        "projection_dim": 128,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)


def main(argv: list[str]) -> None:
    """Entry of `python -m pipelines.mini.train clip`."""
    args = common.parser("Train the miniature CLIP.", samples=200_000, batch=128, rate=1.5e-3).parse_args(argv)
    args.run.mkdir(parents=True, exist_ok=True)
    common.launch(train, args)


def pool(run: Path, seed: int, start: Path | None) -> tuple[Any, Any, Any]:
    """Pictures uint8 (N, 64, 64, 3), token numbers int16 (N, 77), attributes int8 (N, A) of grammar prompts.

    start: weights that the training begins with; the tokenizer beside them goes with them, whatever words have come
    into the grammar since.
    """
    from transformers import CLIPTokenizer

    paths = [run / f"{name}.npy" for name in ("images", "tokens", "attributes")]
    if not all(path.exists() for path in paths):
        captions = Captions(load_grammar(None, None))
        if start is not None:
            CLIPTokenizer.from_pretrained(start.parent).save_pretrained(run / "tokenizer")
        elif not (run / "tokenizer").exists():
            train_tokenizer(captions, run / "tokenizer")
        tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
        images, texts, classes = np.empty((POOL, 64, 64, 3), np.uint8), [], []
        for row, (index, prompt, world) in enumerate(itertools.islice(captions.training(), POOL)):
            rng = np.random.default_rng((seed, index))
            images[row] = draw(world, rng).image
            texts.append(disturb(prompt.text, rng))
            classes.append(attributes(world))
        np.save(paths[0], images)
        np.save(paths[1], encode(tokenizer, texts).astype(np.int16))
        np.save(paths[2], np.array(classes, np.int8))
    images, tokens, labels = (np.load(path, mmap_mode="r") for path in paths)
    return images, tokens, labels


def head_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the attributes a caption names."""
    total = logits.new_zeros(())
    offset = 0
    for column, names in enumerate(ATTRIBUTES.values()):
        part = logits[:, offset : offset + len(names)].float()
        total = total + F.cross_entropy(part, labels[:, column], ignore_index=-100)
        offset += len(names)
    return total / len(ATTRIBUTES)


def train(rank: int, args: argparse.Namespace) -> None:
    """Train until `samples` or `minutes`; writes the transformers folder `clip` with tokenizer and image processor."""
    from transformers import CLIPModel, CLIPTokenizer

    started = time.monotonic()
    images, tokens, labels = pool(args.run, args.seed + 11, args.start)
    tokenizer = CLIPTokenizer.from_pretrained(args.run / "tokenizer")
    torch.manual_seed(args.seed)
    model = CLIPModel(config(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id))
    common.start(model, args.start)
    heads = nn.ModuleList([nn.Linear(128, HEADS), nn.Linear(128, HEADS)])
    both = nn.ModuleList([model, heads])
    optimizer = torch.optim.AdamW(both.parameters(), lr=args.rate, betas=(0.9, 0.98), weight_decay=0.02)
    average = common.Average(model, 0.998)
    step = 0
    state = common.load_state(args.run / "state.pt")
    if state is not None:
        both.load_state_dict(state["model"])
        average.shadow = state["average"]
        optimizer.load_state_dict(state["optimizer"])
        step = int(state["step"])
    log = common.Log(common.RESULTS / "clip_curve.tsv", every=25)
    share, steps = args.batch // args.processes, args.samples // args.batch
    while step < steps and time.monotonic() - started < 60 * args.minutes:
        rng = np.random.default_rng((args.seed, step, rank))
        chosen = np.sort(rng.choice(len(images), share, replace=False))
        pixels = to_tensor(images[chosen])
        pixels = pixels + float(rng.uniform(0, 0.12)) * torch.randn_like(pixels)
        ids = torch.from_numpy(tokens[chosen].astype(np.int64))
        length = int((ids != tokenizer.eos_token_id).sum(1).max()) + 1
        truth = torch.from_numpy(labels[chosen].astype(np.int64))
        for group in optimizer.param_groups:
            group["lr"] = common.cosine(step, steps, args.rate)
        with torch.autocast("cpu", torch.bfloat16):
            seen = model.vision_model(pixel_values=pixels).pooler_output
            read = model.text_model(input_ids=ids[:, :length]).pooler_output
            a = F.normalize(model.visual_projection(seen).float(), dim=-1)
            b = F.normalize(model.text_projection(read).float(), dim=-1)
            scale = model.logit_scale.exp().clamp(max=100)
            seen_logits, read_logits = heads[0](seen), heads[1](read)
        target = torch.arange(share)
        logits = scale * a @ b.T
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        image_heads, text_heads = head_loss(seen_logits, truth), head_loss(read_logits, truth)
        loss = contrast + image_heads + text_heads
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        common.average_gradients(both.parameters(), args.processes)
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        average.update(step)
        step += 1
        if rank == 0:
            right = (logits.argmax(1) == target).float().mean().item()
            values = {
                "contrast": contrast.item(),
                "image": image_heads.item(),
                "text": text_heads.item(),
                "top1": right,
            }
            log.add(step - 1, args.seen + step * args.batch, **values)
            if step % 200 == 0 or step == steps:
                save(args.run, both, average, optimizer, step, tokenizer)
    if rank == 0:
        save(args.run, both, average, optimizer, step, tokenizer)


def save(run: Path, both: nn.Module, average: common.Average, optimizer: Any, step: int, tokenizer: Any) -> None:
    """Write the state and the averaged model."""
    from transformers import CLIPImageProcessor, CLIPModel

    state = {"model": both.state_dict(), "average": average.shadow, "optimizer": optimizer.state_dict(), "step": step}
    common.save_state(run / "state.pt", state)
    model = CLIPModel(config(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id))
    model.load_state_dict(average.shadow)
    model.save_pretrained(run / "clip")
    tokenizer.save_pretrained(run / "clip")
    CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(run / "clip")
