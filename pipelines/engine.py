"""Shards over Ray actors.

The driver hands one shard at a time to each idle actor; the actor makes its rows (`pipelines.work`), writes and
commits the shard itself (`pipelines.worker`), and returns a small summary. Image bytes never cross Ray's object store.
What a failure means is decided in `pipelines.schedule`.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from dataclasses import replace
from typing import Any, Final

from pipelines import dataset, lease, shards
from pipelines.cluster.actors import Actor, gauges, inquest, is_node_death
from pipelines.cluster.nodes import Nodes
from pipelines.cluster.session import ray_session, reason
from pipelines.config import UserError
from pipelines.interrupt import stopped_by_signals
from pipelines.job import Feed, Job, JobReport, Runtime
from pipelines.progress import Account, Display
from pipelines.schedule import FAILURES_OF_A_WORKER, Failure, Schedule
from pipelines.store import StorageError, Store
from pipelines.work import MakeWork, ShardContext, ShardResult, ShardTask, Work
from pipelines.worker import (
    Made,
    Refused,
    Setup,
    Started,
    read_breadcrumb,
    thread_variables,
)

__all__ = ["Job", "JobReport", "MakeWork", "Runtime", "ShardContext", "ShardResult", "ShardTask", "Work", "run_job"]

import ray
from ray.exceptions import (
    OutOfMemoryError,
    RayError,
    RayTaskError,
)
from ray.util.metrics import Gauge
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

INTERRUPTED: Final = 130
"""Exit code after SIGINT or SIGTERM."""

POLL_SECONDS: Final = 1.0
INQUEST_SECONDS: Final = 60.0
WAITING_SECONDS: Final = 20.0
HANG_FACTOR: Final = 5.0


def run_job(
    job: Job,
    make_work: MakeWork,
    runtime: Runtime,
    feed: Feed | None = None,
    stop: threading.Event | None = None,
) -> JobReport:
    """Make the missing shards of a job; running the same job again resumes it.

    feed: what the shards are made from, where that is still being made; stop: ends the job when it is set (as SIGINT
    does, which sets it), so that jobs in several threads end together.
    Raises UserError where the user must act first: OUT holds another identity, n shrank, the folder cannot be written,
    another driver works on an overlapping range, the models cannot be loaded.
    """
    store = Store(job.out)
    manifest = dataset.manifest_of(job)
    asked, last = manifest.shards if job.shards is None else job.shards, manifest.shards.stop
    wanted = range(asked.start, min(asked.stop, last))
    if wanted.start < 0 or not wanted:
        raise UserError(f"--shards {asked.start}:{asked.stop}: the dataset has the shards 0:{last}")
    run = lease.new_run()
    with contextlib.closing(Display(store, run, label=job.label)) as display, contextlib.ExitStack() as stack:
        try:
            dataset.check_manifest(store, manifest)
            held = lease.acquire(store, wanted, run, runtime.stale_seconds, display.note, job.identity_hash)
            stack.enter_context(contextlib.closing(held))
            if dataset.check_manifest(store, manifest):
                dataset.write_manifest(store, manifest, job.files, run)
                dataset.check_manifest(store, manifest)  # a driver that started together with this one may have won
            dataset.clean(store, wanted)
            find = job.standing or dataset.standing
            standing = find(manifest, wanted, shards.read_markers(store, wanted))
        except StorageError as error:
            raise UserError(f"cannot write to {error}") from None
        except (NotADirectoryError, FileExistsError, FileNotFoundError) as error:  # a parent folder that is none
            raise UserError(f"cannot write to {job.out}: {error.strerror or error}") from None
        driver = _Driver(
            job,
            runtime,
            Store(job.out, runtime.stale_seconds),
            held,
            display,
            standing,
            feed,
            stop or threading.Event(),
        )
        if standing.tasks:
            # stdout is for data, and Ray prints what raylets complain of there.
            with contextlib.redirect_stdout(sys.stderr), ray_session(runtime), stopped_by_signals(driver.stop):
                driver.run(make_work)
            with contextlib.suppress(StorageError):
                dataset.clean(store, wanted)
        account = driver.account
        account.report.exit_code = driver.exit_code
        display.show(account.snapshot(), last=True)
        return account.report


class _Slot:
    """A place for a worker: its process may die and be replaced; `Schedule` keeps the slot's standing."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.actor: Any = None
        self.call: Any = None  # the ObjectRef of what its worker is doing: starting, or making a shard
        self.inquest: Any = None  # the ObjectRef of the inquest on its dead worker; there is no other call then
        self.since = 0.0  # when that was begun
        self.started: Started | None = None
        self.node = ""
        self.host = ""
        self.failed_starts = 0


