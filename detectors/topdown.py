"""People, then their poses: a person detector and a pose estimator as one `Detector`."""

from __future__ import annotations

from typing import Final

import numpy as np

from detectors.person import Image, PersonDetector, clip_box
from detectors.pose import PoseEstimator
from detectors.types import AREA_PER_BOX, Float32, Person

SURE: Final = 0.2
"""Keypoints above this confidence count for a person's score, as in mmpose's evaluation."""


class TopDown:
    """Detector of two networks. The same image gives the same people whatever else is asked for beside it."""

    def __init__(self, name: str, person: PersonDetector, pose: PoseEstimator) -> None:
        """name: what `load_detector` calls it."""
        self.name = name
        self.person = person
        self.pose = pose

    def detect(self, images: list[Image]) -> list[tuple[Person, ...]]:
        """Return the people of each image, best score first.

        images: RGB uint8 (height, width, 3) of any sizes. A score is the box's times the mean confidence of its
        keypoints above 0.2 (mmpose's `bbox_keypoint`); keypoints have pixel centres at whole numbers.
        """
        boxes = self.person.boxes(images)
        poses = self.pose.in_boxes(images, [found.xyxy for found in boxes])
        return [
            _people(found.xyxy, found.scores, keypoints, image.shape[:2])
            for found, keypoints, image in zip(boxes, poses, images, strict=True)
        ]


def _people(xyxy: Float32, scores: Float32, keypoints: Float32, size: tuple[int, ...]) -> tuple[Person, ...]:
    people = [_person(box, float(score), own, size) for box, score, own in zip(xyxy, scores, keypoints, strict=True)]
    return tuple(sorted(people, key=lambda person: (-person.score, person.bbox)))


def _person(xyxy: Float32, score: float, keypoints: Float32, size: tuple[int, ...]) -> Person:
    bbox = clip_box(xyxy, size[0], size[1])
    sure = keypoints[keypoints[:, 2] > SURE, 2]
    return Person(
        bbox=bbox,
        score=score * (float(np.mean(sure, dtype=np.float64)) if len(sure) else 0.0),
        area=bbox[2] * bbox[3] * AREA_PER_BOX,
        keypoints=keypoints,
    )
