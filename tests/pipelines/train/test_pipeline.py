from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

from detectors.types import NUM_KEYPOINTS, Person
from pipelines.checkpoint import MINI_FOLDER
from pipelines.train.model import load_parts
from pipelines.train.output import save_model
from pipelines.train.pipeline import HumanSDPipeline, draw_poses

NEGATIVE = "low quality"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature base, grown and not yet trained, saved as a training does."""
    return save_model(load_parts(MINI_FOLDER).unet, MINI_FOLDER, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def pipe(model: Path) -> Any:
    loaded = HumanSDPipeline.from_pretrained(model)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def poses(seed: int, people: int = 2) -> np.ndarray[Any, np.dtype[np.float32]]:
    keypoints = np.random.default_rng(seed).uniform(0, 64, (people, NUM_KEYPOINTS, 3)).astype(np.float32)
    keypoints[..., 2] = 1
    return keypoints


def images(pipe: Any, seed: int, *given: Any, **options: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    generator = torch.Generator().manual_seed(seed)
    options = {"num_inference_steps": 4, "output_type": "np", "generator": generator, **options}
    found: np.ndarray[Any, np.dtype[np.float32]] = pipe(*given, **options).images
    return found


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_before_training_it_draws_what_its_base_draws(pipe: Any, guidance: float) -> None:
    """With and without guidance, whatever the poses: all but the skeleton is the base's own sampling."""
    base = StableDiffusionPipeline.from_pretrained(MINI_FOLDER, safety_checker=None, requires_safety_checker=False)
    base.set_progress_bar_config(disable=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(base.scheduler.config)
    base.scheduler = DPMSolverMultistepScheduler.from_config(base.scheduler.config)
    options = {"guidance_scale": guidance, "negative_prompt": NEGATIVE}
    expected = images(base, 3, "a dancer", **options, height=64, width=64)
    assert np.allclose(images(pipe, 3, "a dancer", poses(0), **options), expected, atol=2e-3)
    assert np.allclose(images(pipe, 3, "a dancer", poses(1, 1), **options), expected, atol=2e-3)


def test_the_skeleton_counts_once_it_is_trained(pipe: Any) -> None:
    before = pipe.unet.conv_in.weight.detach().clone()
    with torch.no_grad():
        pipe.unet.conv_in.weight[:, 8:] = 0.05
    try:
        one, other = images(pipe, 0, "a dancer", poses(0)), images(pipe, 0, "a dancer", poses(1))
    finally:
        with torch.no_grad():
            pipe.unet.conv_in.weight.copy_(before)
    assert np.abs(one - other).mean() > 0.01


def test_people_and_arrays_are_the_same_poses(pipe: Any) -> None:
    keypoints = poses(0)
    people = [Person((0.0, 0.0, 1.0, 1.0), 1.0, 1.0, one) for one in keypoints]
    assert np.array_equal(draw_poses(people, 64, 64), draw_poses(keypoints, 64, 64))
    assert draw_poses(keypoints, 64, 64).any()
    drawn = pipe(["a cook", "a cook"], [people, keypoints[:1]], num_inference_steps=2).images
    assert [image.size for image in drawn] == [(64, 64), (64, 64)]


def test_other_sizes_can_be_drawn(pipe: Any) -> None:
    assert images(pipe, 0, "a cook", poses(0), height=80, width=48).shape == (1, 80, 48, 3)


@pytest.mark.parametrize(
    ("prompt", "given", "message"),
    [
        ("a cook", np.zeros((2, 21, 3)), r"must be people or an array \(P, 17, 3\)"),
        (["a cook", "a baker"], [np.zeros((1, 17, 3))], "2 prompts, but poses for 1 pictures"),
    ],
)
def test_what_does_not_fit_is_told(pipe: Any, prompt: Any, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(prompt, given)


def test_a_base_that_takes_no_skeleton_is_told() -> None:
    base = HumanSDPipeline.from_pretrained(MINI_FOLDER, safety_checker=None, requires_safety_checker=False)
    with pytest.raises(ValueError, match="takes 8 channels, a skeleton needs 16"):
        base("a cook", poses(0))
