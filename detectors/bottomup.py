"""People and their poses at once, from dense heatmaps and tags: AE-HRNet-w32 of mmpose, HigherHRNet-w48 of HumanSD.

Bottom-up networks look at the whole picture, so their time does not grow with the number of people, and their heatmaps
say where people are without finding them first: HumanSD's loss needs that.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.grouping import Grouping, People, decode
from detectors.heatmap import flip_heatmaps
from detectors.mini import keypoint_box
from detectors.types import AREA_PER_BOX, Float32, Person
from detectors.weights import find

Image = NDArray[np.uint8]

SIDE: Final = 512
"""Pixels that both networks want a picture's shorter side to have."""
LONGEST: Final = 3 * SIDE
"""Pixels of the longer side at most: a longer picture is made smaller, so that memory is bounded."""
MULTIPLE: Final = 64
"""Sides of the network's input are multiples of this."""
MEAN: Final = (123.675, 116.28, 103.53)
STD: Final = (58.395, 57.12, 57.375)
"""Of ImageNet's RGB values, which both networks were trained with."""
MIN_SCORE: Final = 0.1
"""People whose 17 keypoints have less heat than this on average are not reported: one or two keypoints are nobody."""
AE_CONFIG: Final = "body_2d_keypoint/associative_embedding/coco/ae_hrnet-w32_8xb24-300e_coco-512x512.py"


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture becomes the network's input of `width` x `height`: scaled, then shifted; black round it."""

    width: int
    height: int
    scale: float
    left: float
    top: float

    def warp(self, image: Image) -> Image:
        """The network's input for a picture, uint8 (height, width, 3)."""
        matrix = np.array(((self.scale, 0, self.left), (0, self.scale, self.top)), np.float64)
        warped: Image = cv2.warpAffine(image, matrix, (self.width, self.height), flags=cv2.INTER_LINEAR)
        return warped

    def back(self, places: Float32) -> Float32:
        """Coordinates (..., 2) in the input to those in the picture."""
        return np.asarray((places - np.array((self.left, self.top), np.float32)) / self.scale, np.float32)


def fit(height: int, width: int, udp: bool) -> Fit:
    """Bring the shorter side to 512 pixels (the longer one to 1536 at most) as the networks' own test pipelines do.

    udp: pixel centres at whole numbers, top left corners meet (mmpose 0.x); else middles meet (mmpose 1.x).
    """
    short, long = sorted((height, width))
    if long <= short * LONGEST // SIDE:
        scale = (SIDE - 1) / max(short - 1, 1) if udp else SIDE / short
        sides = [SIDE if side == short else _ceil(SIDE * side, short) for side in (width, height)]
    else:
        scale = (LONGEST - 1) / (long - 1) if udp else LONGEST / long
        sides = [LONGEST if side == long else _ceil(LONGEST * side, long) for side in (width, height)]
    if udp:
        return Fit(sides[0], sides[1], scale, 0.0, 0.0)
    return Fit(sides[0], sides[1], scale, (sides[0] - width * scale) / 2, (sides[1] - height * scale) / 2)


