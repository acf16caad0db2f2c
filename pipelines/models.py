"""The checkpoints that can be used: diffusion models of the bundled configs, and every detector's weights."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from detectors import weights
from pipelines import checkpoint
from pipelines.card import MODEL_LICENCES
from pipelines.config import UserError, load_config
from pipelines.ghi.config import GhiConfig

DIFFUSION: Final = ("mini", "sd15", "sd21", "sdxl")
"""Bundled configs; each names a diffusion checkpoint."""

SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Model:
    """One checkpoint.

    state: bundled, cached, missing or damaged. source: where it comes from, if not bundled. place: its file in the
    cache, or where that belongs; empty for what the hub's own cache holds. bytes, sha256 (or its first digits), ap
    (0-100, on what `measured` says): None where not published.
    """

    name: str
    kind: str
    state: str
    source: str
    licence: str
    place: str = ""
    bytes: int | None = None
    sha256: str | None = None
    ap: float | None = None
    measured: str = ""


def list_models(*, whole: bool = False) -> list[Model]:
    """Return every known checkpoint and whether it is on this machine.

    whole: read all files and compare checksums, else only look whether they are there.
    """
    return [_diffusion(name, whole) for name in DIFFUSION] + [_detector(one, whole) for one in weights.CHECKPOINTS]


def fetch(name: str) -> Path:
    """Download a checkpoint unless it is on this machine; return where it lies.

    name: as `list_models` has it, or a hub id. Raises UserError or WeightsError where it cannot be had.
    """
    if name not in DIFFUSION and "/" not in name:
        known = [one.name for one in weights.CHECKPOINTS]
        if name not in known:
            raise UserError(f"unknown model {name!r}; known: {', '.join([*DIFFUSION, *known])}, or a hub id owner/name")
        return weights.fetch(name)
    if weights.offline():
        os.environ["HF_HUB_OFFLINE"] = "1"
    return checkpoint.resolve(_config(name)).folder()


def _config(name: str) -> checkpoint.ModelConfig:
    return load_config(GhiConfig, name).model if name in DIFFUSION else checkpoint.ModelConfig(id=name)


def _diffusion(name: str, whole: bool) -> Model:
    config = _config(name)
    if config.id == checkpoint.MINI:
        state = "bundled" if checkpoint.MINI_FOLDER.is_dir() else "missing"
        return Model(name, "diffusion", state, "", "Apache-2.0; trained on figures this project draws")
    return Model(name, "diffusion", _hub_state(config, whole), config.id, MODEL_LICENCES[config.id][1])


def _hub_state(config: checkpoint.ModelConfig, whole: bool) -> str:
    """Return whether a hub model lies in this machine's cache with all its weights; asks nobody.

    whole: read its large files too: the hub's cache names them by their sha256.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(config.id, revision=config.revision, local_files_only=True)
        checkpoint.check_folder(Path(folder))
    except (OSError, ValueError, UserError):
        return "missing"
    blobs = [path.resolve() for path in Path(folder).rglob("*") if whole and path.is_file()]
    sound = all(weights.matches(blob, blob.name) for blob in blobs if SHA256.fullmatch(blob.name))
    return "cached" if sound else "damaged"


def _detector(one: weights.Checkpoint, whole: bool) -> Model:
    if whole:
        state: str = weights.status(one.name)
    elif weights.path_of(one).is_file():
        state = "bundled" if one.bundled else "cached"
    else:
        state = "missing"
    path = weights.path_of(one)
    return Model(
        name=one.name,
        kind=one.task,
        state=state,
        source=one.url or "",
        licence=one.licence,
        place=str(path),
        bytes=path.stat().st_size if one.bytes is None and path.is_file() else one.bytes,
        sha256=one.sha256,
        ap=one.ap,
        measured=one.measured,
    )
