import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.mini import body
from pipelines.mini.world import POSES


def test_every_pose_of_the_world_has_a_body() -> None:
    assert set(body.BODY_POSES) == set(POSES)


@settings(max_examples=60)
@given(pose=st.sampled_from(POSES), seed=st.integers(0, 2**32), wide=st.booleans())
def test_bones_keep_their_length(pose: str, seed: int, wide: bool) -> None:
    joints = body.pose_body(pose, np.random.default_rng(seed), wide).joints

    def length(a: str, b: str) -> float:
        return float(np.linalg.norm(joints[a] - joints[b]))

    for side in ("left", "right"):
        assert length(f"{side}_shoulder", f"{side}_elbow") == pytest.approx(body.UPPER_ARM)
        assert length(f"{side}_elbow", f"{side}_wrist") == pytest.approx(body.FOREARM)
        assert length(f"{side}_hip", f"{side}_knee") == pytest.approx(body.THIGH)
        assert length(f"{side}_knee", f"{side}_ankle") == pytest.approx(body.SHIN)
    assert length("left_hip", "right_hip") == pytest.approx(2 * body.HIP_HALF)
    assert length("left_shoulder", "right_shoulder") == pytest.approx(2 * body.SHOULDER_HALF)


@pytest.mark.parametrize("pose", ["stand", "arms-up", "arms-out", "wave", "jump"])
def test_who_faces_us_has_the_left_on_our_right(pose: str) -> None:
    for seed in range(20):
        joints = body.pose_body(pose, np.random.default_rng(seed)).joints
        assert joints["left_shoulder"][0] > joints["right_shoulder"][0]
        assert joints["nose"][2] > joints["head"][2]


def test_arms_up_are_up_and_lying_is_level() -> None:
    for seed in range(20):
        up = body.pose_body("arms-up", np.random.default_rng(seed)).joints
        assert min(up["left_wrist"][1], up["right_wrist"][1]) > up["nose"][1]
        lying = body.pose_body("lie", np.random.default_rng(seed)).joints
        across, along = np.abs(lying["head"] - lying["left_ankle"])[:2]
        assert across > 3 * along
