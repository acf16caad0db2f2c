from __future__ import annotations

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from pipelines.train.curves import Curves, Point, read
from pipelines.train.report import HEIGHT, WIDTH, curve, write_report


def point(step: int, loss: float = 0.5) -> Point:
    return Point(step, loss, loss * 1.1, 0.25, 1e-4, 33.5, 1.25, 0)


def test_points_come_back_and_those_of_a_lost_end_are_dropped(tmp_path: Path) -> None:
    with Curves(tmp_path, 0) as curves:
        for step in (10, 20, 30):
            curves.add(point(step))
    assert read(tmp_path) == [point(10), point(20), point(30)]
    file = tmp_path / "curve.tsv"
    file.write_text(file.read_text() + "40\t0.5\t0.")  # a writer killed within a line
    assert [one.step for one in read(tmp_path)] == [10, 20, 30]
    with Curves(tmp_path, 20) as curves:  # the last checkpoint was of step 20
        curves.add(point(30, 0.25))
    assert read(tmp_path) == [point(10), point(20), point(30, 0.25)]


def test_a_curve_stays_in_its_frame_and_names_its_ends() -> None:
    text = curve([100, 200, 300, 400], [4.0, math.nan, 1.0, 2.0])
    root = ElementTree.fromstring(text)
    (line,) = root.findall("polyline")
    places = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert len(places) == 3
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    assert places[0][1] < places[2][1] < places[1][1]  # higher values are higher up
    assert {one.text for one in root.findall("text")} == {"4", "1", "step 100", "400"}
    assert "polyline" not in curve([1], [math.inf])


def test_a_report_stands_alone(tmp_path: Path) -> None:
    run = tmp_path / "a <run>"
    with Curves(run, 0) as curves:
        curves.add(point(10))
    (run / "run.json").write_text(json.dumps({"config": {"model": {"id": "<script>"}}}))
    (run / "grids").mkdir()
    for step in (10, 20):
        Image.fromarray(np.full((4, 8, 3), step, np.uint8)).save(run / "grids" / f"{step:08d}.png")
    page = write_report(run).read_text(encoding="utf-8")
    assert "10 steps, loss 0.5000" in page
    assert "<script>" not in page
    assert "<run>" not in page
    assert re.findall(r"<figcaption>step (\d+)", page) == ["20", "10"]  # the newest first
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
