"""The page about a dataset: what is on it, and that hostile texts stay texts."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipelines import cli, dataset, shards
from pipelines.config import UserError
from pipelines.evaluate.contents import read_contents
from pipelines.inspect.report import FAMILIES, HEIGHT, WIDTH, bars, families_of, write_report
from pipelines.record import LedgerRow, Origin, Rejected
from pipelines.store import Store
from pipelines.work import ShardResult
from tests.pipelines.small_dataset import sample, write_dataset
from tests.pipelines.test_dataset import MANIFEST

HOSTILE = "<script>alert(1)</script>\"'><img src=https://evil.example/x.png onerror=alert(1)>"
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """A page's elements, its texts, and whether every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def write_hostile(out: Path) -> None:
    """Write one shard whose every text is hostile: two accepted, one rejected and kept, one only in the ledger."""
    store, manifest = Store(str(out)), dataclasses.replace(MANIFEST, n=4, shard_size=4)
    dataset.write_manifest(store, manifest, {}, "run")
    base = dataclasses.replace(sample("0" * 64, 0, 1), caption=HOSTILE, scene=HOSTILE, action=HOSTILE)
    base = dataclasses.replace(base, origin=Origin(url="javascript:alert(1)//https://evil.example/" + HOSTILE))
    accepted = [dataclasses.replace(base, key=f"{HOSTILE}{number}") for number in range(2)]
    turned_down = dataclasses.replace(base, key="kept", clip_score=0.25)
    ledger = [
        LedgerRow("kept", 0, 1, "pose", HOSTILE, {"people": 1.0}, caption=HOSTILE),
        LedgerRow("gone", 0, 1, "safety", "nsfw", {}, caption=HOSTILE),
    ]
    result = ShardResult(accepted=accepted, rejected=[Rejected(turned_down, "pose", HOSTILE, 1)], ledger=ledger)
    shards.commit(store, manifest.task(0), result, manifest.identity_hash, "run")


def read_page(out: Path, file: Path) -> Page:
    write_report(str(out), file, 24)
    return Page(file.read_text(encoding="utf-8"))


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    write_hostile(tmp_path / "a<b>")
    page = read_page(tmp_path / "a<b>", tmp_path / "report.html")
    assert not {"script", "a", "link", "iframe", "object", "b>"} & set(page.elements)
    assert page.elements["img"] == 2 * 3  # two accepted, one rejected: picture and skeletons
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    loaded = [value for name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert len(loaded) == 6
    assert all(value.startswith("data:image/jpeg;base64,") for value in loaded)
    assert not [value for name, value in page.attributes if name == "style" and "url" in value]
    assert page.text.count(HOSTILE) >= 3 * 2  # captions and urls are there to be read
    assert "javascript:alert(1)//" in page.text
    assert any("default-src 'none'" in value for name, value in page.attributes if name == "content")


def test_every_stage_reason_and_count_is_on_it(tmp_path: Path) -> None:
    write_hostile(tmp_path / "out")
    page = read_page(tmp_path / "out", tmp_path / "report.html")
    words = re.sub(r"\s+", " ", page.text)
    assert "2 samples accepted of 4 candidates (50.0%)" in words
    for line in ("candidates 4 100.0%", "turned down by pose 1 25.0%", "nsfw 1 25.0%", "accepted 2 50.0%"):
        assert line in words
    assert "safety: nsfw (1) No candidate of this reason was kept with its picture." in words
    assert f"pose: {HOSTILE.replace('_', ' ')} (1) pose: {HOSTILE}" in words


def test_the_command_writes_a_page_of_samples_charts_coverage_and_examples(tmp_path: Path) -> None:
    keys = write_dataset(tmp_path / "out", 3)
    file = tmp_path / "new" / "report.html"
    assert cli.main(["inspect", str(tmp_path / "out"), "--html", str(file), "--n", "5"]) == 0
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert "5 of 11, drawn at random" in page.text
    assert "people count: too few (7)" in page.text  # six rejected, one short
    assert "Places that could not be filled: 1." in page.text
    assert page.elements["img"] == 2 * (5 + 3)
    assert page.elements["svg"] == 3  # people, words, keypoint scores: nothing else was measured
    assert sum(key in page.text for key in keys) >= 5
    assert cli.main(["inspect", str(tmp_path / "out"), "--html", str(file), "--n", "5"]) == 0
    assert file.read_text(encoding="utf-8") == text


def test_a_dataset_on_an_object_store_has_the_same_page(tmp_path: Path, s3: str) -> None:
    texts = []
    for out in (str(tmp_path / "out"), f"{s3}/reported"):
        write_dataset(out, 2)
        write_report(out, tmp_path / "report.html", 24)
        texts.append((tmp_path / "report.html").read_text(encoding="utf-8").replace(out, "OUT"))
    assert texts[0] == texts[1]


def test_coverage_counts_scenes_by_the_first_word_of_actions(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", 3)
    store = Store(str(tmp_path / "out"))
    rows = [row for index in range(3) for row in shards.read_table(store, "shards", index).to_pylist()]
    coverage = families_of(read_contents(store.root).coverage)
    assert coverage == Counter((row["scene"], row["action"].split()[0]) for row in rows)
    page = read_page(tmp_path / "out", tmp_path / "report.html")
    families = {family for _, family in coverage}
    heads = len({scene for scene, _ in coverage}) + 1 + min(len(families), FAMILIES)
    assert page.elements["th"] == heads + (len(families) > FAMILIES)


@pytest.mark.parametrize("folder", ["rejected", None])
def test_a_dataset_without_kept_rejects_or_without_shards_has_a_page(tmp_path: Path, folder: str | None) -> None:
    write_dataset(tmp_path / "out", 2)
    for file in (tmp_path / "out" / (folder or "done")).iterdir():
        file.unlink()
    page = read_page(tmp_path / "out", tmp_path / "report.html")
    if folder:
        assert "No candidate of this reason was kept" in page.text
        assert page.elements["img"] == 2 * 7
    else:
        assert "Nothing in it yet" in page.text
        assert page.elements["img"] == page.elements["svg"] == 0


def test_what_cannot_be_done_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="holds no dataset"):
        write_report(str(tmp_path), tmp_path / "report.html", 24)
    write_dataset(tmp_path / "out", 1)
    with pytest.raises(UserError, match=r"--html .*: cannot be written"):
        write_report(str(tmp_path / "out"), tmp_path, 24)
    assert cli.main(["inspect", str(tmp_path / "out"), "--html", str(tmp_path / "r.html"), "--rejected"]) == 2
    assert "leave --sheet and --rejected out" in capsys.readouterr().err


def test_bars_stand_on_the_ground_and_the_highest_is_named() -> None:
    root = ElementTree.fromstring(bars(["0", "1", "<2>"], [1, 4, 0]))
    places = [{name: float(bar.attrib[name]) for name in ("x", "y", "width", "height")} for bar in root.findall("rect")]
    assert all(bar["x"] >= 0 and bar["x"] + bar["width"] <= WIDTH and bar["y"] >= 0 for bar in places)
    assert {bar["y"] + bar["height"] for bar in places} == {HEIGHT - 20}
    assert [bar["height"] / places[1]["height"] for bar in places] == [0.25, 1, 0]
    assert [one.text for one in root.findall("text")] == ["4", "0", "1", "<2>"]
