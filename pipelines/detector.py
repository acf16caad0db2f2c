"""The `[detector]` table of a config: which detector, pinned by content, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import UserError, key

if TYPE_CHECKING:
    from detectors.types import Detector
    from detectors.weights import ModelFiles


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """The `[detector]` table. What the files say is identity by their digests, wherever they lie."""

    name: str = key("mini-pose", "identity", "the pose detector, such as rtmdet-s+rtmpose-m (humansd models list)")
    batch_size: int = key(8, "identity", "images, and people, a batch; batches are always full")
    min_score: float = key(0.0, "identity", "people found with less confidence (0-1) are left out altogether")
    min_box_score: float = key(0.3, "identity", "a person detector's boxes must be more certain (0-1)")
    flip_test: bool = key(False, "identity", "look at mirrored pictures too and average: better, twice the work")
    person_config: Path | None = key(None, "runtime", "your own mmdet config, for custom+POSE")  # noqa: RUF009
    person_checkpoint: Path | None = key(None, "runtime", "its weights")  # noqa: RUF009
    pose_config: Path | None = key(None, "runtime", "your own mmpose config, for PERSON+custom")  # noqa: RUF009
    pose_checkpoint: Path | None = key(None, "runtime", "its weights")  # noqa: RUF009

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError("detector.batch_size must be at least 1")
        for task in ("person", "pose"):
            if (getattr(self, f"{task}_config") is None) != (getattr(self, f"{task}_checkpoint") is None):
                raise ValueError(f"detector.{task}_config and detector.{task}_checkpoint go together")

    def files(self) -> dict[str, ModelFiles | None]:
        """Return the user's own networks as `load_detector` takes them."""
        from detectors.weights import ModelFiles

        own: dict[str, ModelFiles | None] = {"person": None, "pose": None}
        if self.person_config is not None and self.person_checkpoint is not None:
            own["person"] = ModelFiles(str(self.person_config), self.person_checkpoint)
        if self.pose_config is not None and self.pose_checkpoint is not None:
            own["pose"] = ModelFiles(str(self.pose_config), self.pose_checkpoint)
        return own


def check_detector(config: DetectorConfig) -> None:
    """Raise UserError unless the name is a detector's; whether its files are here is not looked at."""
    from detectors import names

    try:
        names.check(config.name, **config.files())
    except ValueError as error:
        raise UserError(f"detector.name={config.name}: {error}") from error


def drawn_only(name: str) -> str | None:
    """What a user should know who shows photographs or art to a detector; None where it is trained on them."""
    if not name.startswith("mini-"):
        return None
    return f"{name} knows drawn figures only; for photographs and art take rtmdet-s+rtmpose-m (humansd models fetch)"


def detector_digests(config: DetectorConfig) -> dict[str, str]:
    """Return what decides what a detector finds, `detector.…` → SHA-256: its checkpoints and what its configs say.

    Raises UserError that says what to do where a file is not here or is not what it should be.
    """
    from detectors import names

    try:
        return {f"detector.{name}": digest for name, digest in names.digests(config.name, **config.files()).items()}
    except ValueError as error:
        raise UserError(f"detector: {error}") from error


def load(config: DetectorConfig, device: str) -> Detector:
    """Load a detector on a torch device. Raises UserError where it cannot be had on this machine."""
    from detectors import load_detector

    try:
        return load_detector(
            config.name,
            device,
            config.batch_size,
            flip_test=config.flip_test,
            min_box_score=config.min_box_score,
            **config.files(),
        )
    except ValueError as error:
        raise UserError(f"detector: {error}") from error


def load_pinned(config: DetectorConfig, device: str, named: Mapping[str, str]) -> Detector:
    """Load a detector whose files must be those that the driver saw.

    named: `detector_digests` there, other names beside them are not looked at. Raises UserError.
    """
    if any(named.get(name) != digest for name, digest in detector_digests(config).items()):
        raise UserError("this worker's detector files are not the driver's: copy the same ones to every node")
    return load(config, device)
