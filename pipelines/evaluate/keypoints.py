"""How well people were found: COCO keypoint AP, counts, people who are not there, left and right."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.oks import keypoint_similarity, similarity_matrix
from detectors.types import FLIP_SWAP, NUM_KEYPOINTS, Person

FRAME: Final = 512
"""Longer side in pixels that pictures are scaled to, so that COCO's sizes (medium 32²-96² px) mean the same."""
MATCH_OKS: Final = 0.3
"""A found person matches an annotated one from this OKS on."""
STATS: Final = (
    *("ap", "ap50", "ap75", "ap_medium", "ap_large"),
    *("ar", "ar50", "ar75", "ar_medium", "ar_large"),
)
"""What pycocotools' summary of keypoints says, in its order."""

People = Sequence[tuple[Person, ...]]


@dataclass(frozen=True, slots=True)
class KeypointScores:
    """All 0-1 (AP -1 where no annotated person is of that size).

    ap, ap50, ap75: COCO keypoint average precision over OKS .50:.95, at .50 and at .75. ap_medium, ap_large: over
    people of 32²-96² px and above, measured in a frame whose longer side is 512 px.
    count_accuracy: pictures with exactly the annotated number of people.
    false_people: found people that match no annotated one / all found. Each annotated person is matched once, most
    similar pairs first, from OKS 0.3 on: a second find of the same person is false.
    missed_people: annotated people that nothing matches / all annotated.
    oks_mean: OKS of matches, 0 for the missed, over all annotated people.
    swap_rate: matched people whose OKS is higher with left and right exchanged / all matched.
    """

    ap: float
    ap50: float
    ap75: float
    ap_medium: float
    ap_large: float
    count_accuracy: float
    false_people: float
    missed_people: float
    oks_mean: float
    swap_rate: float
    pictures: int
    people: int
    found: int


def evaluate_people(truth: People, found: People, size: int) -> KeypointScores:
    """Compare found people with annotated ones, picture by picture.

    truth: annotated people with areas in square pixels; keypoints of confidence 0 do not count, people without any are
    left out. size: the pictures' longer side in pixels. Raises ValueError where the lists differ in length.
    """
    if len(truth) != len(found):
        raise ValueError(f"{len(truth)} pictures annotated, {len(found)} pictures searched")
    truth = [tuple(person for person in people if (person.keypoints[:, 2] > 0).any()) for people in truth]
    ap = coco_ap(truth, found, FRAME / size)
    total = sum(map(len, truth))
    found_total = sum(map(len, found))
    similarities, swapped = [], 0
    for annotated, detected in zip(truth, found, strict=True):
        for row, column, oks in match(annotated, detected):
            similarities.append(oks)
            mirrored = detected[column].keypoints[list(FLIP_SWAP)]
            swapped += keypoint_similarity(annotated[row], mirrored) > oks
    same = sum(len(a) == len(b) for a, b in zip(truth, found, strict=True))
    return KeypointScores(
        **ap,
        count_accuracy=same / max(1, len(truth)),
        false_people=(found_total - len(similarities)) / max(1, found_total),
        missed_people=(total - len(similarities)) / max(1, total),
        oks_mean=float(np.sum(similarities)) / max(1, total),
        swap_rate=swapped / max(1, len(similarities)),
        pictures=len(truth),
        people=total,
        found=found_total,
    )


def match(truth: tuple[Person, ...], found: tuple[Person, ...]) -> list[tuple[int, int, float]]:
    """Pair annotated and found people of one picture, most similar first, each once: (row, column, OKS >= 0.3)."""
    matrix = similarity_matrix(truth, found)
    pairs = []
    while matrix.size and matrix.max() >= MATCH_OKS:
        row, column = divmod(int(matrix.argmax()), matrix.shape[1])
        pairs.append((row, column, float(matrix[row, column])))
        matrix[row, :] = -1
        matrix[:, column] = -1
    return pairs


def coco_ap(truth: People, found: People, scale: float = 1.0) -> dict[str, float]:
    """The five average precisions of `coco_scores`."""
    scores = coco_scores(truth, found, scale)
    return {name: scores[name] for name in STATS if name.startswith("ap")}


def coco_scores(
    truth: People, found: People, scale: float = 1.0, evaluation: type[COCOeval] = COCOeval
) -> dict[str, float]:
    """COCO keypoint AP and AR by pycocotools, without its printing: `STATS`, 0-1, -1 where nobody is of that size.

    scale: factor on coordinates (areas go with its square) before the size classes are told apart. evaluation: one with
    another similarity than OKS.
    """
    given = [_annotation(p, image, scale) for image, people in enumerate(truth) for p in people]
    results = [_annotation(p, image, scale) for image, people in enumerate(found) for p in people]
    if not results or not given:
        return dict.fromkeys(STATS, 0.0 if given else -1.0)
    with contextlib.redirect_stdout(io.StringIO()):
        reference, detected = _coco(given, len(truth)), _coco(results, len(truth))
        judge = evaluation(reference, detected, "keypoints")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {name: float(value) for name, value in zip(STATS, judge.stats, strict=True)}


def _annotation(person: Person, image: int, scale: float) -> dict[str, Any]:
    """A person in COCO's form; visibility 2 where seen, 1 where hidden, 0 where not annotated."""
    keypoints = np.zeros((NUM_KEYPOINTS, 3))
    keypoints[:, :2] = person.keypoints[:, :2] * scale
    keypoints[:, 2] = np.where(person.keypoints[:, 2] <= 0, 0, np.where(person.keypoints[:, 2] > 0.5, 2, 1))
    return {
        "image_id": image,
        "category_id": 1,
        "keypoints": keypoints.reshape(-1).tolist(),
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
        "bbox": [value * scale for value in person.bbox],
        "area": person.area * scale**2,
        "iscrowd": person.iscrowd or 0,
        "score": person.score,
    }


def _coco(annotations: list[dict[str, Any]], images: int) -> COCO:
    """A COCO set in memory; ids start at 1, because COCOeval takes id 0 for "no match"."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [dict(annotation, id=index) for index, annotation in enumerate(annotations, start=1)],
    }
    coco.createIndex()
    return coco
