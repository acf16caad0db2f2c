from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from pipelines.train import loss
from pipelines.train.pipeline import draw_poses

SEEDS = st.integers(0, 2**32 - 1)


def tensors(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@given(SEEDS, st.floats(0.1, 10))
def test_no_weight_is_plain_mse_to_the_bit(seed: int, scale: float) -> None:
    predicted, target, heat = tensors(seed, (3, 4, 8, 8), (3, 4, 8, 8), (3, 17, 8, 8))
    mask = loss.mask_of(heat * scale, 8, 8, 0.05)
    weighted = loss.weighted_mse(predicted, target, loss.loss_weight(mask, 0.0))
    assert torch.equal(weighted, F.mse_loss(predicted, target))


@given(SEEDS, st.floats(0, 5), st.sampled_from([4, 8, 16, 23]))
def test_weights_are_between_one_and_one_more_than_the_weight(seed: int, w_g: float, size: int) -> None:
    (heat,) = tensors(seed, (2, 17, 16, 16))
    weight = loss.loss_weight(loss.mask_of(heat * 3, size, size, 0.05), w_g)
    assert weight.shape == (2, 1, size, size)
    assert (weight >= 1).all()
    assert (weight <= 1 + w_g + 1e-6).all()


@given(st.integers(1, 14), st.integers(1, 14), st.sampled_from([1.0, 0.4]))
def test_weights_peak_on_the_joints(column: int, row: int, sigma: float) -> None:
    keypoints = torch.zeros(1, 2, 17, 3)  # the second person is padding
    keypoints[0, 0, :] = torch.tensor([4 * column + 1.5, 4 * row + 1.5, 1.0])  # the middle of that cell
    heat = loss.keypoint_heat(keypoints, 16, 16, stride=4, sigma=sigma)
    weight = loss.loss_weight(loss.mask_of(heat, 16, 16, 0.05), 0.5)
    assert weight.flatten().argmax() == row * 16 + column
    assert torch.isclose(weight.max(), torch.tensor(1.5))
    assert (weight == 1).float().mean() > 0.5  # the ground counts once


@pytest.mark.parametrize(("confidence", "counts"), [(0.0, False), (0.019, False), (0.02, True)])
def test_a_joint_weighs_where_the_skeleton_shows_it(confidence: float, counts: bool) -> None:
    keypoints = torch.full((1, 1, 17, 3), 8.0)
    keypoints[..., 2] = confidence
    assert loss.keypoint_heat(keypoints, 4, 4, 4, 1.0).any() == counts
    assert draw_poses(keypoints[0].numpy(), 16, 16).any() == counts


def test_faint_heat_is_none() -> None:
    heat = torch.full((1, 17, 4, 4), 0.049)
    heat[0, 3, 1, 1] = 0.05
    mask = loss.mask_of(heat, 4, 4, 0.05)
    assert mask.count_nonzero() == 1
    assert torch.isclose(mask[0, 0, 1, 1], torch.tensor(0.05))


def test_gradients_flow_through_the_prediction_alone() -> None:
    predicted, target, heat = (x.requires_grad_() for x in tensors(0, (1, 4, 4, 4), (1, 4, 4, 4), (1, 17, 4, 4)))
    weight = loss.loss_weight(loss.mask_of(heat, 4, 4, 0.05), 0.5)
    loss.weighted_mse(predicted, target.detach(), weight).backward()
    expected = 2 * weight * (predicted - target).detach() / predicted.numel()
    assert predicted.grad is not None
    assert torch.allclose(predicted.grad, expected)
    assert heat.grad is None
    assert not weight.requires_grad


@given(SEEDS, st.floats(0, 1))
def test_velocity_and_noise_say_the_same(seed: int, alpha: float) -> None:
    clean, noise = tensors(seed, (2, 4, 8, 8), (2, 4, 8, 8))
    a = torch.tensor(alpha)
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
    found = loss.noise_of(velocity, noisy, torch.full((2,), alpha), "v_prediction")
    assert torch.allclose(found, noise, atol=1e-5)
    assert loss.noise_of(noise, noisy, torch.full((2,), alpha), "epsilon") is noise