def _ceil(numerator: int, denominator: int) -> int:
    """The fraction, raised to a multiple of 64."""
    return -(-numerator // (denominator * MULTIPLE)) * MULTIPLE


class BottomUp:
    """Detector and heatmaps of one network. Every forward of `detect` has exactly `batch_size` pictures of one size,
    short batches are padded, so that the answer for a picture does not depend on what else is asked for."""

    def __init__(
        self,
        name: str,
        net: nn.Module,
        grouping: Grouping,
        stride: int,
        device: str = "cpu",
        batch_size: int = 8,
        flip_test: bool = False,
        min_score: float = MIN_SCORE,
    ) -> None:
        """net: normalised pictures (B, 3, H, W) to heatmaps and tags, each (B, 17, h, w).

        stride: pixels a cell of the maps that are decoded; the network's are brought to that. flip_test: look at the
        mirrored picture too and average, twice the work. min_score: the score (0-1) below which nobody is reported.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, must be at least 1")
        self.name = name
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.net = net.eval().requires_grad_(False).to(self.device)
        self.grouping, self.stride = grouping, stride
        self.flip_test, self.min_score = flip_test, min_score
        self.mean = torch.tensor(MEAN, device=self.device).view(3, 1, 1)
        self.std = torch.tensor(STD, device=self.device).view(3, 1, 1)

    def detect(self, images: list[Image]) -> list[tuple[Person, ...]]:
        """Return the people of each picture, best score first.

        images: RGB uint8 (height, width, 3) of any sizes. Confidences are the heat at the keypoints; a keypoint that a
        person was not seen to have is the best guess there is, with little heat. A score is the mean heat of the 17.
        """
        fits = [fit(image.shape[0], image.shape[1], self.grouping.udp) for image in images]
        sizes: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, own in enumerate(fits):
            sizes[own.height, own.width].append(index)
        found: dict[int, tuple[Person, ...]] = {}
        for (height, width), rows in sizes.items():
            for start in range(0, len(rows), self.batch_size):
                batch = rows[start : start + self.batch_size]
                pixels = np.zeros((self.batch_size, height, width, 3), np.uint8)
                for place, index in enumerate(batch):
                    pixels[place] = fits[index].warp(images[index])
                people = self._decode(pixels)
                found |= {
                    index: self._report(people[place], fits[index], (height, width), images[index].shape[:2])
                    for place, index in enumerate(batch)
                }
        return [found[index] for index in range(len(images))]

    def heatmaps(self, images: Tensor) -> Tensor:
        """Return the heat (B, 17, h, w) in [0, 1] of each keypoint: float32, h and w a quarter of the size the network
        sees for AE-HRNet, a half for HigherHRNet.

        images: (B, 3, H, W) in [-1, 1], on the detector's device. The shorter side is brought to 512 pixels, the other
        to a multiple of 64. Gradients flow to the images; wrap in `torch.no_grad()` where they are not wanted.
        """
        height, width = images.shape[-2:]
        own = fit(height, width, self.grouping.udp)
        if (own.height, own.width) != (height, width):
            size = (own.height, own.width)
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        heat, _ = self.net(self._normalise((images + 1) * 127.5))
        return torch.as_tensor(heat).float().clamp(0, 1)

    def _normalise(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.std

    @torch.no_grad()
    def _decode(self, pixels: Image) -> list[People]:
        """pixels: (B, H, W, 3). Places come back in pixels of the network's input."""
        batch = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float()
        heat, tags = self._maps(self._normalise(batch).contiguous())
        return decode(heat, tags, self.grouping)

    def _maps(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Heatmaps (B, 17, h, w) and tags (B, 17 or 34, h, w) at the size they are decoded at."""
        size = (batch.shape[2] // self.stride, batch.shape[3] // self.stride)

        def resize(maps: Tensor) -> Tensor:
            if maps.shape[2:] == size:
                return maps
            return F.interpolate(maps, size=size, mode="bilinear", align_corners=self.grouping.udp)

        heat, tags = (resize(maps) for maps in self.net(batch))
        if not self.flip_test:
            return heat, tags
        mirrored = [resize(flip_heatmaps(maps)) for maps in self.net(batch.flip(-1))]
        return (heat + mirrored[0]) / 2, torch.cat((tags, mirrored[1]), dim=1)

    def _report(self, people: People, own: Fit, seen: tuple[int, int], size: tuple[int, ...]) -> tuple[Person, ...]:
        """People of one picture in its own pixels. seen: height, width of the network's input; size: of the picture."""
        height, width = seen
        cells = (height // self.stride, width // self.stride)
        per_cell = [
            (side - 1) / (number - 1) if self.grouping.udp else side / number
            for side, number in zip((width, height), cells[::-1], strict=True)
        ]
        places = own.back(people.places * np.array(per_cell, np.float32))
        confidence = people.heat.clip(0, 1)[..., None]
        keypoints = np.concatenate((places, confidence), axis=2).astype(np.float32)
        reported = [
            _person(own_keypoints, min(float(score), 1.0), self.grouping.min_heat, size)
            for own_keypoints, score in zip(keypoints, people.score, strict=True)
            if score >= self.min_score
        ]
        return tuple(sorted(reported, key=lambda person: (-person.score, person.bbox)))


def _person(keypoints: Float32, score: float, sure: float, size: tuple[int, ...]) -> Person:
    bbox = keypoint_box(keypoints, size[0], size[1], sure)
    return Person(bbox=bbox, score=score, area=bbox[2] * bbox[3] * AREA_PER_BOX, keypoints=keypoints)


class EstimatorMaps(nn.Module):
    """Heatmaps and tags of one of mmpose's bottom-up estimators with an `AssociativeEmbeddingHead`."""

    def __init__(self, estimator: Any) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return heatmaps and tags, each (B, 17, H / 4, W / 4), of normalised pictures (B, 3, H, W)."""
        heat, tags = self.estimator.head(self.estimator.extract_feat(images))
        return heat, tags


def grouping_of(codec: Any) -> Grouping:
    """What an `AssociativeEmbedding` codec of mmpose says about decoding."""
    return Grouping(
        udp=codec.use_udp,
        order=tuple(codec.decode_keypoint_order),
        min_heat=codec.decode_keypoint_thr,
        max_tag_distance=codec.decode_tag_thr,
        window=codec.decode_nms_kernel,
        candidates=codec.decode_topk,
        most_people=codec.decode_max_instances or codec.decode_topk,
        blur=codec.decode_gaussian_kernel,
        shift=codec.decode_center_shift,
    )


def fused(net: nn.Module) -> nn.Module:
    """The same network for inference: batch normalisation is part of the convolution before it, channels come last."""
    from mmcv.cnn.utils.fuse_conv_bn import fuse_conv_bn

    fuse_conv_bn(net.eval())
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def ae_hrnet_w32(device: str = "cpu", batch_size: int = 8, flip_test: bool = False) -> BottomUp:
    """AE-HRNet-w32 (COCO) from mmpose's config. Raises WeightsError where its checkpoint is not on this machine."""
    from detectors.checkpoint import load_strictly, read_state

    _require_mmpose()
    path = find("ae-hrnet-w32-coco")
    net = build_ae_hrnet()
    load_strictly(net.estimator, read_state(path), str(path))
    codec: Any = net.estimator.head.decoder
    stride = codec.input_size[0] // codec.heatmap_size[0]
    return BottomUp("ae-hrnet-w32", fused(net), grouping_of(codec), stride, device, batch_size, flip_test)


def build_ae_hrnet(width: int = 32) -> EstimatorMaps:
    """The network of mmpose's own config, without weights; nothing is downloaded. width: channels, a multiple of 8."""
    import mmpose.models
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    config = Config.fromfile(Path(mmpose.__file__).parent / ".mim" / "configs" / AE_CONFIG)
    backbone = config.model.backbone
    backbone.init_cfg = None
    for stage in ("stage2", "stage3", "stage4"):
        channels = backbone.extra[stage].num_channels
        backbone.extra[stage].num_channels = tuple(number * width // 32 for number in channels)
    config.model.head.in_channels = width
    with DefaultScope.overwrite_default_scope("mmpose"):
        return EstimatorMaps(MODELS.build(config.model))


def higherhrnet_w48(device: str = "cpu", batch_size: int = 8, flip_test: bool = False) -> BottomUp:
    """HigherHRNet-w48 of HumanSD's release. Raises WeightsError where its checkpoint is not on this machine."""
    from detectors.checkpoint import load_strictly, read_state

    _require_mmpose()
    from detectors.higherhrnet import HigherHRNet

    path = find("higherhrnet-w48-humanart")
    net = HigherHRNet()
    load_strictly(net, read_state(path), str(path))
    return BottomUp("higherhrnet-w48", fused(net), Grouping(udp=True), 2, device, batch_size, flip_test)


def _require_mmpose() -> None:
    if importlib.util.find_spec("mmpose") is None:
        raise ValueError("mmpose is not installed: run `uv sync --frozen --extra mm` (it compiles mmcv)")
