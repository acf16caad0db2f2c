"""HigherHRNet, the bottom-up network behind HumanSD's heatmap-guided loss, which mmpose 1.x no longer has.

Cheng et al., *HigherHRNet* (CVPR 2020): an HRNet gives heatmaps and tags of the 17 keypoints at a quarter of the
picture's size; both, beside the features they came from, pass a transposed convolution and four residual blocks, which
give finer heatmaps at half its size. Names and shapes of the weights are those of checkpoints of mmpose 0.x
(`AssociativeEmbedding` with `AEHigherResolutionHead`: 17 joints and 17 tags, tags at the first stage only).

Shape legend: B pictures of H x W pixels, K = 17 keypoints.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from mmpose.models.backbones import HRNet
from mmpose.models.backbones.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.types import NUM_KEYPOINTS

WIDTH: Final = 48
"""Channels of the highest resolution in the published network (HRNet-w48)."""
BLOCKS: Final = 4
"""Residual blocks after the transposed convolution."""


class HigherHRNet(nn.Module):
    """Heatmaps and tags of a batch of pictures."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.backbone = HRNet(_stages(width))
        self.keypoint_head = Head(width)

    def stages(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return heatmaps then tags (B, 2 K, H / 4, W / 4), and finer heatmaps (B, K, H / 2, W / 2)."""
        coarse, fine = self.keypoint_head(self.backbone(images)[0])
        return coarse, fine

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return heatmaps and tags, each (B, K, H / 2, W / 2), of normalised pictures (B, 3, H, W).

        The heatmaps are the mean of both stages', about 0 to 1, not limited to it; what comes from the first stage is
        brought to the size of the second with corners aligned, as mmpose 0.x does for unbiased (UDP) data.
        """
        coarse, fine = self.stages(images)
        size = fine.shape[-2:]
        maps = F.interpolate(coarse, size=size, mode="bilinear", align_corners=True)
        return (maps[:, :NUM_KEYPOINTS] + fine) / 2, maps[:, NUM_KEYPOINTS:]


class Head(nn.Module):
    """From features (B, width, h, w) to the maps of both stages, the second twice as large."""

    def __init__(self, width: int) -> None:
        super().__init__()
        maps = 2 * NUM_KEYPOINTS
        self.final_layers = nn.ModuleList((nn.Conv2d(width, maps, 1), nn.Conv2d(width, NUM_KEYPOINTS, 1)))
        upsample = nn.Sequential(
            nn.ConvTranspose2d(width + maps, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        blocks = (nn.Sequential(BasicBlock(width, width)) for _ in range(BLOCKS))
        self.deconv_layers = nn.ModuleList((nn.Sequential(upsample, *blocks),))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        coarse = self.final_layers[0](features)
        finer = self.deconv_layers[0](torch.cat((features, coarse), dim=1))
        return coarse, self.final_layers[1](finer)


def _stages(width: int) -> dict[str, Any]:
    """HRNet's four stages as mmpose describes them: twice the channels at half the size with each branch."""
    stages: dict[str, Any] = {
        "stage1": {
            "num_modules": 1,
            "num_branches": 1,
            "block": "BOTTLENECK",
            "num_blocks": (4,),
            "num_channels": (64,),
        }
    }
    for branches, modules in ((2, 1), (3, 4), (4, 3)):
        stages[f"stage{branches}"] = {
            "num_modules": modules,
            "num_branches": branches,
            "block": "BASIC",
            "num_blocks": (4,) * branches,
            "num_channels": tuple(width * 2**branch for branch in range(branches)),
        }
    return stages
