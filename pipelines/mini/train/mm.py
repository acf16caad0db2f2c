"""Train `mini-mm` on drawn figures: `humansd models train mini-mm --run DIR`.

Draws an annotated set into DIR/drawn, trains mmdet's RTMDet and mmpose's RTMPose on it (`detectors/train.py`), each in
its own folder, and writes DIR/mini_mm_person.safetensors and DIR/mini_mm_pose.safetensors (averaged weights, float16),
with the losses in DIR/mm_person_curve.tsv and DIR/mm_pose_curve.tsv. To ship them copy the weights beside
detectors/mm.py and the losses to pipelines/mini/results/.

`python -m pipelines.mini.train mm --run DIR --only pose` trains one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from detectors.mm import read_config
from detectors.train import curve, export, find_set, override, train
from pipelines.mini.train.mm_data import write_set

PARTS: Final = ("person", "pose")
SEED: Final = 31
"""Of the drawn set; no measurement draws with it."""
TRAINING: Final = 20_000
VALIDATION: Final = 400


def main(argv: list[str]) -> None:
    """Entry of `python -m pipelines.mini.train mm`."""
    options = argparse.ArgumentParser(description="Train mini-mm on drawn figures.")
    options.add_argument("--run", type=Path, required=True, help="folder for set and state; the same folder continues")
    options.add_argument("--only", choices=PARTS, help="one of the two, say beside the other (after one drew the set)")
    args = options.parse_args(argv)
    for path, sha256 in train_mini_mm(args.run, parts=[args.only] if args.only else PARTS):
        print(path, sha256)


def train_mini_mm(
    run: Path,
    overrides: Iterable[tuple[str, object]] = (),
    parts: Sequence[str] = PARTS,
    training: int = TRAINING,
    validation: int = VALIDATION,
) -> list[tuple[Path, str]]:
    """Draw what is missing of the set, train what is missing of the training; return weights and their SHA-256.

    overrides: (key, value) of both mmengine configs. training, validation: pictures to draw of each.
    """
    torch.set_num_threads(1)
    write_set(run / "drawn", SEED, training, validation)
    done = []
    for part in parts:
        config = read_config(f"detectors::mini_mm_{part}.py")
        for key, value in overrides:
            override(config, key, value)
        checkpoint = train(config, find_set(run / "drawn"), run / part)
        path = run / f"mini_mm_{part}.safetensors"
        done.append((path, export(checkpoint, path, half=True)))
        write_curve(curve(run / part), config.train_dataloader.batch_size, run / f"mm_{part}_curve.tsv")
    return done


def write_curve(rows: Sequence[Mapping[str, Any]], batch: int, path: Path) -> None:
    """Write the losses (means over the last steps) that a training logged, one line an interval."""
    rows = [row for row in rows if "loss" in row]
    names = [name for name in (rows[0] if rows else ()) if name.startswith(("loss_", "acc_"))]
    lines = ["\t".join(["samples", *names])]
    lines += ["\t".join([str(row["step"] * batch), *(f"{row[name]:.5f}" for name in names)]) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
