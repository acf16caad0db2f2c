"""Augmentation: pictures and poses move together, left stays the person's left, and people stay in the frame."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow

from detectors.skeleton import draw_keypoints
from detectors.types import LIMB_COLORS
from pipelines.train.augment import (
    NONE,
    Augment,
    decode_reduced,
    draw_view,
    jitter,
    move_keypoints,
    warp,
)

Float32 = NDArray[np.float32]
SIZE = 128

RAISED: Float32 = np.array(
    [
        (50, 20), (53, 17), (47, 17), (57, 20), (43, 20), (66, 36), (34, 36), (84, 30), (28, 56), (90, 8), (24, 74),
        (60, 72), (40, 72), (63, 98), (38, 98), (64, 118), (36, 118),
    ],
    np.float32,
)  # fmt: skip
"""Somebody facing us with the left arm raised: left and right differ."""


def somebody(scale: tuple[float, float] = (1, 1), offset: tuple[float, float] = (0, 0)) -> Float32:
    return np.concatenate((RAISED * scale + offset, np.ones((17, 1))), 1, dtype=np.float32)[None]


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


ALWAYS = {
    "nothing": Augment(0, 0, 0, jitter=0),
    "hflip": Augment(1, 0, 0, jitter=0),
    "vflip": Augment(0, 1, 0, jitter=0),
    "both": Augment(1, 1, 0, jitter=0),
    "turn": Augment(0, 0, 1, jitter=0),
    "flip and turn": Augment(1, 0, 1, jitter=0),
}


@pytest.mark.parametrize("width_height", [(128, 128), (200, 160), (140, 300), (128, 190)])
@pytest.mark.parametrize("name", ALWAYS)
def test_pictures_and_poses_move_together(name: str, width_height: tuple[int, int]) -> None:
    """What is drawn before augmentation and what is drawn after it lie on each other; only hues may change sides."""
    width, height = width_height
    scale = min(width, height) / SIZE
    keypoints = somebody((scale, scale), (width / 2 - 60 * scale, height / 2 - 64 * scale))
    before = draw_keypoints(keypoints, height, width, 10 * 512 / SIZE * min(width, height) / max(width, height))
    for seed in range(3):
        view = draw_view(np.random.default_rng(seed), ALWAYS[name], width, height, SIZE, keypoints)
        moved = warp(before, view, width, height, SIZE)
        after = draw_keypoints(move_keypoints(keypoints, view), SIZE, SIZE, 10 * 512 / SIZE)
        one, other = (picture.max(-1) > 80 for picture in (moved, after))
        assert (one & other).sum() / (one | other).sum() > 0.85
        if not view.mirrored:  # even the hues
            agree = np.abs(moved.astype(int) - after).max(-1)[one & other] < 90
            assert agree.mean() > 0.9


@pytest.mark.parametrize(("name", "mirrored"), [("hflip", True), ("vflip", True), ("both", False), ("nothing", False)])
def test_left_limbs_keep_their_hues_on_the_persons_own_left(name: str, mirrored: bool) -> None:
    """Mirrored, the raised arm is a right arm: a viewer of the mirrored picture would say so."""
    keypoints = somebody()
    view = draw_view(np.random.default_rng(0), ALWAYS[name], SIZE, SIZE, SIZE, keypoints)
    assert view.mirrored == mirrored
    moved = move_keypoints(keypoints, view)
    drawn = draw_keypoints(moved, SIZE, SIZE)
    x, y = (np.append(RAISED[[7, 9]].mean(0), 1) @ view.matrix.T).round().astype(int)
    left_forearm, right_forearm = LIMB_COLORS[7], LIMB_COLORS[9]
    expected = right_forearm if mirrored else left_forearm
    assert np.abs(drawn[y, x].astype(int) - expected).max() < 60
    # and in numbers: the wrist that was left is now keypoint 10
    wrist = view.matrix @ np.append(RAISED[9], 1)
    np.testing.assert_allclose(moved[0, 10 if mirrored else 9, :2], wrist, atol=1e-4)


@given(st.integers(40, 400), st.integers(40, 400), st.integers(0, 10_000), st.data())
def test_the_crop_keeps_people_in_the_frame(width: int, height: int, seed: int, data: st.DataObject) -> None:
    scale = min(width, height) / SIZE * 0.9
    x = data.draw(st.floats(0, width - 100 * scale))
    y = data.draw(st.floats(0, height - 120 * scale)) if height > 120 * scale else 0
    keypoints = somebody((scale, scale), (max(x - 20 * scale, 0), y))
    keypoints[..., 0] = keypoints[..., 0].clip(0, width - 1)
    keypoints[..., 1] = keypoints[..., 1].clip(0, height - 1)
    flips = Augment(0.5, 0.5, 0, jitter=0)
    view = draw_view(np.random.default_rng(seed), flips, width, height, SIZE, keypoints)
    places = move_keypoints(keypoints, view)[..., :2]
    assert places.min() > -1.5  # a crop begins at a whole pixel
    assert places.max() < SIZE + 0.5


def test_crops_vary_where_people_leave_room() -> None:
    keypoints = somebody((0.5, 0.5), (200, 30))
    views = [draw_view(np.random.default_rng(seed), ALWAYS["nothing"], 512, 128, SIZE, keypoints) for seed in range(20)]
    assert len({float(view.matrix[0, 2]) for view in views}) > 10
    middles = [draw_view(np.random.default_rng(seed), NONE, 512, 128, SIZE, keypoints) for seed in range(20)]
    assert len({float(view.matrix[0, 2]) for view in middles}) == 1


@pytest.mark.parametrize("name", ["nothing", "hflip", "vflip", "both"])
def test_moving_pixels_alone_is_what_the_warp_would_give(name: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (SIZE, 200, 3), dtype=np.uint8)
    view = draw_view(rng, ALWAYS[name], 200, SIZE, SIZE, somebody())
    expected = cv2.warpAffine(image, view.matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT_101)
    np.testing.assert_array_equal(warp(image, view, 200, SIZE, SIZE), expected)


def test_pictures_decoded_smaller_lie_where_the_whole_ones_lie() -> None:
    y, x = np.mgrid[:603, :802]
    pixels = np.stack([x * 255 / 801, y * 255 / 602, np.full(x.shape, 90.0)], -1).astype(np.uint8)
    data = jpeg(pixels)
    small, whole = decode_reduced(data, SIZE), decode_reduced(data, 600)
    assert whole.shape == (603, 802, 3)
    assert small.shape == (151, 201, 3)
    view = draw_view(np.random.default_rng(1), Augment(jitter=0), 802, 603, SIZE, somebody())
    one, other = (warp(image, view, 802, 603, SIZE).astype(int) for image in (small, whole))
    assert np.abs(one - other).max() <= 4
    assert np.abs((one - other).mean((0, 1))).max() < 0.15  # a tenth of a pixel: the ramp rises by 1.5 a pixel
    assert np.abs(one[..., ::-1].mean(0) - one.mean(0)).max() > 20  # channels are told apart


def test_what_is_no_whole_picture_is_refused() -> None:
    data = jpeg(np.zeros((64, 64, 3), np.uint8))
    for broken in (b"", b"no picture", data[: len(data) // 2], data[:20], b"\xff\xd8\xff\xd9"):
        with pytest.raises(ValueError, match=r"picture|cut off"):
            decode_reduced(broken, 32)
    assert decode_reduced(data, 64).shape == (64, 64, 3)
    assert decode_reduced(memoryview(data), 32).shape == (32, 32, 3)


def test_jitter_changes_colours_within_bounds_and_greys_stay_grey() -> None:
    image = np.full((8, 8, 3), (40, 90, 160), np.uint8)
    changed = np.array([jitter(np.random.default_rng(s), Augment(jitter=1), image)[0, 0] for s in range(50)])
    assert len(np.unique(changed, axis=0)) > 40
    assert np.abs(changed - image[0, 0].astype(int)).max() < 80
    assert np.abs(changed.mean(0) - image[0, 0]).max() < 12
    grey = jitter(np.random.default_rng(1), Augment(jitter=1), np.full((8, 8, 3), 100, np.uint8))
    assert np.ptp(grey[0, 0].astype(int)) <= 1
    assert jitter(np.random.default_rng(0), Augment(jitter=0), image) is image
