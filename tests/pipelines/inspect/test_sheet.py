from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipelines.inspect import rows
from pipelines.inspect.sheet import CELL, GAP, HEADING, MARGIN, Card, card_of, draw_sheet, save
from pipelines.record import Rejected, Sample
from tests.pipelines.small_dataset import sample, write_dataset


@pytest.fixture(scope="module")
def accepted() -> Sample:
    return next(one for one in (sample("0" * 64, slot, 1) for slot in range(20)) if one.people)


def cells(sheet: Image.Image) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """The plain and the posed picture of a sheet of one card, by where the second lies right of the first."""
    pixels = np.asarray(sheet).astype(int)
    band = pixels[HEADING + GAP : HEADING + GAP + CELL, MARGIN + GAP :]
    return band[:, :CELL], band[:, CELL + GAP : 2 * CELL + GAP]


def test_the_skeleton_is_drawn_beside_the_plain_picture(accepted: Sample) -> None:
    plain, posed = cells(draw_sheet([card_of(accepted)], "title", "subtitle"))
    with_nobody = dataclasses.replace(accepted, people=())
    same_plain, dimmed = cells(draw_sheet([card_of(with_nobody)], "title", "subtitle"))
    assert np.array_equal(plain, same_plain)
    assert dimmed.mean() < plain.mean()
    joints = np.concatenate([person.keypoints for person in accepted.people])
    seen = joints[joints[:, 2] >= 0.9]
    scale = CELL / 64
    for x, y, _ in seen[(seen[:, :2] > 2).all(axis=1) & (seen[:, :2] < 61).all(axis=1)]:
        at = slice(int(y * scale), int((y + 1) * scale)), slice(int(x * scale), int((x + 1) * scale))
        assert np.abs(posed[at] - dimmed[at]).max() > 40
    corner = posed[:4, :4]
    assert np.array_equal(corner, dimmed[:4, :4])


def test_the_sheet_grows_by_rows(accepted: Sample) -> None:
    card = card_of(accepted)
    one, three, four = (draw_sheet([card] * count, "t", "s").size for count in (1, 3, 4))
    assert three[0] > 2.5 * one[0] - 200
    assert three[1] == one[1]
    assert four[0] == three[0]
    assert four[1] > three[1]
    assert draw_sheet([], "t", "nothing").size[1] > 0


def test_a_card_says_why(accepted: Sample) -> None:
    asked = accepted.prompt and accepted.prompt["num_people"]
    good, bad = card_of(accepted), card_of(Rejected(accepted, "people_count", "too_few", 3))
    assert good.good
    assert not bad.good
    assert bad.verdict == "people count: too few"
    assert f"{asked} asked, {len(accepted.people)} found" in bad.details[0]
    assert "attempt 3" in bad.details[2]
    assert accepted.scene is not None
    assert accepted.scene in good.details[0]


@pytest.mark.parametrize("image", [None, b"no image"])
def test_a_picture_that_is_not_there_leaves_a_note(image: bytes | None) -> None:
    card = Card(image, (), "safety: nsfw", False, "a caption " * 60, ("detail",))
    plain, posed = cells(draw_sheet([card], "t", "s"))
    assert np.array_equal(plain, posed)
    assert (plain != plain[0, 0]).any()  # the note's letters


def test_pictures_keep_their_shape() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (640, 160), (200, 20, 20)).save(buffer, "PNG")
    plain, _ = cells(draw_sheet([Card(buffer.getvalue(), (), "v", True, "c", ())], "t", "s"))
    red = (plain == (200, 20, 20)).all(axis=2)
    assert red.any(axis=0).all()
    assert red.any(axis=1).sum() == CELL // 4


def test_rows_are_picked_evenly_and_the_same_each_time(tmp_path: Path) -> None:
    keys = write_dataset(tmp_path / "out", 3)
    picked, total = rows.pick(str(tmp_path / "out"), "shards", 100)
    assert total == len(keys) == 11
    assert [row.key for row in picked if isinstance(row, Sample)] == keys
    some, _ = rows.pick(str(tmp_path / "out"), "shards", 5)
    again, _ = rows.pick(str(tmp_path / "out"), "shards", 5)
    other, _ = rows.pick(str(tmp_path / "out"), "shards", 5, seed=1)
    assert [rows.summary(row) for row in some] == [rows.summary(row) for row in again]
    assert [rows.summary(row) for row in some] != [rows.summary(row) for row in other]
    turned_down, total = rows.pick(str(tmp_path / "out"), "rejected", 100)
    assert total == 6
    assert all(isinstance(row, Rejected) for row in turned_down)
    assert "people_count: too_few (attempt 2)" in rows.as_text(turned_down[0])
    sheet = draw_sheet([card_of(row) for row in [*picked, *turned_down]], "small", "17")
    save(sheet, tmp_path / "sheets" / "sheet.png")
    assert Image.open(tmp_path / "sheets" / "sheet.png").size == sheet.size
