from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from pipelines import cli
from pipelines.config import bundled, keys, load_config
from pipelines.train import checkpoints, curves, run
from pipelines.train.config import TrainConfig
from pipelines.train.pipeline import HumanSDPipeline
from tests.pipelines.small_dataset import write_dataset

SETS = [
    *("--set", "steps=4", "--set", "batch_size=4", "--set", "output.log_every=1", "--set", "output.checkpoint_every=2"),
    *("--set", "output.grid_samples=1", "--set", "compute.dtype=float32", "--set", "loss.weight=1.0"),
]


@pytest.fixture(scope="module")
def ghi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "ghi"
    write_dataset(folder, 2)
    return folder


def test_bundled_configs_load() -> None:
    assert bundled("train") == ("mini", "sd15", "sd21")
    paper = load_config(TrainConfig, "sd21", folder="train")
    assert (paper.loss.heat, paper.loss.weight, paper.optimizer.learning_rate) == ("detector", 0.1, 5e-6)
    assert paper.loss.detector == "higherhrnet-w48"
    for name in bundled("train"):
        load_config(TrainConfig, name, folder="train")


def test_every_key_is_explained() -> None:
    assert all(field.metadata["help"] for _, field in keys(TrainConfig))


def test_a_dry_run_says_what_would_run(ghi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["train", "--data", str(ghi), "--out", str(tmp_path / "run"), *SETS, "--dry-run"]
    assert cli.main([*given, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["steps"], plan["batch_size"], plan["samples"], plan["step"]) == (4, 4, 7, 0)
    assert plan["parameters"] == _parameters()
    weights = plan["parameters"]["unet"] * 4 / 2**30
    assert plan["memory_gib"]["optimizer"] == pytest.approx(2 * weights, abs=1e-3)
    assert plan["memory_gib"]["average"] == pytest.approx(weights, abs=1e-3)
    assert plan["warnings"] == []
    assert cli.main(given) == 0
    assert "7 samples" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def _parameters() -> dict[str, int]:
    from pipelines.checkpoint import MINI_FOLDER
    from pipelines.train.model import load_parts

    parts = load_parts(MINI_FOLDER)
    named = {"unet": parts.unet, "vae": parts.vae, "text_encoder": parts.text_encoder}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in named.items()}


def test_ghi_of_another_model_is_warned_of(ghi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "ghi"
    write_dataset(other, 1)
    manifest = json.loads((other / "dataset.json").read_text())
    manifest["identity"] |= {"model.name": "somebody/else", "model.revision": "1"}
    (other / "dataset.json").write_text(json.dumps(manifest))
    given = ["train", "--data", str(ghi), str(other), "--out", str(tmp_path / "run"), "--dry-run", "--json"]
    assert cli.main(given) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert "somebody/else" in warning


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--out", "RUN"], "needs --data OUT"),
        (["--data", "GHI"], "--out RUN"),
        (["--data", "nowhere", "--out", "RUN"], "holds no dataset"),
        (["--data", "GHI", "--out", "s3://bucket/run"], "a folder that all its workers can write"),
        (["--data", "GHI", "--out", "GHI"], "holds something else than a training"),
        (["--data", "GHI", "--out", "RUN", "--set", "batch_size=3", "--workers", "2"], "must be a multiple of"),
        (["--data", "GHI", "--out", "RUN", "--set", "loss.weight=-1"], "must not be negative"),
        (["--data", "GHI", "--out", "RUN", "--set", "loss.wait=1"], "unknown key 'loss.wait'"),
        (["--data", "GHI", "--out", "RUN", "--config", "sdxl"], "bundled: mini, sd15, sd21"),
    ],
)
def test_mistakes_are_told_in_one_line(
    ghi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    places = {"GHI": str(ghi), "RUN": str(tmp_path / "run")}
    assert cli.main(["train", *(places.get(word, word) for word in given)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_train_sample_and_go_on(cluster: str, ghi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole of it through Ray: two workers, then one more step with one, a report, and what is refused."""
    out = tmp_path / "run"
    given = ["train", "--data", str(ghi), "--out", str(out), *SETS, "--set", "optimizer.schedule=constant"]
    assert cli.main([*given, "--workers", "2", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"out": str(out), "steps": 4, "model": str(out / "model")}
    assert "step 4 of 4: loss" in said.err
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 6
    assert page.count("data:image/png;base64,") == 1
    assert "://" not in page
    assert HumanSDPipeline.from_pretrained(out / "model").unet.config.in_channels == 16
    assert Image.open(out / "grids" / "00000004.png").size[1] == 64

    assert cli.main(given) == 0
    assert "trained already" in capsys.readouterr().err
    assert cli.main([*given, "--set", "steps=5"]) == 0
    assert [point.step for point in curves.read(out)] == [1, 2, 3, 4, 5]

    manifest = json.loads((out / "run.json").read_text())  # as a kill after the last checkpoint leaves it
    (out / "run.json").write_text(json.dumps(manifest | {"trained": 4}))
    (out / "report.html").unlink()
    assert cli.main([*given, "--set", "steps=5"]) == 0
    assert "done: " in capsys.readouterr().err
    assert (out / "report.html").is_file()
    assert json.loads((out / "run.json").read_text()) == manifest

    assert cli.main([*given, "--set", "steps=5", "--set", "seed=1"]) == 2
    assert "seed: 0 -> 1" in capsys.readouterr().err
    assert cli.main(given) == 2
    assert "steps: 5 -> 4" in capsys.readouterr().err


def test_what_a_kill_at_the_very_beginning_leaves_is_no_hindrance(
    ghi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / ".run.json.1234.new").write_text("{")
    assert cli.main(["train", "--data", str(ghi), "--out", str(out), *SETS, "--dry-run", "--json"]) == 0
    (out / "mine.txt").write_text("")
    assert cli.main(["train", "--data", str(ghi), "--out", str(out), *SETS, "--dry-run"]) == 2
    assert "holds something else" in capsys.readouterr().err


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    progress = run._Progress(tmp_path, load_config(TrainConfig, "mini", folder="train"), said.append)
    progress.look()
    with (tmp_path / "left_out.txt").open("a") as file:
        file.write("a: gone\nb: cut off\n")
    progress.look()
    progress.look()
    assert said == [f"cannot be read, other samples take their place: b: cut off (1 more in {tmp_path}/left_out.txt)"]


def test_two_at_once_are_refused(ghi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with run._alone(out):
        assert cli.main(["train", "--data", str(ghi), "--out", str(out), *SETS]) == 2
    assert "another process trains there" in capsys.readouterr().err


@pytest.mark.slow
def test_a_mistake_that_a_worker_meets_is_told(
    cluster: str, ghi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["train", "--data", str(ghi), "--out", str(tmp_path / "run"), *SETS, "--set", "data.poses=none-such"]
    assert cli.main(given) == 2
    assert "has no columns none-such" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_killed_goes_on(ghi: Path, tmp_path: Path) -> None:
    """SIGKILL of `humansd train` with its own Ray: the same command again ends as if nothing had happened."""
    command = [sys.executable, "-m", "pipelines", "train", "--data", str(ghi), *SETS, "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, str(whole)], check=True, env=os.environ)
    process = subprocess.Popen([*command, str(killed)], env=os.environ)
    while not checkpoints.steps(killed):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    subprocess.run([*command, str(killed)], check=True, env=os.environ)
    name = "model/unet/diffusion_pytorch_model.safetensors"
    assert (killed / name).read_bytes() == (whole / name).read_bytes()
