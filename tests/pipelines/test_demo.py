from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from pipelines import cli, dataset
from pipelines.demo import story
from tests.pipelines.small_dataset import write_dataset


def test_the_story_names_what_is_there(tmp_path: Path) -> None:
    for out in (tmp_path / "ghi", tmp_path / "laion"):
        write_dataset(out, 2)
        dataset.write_index(str(out))
    told = story(str(tmp_path / "ghi"), str(tmp_path / "laion"), tmp_path)
    assert "7 samples" in told
    assert "from 12 images drawn" in told
    for path in re.findall(r'pd\.read_parquet\("(.*?)"\)', told):
        assert Path(path).is_file(), path
    commands = re.findall(r"humansd (\S+)", told)
    assert commands == ["status", "inspect", "plan", "demo"]


@pytest.mark.slow
def test_the_demo_runs_and_runs_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    assert cli.main(["demo", "--out", str(folder), "--n", "8"]) == 0
    for name in ("sheet.png", "rejected.png", "laion.png", "laion-rejected.png"):
        with Image.open(folder / name) as sheet:
            assert sheet.width > 500
    assert "8 samples" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/done/*")}
    assert len(before) >= 5
    assert cli.main(["demo", "--out", str(folder), "--n", "8"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/done/*")} == before
