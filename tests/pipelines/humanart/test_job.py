"""Import from the command line: the same bytes for any number of workers and however often killed, and the way back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pandas import read_parquet

from pipelines import cli, dataset, open_dataset
from pipelines.config import UserError
from pipelines.humanart.config import ImportConfig, LimitsConfig
from pipelines.humanart.job import ImageSet, plan_import, run_import
from pipelines.store import Store
from tests.pipelines.drawn_set import GOOD, ODD_IMAGES, REJECTED, write_set
from tests.pipelines.jobs import keys, tables

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "data"
    write_set(root)
    return root


@pytest.fixture(scope="module")
def out(cluster: str, drawn: Path) -> Path:
    """The set imported by one worker."""
    out = drawn.parent / "out"
    assert humanart(drawn, out, "--workers", "1") == 0
    return out


def humanart(drawn: Path, out: Path, *more: str) -> int:
    return cli.main(["humanart", "--root", str(drawn), "--out", str(out), "--set", "shard_size=8", *more])


def test_any_number_of_workers_gives_the_same_bytes(drawn: Path, out: Path, tmp_path: Path) -> None:
    assert humanart(drawn, tmp_path / "out", "--workers", "2") == 0
    assert tables(tmp_path / "out") == tables(out)
    for name in ("README.md", "croissant.json"):
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes()
    assert f"\n{len(keys(out))} rows in " in (out / "README.md").read_text()
    assert len(keys(out)) == GOOD - 1 + len(ODD_IMAGES)
    assert list(dataset.verify(str(out))) == []


def test_killed_with_everything_it_resumes_to_the_same_bytes(
    drawn: Path, out: Path, cluster: str, tmp_path: Path
) -> None:
    again = tmp_path / "out"
    arguments = ["humanart", "--root", str(drawn), "--out", str(again), "--set", "shard_size=8", "--address", cluster]
    driver = subprocess.Popen([sys.executable, "-m", "pipelines", *arguments], cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 180
    while not list(again.glob("done/*.json")) and driver.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    driver.kill()
    driver.communicate()
    made = {path: path.stat().st_mtime_ns for path in again.glob("done/*.json")}
    assert made
    assert humanart(drawn, again) == 0
    assert tables(again) == tables(out)
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_the_way_back_is_exact(drawn: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    back = tmp_path / "back"
    assert cli.main(["export", str(out), "--to", "coco", "--out", str(back), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    original = json.loads((drawn / "HumanArt/annotations/training_humanart.json").read_text())
    made = json.loads((back / "annotations.json").read_text())
    ids = {image["id"] for image in made["images"]}
    assert len(ids) == told["rows"] == GOOD - 1 + len(ODD_IMAGES)
    unique = {as_text(image) for image in original["images"] if image.get("id") in ids}
    assert {as_text(image) for image in made["images"]} == unique
    theirs = [as_text(one) for one in original["annotations"] if one["image_id"] in ids]
    assert sorted(as_text(one) for one in made["annotations"]) == sorted(theirs)
    for name in ("info", "licenses", "categories"):
        assert made[name] == original[name]
    assert {str(p.relative_to(back / "images")) for p in (back / "images").rglob("*.*")} == {
        image["file_name"] for image in made["images"]
    }
    assert cli.main(["export", str(out), "--to", "coco", "--out", str(back)]) == 0
    assert "nothing to do" in capsys.readouterr().err


def as_text(record: dict[str, Any]) -> str:
    """A record with every value's type and every digit, whatever the order of its keys."""
    return json.dumps(record, sort_keys=True)


def test_what_was_exported_can_be_imported(out: Path, tmp_path: Path) -> None:
    back = tmp_path / "back"
    assert cli.main(["export", str(out), "--to", "coco", "--out", str(back)]) == 0
    again = tmp_path / "again"
    images = ["--ann", str(back / "annotations.json"), "--images", str(back / "images")]
    assert cli.main(["coco", *images, "--out", str(again)]) == 0
    assert len(keys(again)) == len(keys(out))
    assert all(key.startswith("coco-") for key in keys(again))
    assert cli.main(["export", str(again), "--to", "coco", "--out", str(tmp_path / "twice")]) == 0
    assert (tmp_path / "twice/annotations.json").read_bytes() == (back / "annotations.json").read_bytes()


@pytest.mark.usefixtures("in_process")
def test_more_images_are_added_to_those_there(drawn: Path, out: Path, tmp_path: Path) -> None:
    grown = tmp_path / "out"
    assert humanart(drawn, grown, "--n", "12") == 0
    assert len(list(grown.glob("shards/*"))) == 2
    assert humanart(drawn, grown) == 0
    assert tables(grown) == tables(out)
    assert humanart(drawn, grown, "--n", "12") == 2


