"""Where a person's joints are: mmpose's top-down networks (RTMPose, HRNet, ViTPose, …), batched over people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.decode import CODECS, decode
from detectors.heatmap import flip_heatmaps
from detectors.mm import ModelFiles, Normalize, build, keypoints_of, pipeline_of, read_config, step_of
from detectors.types import FLIP_SWAP, NUM_KEYPOINTS, Float32

Image = NDArray[np.uint8]

PADDING: Final = 1.25
"""mmpose's margin round a box."""


class PoseEstimator:
    """Finds 17 keypoints in given boxes. Every forward has exactly `batch_size` people, so that memory is bounded and
    no answer depends on its neighbours; of any number of people only one batch of crops is held at a time."""

    def __init__(self, files: ModelFiles, device: str = "cpu", batch_size: int = 32, flip_test: bool = False) -> None:
        """Build and load. flip_test: also look at the mirrored crops and average, twice the work.

        Raises ValueError where the files do not fit each other, or the network's keypoints are not COCO's 17.
        """
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.flip_test = flip_test
        config = read_config(files.config)
        count = keypoints_of(config)
        if count is not None and count != NUM_KEYPOINTS:
            raise ValueError(f"{config.filename}: predicts {count} keypoints; COCO's {NUM_KEYPOINTS} are needed")
        pipeline = pipeline_of(config)
        affine = step_of(pipeline, "TopdownAffine")
        if affine is None:
            raise ValueError(f"{config.filename}: is not a top-down config (its test pipeline has no TopdownAffine)")
        self.input_size = (int(affine["input_size"][0]), int(affine["input_size"][1]))
        self.use_udp = bool(affine.get("use_udp", False))
        self.padding = float((step_of(pipeline, "GetBBoxCenterScale") or {}).get("padding", PADDING))
        self.test_cfg = config.model.get("test_cfg") or {}
        self.normalize = Normalize(config, self.device)
        self.net = build(files, "mmpose", self.device)[1]

    def in_boxes(self, images: list[Image], boxes: list[Float32]) -> list[Float32]:
        """Return the keypoints (N, 17, 3) of each image's boxes (N, 4) xyxy px; images: RGB uint8 of any sizes."""
        people = ((image, box) for image, own in zip(images, boxes, strict=True) for box in own)
        found = self.estimate(people)
        return [np.array(list(islice(found, len(own))), np.float32).reshape(-1, NUM_KEYPOINTS, 3) for own in boxes]

    def estimate(self, people: Iterable[tuple[Image, Float32]]) -> Iterator[Float32]:
        """Yield the keypoints (17, 3) x px, y px, confidence 0-1 of each person, given as an image and a box xyxy."""
        waiting = iter(people)
        while chunk := list(islice(waiting, self.batch_size)):
            yield from self._estimate(chunk)

    @torch.no_grad()
    def _estimate(self, people: list[tuple[Image, Float32]]) -> Float32:
        boxes = np.stack([box for _, box in people]).astype(np.float32)
        centers, scales = self._frames(boxes)
        pixels = np.zeros((self.batch_size, self.input_size[1], self.input_size[0], 3), np.uint8)
        for row, (image, _) in enumerate(people):
            matrix = self._matrix(centers[row], scales[row])
            cv2.warpAffine(image, matrix, self.input_size, dst=pixels[row], flags=cv2.INTER_LINEAR)
        places, scores = self._forward(self.normalize(torch.from_numpy(pixels).to(self.device)))
        inside = places[: len(people)].cpu().numpy().astype(np.float64) / self.input_size
        scale = scales[:, None].astype(np.float64)
        found = inside * scale + centers[:, None] - 0.5 * scale
        confidence = scores[: len(people), :, None].clamp(0, 1).cpu().numpy()
        return np.asarray(np.concatenate((found, confidence), -1), np.float32)

    def _frames(self, boxes: Float32) -> tuple[Float32, Float32]:
        """Centres and sizes (N, 2) px of what is cut out: boxes (N, 4) with a margin, brought to the input's aspect."""
        centers = (boxes[:, 2:] + boxes[:, :2]) * 0.5
        width, height = ((boxes[:, 2:] - boxes[:, :2]) * np.float32(self.padding)).T
        aspect = self.input_size[0] / self.input_size[1]
        wide = width > height * aspect
        sizes = np.where(wide, (width, width / aspect), (height * aspect, height)).T
        return centers, sizes.astype(np.float32)

    def _matrix(self, center: Float32, scale: Float32) -> NDArray[np.float64]:
        from mmpose.structures.bbox import get_udp_warp_matrix, get_warp_matrix

        warp = get_udp_warp_matrix if self.use_udp else get_warp_matrix
        return np.asarray(warp(center, scale, 0.0, output_size=self.input_size), np.float64)

    def _forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Crops (N, 3, h, w) to places (N, 17, 2) in input pixels and scores (N, 17)."""
        features = self.net.extract_feat(crops)
        mirrored = self.net.extract_feat(crops.flip(-1)) if self.flip_test else None
        head = self.net.head
        if type(head.decoder).__name__ not in CODECS:
            return self._predict(features, mirrored)
        output = head.forward(features)
        if mirrored is not None:
            output = self._average(output, head.forward(mirrored))
        return decode(head.decoder, output)

    def _average(self, output: Any, mirrored: Any) -> Any:
        """Mean of an output and that of the mirrored crops, mirrored back."""
        if isinstance(output, tuple):
            swap = list(FLIP_SWAP)
            return (output[0] + mirrored[0][:, swap].flip(-1)) * 0.5, (output[1] + mirrored[1][:, swap]) * 0.5
        if self.test_cfg.get("flip_mode", "heatmap") != "heatmap":
            from mmpose.models.utils.tta import flip_heatmaps as flip_combined

            mirrored = flip_combined(mirrored, list(FLIP_SWAP), self.test_cfg["flip_mode"], shift_heatmap=False)
        else:
            mirrored = flip_heatmaps(mirrored)
        if self.test_cfg.get("shift_heatmap", False):
            mirrored[..., 1:] = mirrored[..., :-1].clone()
        return (output + mirrored) * 0.5

    def _predict(self, features: Any, mirrored: Any) -> tuple[Tensor, Tensor]:
        """Let mmpose's own head decode, one person after the other: for codecs that are not ours."""
        from mmpose.structures import PoseDataSample

        samples = [PoseDataSample(metainfo={"flip_indices": list(FLIP_SWAP)}) for _ in range(self.batch_size)]
        test_cfg = {**self.test_cfg, "flip_test": mirrored is not None}
        both = features if mirrored is None else [features, mirrored]
        found = self.net.head.predict(both, samples, test_cfg=test_cfg)
        places = np.stack([np.asarray(one.keypoints)[0, :, :2] for one in found])
        scores = np.stack([np.asarray(one.keypoint_scores)[0] for one in found])
        return torch.from_numpy(places), torch.from_numpy(scores)
