"""A tiny training, here or in a process of its own: `python -m tests.pipelines.train.tiny RUN STEPS … DEVICE`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipelines.checkpoint import resolve
from pipelines.config import load_config
from pipelines.train import checkpoints, curves
from pipelines.train.config import TrainConfig
from pipelines.train.listing import from_json
from pipelines.train.loop import Place, Task, train

ROOT = Path(__file__).resolve().parents[3]
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


def start_and_kill(run: Path, steps: int, killed_after: int, device: str = "cpu") -> None:
    """Begin a training in a process of its own, and kill it when its curves have so many points."""
    command = [sys.executable, "-m", "tests.pipelines.train.tiny", str(run), str(steps), json.dumps([]), device]
    process = subprocess.Popen(command, cwd=ROOT)
    while len(curves.read(run)) < killed_after:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (run / "model").exists(), "killed too late to tell"


def results(run: Path, steps: int) -> dict[str, Tensor]:
    """What a run ends with: trained and averaged weights, the optimizer's state, and the model that was saved."""
    state = checkpoints.load_newest(run)
    assert state is not None
    assert state.step == steps
    assert state.ema is not None
    moments = {
        f"{number}.{name}": torch.as_tensor(value)
        for number, one in state.optimizer["state"].items()
        for name, value in one.items()
    }
    saved = load_file(run / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    return {**state.unet, **{f"ema.{name}": value for name, value in state.ema.items()}, **moments, **saved}


if __name__ == "__main__":
    train(task(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])), Place(device=sys.argv[4]))
