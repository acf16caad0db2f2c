"""The table's lines: figures of all images and of each scene, and what is not measured is a dash."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detectors.types import Person
from pipelines.evaluate.table import ALL, REAL, Measured, as_text, score_model
from tests.pipelines.evaluate.test_keypoints import somebody


def measured(scenes: list[str], shift: float = 0.0) -> Measured:
    rng = np.random.default_rng(len(scenes))
    people: list[tuple[Person, ...]] = [(somebody(index),) for index in range(len(scenes))]
    return Measured(
        scenes=scenes,
        asked=people,
        found=[(one if index % 2 else ()) for index, one in enumerate(people)],
        sizes=[(256, 256)] * len(scenes),
        clip_scores=np.arange(len(scenes), dtype=np.float32),
        features=rng.normal(shift, 1, (len(scenes), 4)).astype(np.float32),
    )


def test_each_scene_is_measured_on_its_own_images() -> None:
    scenes = ["mural", "sketch", "mural", "sketch", "mural", "sketch"]
    real, made = measured(scenes), measured(scenes, 3)
    lines = score_model("sd", real, made, (0.5, 10**9))
    assert [(line.scene, line.images) for line in lines] == [(ALL, 6), ("mural", 3), ("sketch", 3)]
    every, mural, sketch = lines
    assert every.ap == pytest.approx(0.5, abs=0.01)
    assert (mural.ap, mural.pce) == (0, 1)
    assert sketch.ap == pytest.approx(1)
    assert (every.clipsim, mural.clipsim, sketch.clipsim) == (2.5, 2, 3)
    assert every.fid is not None
    assert every.fid > 30
    assert (every.seconds, mural.seconds) == (0.5, None)
    text = as_text(lines, "mini-clip").splitlines()
    assert text[0].startswith("| model | scene | images | mini-FID ↓ | mini-KID x10 ↓ | AP ↑")
    assert text[2].count("|") == text[0].count("|")
    assert text[2].endswith("| 2.50 | 0.50 | 1,000 |")
    assert text[3].endswith("| 2.00 | - | - |")


def test_what_is_not_measured_is_a_dash() -> None:
    one = replace(measured(["mural"]), clip_scores=None, features=None)
    (line,) = score_model("sd", one, one, (None, None))
    assert (line.fid, line.kid, line.clipsim) == (None, None, None)
    assert "| - | - | 0.00 |" in as_text([line], None)
    assert score_model(REAL, measured(["a"] * 3), measured(["a"] * 3), (None, None))[0].fid is None


def test_an_empty_set_has_no_figures() -> None:
    line = score_model("sd", measured(["a", "a"]), measured([]), (None, None))[0]
    assert (line.images, line.fid, line.ap, line.pce, line.clipsim) == (0, None, None, None, None)
