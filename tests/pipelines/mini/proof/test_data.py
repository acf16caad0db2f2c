"""Drawn sets: the importer takes every picture, with the captions, scenes and poses that were drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.humanart.config import ImportConfig
from pipelines.humanart.job import ImageSet, compose
from pipelines.images import decode_image
from pipelines.mini.proof.data import HELD_OUT, SEED, write_set
from pipelines.mini.render import draw
from pipelines.mini.train.captions import Captions
from pipelines.store import Store
from pipelines.work import ShardContext, ShardTask
from prompts.grammar import load_grammar


def test_the_importer_takes_every_picture_as_it_was_drawn(tmp_path: Path) -> None:
    count = 6
    file = write_set(tmp_path / "set", HELD_OUT, count)
    job, make_work, _ = compose(
        ImageSet("human-art", str(file), str(tmp_path / "set")), ImportConfig(), str(tmp_path / "out")
    )
    Store(str(tmp_path / "out")).write_all(job.files, "run")
    result = make_work()(ShardContext(ShardTask(0, 0, job.n, 1)))
    assert not result.ledger
    captions = Captions(load_grammar(), SEED)
    for place, sample in enumerate(result.accepted):
        prompt, world = captions.at(HELD_OUT + place)
        drawing = draw(world, np.random.default_rng((SEED, HELD_OUT + place)))
        assert (sample.caption, sample.scene) == (prompt.text, prompt.scene)
        assert (decode_image(sample.image or b"") == drawing.image).all()
        assert len(sample.people) == len(drawing.people)
        for found, drawn in zip(sample.people, drawing.people, strict=True):
            seen = np.asarray(drawn.visibility) > 0
            np.testing.assert_allclose(found.keypoints[seen, :2], drawn.keypoints[seen, :2], atol=1e-3)


def test_a_set_that_is_there_is_not_drawn_again(tmp_path: Path) -> None:
    file = write_set(tmp_path, 0, 2)
    before = file.read_bytes()
    assert write_set(tmp_path, 0, 3) == file
    assert file.read_bytes() == before
