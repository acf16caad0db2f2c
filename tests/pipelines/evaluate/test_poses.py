"""Generated poses against the poses asked for: AP as pycocotools has it on its own, CAP of hand-worked poses, PCE."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.types import Person
from pipelines.evaluate.poses import people_count_error, pose_cosine, scaled, score_poses
from tests.pipelines.evaluate.test_keypoints import shifted, somebody

SIZE = (256, 256)


def pose(*places: tuple[float, float], box: tuple[float, float, float, float] = (0, 0, 10, 10)) -> Person:
    """A person with keypoints at these places, counted from the image's corner as boxes are, and no others."""
    keypoints = np.zeros((17, 3), np.float32)
    for index, (x, y) in enumerate(places):
        keypoints[index] = (x - 0.5, y - 0.5, 1)
    return Person(box, 0.9, 50.0, keypoints)


def test_the_cosine_of_poses_worked_by_hand() -> None:
    asked = pose((3, 4), (0, 5))
    assert pose_cosine(asked, pose((3, 4), (0, 5))) == pytest.approx(1)
    assert pose_cosine(asked, pose((4, 3), (5, 0))) == pytest.approx((3 * 4 + 4 * 3) / 50)
    assert pose_cosine(asked, pose((6, 8), (0, 10))) == pytest.approx(1)  # twice as far from the corner
    assert pose_cosine(asked, pose((-3, -4), (0, -5))) == pytest.approx(-1)


def test_x_and_y_are_not_confused() -> None:
    asked, across = pose((1, 0)), pose((0, 1))
    assert pose_cosine(asked, across) == pytest.approx(0)
    assert pose_cosine(pose((1, 2)), pose((1, 9))) == pytest.approx(19 / np.sqrt(5 * 82))


def test_places_are_relative_to_the_box_that_was_asked_for() -> None:
    box = (100.0, 50.0, 20.0, 40.0)
    asked, found = pose((103, 54), box=box), pose((104, 53), box=(0, 0, 1, 1))
    assert pose_cosine(asked, found) == pytest.approx(24 / 25)


def test_keypoints_that_are_not_asked_for_do_not_count() -> None:
    found = pose((3, 4), (0, 5), (9, 1))
    assert pose_cosine(pose((3, 4), (0, 5)), found) == pytest.approx(1)
    assert pose_cosine(pose(), found) == 0
    assert pose_cosine(pose((0, 0)), found) == 0  # at the corner itself: no direction


@given(scale=st.floats(0.1, 10), dx=st.floats(-100, 100), dy=st.floats(-100, 100))
def test_the_cosine_is_the_same_in_any_frame(scale: float, dx: float, dy: float) -> None:
    a, b = somebody(1), shifted(somebody(1), 1.5)
    moved = pose_cosine(scaled(a, scale, dx, dy), scaled(b, scale, dx, dy))
    assert moved == pytest.approx(pose_cosine(a, b), abs=1e-3)


def test_cap_counts_the_thresholds_that_the_cosine_passes() -> None:
    asked = [(pose((3, 4)),), (pose((3, 4)),)]
    found = [(pose((10, 2)),), (pose((10, 2)),)]  # cosine 38 / (5 √104) = .745: passes .50 .55 .60 .65 .70
    assert score_poses(asked, found, [SIZE] * 2).cap == pytest.approx(0.5)
    half = [(pose((4, 3)),), (pose((-1, 0)),)]  # .96 passes all ten, the other none: half are found
    assert score_poses(asked, half, [SIZE] * 2).cap == pytest.approx(0.505, abs=0.01)


def test_cap_matches_each_person_once_and_the_surest_first() -> None:
    right, wrong = pose((3, 4)), replace(pose((4, -3)), score=0.99)
    assert score_poses([(right,)], [(right, wrong)], [SIZE]).cap == pytest.approx(0.5, abs=0.01)
    assert score_poses([(right,)], [(right, replace(wrong, score=0.1))], [SIZE]).cap == pytest.approx(1)


