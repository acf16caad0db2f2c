"""RTMDet-tiny for Human-Art: mmdet's own COCO network and schedule, 640 pixels, one class.

Published weights keep COCO's 80 outputs, of which people are the first; the loader takes the number from the weights.
"""

_base_ = "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"

person = {"metainfo": {"classes": ("person",)}}
model = {"bbox_head": {"num_classes": 1}}
train_dataloader = {"dataset": person}
val_dataloader = {"dataset": person}
test_dataloader = val_dataloader
auto_scale_lr = {"base_batch_size": 256}
