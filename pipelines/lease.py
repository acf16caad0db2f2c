"""Who makes which shards: one lease a driver, on a range of shards, kept alive by a heartbeat.

A lease is a file OUT/.run/leases/<run>.json whose modification time is the heartbeat. Ages are differences between
times that the file system itself stamped, so clocks of different hosts do not matter. A lease without heartbeat for
`stale` seconds, or whose process is known to be gone from this very machine, is anybody's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pipelines.config import UserError
from pipelines.store import Store, UnreachableError
from pipelines.work import ShardCancelledError

LEASES: Final = ".run/leases"
STALE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Holder:
    """A lease's content: the run, its range start … stop - 1, and the process that holds it.

    claiming: not yet checked against the others. machine: names the kernel and process namespace, so that `pid` and
    its start time mean something. identity: of the dataset it makes; "" works on whatever is there.
    """

    run: str
    start: int
    stop: int
    claiming: bool
    host: str
    machine: str
    pid: int
    born: str
    identity: str = ""

    def is_in_the_way_of(self, other: Holder) -> bool:
        """Whether only one of the two may work: on shards of both ranges, or on datasets of two identities."""
        overlap = self.start < other.stop and other.start < self.stop
        return overlap or bool(self.identity and other.identity and self.identity != other.identity)

    @property
    def owner(self) -> str:
        """For messages."""
        return f"process {self.pid} on {self.host}, shards {self.start}:{self.stop}"


def new_run() -> str:
    """A run id: sorts by start time, unique, safe in file names."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


class Lease:
    """A held lease; its heartbeat runs in a thread until `close`. Made by `acquire`."""

    def __init__(self, store: Store, holder: Holder, stale: float) -> None:
        self._store = store
        self.holder = holder
        self._stale = stale
        self._lost: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> str | None:
        """Why the lease is no longer ours, in one line; None while it is."""
        return self._lost

    def close(self) -> None:
        """Stop the heartbeat and give the range back."""
        self._stop.set()
        self._thread.join()
        if self._lost is None:
            with contextlib.suppress(Exception):  # an unreleased lease goes stale by itself
                self._store.remove([_name(self.holder.run)])

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(self._stale / 6):
            try:
                self._store.touch(_name(self.holder.run))
                last = time.monotonic()
            except FileNotFoundError:
                self._lost = "another driver took over these shards"
            except Exception as error:  # a store that fails for a while: no reason to stop before the lease is stale
                if time.monotonic() - last > self._stale:
                    self._lost = f"the lease could not be renewed for {self._stale:.0f} s: {error}"
            if self._lost is not None:
                return


class Watch:
    """A worker's view of its driver's lease."""

    def __init__(self, store: Store, run: str, stale: float) -> None:
        self._store = store
        self._name = _name(run)
        self._stale = stale
        self._beat: float | None = None
        self._seen = time.monotonic()
        self._checked = 0.0

    def check(self, *, now: bool = False) -> None:
        """Raise ShardCancelledError where the lease is gone or has not been renewed; looks at most every 2 s."""
        clock = time.monotonic()
        if not now and clock - self._checked < min(2.0, self._stale / 6):
            return
        self._checked = clock
        try:
            beat = self._store.modified(self._name)
        except UnreachableError:  # no news: it may be as alive as ever
            beat = self._beat
        else:
            if beat is None:
                raise ShardCancelledError("the driver's lease is gone")
        if beat != self._beat:
            self._beat, self._seen = beat, clock
        elif time.monotonic() - self._seen > self._stale:
            raise ShardCancelledError("the driver's lease is stale")


def acquire(
    store: Store,
    wanted: range,
    run: str,
    stale: float = STALE_SECONDS,
    note: Callable[[str], None] = lambda line: None,
    identity: str = "",
) -> Lease:
    """Take the lease of a range of shards, waiting up to `stale` seconds for one that nobody renews any more.

    Raises UserError where another driver works on an overlapping range, or makes a dataset of another identity here
    (two that start together in an empty folder learn of each other from their leases alone).
    """
    if not store.local:
        note("leases on object stores are best effort: do not start two drivers on one range at the same time")
    pid = os.getpid()
    holder = Holder(run, wanted.start, wanted.stop, True, socket.gethostname(), _machine(), pid, _born(pid), identity)
    store.write(_name(run), _dump(holder), run, durable=False)
    try:
        for other in _others(store, run):
            if other.is_in_the_way_of(holder):
                _settle(store, holder, other, stale, note)
        held = dataclasses.replace(holder, claiming=False)
        store.write(_name(run), _dump(held), run, durable=False)
    except BaseException:
        store.remove([_name(run)])
        raise
    return Lease(store, held, stale)


def live(store: Store, stale: float = STALE_SECONDS) -> list[Holder]:
    """The drivers that work on OUT now, as far as their last heartbeat tells (this machine's clock is the judge)."""
    found = []
    for other in _others(store, ""):
        beat = store.modified(_name(other.run))
        if beat is not None and time.time() - beat < stale and not _is_gone(other):
            found.append(other)
    return found


def runs(store: Store) -> frozenset[str]:
    """The run ids that have a lease on OUT, alive or not."""
    return frozenset(name.removesuffix(".json") for name in store.names(LEASES) if name.endswith(".json"))


def _settle(store: Store, mine: Holder, other: Holder, stale: float, note: Callable[[str], None]) -> None:
    """Return when the other's overlapping lease is out of the way; raise UserError where it is alive."""
    name = _name(other.run)
    first = store.modified(name)
    noted = False
    while True:
        current = _read(store, other.run)
        beat = store.modified(name)
        if current is None or beat is None:
            return
        age = _age(store, mine, beat)
        if age > stale or _is_gone(current):
            store.remove([name])
            return
        # Two drivers that start together see each other claiming: the smaller run id goes first.
        rival = current.claiming and mine.run < current.run
        if not rival and (current.claiming or beat != first or _is_here(current)):
            if mine.identity and current.identity not in ("", mine.identity):
                raise UserError(
                    f"{store.root}: another driver makes a dataset of another identity here ({current.owner}): "
                    "take its config, or another --out"
                )
            raise UserError(
                f"{store.root}: another driver makes some of these shards ({current.owner}): "
                "wait until it has ended, or give a range beside it with --shards A:B"
            )
        if not noted:
            note(f"waiting up to {stale - age:.0f} s: {current.owner} may have died")
            noted = True
        time.sleep(min(0.5, stale / 20))


def _age(store: Store, mine: Holder, beat: float) -> float:
    """Seconds since a heartbeat, by the file system's clock: my own lease is renewed and the times compared."""
    store.touch(_name(mine.run))
    return (store.modified(_name(mine.run)) or beat) - beat


def _name(run: str) -> str:
    return f"{LEASES}/{run}.json"


def _dump(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _read(store: Store, run: str) -> Holder | None:
    try:
        return Holder(**json.loads(store.read(_name(run))))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _others(store: Store, run: str) -> list[Holder]:
    others = sorted(runs(store) - {run})
    return [found for found in (_read(store, other) for other in others) if found is not None]


def _machine() -> str:
    """Kernel and process namespace: where two processes agree on it, each can see whether the other lives."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _born(pid: int) -> str:
    """A process's start time in clock ticks since boot; "" where it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _is_gone(holder: Holder) -> bool:
    return bool(holder.machine) and holder.machine == _machine() and _born(holder.pid) != holder.born


def _is_here(holder: Holder) -> bool:
    return bool(holder.machine) and holder.machine == _machine() and _born(holder.pid) == holder.born
