"""Detectors on a CUDA device find what they find on a CPU: `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from detectors.mini import MiniPose
from pipelines.mini.train.mm_data import drawn

pytestmark = pytest.mark.gpu


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
