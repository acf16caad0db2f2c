"""A tiny training on the CPU, here or in a process of its own: `python -m tests.pipelines.train.tiny RUN STEPS …`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.checkpoint import resolve
from pipelines.config import load_config
from pipelines.train.config import TrainConfig
from pipelines.train.listing import from_json
from pipelines.train.loop import Place, Task, train

SETTINGS = (
    "batch_size=4",
    "compute.dtype=float32",
    "loss.heat=keypoints",
    "loss.weight=1.0",
    "optimizer.schedule=constant",
    "optimizer.warmup_steps=0",
    "data.augment=true",
    "output.log_every=1",
    "output.checkpoint_every=2",
    "output.grid_every=0",
    "output.grid_samples=0",
)


def config_of(steps: int, overrides: Sequence[str] = ()) -> TrainConfig:
    return load_config(TrainConfig, "mini", [f"steps={steps}", *SETTINGS, *overrides], folder="train")


def task(run: Path, steps: int, overrides: Sequence[str] = ()) -> Task:
    """A training of the samples that `run`/../listing.json lists."""
    config = config_of(steps, overrides)
    listed = from_json((run.parent / "listing.json").read_text(encoding="utf-8"))
    run.mkdir(exist_ok=True)
    return Task(config, resolve(config.model), listed, str(run))


def train_one_of_two(rank: int, run: str, steps: int, rendezvous: str) -> None:
    """One of two workers that talk over the loopback interface."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    try:
        train(task(Path(run), steps), Place(rank, 2))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    train(task(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])), Place())
