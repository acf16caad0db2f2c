"""Heatmap maths, pure and batched: Gaussians from keypoints, peaks from heatmaps, values between cells, mirror images.

Shape legend: B images, P people, K keypoints, C channels, N points or peaks, h x w cells of `stride` pixels.
Coordinates are pixels whose centres lie at whole numbers (the first pixel's centre is 0, an image is `width` wide from
-0.5 to width - 0.5), the convention of `Person.keypoints`; a cell's centre is the mean of the pixels it covers.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from detectors.types import FLIP_SWAP

FLOOR: Final = 1e-8
"""Smallest heat that peak fitting takes the logarithm of."""


def to_cells(pixels: Tensor, stride: float) -> Tensor:
    """Pixel coordinates to cell coordinates, both with whole numbers at centres."""
    return (pixels + 0.5) / stride - 0.5


def to_pixels(cells: Tensor, stride: float) -> Tensor:
    """Inverse of `to_cells`."""
    return (cells + 0.5) * stride - 0.5


def gaussian_heatmaps(keypoints: Tensor, height: int, width: int, stride: float = 1.0, sigma: float = 1.0) -> Tensor:
    """Return (K, h, w) float32 in [0, 1]: a Gaussian of peak 1 at each keypoint, the highest over all people.

    keypoints: (P, K, 3) x px, y px, confidence; those of confidence 0 leave no trace. sigma: in cells.
    """
    people, count = keypoints.shape[:2]
    if people == 0:
        return torch.zeros(count, height, width, device=keypoints.device)
    places = to_cells(keypoints[..., :2].float(), stride)
    columns = torch.arange(width, device=keypoints.device)
    rows = torch.arange(height, device=keypoints.device)
    across = torch.exp(-((columns - places[..., :1]) ** 2) / (2 * sigma**2))
    down = torch.exp(-((rows - places[..., 1:]) ** 2) / (2 * sigma**2))
    known = (keypoints[..., 2] > 0).float()
    return (down[..., :, None] * across[..., None, :] * known[..., None, None]).amax(0)


def find_peaks(heat: Tensor, limit: int, window: int = 3) -> tuple[Tensor, Tensor]:
    """Return the `limit` highest local maxima of each channel, best first: scores (B, C, N), places (B, C, N, 2).

    heat: (B, C, h, w), values >= 0. Places are (x, y) in cells, refined between cells by a parabola through the
    logarithms beside the maximum: exact for a Gaussian. Score 0 marks a place in the list that no maximum fills.
    """
    height, width = heat.shape[-2:]
    local = F.max_pool2d(heat, window, stride=1, padding=window // 2)
    maxima = torch.where(heat >= local, heat, 0.0)
    scores, index = maxima.flatten(2).topk(min(limit, height * width), dim=2)
    rows, columns = index // width, index % width
    log_heat = heat.clamp_min(FLOOR).log()
    dx = _parabola(log_heat, rows, columns, (0, 1))
    dy = _parabola(log_heat, rows, columns, (1, 0))
    places = torch.stack((columns + dx, rows + dy), dim=-1)
    return scores, places


def _parabola(log_heat: Tensor, rows: Tensor, columns: Tensor, step: tuple[int, int]) -> Tensor:
    """Offset in [-0.5, 0.5] of the parabola's top through three cells in a line; 0 at the border and on plateaus."""
    height, width = log_heat.shape[-2:]
    flat = log_heat.flatten(2)

    def at(sign: int) -> Tensor:
        y = (rows + sign * step[0]).clamp(0, height - 1)
        x = (columns + sign * step[1]).clamp(0, width - 1)
        return flat.gather(2, y * width + x)

    before, here, after = at(-1), at(0), at(1)
    curvature = before - 2 * here + after
    on_border = (rows + step[0] >= height) | (rows < step[0]) | (columns + step[1] >= width) | (columns < step[1])
    flat_top = curvature > -1e-6
    offset = (before - after) / (2 * torch.where(flat_top, -1.0, curvature))
    return torch.where(on_border | flat_top, 0.0, offset.clamp(-0.5, 0.5))


def sample_at(maps: Tensor, places: Tensor) -> Tensor:
    """Read maps (B, C, h, w) between cells: (B, N, C) at places (B, N, 2), x and y in cells; bilinear, edges held."""
    height, width = maps.shape[-2:]
    size = torch.tensor((width, height), dtype=places.dtype, device=places.device)
    grid = (places + 0.5) / size * 2 - 1
    read = F.grid_sample(maps, grid[:, :, None], mode="bilinear", padding_mode="border", align_corners=False)
    return read[..., 0].transpose(1, 2)


def flip_heatmaps(heat: Tensor) -> Tensor:
    """Heatmaps (..., 17, h, w) of the mirrored image: columns reversed, left and right keypoints swapped."""
    return heat.flip(-1)[..., list(FLIP_SWAP), :, :]


def flip_keypoints(keypoints: Tensor, width: int) -> Tensor:
    """Keypoints (..., 17, 3) of the mirrored image of that width in pixels; confidences go along."""
    mirrored = keypoints[..., list(FLIP_SWAP), :].clone()
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return mirrored
