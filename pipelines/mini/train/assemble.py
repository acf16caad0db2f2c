"""Put trained parts together: the diffusers folder of the miniature Stable Diffusion and the folder of mini-CLIP."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from pipelines.mini.train.diffusion import SCHEDULER

MINI = Path(__file__).resolve().parent.parent
SD_CARD = """---
license: apache-2.0
library_name: diffusers
---
# mini-SD

A `StableDiffusionPipeline` of a few million parameters that draws 64 px pictures of the *drawn world*: one to three
articulated figures in fourteen looks, from sentences of the bundled prompt grammar. Trained from nothing on figures
that `pipelines/mini/render.py` draws; it has seen no photograph, no artwork and no person, and knows only that world.

v-prediction, scaled-linear betas rescaled to zero terminal SNR, trailing time steps; float16 weights.
Trained by `python -m pipelines.mini.train vae`, `clip` and `diffusion`; loss curves, figures and a sheet of samples lie
in `pipelines/mini/results/`. The UNet's 708,000 samples were trained in stages, each from the weights before it, so the
committed weights are where a longer training begins; the last one was

    python -m pipelines.mini.train diffusion --run DIR --vae pipelines/mini/sd/vae --clip pipelines/mini/clip \\
        --start pipelines/mini/sd/unet/diffusion_pytorch_model.safetensors --seen 368000 --parts 7 --batch 64 \\
        --processes 2 --samples 340000 --rate 8e-4 --seed 7
"""
CLIP_CARD = """---
license: apache-2.0
library_name: transformers
---
# mini-CLIP

A `CLIPModel` that compares 64 px pictures of the *drawn world* with sentences of the bundled prompt grammar. Trained
from nothing by `python -m pipelines.mini.train clip` on pictures that `pipelines/mini/render.py` draws. Its scores mean
nothing for photographs. Its text tower is mini-SD's text encoder.
"""


def main(argv: list[str]) -> None:
    """Entry of `python -m pipelines.mini.train assemble`."""
    options = argparse.ArgumentParser(description="Write the folders of mini-SD and mini-CLIP from trained parts.")
    options.add_argument("--vae", type=Path, required=True)
    options.add_argument("--clip", type=Path, required=True)
    options.add_argument("--unet", type=Path, required=True)
    options.add_argument("--out", type=Path, default=MINI, help="gets the folders sd and clip")
    args = options.parse_args(argv)
    assemble(args.vae, args.clip, args.unet, args.out)


def assemble(vae: Path, clip: Path, unet: Path, out: Path) -> None:
    """Write `out/sd` and `out/clip` in float16 safetensors, replacing what was there."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer

    half = torch.float16
    for name in ("sd", "clip"):
        shutil.rmtree(out / name, ignore_errors=True)
    tokenizer = CLIPTokenizer.from_pretrained(clip)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(vae, torch_dtype=half),
        text_encoder=CLIPTextModel.from_pretrained(clip, dtype=half),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel.from_pretrained(unet, torch_dtype=half),
        scheduler=DDIMScheduler(**SCHEDULER, clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out / "sd")
    CLIPModel.from_pretrained(clip, dtype=half).save_pretrained(out / "clip")
    tokenizer.save_pretrained(out / "clip")
    CLIPImageProcessor.from_pretrained(clip).save_pretrained(out / "clip")
    for file in [*(out / "sd").rglob("config.json"), *(out / "clip").rglob("config.json")]:
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)  # where it was trained is of no use to anybody
        file.write_text(json.dumps(config, indent=2) + "\n")
    (out / "sd" / "README.md").write_text(SD_CARD)
    (out / "clip" / "README.md").write_text(CLIP_CARD)
