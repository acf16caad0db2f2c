import argparse
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from pipelines.clip import MINI_CLIP
from pipelines.mini.train import common, diffusion


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one tiny part, drawn and encoded by the shipped autoencoder and text tower."""
    monkeypatch.setattr(diffusion, "PART", 8)
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    diffusion.draw_part(tmp_path, MINI_CLIP, 0, seed=0)
    diffusion.encode_part(tmp_path, MINI_CLIP.parent / "sd" / "vae", MINI_CLIP, 0)
    return tmp_path


def arguments(run: Path, samples: int) -> argparse.Namespace:
    options = {"samples": samples, "batch": 4, "rate": 1e-3, "seed": 0, "processes": 1, "minutes": 1e9, "parts": 1}
    return argparse.Namespace(run=run, **options, vae=None, clip=None, start=None, seen=0)


def test_a_stopped_training_goes_on_as_if_it_had_not(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = arguments(run, 16)
    stopped.minutes = 2.5
    with monkeypatch.context() as clock:  # a minute a look: two steps fit
        clock.setattr(diffusion, "time", SimpleNamespace(monotonic=itertools.count(step=60).__next__))
        diffusion.train(0, stopped)
    assert torch.load(run / "state.pt", weights_only=True)["step"] == 2
    diffusion.train(0, arguments(run, 16))
    resumed = torch.load(run / "state.pt", weights_only=True)
    (run / "state.pt").unlink()
    diffusion.train(0, arguments(run, 16))
    whole = torch.load(run / "state.pt", weights_only=True)
    assert resumed["step"] == whole["step"] == 4
    assert all(torch.equal(resumed["model"][name], value) for name, value in whole["model"].items())
    assert (run / "unet" / "config.json").exists()


def test_a_training_starts_from_the_shipped_weights(run: Path) -> None:
    options = arguments(run, 0)
    options.start = MINI_CLIP.parent / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    diffusion.train(0, options)
    begun = torch.load(run / "state.pt", weights_only=True)["model"]
    assert all(torch.equal(begun[name], value.float()) for name, value in load_file(options.start).items())
