import numpy as np
import pytest

from detectors.types import KEYPOINTS
from pipelines.mini.render import draw
from pipelines.mini.world import POSES, SCENES, World, random_world


def saturation(image: np.ndarray) -> float:  # type: ignore[type-arg]
    return float((image.max(2).astype(float) - image.min(2)).mean())


@pytest.mark.parametrize("scene", SCENES)
def test_everyone_asked_for_is_drawn_and_annotated(scene: str) -> None:
    for number in (1, 2, 3):
        for index, pose in enumerate(POSES):
            drawing = draw(World(scene, number, pose=pose), np.random.default_rng((number, index)))
            assert drawing.image.shape == (64, 64, 3)
            assert drawing.image.dtype == np.uint8
            assert len(drawing.people) == number
            for person in drawing.people:
                x, y, width, height = person.bbox
                assert 0 <= x < x + width <= 64
                assert 0 <= y < y + height <= 64
                assert 0 < person.area <= width * height
                inside = person.keypoints[person.keypoints[:, 2] > 0]
                assert len(inside) >= 10
                assert (inside[:, 0] > x - 4).all()
                assert (inside[:, 0] < x + width + 4).all()
                assert (inside[:, 1] > y - 4).all()
                assert (inside[:, 1] < y + height + 4).all()


def test_nobody_means_nobody() -> None:
    assert draw(World("cartoon", 0), np.random.default_rng(0)).people == ()


def test_the_same_world_and_seed_draw_the_same_picture() -> None:
    for seed in range(5):
        first, second = (
            draw(random_world(rng), rng) for rng in (np.random.default_rng(seed), np.random.default_rng(seed))
        )
        assert (first.image == second.image).all()
        assert all((a.keypoints == b.keypoints).all() for a, b in zip(first.people, second.people, strict=True))


def test_scenes_look_different() -> None:
    def pictures(scene: str) -> list[np.ndarray]:  # type: ignore[type-arg]
        return [draw(World(scene, 1, top="red"), np.random.default_rng(seed)).image for seed in range(8)]

    colorful = {scene: np.mean([saturation(image) for image in pictures(scene)]) for scene in SCENES}
    assert colorful["sketch"] < 12 < colorful["stained-glass"]
    assert colorful["sculpture"] < colorful["cartoon"] > colorful["ink-painting"]
    shadows = pictures("shadow-play")
    assert np.mean([image.min() for image in shadows]) < 25


def test_shirt_colour_is_seen_on_the_chest() -> None:
    left, right = KEYPOINTS.index("left_shoulder"), KEYPOINTS.index("right_hip")
    for color, channel in (("red", 0), ("green", 1), ("blue", 2)):
        for seed in range(5):
            drawing = draw(World("cartoon", 1, pose="stand", top=color), np.random.default_rng(seed))
            keypoints = drawing.people[0].keypoints
            x, y = (keypoints[left, :2] * 0.5 + keypoints[right, :2] * 0.5 + np.array([2.0, 0])).round().astype(int)
            assert drawing.image[y, x].argmax() == channel


def test_other_sizes_scale_the_poses_too() -> None:
    small = draw(World("cartoon", 2, pose="walk", place="field"), np.random.default_rng(3), 64)
    large = draw(World("cartoon", 2, pose="walk", place="field"), np.random.default_rng(3), 128)
    assert large.image.shape == (128, 128, 3)
    for a, b in zip(small.people, large.people, strict=True):
        assert np.abs((a.keypoints[:, :2] + 0.5) * 2 - (b.keypoints[:, :2] + 0.5)).max() < 2


def test_nobody_is_annotated_outside_the_picture() -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        for person in draw(random_world(rng), rng).people:
            assert person.visibility is not None
            for (x, y, confidence), seen in zip(person.keypoints, person.visibility, strict=True):
                assert confidence == {0: 0.0, 1: 0.5, 2: 1.0}[seen]
                if seen:
                    assert -0.5 <= x < 64
                    assert -0.5 <= y < 64