class _Driver:
    """The loop that keeps each worker busy with one shard at a time."""

    def __init__(
        self,
        job: Job,
        runtime: Runtime,
        store: Store,
        held: lease.Lease,
        display: Display,
        standing: dataset.Standing,
        feed: Feed | None,
        stop: threading.Event,
    ) -> None:
        self._feed = feed
        self.stop = stop
        self._runtime = runtime
        self._store = store
        self._lease = held
        self._display = display
        self._run = held.holder.run
        self._setup = Setup(store.url, self._run, job.identity_hash, runtime.threads, runtime.stale_seconds)
        self._schedule = Schedule(standing.tasks)
        self._slots = [_Slot(number) for number in range(min(runtime.workers, len(standing.tasks)))]
        self._gauges: dict[str, Gauge] = {}
        self._nodes = Nodes(runtime)
        self._last_error = ""
        self._looked = 0.0
        self._quiet_until = time.monotonic() + WAITING_SECONDS
        self.account = Account(store, held.holder, standing, runtime)

    @property
    def exit_code(self) -> int:
        """0 all there; 1 some shards are short, failed or missing; 130 interrupted."""
        report = self.account.report
        if self.stop.is_set():
            return INTERRUPTED
        return 1 if report.failed or report.short or report.missing or report.stopped else 0

    def run(self, make_work: MakeWork) -> None:
        """Work until everything is made, nothing can be made any more, or something stops the job."""
        self._gauges = gauges({"out": self._store.url, "run": self._run})
        try:
            while self._goes_on():
                for slot in self._slots:
                    self._occupy(slot, make_work)
                calls = {slot.inquest or slot.call: slot for slot in self._slots if slot.inquest or slot.call}
                if not calls:
                    time.sleep(POLL_SECONDS)
                else:
                    for call in ray.wait(list(calls), num_returns=1, timeout=POLL_SECONDS)[0]:
                        self._finish(calls[call], call)
                self._look_at_the_clock()
        finally:
            self.account.tick(self._workers_up())
            for slot in self._slots:
                self._kill(slot)
            if len(self._schedule.retired) == len(self._slots):
                self.account.failed({**self._schedule.failed, **self._schedule.troubled})

    def _goes_on(self) -> bool:
        report, schedule = self.account.report, self._schedule
        if self.stop.is_set():
            report.stopped = "interrupted; run the same command again to go on"
        elif self._lease.lost:
            report.stopped = self._lease.lost
        elif report.stopped is None and len(schedule.retired) == len(self._slots):
            report.stopped = f"no worker is left; the last one was retired because of: {self._last_error}"
        if report.stopped is not None:
            return False
        if not schedule.in_flight and schedule.waiting and self.account.budget_spent:
            report.stopped = f"the budget of {self._runtime.budget_gpu_hours:g} GPU hours is spent"
            return False
        dried_up = self._feed is not None and self._feed.ended() and not schedule.can_start(self._feed.ready)
        if dried_up and schedule.waiting and not schedule.in_flight:
            report.stopped = "what the other shards are made from is not there"
            return False
        return bool(schedule.in_flight or schedule.waiting)

    def _occupy(self, slot: _Slot, make_work: MakeWork) -> None:
        """Give an idle slot something to do: a process if it has none, else the next shard."""
        if slot.call or slot.inquest or slot.number in self._schedule.retired or self.account.budget_spent:
            return
        slot.since = time.monotonic()
        if slot.actor is None:
            actor = ray.remote(Actor).options(
                num_cpus=self._runtime.num_cpus,
                num_gpus=self._runtime.num_gpus,
                runtime_env={"env_vars": thread_variables(self._runtime.threads)},
                scheduling_strategy=self._nodes.strategy(),
            )
            slot.actor = actor.remote(self._setup)
        if slot.started is None:
            slot.call = slot.actor.start_here.remote(make_work, self._nodes.proven)
        elif task := self._schedule.take(slot.number, self._feed.ready if self._feed else None):
            slot.call = slot.actor.run.remote(task)

    def _finish(self, slot: _Slot, call: Any) -> None:
        if slot.inquest is not None:
            self._conclude(slot)
            return
        slot.call = None
        try:
            outcome = ray.get(call)
        except RayTaskError as error:  # what our own code in the actor does not catch: its arguments do not unpickle
            self._start_failed(slot, Failure(reason(error), str(error)))
        except RayError as error:
            self._lose(slot, error)
        else:
            if slot.started is None:
                self._start(slot, *outcome)
            elif isinstance(outcome, Made):
                self._made(slot, outcome)
            else:
                self._refused(slot, outcome)

    def _start(self, slot: _Slot, node: str, outcome: Started | Refused) -> None:
        if isinstance(outcome, Started):
            slot.started, slot.node, slot.failed_starts = outcome, node, 0
            self._nodes.passed(node)
            self._schedule.ready(slot.number)
        else:
            self._start_failed(slot, outcome.failure, node, outcome.user)

    def _start_failed(self, slot: _Slot, failure: Failure, node: str = "", user: bool = False) -> None:
        """Try again; leave out a node where that is no use. The job ends when there is no other node."""
        slot.failed_starts += 1
        self._last_error = failure.error
        if not user:
            self._display.note(f"worker {slot.number} could not start: {failure.error}")
            if slot.failed_starts < FAILURES_OF_A_WORKER:
                return
        if node:
            self._nodes.failed(node, failure)
        if node and self._nodes.others():
            self._display.note(f"machine {failure.host} (node {node[:8]}) is left out: {failure.error}")
            slot.failed_starts = 0
            self._kill(slot)
        elif user and not self._nodes.any_proven:
            raise UserError(self._nodes.why())
        else:
            self._schedule.retire(slot.number)
            self._kill(slot)
            self._display.note(f"worker {slot.number} is retired: {failure.error}\n{failure.traceback}".rstrip())

    def _made(self, slot: _Slot, made: Made) -> None:
        self._schedule.succeeded(slot.number, made.seconds["total"])
        self.account.made(made)

    def _refused(self, slot: _Slot, refused: Refused) -> None:
        index, error = self._schedule.in_flight[slot.number].index, refused.failure.error
        if refused.storage:
            self._schedule.dropped(slot.number)
            self.account.report.stopped = f"{error}; what is committed stays: see to it and run the same command again"
        elif refused.cancelled:
            self._schedule.dropped(slot.number)
            self.account.report.stopped = error
        else:
            self._schedule.raised(slot.number, refused.failure)
            self._after_failure(slot, index, error)

    def _lose(self, slot: _Slot, error: RayError) -> None:
        """The slot's process is dead; find out whether that says anything about its rows."""
        started = slot.started
        self._kill(slot)
        task = self._schedule.in_flight.get(slot.number)
        if started is None or task is None:
            if not is_node_death(error):
                self._start_failed(slot, Failure(reason(error)))
            return
        done = next(shards.read_markers(self._store, range(task.index, task.index + 1)), None)
        if done is not None and done.run == self._run:  # it died between its commit and its return
            self._made(slot, Made(done, done.accepted, done.rejected, done.counts, done.seconds))
        elif isinstance(error, OutOfMemoryError):
            failure = Failure(reason(error), host=started.host)
            self._schedule.killed_for_memory(slot.number, failure)
            self._after_failure(slot, task.index, failure.error)
        elif is_node_death(error):
            self._schedule.dropped(slot.number)
            self._display.note(f"shard {task.index}: its machine is gone; it goes elsewhere")
        else:
            there = NodeAffinitySchedulingStrategy(slot.node, soft=False)
            examiner = ray.remote(inquest).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            slot.inquest = examiner.remote(started.stderr)
            slot.since, slot.host = time.monotonic(), started.host

    def _conclude(self, slot: _Slot) -> None:
        """The inquest is over: blame the rows that ran, the machine's memory, or (no answer) the machine."""
        index = self._schedule.in_flight[slot.number].index
        inquest, slot.inquest = slot.inquest, None
        try:
            kills, stderr = ray.get(inquest, timeout=0)
        except (RayError, TimeoutError):
            self._schedule.dropped(slot.number)
            self._display.note(f"shard {index}: its machine is gone; it goes elsewhere")
            return
        death, kills_before = read_breadcrumb(self._store, index, self._run)
        failure = Failure("its worker process died", stderr=stderr, host=slot.host)
        if None not in (kills, kills_before) and kills > kills_before:
            failure = replace(failure, error="the system killed the worker because its machine ran out of memory")
            self._schedule.killed_for_memory(slot.number, failure)
            self._after_failure(slot, index, failure.error)
        else:
            self._schedule.died(slot.number, death, failure)
            rows = f" while it ran {', '.join(death.keys[:3])}{' …' * (len(death.keys) > 3)}" if death.keys else ""
            self._after_failure(slot, index, failure.error + rows)

    def _after_failure(self, slot: _Slot, index: int, line: str) -> None:
        given_up = index in self._schedule.failed
        self._display.note(f"shard {index}: {line}; {'given up' if given_up else 'it will be tried again'}")
        if slot.number in self._schedule.retired:
            self._kill(slot)
            self._display.note(f"worker {slot.number} is retired: {FAILURES_OF_A_WORKER} shards in a row failed on it")
        self.account.failed(self._schedule.failed)
        self._last_error = line

    def _kill(self, slot: _Slot) -> None:
        self._schedule.gone(slot.number)
        if slot.actor is not None:
            with contextlib.suppress(RayError):  # dead already
                ray.kill(slot.actor)
        slot.actor = slot.call = slot.started = None

    def _workers_up(self) -> int:
        return sum(slot.started is not None for slot in self._slots)

    def _look_at_the_clock(self) -> None:
        clock = time.monotonic()
        if clock - self._looked < POLL_SECONDS:
            return
        self._looked = clock
        limit = max(self._runtime.hang_seconds, HANG_FACTOR * (self._schedule.median_seconds or 0))
        for slot in self._slots:
            if slot.inquest and clock - slot.since > INQUEST_SECONDS:
                self._conclude(slot)
            elif slot.started and slot.call and clock - slot.since > limit:
                index = self._schedule.in_flight[slot.number].index
                failure = Failure(f"it took over {limit:.0f} s", host=slot.started.host)
                self._kill(slot)
                self._schedule.hung(slot.number, failure)
                self._after_failure(slot, index, failure.error)
        self._tell_of_waiting(clock)
        now = self.account.tick(self._workers_up())
        self._display.show(now)
        for name, gauge in self._gauges.items():
            gauge.set(getattr(now, name) or 0)

    def _tell_of_waiting(self, clock: float) -> None:
        """Say once that no worker has found room, or has taken the last of it: a cluster may never have more."""
        if self._workers_up():
            self._quiet_until = math.inf
        elif clock > self._quiet_until:
            self._quiet_until = math.inf
            if lacking := self._nodes.lacking():
                self._display.note(f"no worker is up yet: {lacking}")
