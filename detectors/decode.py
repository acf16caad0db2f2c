"""From what pose networks put out to keypoints: SimCC vectors and heatmaps, all people of a batch at once.

The same numbers as mmpose's codecs give one person at a time (SimCC: arXiv 2107.03332; DARK: arXiv 1910.06278; UDP:
arXiv 1911.07524). Shape legend: N people, K keypoints, maps of h x w cells. Places are (x, y) in pixels of the
network's input; scores are the maxima as the network gives them. A keypoint without any positive response lies at -1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Decoded = tuple[Tensor, Tensor]
"""Places (N, K, 2) and scores (N, K)."""

CODECS: Final = ("SimCCLabel", "MSRAHeatmap", "UDPHeatmap")
"""mmpose's codecs that are decoded here; others are left to mmpose."""


def decode(codec: Any, output: Tensor | tuple[Tensor, Tensor]) -> Decoded:
    """Decode a batch. codec: one of mmpose's `CODECS`; output: heatmaps (N, C, h, w), or SimCC's x and y vectors."""
    kind = type(codec).__name__
    if kind == "SimCCLabel":
        assert isinstance(output, tuple)
        sigmas = tuple(float(sigma) for sigma in codec.sigma) if codec.use_dark else None
        return decode_simcc(*output, codec.simcc_split_ratio, sigmas)
    assert isinstance(output, Tensor)
    if kind == "MSRAHeatmap":
        return decode_msra(output, codec.input_size, codec.blur_kernel_size if codec.unbiased else None)
    if codec.heatmap_type == "combined":
        return decode_udp_offsets(output, codec.input_size, codec.blur_kernel_size, codec.radius_factor)
    return decode_udp(output, codec.input_size, codec.blur_kernel_size)


def decode_simcc(x: Tensor, y: Tensor, split_ratio: float, dark_sigmas: tuple[float, ...] | None = None) -> Decoded:
    """Decode vectors (N, K, bins) of each axis, `split_ratio` bins a pixel; dark_sigmas: refine between bins."""
    (best_x, at_x), (best_y, at_y) = x.max(-1), y.max(-1)
    scores = torch.minimum(best_x, best_y)
    places = torch.stack((at_x, at_y), -1).float()
    places[scores <= 0] = -1
    if dark_sigmas is not None:
        refined = [_between_bins(places[..., axis], bins, dark_sigmas[axis]) for axis, bins in enumerate((x, y))]
        places = torch.stack(refined, -1)
    return places / split_ratio, scores


