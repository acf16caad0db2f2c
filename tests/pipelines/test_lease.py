"""Leases: one driver a range, and a dead one never in the way for long."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from pipelines import lease
from pipelines.config import UserError
from pipelines.lease import LEASES, Watch, acquire, live, new_run
from pipelines.store import Store, UnreachableError
from pipelines.work import ShardCancelledError

STALE = 1.2


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}/out")


def on_another_host(store: Store, run: str) -> None:
    """Make a lease look like one of a machine whose processes cannot be seen from here."""
    held = json.loads(store.read(f"{LEASES}/{run}.json"))
    store.write(f"{LEASES}/{run}.json", json.dumps({**held, "machine": "elsewhere"}).encode(), run)


def test_overlapping_ranges_are_refused_and_disjoint_ones_are_not(store: Store) -> None:
    with closing(acquire(store, range(10), new_run(), STALE)):
        with pytest.raises(UserError, match=r"another driver .*process \d+ on .*shards 0:10"):
            acquire(store, range(9, 12), new_run(), STALE)
        with closing(acquire(store, range(10, 12), new_run(), STALE)):
            assert len(live(store)) == 2
    assert live(store) == []
    with closing(acquire(store, range(12), new_run(), STALE)):
        pass
    assert store.names(LEASES) == []


def test_a_folder_takes_drivers_of_one_identity_only(store: Store) -> None:
    with closing(acquire(store, range(10), new_run(), STALE, identity="ab")):
        with pytest.raises(UserError, match=r"dataset of another identity here \(process \d+ on .*another --out"):
            acquire(store, range(10, 12), new_run(), STALE, identity="cd")
        for identity in ("ab", ""):
            with closing(acquire(store, range(10, 12), new_run(), STALE, identity=identity)):
                assert len(live(store)) == 2


def test_a_driver_elsewhere_that_still_beats_is_alive(store: Store) -> None:
    run = new_run()
    with closing(acquire(store, range(3), run, STALE)):
        on_another_host(store, run)
        with pytest.raises(UserError, match="another driver"):
            acquire(store, range(3), new_run(), STALE)


def test_a_driver_elsewhere_that_is_dead_blocks_only_until_it_is_stale(store: Store) -> None:
    run = new_run()
    held = acquire(store, range(3), run, STALE)
    held._stop.set()  # dead: no more heartbeats
    held._thread.join()
    on_another_host(store, run)
    notes: list[str] = []
    began = time.monotonic()
    with closing(acquire(store, range(3), new_run(), STALE, notes.append)):
        assert time.monotonic() - began < 2 * STALE
    assert any("may have died" in note for note in notes)
    assert store.local or any("best effort" in note for note in notes)


def test_a_killed_driver_on_this_machine_does_not_block_at_all(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pipelines.lease import acquire, new_run; from pipelines.store import Store\n"
        "acquire(Store(sys.argv[1]), range(3), new_run()); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    store = Store(str(tmp_path))
    assert len(store.names(LEASES)) == 1
    assert live(store) == []
    began = time.monotonic()
    with closing(acquire(store, range(3), new_run())):
        assert time.monotonic() - began < 5


def test_of_drivers_that_start_together_exactly_one_wins(store: Store) -> None:
    won: list[lease.Lease] = []
    lost: list[UserError] = []
    start = threading.Barrier(6)

    def drive() -> None:
        start.wait()
        try:
            won.append(acquire(store, range(5), new_run(), STALE))
        except UserError as error:
            lost.append(error)

    threads = [threading.Thread(target=drive) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for held in won:
        held.close()
    assert (len(won), len(lost)) == (1, 5)


def test_a_taken_lease_is_noticed_by_driver_and_workers(store: Store) -> None:
    run = new_run()
    with closing(acquire(store, range(3), run, STALE)) as held:
        watch = Watch(store, run, STALE)
        watch.check(now=True)
        store.remove([f"{LEASES}/{run}.json"])
        with pytest.raises(ShardCancelledError, match="gone"):
            watch.check(now=True)
        deadline = time.monotonic() + 10 * STALE
        while held.lost is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert held.lost is not None
    assert store.names(LEASES) == []


def test_a_store_that_is_out_of_reach_for_a_while_does_not_stop_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, run = Store(str(tmp_path)), new_run()

    def away(name: str) -> None:
        raise UnreachableError("no route to host")

    with closing(acquire(store, range(3), run, STALE)):
        watch = Watch(store, run, STALE)
        watch.check(now=True)
        with monkeypatch.context() as patch:
            patch.setattr(store, "modified", away)
            watch.check(now=True)
        watch.check(now=True)
        monkeypatch.setattr(store, "modified", away)
        time.sleep(1.1 * STALE)
        with pytest.raises(ShardCancelledError, match="stale"):
            watch.check(now=True)


def test_a_worker_stops_when_its_driver_beats_no_more(store: Store) -> None:
    run = new_run()
    held = acquire(store, range(3), run, STALE)
    watch = Watch(store, run, STALE)
    for _ in range(5):
        watch.check(now=True)
        time.sleep(STALE / 4)
    held._stop.set()
    held._thread.join()
    watch.check(now=True)
    time.sleep(1.1 * STALE)
    with pytest.raises(ShardCancelledError, match="stale"):
        watch.check(now=True)
