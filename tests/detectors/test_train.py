"""Trainings by mmengine's Runner on small drawn sets: they start, stop, go on, and write weights that load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from detectors.checkpoint import read_state
from detectors.train import (
    TrainingError,
    backbone_weights,
    configure,
    curve,
    export,
    find_set,
    last_checkpoint,
    override,
    train,
)
from detectors.weights import WeightsError

pytest.importorskip("mmpose")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of two blocks "people" in grey pictures, laid out like Human-Art, its images named from the parent."""
    import cv2

    root = tmp_path_factory.mktemp("copy") / "HumanArt"
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("training", 6), ("validation", 3)):
        images, annotations = [], []
        for index in range(count):
            pixels = rng.integers(90, 110, (64, 64, 3)).astype(np.uint8)
            pixels[10:50, 20:40] = (200, 60, 60)
            name = f"HumanArt/images/{split}-{index}.png"
            cv2.imwrite(str(root.parent / name), pixels)
            images.append({"id": index, "file_name": name, "width": 64, "height": 64})
            keypoints = np.stack((rng.uniform(20, 40, 17), rng.uniform(10, 50, 17), np.full(17, 2)), -1)
            annotations.append(
                {"id": index + 1, "image_id": index, "category_id": 1, "bbox": [20, 10, 20, 40], "area": 800.0}
                | {"iscrowd": 0, "num_keypoints": 17, "keypoints": keypoints.reshape(-1).tolist()}
            )
        whole = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
        (root / "annotations" / f"{split}_humanart.json").write_text(json.dumps(whole))
    return root


@pytest.fixture
def config() -> Any:
    return short("mini_mm_pose.py", 2)


def short(name: str, steps: int) -> Any:
    from detectors.mm import read_config

    config = read_config(f"detectors::{name}")
    for key, value in (
        ("train_cfg.max_iters", steps),
        ("train_dataloader.batch_size", 2),
        ("default_hooks.logger.interval", 1),
    ):
        override(config, key, value)
    return config


def test_images_are_found_beside_below_and_under_images(root: Path, tmp_path: Path) -> None:
    assert find_set(root).images == root.parent
    for folder, name in ((tmp_path / "a", "images/x.png"), (tmp_path / "b", "x.png")):
        (folder / "annotations").mkdir(parents=True)
        (folder / "images").mkdir()
        (folder / "images" / "x.png").touch()
        for split in ("training", "validation"):
            said = json.dumps({"images": [{"file_name": name}]})
            (folder / "annotations" / f"{split}_humanart.json").write_text(said)
        assert (find_set(folder).images / name).is_file()


def test_what_is_missing_of_a_set_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"training_humanart\.json: --root must be"):
        find_set(tmp_path)
    (tmp_path / "annotations").mkdir()
    for split in ("training", "validation"):
        (tmp_path / "annotations" / f"{split}_humanart.json").write_text("{}")
    with pytest.raises(TrainingError, match="not a COCO annotation file"):
        find_set(tmp_path)
    kept = (root / "annotations" / "validation_humanart.json").read_text()
    (tmp_path / "annotations" / "validation_humanart.json").write_text(kept)
    with pytest.raises(TrainingError, match=r"names HumanArt/images/validation-0\.png, which is neither"):
        find_set(tmp_path)


def test_a_stopped_training_goes_on_from_its_last_checkpoint(root: Path, tmp_path: Path, config: Any) -> None:
    run = tmp_path / "run"
    data = find_set(root)
    first = train(config, data, run)
    assert first.name == "iter_2.pth"
    before = read_state(first)
    second = train(short("mini_mm_pose.py", 3), data, run)
    assert second == last_checkpoint(run)
    assert second.name == "iter_3.pth"
    after = read_state(second)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved
    assert [row["step"] for row in curve(run) if "loss" in row] == [1, 2, 3]
    path = tmp_path / "weights.safetensors"
    sha256 = export(second, path, half=True)
    assert len(sha256) == 64
    written = load_file(path)
    assert written.keys() == after.keys()
    assert all(value.dtype != torch.float32 for value in written.values())


def test_weights_to_start_from_replace_the_pretrained_backbone(root: Path, tmp_path: Path, config: Any) -> None:
    data = find_set(root)
    given = read_state(train(config, data, tmp_path / "first"))
    start = tmp_path / "start.safetensors"
    export(tmp_path / "first" / "iter_2.pth", start)
    again = short("mini_mm_pose.py", 1)
    again.optim_wrapper.optimizer.lr = 0.0
    again.model.backbone.init_cfg = {"type": "Pretrained", "checkpoint": "https://localhost/none.pth"}
    found = read_state(train(again, data, tmp_path / "second", start))
    name = "head.final_layer.weight"
    assert torch.equal(found[name], given[name])


def test_a_start_without_a_backbone_is_refused(root: Path, tmp_path: Path, config: Any) -> None:
    torch.save({"state_dict": {"other.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(TrainingError, match=r"other\.pth: holds no weights of a detector's backbone"):
        train(config, find_set(root), tmp_path / "run", tmp_path / "other.pth")


def test_offline_a_backbone_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUMANSD_OFFLINE", "1")
    monkeypatch.setenv("HUMANSD_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=rf"put https://x/b-01234567\.pth at {tmp_path}/b-01234567\.pth yourself"):
        backbone_weights("https://x/b-01234567.pth")
    (tmp_path / "plain.pth").touch()
    assert backbone_weights("https://x/plain.pth") == tmp_path / "plain.pth"


def test_torchrun_gets_one_process_a_gpu(root: Path, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(config, find_set(root), Path("run"))
    assert config.launcher == "none"
    monkeypatch.setenv("LOCAL_RANK", "0")
    configure(config, find_set(root), Path("run"))
    assert config.launcher == "pytorch"


def test_unknown_config_keys_are_refused(config: Any) -> None:
    override(config, "optim_wrapper.optimizer.lr", 0.5)
    assert config.optim_wrapper.optimizer.lr == 0.5
    for key in ("optim_wrapper.optimiser.lr", "optim_wrapper.optimizer.rate", "nothing"):
        with pytest.raises(TrainingError, match=key):
            override(config, key, 1)
