"""Every odd record of an annotated set is imported as it should be, or named in the ledger."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.humanart.config import ImportConfig, ImportGates, LimitsConfig
from pipelines.humanart.job import ImageSet, compose
from pipelines.humanart.work import ImportWork
from pipelines.images import decode_image
from pipelines.record import Sample, rejected_to_table, samples_to_table
from pipelines.store import Store
from pipelines.work import ShardContext, ShardResult, ShardTask
from tests.pipelines.drawn_set import FIRST, GOOD, ODD_IMAGES, REJECTED, SIZE, drawing, write_set

DUPLICATES = 3
STRAY = 3


@dataclass
class Imported:
    """A set imported by one worker in this process, as one shard."""

    root: Path
    file: Path
    work: ImportWork
    task: ShardTask
    result: ShardResult

    def accepted(self, name: str) -> Sample:
        return next(s for s in self.result.accepted if record_of(s)["picture_name"] == name)


def record_of(sample: Sample) -> dict[str, Any]:
    assert sample.annotation is not None
    image: dict[str, Any] = json.loads(sample.annotation)["image"]
    return image


def prepare(folder: Path, config: ImportConfig, images: ImageSet) -> tuple[ImportWork, ShardTask]:
    """Write what a driver would, and build the work."""
    job, make_work, _ = compose(images, config, str(folder))
    Store(str(folder)).write_all(job.files, "run")
    return make_work(), ShardTask(0, 0, job.n, 1)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    root = tmp_path_factory.mktemp("set") / "data"
    file = write_set(root)
    work, task = prepare(root.parent / "out", ImportConfig(), ImageSet("human-art", str(file), str(root)))
    return Imported(root, file, work, task, work(ShardContext(task)))


def test_nothing_is_lost(imported: Imported) -> None:
    result = imported.result
    assert len(result.accepted) == GOOD - 1 + len(ODD_IMAGES)  # the id of one is there twice
    assert len(result.ledger) == len(REJECTED) + DUPLICATES + STRAY
    keys = [s.key for s in result.accepted] + [row.key for row in result.ledger]
    assert len(set(keys)) == len(keys) == imported.task.stop
    assert [s.key for s in result.accepted] == sorted(s.key for s in result.accepted)
    samples_to_table(result.accepted)
    rejected_to_table(result.rejected)


def test_every_reason_is_named(imported: Imported) -> None:
    by_number = {row.key: (row.stage, row.reason) for row in imported.result.ledger}
    first = 1000 + len(ODD_IMAGES)
    found = {name: by_number[f"humanart-{FIRST + first + place}"] for place, name in enumerate(REJECTED)}
    assert found == REJECTED
    assert by_number[f"humanart-{FIRST + 5}"] == ("annotation", "duplicate_id")
    assert by_number[f"humanart-{FIRST + 5}#2"] == ("annotation", "duplicate_id")
    assert by_number[f"humanart-{FIRST}#2"] == ("annotation", "duplicate_id")
    assert by_number["humanart-77"] == ("annotation", "unknown_image")
    strange = {key: why for key, why in by_number.items() if key.startswith(("humanart-image", "humanart-annotation"))}
    assert sorted(strange.values()) == [("annotation", "bad_record"), ("annotation", "unknown_image")]


def test_plain_files_are_kept_byte_for_byte(imported: Imported) -> None:
    for sample in imported.result.accepted[: GOOD - 1]:
        assert sample.image == (imported.root / record_of(sample)["file_name"]).read_bytes()
        assert "encoded_anew" not in json.loads(sample.annotation or "")
        assert sample.image_path.rpartition(".")[2] in ("png", "jpg")
        assert sample.origin is not None
        assert (sample.origin.licence, sample.origin.author) == ("Apache-2.0", "测试")
        assert sample.caption.startswith("a drawn person")
        assert sample.scene in ("cartoon", "oil-painting", "kids-drawing", "stained-glass")


def test_people_are_as_annotated(imported: Imported) -> None:
    crowd = imported.accepted("Nº 1")
    assert [p.iscrowd for p in crowd.people] == [0, 0, 1]
    table = samples_to_table([crowd]).to_pylist()[0]
    assert table["num_people"] == 2
    assert table["min_keypoint_score"] > 0
    assert [bool(p.keypoints.any()) for p in imported.accepted("Nº 2").people] == [False, True, True]
    with_dog = imported.accepted("Nº 3")
    assert len(with_dog.people) == 1
    assert "a dog" in (with_dog.annotation or "")
    bare = imported.accepted("Nº 4").people[0]
    assert bare.area == pytest.approx(bare.bbox[2] * bare.bbox[3] * 0.53)
    assert bare.self_contact is None
    for sample in imported.result.accepted:
        theirs = [one for one in json.loads(sample.annotation or "")["annotations"] if one["category_id"] == 1]
        for person, annotated in zip(sample.people, theirs, strict=True):
            given = np.reshape(annotated["keypoints"], (17, 3))
            assert np.allclose(person.keypoints[:, :2], given[:, :2], atol=1e-4)
            assert person.keypoints[:, 2].tolist() == [(0, 0.5, 1)[int(seen)] for seen in given[:, 2]]
            assert person.visibility == tuple(given[:, 2])
            assert person.keypoints21 == pytest.approx(annotated["keypoints_21"])
            assert person.annotation_id == annotated["id"]


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_odd_images_become_plain_rgb_where_the_annotations_are(imported: Imported, name: str) -> None:
    sample = imported.accepted(name)
    words = {"sixteen": "16-bit", "shown": "turned", "upside": "turned", "palette": "alpha"}
    assert words.get(name, name) in json.loads(sample.annotation or "")["encoded_anew"]
    assert sample.image is not None
    with Image.open(io.BytesIO(sample.image)) as image:
        assert (image.format, image.mode, image.getexif().get(0x0112)) == ("JPEG", "RGB", None)
        assert image.size == (sample.width, sample.height)
    drawn = np.asarray(drawing(1000 + ODD_IMAGES.index(name), 1)[0], float)
    if name in ("turned", "shown"):
        drawn = drawn[:, : SIZE - 32]
    if name in ("sixteen", "grey"):
        drawn = np.repeat(drawn @ [[0.299], [0.587], [0.114]], 3, 2)
    if name == "alpha":
        opacity = np.asarray(Image.linear_gradient("L").resize((SIZE, SIZE)), float)[..., None] / 255
        drawn = drawn * opacity + 255 * (1 - opacity)
    if name == "palette":
        return  # one of its colours shows white
    assert np.abs(decode_image(sample.image) - drawn).mean() < 12


def test_rejected_images_are_kept_where_they_can_be_decoded(imported: Imported) -> None:
    kept = {row.reason for row in imported.result.rejected}
    assert {"no_keypoints", "not_finite", "box_outside", "size_mismatch", "duplicate_id"} <= kept
    assert not {"broken", "truncated", "too_many_pixels", "outside_root", "missing_file"} & kept
    for row in imported.result.rejected:
        assert row.sample.image
        json.loads(row.sample.annotation or "", parse_constant=lambda name: pytest.fail(name))
    work = replace(imported.work, config=ImportConfig(keep_rejected=False))
    result = work(ShardContext(imported.task))
    assert result.rejected == []
    assert [row.reason for row in result.ledger] == [row.reason for row in imported.result.ledger]


def test_images_of_nobody_are_kept_if_wanted(imported: Imported) -> None:
    work = replace(imported.work, config=ImportConfig(gates=ImportGates(min_people=0)))
    ledger = work(ShardContext(imported.task)).ledger
    reasons = {row.reason for row in ledger}
    assert not {"no_annotations", "no_keypoints"} & reasons
    assert "not_finite" in reasons


def test_large_files_are_encoded_anew_or_left_out(imported: Imported) -> None:
    limits = LimitsConfig(max_bytes=4000, max_file_bytes=11_000)
    result = replace(imported.work, config=ImportConfig(limits=limits))(ShardContext(imported.task))
    anew = [s for s in result.accepted if "large" in json.loads(s.annotation or "").get("encoded_anew", ())]
    assert anew
    assert all(len(s.image or b"") <= 4000 for s in result.accepted)
    assert {row.stage for row in result.ledger if row.reason == "too_large"} == {"file", "image"}


def test_a_longer_shard_carries_over_what_a_shorter_one_settled(imported: Imported, tmp_path: Path) -> None:
    shorter = replace(imported.task, stop=9)
    before = imported.work(ShardContext(shorter))
    moved = replace(imported.work, folder=imported.work.folder)
    grown = moved(ShardContext(imported.task, previous=before))
    assert grown.counts == {"imported": imported.task.stop - 9, "reused": 9}
    assert samples_to_table(grown.accepted).equals(samples_to_table(imported.result.accepted))
    assert grown.ledger == imported.result.ledger


def test_a_record_that_kills_its_worker_is_named(imported: Imported) -> None:
    key = f"humanart-{FIRST}"
    result = imported.work(ShardContext(replace(imported.task, quarantined=frozenset({key}))))
    (row,) = [row for row in result.ledger if row.key == key]
    assert (row.stage, row.reason, row.scene) == ("worker", "killed_worker", "cartoon")
    assert len(result.accepted) == len(imported.result.accepted) - 1


def test_names_may_start_at_the_folder_of_the_set_itself(imported: Imported, tmp_path: Path) -> None:
    images = ImageSet("human-art", str(imported.file), str(imported.root / "HumanArt"))
    work, task = prepare(tmp_path / "out", ImportConfig(), images)
    result = work(ShardContext(task))
    assert samples_to_table(result.accepted).equals(samples_to_table(imported.result.accepted))


def test_a_name_is_never_followed_out_of_the_folder(imported: Imported) -> None:
    stolen = (imported.root.parent / "outside.png").read_bytes()
    assert all(row.sample.image != stolen for row in imported.result.rejected)
    assert all(sample.image != stolen for sample in imported.result.accepted)
