"""The top-down detector against mmpose's `MMPoseInferencer`: same networks, same weights, same pictures, one thread.

    python -m tests.bench.test_detector_speed [--images 16] [--rounds 5]

Needs the extra `mm`. First mini-mm, with the weights it ships, on drawn pictures; then published networks at full
width, with random weights (time does not depend on what a network has learnt), on noise, the person detector's last
layer set so that a few boxes a picture are found. Flip test is off on both sides. The keypoints of both are compared.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from detectors.mm import ModelFiles, config_path
from detectors.person import PersonDetector
from detectors.pose import PoseEstimator
from pipelines.mini.train.mm_data import drawn
from tests.bench.report import interleaved, median, table, write
from tests.detectors.small_mm import as_saved_by_mmengine, random_weights

PEOPLE = 3
"""Boxes a picture, at most."""
BATCH = 4
MINI = "mini-mm (64 px)"
PAIRS = {
    "RTMDet-tiny + RTMPose-t": (
        "detectors::rtmdet_tiny_humanart.py",
        "mmpose::body_2d_keypoint/rtmpose/humanart/rtmpose-t_8xb256-420e_humanart-256x192.py",
    ),
    "RTMDet-s + RTMPose-m": (
        "detectors::rtmdet_s_humanart.py",
        "mmpose::body_2d_keypoint/rtmpose/humanart/rtmpose-m_8xb256-420e_humanart-256x192.py",
    ),
    "YOLOX-tiny + HRNet-w32": (
        "mmdet::yolox/yolox_tiny_8xb8-300e_coco.py",
        "mmpose::body_2d_keypoint/topdown_heatmap/humanart/td-hm_hrnet-w32_8xb64-210e_humanart-256x192.py",
    ),
}


@pytest.mark.bench
def test_the_detector_is_faster_than_the_inferencer() -> None:
    ratios = main(images=16, rounds=5)
    assert min(ratios.values()) >= 1.5


def trained(folder: Path) -> tuple[ModelFiles, ModelFiles]:
    """mini-mm as both sides load it."""
    return as_saved_by_mmengine("person", folder), as_saved_by_mmengine("pose", folder)


def prepared(config: str, folder: Path) -> ModelFiles:
    """Write a config of at most `PEOPLE` boxes a picture of one class, and random weights."""
    base = str(config_path(config))
    name = re.sub(r"\W", "_", Path(base).stem)
    own = folder / f"bench_{name}.py"
    extra = ""
    if "det" in name or "yolox" in name:
        extra = f"""model = dict(bbox_head=dict(num_classes=1), test_cfg=dict(nms=dict(max_num={PEOPLE})))
test_dataloader = dict(dataset=dict(metainfo=dict(classes=("person",))))
"""
    own.write_text(f"_base_ = {base!r}\n{extra}")
    return random_weights(own, folder / f"{name}.pth")


def photographs(count: int) -> list[NDArray[np.uint8]]:
    """Pictures of 512 x 512 RGB pixels, blots and noise."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (count, 12, 12, 3)).astype(np.uint8)
    return [cv2.resize(one, (512, 512), interpolation=cv2.INTER_CUBIC).astype(np.uint8) for one in coarse]


def theirs(person: ModelFiles, pose: ModelFiles) -> Any:
    """mmpose's inferencer, flip test off."""
    from mmpose.apis import MMPoseInferencer

    made = MMPoseInferencer(
        pose2d=pose.config,
        pose2d_weights=str(pose.checkpoint),
        det_model=person.config,
        det_weights=str(person.checkpoint),
        det_cat_ids=[0],
        device="cpu",
    )
    made.inferencer.model.test_cfg["flip_test"] = False
    return made


def compare(name: str, images: list[NDArray[np.uint8]], rounds: int, folder: Path) -> tuple[float, list[str]]:
    """Time one pair of networks; return the ratio and a row of the table."""
    person, pose = trained(folder) if name == MINI else (prepared(config, folder) for config in PAIRS[name])
    finder, poses = PersonDetector(person, batch_size=BATCH), PoseEstimator(pose, batch_size=BATCH)
    inferencer = theirs(person, pose)
    turned = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    found: dict[str, Any] = {}

    def run_ours() -> None:
        own = finder.boxes(images)
        found["ours"] = poses.in_boxes(images, [one.xyxy for one in own])

    def run_theirs() -> None:
        found["theirs"] = [answer["predictions"][0] for answer in inferencer(turned)]

    seconds = interleaved({"ours": run_ours, "theirs": run_theirs}, rounds)
    people = sum(len(own) for own in found["ours"])
    assert people > len(images) / 2
    boxes = [np.array([one["bbox"][0] for one in answer], np.float32) for answer in found["theirs"]]
    expected = [np.array([one["keypoints"] for one in answer]) for answer in found["theirs"]]
    again = poses.in_boxes(images, boxes)
    apart = max(float(np.abs(own[..., :2] - other).max()) for own, other in zip(again, expected, strict=True))
    cpu = {side: [run.cpu for run in runs] for side, runs in seconds.items()}  # one thread: what the work took
    ratios = [theirs / ours for ours, theirs in zip(cpu["ours"], cpu["theirs"], strict=True)]
    speed = {side: len(images) / median(values) for side, values in cpu.items()}
    return median(ratios), [
        name,
        f"{people / len(images):.1f}",
        f"{speed['ours']:.2f}",
        f"{speed['theirs']:.2f}",
        f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        f"{apart:.1e}",
    ]


def main(images: int, rounds: int) -> dict[str, float]:
    """Run and write the results; return the ratio of each pair."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    ratios, rows = {}, []
    for name in (MINI, *PAIRS):
        pictures = [drawn(11, index).image for index in range(8 * images)] if name == MINI else photographs(images)
        with tempfile.TemporaryDirectory() as folder:
            ratios[name], row = compare(name, pictures, rounds, Path(folder))
            rows.append(row)
    head = ["networks", "people an image", "ours, images/s", "MMPoseInferencer, images/s", "times faster", "px apart"]
    write(
        "detector_speed",
        "Top-down detection against MMPoseInferencer",
        f"CPU time of one thread, {rounds} interleaved rounds, medians (range); flip test off on both sides, batches "
        f"of {BATCH}. mini-mm with the weights it ships, on {8 * images} drawn pictures; the others with random "
        f"weights, on {images} of 512 x 512. `px apart`: the largest difference of any keypoint in the same box.",
        table(head, rows),
    )
    return ratios


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    print(main(**vars(parser.parse_args())))
