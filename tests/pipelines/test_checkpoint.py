import json
import shutil
from pathlib import Path

import pytest

from pipelines.checkpoint import Checkpoint, ModelConfig, SamplerConfig, check_folder, family, folder_digest, resolve
from pipelines.config import UserError, load_config
from tests.pipelines.tiny_models import build_tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: build_tiny(folder / name, name) for name in ("sd1", "sd2", "sdxl")}


@pytest.fixture
def folder(models: dict[str, Path], tmp_path: Path) -> Path:
    """A checkpoint that the test may spoil."""
    return Path(shutil.copytree(models["sd1"], tmp_path / "spoilt"))


def test_family_is_read_from_the_folder(models: dict[str, Path]) -> None:
    assert {name: family(folder) for name, folder in models.items()} == {"sd1": "sd1", "sd2": "sd2", "sdxl": "sdxl"}


def test_local_folder_is_pinned_by_content_and_named_without_its_path(models: dict[str, Path], tmp_path: Path) -> None:
    moved = shutil.copytree(models["sd1"], tmp_path / "sd1")
    here, there = resolve(ModelConfig(id=str(models["sd1"]))), resolve(ModelConfig(id=str(moved)))
    assert here.name == there.name == "sd1"
    assert here.revision == there.revision == f"sha256:{folder_digest(moved)}"
    assert there.folder() == moved


def test_digest_sees_weights_and_scheduler_but_no_readme(folder: Path) -> None:
    before = folder_digest(folder)
    (folder / "README.md").write_text("a model card")
    assert folder_digest(folder) == before
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("epsilon", "v_prediction"))
    changed = folder_digest(folder)
    assert changed != before
    with (folder / "unet" / "diffusion_pytorch_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    assert folder_digest(folder) not in (before, changed)


def test_folder_that_changed_since_it_was_pinned_is_refused(folder: Path) -> None:
    checkpoint = resolve(ModelConfig(id=str(folder)))
    config = folder / "unet" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(UserError, match="changed"):
        checkpoint.folder()


def test_folder_missing_on_this_node() -> None:
    with pytest.raises(UserError, match="every node needs it"):
        Checkpoint("x", "/nowhere/x", "sha256:00").folder()


def test_pickled_weights_are_refused_by_name(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"vae: only diffusion_pytorch_model\.bin, a pickle, which is never loaded"):
        resolve(ModelConfig(id=str(folder)))


def test_pose_conditioned_checkpoint_is_refused(folder: Path) -> None:
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 8}))
    with pytest.raises(UserError, match="takes 8 channels"):
        check_folder(folder)


def test_other_pipelines_are_refused(folder: Path) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "FluxPipeline"}))
    with pytest.raises(UserError, match="FluxPipeline cannot be sampled here"):
        check_folder(folder)


def test_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a diffusers folder \(model_index.json is missing\)"):
        resolve(ModelConfig(id=str(tmp_path)))


@pytest.mark.parametrize("name", ["no-such-folder", "./a/b/c", "/x/y.safetensors"])
def test_neither_folder_nor_hub_id(name: str) -> None:
    with pytest.raises(UserError, match=r"no such folder.*model\.id=mini"):
        resolve(ModelConfig(id=name))


def test_single_file_checkpoint_is_explained(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="must first be converted"):
        resolve(ModelConfig(id=str(tmp_path / "model.safetensors")))


def test_commit_needs_no_network() -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert resolve(ModelConfig(id="owner/name", revision=commit)).revision == commit


def test_hub_model_that_cannot_be_had_names_the_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"owner/name: .*model\.id=mini.*--local-dir DIR") as error:
        resolve(ModelConfig(id="owner/name"))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"owner/name: .*model\.id=mini"):
        Checkpoint("owner/name", "owner/name", "0" * 40).folder()


def test_sampler_values_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sampler\.width must be a multiple of 8"):
        load_config(SamplerConfig, None, ["width=100"])
    with pytest.raises(UserError, match=r"sampler\.steps must be at least 1"):
        load_config(SamplerConfig, None, ["steps=0"])
