"""A worker without Ray: what it writes, what it notes while it works, and what it makes of trouble."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipelines import shards, worker
from pipelines.lease import LEASES, acquire, new_run
from pipelines.schedule import Death
from pipelines.store import Store
from pipelines.work import ShardContext, ShardResult, ShardTask, Work
from pipelines.worker import Made, Refused, Setup, ShardWorker, Started, breadcrumb_name, read_breadcrumb
from tests.pipelines.disks import small_disk
from tests.pipelines.toy import HASH, Toy, fill_slots

RUN = "20260101T000000-abcdef01"
TASK = ShardTask(0, 0, 8, 8)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = Store(str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}/out")
    with closing(acquire(store, range(1), RUN)):
        yield store


def start(store: Store, work: Work) -> ShardWorker:
    made = ShardWorker(Setup(store.root, RUN, HASH, 1, 30.0))
    assert isinstance(made.start(lambda: work), Started)
    return made


def test_a_shard_is_made_committed_and_told_in_small(store: Store) -> None:
    outcome = start(store, Toy()()).run(TASK)
    assert isinstance(outcome, Made)
    assert (outcome.accepted, outcome.done.accepted, set(outcome.seconds)) == (8, 8, {"toy", "total"})
    assert list(shards.read_markers(store)) == [outcome.done]
    assert store.names(shards.INFLIGHT) == []


def test_a_grown_shard_counts_only_what_is_new(store: Store) -> None:
    first = start(store, Toy()()).run(ShardTask(0, 0, 3, 8))
    grown = start(store, Toy()()).run(ShardTask(0, 0, 8, 8, extend=True))
    assert isinstance(first, Made)
    assert isinstance(grown, Made)
    assert (first.accepted, grown.accepted, grown.done.accepted) == (3, 5, 8)
    assert grown.done.counts["sampled"] == first.counts["sampled"] + grown.counts["sampled"]
    assert grown.done.seconds["total"] == pytest.approx(first.seconds["total"] + grown.seconds["total"])


def test_breadcrumbs_name_the_rows_that_run(store: Store) -> None:
    seen: list[tuple[Death, int | None]] = []

    def look(name: str) -> None:
        seen.append(read_breadcrumb(store, 0, RUN))

    start(store, lambda context: fill_slots(context, look)).run(TASK)
    assert seen[0][0] == Death(("0#1", "1#1", "2#1", "3#1"), 0)
    assert seen[4][0].rounds == 1
    assert isinstance(seen[0][1], int)
    assert read_breadcrumb(store, 0, RUN) == (Death(), None)
    store.write(breadcrumb_name(0), json.dumps({"run": "other", "keys": ["x"]}).encode(), RUN)
    assert read_breadcrumb(store, 0, RUN) == (Death(), None)


def test_what_the_work_raises_is_told_with_all_that_helps(store: Store) -> None:
    outcome = start(store, Toy(fail=("3#1",))()).run(TASK)
    assert isinstance(outcome, Refused)
    assert outcome.failure.error == "ValueError: cannot make 3#1"
    assert "in _run" in outcome.failure.traceback
    assert (outcome.storage, outcome.cancelled, outcome.user) == (False, False, False)
    assert shards.done_indices(store) == []


def test_nothing_is_committed_after_the_lease_is_lost(store: Store) -> None:
    def work(context: ShardContext) -> ShardResult:
        result = fill_slots(context, lambda name: None)
        store.remove([f"{LEASES}/{RUN}.json"])
        return result

    outcome = start(store, work).run(TASK)
    assert isinstance(outcome, Refused)
    assert outcome.cancelled
    assert store.names("shards") == []


def test_a_full_disk_is_told_apart_from_a_failing_shard(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "64k") as folder:
        store = Store(str(folder / "out"))
        with closing(acquire(store, range(1), RUN)):
            outcome = start(store, Toy(image_bytes=30_000)()).run(TASK)
    assert isinstance(outcome, Refused)
    assert outcome.storage
    assert "No space left on device" in outcome.failure.error


def test_a_start_that_fails_says_whose_fault_it_is(store: Store) -> None:
    made = ShardWorker(Setup(store.root, new_run(), HASH, 1, 30.0))
    mistake, crash = made.start(Toy(no_start="user")), made.start(Toy(no_start="crash"))
    assert isinstance(mistake, Refused)
    assert isinstance(crash, Refused)
    assert (mistake.user, mistake.failure.error) == (True, "no such model: toy")
    assert (crash.user, crash.failure.error) == (False, "RuntimeError: cannot load the model")


def test_threads_are_set_before_and_after_the_work_is_built(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pipelines.worker import *\n"
        "def make():\n"
        "    assert os.environ['OMP_NUM_THREADS'] == '1'\n"
        "    import torch; torch.set_num_threads(2); return lambda context: None\n"
        "ShardWorker(Setup(sys.argv[1], 'run', 'h', 1, 30.0)).start(make)\n"
        "import torch; print(torch.get_num_threads())\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout == "1\n"
    assert set(worker.thread_variables(3).values()) == {"3"}


def test_the_stderr_of_a_process_can_be_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "worker.err"
    path.write_text("x" * 10_000 + "last words")
    assert worker.stderr_tail(str(path)).endswith("last words")
    assert len(worker.stderr_tail(str(path))) == 4000
    assert worker.stderr_tail("pipe:[123]") == ""