def test_another_annotation_file_is_another_dataset(
    drawn: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = drawn / "HumanArt/annotations/training_humanart.json"
    other = tmp_path / "other.json"
    other.write_text(file.read_text().replace("a drawn person", "a drawn human"))
    assert humanart(drawn, out, "--ann", str(other)) == 2
    assert "annotations.sha256" in capsys.readouterr().err
    assert humanart(drawn, out, "--ann", str(file)) == 0


def test_a_dry_run_says_what_would_be_imported(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert humanart(drawn, tmp_path / "out", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "oil-painting" in told
    assert "duplicate_id" in told
    assert not (tmp_path / "out").exists()
    file = drawn / "HumanArt/annotations/training_humanart.json"
    found = plan_import(ImageSet("human-art", str(file), str(drawn)), ImportConfig(n=20), str(tmp_path / "out"))
    assert (found["images"], found["shards_to_do"], found["unusable"]["duplicate_id"]) == (20, 1, 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "its top level is no object"),
        ('{"annotations": []}', "it has no list of images"),
        ('{"images": {}}', "'images' is no list"),
        ('{"images": [}', "not a COCO annotation file"),
        ('{"images": [], "images": []}', "the key 'images' is there twice"),
        ('{"images": []} more', "more text after its end"),
        ('{"images": []}', "lists no image"),
        ('{"images": [' + "[" * 100_000, "not a COCO annotation file"),
        ('{"images": [{"id": 1, "file_name": "no.png"}]}', "none of the first 1 images is there (such as 'no.png')"),
        ('{"images": [{"id": 1}], "categories": [{"id": 1, "name": "cat"}]}', "called 'person'"),
        (
            '{"images": [{"id": 1}], "categories": [{"id": 1, "name": "person", "keypoints": ["nose"]}]}',
            "its people have 1 keypoints, not the 17 of COCO",
        ),
    ],
)
def test_a_file_that_is_none_is_one_line(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ann.json"
    file.write_text(content)
    arguments = ["coco", "--ann", str(file), "--images", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    assert humanart(tmp_path / "absent", tmp_path / "out") == 2
    with pytest.raises(UserError, match="no such folder"):
        run_import(ImageSet("coco", str(_tiny(tmp_path)), str(tmp_path / "absent")), ImportConfig(), "x")


def _tiny(folder: Path) -> Path:
    file = folder / "tiny.json"
    file.write_text('{"images": [{"id": 1, "file_name": "x.png"}]}')
    return file


def test_a_shard_may_not_outgrow_its_column() -> None:
    with pytest.raises(ValueError, match="below 2"):
        ImportConfig(shard_size=1000, limits=LimitsConfig(max_bytes=20_000_000))


def test_reasons_are_in_the_status(out: Path) -> None:
    from pipelines.status import read_status

    found = read_status(str(out))
    assert found.complete
    assert found.source == "human-art"
    assert {f"{stage}: {reason}" for stage, reason in REJECTED.values()} <= found.reasons.keys()
    assert Store(str(out)).exists("annotations/coco.json")


@pytest.mark.usefixtures("in_process")
def test_what_was_taken_down_is_in_no_copy_of_the_annotations_and_never_comes_back(drawn: Path, tmp_path: Path) -> None:
    once, grown = tmp_path / "once", tmp_path / "grown"
    assert humanart(drawn, once) == 0
    first, *_, last = keys(once)
    urls = {row["key"]: row["origin"]["url"] for row in read_rows(once)}
    assert cli.main(["takedown", str(once), "--key", first, "--url", urls[last]]) == 0
    assert humanart(drawn, grown, "--n", "3") == 0
    assert cli.main(["takedown", str(grown), "--key", first, "--url", urls[last]]) == 1  # the last is not there yet
    assert humanart(drawn, grown) == 0
    shards_of = {name for name in tables(once) if not name.startswith("annotations/")}
    assert {name: tables(grown)[name] for name in shards_of} == {name: tables(once)[name] for name in shards_of}
    for out in (once, grown):
        assert not {first, last} & set(keys(out))
        for path in sorted((out / "annotations").glob("*.parquet")):
            records = read_parquet(path).to_dict("records")
            assert not [record for record in records if urls[last] in (record["image"] or "")]
            assert {record["image"] for record in records if f"humanart-{record['name']}" == first} <= {None}
    (once / "done/00000000.json").unlink()
    assert humanart(drawn, once) == 0
    assert {name: tables(once)[name] for name in shards_of} == {name: tables(grown)[name] for name in shards_of}


def read_rows(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = open_dataset(str(out)).table(["key", "origin"]).to_pylist()
    return rows
