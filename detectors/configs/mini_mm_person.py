"""The person detector of mini-mm: mmdet's RTMDet, narrower than tiny, on 64-pixel drawings brought to 96."""

_base_ = "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"

size = (96, 96)
batch_size = 12
max_iters = 2500
base_lr = 1e-3

model = dict(
    backbone=dict(deepen_factor=0.167, widen_factor=0.25, norm_cfg=dict(type="BN"), init_cfg=None),
    neck=dict(in_channels=[64, 128, 256], out_channels=64, norm_cfg=dict(type="BN")),
    bbox_head=dict(num_classes=1, in_channels=64, feat_channels=64, norm_cfg=dict(type="BN")),
    test_cfg=dict(nms_pre=300, max_per_img=30),
)

train_pipeline = [
    dict(type="LoadImageFromFile", imdecode_backend="cv2", backend_args=None),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomResize", scale=size, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type="RandomCrop", crop_size=size, allow_negative_crop=True),
    dict(type="YOLOXHSVRandomAug"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Pad", size=size, pad_val=dict(img=(114, 114, 114))),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile", imdecode_backend="cv2", backend_args=None),
    dict(type="Resize", scale=size, keep_ratio=True),
    dict(type="Pad", size=size, pad_val=dict(img=(114, 114, 114))),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
data = dict(
    type="CocoDataset",
    data_prefix=dict(img=""),
    metainfo=dict(classes=("person",)),
    backend_args=None,
)
train_dataloader = dict(
    _delete_=True,
    batch_size=batch_size,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(**data, ann_file="annotations/training_humanart.json", pipeline=train_pipeline),
)
val_dataloader = dict(
    _delete_=True,
    batch_size=batch_size,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**data, ann_file="annotations/validation_humanart.json", pipeline=test_pipeline, test_mode=True),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="CocoMetric", ann_file="annotations/validation_humanart.json", metric="bbox")
test_evaluator = val_evaluator

train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=max_iters, val_interval=400)
optim_wrapper = dict(optimizer=dict(lr=base_lr), clip_grad=dict(max_norm=35))
auto_scale_lr = dict(base_batch_size=batch_size)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=base_lr * 0.05, by_epoch=False, begin=100, end=max_iters),
]
default_hooks = dict(
    checkpoint=dict(interval=100, by_epoch=False, max_keep_ckpts=1),
    logger=dict(interval=25),
)
custom_hooks = [
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.003, update_buffers=True, priority=49),
]
log_processor = dict(by_epoch=False)
