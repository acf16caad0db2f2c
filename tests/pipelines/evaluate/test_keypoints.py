"""People found are compared with people annotated: AP as pycocotools has it, counts, false finds, left and right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detectors.oks import keypoint_similarity
from detectors.types import FLIP_SWAP, OKS_SIGMAS, Float32, Person
from pipelines.evaluate.keypoints import evaluate_people


def somebody(seed: int, x: float = 100.0, size: float = 60.0, score: float = 0.9) -> Person:
    """A person of 17 scattered keypoints round (x, 100) px, `size` px tall."""
    rng = np.random.default_rng(seed)
    keypoints = np.ones((17, 3), np.float32)
    keypoints[:, :2] = rng.uniform(-size / 2, size / 2, (17, 2)) + np.array((x, 100))
    return Person(bbox=(x - size / 2, 100 - size / 2, size, size), score=score, area=size**2 / 2, keypoints=keypoints)


def shifted(person: Person, sigmas: float) -> Person:
    """Every keypoint moved right by so many of its OKS standard deviations."""
    keypoints = person.keypoints.copy()
    keypoints[:, 0] += sigmas * 2 * np.asarray(OKS_SIGMAS) * person.area**0.5
    return replace(person, keypoints=keypoints)


def test_a_perfect_find_scores_one() -> None:
    truth = [(somebody(1),), (somebody(2, 60), somebody(3, 200)), ()]
    scores = evaluate_people(truth, truth, 256)
    assert (scores.ap, scores.ap50, scores.ap75, scores.oks_mean) == pytest.approx((1.0, 1.0, 1.0, 1.0))
    assert (scores.count_accuracy, scores.false_people, scores.missed_people, scores.swap_rate) == (1.0, 0.0, 0.0, 0.0)
    assert (scores.pictures, scores.people, scores.found) == (3, 3, 3)


def test_ap_counts_the_thresholds_that_the_similarity_passes() -> None:
    truth = [(somebody(seed),) for seed in range(5)]
    found = [(shifted(people[0], 0.8),) for people in truth]
    oks = float(np.exp(-(0.8**2) / 2))  # 0.726: passes .50 .55 .60 .65 .70
    assert keypoint_similarity(truth[0][0], found[0][0].keypoints) == pytest.approx(oks, abs=1e-3)
    scores = evaluate_people(truth, found, 256)
    assert scores.ap == pytest.approx(0.5)
    assert scores.ap50 == pytest.approx(1.0)
    assert scores.ap75 == pytest.approx(0.0)
    assert scores.oks_mean == pytest.approx(oks, abs=1e-3)


def test_ap_does_not_depend_on_the_scale_but_the_size_classes_do() -> None:
    truth, found = [(somebody(1),), (somebody(2),)], [(shifted(somebody(1), 0.5),), (somebody(2),)]
    near, far = evaluate_people(truth, found, 128), evaluate_people(truth, found, 256)
    assert near.ap == pytest.approx(far.ap)
    assert near.ap_large == pytest.approx(near.ap)  # 1,800 px of area are 28,800 in the 512-px frame
    assert far.ap_large == -1.0  # 7,200 there: medium
    assert far.ap_medium == pytest.approx(far.ap)


def test_a_second_find_of_the_same_person_and_one_of_nobody_are_false() -> None:
    person = somebody(1)
    truth = [(person,), ()]
    found = [(person, shifted(replace(person, score=0.5), 0.3)), (somebody(7, score=0.4),)]
    scores = evaluate_people(truth, found, 256)
    assert scores.false_people == pytest.approx(2 / 3)
    assert scores.count_accuracy == 0.0
    assert scores.missed_people == 0.0
    assert scores.ap == pytest.approx(1.0)  # the false ones come after the right one


def test_a_confident_false_find_lowers_ap() -> None:
    scores = evaluate_people([(somebody(1),), ()], [(somebody(1),), (somebody(7, score=0.99),)], 256)
    assert scores.ap == pytest.approx(0.5, abs=0.01)


def test_left_and_right_exchanged_is_noticed() -> None:
    truth = [(somebody(seed),) for seed in range(4)]
    moved = [tuple(shifted(person, 0.1) for person in people) for people in truth]
    found = [
        tuple(replace(person, keypoints=_partly_swapped(person.keypoints)) for person in people) for people in moved[:1]
    ] + moved[1:]
    assert evaluate_people(truth, moved, 256).swap_rate == 0.0
    assert evaluate_people(truth, found, 256).swap_rate == pytest.approx(1 / 4)


def _partly_swapped(keypoints: Float32) -> Float32:
    """Left and right exchanged below the face: still more like the person than like nobody."""
    out = keypoints.copy()
    out[5:11] = keypoints[list(FLIP_SWAP)][5:11]
    out[11:] = keypoints[list(FLIP_SWAP)][11:]
    return out


def test_only_annotated_keypoints_count() -> None:
    person = somebody(1)
    half = person.keypoints.copy()
    half[5:, 2] = 0
    moved = person.keypoints.copy()
    moved[5:, :2] += 500
    truth = [(replace(person, keypoints=half),)]
    assert evaluate_people(truth, [(replace(person, keypoints=moved),)], 256).ap == pytest.approx(1.0)
    nobody = replace(person, keypoints=np.zeros((17, 3), np.float32))
    assert evaluate_people([(nobody,)], [()], 256).people == 0


def test_nothing_found_is_zero_and_nobody_there_has_no_ap() -> None:
    missed = evaluate_people([(somebody(1),)], [()], 256)
    assert (missed.ap, missed.missed_people, missed.count_accuracy, missed.false_people) == (0.0, 1.0, 0.0, 0.0)
    empty = evaluate_people([()], [()], 256)
    assert (empty.ap, empty.count_accuracy) == (-1.0, 1.0)
    with pytest.raises(ValueError, match="1 pictures annotated, 2 pictures searched"):
        evaluate_people([()], [(), ()], 256)


def test_it_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_people([(somebody(1),)], [(somebody(1),)], 256)
    assert capsys.readouterr() == ("", "")