def test_ap_is_what_pycocotools_reads_from_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    asked, found = [], []
    for index in range(12):
        people = tuple(somebody(index * 3 + k, x=60.0 + 80 * k, size=30.0 + 12 * k) for k in range(index % 4))
        asked.append(people)
        moved = [replace(shifted(p, float(rng.uniform(0, 1.5))), score=float(rng.uniform(0.3, 1))) for p in people]
        found.append(tuple(moved[: 2 + index % 2]))
    sizes = [(256, 192)] * 12
    scores = score_poses(asked, found, sizes)
    stats = coco_from_files(tmp_path, asked, found, 2.0)
    assert scores.ap == pytest.approx(stats[0])
    assert scores.ap_medium == pytest.approx(stats[3])
    assert 0 < stats[3] < 1
    assert stats[3] != stats[0]


def coco_from_files(
    folder: Path, asked: list[tuple[Person, ...]], found: list[tuple[Person, ...]], scale: float
) -> list[float]:
    """COCO's ten figures of annotations and results written as its JSON files, every coordinate times `scale`."""

    def place(person: Person) -> list[float]:
        keypoints = person.keypoints.astype(float)
        keypoints[:, :2] = (keypoints[:, :2] + 0.5) * scale - 0.5
        keypoints[:, 2] = 2
        return [float(value) for value in keypoints.reshape(-1)]

    annotations = [
        {
            "id": 100 * (image + 1) + number,
            "image_id": image,
            "category_id": 1,
            "keypoints": place(person),
            "num_keypoints": 17,
            "iscrowd": 0,
            "area": person.area * scale**2,
            "bbox": [value * scale for value in person.bbox],
        }
        for image, people in enumerate(asked)
        for number, person in enumerate(people)
    ]
    results = [
        {"image_id": image, "category_id": 1, "keypoints": place(person), "score": person.score}
        for image, people in enumerate(found)
        for person in people
    ]
    head = {"images": [{"id": n} for n in range(len(asked))], "categories": [{"id": 1, "name": "person"}]}
    (folder / "truth.json").write_text(json.dumps({**head, "annotations": annotations}))
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        judge = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "keypoints")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [float(value) for value in judge.stats]


def test_images_of_several_sizes_are_measured_in_one_frame() -> None:
    person = somebody(1, x=40, size=50)  # 1,250 square pixels: 20,000 in the frame of a 128-px image, large
    alike = score_poses([(person,)] * 2, [(person,)] * 2, [(128, 128), (96, 128)])
    assert alike.ap == pytest.approx(1)
    assert alike.ap_medium is None
    mixed = score_poses([(person,)] * 2, [(person,), ()], [(128, 128), (512, 512)])
    assert mixed.ap_medium == 0  # the missed one is medium


def test_keypoints_that_the_skeleton_does_not_show_are_not_asked_for() -> None:
    asked, found = somebody(1), somebody(1)
    keypoints, elsewhere = asked.keypoints.copy(), found.keypoints.copy()
    keypoints[9:, 2] = 0.2
    elsewhere[9:, :2] += 90
    scores = score_poses([(replace(asked, keypoints=keypoints),)], [(replace(found, keypoints=elsewhere),)], [SIZE])
    assert scores.ap == pytest.approx(1)
    assert scores.cap == pytest.approx(1)


def test_pce_counts_people_too_many_and_too_few() -> None:
    one, crowd = somebody(1), replace(somebody(2), iscrowd=1)
    unseen = replace(one, keypoints=np.zeros((17, 3), np.float32))
    assert people_count_error([(one,), (one, one), ()], [(), (one,) * 5, ()]) == pytest.approx((1 + 3 + 0) / 3)
    assert people_count_error([(one, crowd, unseen)], [(one,)]) == 0
    assert people_count_error([], []) is None


def test_degenerate_sets() -> None:
    one = somebody(1)
    nobody = score_poses([()], [()], [SIZE])
    assert (nobody.ap, nobody.ap_medium, nobody.cap, nobody.pce) == (None, None, None, 0)
    unasked = score_poses([()], [(one,)], [SIZE])
    assert (unasked.ap, unasked.cap, unasked.pce) == (None, None, 1)
    missed = score_poses([(one,)], [()], [SIZE])
    assert (missed.ap, missed.cap, missed.pce) == (0, 0, 1)
    more = score_poses([(one,)], [(one, replace(somebody(9), score=0.1))], [SIZE])
    assert more.ap == pytest.approx(1)
    assert more.pce == 1
    empty = score_poses([], [], [])
    assert (empty.ap, empty.cap, empty.pce) == (None, None, None)
    with pytest.raises(ValueError, match="zip"):
        score_poses([(one,)], [], [SIZE])
