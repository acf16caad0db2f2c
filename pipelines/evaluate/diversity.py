"""How different the poses of people are: the entropy of their k-means clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detectors.types import NUM_KEYPOINTS

Float32 = NDArray[np.float32]

CLUSTERS: Final = 32
FOUND: Final = 0.3
"""A keypoint of less confidence (0-1) says nothing of the pose."""
LEAST: Final = 8
"""Keypoints (of 17) that a person must show to have a pose."""
SEED: Final = 0


def normalised_poses(people: Sequence[dict[str, Any]]) -> Float32:
    """Return the poses of the `people` column as rows (P, 34): x, y of 17 keypoints, wherever and however large.

    Centred on the mean of the keypoints found and scaled to a root mean square distance of 1; those not found are in
    the centre. People with fewer than 8 keypoints found, and crowds, are left out.
    """
    rows = []
    for person in people:
        keypoints = np.array(person["keypoints"], np.float32).reshape(NUM_KEYPOINTS, 3)
        found = keypoints[:, 2] >= FOUND
        if person["iscrowd"] or found.sum() < LEAST:
            continue
        centred = np.where(found[:, None], keypoints[:, :2] - keypoints[found, :2].mean(0), 0)
        size = float(np.sqrt((centred[found] ** 2).sum(1).mean()))
        if size > 0:
            rows.append((centred / size).reshape(-1))
    return np.array(rows, np.float32).reshape(-1, 2 * NUM_KEYPOINTS)


def spread_out(sets: Sequence[Float32]) -> list[dict[str, float | None]]:
    """Return for each set of poses (P, 34) the entropy of its clusters, over that of even ones: 0 all alike, 1 spread.

    The clusters (at most 32, k-means++ from a fixed seed) are of all sets together, each set weighing the same, so that
    sets can be compared. people: poses of the set.
    """
    from scipy.cluster.vq import kmeans2

    least = min((len(one) for one in sets if len(one)), default=0)
    clusters = min(CLUSTERS, least)
    if clusters < 2:
        return [{"people": float(len(one)), "clusters": float(clusters), "entropy": None} for one in sets]
    together = np.concatenate([one[np.linspace(0, len(one) - 1, least).astype(int)] for one in sets if len(one)])
    centres, _ = kmeans2(together.astype(np.float64), clusters, iter=25, minit="++", seed=SEED, missing="warn")
    return [{"people": float(len(one)), "clusters": float(clusters), "entropy": _entropy(one, centres)} for one in sets]


def _entropy(poses: Float32, centres: NDArray[np.float64]) -> float | None:
    from scipy.cluster.vq import vq

    if not len(poses):
        return None
    nearest, _ = vq(poses.astype(np.float64), centres)
    share = np.bincount(nearest, minlength=len(centres)) / len(poses)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum() / np.log(len(centres))) + 0.0
