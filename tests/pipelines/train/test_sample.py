from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detectors.types import NUM_KEYPOINTS
from pipelines import cli, reading
from pipelines.checkpoint import MINI_FOLDER
from pipelines.config import UserError
from pipelines.train.model import load_parts
from pipelines.train.output import GAP, save_model
from pipelines.train.sample import PosedFrame, read_poses
from tests.pipelines.small_dataset import write_dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_model(load_parts(MINI_FOLDER).unet, MINI_FOLDER, folder)
    return folder


@pytest.fixture(scope="module")
def ghi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "ghi"
    write_dataset(folder, 1)
    return folder


def keypoints(people: int = 1) -> list[Any]:
    rng = np.random.default_rng(0)
    found: list[Any] = np.dstack([rng.uniform(0, 64, (people, NUM_KEYPOINTS, 2)), np.ones((people, 17, 1))]).tolist()
    return found


def test_a_grid_has_the_skeleton_and_the_samples(run: Path, ghi: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run / "grids" / "a.png"
    given = ["--prompt", "a dancer", "--prompt", "a cook", "--poses", f"{ghi}:0:1", "--n", "2", "--json"]
    assert cli.main(["sample", "--model", str(run), *given, "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["scheduler"] == "dpmsolver++"
    grid = np.asarray(Image.open(out))
    assert grid.shape == (2 * 64 + GAP, 3 * 64 + 2 * GAP, 3)
    skeleton = grid[:64, :64]
    assert (skeleton == 0).all(-1).mean() > 0.5
    assert skeleton.any()
    again = run / "again.png"
    assert cli.main(["sample", "--model", str(run / "model"), *given, "--out", str(again)]) == 0
    assert np.array_equal(np.asarray(Image.open(again)), grid)


def test_the_release_preset(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "poses.json"
    file.write_text(json.dumps(keypoints()))
    given = ["--prompt", "a cook", "--poses", str(file), "--out", str(run / "b.png"), "--n", "1"]
    assert cli.main(["sample", "--model", str(run), *given, "--preset", "release", "--json"]) == 0
    used = json.loads(capsys.readouterr().out)
    assert (used["scheduler"], used["steps"], used["guidance"], used["seed"]) == ("ddim", 50, 9.0, 42)
    assert "anatomy" in used["negative"]


def test_poses_of_a_dataset_are_its_own(ghi: Path) -> None:
    sample = next(iter(reading.open_dataset(str(ghi)).samples()))
    found = read_poses(f"{ghi}:0:0")
    assert found.size == (64, 64)
    assert np.array_equal(found.keypoints, [person.keypoints for person in sample.people])


def test_poses_of_files(tmp_path: Path) -> None:
    expected = np.asarray(keypoints(2), np.float32)
    np.save(tmp_path / "a.npy", expected)
    (tmp_path / "a.json").write_text(json.dumps(keypoints(2)))
    flat = [[number for x, y, c in one for number in (x, y, 2 * c)] for one in keypoints(2)]
    coco = {
        "images": [{"id": 1, "width": 64, "height": 32}, {"id": 2, "width": 9, "height": 9}],
        "annotations": [{"image_id": 1, "keypoints": one} for one in flat],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    for name in ("a.npy", "a.json", "coco.json"):
        assert np.allclose(read_poses(str(tmp_path / name)).keypoints, expected)
    assert read_poses(str(tmp_path / "coco.json")).size == (64, 32)


def test_a_frame_is_made_to_fit_in_the_middle() -> None:
    corner = np.zeros((1, 17, 3), np.float32)
    corner[..., :2] = [-0.5, -0.5]  # the corner of a picture of 100 x 50
    assert np.allclose(PosedFrame(corner, (100, 50)).at(64)[..., :2], [-0.5, 15.5])
    assert np.array_equal(PosedFrame(corner).at(64), corner)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "No such file"),
        ("bad.json", "{", "holds no keypoints"),
        ("short.json", "[[1, 2, 3]]", "holds no keypoints"),
        ("empty.json", "[]", "nobody is there"),
        ("nan.json", json.dumps([[[float("nan")] * 3] * 17]), "not finite"),
        ("nobody.json", '{"images": [], "annotations": []}', "no image has poses"),
        ("what:0", None, "must be a .json or .npy file, or OUT:SHARD:ROW"),
    ],
)
def test_poses_that_are_none_are_told(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_poses(str(tmp_path / name))


def test_rows_that_are_not_there_are_told(ghi: Path) -> None:
    with pytest.raises(UserError, match="no committed shard 7"):
        read_poses(f"{ghi}:7:0")
    with pytest.raises(UserError, match="rows 0 to 3"):
        read_poses(f"{ghi}:0:4")


def test_no_model_is_told(ghi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--prompt", "x", "--poses", f"{ghi}:0:0", "--out", str(tmp_path / "a.png")]
    assert cli.main(["sample", "--model", str(tmp_path), *given]) == 2
    assert "no trained model there" in capsys.readouterr().err
