"""Train a person detector (mmdet) or a pose estimator (mmpose) on annotated images, by mmengine's Runner.

The images' annotations are COCO JSON and lie as in Human-Art; mmdet's and mmpose's own dataset classes read them. A run
folder holds checkpoints, logs and the curve; the same call on it goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file

from detectors import weights
from detectors.checkpoint import read_state
from detectors.download import download

SPLITS: Final = ("training", "validation")
"""Human-Art's names; files are ROOT/annotations/<split>_humanart.json."""
PUBLISHED_DIGITS: Final = re.compile(r"-([0-9a-f]{8})(?:_\d{8})?\.pth$")
"""First digits of a file's SHA-256, as mmpose puts them into its name."""


class TrainingError(ValueError):
    """A training cannot start or go on; the message says what to do next."""


@dataclass(frozen=True, slots=True)
class AnnotatedSet:
    """COCO-style annotation files, and the folder that their `file_name`s start in."""

    training: Path
    validation: Path
    images: Path


def find_set(root: Path) -> AnnotatedSet:
    """Find annotations and images of a copy of Human-Art, or of a set laid out like it.

    root: the folder that holds `annotations/`. Images may be named from there, from its parent (`HumanArt/images/…`) or
    from its `images/`. Raises TrainingError naming what is missing.
    """
    training, validation = (root / "annotations" / f"{split}_humanart.json" for split in SPLITS)
    for path in (training, validation):
        if not path.is_file():
            raise TrainingError(f"no {path}: --root must be the folder of your copy of Human-Art")
    name = _first_image(validation)
    for images in (root, root.absolute().parent, root / "images"):
        if (images / name).is_file():
            return AnnotatedSet(training, validation, images)
    raise TrainingError(f"{validation} names {name}, which is neither under {root} nor beside it: get the images first")


