"""The layout of HumanSD's release, indexed as its loader does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines import cli, open_dataset
from tests.pipelines.small_dataset import write_dataset


def test_keys_lead_to_images_poses_and_prompts(tmp_path: Path) -> None:
    keys = write_dataset(tmp_path / "ghi", 2)
    base = tmp_path / "datasets"
    assert cli.main(["export", str(tmp_path / "ghi"), "--to", "humansd-layout", "--out", str(base)]) == 0
    mapping = json.loads((base / "mapping_file_training.json").read_text(encoding="utf-8"))
    assert list(mapping) == keys
    for example, row in zip(mapping.values(), open_dataset(str(tmp_path / "ghi")).samples(), strict=True):
        assert example["prompt"] == row.caption
        with Image.open(base / example["img_path"]) as image:
            assert image.size == (row.width, row.height)
        detected = np.load(base / example["pose_path"], allow_pickle=False)["arr_0"]
        assert len(detected) == len(row.people) > 0
        for number, person in enumerate(row.people):
            assert np.array_equal(detected[number]["keypoints"], person.keypoints)
            assert detected[number]["keypoints"][16, 2] == person.keypoints[16, 2]
            assert np.allclose(detected[number]["bbox"], person.bbox)
