from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from pipelines.clip import MINI_CLIP
from pipelines.mini.train import clip, common


def test_a_training_starts_from_the_shipped_weights_and_their_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grammar may have other words by now; the weights know those of their own tokenizer."""
    monkeypatch.setattr(clip, "POOL", 8)
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    options = {"samples": 0, "batch": 4, "rate": 1e-3, "seed": 0, "processes": 1, "minutes": 1e9, "seen": 0}
    start = MINI_CLIP / "model.safetensors"
    clip.train(0, argparse.Namespace(run=tmp_path, start=start, **options))
    shipped, own = (CLIPTokenizer.from_pretrained(folder) for folder in (MINI_CLIP, tmp_path / "clip"))
    assert own.get_vocab() == shipped.get_vocab()
    saved = load_file(tmp_path / "clip" / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in load_file(start).items())
