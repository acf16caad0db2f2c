"""People, then poses: equal to mmpose's own inferencer, and the same whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("mmpose")

from detectors import load_detector
from detectors.decode import decode
from detectors.mm import ModelFiles
from detectors.person import PersonDetector
from detectors.pose import PoseEstimator
from detectors.topdown import TopDown
from detectors.types import Person
from pipelines.mini.train.mm_data import drawn
from tests.detectors.small_mm import as_saved_by_mmengine, pictures, small_model

Make = Callable[[str], ModelFiles]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return the files of a small network, written once."""
    folder, made = tmp_path_factory.mktemp("small"), dict[str, ModelFiles]()

    def small(kind: str) -> ModelFiles:
        if kind not in made:
            made[kind] = small_model(kind, folder)
        return made[kind]

    return small


@pytest.fixture(scope="module")
def detector(make: Make) -> TopDown:
    return TopDown("small", PersonDetector(make("rtmdet"), batch_size=3), PoseEstimator(make("rtmpose"), batch_size=8))


def inferencer(person: ModelFiles, pose: ModelFiles, flip_test: bool) -> Any:
    """mmpose's own, at the same settings."""
    from mmpose.apis import MMPoseInferencer

    made = MMPoseInferencer(
        pose2d=pose.config,
        pose2d_weights=str(pose.checkpoint),
        det_model=person.config,
        det_weights=str(person.checkpoint),
        det_cat_ids=[0],
        device="cpu",
    )
    made.inferencer.model.test_cfg["flip_test"] = flip_test
    return made


def same(a: tuple[Person, ...], b: tuple[Person, ...]) -> bool:
    return len(a) == len(b) and all(
        p.score == q.score and p.bbox == q.bbox and np.array_equal(p.keypoints, q.keypoints)
        for p, q in zip(a, b, strict=True)
    )


