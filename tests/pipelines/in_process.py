"""Jobs without Ray's processes: the real driver, worker and commit, one shard after the other in this process.

For tests of what is in a dataset. That processes change nothing of it is tested once for each source, on Ray.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from pipelines import engine
from pipelines.cluster import session
from pipelines.config import UserError
from pipelines.job import Runtime
from pipelines.work import MakeWork
from pipelines.worker import Made, Refused, ShardWorker


def run(driver: engine._Driver, make_work: MakeWork) -> None:
    """Stands in for `_Driver.run`, whose bookkeeping it uses."""
    slot, schedule, feed = driver._slots[0], driver._schedule, driver._feed
    for other in driver._slots[1:]:
        schedule.retire(other.number)
    worker = ShardWorker(driver._setup)
    started = worker.start(make_work)
    if isinstance(started, Refused):
        assert started.user, started.failure.traceback
        raise UserError(started.failure.error)
    schedule.ready(slot.number)
    while driver._goes_on():
        task = schedule.take(slot.number, feed.ready if feed else None)
        if task is None:
            time.sleep(0.02)
            continue
        outcome = worker.run(task)
        if isinstance(outcome, Made):
            driver._made(slot, outcome)
        else:
            driver._refused(slot, outcome)


@contextlib.contextmanager
def no_session(runtime: Runtime) -> Iterator[None]:
    """Stands in for `ray_session`."""
    yield


def patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that are run from here on stay in this process."""
    monkeypatch.setattr(engine._Driver, "run", run)
    monkeypatch.setattr(engine, "ray_session", no_session)
    monkeypatch.setattr(session, "ray_session", no_session)
    monkeypatch.setattr(engine._Driver, "_kill", lambda driver, slot: driver._schedule.gone(slot.number))
