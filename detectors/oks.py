"""Object keypoint similarity, the COCO measure of how well one pose matches another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.types import OKS_SIGMAS, Float32, Person

Float64 = NDArray[np.float64]


def keypoint_similarity(truth: Person, found: Float32) -> float:
    """OKS of found keypoints (17, 2 or 3) against an annotated person, 0-1; 0 where nothing is annotated.

    Only keypoints annotated in `truth` count (confidence > 0); distances are in units of the person's `area`
    (COCO keypoint evaluation, `vars = (2 sigma)^2`).
    """
    known = truth.keypoints[:, 2] > 0
    if not known.any():
        return 0.0
    distance = ((truth.keypoints[:, :2] - found[:, :2]) ** 2).sum(1)
    variance = (2 * np.asarray(OKS_SIGMAS)) ** 2
    scale = max(truth.area, float(np.spacing(1)))
    return float(np.exp(-distance / (2 * scale * variance))[known].mean())


def similarity_matrix(truth: tuple[Person, ...], found: tuple[Person, ...]) -> Float64:
    """OKS of every found person (columns) against every annotated one (rows)."""
    matrix = np.zeros((len(truth), len(found)))
    for row, person in enumerate(truth):
        for column, other in enumerate(found):
            matrix[row, column] = keypoint_similarity(person, other.keypoints)
    return matrix


def suppress_duplicates(people: list[Person], threshold: float) -> list[Person]:
    """Keep people in the order given unless one kept before has an OKS above `threshold` with them."""
    kept: list[Person] = []
    for person in people:
        if all(keypoint_similarity(other, person.keypoints) <= threshold for other in kept):
            kept.append(person)
    return kept
