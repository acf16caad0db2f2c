"""The heatmap-guided denoising loss of HumanSD (arXiv 2304.04269), as small pure functions.

The squared error of each latent cell counts `W = 1 + w_g * H` times. H in [0, 1] says where a person is not yet well
drawn: the difference of predicted and true noise is decoded to a picture, and a frozen bottom-up detector's keypoint
heat on that picture is H. Two cheaper ways fill the same place: H from the stored poses, and none at all.

The authors' public code does otherwise: its mask is 0 where the heat is high and 1 elsewhere, sums over the joints
(up to 17), and is sent through the VAE encoder and sampled, so that weights come out signed and random. That is not
copied here: these weights follow the paper, are at least 1, at most 1 + w_g, and highest on people.

Shapes: B samples, C latent channels of h x w cells, P people, K keypoints; alpha (B,) is the schedule's cumulative
product at each sample's time step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from detectors.heatmap import gaussian_heatmaps
from pipelines.train.augment import VISIBLE


def weighted_mse(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over everything of weight x squared error: a scalar. weight: (B, 1, h, w); ones give the plain mean."""
    return (weight * F.mse_loss(predicted, target, reduction="none")).mean()


def loss_weight(heat: Tensor, w_g: float) -> Tensor:
    """`W = 1 + w_g * H`: (B, 1, h, w) in [1, 1 + w_g]. Without gradient: the mask is no way to a smaller loss."""
    return 1 + w_g * heat.detach()


def mask_of(heat: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """H of the paper: (B, 1, h, w) in [0, 1], float32, from heat (B, K, ., .) of any size.

    The highest joint counts; heat below `threshold` is none; brought to h x w without ringing.
    """
    highest = heat.detach().float().clamp(0, 1).amax(1, keepdim=True)
    highest = torch.where(highest >= threshold, highest, 0.0)
    if highest.shape[-2:] == (height, width):
        return highest
    return F.interpolate(highest, (height, width), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def keypoint_heat(keypoints: Tensor, height: int, width: int, stride: float, sigma: float) -> Tensor:
    """Gaussians (B, K, h, w) in [0, 1] at stored keypoints (B, P, K, 3): x px, y px, confidence.

    Those too uncertain to be drawn in the skeleton leave no trace. stride: pixels a cell. sigma: in cells.
    """
    drawn = torch.where(keypoints[..., 2:] >= VISIBLE, keypoints, 0.0)
    return torch.stack([gaussian_heatmaps(people, height, width, stride, sigma) for people in drawn])


def noise_of(output: Tensor, noisy: Tensor, alpha: Tensor, prediction_type: str) -> Tensor:
    """The noise (B, C, h, w) that a UNet output, or a training target of the same kind, means.

    Under v-prediction (arXiv 2202.00512) `v = sqrt(alpha) noise - sqrt(1 - alpha) clean` and
    `noisy = sqrt(alpha) clean + sqrt(1 - alpha) noise`, so `noise = sqrt(alpha) v + sqrt(1 - alpha) noisy`.
    """
    if prediction_type == "epsilon":
        return output
    assert prediction_type == "v_prediction", prediction_type
    alpha = alpha.view(-1, 1, 1, 1)
    return alpha.sqrt() * output + (1 - alpha).sqrt() * noisy
