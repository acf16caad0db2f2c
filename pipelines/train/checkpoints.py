"""Checkpoints of a training: a folder a step, there whole or not at all.

    RUN/checkpoints/00001000/unet.safetensors    the trained weights
                             ema.safetensors     the averaged ones, where they are kept
                             optimizer.pt        AdamW's state, read back weights-only
                             state.json          written first: the step, and what the optimizer is

The next batch, its noise and its dropout follow from the step, so nothing else is needed to go on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.store import sync

FOLDER: Final = "checkpoints"
_TEMPORARY: Final = ".tmp"


@dataclass
class State:
    """All that a training needs to go on after `step` steps. Tensors are on the CPU.

    unet: by name. ema: the same names, averaged; None where no average is kept. ema_steps: updates of it.
    optimizer: its `state_dict`. optimizer_name: the class that this state belongs to.
    """

    step: int
    unet: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    optimizer_name: str
    ema: Mapping[str, Tensor] | None = None
    ema_steps: int = 0


def steps(run: Path) -> list[int]:
    """Steps of the checkpoints of a run, ascending."""
    folder = run / FOLDER
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else []


def save(run: Path, state: State, keep: int) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`. Returns its folder.

    A checkpoint of the same step is replaced: it can only come from the same training.
    """
    final = run / FOLDER / f"{state.step:08d}"
    temporary = final.with_name(f".{final.name}.{os.getpid()}{_TEMPORARY}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    about = {"step": state.step, "optimizer": state.optimizer_name, "ema_steps": state.ema_steps}
    (temporary / "state.json").write_text(json.dumps(about), encoding="utf-8")
    save_file(_contiguous(state.unet), temporary / "unet.safetensors")
    if state.ema is not None:
        save_file(_contiguous(state.ema), temporary / "ema.safetensors")
    torch.save(dict(state.optimizer), temporary / "optimizer.pt")
    replace_folder(temporary, final)
    for step in steps(run)[:-keep]:
        shutil.rmtree(run / FOLDER / f"{step:08d}")
    return final


def load_newest(run: Path) -> State | None:
    """The newest checkpoint of a run; None where there is none."""
    found = steps(run)
    if not found:
        return None
    folder = run / FOLDER / f"{found[-1]:08d}"
    about = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    ema = folder / "ema.safetensors"
    return State(
        step=about["step"],
        unet=load_file(folder / "unet.safetensors"),
        optimizer=torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True),
        optimizer_name=about["optimizer"],
        ema=load_file(ema) if ema.is_file() else None,
        ema_steps=about["ema_steps"],
    )


def clean(run: Path) -> None:
    """Remove what writers that were killed have left half done."""
    for folder in (run, run / FOLDER):
        for path in folder.glob(f".*{_TEMPORARY}"):
            shutil.rmtree(path, ignore_errors=True)


def replace_folder(temporary: Path, final: Path) -> None:
    """Give a complete folder its final name, durably; what bore that name before goes."""
    for path in sorted(temporary.rglob("*")):
        sync(path)
    sync(temporary)
    if final.exists():
        aside = temporary.with_name(f"{temporary.name.removesuffix(_TEMPORARY)}.old{_TEMPORARY}")
        final.rename(aside)
        temporary.rename(final)
        shutil.rmtree(aside)
    else:
        temporary.rename(final)
    sync(final.parent)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
