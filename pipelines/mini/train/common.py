"""What the miniature trainings share: one-thread processes that average gradients, a loss log, resumable state."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from torch.multiprocessing.spawn import spawn

RESULTS = Path(__file__).resolve().parent.parent / "results"


def parser(description: str, samples: int, batch: int, rate: float) -> argparse.ArgumentParser:
    """The options every training has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--run", type=Path, required=True, help="folder for the state; the same folder continues")
    options.add_argument("--samples", type=int, default=samples, help="samples to train on, over all processes")
    options.add_argument("--batch", type=int, default=batch, help="batch size, over all processes")
    options.add_argument("--rate", type=float, default=rate, help="peak learning rate (cosine to a twentieth)")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--start", type=Path, help="shipped safetensors to start from (optimizer anew)")
    options.add_argument("--seen", type=int, default=0, help="samples behind --start, for the loss curve")
    options.add_argument("--processes", type=int, default=1, help="data-parallel processes of one thread each")
    options.add_argument("--minutes", type=float, default=1e9, help="stop, with the state saved, after so long")
    return options


def launch(main: Callable[[int, argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run `main(rank, args)` in as many processes as asked, joined by gloo on the loopback interface."""
    if args.processes == 1:
        torch.set_num_threads(1)
        main(0, args)
        return
    args.rendezvous = str((args.run / f"rendezvous-{os.getpid()}").absolute())
    spawn(_start, args=(main, args), nprocs=args.processes)


def _start(rank: int, main: Callable[[int, argparse.Namespace], None], args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{args.rendezvous}", rank=rank, world_size=args.processes)
    try:
        main(rank, args)
    finally:
        dist.destroy_process_group()


def start(model: nn.Module, weights: Path | None) -> None:
    """Load shipped weights (any float dtype) into a model that no state continues; None leaves it as it is.

    Raises RuntimeError where the weights are another model's.
    """
    if weights is None:
        return
    found = {name: value.float() for name, value in load_file(weights).items()}
    counters = {name: value for name, value in model.state_dict().items() if not value.is_floating_point()}
    model.load_state_dict({**counters, **found})


def average_gradients(parameters: Iterable[nn.Parameter], processes: int) -> None:
    """Replace every gradient by its mean over the processes (one message)."""
    if processes == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= processes
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()


def cosine(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Learning rate of a step: linear warm-up, then a cosine down to a twentieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (0.05 + 0.95 * 0.5 * (1 + float(torch.cos(torch.tensor(share * torch.pi)))))


@dataclass
class Average:
    """Exponential moving average of parameters, kept in float32."""

    model: nn.Module
    decay: float

    def __post_init__(self) -> None:
        self.shadow = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def update(self, step: int) -> None:
        """Fold the current parameters in; early steps count more."""
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.dtype.is_floating_point:
                    self.shadow[name].lerp_(value, 1 - decay)
                else:
                    self.shadow[name].copy_(value)


class Log:
    """Appends one line an interval to a TSV under the run folder: samples, seconds, and the named means since."""

    def __init__(self, path: Path, every: int = 50) -> None:
        self.path, self.every = path, every
        self.sums: dict[str, float] = {}
        self.count = 0
        self.start = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, step: int, samples: int, **values: float) -> None:
        """Collect one step's values; write when the interval is full."""
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if (step + 1) % self.every:
            return
        if not self.path.exists():
            self.path.write_text("\t".join(["samples", "seconds", *self.sums]) + "\n")
        row = [str(samples), f"{time.monotonic() - self.start:.0f}"]
        row += [f"{total / self.count:.5f}" for total in self.sums.values()]
        with self.path.open("a") as handle:
            handle.write("\t".join(row) + "\n")
        self.sums, self.count = {}, 0


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """Read a training state of this project (weights-only), or None where there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
