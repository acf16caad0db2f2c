"""Detectors on a CUDA device find what they find on a CPU: `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from detectors.mini import MiniPose
from pipelines.mini.train.mm_data import drawn

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions of a GPU keep 10 bits of their inputs by default, which moves scores across thresholds."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def test_mini_pose_finds_the_same_people() -> None:
    images = [drawn(3, index).image for index in range(40)]
    expected, found = (MiniPose(device=device).detect(images) for device in ("cpu", "cuda"))
    assert [len(people) for people in found] == [len(people) for people in expected]
    for ours, theirs in zip(sum(found, ()), sum(expected, ()), strict=True):
        np.testing.assert_allclose(ours.keypoints[:, :2], theirs.keypoints[:, :2], atol=0.5)


def test_suppression_runs_there() -> None:
    """mmcv's own runs on CUDA only where nvcc built it; torchvision's stands in."""
    pytest.importorskip("mmpose")
    from detectors.mm import torchvision_nms
    from tests.detectors.test_mm import boxes

    own, scores = boxes(12_000)
    expected = torchvision_nms(own, scores, 0.5)
    found = torchvision_nms(own.cuda(), scores.cuda(), 0.5)
    assert torch.equal(found[0].cpu(), expected[0])
    assert torch.equal(found[1].cpu(), expected[1])
    assert 0 < len(found[1]) < 12_000


@pytest.mark.parametrize("kind", ["rtmdet", "yolox"])
def test_a_person_detector_finds_the_same_boxes(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("mmpose")
    from detectors.person import PersonDetector
    from tests.detectors.small_mm import pictures, small_model

    files = small_model(kind, tmp_path)
    expected, found = (PersonDetector(files, device, batch_size=4).boxes(pictures()) for device in ("cpu", "cuda"))
    assert sum(len(one.scores) for one in expected) > 10
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours.scores) == pytest.approx(len(theirs.scores), abs=1)  # a score may lie on the threshold
        near = np.abs(ours.xyxy[:, None] - theirs.xyxy[None]).max(-1).min(1)
        assert (near < 0.5).mean() > 0.95


@pytest.mark.parametrize("kind", ["rtmpose", "hrnet", "hrnet-megvii"])
def test_poses_are_the_same(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("mmpose")
    from detectors.pose import PoseEstimator
    from tests.detectors.small_mm import pictures, small_model

    files, images = small_model(kind, tmp_path), pictures()
    sides = np.array([image.shape[1::-1] for image in images], np.float32)
    people = [np.array([(0, 0, w, h), (w / 4, h / 5, w, h)], np.float32) for w, h in sides]
    expected, found = (
        PoseEstimator(files, device, batch_size=3).in_boxes(images, people) for device in ("cpu", "cuda")
    )
    apart = np.abs(np.concatenate(found)[..., :2] - np.concatenate(expected)[..., :2])
    assert (apart < 0.1).mean() > 0.95  # a peak may lie between two cells of nearly equal height


def test_heatmaps_of_the_papers_detector_are_the_same() -> None:
    pytest.importorskip("mmpose")
    from detectors.bottomup import BottomUp
    from detectors.grouping import Grouping
    from detectors.higherhrnet import HigherHRNet

    pictures = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))

    def heat(device: str) -> torch.Tensor:
        torch.manual_seed(0)
        detector = BottomUp("higherhrnet-w48", HigherHRNet(16), Grouping(udp=True), 2, device)
        return detector.heatmaps(pictures.to(device)).cpu()

    expected = heat("cpu")
    assert expected.std() > 0
    torch.testing.assert_close(heat("cuda"), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
