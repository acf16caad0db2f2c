"""What a training config holds: its tables and their keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from pipelines.checkpoint import ModelConfig
from pipelines.config import key

LEFT_OUT: Final = "left_out.txt"
"""Below RUN: samples and shards that could not be read, and why, one a line."""


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The `[loss]` table: the weight `W = 1 + weight * H` of each squared error, H in [0, 1]."""

    heat: Literal["detector", "keypoints", "none"] = key(
        "detector", "identity", "where H comes from: a detector on the decoded noise error, the stored poses, nowhere"
    )
    weight: float = key(0.1, "identity", "w_g of the paper: how much more an error on a person counts")
    threshold: float = key(0.05, "identity", "heat (0-1) below which H is 0")
    sigma: float = key(1.0, "identity", "of the Gaussians of 'keypoints', in cells of the latent")
    detector: str = key("mini-pose", "identity", "the detector of 'detector': one with dense heatmaps")
    text_dropout: float = key(0.1, "identity", "share of samples (0-1) whose text is left out, for guidance")

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError("loss.weight must not be negative: a person never counts less than the ground")
        if not 0 <= self.text_dropout <= 1:
            raise ValueError("loss.text_dropout is a share: 0 to 1")
        if self.sigma <= 0:
            raise ValueError("loss.sigma must be more than 0")


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """The `[optimizer]` table: AdamW, its learning rate, and the averaged weights."""

    learning_rate: float = key(5e-6, "identity", "peak learning rate")
    schedule: Literal["constant", "cosine"] = key(
        "constant", "identity", "of the learning rate after the warm-up; 'cosine' ends at a twentieth"
    )
    warmup_steps: int = key(0, "identity", "steps over which the learning rate rises from 0")
    beta2: float = key(0.999, "identity", "decay of AdamW's second moment")
    weight_decay: float = key(0.01, "identity", "of AdamW")
    max_grad_norm: float = key(1.0, "identity", "gradients of a larger norm are scaled down to it")
    eight_bit: bool = key(False, "identity", "keep AdamW's state in 8 bits: needs bitsandbytes and CUDA")
    ema_decay: float = key(0.0, "identity", "decay of the averaged weights that are saved; 0 saves the last ones")

    def __post_init__(self) -> None:
        if not 0 <= self.ema_decay < 1:
            raise ValueError("optimizer.ema_decay must be at least 0 and less than 1")
        if self.learning_rate <= 0 or self.max_grad_norm <= 0:
            raise ValueError("optimizer.learning_rate and optimizer.max_grad_norm must be more than 0")


@dataclass(frozen=True, slots=True)
class DataConfig:
    """The `[data]` table: how samples are read. `--data` says from where."""

    size: int = key(512, "identity", "pixels of the square pictures that are trained on")
    augment: bool = key(True, "identity", "flip, rotate, crop and jitter pictures, poses along with them")
    max_people: int = key(10, "identity", "people of a sample that are drawn, the largest first")
    cached: bool = key(False, "identity", "read latents and text states that `humansd train cache` has stored")
    poses: str | None = key(None, "identity", "columns that annotate added, to train on these poses in place of OUT's")
    loaders: int = key(2, "runtime", "processes a worker reads and draws with; 0 reads in the worker itself")
    on_error: Literal["skip", "raise"] = key(
        "skip", "runtime", "samples and shards that cannot be read: other samples take their place, or training ends"
    )

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 8:
            raise ValueError("data.size must be a multiple of 8")
        if self.max_people < 1 or self.loaders < 0:
            raise ValueError("data.max_people must be at least 1 and data.loaders at least 0")


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """The `[compute]` table: what the training runs on, and how."""

    workers: int = key(1, "runtime", "data-parallel workers: one a GPU, or a few CPU cores")
    gpus_per_worker: float = key(1.0, "runtime", "0 trains on the CPU")
    cpus_per_worker: float = key(4.0, "runtime", "CPU cores that Ray reserves for each worker")
    threads: int = key(1, "runtime", "CPU threads each worker computes with; other numbers change the last bits")
    dtype: Literal["float32", "bfloat16"] = key("bfloat16", "identity", "of products; weights and sums stay float32")
    accumulation: int = key(1, "runtime", "parts that a worker's share of a batch is worked off in: saves memory")
    gradient_checkpointing: bool = key(False, "runtime", "compute activations twice: saves memory, costs time")
    compile: bool = key(False, "runtime", "torch.compile the UNet: minutes at start, faster afterwards")
    max_failures: int = key(0, "runtime", "lost workers after which Ray starts them again from the last checkpoint")

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"compute.{name} must be at least 1")


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """The `[output]` table: what is written below RUN, and how often."""

    log_every: int = key(50, "runtime", "steps that one point of the curves is the mean of")
    checkpoint_every: int = key(1000, "runtime", "steps between checkpoints")
    keep_checkpoints: int = key(2, "runtime", "newest checkpoints that are kept")
    grid_every: int = key(1000, "runtime", "steps between grids of samples; 0 draws one at the end only")
    grid_samples: int = key(4, "runtime", "poses and captions in a grid, the first ones of the data")
    grid_guidance: float = key(7.5, "runtime", "classifier-free guidance scale of the grids")

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"output.{name} must be at least 1")
        if self.grid_every < 0 or self.grid_samples < 0:
            raise ValueError("output.grid_every and output.grid_samples must not be negative")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A training: `humansd train --config C --data OUT… --out RUN`."""

    steps: int = key(1000, "extendable", "optimizer steps; may grow later where the schedule is constant")
    seed: int = key(0, "identity", "order of the samples, noise and dropout follow from it")
    batch_size: int = key(64, "identity", "samples a step, over all workers")
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError("steps and batch_size must be at least 1")
        if self.batch_size % (self.compute.workers * self.compute.accumulation):
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of compute.workers x compute.accumulation "
                f"({self.compute.workers} x {self.compute.accumulation})"
            )