def _first_image(annotations: Path) -> str:
    try:
        return str(json.loads(annotations.read_bytes())["images"][0]["file_name"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise TrainingError(f"{annotations}: not a COCO annotation file with images") from error


def train(config: Any, data: AnnotatedSet, run: Path, start: Path | None = None) -> Path:
    """Train as a config says, or go on where the run folder stopped; return the last checkpoint.

    config: mmengine's, of mmdet or mmpose; changed in place. start: weights (any checkpoint) to begin with in place of
    those that the config's backbone was pretrained with. One process a GPU where `torchrun` started it, else one in
    all. Raises TrainingError and WeightsError before anything is computed.
    """
    from mmengine.registry import DefaultScope
    from mmengine.runner import Runner

    run.mkdir(parents=True, exist_ok=True)
    configure(config, data, run)
    _choose_start(config, run, start)
    with (
        DefaultScope.overwrite_default_scope(config.default_scope),
        torch.serialization.safe_globals(_own_types()),
    ):
        # mmengine keeps visualizers by name while the process lives: a second training would log to the first one
        config.visualizer.name = f"{run.resolve()}-{time.time_ns()}"
        runner = Runner.from_cfg(config)
        if not torch.cuda.is_available():
            runner.model.to(memory_format=torch.channels_last)  # a third faster on CPUs
        runner.train()
    return last_checkpoint(run)


def _own_types() -> list[Any]:
    """What the Runner's own checkpoints hold besides tensors: numbers of numpy, and histories of logged values."""
    from mmengine.logging.history_buffer import HistoryBuffer

    def method_of_history(owner: object, name: str) -> Any:
        if owner is not HistoryBuffer:
            raise pickle.UnpicklingError(f"asks for {name} of {owner}")
        return getattr(HistoryBuffer, name)

    dtypes = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdSU"]
    rebuilders = [value.__reduce__()[0] for value in (np.zeros(1), np.float64(0))]
    return [HistoryBuffer, (method_of_history, "builtins.getattr"), np.ndarray, np.dtype, *dtypes, *rebuilders]


def configure(config: Any, data: AnnotatedSet, run: Path) -> None:
    """Point a config at annotated images and a run folder, and fit it to this machine."""
    config.work_dir = str(run)
    config.launcher = "pytorch" if "LOCAL_RANK" in os.environ else "none"
    if not torch.cuda.is_available():
        config.env_cfg.dist_cfg.backend = "gloo"
    for name, path in (("train_dataloader", data.training), ("val_dataloader", data.validation)):
        loader = config[name]
        loader.dataset.data_root = ""
        loader.dataset.ann_file = str(path.absolute())
        loader.dataset.data_prefix = {"img": str(data.images.absolute())}
        loader.dataset.pop("bbox_file", None)  # boxes of one published detector: validation takes the annotated ones
        loader.num_workers = min(loader.num_workers, os.cpu_count() or 1)
        loader.persistent_workers = loader.num_workers > 0
    config.val_evaluator.ann_file = str(data.validation.absolute())
    config.test_dataloader = config.test_evaluator = config.test_cfg = None
    config.auto_scale_lr.enable = True  # configs are written for eight GPUs


def _choose_start(config: Any, run: Path, start: Path | None) -> None:
    """Say where weights come from: the run's last checkpoint, else `start`, else the pretrained backbone."""
    config.resume = (run / "last_checkpoint").is_file()
    config.load_from = None
    pretrained = config.model.backbone.pop("init_cfg", None)
    if config.resume:
        return
    if start is not None:
        state = read_state(start)
    elif pretrained is not None and pretrained["type"] == "Pretrained":
        state = read_state(backbone_weights(pretrained["checkpoint"]))
        prefix = pretrained.get("prefix", "")
        state = {f"backbone.{name.removeprefix(prefix)}": value for name, value in state.items() if prefix in name}
    else:
        return
    if not any(name.startswith("backbone.") for name in state):
        raise TrainingError(f"{start}: holds no weights of a detector's backbone")
    config.load_from = str(run / "start.pth")
    torch.save({"state_dict": state}, config.load_from)


def backbone_weights(url: str) -> Path:
    """Return a pretrained backbone's file, downloaded into the cache unless it is there. Raises WeightsError."""
    path = weights.cache_dir() / Path(urllib.parse.urlsplit(url).path).name
    digits = PUBLISHED_DIGITS.search(path.name)
    sha256 = digits[1] if digits else None
    if path.is_file() and weights.matches(path, sha256):
        return path
    if weights.offline():
        raise weights.WeightsError(f"HUMANSD_OFFLINE is set: put {url} at {path} yourself, or give --weights FILE")
    download(url, path, sha256)
    return path


def last_checkpoint(run: Path) -> Path:
    """Return the newest checkpoint of a run. Raises TrainingError where it has none."""
    try:
        named = Path((run / "last_checkpoint").read_text().strip())
    except OSError as error:
        raise TrainingError(f"{run}: holds no checkpoint yet") from error
    return run / named.name


def export(checkpoint: Path, path: Path, *, half: bool = False) -> str:
    """Write the weights of a checkpoint (averaged, where the training averages) as safetensors; return the SHA-256.

    half: as float16, which is half the size and loads as well.
    """
    state = {
        name: (value.half() if half and value.is_floating_point() else value).clone().contiguous()
        for name, value in read_state(checkpoint).items()
    }
    save_file(state, str(path))
    path.chmod(0o644)
    return weights.digest(path)


def curve(run: Path) -> list[Mapping[str, float]]:
    """What the Runner logged, in the order of steps; of steps done twice (after a kill) the later."""
    rows: dict[tuple[int, bool], Mapping[str, float]] = {}
    for path in sorted(run.glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            rows[int(row["step"]), "loss" in row] = row
    return [rows[key] for key in sorted(rows)]


def override(config: Any, key: str, value: object) -> None:
    """Set one value of a config. key: `train_cfg.max_epochs`, say. Raises TrainingError where there is no such key."""
    *tables, last = key.split(".")
    node = config
    for table in tables:
        node = node.get(table) if isinstance(node, Mapping) or node is config else None
    if node is None or last not in node:
        raise TrainingError(f"{key}: the config has no such key")
    node[last] = value
