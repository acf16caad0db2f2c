"""mini-mm, the miniature pair of mmdet and mmpose: its bar on drawn pictures, and in the job with all gates on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmpose")

from pipelines import cli
from pipelines.config import load_config
from pipelines.ghi.config import GhiConfig
from pipelines.ghi.job import prepare
from pipelines.mini.evaluate import judge_pose
from pipelines.mini.train import mm
from pipelines.mini.train.mm import train_mini_mm, write_curve
from pipelines.mini.train.mm_data import drawn, write_set
from pipelines.work import ShardContext, ShardTask


def test_it_finds_drawn_people() -> None:
    scores = judge_pose("mini-mm", 48, wide=False)
    assert scores.ap >= 0.5
    assert scores.people > 60


def test_its_samples_pass_all_gates_of_the_job() -> None:
    settings = ["detector.name=mini-mm", "detector.batch_size=4", "sampler.batch_size=4", "sampler.steps=8"]
    config = load_config(GhiConfig, "mini", settings)
    made = prepare(config)()(ShardContext(ShardTask(0, 0, 3, config.max_attempts)))
    assert len(made.accepted) == 3
    for sample in made.accepted:
        assert sample.prompt is not None
        assert len(sample.people) == sample.prompt["num_people"]
        assert all((person.keypoints[:, 2] >= config.gates.keypoint_threshold).sum() >= 5 for person in sample.people)


@pytest.mark.slow
def test_n_asked_is_n_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through all gates; the 12 attempts that mini-pose's pictures need leave one of 60 slots short here."""
    out = str(tmp_path / "ghi")
    asked = ["ghi", "--config", "mini", "--set", "detector.name=mini-mm", "--n", "60", "--out", out]
    assert cli.main([*asked, "--set", "max_attempts=40"]) == 0
    capsys.readouterr()
    assert cli.main(["status", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accepted"] == 60


def test_a_drawn_set_is_annotated_as_drawn_and_not_drawn_twice(tmp_path: Path) -> None:
    import cv2
    from pycocotools.coco import COCO

    write_set(tmp_path, seed=3, training=6, validation=2)
    annotations = tmp_path / "annotations" / "training_humanart.json"
    before = annotations.stat()
    write_set(tmp_path, seed=3, training=6, validation=2)
    assert annotations.stat().st_mtime_ns == before.st_mtime_ns
    coco = COCO(str(annotations))
    for index in coco.getImgIds():
        drawing = drawn(3, index)
        pixels = cv2.imread(str(tmp_path / coco.loadImgs(index)[0]["file_name"]))
        assert np.array_equal(pixels[..., ::-1], drawing.image)
        found = coco.loadAnns(coco.getAnnIds(index))
        assert [tuple(one["bbox"]) for one in found] == [person.bbox for person in drawing.people]
        for one, person in zip(found, drawing.people, strict=True):
            keypoints = np.array(one["keypoints"]).reshape(17, 3)
            assert np.allclose(keypoints[:, :2], person.keypoints[:, :2], atol=1e-3)
            assert tuple(keypoints[:, 2]) == person.visibility


def test_a_curve_has_a_line_an_interval(tmp_path: Path) -> None:
    rows = [{"step": 25, "loss": 3.0, "loss_a": 1.0, "time": 0.1}, {"step": 25, "coco/AP": 0.5}]
    write_curve([*rows, dict(rows[0], step=50)], 4, tmp_path / "curve.tsv")
    assert (tmp_path / "curve.tsv").read_text() == "samples\tloss_a\n100\t1.00000\n200\t1.00000\n"


def test_a_training_writes_into_its_run_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mm, "write_set", lambda *_: None)
    monkeypatch.setattr(mm, "find_set", lambda root: root)
    monkeypatch.setattr(mm, "train", lambda config, found, run: run / "last.pth")
    monkeypatch.setattr(mm, "export", lambda checkpoint, path, half: "0")
    monkeypatch.setattr(mm, "curve", lambda run: [{"step": 1, "loss": 1.0, "loss_a": 1.0}])
    assert [path.parent for path, _ in train_mini_mm(tmp_path)] == [tmp_path, tmp_path]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mm_person_curve.tsv", "mm_pose_curve.tsv"]
