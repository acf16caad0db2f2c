"""Weights of diffusers models under the names of the original latent diffusion code, as in the authors' checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

UNET = "model.diffusion_model."
VAE = "first_stage_model."
_UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def unet(weights: Mapping[str, Tensor], layers: int, with_attention: tuple[bool, ...]) -> dict[str, Tensor]:
    """layers: resnets of a down block. with_attention: of each up block, whether its resnets are followed by some."""
    return {UNET + _unet_name(name, layers, with_attention): value for name, value in weights.items()}


def _unet_name(name: str, layers: int, with_attention: tuple[bool, ...]) -> str:
    top = next((new + name.removeprefix(old) for old, new in _UNET_TOP.items() if name.startswith(old + ".")), None)
    if top:
        return top
    if found := re.fullmatch(r"down_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.*)", name):
        block, kind, number, rest = int(found[1]), found[2], int(found[3]), found[4]
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.{rest.replace('conv', 'op')}"
        place = 1 + block * (layers + 1) + number
        return f"input_blocks.{place}.{_part(kind, rest)}"
    if found := re.fullmatch(r"up_blocks\.(\d+)\.(resnets|attentions|upsamplers)\.(\d+)\.(.*)", name):
        block, kind, number, rest = int(found[1]), found[2], int(found[3]), found[4]
        if kind == "upsamplers":
            return f"output_blocks.{block * (layers + 1) + layers}.{2 if with_attention[block] else 1}.{rest}"
        return f"output_blocks.{block * (layers + 1) + number}.{_part(kind, rest)}"
    found = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name)
    assert found, name
    kind, number, rest = found[1], int(found[2]), found[3]
    return f"middle_block.{2 * number}.{_resnet(rest)}" if kind == "resnets" else f"middle_block.1.{rest}"


def _part(kind: str, rest: str) -> str:
    return f"0.{_resnet(rest)}" if kind == "resnets" else f"1.{rest}"


def _resnet(rest: str) -> str:
    old, _, kind = rest.rpartition(".")
    return f"{_UNET_RESNET[old]}.{kind}"


def vae(weights: Mapping[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """blocks: levels of the encoder and of the decoder, which the original counts the other way round."""
    found = {}
    for name, value in weights.items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", new)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{blocks - 1 - int(m[1])}.block.", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample.", new)
        new = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            new = new.replace("to_out.0", "proj_out").replace("to_q", "q").replace("to_k", "k").replace("to_v", "v")
            if value.ndim == 2:
                value = value[:, :, None, None]  # 1 x 1 convolutions there
        found[VAE + new] = value
    return found


def open_clip(weights: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """The text tower as OpenCLIP has it, its projections of attention in one matrix."""
    prefix = "cond_stage_model.model."
    top = {
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    found: dict[str, Tensor] = {prefix + "text_projection": torch.eye(width)}
    for name, value in weights.items():
        if name in top:
            found[prefix + top[name]] = value
        elif "q_proj" in name:
            three = [weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            place = name.replace("self_attn.q_proj.", "attn.in_proj_")
            found[_resblock(prefix, place)] = torch.cat(three)
        elif "layers." in name and "k_proj" not in name and "v_proj" not in name:
            found[_resblock(prefix, name.replace("self_attn.out_proj", "attn.out_proj"))] = value
    return found


def _resblock(prefix: str, name: str) -> str:
    name = name.replace("text_model.encoder.layers.", "transformer.resblocks.")
    for old, new in (("layer_norm", "ln_"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):
        name = name.replace(old, new)
    return prefix + name


def clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower as transformers has it."""
    return {f"cond_stage_model.transformer.{name}": value for name, value in weights.items()}
