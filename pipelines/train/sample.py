"""`humansd sample`: pictures of people in given poses, from a trained model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from PIL import Image

from detectors.types import NUM_KEYPOINTS, Float32
from pipelines import columns, dataset, record, shards
from pipelines.config import UserError
from pipelines.store import Store
from pipelines.train import release
from pipelines.train.output import MODEL, generators, scheduler_of, tile, to_uint8
from pipelines.train.pipeline import HumanSDPipeline, draw_poses

BATCH: Final = 4
"""Pictures drawn at once."""


@dataclass(frozen=True, slots=True)
class Preset:
    """How pictures are drawn. guidance: None takes what the run's own grids were drawn with, else 7.5."""

    scheduler: str
    steps: int
    guidance: float | None
    eta: float
    seed: int
    negative: str | None


PRESETS: Final = {
    "default": Preset("dpmsolver++", 20, None, 0.0, 0, None),
    "release": Preset(
        "ddim",
        50,
        9.0,
        0.0,
        42,
        "low quality, blurry, noisy, badly drawn, cropped, text, watermark, bad anatomy, deformed body, extra limbs, "
        "missing limbs, extra fingers, malformed hands, distorted face",
    ),
}
"""`release` samples as the authors evaluate: DDIM 50, guidance 9, eta 0, seed 42, and a negative prompt on quality and
anatomy in words of our own."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What to draw: `count` samples a prompt; None takes the preset's value."""

    prompts: tuple[str, ...]
    count: int
    seed: int | None = None
    preset: Literal["default", "release"] = "default"
    guidance: float | None = None
    negative: str | None = None


@dataclass(frozen=True, slots=True)
class PosedFrame:
    """Keypoints (P, 17, 3) in pixels of a picture of `size` (width, height); None: of the picture to be drawn."""

    keypoints: Float32
    size: tuple[int, int] | None = None

    def at(self, side: int) -> Float32:
        """The keypoints in a square picture of `side` pixels: the frame made to fit, in the middle."""
        if self.size is None:
            return self.keypoints
        scale = side / max(self.size)
        moved = self.keypoints.copy()
        offset = (side - np.array(self.size) * scale) / 2
        moved[..., :2] = (moved[..., :2] + 0.5) * scale + offset - 0.5
        return moved


def read_poses(source: str) -> PosedFrame:
    """The poses of FILE.json, FILE.npy or OUT:SHARD:ROW. Raises UserError where there are none."""
    if source.endswith((".json", ".npy")):
        frame = _read_file(Path(source))
    else:
        out, _, place = source.rpartition(":")
        out, _, shard = out.rpartition(":")
        if not (out and shard.isdecimal() and place.isdecimal()):
            raise UserError(f"--poses {source}: must be a .json or .npy file, or OUT:SHARD:ROW such as ghi:0:3")
        frame = _read_row(out, int(shard), int(place))
    if not len(frame.keypoints):
        raise UserError(f"--poses {source}: nobody is there")
    if not np.isfinite(frame.keypoints).all():
        raise UserError(f"--poses {source}: holds numbers that are not finite")
    return frame


def _read_row(out: str, shard: int, place: int) -> PosedFrame:
    store = Store(out)
    dataset.read_manifest(store)
    if shard not in shards.done_indices(store):
        raise UserError(f"--poses {out}:{shard}:{place}: {out} has no committed shard {shard}")
    table = columns.read_shard(store, shard)
    if place >= table.num_rows:
        raise UserError(f"--poses {out}:{shard}:{place}: shard {shard} has rows 0 to {table.num_rows - 1}")
    (sample,) = record.table_to_samples(table.slice(place, 1))
    keypoints = [person.keypoints for person in sample.people]
    return PosedFrame(np.array(keypoints, np.float32).reshape(-1, NUM_KEYPOINTS, 3), (sample.width, sample.height))


def _read_file(path: Path) -> PosedFrame:
    try:
        if path.suffix == ".npy":
            values: Any = np.load(path, allow_pickle=False)
        else:
            values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return _first_of_coco(values)
        return PosedFrame(np.asarray(values, np.float32).reshape(-1, NUM_KEYPOINTS, 3))
    except OSError as error:
        raise UserError(f"--poses {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--poses {path}: holds no keypoints (P, 17, 3) and is not COCO JSON: {error}") from None


def _first_of_coco(values: dict[str, Any]) -> PosedFrame:
    """Poses of the first image that has some."""
    for image in values["images"]:
        found = [one["keypoints"] for one in values["annotations"] if one["image_id"] == image["id"]]
        if found:
            keypoints = np.asarray(found, np.float32).reshape(-1, NUM_KEYPOINTS, 3)
            keypoints[..., 2] /= 2  # COCO's 1 is hidden, 2 visible
            return PosedFrame(keypoints, (int(image["width"]), int(image["height"])))
    raise ValueError("no image has poses")


def load_pipeline(model: str, base: str, device: str | None) -> Any:
    """The pipeline of a run, its model folder, or the authors' checkpoint. Raises UserError where there is none."""
    path = Path(model)
    if path.suffix == ".ckpt":
        folder = release.convert(path, base)
    else:
        folder = path / MODEL if (path / MODEL).is_dir() else path
    if not (folder / "model_index.json").is_file():
        raise UserError(f"--model {model}: no trained model there (no {MODEL}/model_index.json): train one first")
    on = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        dtype = torch.float16 if on.startswith("cuda") else torch.float32
        pipe = HumanSDPipeline.from_pretrained(folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True)
        pipe.to(on)
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"--model {model}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_grid(
    model: str, base: str, asked: Asked, frame: PosedFrame, out: Path, device: str | None
) -> tuple[int, dict[str, Any]]:
    """Write the grid: a row a prompt, the skeleton and its samples. Returns the pictures' size and what was used.

    Sample i of every prompt has the noise of (seed, i). Raises UserError where the model cannot be loaded.
    """
    pipe = load_pipeline(model, base, device)
    preset = PRESETS[asked.preset]
    pipe.scheduler = scheduler_of(pipe.scheduler.config, preset.scheduler)
    guidance = next(
        value for value in (asked.guidance, preset.guidance, _grid_guidance(Path(model)), 7.5) if value is not None
    )
    seed = preset.seed if asked.seed is None else asked.seed
    negative = preset.negative if asked.negative is None else asked.negative
    size = int(pipe.unet.config.sample_size) * int(pipe.vae_scale_factor)
    keypoints = frame.at(size)
    rows = []
    for prompt in asked.prompts:
        row = [draw_poses(keypoints, size, size)]
        noise = generators(seed, asked.count)
        for start in range(0, asked.count, BATCH):
            part = noise[start : start + BATCH]
            images = pipe(
                [prompt] * len(part),
                [keypoints] * len(part),
                num_inference_steps=preset.steps,
                guidance_scale=guidance,
                negative_prompt=negative,
                eta=preset.eta,
                generator=part,
                output_type="np",
            ).images
            row += [to_uint8(image) for image in images]
        rows.append(row)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tile(rows)).save(out, "PNG")
    used = {"scheduler": preset.scheduler, "steps": preset.steps, "guidance": guidance, "seed": seed}
    return size, {**used, "negative": negative or ""}


def _grid_guidance(model: Path) -> float | None:
    """The guidance scale that a run's own grids were drawn with."""
    for folder in (model, model.parent):
        try:
            return float(
                json.loads((folder / "run.json").read_text(encoding="utf-8"))["config"]["output"]["grid_guidance"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
