from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest

from pipelines.config import UserError
from pipelines.ghi import outcomes
from pipelines.ghi.config import GhiConfig
from pipelines.measured import SURPLUS, Cell, Measured, from_dataset, from_file
from pipelines.plan import (
    Plan,
    accept_rates,
    as_json,
    as_text,
    make_plan,
    predict,
    shard_size,
    side_by_side,
)
from prompts.grammar import load_grammar
from prompts.sampling import prompt_at
from tests.pipelines.small_dataset import SHARD, WORKER_SECONDS, write_dataset


def measured(rates: dict[Cell, float], judged: int, seconds: float = 2.0) -> Measured:
    return Measured(
        cells={cell: (round(rate * judged), judged) for cell, rate in rates.items()},
        seconds=(seconds,) * 10,
        images=(10,) * 10,
        bytes_accepted=1000,
        bytes_rejected=500,
        memory={8: 10**9},
        load_seconds=0.0,
        device="a machine",
    )


def test_much_evidence_gives_the_exact_answer() -> None:
    known = measured({("mural", 1): 0.5, ("mural", 2): 0.25, ("mural", 3): 0.1}, judged=10_000_000)
    made = predict(known, n=1000, max_attempts=2, workers=4, keep_rejected=True, price=3.0)
    attempts = 0.7 * (1 + 0.5) + 0.2 * (1 + 0.75) + 0.1 * (1 + 0.9)
    short = 0.7 * 0.25 + 0.2 * 0.5625 + 0.1 * 0.81
    assert made.images.median == pytest.approx(1000 * attempts, rel=1e-3)
    assert made.short.median == pytest.approx(1000 * short, rel=1e-3)
    assert made.accept_rate.median == pytest.approx((1 - short) / attempts, rel=1e-3)
    hours = 1000 * attempts * 0.2 / 4 / 3600
    assert made.hours.median == pytest.approx(hours, rel=1e-3)
    assert made.cost is not None
    assert made.cost.median == pytest.approx(hours * 4 * 3.0, rel=1e-3)
    assert made.seconds_per_1000.median == pytest.approx(3600 * hours * 4 / (1 - short), rel=1e-3)
    assert made.cost_per_1000 is not None
    assert made.cost_per_1000.median == pytest.approx(hours * 4 * 3.0 / (1 - short), rel=1e-3)
    assert made.bytes.median == pytest.approx(1000 * (1000 * (1 - short) + 500 * (attempts - 1 + short)), rel=1e-3)


def test_little_evidence_gives_wide_intervals() -> None:
    rates = {(scene, people): 0.5 for scene in ("mural", "sketch") for people in (1, 2, 3)}
    few = predict(measured(rates, 4), 1000, 10, 1, True, None)
    many = predict(measured(rates, 4000), 1000, 10, 1, True, None)
    for interval in (few.images, many.images):
        assert interval.low < interval.median < interval.high
    assert few.images.high - few.images.low > 5 * (many.images.high - many.images.low)
    assert few.images.low < many.images.median < few.images.high
    assert few.cost is None


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_all_or_nothing_is_finite(rate: float) -> None:
    made = predict(measured({("mural", 1): rate, ("mural", 2): rate, ("mural", 3): rate}, 5), 1000, 10, 1, True, None)
    assert 1000 <= made.images.low <= made.images.high <= 10_000
    assert 0 <= made.accept_rate.low <= made.accept_rate.high <= 1
    assert 0 <= made.short.low <= made.short.high <= 1000


def test_uneven_seconds_widen_the_hours() -> None:
    even = measured({("mural", people): 1.0 for people in (1, 2, 3)}, 10_000)
    uneven = dataclasses.replace(even, seconds=(1.0, 3.0) * 5)
    steady, shaky = (predict(one, 1000, 1, 1, True, None).hours for one in (even, uneven))
    assert shaky.high - shaky.low > 10 * (steady.high - steady.low)


