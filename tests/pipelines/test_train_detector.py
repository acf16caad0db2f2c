"""`humansd models train`: mistakes are told before anything runs; both kinds of network train and write weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from detectors import weights
from pipelines import cli, train_detector
from pipelines.config import UserError

SHORT = ("train_cfg.max_epochs=1", "train_dataloader.batch_size=2", "train_dataloader.num_workers=0")


def refusal(*given: Any) -> str:
    with pytest.raises(UserError) as caught:
        train_detector.train_detector(*given)
    return str(caught.value)


def test_mistakes_are_told_before_anything_is_made(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert "rtmdet-tiny-humanart" in refusal("rtmdet", run, tmp_path, None, [])
    assert "give its folder as --root" in refusal("rtmpose-m-humanart", run, None, None, [])
    assert "leave --root and --weights out" in refusal("mini-mm", run, tmp_path, None, [])
    assert "must look like key=value" in refusal("mini-mm", run, None, None, ["train_cfg.max_iters"])
    assert not run.exists()


def test_every_recipe_is_a_checkpoint_of_the_list() -> None:
    known = {one.name for one in weights.CHECKPOINTS}
    assert {"rtmdet-s-humanart", "rtmpose-l-humanart", "hrnet-w48-humanart"} <= set(train_detector.recipes()) <= known


@pytest.mark.parametrize("text", ["a.b=3", "a.b=three", "a.b='x = y'"])
def test_values_are_toml_and_else_words(text: str) -> None:
    expected = {"a.b=3": 3, "a.b=three": "three", "a.b='x = y'": "x = y"}
    assert train_detector.parse(text) == ("a.b", expected[text])


def test_a_folder_without_annotations_is_named_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mmpose")
    given = ["models", "train", "rtmdet-s-humanart", "--root", str(tmp_path), "--run", str(tmp_path / "run")]
    assert cli.main(given) == 2
    assert capsys.readouterr().err == (
        f"humansd: no {tmp_path}/annotations/training_humanart.json: "
        "--root must be the folder of your copy of Human-Art\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rtmdet-tiny-humanart", "rtmpose-t-humanart", "hrnet-w32-humanart"])
def test_full_size_networks_train_on_a_set_laid_out_like_human_art(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mmpose")
    import torch

    from detectors.mm import ModelFiles, build
    from pipelines.mini.train.mm_data import write_set

    write_set(tmp_path / "HumanArt", seed=5, training=8, validation=2)
    start = tmp_path / "backbone.pth"
    write_start(name, start)
    more = ["train_dataloader.dataset.filter_cfg.min_size=8"] if name.startswith("rtmdet") else []
    given = ["models", "train", name, "--root", str(tmp_path / "HumanArt"), "--run", str(tmp_path / "run"), "--json"]
    given += ["--weights", str(start), *(word for key in (*SHORT, *more) for word in ("--set", key))]
    assert cli.main(given) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["sha256"] == weights.digest(Path(done["path"]))
    config = weights.get(name).config
    assert config is not None
    scope: Literal["mmdet", "mmpose"] = "mmdet" if name.startswith("rtmdet") else "mmpose"
    build(ModelFiles(config, Path(done["path"])), scope, torch.device("cpu"))


def write_start(name: str, path: Path) -> None:
    """Random weights of a network's backbone, as a checkpoint."""
    import torch
    from mmengine.registry import MODELS

    from detectors.mm import read_config

    config = read_config(str(weights.get(name).config))
    backbone = dict(config.model.backbone, init_cfg=None)
    backbone.pop("_scope_", None)
    scope = "mmpose" if name.startswith("hrnet") else "mmdet"
    __import__(f"{scope}.models")
    net = MODELS.build({**backbone, "_scope_": scope})
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in net.state_dict().items()}}, path)
