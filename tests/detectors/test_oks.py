"""OKS as COCO computes it, and duplicates by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detectors.oks import keypoint_similarity, similarity_matrix, suppress_duplicates
from detectors.types import OKS_SIGMAS, Person


def somebody(x: float, area: float = 400.0) -> Person:
    keypoints = np.ones((17, 3), np.float32)
    keypoints[:, 0] = x + np.arange(17)
    keypoints[:, 1] = 30 + np.arange(17)
    return Person(bbox=(x, 30.0, 17.0, 17.0), score=0.5, area=area, keypoints=keypoints)


def test_one_keypoint_one_deviation_off_loses_what_the_formula_says() -> None:
    truth = somebody(10)
    moved = truth.keypoints.copy()
    moved[9, 0] += 2 * OKS_SIGMAS[9] * 400**0.5
    assert keypoint_similarity(truth, moved) == pytest.approx((16 + np.exp(-0.5)) / 17)


def test_keypoints_not_annotated_do_not_count_and_none_annotated_is_zero() -> None:
    truth = somebody(10)
    truth.keypoints[3:, 2] = 0
    moved = truth.keypoints.copy()
    moved[3:, :2] += 99
    assert keypoint_similarity(truth, moved) == pytest.approx(1.0)
    truth.keypoints[:, 2] = 0
    assert keypoint_similarity(truth, moved) == 0.0


def test_the_matrix_has_annotated_rows_and_found_columns() -> None:
    matrix = similarity_matrix((somebody(10), somebody(40)), (somebody(40), somebody(10), somebody(90)))
    assert matrix.shape == (2, 3)
    assert matrix.argmax(1).tolist() == [1, 0]


def test_duplicates_go_and_neighbours_stay() -> None:
    first, again, other = somebody(10), replace(somebody(10.5), score=0.4), somebody(60)
    assert suppress_duplicates([first, again, other], 0.6) == [first, other]
    assert suppress_duplicates([], 0.6) == []
