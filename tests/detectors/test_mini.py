"""`mini-pose` finds drawn people, tells left from right, and gives the same answer whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from detectors import load_detector
from detectors.heatmap import find_peaks, to_pixels
from detectors.mini import Fit, Image, MiniPose, keypoint_box, letterbox
from detectors.types import FLIP_SWAP, Person
from pipelines.evaluate.keypoints import evaluate_people
from pipelines.mini.render import draw
from pipelines.mini.world import World, random_world

Pictures = tuple[list[Image], list[tuple[Person, ...]]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads on a busy machine wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def detector() -> MiniPose:
    return MiniPose(batch_size=16)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """64 drawn pictures such as prompts ask for, with nobody to three people."""
    drawings = []
    for seed in range(64):
        rng = np.random.default_rng((42, seed))
        drawings.append(draw(replace(random_world(rng), wide=False), rng))
    return [drawing.image for drawing in drawings], [drawing.people for drawing in drawings]


def clear_pictures(number: int) -> list[Image]:
    """One large figure each, waving, in a cartoon."""
    world = World(scene="cartoon", num_people=1, pose="wave", place="field")
    return [draw(world, np.random.default_rng(seed)).image for seed in range(number)]


def same(a: tuple[Person, ...], b: tuple[Person, ...]) -> bool:
    return len(a) == len(b) and all(
        p.score == q.score and p.bbox == q.bbox and np.array_equal(p.keypoints, q.keypoints)
        for p, q in zip(a, b, strict=True)
    )


def test_drawn_people_are_found(detector: MiniPose, pictures: Pictures) -> None:
    images, truth = pictures
    scores = evaluate_people(truth, detector.detect(images), 64)
    assert scores.ap > 0.7
    assert scores.count_accuracy > 0.95
    assert scores.false_people < 0.03
    assert scores.swap_rate < 0.05


def test_answers_do_not_depend_on_place_or_neighbours_in_the_batch(detector: MiniPose, pictures: Pictures) -> None:
    images = pictures[0][:20]
    together = detector.detect(images)
    backwards = detector.detect(images[::-1])[::-1]
    assert all(same(a, b) for a, b in zip(together, backwards, strict=True))
    assert same(detector.detect(images[7:8])[0], together[7])
    assert detector.detect([]) == []


def test_people_come_best_first_with_sane_values(detector: MiniPose, pictures: Pictures) -> None:
    for people in detector.detect(pictures[0][:32]):
        assert [p.score for p in people] == sorted((p.score for p in people), reverse=True)
        for person in people:
            x, y, width, height = person.bbox
            assert 0 <= x < x + width <= 64
            assert 0 <= y < y + height <= 64
            assert 0 < person.score <= 1
            assert person.area == pytest.approx(width * height * 0.53)
            assert person.keypoints.shape == (17, 3)
            assert person.keypoints.dtype == np.float32
            assert ((person.keypoints[:, 2] >= 0) & (person.keypoints[:, 2] <= 1)).all()


def test_nobody_is_found_where_nobody_is(detector: MiniPose) -> None:
    flat = [np.full((64, 64, 3), level, np.uint8) for level in (0, 127, 255)]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert detector.detect([*flat, noise]) == [(), (), (), ()]


def test_mirrored_pictures_have_mirrored_people(detector: MiniPose) -> None:
    images = clear_pictures(8)
    straight = detector.detect(images)
    turned = detector.detect([np.ascontiguousarray(image[:, ::-1]) for image in images])
    off = []
    for people, others in zip(straight, turned, strict=True):
        assert len(people) == len(others) == 1
        back = others[0].keypoints[list(FLIP_SWAP)].copy()
        back[:, 0] = 63 - back[:, 0]
        off.append(np.hypot(*(back - people[0].keypoints)[:, :2].T).mean())
    assert np.median(off) < 1.0


def test_other_sizes_and_shapes_give_keypoints_in_their_own_pixels(detector: MiniPose) -> None:
    image = clear_pictures(1)[0]
    (small,) = detector.detect([image])[0]
    large = cv2.resize(image, (256, 256), interpolation=cv2.INTER_CUBIC)
    (found,) = detector.detect([large])[0]
    assert np.abs((found.keypoints[:, :2] + 0.5) / 4 - 0.5 - small.keypoints[:, :2]).mean() < 0.5
    wide = np.full((128, 192, 3), 127, np.uint8)
    wide[:, 40:168] = cv2.resize(image, (128, 128), interpolation=cv2.INTER_CUBIC)
    (found,) = detector.detect([wide])[0]
    places = (found.keypoints[:, :2] - (40, 0) + 0.5) / 2 - 0.5
    assert np.abs(places - small.keypoints[:, :2]).mean() < 1.5


def test_heatmaps_peak_at_keypoints_and_carry_gradients(detector: MiniPose) -> None:
    images = clear_pictures(4)
    batch = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1).requires_grad_()
    live = detector.heatmaps(batch)
    live.sum().backward()
    heat = live.detach()
    assert heat.shape == (4, 17, 32, 32)
    assert 0 <= float(heat.min()) < float(heat.max()) <= 1
    assert batch.grad is not None
    assert float(batch.grad.abs().max()) > 0
    _, cells = find_peaks(heat, 1)
    found = detector.detect(images)
    off = [
        np.hypot(*(to_pixels(cells[index, :, 0], 2).numpy() - people[0].keypoints[:, :2]).T)
        for index, people in enumerate(found)
    ]
    assert np.median(off) < 1.5
    with torch.no_grad():
        assert detector.heatmaps(torch.zeros(1, 3, 128, 96)).shape == (1, 17, 32, 24)
        assert not detector.heatmaps(batch).requires_grad


def test_letterbox_and_its_inverse_agree() -> None:
    for height, width in ((64, 64), (100, 37), (30, 200), (512, 512)):
        boxed, fit = letterbox(np.full((height, width, 3), 200, np.uint8))
        assert boxed.shape == (64, 64, 3)
        corner = np.array((fit.left, fit.top), np.float32)
        assert np.allclose(fit.back(corner - 0.5), (-0.5, -0.5), atol=1e-3)
        assert (boxed == 200).all(-1).sum() == round(height * 64 / max(height, width)) * round(
            width * 64 / max(height, width)
        )
    assert Fit(1.0, 0, 0).back(np.array([[3.0, 4.0]], np.float32)).tolist() == [[3.0, 4.0]]


def test_boxes_hold_the_sure_keypoints_and_stay_in_the_picture() -> None:
    keypoints = np.zeros((17, 3), np.float32)
    keypoints[:3] = (10, 10, 1), (30, 50, 1), (20, 30, 0.5)
    keypoints[3] = (60, 60, 0.1)
    x, y, width, height = keypoint_box(keypoints, 64, 64)
    assert x < 10 < 30 < x + width < 40
    assert y < 10 < 50 < y + height < 60
    keypoints[0, :2] = -20
    assert keypoint_box(keypoints, 64, 64)[:2] == (0.0, 0.0)


def test_detectors_are_loaded_by_name() -> None:
    assert load_detector("mini-pose", batch_size=4).name == "mini-pose"
    with pytest.raises(ValueError, match="unknown detector 'minipose'; known: mini-pose"):
        load_detector("minipose")
    with pytest.raises(ValueError, match="batch_size is 0"):
        load_detector("mini-pose", batch_size=0)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    save_file({"some.weight": torch.zeros(3)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(RuntimeError, match="Missing key"):
        MiniPose(tmp_path / "other.safetensors")
