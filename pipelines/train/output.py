"""What a training leaves to look at and to use: grids of samples, and the model as a diffusers folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from detectors.types import Float32
from pipelines.sampling import SCHEDULERS, noise_seed
from pipelines.train import checkpoints
from pipelines.train.config import TrainConfig
from pipelines.train.curves import Curves
from pipelines.train.data import PoseShards
from pipelines.train.listing import Part
from pipelines.train.model import Parts, load_parts
from pipelines.train.pipeline import HumanSDPipeline, Pixels, draw_poses

MODEL: Final = "model"
GRIDS: Final = "grids"
GRID_STEPS: Final = 20
GAP: Final = 2
"""Pixels between the pictures of a grid."""


def scheduler_of(config: Any, name: str) -> Any:
    """A scheduler of `pipelines.sampling.SCHEDULERS` with the noise schedule of another one's config."""
    class_name, options = SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(config, **options)


def make_pipeline(parts: Parts, scheduler: str = "dpmsolver++") -> Any:
    """The pipeline of a training's parts, as they are now. scheduler: a name of `pipelines.sampling.SCHEDULERS`."""
    pipe = HumanSDPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=scheduler_of(parts.scheduler.config, scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_model(unet: Any, base: Path, run: Path) -> Path:
    """Write RUN/model, whole or not at all: what `HumanSDPipeline.from_pretrained` loads. Returns it.

    base: the diffusers folder whose other parts go with the UNet, as they are there: a training may hold them in fewer
        bits.
    """
    parts = dataclasses.replace(load_parts(base, extra=False), unet=unet)
    temporary = run / f".{MODEL}.{os.getpid()}.tmp"
    make_pipeline(parts, "ddim").save_pretrained(temporary)
    checkpoints.replace_folder(temporary, run / MODEL)
    return run / MODEL


def generators(seed: int, count: int) -> list[torch.Generator]:
    """One CPU generator a picture, so that a picture's noise does not depend on how many there are."""
    return [torch.Generator("cpu").manual_seed(noise_seed(seed, index, 1)) for index in range(count)]


def grid_path(run: Path, step: int) -> Path:
    """Where a run keeps the grid of a step."""
    return run / GRIDS / f"{step:08d}.png"


def tile(rows: Sequence[Sequence[Pixels]]) -> Pixels:
    """Pictures (H, W, 3) of one size, side by side in rows of as many, on white."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, left = y * (height + GAP), x * (width + GAP)
            sheet[top : top + height, left : left + width] = picture
    return sheet


class Grids:
    """The same poses, captions and noise, drawn again and again while a training goes on: skeleton, data, sample."""

    def __init__(self, config: TrainConfig, data: Sequence[Part], parts: Parts, run: Path) -> None:
        self._config, self._data, self._parts = config, data, parts
        self._run = run
        self._rows: list[dict[str, Any]] | None = None

    def draw(self, step: int, curves: Curves) -> None:
        """Write RUN/grids/<step>.png and show it in TensorBoard."""
        if self._rows is None:
            self._rows = self._read()
        if not self._rows:
            return
        size, rows = self._config.data.size, self._rows
        images = make_pipeline(self._parts)(
            [row["caption"] for row in rows],
            [_people(row) for row in rows],
            height=size,
            width=size,
            num_inference_steps=GRID_STEPS,
            guidance_scale=self._config.output.grid_guidance,
            generator=generators(self._config.seed, len(rows)),
            output_type="np",
        ).images
        grid = tile(
            [
                [draw_poses(_people(row), size, size), row["image"].permute(1, 2, 0).numpy(), to_uint8(image)]
                for row, image in zip(rows, images, strict=True)
            ]
        )
        path = grid_path(self._run, step)
        path.parent.mkdir(exist_ok=True)
        curves.add_grid(grid, step)
        temporary = path.with_suffix(".tmp")
        Image.fromarray(grid).save(temporary, format="png")
        temporary.replace(path)

    def _read(self) -> list[dict[str, Any]]:
        """The first samples of the data, as they are."""
        count = self._config.output.grid_samples
        if count == 0:
            return []
        data, seed = self._config.data, self._config.seed
        shards = iter(PoseShards(self._data, data.size, count, seed, max_people=data.max_people, poses=data.poses))
        return [next(shards) for _ in range(count)]


def _people(row: dict[str, Any]) -> Float32:
    return np.asarray(row["keypoints"], np.float32)[: int(row["num_people"])]


def to_uint8(image: NDArray[Any]) -> Pixels:
    """Pixels of values in [0, 1]; what is outside is cut, what is not finite is black."""
    return np.asarray((np.nan_to_num(image).clip(0, 1) * 255).round(), np.uint8)
