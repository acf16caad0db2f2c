"""How far generated images are from real ones: FID and KID between two sets of feature vectors. Pure functions.

N, M: images of the two sets; D: features of an image.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]

BLOCK: Final = 2048
"""Rows of a kernel matrix that are in memory at once."""


def frechet_distance(real: ArrayLike, generated: ArrayLike) -> float | None:
    """FID (Heusel et al. 2017, arXiv 1706.08500) of features (N, D) and (M, D); None with fewer than two of either.

    |m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½), covariances with N - 1. With S = BᵀB, the trace of (S1 S2)^½ is the sum of
    the singular values of B1 B2ᵀ, which needs no matrix square root and stays real where N < D.
    """
    x, y = _pair(real, generated)
    if min(len(x), len(y)) < 2:
        return None
    a, b = _covariance_root(x), _covariance_root(y)
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    distance = ((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * shared
    return float(max(distance, 0.0))


def _covariance_root(x: Float64) -> Float64:
    """Return B (at most D, D) with BᵀB the covariance of x (N, D)."""
    return np.asarray(np.linalg.qr(x - x.mean(0), mode="r") / np.sqrt(len(x) - 1))


def kernel_distance(real: ArrayLike, generated: ArrayLike) -> float | None:
    """KID (Bińkowski et al. 2018, arXiv 1801.01401) of features (N, D) and (M, D); None with fewer than two of either.

    The unbiased estimate of the squared maximum mean discrepancy under the kernel (x·y / D + 1)³, over all pairs: what
    the mean over random subsets, as usually reported, estimates too. It can be a little below zero.
    """
    x, y = _pair(real, generated)
    if min(len(x), len(y)) < 2:
        return None
    return _mean_of_pairs(x) + _mean_of_pairs(y) - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def _mean_of_pairs(x: Float64) -> float:
    """The mean kernel of all pairs of different rows."""
    own = ((x**2).sum(1) / x.shape[1] + 1) ** 3
    return float((_kernel_sum(x, x) - own.sum()) / (len(x) * (len(x) - 1)))


def _kernel_sum(x: Float64, y: Float64) -> float:
    starts = range(0, len(x), BLOCK)
    return float(sum((((x[start : start + BLOCK] @ y.T) / x.shape[1] + 1) ** 3).sum() for start in starts))


def _pair(real: ArrayLike, generated: ArrayLike) -> tuple[Float64, Float64]:
    """Both as float64 matrices. Raises ValueError where they have other numbers of features."""
    x, y = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D), not {x.shape} and {y.shape}")
    return x, y
