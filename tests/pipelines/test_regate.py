"""`humansd regate` on the engine: what it checks first, what it says, resume, and topping up by `humansd ghi`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from pipelines import dataset, reading, shards
from pipelines.checkpoint import ModelConfig, SamplerConfig
from pipelines.cli import main
from pipelines.config import UserError
from pipelines.detector import DetectorConfig
from pipelines.gates import GatesConfig
from pipelines.ghi.config import GhiConfig, ScoreConfig
from pipelines.ghi.job import run_ghi
from pipelines.regate import as_text, plan_regate, run_regate
from pipelines.store import Store
from pipelines.takedown import take_down
from pipelines.taken import parse
from tests.pipelines.jobs import kill_midway, tables
from tests.pipelines.small_dataset import write_dataset
from tests.pipelines.tiny_models import build_tiny

N, SHARD = 8, 3
OTHER = "gates.constant=43.8"
"""Turns down about half of the images, whose values deviate by 39 to 45."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> GhiConfig:
    """Random images in which mini-pose finds whom it likes."""
    model = build_tiny(tmp_path_factory.mktemp("models") / "tiny", "sd1")
    return GhiConfig(
        n=N,
        shard_size=SHARD,
        max_attempts=3,
        model=ModelConfig(id=str(model)),
        sampler=SamplerConfig(steps=1, guidance=1.0, batch_size=2),
        detector=DetectorConfig(batch_size=2),
        score=ScoreConfig("mini"),
        gates=GatesConfig(people_count=False, min_usable_keypoints=None, max_nsfw=None),
    )


