"""Networks of mmdet and mmpose, built from a config and a checkpoint: nothing is downloaded, no code is unpickled.

`mmdet` and `mmpose` are the extra `mm`. Their CUDA ops need not be compiled: non-maximum suppression is torchvision's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import warnings
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from detectors.checkpoint import load_strictly, read_state
from detectors.weights import ModelFiles

__all__ = [
    "ModelFiles",
    "Normalize",
    "build",
    "config_digest",
    "config_path",
    "pipeline_of",
    "read_config",
    "step_of",
]

# What mmengine, mmcv and mmdet call is deprecated elsewhere; who runs them cannot do anything about it.
for _message in ("pkg_resources is deprecated", r"`torch\.cuda\.amp\.autocast", r"torch\.meshgrid: "):
    warnings.filterwarnings("ignore", _message)

CONFIGS: Final = Path(__file__).parent / "configs"
"""Configs of our own."""
HEAD_CLASSES: Final = ("bbox_head.rtm_cls.0.weight", "bbox_head.multi_level_conv_cls.0.weight")
"""Weights of RTMDet and YOLOX whose first dimension is the number of classes."""


def read_config(config: str) -> Any:
    """Return a config, its bases merged. Raises ValueError where it is not there, or mmengine is not installed."""
    if importlib.util.find_spec("mmpose") is None or importlib.util.find_spec("mmdet") is None:
        raise ValueError("mmdet and mmpose are not installed: run `uv sync --frozen --extra mm` (it compiles mmcv)")
    from mmengine.config import Config

    path = config_path(config)
    if not path.is_file():
        raise ValueError(f"{path}: no such config file")
    try:
        return Config.fromfile(path)
    except Exception as error:  # whatever the file's own code raises
        raise ValueError(f"{path}: not a config that mmengine reads ({type(error).__name__}: {error})") from error


def config_path(config: str) -> Path:
    """Return where a config lies; `mmpose::…` is looked up in the installed package, which is not imported."""
    package, inside, rest = config.partition("::")
    if not inside:
        return Path(config)
    if package == "detectors":
        return CONFIGS / rest
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"{config}: {package} is not installed")
    return Path(spec.origin).parent / ".mim" / "configs" / rest


def config_digest(config: str) -> str:
    """SHA-256 of what a config says about inference: the network and its test pipeline, bases merged."""
    found = read_config(config)
    said = {"model": found.model.to_dict(), "pipeline": [step.to_dict() for step in pipeline_of(found)]}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def pipeline_of(config: Any) -> list[Any]:
    """Return the steps that a config takes an image through before the network. Raises ValueError without any."""
    for loader in ("test_dataloader", "val_dataloader"):
        if (steps := config.get(loader, {}).get("dataset", {}).get("pipeline")) is not None:
            return list(steps)
    raise ValueError(f"{config.filename}: has no test_dataloader.dataset.pipeline")


def step_of(pipeline: list[Any], name: str) -> dict[str, Any] | None:
    """Return the arguments of a pipeline's step of that name; None where it has none."""
    for step in pipeline:
        if str(step["type"]).rpartition(".")[2] == name:
            return {key: value for key, value in step.items() if key != "type"}
    return None


def build(files: ModelFiles, scope: Literal["mmdet", "mmpose"], device: torch.device) -> tuple[Any, Any]:
    """Return a config and its network with the checkpoint's weights, in eval mode, without gradients.

    Raises ValueError (WeightsError) in one line where either is missing, unsafe, or does not fit the other key for key.
    """
    config = read_config(files.config)
    state = read_state(files.checkpoint)
    network = config.model
    network.train_cfg = None
    _for_inference(network)
    _fit_classes(network, state)
    _use_own_backbone(network)
    net = _build_network(network, scope)
    load_strictly(net, state, str(files.checkpoint))
    _fuse(net.eval())
    net.requires_grad_(False)
    return config, net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _build_network(network: Any, scope: str) -> nn.Module:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # mmpose imports it, and it would ask PyPI for a newer one
    import mmdet.models  # noqa: F401 (registers its networks)
    import mmpose.models  # noqa: F401
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, DefaultScope

    with DefaultScope.overwrite_default_scope(scope):
        net: nn.Module = revert_sync_batchnorm(MODELS.build(network))
    return net


