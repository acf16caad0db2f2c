"""Poses of any images from the command line, with the detector of the drawn world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detectors import weights
from detectors.mini import MiniPose
from detectors.mm import config_path
from pipelines import cli, detect
from pipelines.images import decode_image
from tests.pipelines.drawn_set import drawing, png
from tests.pipelines.small_dataset import write_dataset


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four drawings, one of them broken, one below another folder, one turned by EXIF."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(3):
        image, _ = drawing(number, 1 + number)
        (folder / ("more" if number == 2 else "") / f"{number}.png").write_bytes(png(image))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = drawing(3, 1)[0].crop((0, 0, 64, 96)).transpose(Image.Transpose.ROTATE_90)
    (folder / "turned.jpg").write_bytes(png(turned, format="JPEG", quality=95, exif=exif))
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


def poses(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "poses")


def test_a_folder(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(["detect", str(photos), "--out", str(out), "--overlays", "--json"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["unusable"] == {str(photos / "broken.png"): "broken"}
    assert "broken: " in told.err
    assert "mini-pose knows drawn figures only" in told.err
    found = poses(out)
    assert list(found["key"]) == [str(photos / n) for n in ("0.png", "1.png", "more/2.png", "turned.jpg")]
    assert list(found["num_people"]) == [1, 2, 3, 1]
    assert tuple(found.iloc[3][["width", "height"]]) == (64, 96)
    image = decode_image((photos / "1.png").read_bytes())
    (expected,) = MiniPose(batch_size=8).detect([image])
    stored = np.stack([person["keypoints"] for person in found.iloc[1]["people"]]).reshape(-1, 17, 3)
    assert np.array_equal(stored, np.stack([person.keypoints for person in expected]))
    assert len(list((out / "overlays").iterdir())) == 4
    assert Image.open(out / "sheet.png").format == "PNG"
    coco = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == list(found["key"])
    assert len(coco["annotations"]) == 7
    assert all(len(one["keypoints"]) == 51 and one["score"] > 0 for one in coco["annotations"])
    assert list(pd.read_parquet(out / "ledger")["reason"]) == ["broken"]


def test_it_goes_on_where_it_stopped(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(detect, "PART", 2)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert cli.main(["detect", str(photos), "--out", str(whole)]) == 1
    looked_at: list[int] = []
    original = MiniPose.detect

    def count(self: MiniPose, images: list[Any]) -> Any:
        looked_at.append(len(images))
        if len(looked_at) == 2:
            raise KeyboardInterrupt
        return original(self, images)

    monkeypatch.setattr(MiniPose, "detect", count)
    assert cli.main(["detect", str(photos), "--out", str(out)]) == 130
    assert "humansd: interrupted" in capsys.readouterr().err
    assert not (out / "coco.json").exists()
    assert cli.main(["detect", str(photos), "--out", str(out)]) == 1
    assert sum(looked_at) == 4 + looked_at[1]
    for file in ("coco.json", "sheet.png", *(f"poses/{part:08d}.parquet" for part in range(3))):
        assert (out / file).read_bytes() == (whole / file).read_bytes()


def test_files_globs_parquet_and_datasets_are_the_same_images(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = write_dataset(tmp_path / "set", 2)
    shard = tmp_path / "set/shards/00000000.parquet"
    plain = tmp_path / "plain.parquet"
    frame = pd.read_parquet(shard)
    pd.DataFrame({"jpg": [image["bytes"] for image in frame["image"]], "file_name": frame["key"]}).to_parquet(plain)
    for number, given in enumerate(([str(tmp_path / "set")], [str(shard)], [str(plain)])):
        out = tmp_path / f"out{number}"
        assert cli.main(["detect", *given, "--out", str(out)]) == 0
        assert list(poses(out)["key"]) == (keys if number == 0 else keys[:4])
        assert (poses(out)["num_people"] > 0).all()
    named = [str(photos / "0.png"), str(photos / "**/*.png"), str(photos / "turned.jpg")]
    assert cli.main(["detect", *named, "--out", str(tmp_path / "named"), "--min-score", "1"]) == 1
    found = poses(tmp_path / "named")
    assert len(found) == 4
    assert (found["num_people"] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent: no such file, folder or dataset"),
        (["empty"], "empty: no images in it"),
        (["*.png"], "no images in it"),
        (["text.parquet"], "not readable as Parquet"),
        (["other.parquet"], "has no column of images"),
        (["photos", "--model", "maxi-pose"], "maxi-pose"),
        (["photos", "--out", "photos"], "is not empty and holds no poses"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    arguments: list[str],
    message: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no Parquet")
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "other.parquet")
    out = [] if "--out" in arguments else ["--out", "out"]
    assert cli.main(["detect", *arguments, *out]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert not (tmp_path / "out").exists()


def test_other_images_need_another_out(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert cli.main(["detect", str(photos / "0.png"), "--out", out]) == 0
    assert cli.main(["detect", str(photos / "1.png"), "--out", out]) == 2
    assert "take another --out" in capsys.readouterr().err


def test_own_networks_and_settings(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mmpose")
    own = []
    for part in ("person", "pose"):
        config = tmp_path / f"my_{part}.py"
        config.write_text(f"_base_ = {str(config_path(f'detectors::mini_mm_{part}.py'))!r}\n")
        own += [f"detector.{part}_config={config}", f"detector.{part}_checkpoint={weights.find(f'mini-mm-{part}')}"]
    sets = [word for one in own for word in ("--set", one)]
    image = str(photos / "1.png")
    assert cli.main(["detect", image, "--model", "custom+custom", *sets, "--out", str(tmp_path / "own")]) == 0
    assert cli.main(["detect", image, "--model", "mini-mm", "--out", str(tmp_path / "named")]) == 0
    mine, named = (poses(tmp_path / out)["people"][0] for out in ("own", "named"))
    assert len(mine) == 2
    for a, b in zip(mine, named, strict=True):
        assert np.array_equal(a["keypoints"], b["keypoints"])
    flipped = ["detect", image, "--model", "mini-mm", "--set", "detector.flip_test=true", "--out"]
    assert cli.main([*flipped, str(tmp_path / "named")]) == 2
    assert "detector.flip_test: false -> true" in capsys.readouterr().err
    assert cli.main([*flipped, str(tmp_path / "flipped")]) == 0
    assert not np.array_equal(poses(tmp_path / "flipped")["people"][0][0]["keypoints"], named[0]["keypoints"])
    assert cli.main(["detect", image, "--set", "detector.flip=true", "--out", str(tmp_path / "no")]) == 2
    assert "flip_test" in capsys.readouterr().err
