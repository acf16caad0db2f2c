from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from pipelines import cli, dataset, demo
from tests.pipelines.small_dataset import write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo's two datasets, small."""
    found = tmp_path_factory.mktemp("demo")
    for name in ("ghi", "laion"):
        write_dataset(found / name, 2)
        dataset.write_index(str(found / name))
    return found


def test_the_story_names_what_is_there(folder: Path) -> None:
    told = demo.story(str(folder / "ghi"), str(folder / "laion"), folder)
    assert "7 samples" in told
    assert "from 12 images drawn" in told
    assert "250 steps on these 14 pictures" in told
    for path in re.findall(r'pd\.read_parquet\("(.*?)"\)', told):
        assert Path(path).is_file(), path
    commands = re.findall(r"humansd (\S+)", told)
    assert commands == ["status", "inspect", "plan", "sample", "train", "demo"]


def test_it_ends_with_a_model_its_grid_and_a_way_to_sample(
    cluster: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last stage on datasets that are there, two steps of it: what the story names, and its `sample` works."""
    monkeypatch.setattr(demo, "STEPS", 2)
    ghi, laion = str(folder / "ghi"), str(folder / "laion")
    assert demo.train([ghi, laion], folder / demo.RUN, 1) == 0
    told = demo.story(ghi, laion, folder)
    named = {Path(path) for path in re.findall(rf"{re.escape(str(folder / demo.RUN))}/[\w./]+", told)}
    assert {path.name for path in named} == {"model", "00000002.png", "report.html"}
    assert all(path.exists() for path in named)
    (line,) = re.findall(r"humansd (sample .*)", told)
    monkeypatch.chdir(tmp_path)
    assert cli.main(shlex.split(line)) == 0
    with Image.open("a.png") as grid:
        assert grid.width > 4 * 64
    assert demo.train([ghi, laion], folder / demo.RUN, 1) == 0
    assert "trained already" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_training_fits_any_number_of_workers(workers: int) -> None:
    config = demo.train_config(workers)
    assert (config.steps, config.compute.workers) == (demo.STEPS, min(workers, 2))


@pytest.mark.slow
def test_the_demo_runs_and_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "STEPS", 4)
    folder = tmp_path / "demo"
    assert cli.main(["demo", "--out", str(folder), "--n", "8"]) == 0
    for name in ("sheet.png", "rejected.png", "laion.png", "laion-rejected.png"):
        with Image.open(folder / name) as sheet:
            assert sheet.width > 500
    assert "8 samples" in capsys.readouterr().out
    made = ("*/done/*", "run/model/**/*.safetensors")
    before = {path: path.stat().st_mtime_ns for pattern in made for path in folder.glob(pattern)}
    assert len(before) >= 8
    assert cli.main(["demo", "--out", str(folder), "--n", "8"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
