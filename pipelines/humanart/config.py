"""The config of an import; `configs/humanart.toml` explains each key where it is set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from pipelines.config import key

SHARD_BYTES: Final = 2**31 - 1
"""What the images of a shard may hold together: Arrow counts the bytes of a column of images in 32 bits."""


@dataclass(frozen=True, slots=True)
class ImportGates:
    """The `[gates]` table."""

    min_people: int = key(1, "identity", "people with an annotated keypoint that an image must show; 0 keeps all")


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """The `[limits]` table: what is taken of files that may hold anything."""

    max_file_bytes: int = key(500_000_000, "identity", "a larger file is not opened")
    max_pixels: int = key(80_000_000, "identity", "an image with more pixels is not decoded")
    max_bytes: int = key(20_000_000, "identity", "a larger file is encoded anew; one that stays larger is rejected")


@dataclass(frozen=True, slots=True)
class ImportOutput:
    """The `[output]` table: of images that cannot be kept as the files they are."""

    format: Literal["png", "jpeg", "webp"] = key("jpeg", "identity", "how they are stored")
    quality: int = key(95, "identity", "1-100; nothing for png")


@dataclass(frozen=True, slots=True)
class ImportConfig:
    """Everything that decides an imported dataset besides the set itself, and how it is run."""

    n: int | None = key(None, "extendable", "only so many images, those of the lowest ids; may grow; none: all")
    shard_size: int = key(100, "identity", "images a shard: the unit of work, retry and resume")
    workers: int = key(2, "runtime", "processes that read and check images")
    cpus_per_worker: float = key(1.0, "runtime", "CPU cores that Ray reserves for a worker")
    hang_minutes: float = key(
        10.0, "runtime", "a shard that takes longer, and 5 times the median, is stopped and redone"
    )
    keep_rejected: bool = key(True, "runtime", "keep rejected images too, as far as they can be decoded")
    gates: ImportGates = field(default_factory=ImportGates)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    output: ImportOutput = field(default_factory=ImportOutput)

    def __post_init__(self) -> None:
        for name in ("n", "shard_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 1 <= self.output.quality <= 100:
            raise ValueError("output.quality must be 1-100")
        if self.shard_size * self.limits.max_bytes > SHARD_BYTES:
            raise ValueError("shard_size x limits.max_bytes must be below 2^31 bytes: make one of them smaller")


def prefix_of(source: str, identity_hash: str) -> str:
    """Return what the keys of an imported set begin with; the record's name follows."""
    return "humanart-" if source == "human-art" else f"coco-{identity_hash[:8]}-"
