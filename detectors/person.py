"""Where people are: boxes by mmdet's one-stage detectors (RTMDet, YOLOX), batched over images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from detectors.mm import ModelFiles, Normalize, build, pipeline_of, read_config, step_of
from detectors.types import Float32

Image = NDArray[np.uint8]

MIN_SCORE: Final = 0.3
OVERLAP: Final = 0.3
"""Intersection over union above which the weaker of two people is dropped; both values are mmpose's own."""


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """The people of one image, best first. xyxy: float32 (N, 4) left, top, right, bottom px; scores: float32 (N,)."""

    xyxy: Float32
    scores: Float32


@dataclass(frozen=True, slots=True)
class Canvas:
    """How a config brings images to one size: scaled to fit, then padded at the right and bottom.

    limits: (long, short) sides that the scaled image fits into. size: (width, height) of every input. fill: grey of the
    padding. square: pad to a square of the scaled image's longer side only; what lies beyond is `beyond`.
    """

    limits: tuple[int, int]
    size: tuple[int, int]
    fill: float
    square: bool
    beyond: float

    @classmethod
    def of(cls, config: Any) -> Canvas:
        """Read a config's test pipeline. Raises ValueError where it is not Resize(keep_ratio) with or without Pad."""
        pipeline = pipeline_of(config)
        resize, pad = step_of(pipeline, "Resize"), step_of(pipeline, "Pad") or {}
        scale = (resize or {}).get("scale")
        if resize is None or not resize.get("keep_ratio") or not isinstance(scale, tuple):
            raise ValueError(
                f"{config.filename}: a person detector's test pipeline must have Resize(scale, keep_ratio)"
            )
        preprocessor = config.model.data_preprocessor
        value = pad.get("pad_val", 0)
        value = value.get("img", 0) if isinstance(value, dict) else value
        multiple = preprocessor.get("pad_size_divisor", 1)
        sides = pad.get("size") or (max(scale), max(scale))
        return cls(
            limits=(max(scale), min(scale)),
            size=(-(-sides[0] // multiple) * multiple, -(-sides[1] // multiple) * multiple),
            fill=float(np.mean(value)),
            square=bool(pad.get("pad_to_square")),
            beyond=float(np.mean(preprocessor.get("mean") or 0.0)) + preprocessor.get("pad_value", 0),
        )

    def put(self, image: Image, row: Image) -> tuple[float, float]:
        """Draw an image into a row (height, width, 3) of a batch; return the scales of x and y."""
        height, width = image.shape[:2]
        scale = min(self.limits[0] / max(height, width), self.limits[1] / min(height, width))
        new_width, new_height = max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
        if self.square:
            row[...] = round(self.beyond)
            row[: max(new_width, new_height), : max(new_width, new_height)] = round(self.fill)
        else:
            row[...] = round(self.fill)
        row[:new_height, :new_width] = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        return new_width / width, new_height / height


class PersonDetector:
    """Finds people. Every forward has exactly `batch_size` images of one size: no answer depends on its neighbours."""

    def __init__(
        self, files: ModelFiles, device: str = "cpu", batch_size: int = 8, min_score: float = MIN_SCORE
    ) -> None:
        """Build and load. min_score: boxes must be more certain (0-1). Raises ValueError where files do not fit."""
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.min_score = min_score
        config = read_config(files.config)
        self.canvas = Canvas.of(config)
        self.normalize = Normalize(config, self.device)
        self.label = _person_label(config)
        self.net = build(files, "mmdet", self.device)[1]
        _raise_threshold(self.net, min_score)

    def boxes(self, images: list[Image]) -> list[Boxes]:
        """Return the people of each image. images: RGB uint8 (height, width, 3) of any sizes."""
        found: list[Boxes] = []
        for start in range(0, len(images), self.batch_size):
            found.extend(self._boxes(images[start : start + self.batch_size]))
        return found

    @torch.no_grad()
    def _boxes(self, images: list[Image]) -> list[Boxes]:
        from mmdet.structures import DetDataSample

        width, height = self.canvas.size
        pixels = np.zeros((self.batch_size, height, width, 3), np.uint8)
        scales = [(1.0, 1.0)] * self.batch_size
        for row, image in enumerate(images):
            scales[row] = self.canvas.put(image, pixels[row])
        batch = self.normalize(torch.from_numpy(pixels).to(self.device))
        samples = [
            DetDataSample(metainfo={"img_shape": (height, width), "ori_shape": (height, width), "scale_factor": scale})
            for scale in scales
        ]
        results = self.net.predict(batch, samples, rescale=True)
        return [
            self._keep(result.pred_instances, image.shape[:2])
            for result, image in zip(results[: len(images)], images, strict=True)
        ]

    def _keep(self, found: Any, size: tuple[int, ...]) -> Boxes:
        """Keep people that are certain enough, within the image and not found twice."""
        from mmpose.evaluation.functional import nms

        table = torch.cat((found.bboxes, found.scores[:, None]), dim=1)[found.labels == self.label].cpu().numpy()
        table = table[table[:, 4] > self.min_score]
        table = table[np.lexsort((*table[:, 3::-1].T, -table[:, 4]))]
        table = table[np.sort(nms(table, OVERLAP)).astype(int)]
        left, top, right, bottom = table[:, :4].T
        table = table[(left < size[1]) & (top < size[0]) & (right > 0) & (bottom > 0)]
        return Boxes(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32))


def _person_label(config: Any) -> int:
    """Index of people among a detector's classes; COCO's order puts them first."""
    classes = config.get("test_dataloader", {}).get("dataset", {}).get("metainfo", {}).get("classes", ("person",))
    if "person" not in classes:
        raise ValueError(f"{config.filename}: finds {', '.join(classes)}, no person")
    return int(tuple(classes).index("person"))


def _raise_threshold(net: Any, min_score: float) -> None:
    """Drop weak boxes before non-maximum suppression: they never suppress stronger ones, the result is the same."""
    for part in (net, getattr(net, "bbox_head", None)):
        test = getattr(part, "test_cfg", None)
        if test is not None and "score_thr" in test:
            test.score_thr = max(test.score_thr, min_score)


def clip_box(xyxy: Float32, height: int, width: int) -> tuple[float, float, float, float]:
    """Box (x, y, width, height) px of a box (4,) that overlaps an image, cut at its edges."""
    x0, x1 = np.clip(xyxy[[0, 2]], 0, width)
    y0, y1 = np.clip(xyxy[[1, 3]], 0, height)
    return float(x0), float(y0), float(x1 - x0), float(y1 - y0)
