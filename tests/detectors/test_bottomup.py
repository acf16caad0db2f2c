"""People and poses at once: as mmpose's own inference finds them, in pictures of any size; heatmaps for the loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("mmpose")

from detectors import load_detector, weights
from detectors.bottomup import AE_CONFIG, BottomUp, Image, build_ae_hrnet, fit, grouping_of
from detectors.grouping import Grouping
from detectors.higherhrnet import HigherHRNet
from detectors.types import Person
from detectors.weights import CHECKPOINTS, Checkpoint


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def smooth(seed: int, height: int, width: int) -> Image:
    """A picture of soft blobs."""
    blobs = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3)).astype(np.uint8)
    picture: Image = cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC)
    return picture


def lively(final_layer: nn.Conv2d) -> None:
    """Random weights that give a last layer of heat then tags some maxima, and tags far apart."""
    torch.manual_seed(0)
    half = final_layer.out_channels // 2
    nn.init.normal_(final_layer.weight[:half], std=0.12)
    nn.init.normal_(final_layer.weight[half:], std=20.0)


@pytest.fixture(scope="module")
def small() -> BottomUp:
    """HigherHRNet at a sixth of its width, random weights."""
    torch.manual_seed(0)
    net = HigherHRNet(8)
    lively(net.keypoint_head.final_layers[0])  # type: ignore[arg-type]
    return BottomUp("small", net, Grouping(udp=True), 2, batch_size=2, min_score=0.0)


def same(a: tuple[Person, ...], b: tuple[Person, ...]) -> bool:
    return len(a) == len(b) and all(
        p.score == q.score and p.bbox == q.bbox and np.array_equal(p.keypoints, q.keypoints)
        for p, q in zip(a, b, strict=True)
    )


def test_ae_hrnet_finds_what_mmpose_finds() -> None:
    import mmpose
    from mmpose.apis import inference_bottomup, init_model

    config = Path(mmpose.__file__).parent / ".mim" / "configs" / AE_CONFIG
    torch.manual_seed(0)
    theirs = init_model(str(config), device="cpu")
    lively(theirs.head.final_layer)
    net = build_ae_hrnet()
    net.estimator.load_state_dict(theirs.state_dict())
    grouping = grouping_of(theirs.head.decoder)
    detector = BottomUp("ae-hrnet-w32", net, grouping, 1, batch_size=1, flip_test=True, min_score=0.0)
    for picture in (smooth(1, 512, 512), smooth(2, 400, 544)):
        (people,) = detector.detect([picture])
        (result,) = inference_bottomup(theirs, np.ascontiguousarray(picture[..., ::-1]))
        expected = result.pred_instances
        order = np.argsort(-expected.bbox_scores, kind="stable")
        assert len(people) == len(order) > 5
        found = np.stack([person.keypoints for person in people])
        off = np.abs(found[..., :2] - expected.keypoints[order]).max(2)
        assert np.mean(off < 1e-3) > 0.99  # not all: equal heat in two cells beside each other is anyone's choice
        assert np.mean(np.abs(found[..., 2] - expected.keypoint_scores[order].clip(0, 1)) < 1e-5) > 0.99
        assert np.allclose([person.score for person in people], expected.bbox_scores[order], atol=1e-5)


def test_checkpoints_of_2020_load_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUMANSD_CACHE", str(tmp_path))
    name = "ae-hrnet-w32-coco"
    changed = [
        Checkpoint(one.name, one.task, one.url, None, None, one.licence, one.ap, one.measured)
        if one.name == name
        else one
        for one in CHECKPOINTS
    ]
    monkeypatch.setattr(weights, "CHECKPOINTS", tuple(changed))
    state = build_ae_hrnet().estimator.state_dict()
    old = {key.replace("head.", "keypoint_head."): torch.full_like(value, 2) for key, value in state.items()}
    path = weights.path_of(weights.get(name))
    torch.save({"meta": {"time": "2020"}, "state_dict": old}, path, _use_new_zipfile_serialization=False)
    detector = load_detector("ae-hrnet-w32")
    path.unlink()
    assert isinstance(detector, BottomUp)
    state = {name: value for name, value in detector.net.state_dict().items() if "head." in name}
    assert state
    assert all(bool((value == 2).all()) for value in state.values())


def test_answers_do_not_depend_on_place_neighbours_or_other_sizes(small: BottomUp) -> None:
    pictures = [smooth(1, 256, 256), smooth(2, 128, 192), smooth(3, 512, 512), smooth(4, 192, 128)]
    together = small.detect(pictures)
    assert all(len(people) > 0 for people in together)
    backwards = small.detect(pictures[::-1])[::-1]
    assert all(same(a, b) for a, b in zip(together, backwards, strict=True))
    assert same(small.detect(pictures[2:3])[0], together[2])
    assert small.detect([]) == []


def test_people_have_sane_values_and_come_best_first(small: BottomUp) -> None:
    (people,) = small.detect([smooth(1, 300, 400)])
    assert [p.score for p in people] == sorted((p.score for p in people), reverse=True)
    for person in people:
        x, y, width, height = person.bbox
        assert 0 <= x < x + width <= 400
        assert 0 <= y < y + height <= 300
        assert 0 <= person.score <= 1
        assert person.keypoints.shape == (17, 3)
        assert person.keypoints.dtype == np.float32
        assert ((person.keypoints[:, 2] >= 0) & (person.keypoints[:, 2] <= 1)).all()
    strict = BottomUp("strict", small.net, small.grouping, 2, batch_size=2, min_score=people[0].score)
    assert len(strict.detect([smooth(1, 300, 400)])[0]) == 1


def test_heatmaps_are_in_range_and_follow_the_picture(small: BottomUp) -> None:
    pictures = torch.rand(1, 3, 512, 512) * 2 - 1
    pictures.requires_grad_()
    live = small.heatmaps(pictures)
    assert live.shape == (1, 17, 256, 256)
    assert live.dtype == torch.float32
    assert 0 <= float(live.min().detach()) < float(live.max().detach()) <= 1
    live.sum().backward()
    assert pictures.grad is not None
    assert float(pictures.grad.abs().max()) > 0
    with torch.no_grad():
        assert not small.heatmaps(pictures).requires_grad
        assert small.heatmaps(torch.zeros(1, 3, 64, 96)).shape == (1, 17, 256, 384)
        raw, _ = small.net(small._normalise((pictures + 1) * 127.5))
    assert torch.equal(live.detach(), raw.clamp(0, 1))


@pytest.mark.parametrize("udp", [True, False])
@pytest.mark.parametrize(("height", "width"), [(512, 512), (480, 640), (640, 427), (100, 1000), (1, 1), (3, 4000)])
def test_pictures_of_any_shape_are_brought_to_bounded_sizes_and_back(height: int, width: int, udp: bool) -> None:
    own = fit(height, width, udp)
    assert own.height % 64 == own.width % 64 == 0
    assert 64 <= min(own.height, own.width) <= 512 <= max(own.height, own.width) <= 1536
    if (height, width) == (512, 512):
        assert (own.scale, own.left, own.top) == (1.0, 0.0, 0.0)
    if 512 * max(height, width) <= 1536 * min(height, width):
        assert min(own.height, own.width) == 512
    corners = np.array(((0, 0), (width - 1, height - 1)), np.float32)
    inside = corners * own.scale + (own.left, own.top)
    assert (inside > -1).all()
    assert (inside < (own.width, own.height)).all()
    assert np.allclose(own.back(inside.astype(np.float32)), corners, atol=1e-2)


@pytest.mark.parametrize("udp", [True, False])
def test_what_lies_in_the_picture_lies_there_in_the_input(udp: bool) -> None:
    picture = np.zeros((300, 420, 3), np.uint8)
    cv2.circle(picture, (130, 90), 12, (255, 255, 255), -1)
    own = fit(300, 420, udp)
    seen = own.warp(picture)[..., 0].astype(np.float64)
    rows, columns = np.indices(seen.shape)
    middle = np.array(((columns * seen).sum(), (rows * seen).sum())) / seen.sum()
    assert np.allclose(own.back(middle.astype(np.float32)), (130, 90), atol=0.1)


def test_a_batch_size_below_one_is_refused(small: BottomUp) -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        BottomUp("small", small.net, small.grouping, 2, batch_size=0)
