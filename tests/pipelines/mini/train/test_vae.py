import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.mini.train.vae import chroma_loss, gradient_loss, to_tensor


@given(seed=st.integers(0, 1000), shift=st.floats(-1, 1))
def test_brightness_is_no_chroma_and_no_gradient(seed: int, shift: float) -> None:
    picture = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    assert chroma_loss(picture, picture + shift) < 1e-6
    assert gradient_loss(picture, picture + shift) < 1e-6


def test_a_wrong_hue_costs() -> None:
    red, green = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    red[:, 0], green[:, 1] = 1, 1
    assert chroma_loss(red, green) > 0.5


def test_pictures_become_tensors_in_range() -> None:
    picture = np.array([[[[0, 128, 255]]]], np.uint8)
    assert to_tensor(picture).flatten().tolist() == pytest.approx([-1.0, 128 / 127.5 - 1, 1.0], abs=1e-6)
