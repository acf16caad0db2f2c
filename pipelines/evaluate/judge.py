"""What is measured of each image, on the workers, as added columns: people found, CLIP score, features.

Columns are named after the judges, so that another detector adds its own and the images stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pipelines.annotate import Annotation, pose_columns
from pipelines.clip import ClipScorer, resolve_clip
from pipelines.config import UserError, identity_of_values, plain, restore
from pipelines.detector import DetectorConfig, check_detector, detector_digests, load
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.features import FeatureName, absent, load_features
from pipelines.images import decode_image
from pipelines.record import Sample

FN: Final = "pipelines.evaluate.judge:Judge"


@dataclass(frozen=True, slots=True)
class Judges:
    """Who measures: the annotation that does it, and one line for each figure that cannot be had here."""

    annotation: Annotation
    features: FeatureName | None
    absent: tuple[str, ...]


def find_judges(config: EvaluateConfig) -> Judges:
    """Look for the detector, CLIP and features that a config names. Raises UserError where the detector is not here."""
    missing: list[str] = []
    check_detector(config.detector)
    clip, features = config.judge.clip_model, config.judge.features
    if clip is not None:
        try:
            resolve_clip(clip)
        except UserError as error:
            missing.append(f"CLIPSIM needs a CLIP: {str(error).replace('score.clip_model', 'judge.clip_model')}")
            clip = None
    if features is not None and (why := absent(features, config.judge.inception)):
        missing.append(why)
        features = None
    inception = config.judge.inception if features and features != "mini-clip" else None
    arguments: dict[str, Any] = {
        "detector": plain(config.detector),
        "clip": clip or "",
        "features": features or "",
        "inception": "" if inception is None else str(inception.resolve()),
    }
    digest = identity_of_values({**arguments, **Judge.pinned(**arguments)})
    annotation = Annotation(FN, f"judged-{digest[:8]}", arguments, config.judge.batch_size, config.sampler.threads)
    return Judges(annotation, features, tuple(missing))


class Judge:
    """Measures images: `people`, `num_people`, `min_keypoint_score`, and `clip_score` and `features` where asked.

    detector: a `[detector]` table. clip: as `pipelines.clip.resolve_clip` takes it; features: a `FeatureName`;
    inception: the file of its weights. Empty ones are not measured. Runs on a GPU where the worker has one.
    """

    def __init__(self, detector: Mapping[str, Any], clip: str, features: FeatureName, inception: str) -> None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        config = restore(DetectorConfig, detector, "detector")
        self._detector, self._min_score = load(config, device), config.min_score
        self._clip = ClipScorer(resolve_clip(clip).folder(), device) if clip else None
        self._features = load_features(features, Path(inception), device) if features else None

    @classmethod
    def pinned(cls, detector: Mapping[str, Any], clip: str, features: str, inception: str) -> dict[str, str]:
        """The checksums of all weights."""
        found = detector_digests(restore(DetectorConfig, detector, "detector"))
        if clip:
            found["clip"] = resolve_clip(clip).pinned
        if inception:
            with Path(inception).open("rb") as file:
                found["inception"] = hashlib.file_digest(file, "sha256").hexdigest()
        return found

    def __call__(self, rows: list[Sample]) -> pa.Table:
        """Measure each row's image."""
        images = [decode_image(row.image or b"") for row in rows]
        table = pose_columns(rows, self._detector.detect(images), self._min_score)
        if self._clip is not None:
            scores = self._clip.score(images, [row.caption for row in rows])
            table = table.append_column("clip_score", pa.array(scores, pa.float32()))
        if self._features is not None:
            features = list(self._features(images))
            table = table.append_column("features", pa.array(features, pa.list_(pa.float32())))
        return table
