from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from detectors import weights
from pipelines.config import UserError, load_config
from pipelines.ghi.config import GhiConfig
from pipelines.models import DIFFUSION, fetch, list_models
from tests.pipelines.tiny_models import build_tiny


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HUMANSD_CACHE", str(tmp_path))
    return tmp_path


def states(*, whole: bool = False) -> dict[str, str]:
    return {model.name: model.state for model in list_models(whole=whole)}


def test_every_model_is_listed_once_with_its_licence(cache: Path) -> None:
    models = list_models()
    names = [model.name for model in models]
    assert len(set(names)) == len(names)
    assert {*DIFFUSION, *(one.name for one in weights.CHECKPOINTS)} == set(names)
    assert all(model.licence for model in models)
    assert {model.licence for model in models if model.name in ("sd21", "sdxl")} == {"CreativeML Open RAIL++-M"}
    assert all(model.source for model in models if model.state != "bundled" and not model.name.startswith("mini"))


def test_published_figures_are_listed(cache: Path) -> None:
    found = {model.name: model for model in list_models()}
    model = found["rtmpose-m-humanart"]
    assert model.ap == 72.8
    assert model.sha256 == "8430627b"
    assert model.source.endswith("8430627b_20230611.pth")
    assert model.place == str(cache / "rtmpose-m_8xb256-420e_humanart-256x192-8430627b_20230611.pth")
    assert "ground-truth boxes" in model.measured
    assert found["mini-pose"].bytes == Path(found["mini-pose"].place).stat().st_size


def test_only_a_whole_look_finds_damage(cache: Path) -> None:
    assert states()["rtmpose-m-humanart"] == "missing"
    weights.path_of(weights.get("rtmpose-m-humanart")).write_bytes(b"not the weights")
    assert states()["rtmpose-m-humanart"] == "cached"
    assert states(whole=True)["rtmpose-m-humanart"] == "damaged"


def test_a_damaged_diffusion_model_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the layout of the hub's cache: a snapshot of links to files that are named by their sha256."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    config = load_config(GhiConfig, "sd21").model
    assert config.revision is not None
    assert states()["sd21"] == "missing"
    folder = tmp_path / f"models--{config.id.replace('/', '--')}"
    snapshot = folder / "snapshots" / config.revision
    for path in sorted(build_tiny(tmp_path / "tiny", "sd2").rglob("*")):
        if path.is_file():
            blob = folder / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            link = snapshot / path.relative_to(tmp_path / "tiny")
            for place in (blob, link):
                place.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(path.read_bytes())
            link.symlink_to(blob)
    assert states(whole=True)["sd21"] == "cached"
    weight = (snapshot / "unet" / "diffusion_pytorch_model.safetensors").resolve()
    weight.write_bytes(weight.read_bytes()[:-1] + b"?")
    assert states()["sd21"] == "cached"
    assert states(whole=True)["sd21"] == "damaged"


def test_offline_fetches_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUMANSD_OFFLINE", "1")
    with pytest.raises(weights.WeightsError, match="HUMANSD_OFFLINE is set"):
        fetch("rtmpose-m-humanart")
    assert list(cache.iterdir()) == []


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(UserError, match="known: mini, sd15, sd21, sdxl, mini-pose"):
        fetch("sd3")


def test_a_bundled_model_is_there_without_fetching() -> None:
    assert Path(fetch("mini")).is_dir()
    assert fetch("mini-pose").is_file()
