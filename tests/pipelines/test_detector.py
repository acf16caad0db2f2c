"""The `[detector]` table: pinned by content wherever the files lie, and told in one line what is wrong with it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmpose")

from detectors import weights
from pipelines.config import UserError, load_config
from pipelines.detector import DetectorConfig, check_detector, detector_digests, load
from pipelines.ghi.config import GhiConfig
from pipelines.ghi.job import plan_ghi, prepare
from tests.detectors.small_mm import pictures, small_model


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> DetectorConfig:
    folder = tmp_path_factory.mktemp("own")
    person, pose = small_model("rtmdet", folder), small_model("rtmpose", folder)
    return DetectorConfig(
        name="custom+custom",
        person_config=Path(person.config),
        person_checkpoint=person.checkpoint,
        pose_config=Path(pose.config),
        pose_checkpoint=pose.checkpoint,
    )


def test_own_files_are_relative_to_the_config_file(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(
        '[detector]\nname = "rtmdet-s+custom"\npose_config = "my/pose.py"\npose_checkpoint = "my/pose.pth"\n'
    )
    config = load_config(GhiConfig, tmp_path / "job.toml").detector
    assert config.pose_config == tmp_path / "my" / "pose.py"
    check_detector(config)
    with pytest.raises(UserError, match=r"detector\.pose_config and detector\.pose_checkpoint go together"):
        load_config(GhiConfig, tmp_path / "job.toml", ["detector.pose_checkpoint=none"])


def test_a_detector_is_pinned_by_content_and_not_by_place(own: DetectorConfig, tmp_path: Path) -> None:
    before = detector_digests(own)
    assert set(before) == {
        f"detector.{task}_{file}.sha256" for task in ("person", "pose") for file in ("config", "checkpoint")
    }
    assert own.pose_checkpoint is not None
    moved = tmp_path / "elsewhere.pth"
    shutil.copy(own.pose_checkpoint, moved)
    assert detector_digests(dataclasses.replace(own, pose_checkpoint=moved)) == before
    found = torch.load(moved)
    found["state_dict"]["head.cls_x.weight"] += 1
    torch.save(found, moved)
    after = detector_digests(dataclasses.replace(own, pose_checkpoint=moved))
    assert {name for name in before if before[name] != after[name]} == {"detector.pose_checkpoint.sha256"}


def test_absent_files_are_named(own: DetectorConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"absent\.pth: no such checkpoint"):
        detector_digests(dataclasses.replace(own, pose_checkpoint=tmp_path / "absent.pth"))
    with pytest.raises(UserError, match=r"absent\.py: no such config file"):
        detector_digests(dataclasses.replace(own, pose_config=tmp_path / "absent.py"))
    monkeypatch.setenv("HUMANSD_CACHE", str(tmp_path))
    monkeypatch.delenv("HUMANSD_OFFLINE", raising=False)
    with pytest.raises(UserError, match="run `humansd models fetch rtmdet-s-humanart`"):
        detector_digests(DetectorConfig(name="rtmdet-s+rtmpose-m"))


def test_what_cannot_be_loaded_is_told_in_one_line(own: DetectorConfig) -> None:
    with pytest.raises(UserError, match="the weights are another network's") as refused:
        load(dataclasses.replace(own, pose_checkpoint=own.person_checkpoint), "cpu")
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="mini-pose has no flip test"):
        load(DetectorConfig(flip_test=True), "cpu")


def test_a_loaded_detector_leaves_out_uncertain_boxes(own: DetectorConfig) -> None:
    many = load(own, "cpu").detect(pictures()[:1])[0]
    few = load(dataclasses.replace(own, min_box_score=0.9), "cpu").detect(pictures()[:1])[0]
    assert len(few) < len(many)


def test_a_ghi_job_with_own_networks_is_planned_and_pinned(own: DetectorConfig, tmp_path: Path) -> None:
    config = GhiConfig(n=3, detector=own)
    planned = plan_ghi(config, str(tmp_path / "out"))
    flipped = plan_ghi(dataclasses.replace(config, detector=dataclasses.replace(own, flip_test=True)), str(tmp_path))
    assert planned["slots_to_fill"] == 3
    assert planned["identity"] != flipped["identity"]


def test_a_worker_with_other_files_stops(own: DetectorConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    make_work = prepare(GhiConfig(n=3, detector=own))
    monkeypatch.setattr(weights, "digest", lambda path: "0" * 64)
    with pytest.raises(UserError, match="this worker's detector files are not the driver's"):
        make_work()
