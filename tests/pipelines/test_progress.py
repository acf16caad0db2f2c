"""Accounts and displays: the figures a job tells of itself, and how often."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines import shards
from pipelines.dataset import Standing
from pipelines.job import Runtime
from pipelines.lease import Holder
from pipelines.progress import Account, Display
from pipelines.schedule import Failure
from pipelines.store import Store
from pipelines.work import ShardTask
from pipelines.worker import Made
from tests.pipelines.test_shards import a_result
from tests.pipelines.toy import HASH

HOLDER = Holder("run-1", 0, 10, False, "host", "", 1, "")
RUNTIME = Runtime(workers=2, num_gpus=0.5, price_per_gpu_hour=3.6, budget_gpu_hours=20 / 3600)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def an_account(store: Store, clock: Clock) -> Account:
    tasks = [ShardTask(index, 4 * index, 4 * index + 4, 1) for index in range(2, 10)]
    return Account(store, HOLDER, Standing(tasks, 2, 8, 2, ["old"]), RUNTIME, clock)


def made(store: Store, index: int) -> Made:
    done = shards.commit(store, ShardTask(index, 0, 4, 1), a_result(), HASH, "run-1")
    return Made(done, 2, 1, {"sampled": 3}, {"total": 5.0})


def test_the_figures_follow_from_what_was_made(tmp_path: Path) -> None:
    store, clock = Store(str(tmp_path)), Clock()
    account = an_account(store, clock)
    assert account.snapshot().images_per_second is None
    account.tick(2)
    for index in (2, 3):
        account.made(made(store, index))
    clock.now += 10
    told = account.tick(2)
    assert (told.shards, told.shards_done, told.accepted, told.rejected) == (10, 4, 12, 4)
    assert told.accept_rate == 0.75
    assert told.images_per_second == pytest.approx(0.6)
    assert told.eta_seconds == pytest.approx(6 * 5)
    assert told.gpu_seconds == pytest.approx(10)
    assert told.gpu_seconds_per_1000 == pytest.approx(2500)
    assert told.cost_per_1000 == pytest.approx(2.5)
    assert account.report.short == ["old", *2 * a_result().short]
    assert account.report.counts == {"sampled": 6}
    line = told.line()
    assert "4/10 shards" in line
    assert "12 accepted (75.0%)" in line
    assert "2,500 GPU-s per 1,000 accepted" in line


def test_a_budget_is_spent_by_workers_that_are_up(tmp_path: Path) -> None:
    clock = Clock()
    account = an_account(Store(str(tmp_path)), clock)
    clock.now += 1000
    account.tick(0)
    assert not account.budget_spent
    clock.now += 19
    account.tick(2)
    assert not account.budget_spent
    clock.now += 2
    account.tick(2)
    assert account.budget_spent


def test_failures_are_files_until_the_shard_is_made(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    account = an_account(store, Clock())
    account.failed({3: Failure("ValueError: x", "Traceback", "stderr", "host"), 4: Failure("y")})
    assert (account.report.missing, set(account.report.failed)) == (6, {3, 4})
    told = json.loads(store.read("failed/00000003.json"))
    assert (told["error"], told["traceback"], told["stderr"], told["host"]) == (
        "ValueError: x",
        "Traceback",
        "stderr",
        "host",
    )
    account.failed({4: Failure("y")})
    account.made(made(store, 3))
    assert (account.report.missing, account.report.failed) == (6, {4: "y"})
    assert store.names("failed") == ["00000004.json"]
    again = an_account(store, Clock())
    again.made(made(store, 4))
    assert store.names("failed") == []


def test_one_plain_line_a_minute_and_one_file_in_thirty_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, clock = Store(str(tmp_path)), Clock()
    account, display = an_account(store, clock), Display(store, "run-1", clock)
    written = []
    for _ in range(130):
        display.show(account.tick(1))
        written.append(json.loads(store.read("progress.json"))["gpu_seconds"])
        clock.now += 1
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert len(set(written)) == 5
    display.note("something happened")
    display.show(account.snapshot(), last=True)
    display.close()
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[0] == "something happened"
    assert len(told.err.splitlines()) == 2
