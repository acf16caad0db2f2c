"""Dataset cards: what the Hugging Face hub and Croissant's readers make of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import cli, record
from pipelines.card import Facts, about_source, as_json, as_markdown, write_card
from pipelines.dataset import read_manifest
from pipelines.store import Store
from tests.pipelines.jobs import keys
from tests.pipelines.small_dataset import write_dataset


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "ghi", 2)
    write_card(Store(str(tmp_path / "ghi")))
    return tmp_path / "ghi"


def front_matter(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def cells(card: str) -> dict[str, str]:
    lines = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {name: value for name, value in lines if name}


def test_front_matter_is_what_the_hub_reads(out: Path) -> None:
    found = front_matter((out / "README.md").read_text())
    assert found["task_categories"] == ["text-to-image", "keypoint-detection"]
    assert found["size_categories"] == ["n<1K"]
    assert found["configs"][0]["data_files"] == [{"split": "train", "path": "shards/*.parquet"}]
    assert {"license", "language", "pretty_name", "tags"} <= found.keys()


def test_datasets_loads_the_folder_by_its_card(out: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in loaded.items()} == {"train": 7}
    assert loaded["train"][0]["image"].size == (64, 64)


def test_it_counts_what_is_committed(out: Path) -> None:
    card = (out / "README.md").read_text()
    assert "7 rows in 2 of 2 shards; 1 slots are not filled" in card
    found = cells(card)
    assert (found["candidates"], found["people_count: too_few"], found["accepted"]) == ("12", "5", "7")
    assert sum(int(found[number]) for number in "123" if number in found) == 7
    assert found["gates.max_nsfw"] == "0.8"
    for title in ("Funnel", "Counts", "Licences", "Safety", "Limits", "Config"):
        assert f"\n## {title}\n" in card


def test_equal_datasets_have_equal_cards(out: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "elsewhere", 2)
    write_card(Store(str(tmp_path / "elsewhere")))
    for name in ("README.md", "croissant.json"):
        assert (tmp_path / "elsewhere" / name).read_bytes() == (out / name).read_bytes()


def test_a_takedown_is_counted(out: Path) -> None:
    assert cli.main(["takedown", str(out), "--key", keys(out)[0]]) == 0
    card = (out / "README.md").read_text()
    assert "6 rows in 2 of 2 shards" in card
    assert cells(card)["takedown: removed"] == "1"


def test_text_from_the_web_stays_text(out: Path) -> None:
    manifest = read_manifest(Store(str(out)))
    facts = Facts(rows=1, scenes=Counter({"<script>|[a](javascript:b)\n## x": 1}))
    card = as_markdown(manifest, about_source(manifest), facts)
    assert "| \\<script\\>\\|\\[a\\](javascript:b) ## x | 1 |" in card


def test_croissant_names_every_column(out: Path) -> None:
    found = json.loads((out / "croissant.json").read_text())
    assert [field["name"] for field in found["recordSet"][0]["field"]] == record.SCHEMA.names
    assert found["distribution"][0]["includes"] == "shards/*.parquet"
    assert "7 rows" in found["description"]


def test_mlcroissant_validates_it_and_reads_the_rows(out: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(str(out / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    rows = list(dataset.records("samples"))
    assert len(rows) == 7
    assert rows[0]["samples/image"].size == (64, 64)
    assert len(rows[0]["samples/people"][0]["samples/people/keypoints"]) == 51


@pytest.mark.parametrize("source", ["ghi", "laion-human", "human-art", "coco"])
def test_every_source_tells_of_its_licence_and_limits(source: str, out: Path) -> None:
    manifest = replace(read_manifest(Store(str(out))), source=source)
    about = about_source(manifest)
    assert front_matter(as_markdown(manifest, about, Facts()))["license"]
    assert json.loads(as_json(manifest, about, Facts()))["license"] == about.about_licence
    assert about.safety
    assert about.limits
