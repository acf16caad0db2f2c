"""ViTPose's configs build without mmpretrain, with the checkpoints' keys, and compute what ViT computes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("mmpose")

from detectors import vit
from detectors.checkpoint import load_strictly

CONFIGS = "body_2d_keypoint/topdown_heatmap/{}/td-hm_ViTPose-{}_8xb64-210e_{}-256x192.py"
SIZES = {"small": (384, 12), "base": (768, 12), "large": (1024, 24), "huge": (1280, 32)}
"""Embedding and depth."""
TINY = {"embed_dims": 32, "num_layers": 3, "num_heads": 4, "feedforward_channels": 64}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(size: str, trained_on: str = "humanart") -> Any:
    """The network of an unedited config of the wheel, without memory for its weights."""
    import mmpose
    import mmpose.models
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    vit.register()
    path = Path(mmpose.__file__).parent / ".mim" / "configs" / CONFIGS.format(trained_on, size, trained_on)
    with DefaultScope.overwrite_default_scope("mmpose"), torch.device("meta"):
        return MODELS.build(Config.fromfile(path).model)


def published_backbone(channels: int, depth: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the backbone in the published checkpoints: 16 x 12 patches of 16 px, all biases there."""
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, 192, channels),
        "patch_embed.projection.weight": (channels, 3, 16, 16),
        "patch_embed.projection.bias": (channels,),
        "ln1.weight": (channels,),
        "ln1.bias": (channels,),
    }
    for layer in range(depth):
        for norm in ("ln1", "ln2"):
            shapes |= {f"layers.{layer}.{norm}.{kind}": (channels,) for kind in ("weight", "bias")}
        for name, outputs, inputs in (
            ("attn.qkv", 3 * channels, channels),
            ("attn.proj", channels, channels),
            ("ffn.layers.0.0", 4 * channels, channels),
            ("ffn.layers.1", channels, 4 * channels),
        ):
            shapes |= {
                f"layers.{layer}.{name}.weight": (outputs, inputs),
                f"layers.{layer}.{name}.bias": (outputs,),
            }
    return {f"backbone.{name}": shape for name, shape in shapes.items()}


@pytest.mark.parametrize("size", SIZES)
def test_configs_build_with_the_checkpoints_keys(size: str) -> None:
    net = build(size)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert {name: shape for name, shape in shapes.items() if name.startswith("backbone.")} == published_backbone(
        *SIZES[size]
    )


def test_other_configs_of_the_package_build_too() -> None:
    for size in ("base-simple", "small", "large"):
        assert any(name.startswith("backbone.layers.11.") for name in build(size, "coco").state_dict())


def tiny(**changes: Any) -> Any:
    torch.manual_seed(0)
    net = vit.VisionTransformer(TINY, (64, 48), patch_cfg={"padding": 2}, **changes)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def test_pictures_become_one_feature_map() -> None:
    with torch.no_grad():
        (features,) = tiny()(torch.randn(2, 3, 64, 48))
        assert features.shape == (2, 32, 4, 3)
        (large,) = vit.VisionTransformer("base", (256, 192), patch_cfg={"padding": 2})(torch.zeros(1, 3, 256, 192))
    assert large.shape == (1, 768, 16, 12)


def test_it_computes_what_the_reference_vit_computes() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, layer_norm_eps=1e-6
    )
    reference = transformers.ViTModel(config, add_pooling_layer=False).eval()
    net = tiny()
    state = reference.state_dict()
    ours = net.state_dict()
    for name in state:
        if name.startswith("encoder."):
            state[name] = _as_ours(ours, name)
    state |= {f"layernorm.{kind}": ours[f"ln1.{kind}"] for kind in ("weight", "bias")}
    reference.load_state_dict(state)
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        padded = torch.nn.functional.pad(images, (2, 2, 2, 2)).unfold(2, 16, 16).unfold(3, 16, 16)
        patches = torch.einsum("bchwyx,ocyx->bhwo", padded, ours["patch_embed.projection.weight"]).flatten(1, 2)
        tokens = patches + ours["patch_embed.projection.bias"] + ours["pos_embed"]
        encoded = reference.encoder(tokens)
        expected = reference.layernorm(getattr(encoded, "last_hidden_state", encoded))
        (found,) = net(images)
    assert torch.allclose(found.flatten(2).transpose(1, 2), expected, atol=1e-5)


def _as_ours(ours: dict[str, Tensor], name: str) -> Tensor:
    """Our weight for a name of transformers' ViT; its query, key and value are three layers."""
    _, _, layer, rest = name.split(".", 3)
    for index, part in enumerate(("query", "key", "value")):
        if f".{part}." in rest:
            return ours[f"layers.{layer}.attn.qkv.{rest.rpartition('.')[2]}"].chunk(3)[index]
    for theirs, mine in {
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "ffn.layers.0.0",
        "output.dense": "ffn.layers.1",
        "layernorm_before": "ln1",
        "layernorm_after": "ln2",
    }.items():
        if rest.startswith(theirs):
            return ours[f"layers.{layer}.{mine}.{rest.rpartition('.')[2]}"]
    raise AssertionError(name)


def test_weights_saved_in_the_published_layout_load_key_for_key() -> None:
    net = tiny()
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    load_strictly(net, {name: torch.full(shape, 0.5) for name, shape in shapes.items()}, "tiny")
    assert all(bool((value == 0.5).all()) for value in net.state_dict().values())


def test_branches_are_dropped_in_training_only() -> None:
    net = tiny(drop_path_rate=0.9)
    images = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        assert torch.equal(net(images)[0], tiny()(images)[0])
        net.train()
        assert len({float(net(images)[0].sum()) for _ in range(8)}) > 1


def test_what_vitpose_does_not_use_is_refused() -> None:
    for changes in ({"with_cls_token": True}, {"out_type": "cls_token"}, {"output_cls_token": True}):
        with pytest.raises(ValueError, match="without a class token"):
            tiny(**changes)
    with pytest.raises(ValueError, match="unknown arch 'small'; known: base, large, huge"):
        vit.VisionTransformer("small", (256, 192))
