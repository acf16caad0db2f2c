"""Keypoints are grouped into the people they belong to: exactly on drawn maps, and as mmpose's codec does on noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detectors.grouping import Candidates, Grouping, decode, find_candidates, group
from detectors.heatmap import gaussian_heatmaps

SIZE = 128
TAG_GAP = 2.5
"""Distance of two people's tags; 1 is where one person ends."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def crowd(seed: int, number: int, hidden: float = 0.0) -> Tensor:
    """People (P, 17, 3) apart from each other: one in each of nine fields, their keypoints anywhere in it."""
    rng = np.random.default_rng(seed)
    fields = rng.permutation(9)[:number]
    centers = np.stack((fields % 3, fields // 3), axis=-1) * 42.0 + 22.0
    places = centers[:, None] + rng.uniform(-13, 13, (number, 17, 2))
    seen = rng.random((number, 17, 1)) >= hidden
    seen[:, 0] = True
    return torch.from_numpy(np.concatenate((places, seen), axis=2)).float()


def maps_of(people: Tensor, seed: int, noise: float = 0.1, tags_each: int = 1) -> tuple[Tensor, Tensor]:
    """Heatmaps (17, h, w) and tags (L * 17, h, w) that a perfect network gives for people (P, 17, 3)."""
    rng = np.random.default_rng(seed)
    heat = gaussian_heatmaps(people, SIZE, SIZE, sigma=2.0) * 0.9
    near = torch.stack([gaussian_heatmaps(person[None], SIZE, SIZE, sigma=2.0) for person in people])
    owner = near.argmax(0)
    sets = []
    for _ in range(tags_each):
        values = torch.from_numpy(rng.permutation(len(people)) * TAG_GAP + rng.uniform(-3, 3)).float()
        sets.append(values[owner] + torch.from_numpy(rng.uniform(-noise, noise, owner.shape)).float())
    return heat, torch.cat(sets)


@given(st.integers(0, 2**20), st.integers(0, 9), st.booleans(), st.sampled_from((1, 2)))
@settings(max_examples=25)
def test_people_apart_come_back_as_they_were(seed: int, number: int, udp: bool, tags_each: int) -> None:
    people = crowd(seed, number)
    if not number:
        heat, tags = torch.zeros(17, SIZE, SIZE), torch.zeros(17 * tags_each, SIZE, SIZE)
    else:
        heat, tags = maps_of(people, seed, tags_each=tags_each)
    (found,) = decode(heat[None], tags[None], Grouping(udp=udp))
    assert found.places.shape == (number, 17, 2)
    assert bool(found.found.all())
    for person in people:
        off = np.abs(found.places - person[:, :2].numpy()).max((1, 2))
        assert off.min(initial=np.inf) < (0.05 if udp else 0.5)
    assert found.score == pytest.approx(found.heat.mean(1), abs=1e-6)
    assert ((found.score > 0.75) & (found.score <= 0.9)).all()


@given(st.integers(0, 2**20))
@settings(max_examples=10)
def test_a_hidden_keypoint_is_a_guess_and_lowers_the_score(seed: int) -> None:
    people = crowd(seed, 4, hidden=0.3)
    heat, tags = maps_of(people, seed)
    (found,) = decode(heat[None], tags[None], Grouping(udp=True))
    assert found.places.shape[0] == 4
    for person in people:
        seen = person[:, 2].numpy() > 0
        off = np.abs(found.places - person[:, :2].numpy()).max(2)
        row = int(off[:, seen].max(1).argmin())
        assert off[row, seen].max() < 0.05
        assert np.array_equal(found.found[row], seen)
        assert found.score[row] == pytest.approx(found.heat[row][seen].sum() / 17, abs=1e-6)
        assert np.isfinite(found.places[row]).all()


def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    pairs = [maps_of(crowd(seed, 1 + seed), seed) for seed in range(4)]
    heat, tags = (torch.stack(maps) for maps in zip(*pairs, strict=True))
    together = decode(heat, tags, Grouping(udp=True))
    assert [len(people.score) for people in together] == [1, 2, 3, 4]
    for row, people in enumerate(together):
        (alone,) = decode(heat[row : row + 1], tags[row : row + 1], Grouping(udp=True))
        assert all(np.array_equal(a, b) for a, b in zip(people, alone, strict=True))


def test_people_with_the_same_tags_are_not_told_apart_but_none_has_two_noses() -> None:
    people = crowd(1, 3)
    heat, _ = maps_of(people, 1)
    (found,) = decode(heat[None], torch.zeros(1, 17, SIZE, SIZE), Grouping(udp=True))
    noses = {tuple(np.round(place)) for place in found.places[:, 0]}
    assert len(found.score) == 3
    assert len(noses) == 3


def test_no_more_people_are_made_than_allowed_whatever_the_maps_hold() -> None:
    torch.manual_seed(0)
    heat, tags = torch.rand(1, 17, 64, 64), torch.randn(1, 17, 64, 64) * 1000
    (found,) = decode(heat, tags, Grouping(udp=False, most_people=7))
    assert len(found.score) == 7
    assert np.isfinite(found.places).all()
    (found,) = decode(torch.rand(1, 17, 4, 3), torch.zeros(1, 17, 4, 3), Grouping(udp=True))
    assert np.isfinite(found.places).all()


def test_candidates_are_the_highest_of_their_window_best_first() -> None:
    heat, tags = torch.zeros(1, 1, 16, 16), torch.zeros(1, 2, 1, 16, 16)
    heat[0, 0, 3, 4], heat[0, 0, 3, 6], heat[0, 0, 10, 12] = 0.5, 0.4, 0.9
    tags[0, :, 0, 10, 12] = torch.tensor((7.0, 8.0))
    found = find_candidates(heat, tags, Grouping(udp=False, candidates=3))
    assert found.heat[0, 0].tolist() == pytest.approx([0.9, 0.5, 0.0])
    assert found.cells[0, 0, :2].tolist() == [10 * 16 + 12, 3 * 16 + 4]
    assert found.tags[0, 0, 0].tolist() == [7.0, 8.0]


def test_between_two_people_as_near_the_nearer_is_taken() -> None:
    heat = np.array([[0.9, 0.8], [0.9, 0.8]], np.float32)
    tags = np.array([[[0.0], [0.4]], [[0.35], [0.05]]], np.float32)
    chosen = group(Candidates(heat, tags, np.zeros((2, 2), np.int64)), Grouping(udp=False, order=(0, 1)))
    assert chosen.tolist() == [[0, 1], [1, 0]]


@given(st.integers(0, 2**20), st.sampled_from((1, 2)))
@settings(max_examples=6)
def test_crowds_are_grouped_as_mmpose_groups_them(seed: int, tags_each: int) -> None:
    codecs = pytest.importorskip("mmpose.codecs")
    grouping = Grouping(udp=False, shift=0.5)
    codec = codecs.AssociativeEmbedding(
        (SIZE, SIZE),
        (SIZE, SIZE),
        decode_keypoint_order=list(grouping.order),
        decode_center_shift=grouping.shift,
        decode_max_instances=grouping.most_people,
    )
    rng = np.random.default_rng(seed)
    heat, tags = maps_of(crowd(seed, 9, hidden=0.3), seed, tags_each=tags_each)
    heat = heat * torch.from_numpy(rng.uniform(0.2, 1.0, (17, 1, 1))).float()
    heat += torch.from_numpy(rng.uniform(0, 0.01, heat.shape)).float()
    (found,) = decode(heat[None], tags[None], grouping)
    ((places,), (heats,), (scores,)) = codec.batch_decode(heat[None].clone(), tags[None].clone())
    assert len(found.score) == len(scores) == 9
    assert np.abs(found.places - places).max() < 1e-3
    assert np.abs(found.heat - heats).max() < 1e-6
    assert np.abs(found.score - scores).max() < 1e-6


def test_unbiased_places_are_refined_as_mmpose_refines_them() -> None:
    refinement = pytest.importorskip("mmpose.codecs.utils.refinement")
    people = crowd(3, 5)
    heat, tags = maps_of(people, 3)
    (found,) = decode(heat[None], tags[None], Grouping(udp=True))
    expected = refinement.refine_keypoints_dark_udp(found.places.round().copy(), heat.numpy().copy(), 3)
    assert np.abs(found.places - expected).max() < 1e-3
