"""What mini-pose learns from: pictures and poses move together; a few steps on drawn figures lower every loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from detectors.mini_net import MiniPoseNet, torso_centers
from detectors.types import FLIP_SWAP, Float32
from pipelines.mini.train.pose import held_out, train_step
from pipelines.mini.train.pose_data import WEARS, Drawings, Image, augment, move, nothing


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads on a busy machine wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def dotted(places: Float32) -> tuple[Image, Float32]:
    """A grey picture with a bright spot at each of 17 places, and those as keypoints of one person."""
    rows, columns = np.mgrid[0:64, 0:64]
    light = np.zeros((64, 64))
    for x, y in places:
        light = np.maximum(light, np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 4.5))
    keypoints = np.zeros((3, 17, 3), np.float32)
    keypoints[0, :, :2], keypoints[0, :, 2] = places, 1
    return np.asarray(np.repeat((light * 255)[..., None], 3, axis=2), np.uint8), keypoints


def spread_places(seed: int) -> Float32:
    """17 places at least 7 px apart."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(14, 52, 9), np.arange(14, 52, 9)), -1).reshape(-1, 2)
    return np.asarray(rng.permutation(grid)[:17] + rng.uniform(-1, 1, (17, 2)), np.float32)


@pytest.mark.parametrize("seed", range(6))
def test_moved_keypoints_stay_on_what_they_mark(seed: int) -> None:
    image, keypoints = dotted(spread_places(seed))
    moved, places, areas = move(image, keypoints, np.array([300, 0, 0], np.float32), np.random.default_rng(seed))
    seen = 0
    for x, y, confidence in places[0]:
        if confidence and 2 < x < 61 and 2 < y < 61:
            window = moved[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3, 0].astype(float)
            rows, columns = np.mgrid[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3]
            assert abs((window * columns).sum() / window.sum() - x) < 0.4
            assert abs((window * rows).sum() / window.sum() - y) < 0.4
            seen += 1
    assert seen >= 9
    assert 300 * 0.5 < areas[0] < 300 * 1.3


def test_mirrored_pictures_have_left_and_right_exchanged() -> None:
    image, keypoints = dotted(spread_places(3))
    for seed in range(40):
        rng = np.random.default_rng(seed)
        made, places, _ = augment(image, keypoints, np.array([300, 0, 0], np.float32), rng)
        if np.array_equal(made, image[:, ::-1]):
            assert np.allclose(places[0, :, 0], 63 - keypoints[0, list(FLIP_SWAP), 0])
            assert np.allclose(places[0, :, 1], keypoints[0, list(FLIP_SWAP), 1])
            assert not places[1:].any()
            return
    pytest.fail("no picture of 40 was only mirrored")


@pytest.mark.parametrize("index", range(len(WEARS)))
def test_wear_keeps_shape_and_most_of_the_picture(index: int) -> None:
    image = held_out(1)[0][0]
    worn = WEARS[index](image, np.random.default_rng(0))
    assert worn.shape == image.shape
    assert worn.dtype == np.uint8
    assert 0 < np.abs(worn.astype(int) - image).mean() < 40


def test_pictures_of_nothing_differ_and_keep_the_pieces_of_a_shuffled_one() -> None:
    image = held_out(1)[0][0]
    made = [nothing(image, np.random.default_rng(seed)) for seed in range(12)]
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in made)
    assert len({one.tobytes() for one in made}) == 12
    shuffled = [one for one in made if np.array_equal(np.sort(one, axis=None), np.sort(image, axis=None))]
    assert 0 < len(shuffled) < 12


def test_the_same_seed_draws_the_same_batches() -> None:
    first, second = Drawings(5, 64, 0.5), Drawings(5, 64, 0.5)
    for _ in range(2):
        one, other = first.batch(6), second.batch(6)
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.keypoints, other.keypoints)
    assert (one.areas > 0).any()


def test_held_out_pictures_do_not_depend_on_how_many_are_asked_for() -> None:
    assert np.array_equal(held_out(3)[0][2], held_out(5)[0][2])


def test_a_torso_outside_the_picture_gives_a_centre_inside() -> None:
    keypoints = torch.zeros(2, 17, 3)
    keypoints[0, (5, 6, 11, 12)] = torch.tensor([[10.0, 20, 1], [20, 20, 1], [10, 40, 0.5], [20, 40, 0.5]])
    keypoints[1, 0] = torch.tensor([3.0, 5.0, 1.0])
    assert torso_centers(keypoints, 64, 64).tolist() == [[15.0, 30.0], [3.0, 5.0]]


def test_some_steps_on_one_batch_lower_the_loss() -> None:
    torch.manual_seed(0)
    net = MiniPoseNet(widths=(8, 16, 16), fine=16, token=16)
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3)
    batch = Drawings(1, 8, 1.0).batch(8)
    totals = []
    for _ in range(12):
        losses = train_step(net, batch)
        assert set(losses) == {
            "centers", "joints", "coarse", "refined", "final", "confidence", "person", "quality",
        }  # fmt: skip
        total = sum(losses.values(), torch.zeros(()))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.7 * totals[0]
    assert all(parameter.grad is not None for parameter in net.parameters())
