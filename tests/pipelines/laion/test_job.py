"""The whole LAION-Human job on the small web: real img2dataset, Ray, mini-CLIP, mini-pose."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pandas as pd
import pytest

from pipelines import dataset, shards
from pipelines.config import UserError
from pipelines.laion import job
from pipelines.laion.clean import clean
from pipelines.laion.gates import GATES
from pipelines.laion.plan import read_candidates, read_plan
from pipelines.laion.web import is_transient
from pipelines.mini.hostile import ANSWERS, malformed
from pipelines.regate import plan_regate, run_regate
from pipelines.status import read_status
from pipelines.store import Store
from pipelines.takedown import take_down
from pipelines.taken import parse
from tests.pipelines.jobs import ROOT, wait_for
from tests.pipelines.laion.mini_job import SIZE, N, config, ledger, shard_tables, tables


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
    card = (made / "README.md").read_text()
    assert f"\n{len(accepted)} rows in " in card
    assert f"| candidates | {N} |" in card
    assert (made / "croissant.json").exists()


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


def test_the_dry_run_counts_and_downloads_nothing() -> None:
    found = job.plan_laion(config("filter.where=url like '%people%'"))
    funnel = found["funnel"]
    assert next(iter(funnel)) == "all rows"
    assert list(funnel.values()) == sorted(funnel.values(), reverse=True)
    assert found["candidates"] == N
    assert "people" in job.as_text(found) or str(N) in job.as_text(found)


def test_the_funnel_adds_up_at_every_stage(made: Path) -> None:
    store = Store(str(made))
    plan = read_plan(store)
    assert plan is not None
    assert [rows for _, rows in plan.funnel] == sorted((rows for _, rows in plan.funnel), reverse=True)
    assert plan.funnel[-1][1] == plan.candidates >= N
    left = N
    lost = ledger(made)
    for folder in ("raw/0", "annotated"):
        stage = list(shards.read_markers(store.below(folder)))
        ended = sum(done.rejected for done in stage)
        names = {"fetch"} if folder == "raw/0" else {"decode", "clip", "detect", "safety_score", "worker"}
        assert ended == lost["stage"].isin(names).sum()
        assert sum(done.accepted for done in stage) == left - ended
        left -= ended
    final = list(shards.read_markers(store))
    judged = sum(lost["stage"].isin([*GATES, "duplicates"]))
    assert sum(done.accepted for done in final) == left - judged
    told = job.funnel(store)
    assert sum(rows for _, rows in told) + sum(done.accepted for done in final) == N
    status = read_status(str(made))
    assert (status.accepted + status.rejected, sum(status.reasons.values())) == (N, status.rejected)
    assert dict(told) == status.reasons


def test_a_retry_asks_for_what_may_pass_but_was_not_taken_down(made: Path, tmp_path: Path) -> None:
    out = shutil.copytree(made, tmp_path / "out")
    lost = {row["key"]: row for row in ledger(out).to_dict("records")}
    copy = next(row for row in lost.values() if row["reason"] == "near_duplicate" and "/copies/" in row["url"])
    number = copy["url"].rpartition("/")[2].partition(".")[0]
    rows = pd.concat(pd.read_parquet(path) for path in sorted((out / "shards").glob("*.parquet")))
    original = next(key for key, origin in zip(rows["key"], rows["origin"], strict=True)
                    if origin["url"].endswith(f"/people/{number}.jpg"))  # fmt: skip
    short = [key for i in range(2) for key in json.loads((out / f"raw/0/done/0000000{i}.json").read_text())["short"]]
    assert len(short) >= 2
    assert all(is_transient(lost[key]["reason"]) for key in short)
    take_down(str(out), parse(keys=[original, short[0]]))
    assert job.run_laion(job.config_of(str(out)), str(out), retry=True).exit_code == 0
    asked = [json.loads((out / f"raw/1/done/0000000{i}.json").read_text())["counts"]["fetched"] for i in range(2)]
    assert sum(asked) == len(short) - 1
    now = {row["key"]: (row["stage"], row["reason"]) for row in ledger(out).to_dict("records")}
    assert now[copy["key"]] == ("duplicates", "near_duplicate")  # no copy takes the place of what was taken down
    assert [now[key] for key in (original, short[0])] == [("takedown", "removed")] * 2
    kept = [path for folder in ("raw/0", "raw/1", "annotated", ".") for path in (out / folder / "shards").glob("*")]
    assert original not in {key for path in kept for key in pd.read_parquet(path, columns=["key"])["key"]}
    assert len(now) + sum(done.accepted for done in shards.read_markers(Store(str(out)))) == N


@pytest.mark.slow
def test_an_object_store_holds_the_same_dataset(made: Path, cluster: str, s3: str, tmp_path: Path) -> None:
    out = f"{s3}/laion/out"
    assert job.run_laion(config(), out).exit_code == 0
    store = Store(out)
    assert {name: store.read(name) for name in tables(made)} == tables(made)
    assert list(dataset.verify(out)) == []
    plan = plan_regate(out, f"{s3}/laion/other", overrides=["gates.min_keypoints=12"])
    assert run_regate(plan).exit_code == 0
    assert clean(out).bytes > 0
    assert store.names_below("raw/0/shards") == []
    assert {name: store.read(name) for name in shard_tables(made)} == shard_tables(made)
    assert read_status(out).complete
    assert job.run_laion(config(), out).shards_done == 0


def kill(out: Path, cluster: str, sign: Path, seconds: float = 0.0) -> None:
    """Start the job in a process of its own and kill it that long after a file has appeared."""
    command = [sys.executable, "-m", "pipelines", "laion", "--config", "mini", "--n", str(N), "--out", str(out)]
    driver = subprocess.Popen([*command, "--address", cluster], cwd=ROOT, start_new_session=True, text=True)
    assert wait_for(sign.exists, driver), f"it ended without {sign}"
    time.sleep(seconds)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()


def test_killed_between_its_stages_the_rerun_gives_the_same_bytes(made: Path, cluster: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kill(out, cluster, out / "raw/0/done/00000000.json")
    assert not (out / "done").exists()
    assert job.run_laion(config(), str(out)).exit_code == 0
    assert tables(out) == tables(made)
    assert list(dataset.verify(str(out))) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_the_rerun_gives_the_same_bytes(
    made: Path, cluster: str, tmp_path: Path, seed: int
) -> None:
    out = tmp_path / "out"
    random = Random(seed)
    signs = ("plan/plan.json", "raw/0/dataset.json", "raw/0/done/00000001.json", "annotated/done/00000000.json",
             "annotated/done/00000001.json", "verdicts/00000000.parquet")  # fmt: skip
    for sign in sorted(random.sample(signs, 3), key=signs.index):
        kill(out, cluster, out / sign, random.uniform(0, 1))
    assert job.run_laion(config(), str(out)).exit_code == 0
    assert tables(out) == tables(made)
    assert list(dataset.verify(str(out))) == []
