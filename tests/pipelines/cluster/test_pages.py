"""The pages about clusters say what is so: figures are worked out again, and README's commands are run as written."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.progress import METRICS
from tests.pipelines.cluster.real_ray import BIN, real_cluster

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "pipelines" / "cluster" / "README.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORKED_OUT = re.findall(r"^```\nhumansd (plan [^\n]*)\n\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FOUR = re.search(r"^## The cluster in four commands$.*?^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("command", "told"), WORKED_OUT)
def test_its_figures_are_what_the_command_prints(
    command: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(shlex.split(command)) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert [line.rstrip() for line in printed] == [line.rstrip() for line in told.strip().splitlines()]


def test_there_are_a_measured_and_an_assumed_page() -> None:
    assert [("measured-mini" in command, "ASSUMED" in told) for command, told in WORKED_OUT] == [
        (True, False),
        (False, True),
    ]
    for _, told in WORKED_OUT:
        assert [line.split()[0] for line in told.strip().splitlines()[-4:]] == ["1", "8", "64", "512"]


def test_it_names_every_series() -> None:
    named = dict(re.findall(r"^\| `ray_humansd_(\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert named == METRICS


def test_its_links_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "pipelines" / "cluster" / target).exists(), target


@pytest.mark.slow
def test_the_four_commands_run_as_written(tmp_path: Path) -> None:
    assert FOUR is not None
    lines = FOUR[1].strip().splitlines()
    assert len(lines) == 4
    (tmp_path / "bin").mkdir()
    humansd = tmp_path / "bin" / "humansd"
    humansd.write_text(f'#!/bin/sh\nexec {BIN}/python -m pipelines "$@"\n', encoding="utf-8")
    humansd.chmod(0o755)
    with real_cluster() as cluster:
        environment = {**cluster.environment, "PATH": f"{tmp_path / 'bin'}:{cluster.environment['PATH']}"}
        environment |= {"RAY_API_SERVER_ADDRESS": cluster.dashboard, "OUT": str(tmp_path / "out")}
        for line in lines:
            done = subprocess.run(
                ["bash", "-c", line], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 2
