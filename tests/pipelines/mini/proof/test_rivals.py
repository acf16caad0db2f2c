"""What HumanSD is compared with: it starts from the same base, learns, and the evaluation can load it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.annotate import Annotation
from pipelines.checkpoint import ModelConfig, SamplerConfig, resolve
from pipelines.config import load_config
from pipelines.evaluate.generators import Generator, resolve_model
from pipelines.mini.proof import __main__ as proof
from pipelines.mini.proof.rivals import RIVAL_KINDS, Rival, make_rival, train_rival
from pipelines.train.cache import columns_name
from pipelines.train.config import TrainConfig
from pipelines.train.model import load_parts
from tests.pipelines.small_dataset import add_columns, sample, write_dataset

BASE = resolve(ModelConfig()).folder()


def inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    noisy, text = torch.randn(2, 8, 16, 16, generator=generator), torch.randn(2, 77, 128, generator=generator)
    return noisy, torch.tensor([10, 900]), text, torch.rand(2, 3, 64, 64, generator=generator)


@pytest.mark.parametrize("kind", ["plain", "controlnet"])
def test_before_it_has_learnt_it_predicts_what_the_base_predicts(kind: Rival) -> None:
    noisy, times, text, pictures = inputs()
    unet = load_parts(BASE, extra=False).unet.eval()
    expected = unet(noisy, times, encoder_hidden_states=text).sample
    _, predict = make_rival(kind, unet)
    torch.testing.assert_close(predict(noisy, times, text, pictures), expected)


@pytest.mark.parametrize("kind", ["controlnet", "t2i"])
def test_gradients_reach_the_network_beside_the_unet_and_not_the_unet(kind: Rival) -> None:
    unet = load_parts(BASE, extra=False).unet
    network, predict = make_rival(kind, unet)
    predict(*inputs()).square().mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in network.parameters())
    assert all(p.grad is None for p in unet.parameters())


@pytest.mark.parametrize("kind", RIVAL_KINDS)
def test_a_trained_one_is_drawn_from_by_the_evaluation(kind: Rival, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", 1)
    name = columns_name(resolve(ModelConfig()), 64)
    add_columns(tmp_path / "data", Annotation("pipelines.train.cache:Latents", name, {"model": "mini", "size": 64}))
    # fast enough to show in whole pixels
    fast = ["steps=4", "batch_size=4", "optimizer.warmup_steps=0", "optimizer.learning_rate=0.01"]
    config = load_config(TrainConfig, proof.CONFIG, fast, folder="train")
    train_rival(kind, config, [str(tmp_path / "data")], tmp_path / kind)
    given = str(tmp_path / kind) if kind == "plain" else f"{kind}:{tmp_path / kind}"
    poses = [sample("0" * 8, 0, 1).people, ()]
    made, base = (
        Generator(resolve_model(name, "mini"), SamplerConfig(steps=2, batch_size=2)).generate(
            ["a man", "a man"], ["", ""], poses, [1, 1]
        )
        for name in (given, "mini")
    )
    assert (made[0] != base[0]).any(), "it has learnt something"
    assert kind == "plain" or (made[0] != made[1]).any(), "it sees the pose"
    assert train_rival(kind, config, [], tmp_path / kind) == 0, "what is there stays"