def test_a_dataset_tells_what_it_took(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    write_dataset(Path(out), 3)
    found = from_dataset(out)
    grammar = load_grammar()
    asked = Counter((p.scene, p.num_people) for p in (prompt_at(grammar, 0, slot) for slot in range(3 * SHARD)))
    assert found.cells.keys() == asked.keys()
    assert sum(accepted for accepted, _ in found.cells.values()) == 11
    assert sum(judged for _, judged in found.cells.values()) == 18
    assert found.images_per_second == pytest.approx(18 / (3 * WORKER_SECONDS))
    shards = list(Path(out, "shards").iterdir())
    assert found.stages == {"sample": pytest.approx(1.5 * 3 / 18)}
    assert found.bytes_accepted == pytest.approx(sum(path.stat().st_size for path in shards) / 11)


def test_surplus_passed_its_gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcomes.SURPLUS.reason == SURPLUS
    out = str(tmp_path / "out")
    write_dataset(Path(out), 1)
    monkeypatch.setattr("pipelines.measured.SURPLUS", "too_few")
    assert sum(accepted for accepted, _ in from_dataset(out).cells.values()) == SHARD + 2


def test_a_dataset_without_shards_tells_nothing(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", 0, n=8)
    with pytest.raises(UserError, match="no finished shard"):
        from_dataset(str(tmp_path / "out"))


def test_without_measurements_only_what_follows_is_said() -> None:
    plan = make_plan("mini", GhiConfig(n=250), probe=False, out=None)
    assert "250 in 3 shards" in as_text(plan)
    assert "--probe" in as_text(plan)
    assert "predicted" not in as_json(plan)


def test_gpus_set_the_workers(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", 2)
    config = GhiConfig(n=1000, gpus_per_worker=0.5, price_per_gpu_hour=2.0)
    plan = make_plan("mine", config, [4], probe=False, out=str(tmp_path / "out"))
    assert plan.workers == 8
    assert plan.predicted is not None
    assert plan.predicted.cost is not None
    assert plan.predicted.cost.median == pytest.approx(plan.predicted.hours.median * 4 * 2.0)
    assert "at your price" in as_text(plan)
    assert json.loads(json.dumps(as_json(plan)))["predicted"]["hours"]["median"] > 0
    with pytest.raises(UserError, match="give one of them"):
        make_plan("mine", config, [4], probe=True, out="x")


def test_plans_stand_side_by_side() -> None:
    known = measured({("mural", people): 0.5 for people in (1, 2, 3)}, 10_000)
    config = GhiConfig(n=1000)
    one = Plan("fast", config, 2, known, predict(known, 1000, 10, 2, True, 3.0))
    other = Plan("unknown", config, 2, None, None)
    lines = side_by_side([one, other]).splitlines()
    assert lines[0].split() == ["fast", "unknown"]
    assert {tuple(line.split()[-3:]) for line in lines} >= {("accepted", "50%", "-"), ("workers", "2", "-")}
    assert len({len(line) for line in lines}) == 1


def test_rates_by_scene_and_people() -> None:
    rates = accept_rates({("mural", 1): (1, 2), ("sketch", 3): (0, 0)})
    assert rates == {"mural": {"1": 0.5, "3": None}, "sketch": {"1": None, "3": None}}


def test_a_shard_of_five_minutes() -> None:
    known = dataclasses.replace(
        measured({("mural", people): 0.5 for people in (1, 2, 3)}, 10_000_000), seconds=(1.0,) * 10
    )
    config = GhiConfig(n=10_000)
    assert shard_size(config, known, predict(known, 10_000, 20, 1, True, None)) == 1500
    slow = dataclasses.replace(known, seconds=(1000.0,) * 10)
    assert shard_size(config, slow, predict(slow, 10_000, 20, 1, True, None)) == 10 * config.sampler.batch_size


def test_what_was_measured_here_can_be_planned_with_elsewhere(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", 3)
    config = GhiConfig(n=1000, price_per_gpu_hour=1.0)
    here = make_plan("mini", config, probe=False, out=str(tmp_path / "out"))
    file = tmp_path / "measured.json"
    file.write_text(json.dumps(as_json(here)) + "\n", encoding="utf-8")
    there = make_plan("mini", config, [1, 3, 512], probe=False, out=str(file))
    assert there.predicted == here.predicted
    assert [one.workers for one in there.scales] == [1, 3, 512]
    assert "512" in as_text(there).splitlines()[-1]
    assert len(json.loads(json.dumps(as_json(there)))["scales"]) == 3
    assert from_file(str(file)).stages == from_dataset(str(tmp_path / "out")).stages


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"measured": {"cells": [["mural", 1, 2, 3]], "memory": {}}}'])
def test_a_file_that_measured_nothing_is_said(text: str, tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="is not what humansd plan --probe --json"):
        from_file(str(file))
    with pytest.raises(UserError, match="No such file"):
        from_file(str(tmp_path / "absent.json"))
