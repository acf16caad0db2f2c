"""The training of one worker. It knows its rank and how many there are, and nothing of Ray.

Batches, noise, time steps and dropout follow from (seed, step, place in the batch), so a run that was killed goes on
from its last checkpoint with the same batches, and any number of workers trains on the same ones. On a CPU in float32,
with as many workers and threads, the weights come out the same to the bit.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from pipelines.checkpoint import Checkpoint
from pipelines.config import UserError
from pipelines.train import checkpoints
from pipelines.train.augment import Augment
from pipelines.train.cache import columns_name
from pipelines.train.config import LEFT_OUT, OptimizerConfig, TrainConfig
from pipelines.train.curves import Curves, Point
from pipelines.train.data import PoseShards, RowError
from pipelines.train.listing import Part
from pipelines.train.model import load_parts
from pipelines.train.objective import Objective, draw, load_heatmaps
from pipelines.train.output import Grids, grid_path, save_model

MOST_SKIPPED: Final = 10
"""Steps in a row whose gradient is not finite, after which a training gives up."""
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Task:
    """A training, as every worker gets it. data: what is read, as it was listed at first. out: the run's folder."""

    config: TrainConfig
    base: Checkpoint
    data: tuple[Part, ...]
    out: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker stands among all: its rank, how many there are, its torch device."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"


