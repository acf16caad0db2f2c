"""RTMDet-s as trained on Human-Art: mmdet's COCO network, 640 pixels; people are the first of its 80 classes."""

_base_ = "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py"
