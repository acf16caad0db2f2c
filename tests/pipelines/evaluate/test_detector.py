"""A detector's AP on annotated images is what pycocotools itself says of the annotation file."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.mini import MiniPose
from detectors.types import Person
from pipelines import cli
from pipelines.coco import annotation_of
from pipelines.evaluate.detector import Annotated, annotated_set, as_text, evaluate_detector
from pipelines.evaluate.keypoints import STATS
from tests.pipelines.drawn_set import drawing, write_set
from tests.pipelines.small_dataset import write_dataset


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "data"
    write_set(root, odd=False, copies=2)
    return root


def annotation_file(root: Path) -> Path:
    return root / "HumanArt/annotations/training_humanart.json"


def by_pycocotools(file: Path, images: list[Annotated], detector: MiniPose) -> list[float]:
    """The official way: the annotation file as it is, and a list of results."""
    ids = {image["file_name"]: image["id"] for image in json.loads(file.read_text())["images"]}
    results = []
    for image in images:
        assert image.pixels is not None
        for person in detector.detect([image.pixels])[0]:
            results.append({**annotation_of(person, 1, ids[image.name]), "keypoints": person.keypoints.reshape(-1)})
    for result in results:
        del result["id"], result["area"], result["bbox"]
        result["keypoints"] = np.asarray(result["keypoints"], float).tolist()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        for one in truth.dataset["annotations"]:
            one.setdefault("iscrowd", 0)
            one.setdefault("area", one["bbox"][2] * one["bbox"][3] * 0.53)
            one.setdefault("num_keypoints", 0)
            one.setdefault("keypoints", [0] * 51)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.params.catIds = [1]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found: list[float] = evaluation.stats.tolist()
    return found


def test_the_figures_are_pycocotools_own(drawn: Path) -> None:
    images = list(annotated_set(str(annotation_file(drawn)), str(drawn)))
    detector = MiniPose(batch_size=8)
    scores = evaluate_detector(detector, images, 8)
    overall = scores.scenes[0]
    assert (overall.scene, overall.images, overall.people) == ("all", 16, 30)
    expected = by_pycocotools(annotation_file(drawn), images, detector)
    assert [overall.scores[name] for name in STATS] == pytest.approx(expected, abs=1e-4)
    assert overall.scores["ap"] > 0.5
    assert {one.scene for one in scores.scenes[1:]} == {"cartoon", "oil-painting", "kids-drawing", "stained-glass"}
    assert sum(one.people for one in scores.scenes[1:]) == overall.people


def test_scenes_are_scored_apart() -> None:
    class Blind:
        name = "blind"

        def detect(self, images: list[Any]) -> list[tuple[Person, ...]]:
            return [people if image.any() else () for image in images]

    pixels = np.asarray(drawing(0, 1)[0])
    people = MiniPose(batch_size=1).detect([pixels])[0]
    images = [Annotated("a", "seen", pixels, people), Annotated("b", "dark", np.zeros_like(pixels), people)]
    scores = evaluate_detector(Blind(), images, 2)
    assert [one.scene for one in scores.scenes] == ["all", "dark", "seen"]
    assert [one.scores["ar"] for one in scores.scenes] == pytest.approx([0.5, 0.0, 1.0])
    assert "| dark | 1 |" in as_text(scores)


def test_the_command_line(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "detector", "--ann", str(annotation_file(drawn)), "--images", str(drawn / "HumanArt")]
    assert cli.main([*arguments, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["scene"] == "all"
    assert rows[0]["ap_large"] is None
    assert cli.main(arguments) == 0
    assert f"| all | 16 | 30 | {rows[0]['found']} | {100 * rows[0]['ap']:.1f} |" in capsys.readouterr().out
    write_dataset(tmp_path / "set", 2)
    assert cli.main(["evaluate", "detector", "--data", str(tmp_path / "set"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["images"] == 7


def test_images_that_cannot_be_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "data")
    arguments = ["evaluate", "detector", "--ann", str(annotation_file(tmp_path / "data"))]
    assert cli.main([*arguments, "--images", str(tmp_path / "data")]) == 1
    told = capsys.readouterr().err
    assert "duplicate_id: " in told
    assert "images are left out" in told
    assert cli.main(arguments) == 2
    assert "give either --ann FILE and --images DIR, or --data OUT" in capsys.readouterr().err
