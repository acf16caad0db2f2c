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

from pipelines.config import UserError

MINI: Final = "mini-mm"
_RTMPOSE: Final = "mmpose::body_2d_keypoint/rtmpose/humanart"
_HRNET: Final = "mmpose::body_2d_keypoint/topdown_heatmap/humanart"
CONFIGS: Final = {
    **{f"rtmdet-{size}-humanart": f"rtmdet_{size}_humanart.py" for size in ("tiny", "s")},
    **{f"rtmpose-{size}-humanart": f"{_RTMPOSE}/rtmpose-{size}_8xb256-420e_humanart-256x192.py" for size in "tsml"},
    "hrnet-w32-humanart": f"{_HRNET}/td-hm_hrnet-w32_8xb64-210e_humanart-256x192.py",
    "hrnet-w48-humanart": f"{_HRNET}/td-hm_hrnet-w48_8xb32-210e_humanart-256x192.py",
}
"""Detector → its config: of our own, or inside the wheel of mmpose."""


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
    if name != MINI and name not in CONFIGS:
        raise UserError(f"no recipe for {name!r}; those that can be trained: {', '.join([MINI, *CONFIGS])}")
    if name == MINI and (root is not None or weights is not None):
        raise UserError(f"{MINI} learns from figures drawn here: leave --root and --weights out")
    if name != MINI and root is None:
        raise UserError(f"{name} is trained on your own copy of Human-Art: give its folder as --root DIR")
    given = [_parse(override) for override in overrides]
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    with contextlib.redirect_stdout(sys.stderr):  # where mmengine logs and pycocotools prints
        return list(_train(name, run, root, weights, given))


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
    config = mm.read_config(CONFIGS[name] if "::" in CONFIGS[name] else str(mm.CONFIGS / CONFIGS[name]))
    for key, value in overrides:
        train.override(config, key, value)
    path = run / f"{name.replace('-', '_')}.safetensors"
    sha256 = train.export(train.train(config, found, run, weights), path)
    yield Trained(name, str(path), path.stat().st_size, sha256)


def _parse(override: str) -> tuple[str, object]:
    """`key=value` with a TOML value; what is none is taken as a word."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: must look like key=value, for example --set train_cfg.max_epochs=100")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text.strip()
