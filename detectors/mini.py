"""`mini-pose`: finds drawn people and their 17 keypoints, with weights of a few MB beside this file.

It knows the drawn world of the embedded default only; photographs and other art are beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from detectors.heatmap import find_peaks, to_pixels
from detectors.mini_net import MULTIPLE, STRIDE, MiniPoseNet, Poses
from detectors.oks import suppress_duplicates
from detectors.types import AREA_PER_BOX, Float32, Person

Image = NDArray[np.uint8]

WEIGHTS: Final = Path(__file__).with_name("mini_pose.safetensors")
NATIVE: Final = 64
"""Pictures are brought to this size (pixels of the longer side) before the network sees them."""
MOST_PEOPLE: Final = 8
CENTER_FLOOR: Final = 0.08
"""Heat below which a local maximum of the centre map is not looked at."""
PERSON_THRESHOLD: Final = 0.5
DUPLICATE_OKS: Final = 0.6
FILL: Final = 127
"""Grey of the borders that make a picture square."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture was brought to the native square: scaled, then shifted by whole pixels."""

    scale: float
    left: int
    top: int

    def back(self, places: Float32) -> Float32:
        """Native pixel coordinates (..., 2) to those of the picture."""
        shifted = places - np.array((self.left, self.top), np.float32)
        return np.asarray((shifted + 0.5) / self.scale - 0.5, np.float32)


def letterbox(image: Image, size: int = NATIVE) -> tuple[Image, Fit]:
    """Scale an RGB picture to fit a square of `size` pixels, keeping its aspect, and fill the rest with grey."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    if height == width == size:
        return image, Fit(1.0, 0, 0)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    left, top = (size - new_width) // 2, (size - new_height) // 2
    square = np.full((size, size, 3), FILL, np.uint8)
    square[top : top + new_height, left : left + new_width] = cv2.resize(
        image, (new_width, new_height), interpolation=method
    )
    return square, Fit(scale, left, top)


class MiniPose:
    """Multi-person pose detector of the drawn world. Deterministic: every forward has exactly `batch_size` pictures."""

    def __init__(self, weights: Path | None = None, device: str = "cpu", batch_size: int = 32) -> None:
        """Load the weights (safetensors, by default those beside this file).

        Raises FileNotFoundError where the file is missing and RuntimeError where it holds another network's weights.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, must be at least 1")
        self.name = "mini-pose"
        self.device = torch.device(device)
        self.batch_size = batch_size
        state = load_file(weights or WEIGHTS)
        self.net = MiniPoseNet()
        self.net.load_state_dict({key: value.float() for key, value in state.items()})
        self.net.eval().requires_grad_(False).to(self.device)

    def detect(self, images: list[Image]) -> list[tuple[Person, ...]]:
        """Return the people of each picture, best score first.

        images: RGB uint8 (height, width, 3) of any sizes. Boxes and keypoints are in pixels of the given picture;
        keypoint confidence is about 1 where seen, 0.5 where hidden, 0 where outside the picture.
        """
        found: list[tuple[Person, ...]] = []
        for start in range(0, len(images), self.batch_size):
            found.extend(self._detect_batch(images[start : start + self.batch_size]))
        return found

    def heatmaps(self, images: Tensor) -> Tensor:
        """Return the heat (B, 17, h, w) in [0, 1] of each keypoint, h and w half the size the network sees.

        images: (B, 3, H, W) in [-1, 1]. The longer side is brought to 64 pixels, the other to a multiple of 8.
        Gradients flow to the images; wrap in `torch.no_grad()` where they are not wanted.
        """
        height, width = images.shape[-2:]
        scale = NATIVE / max(height, width)
        size = [max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in (height, width)]
        if [height, width] != size:
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        return self.net.maps(images).joints.sigmoid()

    @torch.no_grad()
    def _detect_batch(self, images: list[Image]) -> list[tuple[Person, ...]]:
        boxed = [letterbox(image) for image in images]
        pixels = np.full((self.batch_size, NATIVE, NATIVE, 3), FILL, np.uint8)
        for row, (image, _) in enumerate(boxed):
            pixels[row] = image
        batch = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        maps = self.net.maps(batch.contiguous())
        heat, cells = find_peaks(maps.centers.sigmoid(), MOST_PEOPLE)
        poses = self.net.poses(maps, to_pixels(cells[:, 0], STRIDE))
        people = _read(poses, heat[:, 0])
        return [
            _people_of(people[row], fit, image.shape[:2])
            for row, (image, (_, fit)) in enumerate(zip(images, boxed, strict=True))
        ]


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found at one centre, in native pixels."""

    keypoints: Float32
    person: float
    quality: float


def _read(poses: Poses, heat: Tensor) -> list[list[_Found]]:
    """Bring the network's answer to the CPU and keep what is a person."""
    places = poses.stages[-1].cpu().numpy()
    confidence = poses.confidence.sigmoid().cpu().numpy()[..., None]
    keypoints = np.concatenate((places, confidence), axis=-1).astype(np.float32)
    person, quality = poses.person.sigmoid().cpu().numpy(), poses.quality.sigmoid().cpu().numpy()
    peaks = heat.cpu().numpy()
    return [
        [
            _Found(keypoints[row, query], float(person[row, query]), float(quality[row, query]))
            for query in range(peaks.shape[1])
            if peaks[row, query] > CENTER_FLOOR and person[row, query] > PERSON_THRESHOLD
        ]
        for row in range(peaks.shape[0])
    ]


def _people_of(found: list[_Found], fit: Fit, size: tuple[int, ...]) -> tuple[Person, ...]:
    """Map back to the picture, drop duplicates, order by score."""
    people = [_person(one, fit, size) for one in sorted(found, key=lambda one: -one.person)]
    return tuple(sorted(suppress_duplicates(people, DUPLICATE_OKS), key=lambda person: -person.score))


def _person(found: _Found, fit: Fit, size: tuple[int, ...]) -> Person:
    keypoints = found.keypoints.copy()
    keypoints[:, :2] = fit.back(keypoints[:, :2])
    bbox = keypoint_box(keypoints, size[0], size[1])
    return Person(
        bbox=bbox,
        score=found.person * found.quality,
        area=bbox[2] * bbox[3] * AREA_PER_BOX,
        keypoints=keypoints,
    )


def keypoint_box(
    keypoints: Float32, height: int, width: int, threshold: float = 0.25
) -> tuple[float, float, float, float]:
    """Box (x, y, width, height) px round keypoints (17, 3) of confidence > threshold, a tenth wider, in the picture."""
    sure = keypoints[keypoints[:, 2] > threshold] if (keypoints[:, 2] > threshold).any() else keypoints
    low, high = sure[:, :2].min(0), sure[:, :2].max(0)
    margin = 0.05 * float((high - low).max())
    x0, y0 = np.clip(low + 0.5 - margin, 0, (width - 1, height - 1))
    x1, y1 = np.clip(high + 0.5 + margin, (x0 + 1, y0 + 1), (width, height))
    return float(x0), float(y0), float(x1 - x0), float(y1 - y0)
