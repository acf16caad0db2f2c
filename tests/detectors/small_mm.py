"""Real networks of mmdet and mmpose at reduced width, with random weights: tests load them like published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.nn import functional as F

from detectors import weights
from detectors.mm import ModelFiles, _for_inference, _use_own_backbone, config_path, read_config

SIZE = 128

PERSON_PIPELINE = f"""
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=({SIZE}, {SIZE}), keep_ratio=True),
    dict(type="Pad", PAD, pad_val=dict(img=(114, 114, 114))),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
data = dict(type="CocoDataset", ann_file="", metainfo=dict(classes=("person",)), pipeline=test_pipeline, test_mode=True)
test_dataloader = dict(_delete_=True, dataset=data)
val_dataloader = test_dataloader
"""
SMALL_HRNET = """
_base_ = "mmpose::body_2d_keypoint/topdown_heatmap/humanart/td-hm_hrnet-w32_8xb64-210e_humanart-256x192.py"
extra = dict(
    stage1=dict(num_blocks=(1,)),
    stage2=dict(num_channels=(4, 8), num_blocks=(1, 1)),
    stage3=dict(num_modules=1, num_blocks=(1, 1, 1), num_channels=(4, 8, 16)),
    stage4=dict(num_modules=1, num_blocks=(1, 1, 1, 1), num_channels=(4, 8, 16, 32)),
)
"""
CONFIGS = {
    "rtmdet": """
_base_ = "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"
model = dict(
    backbone=dict(widen_factor=0.125),
    neck=dict(in_channels=[32, 64, 128], out_channels=32),
    bbox_head=dict(num_classes=1, in_channels=32, feat_channels=32),
)
"""
    + PERSON_PIPELINE.replace("PAD", f"size=({SIZE}, {SIZE})"),
    "yolox": """
_base_ = "mmdet::yolox/yolox_tiny_8xb8-300e_coco.py"
model = dict(
    backbone=dict(widen_factor=0.125),
    neck=dict(in_channels=[32, 64, 128], out_channels=32),
    bbox_head=dict(num_classes=1, in_channels=32, feat_channels=32),
)
"""
    + PERSON_PIPELINE.replace("PAD", "pad_to_square=True"),
    "rtmpose": """
_base_ = "mmpose::body_2d_keypoint/rtmpose/humanart/rtmpose-t_8xb256-420e_humanart-256x192.py"
model = dict(backbone=dict(widen_factor=0.125), head=dict(in_channels=128))
""",
    "vitpose": """
_base_ = "mmpose::body_2d_keypoint/topdown_heatmap/humanart/td-hm_ViTPose-small_8xb64-210e_humanart-256x192.py"
arch = dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64)
model = dict(backbone=dict(arch=arch), head=dict(in_channels=32, deconv_out_channels=(16, 16)))
""",
    "hrnet": SMALL_HRNET + "model = dict(backbone=dict(extra=extra), head=dict(in_channels=4))",
    "hrnet-megvii": SMALL_HRNET
    + """
decoder = dict(_delete_=True, type="MegviiHeatmap", input_size=(192, 256), heatmap_size=(48, 64), kernel_size=11)
model = dict(backbone=dict(extra=extra), head=dict(in_channels=4, decoder=decoder))
""",
}


def small_model(kind: str, folder: Path) -> ModelFiles:
    """Write a small network's config and random weights; the person detectors find dozens."""
    config = folder / f"{kind}.py"
    config.write_text(CONFIGS[kind])
    return random_weights(config, folder / f"{kind}.pth")


def random_weights(config: Path, checkpoint: Path) -> ModelFiles:
    """Write random weights for a config, in the layout that mmengine saves."""
    import mmdet.models  # noqa: F401
    import mmpose.models  # noqa: F401
    from mmengine.registry import MODELS, DefaultScope

    network = read_config(str(config)).model
    _for_inference(network)
    _use_own_backbone(network)
    scope = "mmpose" if network.type == "TopdownPoseEstimator" else "mmdet"
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        net = MODELS.build(network)
    _liven(net, pixels_as_they_are=not network.data_preprocessor.get("mean"))
    meta = {"dataset_meta": {"classes": ("person",)}} if scope == "mmdet" else {}
    torch.save({"meta": meta, "state_dict": net.state_dict()}, checkpoint)
    return ModelFiles(str(config), checkpoint)


def as_saved_by_mmengine(part: str, folder: Path) -> ModelFiles:
    """The shipped weights of mini-mm in the layout that mmpose loads."""
    state = {name: value.float() for name, value in load_file(weights.find(f"mini-mm-{part}")).items()}
    meta = {"dataset_meta": {"classes": ("person",)}} if part == "person" else {}
    torch.save({"meta": meta, "state_dict": state}, folder / f"{part}.pth")
    return ModelFiles(str(config_path(f"detectors::mini_mm_{part}.py")), folder / f"{part}.pth")


@torch.no_grad()
def _liven(net: Any, pixels_as_they_are: bool) -> None:
    """Normalise by what pictures give and spread the last layers, so that answers differ from place to place."""
    generator = torch.Generator().manual_seed(5)
    images = F.interpolate(torch.randn(4, 3, 9, 7, generator=generator), (256, 192), mode="bicubic")
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0 if pixels_as_they_are else 0.5
        if isinstance(module, torch.nn.Linear):
            module.weight.normal_(0, 0.3)
    net.train()(images * 64 + 128 if pixels_as_they_are else images, None, mode="tensor")
    for name, value in net.state_dict().items():
        weight = name.endswith("weight")
        if "rtm_cls" in name or "multi_level_conv_cls" in name or "multi_level_conv_obj" in name:
            value.normal_(0, 3 if "rtm" in name else 0.3) if weight else value.fill_(-1 if "rtm" in name else 1)
        elif "multi_level_conv_reg" in name:
            value.normal_(0, 0.003) if weight else value.copy_(torch.tensor((0.0, 0.0, 1.5, 1.5)))
        elif "rtm_reg" in name:
            value.normal_(0, 0.2) if weight else value.fill_(3)
        elif name == "head.final_layer.weight":
            value.normal_(0, 0.3)


def pictures() -> list[NDArray[np.uint8]]:
    """Four pictures of soft coloured blots, in as many shapes."""
    import cv2

    rng = np.random.default_rng(7)
    found = []
    for height, width in ((256, 256), (333, 301), (230, 260), (64, 64)):
        coarse = rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)
        found.append(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8))
    return found
