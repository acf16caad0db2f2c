"""Heatmaps and keypoints turn into each other; mirrored maps are maps of the mirrored picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.heatmap import (
    find_peaks,
    flip_heatmaps,
    flip_keypoints,
    gaussian_heatmaps,
    sample_at,
    to_cells,
    to_pixels,
)

coordinate = st.floats(4.0, 59.0, width=32)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads on a busy machine wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def keypoints_at(places: list[tuple[float, float]]) -> torch.Tensor:
    """One person with 17 keypoints: the given places, the rest unknown."""
    points = torch.zeros(1, 17, 3)
    for index, (x, y) in enumerate(places):
        points[0, index] = torch.tensor((x, y, 1.0))
    return points


@given(st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=17), st.sampled_from((1, 2, 4)))
@settings(max_examples=60)
def test_encoded_keypoints_decode_to_where_they_were(places: list[tuple[float, float]], stride: int) -> None:
    heat = gaussian_heatmaps(keypoints_at(places), 64 // stride, 64 // stride, stride, sigma=1.2)
    scores, cells = find_peaks(heat[None], limit=1)
    found = to_pixels(cells[0, :, 0], stride)
    for index, place in enumerate(places):
        assert np.allclose(found[index], place, atol=0.02 * stride)
        assert 0.7 < float(scores[0, index, 0]) <= 1.0


@given(coordinate, st.sampled_from((1.0, 2.0, 3.5)))
@settings(max_examples=30)
def test_cells_and_pixels_are_inverse(value: float, stride: float) -> None:
    place = torch.tensor(value)
    assert float(to_pixels(to_cells(place, stride), stride)) == pytest.approx(value, abs=1e-4)


def test_a_cell_is_centred_on_the_pixels_it_covers() -> None:
    assert float(to_pixels(torch.tensor(0.0), 2)) == 0.5  # cell 0 covers pixels 0 and 1
    assert float(to_pixels(torch.tensor(3.0), 4)) == 13.5


def test_unknown_keypoints_leave_no_trace_and_heat_is_the_highest_over_people() -> None:
    near, far = keypoints_at([(20.0, 20.0)]), keypoints_at([(44.0, 20.0)])
    both = gaussian_heatmaps(torch.cat((near, far)), 64, 64)
    alone = gaussian_heatmaps(near, 64, 64)
    assert float(both[0].max()) == 1.0
    assert float(both[1:].abs().max()) == 0.0
    assert bool((both >= alone).all())
    assert gaussian_heatmaps(torch.zeros(0, 17, 3), 8, 8).shape == (17, 8, 8)


def test_peaks_come_best_first_and_missing_ones_have_score_zero() -> None:
    heat = torch.zeros(1, 1, 16, 16)
    heat[0, 0, 3, 4], heat[0, 0, 10, 12] = 0.5, 0.9
    scores, cells = find_peaks(heat, limit=4)
    assert scores[0, 0].tolist() == pytest.approx([0.9, 0.5, 0.0, 0.0])
    assert torch.allclose(cells[0, 0, :2].round(), torch.tensor([[12.0, 10.0], [4.0, 3.0]]))


def test_a_peak_on_the_border_stays_in_the_picture() -> None:
    heat = gaussian_heatmaps(keypoints_at([(0.0, 63.0)]), 64, 64)
    _, cells = find_peaks(heat[None], limit=1)
    assert cells[0, 0, 0].tolist() == [0.0, 63.0]


@given(st.lists(st.tuples(coordinate, coordinate), min_size=17, max_size=17))
@settings(max_examples=20)
def test_mirrored_keypoints_have_mirrored_heatmaps(places: list[tuple[float, float]]) -> None:
    points = keypoints_at(places)
    heat = gaussian_heatmaps(points, 64, 64)
    assert torch.allclose(flip_heatmaps(heat), gaussian_heatmaps(flip_keypoints(points, 64), 64, 64), atol=1e-4)
    assert torch.allclose(flip_keypoints(flip_keypoints(points, 64), 64), points, atol=1e-4)
    assert torch.equal(flip_heatmaps(flip_heatmaps(heat)), heat)


def test_sampling_between_cells_is_bilinear_and_differentiable() -> None:
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    ramp = (2 * columns + 3 * rows)[None, None].requires_grad_()
    read = sample_at(ramp, torch.tensor([[[1.25, 6.5], [0.0, 0.0]]]))
    assert read[0, :, 0].tolist() == pytest.approx([2 * 1.25 + 3 * 6.5, 0.0])
    read.sum().backward()
    assert ramp.grad is not None
    assert float(ramp.grad.sum()) == pytest.approx(2.0)
