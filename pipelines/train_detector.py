"""`humansd models train`: which config trains which detector, and on what."""

from __future__ import annotations

import contextlib
import os
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from detectors.weights import CHECKPOINTS
from pipelines.config import UserError

MINI: Final = "mini-mm"
FAMILIES: Final = ("rtmdet", "rtmpose", "hrnet")
"""Families whose configs train as they are: YOLOX's wrap their dataset, ViTPose's name parts that are not installed."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Weights that a training wrote."""

    name: str
    path: str
    bytes: int
    sha256: str


def train_detector(
    name: str, run: Path, root: Path | None, weights: Path | None, overrides: Sequence[str]
) -> list[Trained]:
    """Train a detector, or go on where its run folder stopped; return what was written.

    root: the user's copy of Human-Art. weights: a checkpoint to start from. overrides: `key=value` of the config.
    Raises UserError and the detectors' own errors, in one line, before anything is computed.
    """
    if name not in (known := (MINI, *recipes())):
        raise UserError(f"no recipe for {name!r}; those that can be trained: {', '.join(known)}")
    if name == MINI and (root is not None or weights is not None):
        raise UserError(f"{MINI} learns from figures drawn here: leave --root and --weights out")
    if name != MINI and root is None:
        raise UserError(f"{name} is trained on your own copy of Human-Art: give its folder as --root DIR")
    given = [parse(override) for override in overrides]
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    with contextlib.redirect_stdout(sys.stderr):  # where mmengine logs and pycocotools prints
        return list(_train(name, run, root, weights, given))


def recipes() -> dict[str, str]:
    """The detectors trained on Human-Art that can be trained again: name → config."""
    return {one.name: one.config for one in CHECKPOINTS if one.config is not None and one.name.startswith(FAMILIES)}


def _train(
    name: str, run: Path, root: Path | None, weights: Path | None, overrides: list[tuple[str, object]]
) -> Iterator[Trained]:
    if root is None:
        from pipelines.mini.train.mm import train_mini_mm

        for path, sha256 in train_mini_mm(run, overrides):
            yield Trained(path.stem.replace("_", "-"), str(path), path.stat().st_size, sha256)
        return
    from detectors import mm, train

    found = train.find_set(root)
    config = mm.read_config(recipes()[name])
    for key, value in overrides:
        train.override(config, key, value)
    path = run / f"{name.replace('-', '_')}.safetensors"
    sha256 = train.export(train.train(config, found, run, weights), path)
    yield Trained(name, str(path), path.stat().st_size, sha256)


def parse(override: str) -> tuple[str, object]:
    """`key=value` with a TOML value; what is none is taken as a word."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: must look like key=value, for example --set train_cfg.max_epochs=100")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text.strip()
