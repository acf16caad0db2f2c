"""The whole LAION-Human job on the small web: real img2dataset, Ray, mini-CLIP, mini-pose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipelines import dataset, shards
from pipelines.config import UserError, load_config
from pipelines.laion import job
from pipelines.laion.config import LaionConfig
from pipelines.laion.plan import read_candidates, read_plan
from pipelines.mini.hostile import ANSWERS, malformed
from pipelines.store import Store

N = 100
SIZE = 50


def config(*overrides: str) -> LaionConfig:
    return load_config(LaionConfig, "mini", [f"n={N}", f"shard_size={SIZE}", *overrides], "laion")


def tables(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("**/*.parquet"))}


def ledger(out: Path) -> pd.DataFrame:
    return pd.concat(pd.read_parquet(path) for path in sorted((out / "ledger").glob("*.parquet")))


@pytest.fixture(scope="module")
def made(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("laion") / "out"
    report = job.run_laion(config(), str(out))
    assert (report.exit_code, report.missing, report.stopped) == (0, 0, None)
    return out


def test_every_candidate_is_accepted_or_has_a_reason(made: Path) -> None:
    store = Store(str(made))
    plan = read_plan(store)
    assert plan is not None
    assert plan.candidates >= N
    keys = [row["key"] for index in range(N // SIZE) for row in read_candidates(store, index)]
    accepted = [
        row["key"]
        for path in sorted((made / "shards").glob("*.parquet"))
        for row in pd.read_parquet(path, columns=["key"]).to_dict("records")
    ]
    lost = ledger(made)
    assert Counter(accepted) + Counter(lost["key"]) == Counter(keys)
    assert lost["reason"].notna().all()
    assert list(dataset.verify(str(made))) == []


def test_the_ledger_names_what_each_page_was(made: Path) -> None:
    lost = ledger(made)
    reasons = {url.rpartition("/")[2]: reason for url, reason in zip(lost["url"], lost["reason"], strict=True)}
    files = {name.replace(" ", "-"): why for name, (_, why) in malformed().items()}
    seen = 0
    for name, reason in reasons.items():
        expected = ANSWERS[name][1] if name in ANSWERS else files.get(name)
        if expected is not None:
            assert reason == expected, name
            seen += 1
    assert seen >= 5
    empty = lost[lost["url"].str.contains("/empty/")]
    assert len(empty)
    assert set(empty["stage"]) <= {"people_count", "pose"}


def test_rows_are_the_one_record(made: Path) -> None:
    rows = pd.read_parquet(made / "shards/00000000.parquet")
    assert set(rows["source"]) == {"laion-human"}
    assert (rows["num_people"] >= 1).all()
    assert rows["clip_score"].notna().all()
    assert rows["phash"].notna().all()
    origin = rows.iloc[0]["origin"]
    assert origin["url"].startswith("http://web.mini.test/")
    assert len(origin["sha256"]) == 64


def test_the_same_again_does_nothing_and_another_threshold_is_another_dataset(made: Path) -> None:
    before = tables(made)
    assert job.run_laion(config(), str(made)).shards_done == 0
    assert tables(made) == before
    with pytest.raises(UserError, match=r"gates\.min_keypoints: 8 -> 9"):
        job.run_laion(config("gates.min_keypoints=9"), str(made))


def test_a_dataset_that_grew_equals_one_made_at_once(made: Path, cluster: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert job.run_laion(config("n=60"), str(out)).exit_code == 0
    assert job.run_laion(config(), str(out)).exit_code == 0
    assert tables(out) == tables(made)


def test_a_retry_asks_only_for_what_may_pass(made: Path, cluster: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert job.run_laion(config("n=50"), str(out)).exit_code == 0
    first = json.loads((out / "raw/0/done/00000000.json").read_text())
    report = job.run_laion(job.config_of(str(out)), str(out), retry=True)
    assert report.exit_code == 0
    again = json.loads((out / "raw/1/done/00000000.json").read_text())
    assert again["counts"]["fetched"] == len(first["short"])
    assert len(ledger(out)) + sum(done.accepted for done in shards.read_markers(Store(str(out)))) == 50


def test_the_dry_run_counts_and_downloads_nothing() -> None:
    found = job.plan_laion(config("filter.where=url like '%people%'"))
    funnel = found["funnel"]
    assert next(iter(funnel)) == "all rows"
    assert list(funnel.values()) == sorted(funnel.values(), reverse=True)
    assert found["candidates"] == N
    assert "people" in job.as_text(found) or str(N) in job.as_text(found)


@pytest.mark.slow
def test_killed_at_any_moment_the_rerun_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipelines", "laion", "--config", "mini", "--n", str(N), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for seconds in (12, 18, 24, 30):
        driver = subprocess.Popen(command, env=environment, start_new_session=True)
        time.sleep(seconds)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    done: Any = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tables(out) == tables(made)