def _fuse(net: nn.Module) -> None:
    """Put batch normalisation into the convolution before it. Heads stay: RTMDet's levels share convolutions."""
    from mmcv.cnn.utils.fuse_conv_bn import fuse_conv_bn

    for part in ("backbone", "neck"):
        if isinstance(getattr(net, part, None), nn.Module):
            fuse_conv_bn(getattr(net, part))


def _for_inference(node: Any) -> None:
    """Change a network's config so that it is built as it is used here, by one process without nvcc.

    Weights come from the checkpoint: `init_cfg: Pretrained` would download others. Normalisation is not synchronised.
    Non-maximum suppression is torchvision's: mmcv's runs on CUDA only where nvcc built it.
    """
    if isinstance(node, dict):
        node.pop("init_cfg", None)
        if node.get("type") == "SyncBN":
            node["type"] = "BN"
        nms = node.get("nms")
        if isinstance(nms, dict) and nms.get("type", "nms") == "nms":
            nms["type"] = torchvision_nms
    if isinstance(node, dict | list | tuple):
        for child in node.values() if isinstance(node, dict) else node:
            _for_inference(child)


def torchvision_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float = 0.0, max_num: int = -1
) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression as mmdet's `nms` takes a callable: boxes (N, 4) xyxy, scores (N,).

    score_threshold: boxes must be more certain, if above 0; max_num: keep at most so many, if above 0. Returns the kept
    boxes with their scores (M, 5), best first, and their indices (M,).
    """
    from torchvision.ops import nms

    floor = score_threshold if score_threshold > 0 else -torch.inf
    certain = (scores > floor).nonzero()[:, 0]
    kept = certain[nms(boxes[certain], scores[certain], iou_threshold)]
    kept = kept[:max_num] if max_num > 0 else kept
    return torch.cat((boxes[kept], scores[kept, None]), dim=1), kept


def _fit_classes(network: Any, state: dict[str, Tensor]) -> None:
    """Take the number of classes from the weights: Human-Art's published person detectors keep COCO's 80 outputs."""
    for name in HEAD_CLASSES:
        if name in state and "num_classes" in network.get("bbox_head", {}):
            network.bbox_head.num_classes = state[name].shape[0]


def _use_own_backbone(network: Any) -> None:
    """ViTPose's configs name a backbone of mmpretrain, which does not import beside our transformers."""
    if str(network.get("backbone", {}).get("type")) == "mmpretrain.VisionTransformer":
        from detectors.vit import register

        register()


class Normalize:
    """What a network's data preprocessor does to pixels: channel order, mean and standard deviation."""

    def __init__(self, config: Any, device: torch.device) -> None:
        """config: the whole config; its images are BGR unless the preprocessor says otherwise."""
        said = config.model.data_preprocessor
        self.rgb = bool(said.get("bgr_to_rgb", False))
        self.mean = torch.tensor(said.get("mean") or (0.0,) * 3, device=device).view(-1, 1, 1)
        self.std = torch.tensor(said.get("std") or (1.0,) * 3, device=device).view(-1, 1, 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        """RGB uint8 (B, H, W, 3) to float32 (B, 3, H, W) as the network wants it."""
        channels = pixels.permute(0, 3, 1, 2)
        ordered = channels if self.rgb else channels.flip(1)
        normal = (ordered.float() - self.mean) / self.std
        return normal.contiguous(memory_format=torch.channels_last)


def keypoints_of(config: Any) -> int | None:
    """Return how many keypoints a pose config predicts, where it says so."""
    found = config.model.get("head", {}).get("out_channels")
    return int(found) if isinstance(found, int | np.integer) else None