@pytest.fixture(scope="module")
def source(config: GhiConfig, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("source") / "out"
    assert run_ghi(config, str(out)).exit_code == 0
    return out


@pytest.fixture(scope="module")
def fresh(config: GhiConfig, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same slots sampled under the other gates from the start."""
    out = tmp_path_factory.mktemp("fresh") / "out"
    run_ghi(other(config), str(out))
    return out


def other(config: GhiConfig) -> GhiConfig:
    return dataclasses.replace(config, gates=dataclasses.replace(config.gates, constant=43.8))


def accepted(out: Path) -> dict[str, int]:
    found = {}
    for row in reading.open_dataset(str(out)).table(["key", "generation"]).to_pylist():
        found[row["key"]] = row["generation"]["attempt"]
    return found


def test_regate_then_top_up_gives_the_bytes_of_a_fresh_job(
    source: Path, fresh: Path, config: GhiConfig, tmp_path: Path
) -> None:
    before = tables(source)
    to = tmp_path / "to"
    plan = plan_regate(str(source), str(to), overrides=[OTHER])
    assert plan.job.identity_hash == dataset.read_manifest(Store(str(fresh))).identity_hash
    report = run_regate(plan)
    assert report.shards_done == 3
    assert report.counts["detected"] == plan.survey.images == len(accepted(source)) + len(list_rejected(source))
    assert report.short
    assert report.exit_code == 1
    assert accepted(to).items() < accepted(fresh).items()
    assert list(dataset.verify(str(to))) == []
    assert f"\n{len(accepted(to))} rows in " in (to / "README.md").read_text()
    assert (to / "grammar" / "actions.tsv").read_bytes() == (source / "grammar" / "actions.tsv").read_bytes()
    again = run_regate(plan_regate(str(source), str(to), overrides=[OTHER]))
    assert (again.shards_done, again.short) == (0, report.short)
    topped_up = run_ghi(dataclasses.replace(other(config), workers=2), str(to))
    assert topped_up.counts["reused"] > 0
    assert accepted(to) == accepted(fresh)
    grown = [done.shard for done in shards.read_markers(Store(str(to))) if done.counts.get("sampled")]
    mine, theirs = tables(to), tables(fresh)
    assert {f"{folder}/{index:08d}.parquet" for folder in shards.FOLDERS for index in grown} <= {
        name for name in mine if mine[name] == theirs[name]
    }
    shards_of = {name for name in mine if name.startswith("shards/")}
    assert all(mine[name] == theirs[name] for name in shards_of)
    assert run_regate(plan_regate(str(source), str(to), overrides=[OTHER])).shards_done == 0  # leaves it alone
    assert tables(to) == mine
    assert tables(source) == before


def test_what_was_taken_down_stays_so_under_its_new_key(source: Path, config: GhiConfig, tmp_path: Path) -> None:
    taken, to = tmp_path / "taken", tmp_path / "to"
    shutil.copytree(source, taken)
    gone = min(accepted(source))
    take_down(str(taken), parse(keys=[gone]))
    plan = plan_regate(str(taken), str(to), overrides=[OTHER])
    assert plan.survey.unknown == 0
    run_regate(plan)
    run_ghi(other(config), str(to))
    new = f"ghi-{plan.job.identity_hash[:8]}-{gone.rpartition('-')[2]}"
    assert new not in accepted(to)
    ledger = [row for index in range(3) for row in shards.read_table(Store(str(to)), "ledger", index).to_pylist()]
    assert [(row["stage"], row["reason"]) for row in ledger if row["key"] == new] == [("takedown", "removed")]


def list_rejected(out: Path) -> list[str]:
    store = Store(str(out))
    return [
        key
        for index in shards.done_indices(store)
        for key in shards.read_table(store, "rejected", index, ["key"])["key"].to_pylist()
    ]


def test_the_diffusion_model_is_not_needed(
    source: Path, config: GhiConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = Path(config.model.id).rename(tmp_path / "hidden")
    try:
        plan = plan_regate(str(source), str(tmp_path / "to"), overrides=[OTHER], shards=range(1))
        monkeypatch.setattr("pipelines.sampling.Sampler.__init__", lambda *_: pytest.fail("a sampler was loaded"))
        assert run_regate(plan).shards_done == 1
    finally:
        hidden.rename(config.model.id)


def test_it_resumes_and_follows_a_source_that_grows(source: Path, config: GhiConfig, tmp_path: Path) -> None:
    growing, to = shutil.copytree(source, tmp_path / "growing"), tmp_path / "to"
    for name in ("done", "shards", "rejected", "ledger"):
        for file in (growing / name).glob("00000001.*"):
            file.unlink()
    assert run_regate(plan_regate(str(growing), str(to), overrides=[OTHER])).shards_done == 2
    run_ghi(dataclasses.replace(config, n=N + 1), str(growing))  # the missing shard, and a longer last one
    plan = plan_regate(str(growing), str(to), overrides=[OTHER])
    assert run_regate(plan).shards_done == 2
    assert dataset.read_manifest(Store(str(to))).n == N + 1
    whole = tmp_path / "whole"
    run_regate(plan_regate(str(growing), str(whole), overrides=[OTHER]))
    assert accepted(to) == accepted(whole)


def test_killed_and_run_again_it_is_the_same(source: Path, cluster: str, tmp_path: Path) -> None:
    killed, sound = tmp_path / "killed", tmp_path / "sound"
    kill_midway(["regate", str(source), "--set", OTHER, "--out", str(killed), "--address", cluster], killed)
    assert run_regate(plan_regate(str(source), str(killed), overrides=[OTHER])).shards_complete == 3
    run_regate(plan_regate(str(source), str(sound), overrides=[OTHER, "workers=2"]))
    assert tables(killed) == tables(sound)
    assert list(dataset.verify(str(killed))) == []


def test_what_is_not_there_or_not_asked_for_right_is_said_first(source: Path, tmp_path: Path) -> None:
    to = str(tmp_path / "to")
    for arguments, message in (
        ({"overrides": ["seed=5"]}, "seed: 0 -> 5: regate changes detector and gates only"),
        ({"overrides": ["max_attempts=5"]}, "max_attempts: 3 -> 5"),
        ({"overrides": ["score.clip_model=none"]}, "score.clip_model: mini -> null: regate changes"),
        ({"overrides": ["gates.min_score=1"]}, "unknown key 'gates.min_score'; did you mean 'detector.min_score'"),
        ({"overrides": []}, "nothing to judge anew"),
        ({"overrides": ["workers=3"]}, "nothing to judge anew"),
        ({"detector": "mini-pos"}, "unknown detector 'mini-pos'; known: mini-pose"),
    ):
        with pytest.raises(UserError, match=message):
            plan_regate(str(source), to, **arguments)
    with pytest.raises(UserError, match="is the dataset itself"):
        plan_regate(str(source), f"{source}/", overrides=[OTHER])
    with pytest.raises(UserError, match="holds no dataset"):
        plan_regate(to, str(source), overrides=[OTHER])
    assert not Path(to).exists()


def test_another_identity_in_out_is_refused(source: Path, fresh: Path) -> None:
    with pytest.raises(UserError, match=r"gates\.constant: 43\.8 -> 40\.0"):
        run_regate(plan_regate(str(source), str(fresh), overrides=["gates.constant=40.0"]))


def test_what_cannot_be_judged_anew_is_counted_before_it_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    write_dataset(out, 3)  # its ledger has one row without image: a slot of shard 1 that was lost
    manifest = json.loads((out / "dataset.json").read_text())
    manifest["identity"] |= {"grammar.digest": "0", "model.name": "mini", "model.revision": "sha256:0"}
    (out / "dataset.json").write_text(json.dumps(manifest))
    plan = plan_regate(str(out), str(tmp_path / "to"), overrides=["gates.people_count=false"])
    assert (plan.survey.images, plan.survey.shards, plan.survey.unknown) == (11 + 6, 3, 1)
    assert "1 rejected candidates cannot be judged anew" in as_text(plan.survey)
    line = [
        "regate",
        str(out),
        "--set",
        "gates.people_count=false",
        "--out",
        str(tmp_path / "to"),
        "--dry-run",
        "--json",
    ]
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out)["unknown"] == 1
    assert not (tmp_path / "to").exists()