def _between_bins(places: Tensor, bins: Tensor, sigma: float) -> Tensor:
    size = int((sigma * 20 - 7) // 3)
    smooth = _blur(bins[:, :, None], size - (size % 2 == 0), horizontal_only=True)[:, :, 0]
    logs = F.pad(smooth.clamp(1e-3, 50).log(), (2, 2), mode="replicate")
    index = (places + 2.5).long()[..., None]
    before2, before, here, after, after2 = (logs.gather(-1, index + step)[..., 0] for step in range(-2, 3))
    slope, curvature = 0.5 * (after - before), 1e-9 + 0.25 * (after2 - 2 * here + before2)
    return places - slope / curvature


def decode_msra(heat: Tensor, input_size: tuple[int, int], blur_kernel: int | None = None) -> Decoded:
    """Decode heatmaps (N, K, h, w): a quarter cell towards the higher neighbour, or DARK with that blur kernel."""
    height, width = heat.shape[-2:]
    places, scores = heat_maxima(heat)
    places = _quarter(places, heat) if blur_kernel is None else _dark(places, heat, blur_kernel)
    scale = torch.tensor((input_size[0] / width, input_size[1] / height), device=heat.device)
    return places * scale, scores


def decode_udp(heat: Tensor, input_size: tuple[int, int], blur_kernel: int) -> Decoded:
    """Decode unbiased heatmaps (N, K, h, w) by a Newton step on the logarithms."""
    places, scores = heat_maxima(heat)
    logs = _blur(heat, blur_kernel).clamp(1e-3, 50).log()
    padded = F.pad(logs, (1, 1, 1, 1), mode="replicate").flatten(2)
    width = heat.shape[-1] + 2
    index = ((places[..., 1] + 1) * width + places[..., 0] + 1).long()

    def at(x: int, y: int) -> Tensor:
        beside = (index + y * width + x).clamp(0, padded.shape[2] - 1)  # a keypoint at -1 has no neighbours
        return padded.gather(2, beside[..., None])[..., 0].double()

    here, right, left, below, above = at(0, 0), at(1, 0), at(-1, 0), at(0, 1), at(0, -1)
    slope = torch.stack((0.5 * (right - left), 0.5 * (below - above)), -1)
    dxx, dyy = right - 2 * here + left, below - 2 * here + above
    dxy = 0.5 * (at(1, 1) - right - below + here + here - left - above + at(-1, -1))
    hessian = torch.stack((dxx, dxy, dxy, dyy), -1).unflatten(-1, (2, 2))
    hessian = hessian + torch.finfo(torch.float32).eps * torch.eye(2, dtype=torch.float64, device=heat.device)
    step = (torch.linalg.inv(hessian) @ slope[..., None])[..., 0]
    return _to_input(places.double() - step, heat, input_size), scores


def decode_udp_offsets(heat: Tensor, input_size: tuple[int, int], blur_kernel: int, radius: float) -> Decoded:
    """Decode UDP's combined maps (N, 3 K, h, w): class, x offset and y offset of each keypoint in turn."""
    height, width = heat.shape[-2:]
    classes = _blur(heat[:, ::3], 2 * blur_kernel + 1, keep_maximum=False)
    places, scores = heat_maxima(classes)
    index = (places[..., 1] * width + places[..., 0]).long().clamp_min(0)[..., None]
    offsets = [heat[:, axis::3].flatten(2).gather(2, index)[..., 0] for axis in (1, 2)]
    places = places + torch.stack(offsets, -1) * (radius * max(height, width))
    return _to_input(places, heat, input_size), scores


def _to_input(places: Tensor, heat: Tensor, input_size: tuple[int, int]) -> Tensor:
    """Cells to input pixels, as mmpose's UDP does: first and last centres are the edges."""
    last = torch.tensor((heat.shape[-1] - 1, heat.shape[-2] - 1), device=heat.device)
    return (places / last * torch.tensor(input_size, device=heat.device)).float()


def heat_maxima(heat: Tensor) -> Decoded:
    """Highest cell (N, K, 2) of heatmaps (N, K, h, w), the first of equals, and its value; -1 where none is above 0."""
    scores, index = heat.flatten(2).max(-1)
    places = torch.stack((index % heat.shape[-1], index // heat.shape[-1]), -1).float()
    places[scores <= 0] = -1
    return places, scores


def _reader(maps: Tensor, places: Tensor) -> Callable[[int, int], Tensor]:
    """Return a function (dx, dy) → values (N, K) of the maps beside the places, held at the edges."""
    height, width = maps.shape[-2:]
    flat = maps.flatten(2)
    column, row = places[..., 0].long(), places[..., 1].long()

    def at(x: int, y: int) -> Tensor:
        index = (row + y).clamp(0, height - 1) * width + (column + x).clamp(0, width - 1)
        found: Tensor = flat.gather(2, index[..., None])[..., 0]
        return found

    return at


def _quarter(places: Tensor, heat: Tensor) -> Tensor:
    height, width = heat.shape[-2:]
    x, y = places.unbind(-1)
    at = _reader(heat, places)
    dx = torch.where((x > 1) & (x < width - 1) & (y > 0) & (y < height), at(1, 0) - at(-1, 0), 0.0)
    dy = torch.where((y > 1) & (y < height - 1) & (x > 0) & (x < width), at(0, 1) - at(0, -1), 0.0)
    return places + 0.25 * torch.stack((dx, dy), -1).sign()


def _dark(places: Tensor, heat: Tensor, blur_kernel: int) -> Tensor:
    height, width = heat.shape[-2:]
    x, y = places.unbind(-1)
    at = _reader(_blur(heat, blur_kernel).clamp_min(1e-10).log(), places)
    dx, dy = 0.5 * (at(1, 0) - at(-1, 0)), 0.5 * (at(0, 1) - at(0, -1))
    dxx, dyy = 0.25 * (at(2, 0) - 2 * at(0, 0) + at(-2, 0)), 0.25 * (at(0, 2) - 2 * at(0, 0) + at(0, -2))
    dxy = 0.25 * (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1))
    determinant = dxx * dyy - dxy**2
    inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2) & (determinant != 0)
    safe = torch.where(inside, determinant, 1.0)
    step = torch.stack((dyy * dx - dxy * dy, dxx * dy - dxy * dx), -1) / safe[..., None]
    return torch.where(inside[..., None], places - step, places)


def _blur(maps: Tensor, size: int, *, horizontal_only: bool = False, keep_maximum: bool = True) -> Tensor:
    """Gaussian blur of maps (N, K, h, w), as OpenCV's.

    keep_maximum: with zeros beyond the edges, then scaled so that each map's maximum stays what it was; else mirrored
    at the edges.
    """
    kernel = torch.from_numpy(cv2.getGaussianKernel(size, 0, cv2.CV_32F).astype(np.float32)).to(maps.device).flatten()
    half = size // 2
    flat = maps.flatten(0, 1)[:, None]
    edges = (half, half, 0, 0) if horizontal_only else (half, half, half, half)
    flat = F.pad(flat, edges, mode="constant" if keep_maximum else "reflect")
    flat = F.conv2d(flat, kernel.view(1, 1, 1, size))
    if not horizontal_only:
        flat = F.conv2d(flat, kernel.view(1, 1, size, 1))
    smooth: Tensor = flat[:, 0].unflatten(0, maps.shape[:2])
    if not keep_maximum:
        return smooth
    highest, blurred = maps.amax((-2, -1), keepdim=True), smooth.amax((-2, -1), keepdim=True)
    return torch.where(blurred != 0, smooth * (highest / blurred), smooth)
