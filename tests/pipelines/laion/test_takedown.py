"""Takedowns in LAION-Human: gone from every stage, and never asked for again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines import dataset, shards
from pipelines.config import load_config
from pipelines.laion.config import LaionConfig
from pipelines.laion.job import config_of, run_laion
from pipelines.laion.plan import read_candidates
from pipelines.store import Store
from pipelines.takedown import take_down
from pipelines.taken import STAGE, parse

N, SIZE = 30, 15


def holding(out: Path, data: bytes) -> list[str]:
    return [
        str(path.relative_to(out)) for path in sorted(out.rglob("*")) if path.is_file() and data in path.read_bytes()
    ]


def tables(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("*/*.parquet"))}


@pytest.mark.usefixtures("in_process")
def test_gone_from_every_stage_and_never_asked_for_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = load_config(LaionConfig, "mini", [f"n={N}", f"shard_size={SIZE}"], "laion")
    assert run_laion(config, str(out)).exit_code == 0
    store = Store(str(out))
    accepted = [row for index in range(2) for row in rows_of(store, "shards", index)]
    raw = [row for index in range(2) for row in rows_of(Store(str(out / "raw/0")), "shards", index)]
    times = Counter(row["image"]["bytes"] for row in raw)  # copies under other addresses stay, unless asked for by hash
    alone = [row for row in accepted if times[row["image"]["bytes"]] == 1]
    by_url, by_hash, by_key = alone[0], alone[1], alone[-1]
    images = [row["image"]["bytes"] for row in (by_url, by_hash, by_key)]
    assert all(holding(out, image) for image in images)
    failed = rows_of(Store(str(out / "raw/0")), "ledger", 1)[0]  # of this there never was an image

    asked = parse(
        [by_key["key"], failed["key"]], [by_url["origin"]["url"]], [f"{by_hash['phash']:016x}"], "2026-01-01T00:00:00"
    )
    report = take_down(str(out), asked)
    assert report.exit_code == 0
    wanted = {row["key"] for row in (by_url, by_hash, by_key)} | {failed["key"]}
    assert wanted <= {match.key for match in report.removed}
    assert list(dataset.verify(str(out))) == []
    for image in images:
        assert holding(out, image) == []
    planned = [row for index in range(2) for row in read_candidates(store, index)]
    assert len(planned) == N
    assert {(row["url"], row["caption"]) for row in planned if row["key"] in wanted} == {("", "")}
    assert "" not in {row["url"] for row in planned if row["key"] not in {match.key for match in report.removed}}
    told = [row for index in range(2) for row in rows_of(store, "ledger", index) if row["key"] in wanted]
    assert sorted(row["key"] for row in told) == sorted(wanted)
    assert {(row["stage"], row["url"], row["caption"]) for row in told} == {(STAGE, None, None)}

    shard_tables = {name: data for name, data in tables(out).items() if name.partition("/")[0] in shards.FOLDERS}
    assert run_laion(config, str(out)).exit_code == 0
    assert {name: tables(out)[name] for name in shard_tables} == shard_tables
    for folder in ("raw/0", "annotated", ""):  # as if they had been lost: made anew without what was taken down
        (out / folder / "done/00000000.json").unlink()
    assert run_laion(config, str(out)).exit_code == 0
    assert {name: tables(out)[name] for name in shard_tables} == shard_tables
    for image in images:
        assert holding(out, image) == []
    assert run_laion(config_of(str(out)), str(out), retry=True).exit_code == 0
    assert (out / "raw/1/takedown.parquet").exists()
    for image in images:
        assert holding(out, image) == []
    assert list(dataset.verify(str(out))) == []


def rows_of(store: Store, folder: str, index: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = shards.read_table(store, folder, index).to_pylist()
    return rows
