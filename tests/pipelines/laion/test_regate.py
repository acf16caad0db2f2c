"""`humansd regate` on images from the web: nothing is downloaded, and the rows are those of a fresh job."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipelines import dataset
from pipelines.config import UserError
from pipelines.laion.clean import clean
from pipelines.laion.job import run_laion
from pipelines.laion.regate import MakeRegateWork, Still
from pipelines.regate import as_text, plan_regate, run_regate
from pipelines.status import read_status
from pipelines.takedown import take_down
from pipelines.taken import parse
from tests.pipelines.laion.mini_job import config, ledger, shard_tables, tables

OTHER = ["detector.min_score=0.6", "gates.min_keypoints=12", "gates.duplicate_distance=none"]


@pytest.fixture(scope="module")
def fresh(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same candidates downloaded, detected and judged under the other settings from the start."""
    out = tmp_path_factory.mktemp("fresh") / "out"
    assert run_laion(config(*OTHER), str(out)).exit_code == 0
    return out


def check(source: Path, to: Path, fresh: Path, *overrides: str) -> None:
    """Regate a dataset: the new one equals a fresh one, the old one stays, and doing it again does nothing."""
    before = tables(source)
    plan = plan_regate(str(source), str(to), overrides=[*OTHER, *overrides])
    assert plan.job.identity_hash == json.loads((fresh / "dataset.json").read_text())["identity_hash"]
    assert plan.survey.unsafe == 0
    report = run_regate(plan)
    assert (report.exit_code, report.shards_done) == (0, 2)
    assert report.counts["detected"] == plan.survey.images
    assert shard_tables(to) == shard_tables(fresh)
    assert tables(source) == before
    assert list(dataset.verify(str(to))) == []
    assert read_status(str(to)).complete
    again = run_regate(plan_regate(str(source), str(to), overrides=[*OTHER, *overrides]))
    assert (again.exit_code, again.shards_done) == (0, 0)
    assert run_laion(config(*OTHER), str(to)).shards_done == 0  # nor does the job of these settings do anything
    assert not any((to / "raw").rglob("*.parquet"))  # nothing was downloaded


def test_it_gives_the_rows_of_a_fresh_job_after_a_clean_too(made: Path, fresh: Path, tmp_path: Path) -> None:
    source = shutil.copytree(made, tmp_path / "source")
    clean(str(source))
    assert shard_tables(made) != shard_tables(fresh)
    check(source, tmp_path / "to", fresh)


@pytest.mark.slow
def test_images_that_were_not_kept_come_from_the_downloads(made: Path, fresh: Path, tmp_path: Path) -> None:
    source = shutil.copytree(made, tmp_path / "source")
    shutil.rmtree(source / "done")
    assert run_laion(config("keep_rejected=false"), str(source)).exit_code == 0
    check(source, tmp_path / "to", fresh, "keep_rejected=true")
    clean(str(source))
    plan = plan_regate(str(source), str(tmp_path / "late"), overrides=["gates.min_people=0"])
    assert plan.survey.unsafe > 0
    assert "cannot be judged anew" in as_text(plan.survey)
    assert run_regate(plan).exit_code == 0
    assert (ledger(tmp_path / "late")["reason"] == "no_image").sum() == plan.survey.unsafe


def test_other_gates_need_no_detector_and_takedowns_stay(made: Path, tmp_path: Path) -> None:
    source, to = shutil.copytree(made, tmp_path / "source"), tmp_path / "to"
    gone = pd.read_parquet(made / "shards/00000000.parquet")["key"][0]
    take_down(str(source), parse(keys=[gone]))
    plan = plan_regate(str(source), str(to), overrides=["gates.min_people=2"])
    report = run_regate(plan)
    assert report.exit_code == 0
    assert "detected" not in report.counts
    before, now = ledger(made), ledger(to)
    assert (now["stage"] == "people_count").sum() > (before["stage"] == "people_count").sum()
    assert (now["stage"] == "fetch").sum() == (before["stage"] == "fetch").sum()
    assert f"{plan.survey.stand:,} rejected candidates have no image" in as_text(plan.survey)
    told = now[now["key"] == gone]
    assert [*zip(told["stage"], told["reason"], told["url"], strict=True)] == [("takedown", "removed", None)]


def test_mistakes_say_what_to_do(made: Path, tmp_path: Path) -> None:
    to = str(tmp_path / "to")
    for overrides, message in (
        (["fetch.image_size=32"], "fetch.image_size: 64 -> 32: regate changes detector and gates only"),
        (["score.clip_model=x"], "score.clip_model: mini -> x: regate changes"),
        ([], "nothing to judge anew"),
        (["gates.max_nsfw=none", "detector.name=mini-pos"], "unknown detector"),
    ):
        with pytest.raises(UserError, match=message):
            plan_regate(str(made), to, overrides=overrides)
    source = shutil.copytree(made, tmp_path / "source")
    (source / "done/00000001.json").unlink()
    with pytest.raises(UserError, match=r"1 of 2 shards are there.*humansd laion"):
        plan_regate(str(source), to, overrides=OTHER)
    assert not Path(to).exists()


def test_a_gpu_that_is_not_there_is_said(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    asked = config("gpus_per_worker=1")
    with pytest.raises(UserError, match=r"gpus_per_worker is above 0, but .* NVIDIA driver"):
        MakeRegateWork(str(tmp_path), asked, {}, Still(people=False, usable=False))()
    MakeRegateWork(str(tmp_path), asked, {}, Still(people=True, usable=False))()  # it looks at nothing


def test_a_shard_that_was_closed_too_short_is_not_made_longer(made: Path, tmp_path: Path) -> None:
    out = shutil.copytree(made, tmp_path / "out")
    clean(str(out))
    marker = out / "done/00000001.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "stop": 90}))
    with pytest.raises(UserError, match="shard 1 was made by humansd regate and cannot grow"):
        run_laion(config(), str(out))
