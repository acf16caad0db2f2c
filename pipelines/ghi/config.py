"""The config of a GHI job; `configs/mini.toml` and its neighbours explain each key where it is set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipelines.checkpoint import ModelConfig, SamplerConfig
from pipelines.config import key
from pipelines.detector import DetectorConfig
from pipelines.gates import GatesConfig


@dataclass(frozen=True, slots=True)
class GrammarConfig:
    """The `[grammar]` table. What the files say is identity by its digest, wherever they lie."""

    dir: Path | None = key(None, "runtime", "your own grammar folder, relative to the config file")  # noqa: RUF009
    scenes: str | tuple[str, ...] = key("default", "identity", "'default' (14 artificial), 'natural', 'all' or names")


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """The `[score]` table. What a model says is identity by its digest, wherever it lies."""

    clip_model: str | None = key(
        None, "runtime", "CLIP that scores image and caption: 'mini' or a transformers folder; none: not measured"
    )


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """The `[output]` table."""

    format: Literal["png", "jpeg", "webp"] = key("jpeg", "identity", "how images are stored")
    quality: int = key(95, "identity", "1-100; nothing for png")


@dataclass(frozen=True, slots=True)
class GhiConfig:
    """Everything that decides a GHI dataset, and how it is run."""

    n: int = key(1000, "extendable", "samples to accept; may grow")
    seed: int = key(0, "identity", "prompts and noise follow from it")
    shard_size: int = key(100, "identity", "samples a shard: the unit of work, retry and resume")
    max_attempts: int = key(10, "extendable", "tries at a slot before it is left short; may grow")
    workers: int = key(1, "runtime", "processes that hold the models: one a GPU, or a CPU core")
    cpus_per_worker: float = key(1.0, "runtime", "CPU cores that Ray reserves for a worker")
    gpus_per_worker: float = key(0.0, "runtime", "GPUs (or a fraction) of a worker; 0 runs on the CPU")
    budget_gpu_hours: float | None = key(None, "runtime", "stop cleanly after so many GPU hours (worker hours on CPUs)")
    price_per_gpu_hour: float | None = key(None, "runtime", "for the cost that progress and plan show")
    hang_minutes: float = key(
        10.0, "runtime", "a shard that takes longer, and 5 times the median, is stopped and redone"
    )
    keep_rejected: bool = key(True, "runtime", "keep rejected images too (never unsafe ones)")
    grammar: GrammarConfig = field(default_factory=GrammarConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    gates: GatesConfig = field(default_factory=GatesConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        for name in ("n", "shard_size", "max_attempts", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 1 <= self.output.quality <= 100:
            raise ValueError("output.quality must be 1-100")
        if self.gates.min_clip_score is not None and self.score.clip_model is None:
            raise ValueError("gates.min_clip_score needs a CLIP: set score.clip_model")