def train(task: Task, place: Place) -> None:
    """Train from the last checkpoint to the end; the first worker saves checkpoints, curves, grids and the model."""
    torch.set_num_threads(task.config.compute.threads)
    torch.manual_seed(task.config.seed)
    training = Training(task, place)
    with contextlib.ExitStack() as stack:
        run = Path(task.out)
        curves = stack.enter_context(Curves(run, training.step)) if place.rank == 0 else None
        training.run(curves)


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Of a step, counted from 0: a linear warm-up, then constant, or a cosine down to a twentieth of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    share = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def make_optimizer(parameters: Any, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW in one pass over all weights; its state in 8 bits where asked for and bitsandbytes and CUDA are there."""
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (0.9, config.beta2),
        "weight_decay": config.weight_decay,
    }
    if config.eight_bit and device.type == "cuda":
        with contextlib.suppress(ImportError):
            import bitsandbytes  # type: ignore[import-not-found]

            optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(parameters, **options)
            return optimizer
    return torch.optim.AdamW(parameters, fused=True, **options)


@dataclass
class _Meter:
    """Sums since the last point of the curves."""

    losses: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    skipped: int = 0
    waited: float = 0.0
    began: float = field(default_factory=time.monotonic)


class Training:
    """What one worker holds while it trains; `step` counts the steps that are done."""

    def __init__(self, task: Task, place: Place) -> None:
        config = task.config
        self.task, self.place, self.config = task, place, config
        self.run_folder = Path(task.out)
        self.device = torch.device(place.device)
        dtype = DTYPES[config.compute.dtype]
        self.parts = load_parts(task.base.folder())
        self.parts.to(self.device, dtype if self.device.type == "cuda" else torch.float32)
        heat = config.loss.heat == "detector" and config.loss.weight > 0
        heatmaps = load_heatmaps(config.loss.detector, place.device) if heat else None
        self.objective = Objective(self.parts, config.loss, self.device, dtype, heatmaps)
        unet = self.parts.unet
        unet.train()
        if config.compute.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self.optimizer = make_optimizer(unet.parameters(), config.optimizer, self.device)
        self.ema = None
        if config.optimizer.ema_decay and place.rank == 0:  # the only one that saves it
            self.ema = EMAModel(unet.parameters(), decay=config.optimizer.ema_decay, foreach=True)
        self.step = 0
        self._restore()
        self.model: Any = torch.compile(unet) if config.compute.compile else unet
        if place.world_size > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            self.model = DistributedDataParallel(self.model, device_ids=devices)
        self._skipped_in_a_row = 0

    def run(self, curves: Curves | None) -> None:
        """Train to the end. curves: where the first worker writes; None on the others."""
        config, meter = self.config, _Meter()
        grids = None if curves is None else Grids(config, self.task.data, self.parts, self.run_folder)
        batches = self._batches()
        while self.step < config.steps:
            asked = time.monotonic()
            try:
                batch = next(batches, None)
            except RowError as error:  # a loader process wraps it in its traceback
                why = str(error).strip().rpartition("\n")[2].partition("RowError: ")
                raise UserError(f"{why[2] or why[0]}; data.on_error=skip takes other samples in its place") from None
            if batch is None:
                raise UserError(f"the data ended after {self.step} of {config.steps} steps")
            meter.waited += time.monotonic() - asked
            self._train_step(batch, meter)
            last = self.step == config.steps
            if self.step % config.output.log_every == 0 or last:
                meter = self._log(meter, curves)
            if curves is None or grids is None:
                continue
            trained = time.monotonic()
            if self.step % config.output.checkpoint_every == 0 or last:
                checkpoints.save(self.run_folder, self._state(), config.output.keep_checkpoints)
            if config.output.grid_every and self.step % config.output.grid_every == 0 and not last:
                with self._averaged():
                    grids.draw(self.step, curves)
            meter.began += time.monotonic() - trained  # neither training nor waiting for data
        if curves is not None and grids is not None:  # also where a kill came after the last checkpoint
            with self._averaged():
                save_model(self.parts.unet, self.task.base.folder(), self.run_folder)
                if not grid_path(self.run_folder, self.step).exists():
                    grids.draw(self.step, curves)

    def _batches(self) -> Iterator[Mapping[str, Any]]:
        data = self.config.data
        cached = data.cached and columns_name(self.task.base, data.size, data.max_people)
        shards = PoseShards(
            self.task.data,
            data.size,
            self.config.batch_size,
            self.config.seed,
            self.place.rank,
            self.place.world_size,
            self.step,
            Augment() if data.augment else None,
            data.max_people,
            cached,
            data.poses,
            data.on_error,
            problems=self.run_folder / LEFT_OUT,
        )
        share = self.config.batch_size // self.place.world_size
        return iter(DataLoader(shards, share, num_workers=data.loaders, pin_memory=self.device.type == "cuda"))

    def _train_step(self, batch: Mapping[str, Any], meter: _Meter) -> None:
        config, parts = self.config, self.config.compute.accumulation
        share = config.batch_size // self.place.world_size
        part = share // parts
        shape = self.objective.latent_shape(config.data.size)
        times = self.parts.scheduler.config.num_train_timesteps
        self.optimizer.zero_grad(set_to_none=True)
        for number in range(parts):
            first = self.place.rank * share + number * part
            places = range(first, first + part)
            draws = draw(config.seed, self.step, places, config.batch_size, shape, times, config.loss.text_dropout)
            some = {name: values[number * part : (number + 1) * part] for name, values in batch.items()}
            with self._sync(number == parts - 1):
                losses = self.objective(self.model, some, draws)
                (losses.weighted / parts).backward()
            meter.losses.append(torch.stack([losses.plain, losses.weighted.detach()]))
        norm = torch.nn.utils.clip_grad_norm_(self.parts.unet.parameters(), config.optimizer.max_grad_norm)
        self._update(norm, meter)
        self.step += 1

    def _sync(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Workers exchange gradients in the last part of a step only."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _update(self, norm: Tensor, meter: _Meter) -> None:
        """One step of the optimizer, unless the gradient (the same on all workers) is not finite."""
        if not torch.isfinite(norm):
            meter.skipped += 1
            self._skipped_in_a_row += 1
            if self._skipped_in_a_row >= MOST_SKIPPED:
                raise UserError(
                    f"no finite gradient in {MOST_SKIPPED} steps up to step {self.step}: "
                    "take a smaller optimizer.learning_rate, or compute.dtype=float32"
                )
            return
        self._skipped_in_a_row = 0
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config.steps, self.config.optimizer)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.step(self.parts.unet.parameters())
        meter.norms.append(norm.detach())

    def _log(self, meter: _Meter, curves: Curves | None) -> _Meter:
        """Write a point of the curves, its losses averaged over all workers; returns an empty meter."""
        losses = torch.stack(meter.losses).double().mean(0)
        if self.place.world_size > 1:
            dist.all_reduce(losses)
            losses /= self.place.world_size
        if curves is None:
            return _Meter()
        plain, weighted = losses.tolist()
        seconds = time.monotonic() - meter.began
        trained = len(meter.norms) + meter.skipped
        curves.add(
            Point(
                step=self.step,
                loss=plain,
                weighted_loss=weighted,
                grad_norm=float(torch.stack(meter.norms).mean()) if meter.norms else math.nan,
                learning_rate=float(self.optimizer.param_groups[0]["lr"]),
                images_per_second=trained * self.config.batch_size / seconds,
                data_wait=100 * meter.waited / seconds,
                skipped=meter.skipped,
            )
        )
        return _Meter()

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The UNet as it is saved: averaged where an average is kept, and in evaluation mode."""
        unet = self.parts.unet
        if self.ema is not None:
            self.ema.store(unet.parameters())
            self.ema.copy_to(unet.parameters())
        unet.eval()
        try:
            yield
        finally:
            unet.train()
            if self.ema is not None:
                self.ema.restore(unet.parameters())

    def _state(self) -> checkpoints.State:
        ema = None
        if self.ema is not None:
            names = [name for name, _ in self.parts.unet.named_parameters()]
            ema = dict(zip(names, self.ema.shadow_params, strict=True))
        return checkpoints.State(
            step=self.step,
            unet=self.parts.unet.state_dict(),
            optimizer=self.optimizer.state_dict(),
            optimizer_name=type(self.optimizer).__name__,
            ema=ema,
            ema_steps=0 if self.ema is None else self.ema.optimization_step,
        )

    def _restore(self) -> None:
        """Go on from the newest checkpoint, if there is one. Raises UserError where it does not fit."""
        state = checkpoints.load_newest(self.run_folder)
        if state is None:
            return
        own = type(self.optimizer).__name__
        if state.optimizer_name != own:
            raise UserError(f"{self.run_folder}: was trained with {state.optimizer_name}, and here it would be {own}")
        self.parts.unet.load_state_dict(state.unet)
        self.optimizer.load_state_dict(dict(state.optimizer))
        if self.ema is not None and state.ema is not None:
            names = [name for name, _ in self.parts.unet.named_parameters()]
            self.ema.shadow_params = [state.ema[name].to(self.device) for name in names]
            self.ema.optimization_step = state.ema_steps
        self.step = state.step
