"""Models compared on drawn samples by the miniature judges: figures, report, picture, resume."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipelines import cli
from pipelines.config import UserError, load_config
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.generate import fit
from pipelines.evaluate.models import Evaluation, evaluate_models
from pipelines.evaluate.table import REAL
from pipelines.reading import open_dataset
from pipelines.record import Sample
from tests.pipelines.evaluate.test_keypoints import somebody
from tests.pipelines.small_dataset import write_dataset

SETTINGS = ["sampler.steps=2", "sampler.batch_size=4", "shard_size=4", "workers=1", "limit=6"]


def config(*more: str) -> EvaluateConfig:
    return load_config(EvaluateConfig, "mini", [*SETTINGS, *more], "evaluate")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data") / "ghi"
    write_dataset(folder, 2)
    return str(folder)


@pytest.fixture(scope="module")
def made(data: str, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    out = tmp_path_factory.mktemp("report") / "out"
    return out, evaluate_models(["mini"], [data], str(out), config())


def test_every_figure_is_there(made: tuple[Path, Evaluation]) -> None:
    out, found = made
    assert (found.exit_code, found.absent, found.lost) == (0, (), {})
    lines = {line.model: line for line in found.lines if line.scene == "all"}
    mini = lines["mini"]
    assert mini.images == 6
    missing = [name for name, value in dataclasses.asdict(mini).items() if value is None]
    assert set(missing) <= {"ap_medium"}
    real = lines[REAL]
    assert (real.fid, real.seconds) == (None, None)
    assert real.ap is not None
    assert mini.ap is not None
    assert real.ap > mini.ap, "what was annotated is found; Stable Diffusion does not know the pose"
    assert real.pce is not None
    assert mini.pce is not None
    report = json.loads((out / "report.json").read_text())
    assert report["scores"] == [dataclasses.asdict(line) for line in found.lines]
    assert report["models"][0]["revision"].startswith("sha256:")
    assert "mini-FID" in (out / "report.md").read_text()


def test_scenes_have_lines_of_their_own(made: tuple[Path, Evaluation], data: str) -> None:
    lines = [line for line in made[1].lines if line.model == "mini"]
    assert lines[0].scene == "all"
    assert sum(line.images for line in lines[1:]) == lines[0].images
    scenes = set(open_dataset(str(made[0] / "reference")).table(["scene"])["scene"].to_pylist())
    assert {line.scene for line in lines[1:]} == scenes


def test_the_grid_shows_pose_real_image_and_each_model(made: tuple[Path, Evaluation]) -> None:
    with Image.open(made[0] / "grid.png") as grid:
        width, height = grid.size
        colours = grid.convert("RGB").getcolors(width * height)
    assert height == 3 * 196  # pose, real images, mini
    assert width == 150 + 6 * 196
    assert colours is not None
    assert len(colours) > 1000


def test_images_are_a_dataset_like_any_other(made: tuple[Path, Evaluation]) -> None:
    (folder,) = (made[0] / "models").iterdir()
    rows, asked = list(open_dataset(str(folder)).samples()), list(open_dataset(str(made[0] / "reference")).samples())
    assert [row.caption for row in rows] == [one.caption for one in asked]
    assert [len(row.people) for row in rows] == [len(one.people) for one in asked]
    assert {row.generation.steps for row in rows if row.generation} == {2}
    assert cli.main(["verify", str(folder)]) == 0


def test_the_same_command_again_makes_nothing_new(made: tuple[Path, Evaluation], data: str) -> None:
    out, found = made
    before = {path: path.stat().st_mtime_ns for path in out.glob("models/*/**/*.parquet")}
    assert before
    again = evaluate_models(["mini"], [data], str(out), config())
    assert again.lines == found.lines
    assert {path: path.stat().st_mtime_ns for path in out.glob("models/*/**/*.parquet")} == before


def test_what_was_killed_is_made_again_and_gives_the_same(made: tuple[Path, Evaluation], data: str) -> None:
    out, found = made
    (folder,) = (out / "models").iterdir()
    shard = folder / "shards" / "00000001.parquet"
    before = shard.read_bytes()
    (folder / "done" / "00000001.json").unlink()
    shard.unlink()
    again = evaluate_models(["mini"], [data], str(out), config())
    assert shard.read_bytes() == before
    costless = [dataclasses.replace(line, seconds=None, peak_bytes=None) for line in found.lines]
    assert [dataclasses.replace(line, seconds=None, peak_bytes=None) for line in again.lines] == costless


def test_another_detector_measures_the_same_images_anew(made: tuple[Path, Evaluation], data: str) -> None:
    out = made[0]
    images = {path: path.stat().st_mtime_ns for path in out.glob("models/*/shards/*.parquet")}
    strict = evaluate_models(["mini"], [data], str(out), config("detector.min_score=1.0", "judge.clip_model=absent"))
    assert {path: path.stat().st_mtime_ns for path in out.glob("models/*/shards/*.parquet")} == images
    (line,) = (line for line in strict.lines if line.model == "mini" and line.scene == "all")
    assert (line.ap, line.clipsim) == (0, None)
    assert len(strict.absent) == 1
    assert "CLIPSIM needs a CLIP" in strict.text


def test_other_samples_are_not_mixed_in(made: tuple[Path, Evaluation], data: str) -> None:
    with pytest.raises(UserError, match="another identity"):
        evaluate_models(["mini"], [data], str(made[0]), config("limit=3"))


def test_poses_fit_images_of_another_shape() -> None:
    person = somebody(1, x=100, size=60)
    wide = Sample("", "coco", None, "", 200, 100, "", (person,))
    (fitted,) = fit(wide, 64, 64)  # scaled by 0.32, 16 px down
    assert fitted.bbox == pytest.approx((70 * 0.32, 70 * 0.32 + 16, 60 * 0.32, 60 * 0.32))
    centre = (person.keypoints[3, :2] + 0.5) * 0.32 - 0.5 + (0, 16)
    assert fitted.keypoints[3, :2] == pytest.approx(centre, abs=1e-4)
    unsure = person.keypoints.copy()
    unsure[5, 2] = 0.2
    (shown,) = fit(replace(wide, people=(replace(person, keypoints=unsure),)), 64, 64)
    assert shown.keypoints[5, 2] == 0
    assert shown.keypoints[6, 2] == 1
    assert fitted.area == pytest.approx(person.area * 0.32**2)


def test_the_command_asks_for_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--models", "mini"]) == 2
    assert "give --models MODEL..., --data OUT... and --out DIR" in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["mini", "paper", "release"])
def test_presets_load(preset: str) -> None:
    loaded = load_config(EvaluateConfig, preset, [], "evaluate")
    assert loaded.judge.features is not None
    if preset != "mini":
        assert (loaded.sampler.steps, loaded.sampler.guidance, loaded.seed) == (50, 9.0, 42)
        assert (loaded.judge.features == "inception-64") == (preset == "release")
