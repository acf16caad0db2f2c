from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.types import NUM_KEYPOINTS
from pipelines.checkpoint import MINI_FOLDER
from pipelines.config import UserError
from pipelines.mini.render import draw as drawing
from pipelines.mini.world import world_from_prompt
from pipelines.train.config import LossConfig
from pipelines.train.model import Parts, load_parts
from pipelines.train.objective import Draws, Objective, draw, load_heatmaps
from prompts.grammar import load_grammar
from prompts.sampling import prompt_at

SHAPE = (8, 16, 16)
TIMES = 1000


@pytest.fixture(scope="module")
def parts() -> Parts:
    return load_parts(MINI_FOLDER)


def batch(count: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    keypoints = torch.zeros(count, 3, NUM_KEYPOINTS, 3)
    keypoints[:, 0, :, :2] = torch.rand(count, NUM_KEYPOINTS, 2, generator=generator) * 63
    keypoints[:, 0, :, 2] = 1
    return {
        "image": torch.randint(256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8),
        "skeleton": torch.randint(256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8),
        "keypoints": keypoints,
        "num_people": torch.ones(count, dtype=torch.int64),
        "caption": ["a painting of a dancer"] * count,
        "key": [str(number) for number in range(count)],
    }


def draws(count: int, dropout: float = 0.0) -> Draws:
    return draw(0, 0, range(count), count, SHAPE, TIMES, dropout)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(0, 10**6), st.sampled_from([1, 2, 4, 8]))
def test_any_number_of_workers_draws_the_same(seed: int, step: int, workers: int) -> None:
    whole = draw(seed, step, range(8), 8, (2, 3, 3), TIMES, 0.5)
    share = 8 // workers
    some = [draw(seed, step, range(r * share, (r + 1) * share), 8, (2, 3, 3), TIMES, 0.5) for r in range(workers)]
    for name in ("noise", "times", "without_text"):
        assert torch.equal(torch.cat([getattr(one, name) for one in some]), getattr(whole, name))
    other = draw(seed, step + 1, range(8), 8, (2, 3, 3), TIMES, 0.5)
    assert not torch.equal(other.noise, whole.noise)


def test_times_are_even_in_a_batch_and_over_batches() -> None:
    times = torch.stack([draw(1, step, range(10), 10, (1, 1, 1), TIMES, 0.0).times for step in range(300)])
    assert (times.sort(1).values // 100 == torch.arange(10)).all()  # a batch: one in each tenth
    first = times[:, 0].double()  # one place: anywhere
    assert abs(float(first.mean()) - 499.5) < 60
    assert first.min() < 40
    assert first.max() > 960


@pytest.mark.parametrize("heat", ["none", "keypoints", "detector"])
def test_gradients_reach_the_whole_unet_and_nothing_else(parts: Parts, heat: Any) -> None:
    heatmaps = load_heatmaps("mini-pose", "cpu")
    config = LossConfig(heat=heat, weight=1.0)
    losses = Objective(parts, config, torch.device("cpu"), heatmaps=heatmaps)(parts.unet, batch(2), draws(2))
    losses.weighted.backward()
    assert all(parameter.grad is not None for parameter in parts.unet.parameters())
    assert all(p.grad is None for part in (parts.vae, parts.text_encoder) for p in part.parameters())
    parts.unet.zero_grad()
    if heat == "none":
        assert torch.equal(losses.weighted, losses.plain)
    else:
        assert 1.0 < float(losses.weighted.detach() / losses.plain) < 2.0


def test_the_detector_weighs_where_a_person_is_missing(parts: Parts) -> None:
    """With the noise of a drawn person taken for none, the decoded error shows that person."""
    picture = drawing(world_from_prompt(prompt_at(load_grammar(), 0, 0, 1), {}), np.random.default_rng(0), 64)
    image = torch.from_numpy(picture.image).permute(2, 0, 1)[None].float() / 127.5 - 1
    latent = parts.encode_images(image)
    objective = Objective(
        parts, LossConfig(weight=1.0), torch.device("cpu"), heatmaps=load_heatmaps("mini-pose", "cpu")
    )
    times = torch.zeros(1, dtype=torch.int64)  # almost no noise: v and the noise are nearly one
    weight = objective._weight(latent, torch.zeros_like(latent), latent, times, {})
    places = picture.people[0].keypoints[:, :2]
    cells = ((places + 0.5) / 4 - 0.5).round().clip(0, 15).astype(int)
    on_joints = weight[0, 0][cells[:, 1], cells[:, 0]].mean()
    assert on_joints > weight.mean() + 0.2


def test_text_left_out_is_the_empty_caption(parts: Parts) -> None:
    objective = Objective(parts, LossConfig(heat="none"), torch.device("cpu"))
    some = batch(2)
    dropped = objective(parts.unet, some, draws(2, dropout=1.0)).plain
    empty = objective(parts.unet, {**some, "caption": ["", ""]}, draws(2)).plain
    kept = objective(parts.unet, some, draws(2)).plain
    assert torch.allclose(dropped, empty)
    assert not torch.allclose(dropped, kept)


def test_stored_latents_train_as_pictures_do(parts: Parts) -> None:
    objective = Objective(parts, LossConfig(heat="keypoints"), torch.device("cpu"))
    some = batch(2)
    stored = {
        "latent": parts.encode_images(some["image"]).half(),
        "skeleton_latent": parts.encode_images(some["skeleton"]).half(),
        "text_states": parts.encode_text(some["caption"]).half(),
        "keypoints": some["keypoints"],
    }
    pictures, latents = objective(parts.unet, some, draws(2)), objective(parts.unet, stored, draws(2))
    assert torch.allclose(pictures.weighted, latents.weighted, rtol=2e-3)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_network_that_knows_the_answer_has_no_loss(parts: Parts, kind: str) -> None:
    """Ho et al. 2020, equation 4; Salimans and Ho 2022, appendix D: v = sqrt(a) noise - sqrt(1 - a) clean."""
    scheduler = type(parts.scheduler).from_config(parts.scheduler.config, prediction_type=kind)
    other = dataclasses.replace(parts, scheduler=scheduler)
    clean = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    some = {"latent": clean, "skeleton_latent": clean, "text_states": parts.encode_text(["", ""]), "keypoints": None}
    drawn = draws(2)
    signal, sigma = (
        value.sqrt()[:, None, None, None]
        for value in (scheduler.alphas_cumprod[drawn.times], 1 - scheduler.alphas_cumprod[drawn.times])
    )

    def unet(both: torch.Tensor, times: torch.Tensor, encoder_hidden_states: torch.Tensor) -> SimpleNamespace:
        noisy, skeleton = both.chunk(2, dim=1)
        assert torch.equal(skeleton, clean)
        torch.testing.assert_close(noisy, signal * clean + sigma * drawn.noise)
        answer = drawn.noise if kind == "epsilon" else signal * drawn.noise - sigma * clean
        return SimpleNamespace(sample=answer)

    loss = Objective(other, LossConfig(heat="none"), torch.device("cpu"))(unet, some, drawn)
    assert float(loss.plain) < 1e-10


def test_a_detector_without_heatmaps_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="unknown detector"):
        load_heatmaps("no-such", "cpu")
