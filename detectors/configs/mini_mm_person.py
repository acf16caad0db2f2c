"""The person detector of mini-mm: mmdet's RTMDet, narrower than tiny, on 64-pixel drawings brought to 96."""

_base_ = "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"

size = (96, 96)
batch_size = 12
max_iters = 2500
base_lr = 1e-3

model = {
    "backbone": {"deepen_factor": 0.167, "widen_factor": 0.25, "norm_cfg": {"type": "BN"}, "init_cfg": None},
    "neck": {"in_channels": [64, 128, 256], "out_channels": 64, "norm_cfg": {"type": "BN"}},
    "bbox_head": {"num_classes": 1, "in_channels": 64, "feat_channels": 64, "norm_cfg": {"type": "BN"}},
    "test_cfg": {"nms_pre": 300, "max_per_img": 30},
}

train_pipeline = [
    {"type": "LoadImageFromFile", "imdecode_backend": "cv2", "backend_args": None},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "RandomResize", "scale": size, "ratio_range": (0.8, 1.25), "keep_ratio": True},
    {"type": "RandomCrop", "crop_size": size, "allow_negative_crop": True},
    {"type": "YOLOXHSVRandomAug"},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "Pad", "size": size, "pad_val": {"img": (114, 114, 114)}},
    {"type": "PackDetInputs"},
]
test_pipeline = [
    {"type": "LoadImageFromFile", "imdecode_backend": "cv2", "backend_args": None},
    {"type": "Resize", "scale": size, "keep_ratio": True},
    {"type": "Pad", "size": size, "pad_val": {"img": (114, 114, 114)}},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "PackDetInputs", "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")},
]
data = {
    "type": "CocoDataset",
    "data_prefix": {"img": ""},
    "metainfo": {"classes": ("person",)},
    "backend_args": None,
}
train_dataloader = {
    "_delete_": True,
    "batch_size": batch_size,
    "num_workers": 0,
    "sampler": {"type": "InfiniteSampler", "shuffle": True},
    "dataset": dict(**data, ann_file="annotations/training_humanart.json", pipeline=train_pipeline),
}
val_dataloader = {
    "_delete_": True,
    "batch_size": batch_size,
    "num_workers": 0,
    "sampler": {"type": "DefaultSampler", "shuffle": False},
    "dataset": dict(**data, ann_file="annotations/validation_humanart.json", pipeline=test_pipeline, test_mode=True),
}
test_dataloader = val_dataloader
val_evaluator = {"type": "CocoMetric", "ann_file": "annotations/validation_humanart.json", "metric": "bbox"}
test_evaluator = val_evaluator

train_cfg = {"_delete_": True, "type": "IterBasedTrainLoop", "max_iters": max_iters, "val_interval": 400}
optim_wrapper = {"optimizer": {"lr": base_lr}, "clip_grad": {"max_norm": 35}}
auto_scale_lr = {"base_batch_size": batch_size}
param_scheduler = [
    {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": 100},
    {"type": "CosineAnnealingLR", "eta_min": base_lr * 0.05, "by_epoch": False, "begin": 100, "end": max_iters},
]
default_hooks = {
    "checkpoint": {"interval": 100, "by_epoch": False, "max_keep_ckpts": 1},
    "logger": {"interval": 25},
}
custom_hooks = [
    {"type": "EMAHook", "ema_type": "ExpMomentumEMA", "momentum": 0.003, "update_buffers": True, "priority": 49},
]
log_processor = {"by_epoch": False}
