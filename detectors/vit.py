"""The plain vision transformer that mmpose's ViTPose configs name, without mmpretrain.

mmpretrain does not import beside this project's transformers; the configs and the published checkpoints need one class
of it. Names and shapes of the weights are those of the checkpoints, the arithmetic is that of ViT (Dosovitskiy et al.
2021: pre-norm blocks, GELU, a last layer norm) as ViTPose uses it (Xu et al. 2022: no class token, the picture padded
by 2 before it is cut into patches).

Shape legend: B pictures, N = h x w patches, C embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS, Registry
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

ARCHITECTURES: Final[Mapping[str, Mapping[str, int]]] = {
    "base": {"embed_dims": 768, "num_layers": 12, "num_heads": 12, "feedforward_channels": 3072},
    "large": {"embed_dims": 1024, "num_layers": 24, "num_heads": 16, "feedforward_channels": 4096},
    "huge": {"embed_dims": 1280, "num_layers": 32, "num_heads": 16, "feedforward_channels": 5120},
}
"""The names that configs use in place of numbers (ViT-B, -L, -H)."""
SCOPES: Final = ("mmpretrain", "mmcls")
"""Packages that configs say the class is from; the second is the first one's former name."""
NORM_EPS: Final = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention of (B, N, C)."""

    def __init__(self, channels: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """Two linear layers, GELU between; nested as the checkpoints name them (`layers.0.0`, `layers.1`)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(channels, hidden), nn.GELU()), nn.Linear(hidden, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.layers(tokens)
        return out


class Block(nn.Module):
    """One pre-norm transformer block; in training each branch is dropped for a picture with probability `drop`."""

    def __init__(self, arch: Mapping[str, int], bias: bool, drop: float) -> None:
        super().__init__()
        channels = arch["embed_dims"]
        self.ln1 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.attn = Attention(channels, arch["num_heads"], bias)
        self.ln2 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.ffn = FeedForward(channels, arch["feedforward_channels"])
        self.drop = StochasticDepth(drop, "row")

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop(self.attn(self.ln1(tokens)))
        out: Tensor = tokens + self.drop(self.ffn(self.ln2(tokens)))
        return out


class PatchEmbedding(nn.Module):
    """Pictures (B, 3, H, W) to one vector a patch (B, C, h, w)."""

    def __init__(self, channels: int, patch: int, padding: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, channels, patch, stride=patch, padding=padding)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.projection(images)
        return out


class VisionTransformer(BaseModule):  # type: ignore[misc]
    """Backbone that takes what ViTPose configs give mmpretrain's class of this name.

    Pictures (B, 3, H, W) of exactly `img_size` (height, width) → one feature map (B, C, h, w) in a tuple. arch: a name
    of `ARCHITECTURES`, or its four numbers. init_cfg: mmengine's, for training. Raises ValueError for what ViTPose does
    not use: class tokens, other outputs, other names.
    """

    def __init__(
        self,
        arch: str | Mapping[str, int],
        img_size: tuple[int, int],
        patch_size: int = 16,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        with_cls_token: bool = False,
        output_cls_token: bool = False,
        out_type: str = "featmap",
        patch_cfg: Mapping[str, int] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg)
        if with_cls_token or output_cls_token or out_type != "featmap":
            raise ValueError("only feature maps without a class token: with_cls_token=False, out_type='featmap'")
        if isinstance(arch, str) and arch not in ARCHITECTURES:
            raise ValueError(f"unknown arch {arch!r}; known: {', '.join(ARCHITECTURES)}, or a dict")
        sizes = ARCHITECTURES[arch] if isinstance(arch, str) else arch
        channels, depth = sizes["embed_dims"], sizes["num_layers"]
        padding = (patch_cfg or {}).get("padding", 0)
        height, width = ((side + 2 * padding - patch_size) // patch_size + 1 for side in img_size)
        self.patch_embed = PatchEmbedding(channels, patch_size, padding)
        self.pos_embed = nn.Parameter(torch.empty(1, height * width, channels))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.layers = nn.ModuleList(
            Block(sizes, qkv_bias, drop_path_rate * index / max(depth - 1, 1)) for index in range(depth)
        )
        self.ln1 = nn.LayerNorm(channels, eps=NORM_EPS)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return the feature map (B, C, h, w) of pictures (B, 3, H, W)."""
        patches = self.patch_embed(images)
        tokens = patches.flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.layers:
            tokens = block(tokens)
        return (self.ln1(tokens).transpose(1, 2).unflatten(2, patches.shape[2:]),)


def register() -> None:
    """Make mmengine build the class of this module where a config says mmpretrain's; may be called more than once."""
    for scope in SCOPES:
        registry = MODELS.children.get(scope) or Registry("model", scope=scope, parent=MODELS)
        registry.register_module(module=VisionTransformer, force=True)