@pytest.mark.filterwarnings("default")  # the inferencer's own
@pytest.mark.parametrize(
    ("person", "pose", "flip_test"),
    [
        ("rtmdet", "rtmpose", False),
        ("rtmdet", "rtmpose", True),
        ("yolox", "hrnet", False),
        ("rtmdet", "hrnet", True),
        ("rtmdet", "hrnet-megvii", False),
        ("rtmdet", "hrnet-megvii", True),
    ],
)
def test_boxes_and_keypoints_are_those_of_mmpose(make: Make, person: str, pose: str, flip_test: bool) -> None:
    boxes = PersonDetector(make(person), batch_size=1)  # as the inferencer, which looks at one image at a time
    poses = PoseEstimator(make(pose), batch_size=8, flip_test=flip_test)
    theirs = inferencer(make(person), make(pose), flip_test)
    total = 0
    for image in pictures():
        found = boxes.boxes([image])[0]
        expected = next(theirs(np.ascontiguousarray(image[..., ::-1])))["predictions"][0]
        expected = [one for one in expected if overlaps(one["bbox"][0], image)]
        assert len(expected) == len(found.xyxy)
        # random networks stretch boxes by exponentials of large numbers, last bits and all: 300 px differ by 2e-3
        their_boxes = np.reshape([one["bbox"][0] for one in expected], (-1, 4)).astype(np.float32)
        np.testing.assert_allclose(found.xyxy, their_boxes, atol=2e-3)
        np.testing.assert_allclose(found.scores, [one["bbox_score"] for one in expected], atol=1e-4)
        keypoints = poses.in_boxes([image], [their_boxes])[0]
        np.testing.assert_allclose(
            keypoints[..., :2], np.reshape([one["keypoints"] for one in expected], (-1, 17, 2)), atol=1e-3
        )
        confidence = np.clip(np.reshape([one["keypoint_scores"] for one in expected], (-1, 17)), 0, 1)
        np.testing.assert_allclose(keypoints[..., 2], confidence, atol=1e-4)
        total += len(found.xyxy)
    assert total > 8


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("flip_test", [False, True])
def test_vitpose_sees_what_mmpose_sees(make: Make, flip_test: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unbiased (UDP) crops and heat are compared, not places: a random network's heat has no smooth peaks, and 1e-6
    more or less of it moves what decoders make of it by pixels; on smooth heat `test_decode` compares them."""
    image = pictures()[0]
    theirs = inferencer(make("rtmdet"), make("vitpose"), flip_test)
    decoder = theirs.inferencer.model.head.decoder
    expected: list[NDArray[np.float32]] = []
    found: list[NDArray[np.float32]] = []

    def decode_theirs(heat: NDArray[np.float32]) -> Any:
        expected.append(heat.copy())
        return type(decoder).decode(decoder, heat)

    def decode_ours(codec: Any, heat: torch.Tensor) -> Any:
        found.append(heat.numpy().copy())
        return decode(codec, heat)

    monkeypatch.setattr(decoder, "decode", decode_theirs)
    monkeypatch.setattr("detectors.pose.decode", decode_ours)
    people = next(theirs(np.ascontiguousarray(image[..., ::-1])))["predictions"][0]
    boxes = np.array([one["bbox"][0] for one in people], np.float32)
    PoseEstimator(make("vitpose"), batch_size=len(boxes), flip_test=flip_test).in_boxes([image], [boxes])
    assert len(boxes) > 8
    np.testing.assert_allclose(found[0], np.array(expected), atol=1e-6)
    assert np.ptp(found[0], (-2, -1)).min() > 0.01


@pytest.mark.filterwarnings("default")
def test_a_trained_pair_finds_what_mmpose_finds(tmp_path: Path) -> None:
    """End to end: our batches of images and people against the inferencer's one at a time, on drawn people."""
    person, pose = (as_saved_by_mmengine(part, tmp_path) for part in ("person", "pose"))
    images = [drawn(11, index).image for index in range(24)]
    ours = load_detector("mini-mm", batch_size=8).detect(images)
    theirs = inferencer(person, pose, flip_test=False)
    for image, people in zip(images, ours, strict=True):
        expected = next(theirs(np.ascontiguousarray(image[..., ::-1])))["predictions"][0]
        if expected[0]["bbox_score"] == 1 and not people:
            continue  # where no box is found, the inferencer takes the whole picture for a person
        expected.sort(key=lambda one: -person_score(one))
        assert len(people) == len(expected)
        for found, one in zip(people, expected, strict=True):
            assert found.score == pytest.approx(person_score(one), abs=1e-4)
            np.testing.assert_allclose(found.keypoints[:, :2], one["keypoints"], atol=1e-3)
            np.testing.assert_allclose(found.keypoints[:, 2], np.clip(one["keypoint_scores"], 0, 1), atol=1e-4)
    assert sum(map(len, ours)) > 24


def person_score(one: dict[str, Any]) -> float:
    """The box's score times the mean confidence of its keypoints above 0.2."""
    confidence = np.clip(one["keypoint_scores"], 0, 1)
    sure = confidence[confidence > 0.2]
    return float(one["bbox_score"]) * (float(sure.mean()) if len(sure) else 0.0)


def overlaps(box: list[float], image: NDArray[np.uint8]) -> bool:
    """Whether a box of the inferencer's is on the picture and not in its padding: there ours find nobody."""
    height, width = image.shape[:2]
    return box[0] < width and box[1] < height and box[2] > 0 and box[3] > 0


def test_answers_do_not_depend_on_place_or_neighbours(detector: TopDown) -> None:
    images = pictures()
    together = detector.detect(images)
    backwards = detector.detect(images[::-1])[::-1]
    alone = [detector.detect([image])[0] for image in images]
    assert all(same(a, b) and same(a, c) for a, b, c in zip(together, backwards, alone, strict=True))
    assert detector.detect([]) == []


def test_people_come_best_first_with_sane_values(detector: TopDown) -> None:
    for image, people in zip(pictures(), detector.detect(pictures()), strict=True):
        assert people
        assert [p.score for p in people] == sorted((p.score for p in people), reverse=True)
        for person in people:
            x, y, width, height = person.bbox
            assert 0 <= x < x + width <= image.shape[1] + 1e-3
            assert 0 <= y < y + height <= image.shape[0] + 1e-3
            assert 0 <= person.score <= 1
            assert person.area == pytest.approx(width * height * 0.53)
            assert person.keypoints.shape == (17, 3)
            assert person.keypoints.dtype == np.float32
            assert ((person.keypoints[:, 2] >= 0) & (person.keypoints[:, 2] <= 1)).all()


def test_a_crowd_is_worked_off_in_batches_of_one_size(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pose = PoseEstimator(make("rtmpose"), batch_size=16)
    seen: list[tuple[int, ...]] = []
    forward = pose._forward

    def watch(crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(tuple(crops.shape))
        return forward(crops)

    monkeypatch.setattr(pose, "_forward", watch)
    image = pictures()[0]
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 200, (100, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(8, 90, (100, 2))), 1).astype(np.float32)
    (found,) = pose.in_boxes([image], [boxes])
    assert found.shape == (100, 17, 3)
    assert seen == [(16, 3, 256, 192)] * 7
    (last,) = pose.in_boxes([image], [boxes[99:]])
    assert np.array_equal(last[0], found[99])


def test_nobody_is_found_above_a_score_that_nobody_has(make: Make) -> None:
    detector = TopDown("small", PersonDetector(make("rtmdet"), min_score=0.999999), PoseEstimator(make("rtmpose")))
    assert detector.detect([*pictures()[:1], np.zeros((40, 3, 3), np.uint8)]) == [(), ()]


def test_a_higher_box_score_leaves_the_certain_people_as_they_are(make: Make) -> None:
    low = PersonDetector(make("rtmdet"), batch_size=4, min_score=0.3).boxes(pictures())
    limit = float(np.median(np.concatenate([one.scores for one in low])))
    high = PersonDetector(make("rtmdet"), batch_size=4, min_score=limit).boxes(pictures())
    for all_of_them, certain in zip(low, high, strict=True):
        assert np.array_equal(certain.xyxy, all_of_them.xyxy[all_of_them.scores > limit])
    assert 0 < sum(len(one.xyxy) for one in high) < sum(len(one.xyxy) for one in low)


def test_own_files_are_loaded_as_custom(make: Make, detector: TopDown) -> None:
    own = load_detector("custom+custom", batch_size=3, person=make("rtmdet"), pose=make("rtmpose"))
    assert own.name == "custom+custom"
    images = pictures()[:2]
    for ours, theirs in zip(own.detect(images), detector.detect(images), strict=True):
        assert [p.bbox for p in ours] == [p.bbox for p in theirs]


def test_configs_for_other_work_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a person detector's test pipeline must have Resize"):
        PersonDetector(make("rtmpose"))
    config = tmp_path / "hand.py"
    config.write_text(
        Path(make("rtmpose").config).read_text().replace("in_channels=128", "in_channels=128, out_channels=21")
    )
    with pytest.raises(ValueError, match="predicts 21 keypoints; COCO's 17 are needed"):
        PoseEstimator(ModelFiles(str(config), make("rtmpose").checkpoint))
