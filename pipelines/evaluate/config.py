"""The config of an evaluation of models; `configs/evaluate/mini.toml` and its neighbours explain each key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipelines.checkpoint import MINI, SamplerConfig
from pipelines.config import key
from pipelines.detector import DetectorConfig
from pipelines.evaluate.features import FeatureName
from pipelines.evaluate.generators import Skeleton


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """The `[judge]` table: what measures images besides the detector."""

    clip_model: str | None = key(MINI, "runtime", "CLIP of CLIPSIM: 'mini' or a transformers folder; none: no CLIPSIM")
    features: FeatureName | None = key(  # noqa: RUF009
        "mini-clip", "runtime", "what FID and KID compare: inception-2048 is the usual FID; none: neither"
    )
    inception: Path | None = key(None, "runtime", "Inception's weights, for inception-2048 and -64")  # noqa: RUF009
    batch_size: int = key(32, "runtime", "images that are measured at a time")


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """What is drawn from each model, and what measures it. Identity keys decide the images."""

    limit: int | None = key(None, "runtime", "samples to measure, spread evenly over the data; none: all of it")
    seed: int = key(42, "identity", "the noise of sample i follows from it and i, the same for every model")
    negative: str | None = key(None, "identity", "negative prompt; none: the sample's own where it has one")
    base: str = key(MINI, "runtime", "the checkpoint that ControlNets and T2I-Adapters work on: 'mini', hub id, folder")
    skeleton: Skeleton = key(  # noqa: RUF009
        "humansd", "runtime", "the picture they are given: 'humansd' (as in training here) or 'openpose' (public ones)"
    )
    shard_size: int = key(64, "identity", "samples a shard: the unit of work and resume")
    workers: int = key(1, "runtime", "processes that hold a model: one a GPU, or a CPU core")
    cpus_per_worker: float = key(1.0, "runtime", "CPU cores that Ray reserves for a worker")
    gpus_per_worker: float = key(0.0, "runtime", "GPUs (or a fraction) of a worker; 0 runs on the CPU")
    hang_minutes: float = key(
        10.0, "runtime", "a shard that takes longer, and 5 times the median, is stopped and redone"
    )
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self) -> None:
        for name in ("shard_size", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError("limit must be at least 1, or none")
        if self.judge.batch_size < 1:
            raise ValueError("judge.batch_size must be at least 1")
