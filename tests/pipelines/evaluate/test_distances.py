"""FID and KID against scipy's matrix square root and against sums written out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from pipelines.evaluate import distances
from pipelines.evaluate.distances import frechet_distance, kernel_distance

Float64 = NDArray[np.float64]


def features(seed: int, count: int, width: int, shift: float = 0.0) -> Float64:
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, (count, width)) @ rng.normal(0, 1, (width, width))


def fid_by_scipy(x: Float64, y: Float64) -> float:
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root.real))


def kid_by_hand(x: Float64, y: Float64) -> float:
    def kernel(a: Float64, b: Float64) -> float:
        return float((sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3)

    within_x = [kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    within_y = [kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    between = [kernel(a, b) for a in x for b in y]
    return sum(within_x) / len(within_x) + sum(within_y) / len(within_y) - 2 * sum(between) / len(between)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), count=st.integers(20, 60), width=st.integers(2, 12), shift=st.floats(-3, 3))
def test_fid_is_what_scipys_square_root_gives(seed: int, count: int, width: int, shift: float) -> None:
    x, y = features(seed, count, width), features(seed + 1, count + 7, width, shift)
    assert frechet_distance(x, y) == pytest.approx(fid_by_scipy(x, y), rel=1e-6, abs=1e-6)


def test_fid_of_one_dimension_is_the_distance_of_two_normals() -> None:
    x, y = np.array([[0.0], [2.0]]), np.array([[10.0], [18.0]])  # means 1 and 14, deviations √2 and √32
    assert frechet_distance(x, y) == pytest.approx(13**2 + (np.sqrt(32) - np.sqrt(2)) ** 2)


def test_fid_with_fewer_images_than_features() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (6, 40)), rng.normal(0.5, 1, (9, 40))
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # scipy's root of a singular matrix is not exact: the eigenvalues of the product are.
    shared = np.sqrt(np.linalg.eigvals(s1 @ s2).real.clip(0)).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2) - 2 * shared
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), count=st.integers(2, 12), width=st.integers(1, 8), shift=st.floats(-2, 2))
def test_kid_is_the_sum_written_out(seed: int, count: int, width: int, shift: float) -> None:
    x, y = features(seed, count, width), features(seed + 1, count + 3, width, shift)
    assert kernel_distance(x, y) == pytest.approx(kid_by_hand(x, y), rel=1e-6, abs=1e-6)


def test_kid_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(1, 23, 6), features(2, 17, 6)
    whole = kernel_distance(x, y)
    monkeypatch.setattr(distances, "BLOCK", 5)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)


def test_equal_sets_are_at_no_distance_and_order_means_nothing() -> None:
    x = features(3, 50, 8)
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, features(4, 50, 8)) == pytest.approx(frechet_distance(features(4, 50, 8), x))


def test_kid_of_the_same_distribution_is_about_zero_either_way() -> None:
    values = [kernel_distance(*np.random.default_rng(s).normal(0, 1, (2, 60, 8))) for s in range(40)]
    known = [value for value in values if value is not None]
    assert min(known) < 0 < max(known)
    assert abs(np.mean(known)) < 0.05


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_one_image_has_no_distribution(distance: Callable[[ArrayLike, ArrayLike], float | None]) -> None:
    one, some = np.ones((1, 4)), features(0, 5, 4)
    assert distance(one, some) is None
    assert distance(some, one) is None
    assert distance(np.empty((0, 4)), some) is None
    with pytest.raises(ValueError, match="features must be"):
        distance(some, np.ones((5, 3)))
