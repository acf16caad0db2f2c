"""How well generated people have the poses asked for: AP, AP(m), CAP and PCE of HumanSD (arXiv 2304.04269)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

from detectors.types import Person
from pipelines.evaluate.detector import as_result
from pipelines.evaluate.keypoints import FRAME, People, coco_scores

DRAWN: Final = 0.3
"""Keypoints of less confidence (0-1) are given to no model, so they are not asked for either."""


@dataclass(frozen=True, slots=True)
class PoseScores:
    """ap, ap_medium, cap: 0-1; None where nobody (of that size) is asked for. pce: people; None without images."""

    ap: float | None
    ap_medium: float | None
    cap: float | None
    pce: float | None


def score_poses(asked: People, found: People, sizes: Sequence[tuple[int, int]]) -> PoseScores:
    """Compare the people that condition each image with those detected in what was generated.

    asked, found: of each image, in the pixels of the same frame. sizes: (width, height) of the frames; all are scaled
    to a longer side of 512 px, so that medium (32²-96² px) means the same. Raises ValueError where the lengths differ.
    """
    scales = [FRAME / max(size) for size in sizes]
    truth = [
        tuple(scaled(drawn(person), scale) for person in people) for people, scale in zip(asked, scales, strict=True)
    ]
    results = [
        tuple(as_result(scaled(person, scale)) for person in people)
        for people, scale in zip(found, scales, strict=True)
    ]
    by_distance = coco_scores(truth, results)
    by_cosine = coco_scores(truth, results, evaluation=CosineEval)
    return PoseScores(
        ap=_known(by_distance["ap"]),
        ap_medium=_known(by_distance["ap_medium"]),
        cap=_known(by_cosine["ap"]),
        pce=people_count_error(asked, found),
    )


def _known(value: float) -> float | None:
    return None if value < 0 else value


def people_count_error(asked: People, found: People) -> float | None:
    """PCE: mean |asked for - found| people an image; None without images. Crowds and who is not drawn do not count."""
    wanted = [sum(not person.iscrowd and bool(_is_drawn(person).any()) for person in people) for people in asked]
    errors = [abs(number - len(people)) for number, people in zip(wanted, found, strict=True)]
    return float(np.mean(errors)) if errors else None


def pose_cosine(asked: Person, found: Person) -> float:
    """Cosine similarity of two poses, -1 to 1; 0 where `asked` has no keypoint.

    Over the keypoints of `asked` (confidence > 0), as one vector of x and y: both poses relative to the top left corner
    of the asked person's box, over the box's longer side (pixel centres are half a pixel from where boxes count).
    """
    known = asked.keypoints[:, 2] > 0
    left, top, width, height = asked.bbox
    a, b = (
        (keypoints[known, :2].astype(np.float64) + 0.5 - (left, top)) / max(width, height, np.spacing(1))
        for keypoints in (asked.keypoints, found.keypoints)
    )
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum() / length) if length else 0.0


class CosineEval(COCOeval):  # type: ignore[misc]
    """COCO's evaluation with `pose_cosine` in place of OKS: its AP is CAP."""

    def computeOks(self, imgId: int, catId: int) -> NDArray[np.float64] | list[Any]:  # noqa: N802, N803
        """Similarities (detections by falling score, at most the most that count; annotations)."""
        truth, found = self._gts[imgId, catId], self._dts[imgId, catId]
        if not truth or not found:
            return []
        order = np.argsort([-one["score"] for one in found], kind="mergesort")[: self.params.maxDets[-1]]
        asked = [_person(one) for one in truth]
        return np.array([[pose_cosine(one, _person(found[index])) for one in asked] for index in order])


def _person(annotation: dict[str, Any]) -> Person:
    keypoints = np.array(annotation["keypoints"]).reshape(-1, 3)
    return Person(tuple(annotation["bbox"]), 1.0, annotation["area"], keypoints)


def _is_drawn(person: Person) -> NDArray[np.bool_]:
    return np.asarray(person.keypoints[:, 2] >= DRAWN)


def drawn(person: Person) -> Person:
    """Return the person with the keypoints alone that models are given; the others have confidence 0."""
    keypoints = person.keypoints.copy()
    keypoints[~_is_drawn(person), 2] = 0
    return replace(person, keypoints=keypoints)


def scaled(person: Person, scale: float, dx: float = 0.0, dy: float = 0.0) -> Person:
    """Return the person in an image `scale` times as large, then moved by (dx, dy) px; pixel centres stay centres."""
    keypoints = person.keypoints.copy()
    keypoints[:, :2] = (keypoints[:, :2] + 0.5) * scale - 0.5 + np.array((dx, dy), np.float32)
    x, y, width, height = person.bbox
    box = (x * scale + dx, y * scale + dy, width * scale, height * scale)
    return replace(person, bbox=box, area=person.area * scale**2, keypoints=keypoints)
