"""Datasets as COCO JSON. (The exact way back of imported ones is in `../humanart/test_job.py`.)"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO

from pipelines import cli
from tests.pipelines.small_dataset import write_dataset


def test_a_generated_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = write_dataset(tmp_path / "ghi", 2)
    out = tmp_path / "coco"
    assert cli.main(["export", str(tmp_path / "ghi"), "--to", "coco", "--out", str(out)]) == 0
    coco = COCO(str(out / "annotations.json"))
    capsys.readouterr()
    images = coco.loadImgs(sorted(coco.getImgIds()))
    assert [image["key"] for image in images] == keys
    assert all(image["description"] and image["category"] for image in images)
    for image in images:
        with Image.open(out / "images" / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])
    annotations = coco.loadAnns(coco.getAnnIds())
    assert [one["id"] for one in annotations] == list(range(1, len(annotations) + 1))
    assert {one["category_id"] for one in annotations} == {cat["id"] for cat in coco.loadCats(coco.getCatIds("person"))}
    assert len(json.loads((out / "annotations.json").read_text())["categories"][0]["keypoints"]) == 17
    assert sorted(path.name for path in out.iterdir()) == [".export", "annotations.json", "images"]


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "ghi", 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("mine")
    assert cli.main(["export", str(tmp_path / "ghi"), "--to", "coco", "--out", str(tmp_path / "mine")]) == 2
    assert "take another --out" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["precious"]
    assert cli.main(["export", str(tmp_path / "mine"), "--to", "coco", "--out", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()
