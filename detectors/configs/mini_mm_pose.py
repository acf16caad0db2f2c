"""The pose estimator of mini-mm: mmpose's RTMPose at tiny's width, two stages deep (stride 8), on 80x96 crops."""

_base_ = "mmpose::body_2d_keypoint/rtmpose/humanart/rtmpose-t_8xb256-420e_humanart-256x192.py"

input_size = (80, 96)
batch_size = 16
max_iters = 4000
base_lr = 1e-3

codec = {
    "type": "SimCCLabel",
    "input_size": input_size,
    "sigma": (3.16, 3.46),
    "simcc_split_ratio": 2.0,
    "normalize": False,
    "use_dark": False,
}
model = {
    "backbone": {
        "arch_ovewrite": [[64, 128, 6, True, False], [128, 256, 18, True, True]],
        "deepen_factor": 0.167,
        "widen_factor": 0.375,
        "out_indices": (2,),
        "norm_cfg": {"type": "BN"},
        "init_cfg": None,
    },
    "head": {"in_channels": 96, "input_size": input_size, "in_featuremap_size": (10, 12), "decoder": codec},
    "test_cfg": {"flip_test": False},
}

train_pipeline = [
    {"type": "LoadImage", "imdecode_backend": "cv2", "backend_args": None},
    {"type": "GetBBoxCenterScale"},
    {"type": "RandomFlip", "direction": "horizontal"},
    {"type": "RandomBBoxTransform", "shift_factor": 0.08, "scale_factor": [0.8, 1.25], "rotate_factor": 20},
    {"type": "TopdownAffine", "input_size": input_size},
    {"type": "mmdet.YOLOXHSVRandomAug"},
    {"type": "GenerateTarget", "encoder": codec},
    {"type": "PackPoseInputs"},
]
val_pipeline = [
    {"type": "LoadImage", "imdecode_backend": "cv2", "backend_args": None},
    {"type": "GetBBoxCenterScale"},
    {"type": "TopdownAffine", "input_size": input_size},
    {"type": "PackPoseInputs"},
]
data = {"type": "HumanArtDataset", "data_mode": "topdown", "data_root": "", "data_prefix": {"img": ""}}
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
    "sampler": {"type": "DefaultSampler", "shuffle": False, "round_up": False},
    "dataset": dict(**data, ann_file="annotations/validation_humanart.json", pipeline=val_pipeline, test_mode=True),
}
test_dataloader = val_dataloader
val_evaluator = {"type": "CocoMetric", "ann_file": "annotations/validation_humanart.json"}
test_evaluator = val_evaluator

train_cfg = {"_delete_": True, "type": "IterBasedTrainLoop", "max_iters": max_iters, "val_interval": 500}
optim_wrapper = {"optimizer": {"lr": base_lr, "weight_decay": 0.02}, "clip_grad": {"max_norm": 35}}
auto_scale_lr = {"base_batch_size": batch_size}
param_scheduler = [
    {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": 100},
    {"type": "CosineAnnealingLR", "eta_min": base_lr * 0.05, "by_epoch": False, "begin": 100, "end": max_iters},
]
default_hooks = {
    "checkpoint": {"_delete_": True, "type": "CheckpointHook", "interval": 100, "by_epoch": False, "max_keep_ckpts": 1},
    "logger": {"interval": 25},
}
custom_hooks = [
    {"type": "EMAHook", "ema_type": "ExpMomentumEMA", "momentum": 0.002, "update_buffers": True, "priority": 49},
]
log_processor = {"by_epoch": False}
