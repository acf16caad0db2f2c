"""Limits that the threads of a downloading process share: deadlines, turns at a host, bytes a second."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Self

HOSTS: Final = 10_000
"""Idle hosts that are remembered, so that memory stays flat over millions of them."""


class Deadline:
    """So long and no longer: sockets it guards are shut when it has passed, whatever their own time-outs say.

    A server that sends a byte now and then never runs into a socket's time-out.
    """

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._over = False

    def __enter__(self) -> Self:
        _WATCHDOG.watch(self)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over = True
            self._sockets.clear()

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._at

    def patience(self, seconds: float) -> float:
        """A time-out of at most so many seconds that ends with the deadline."""
        return max(0.001, min(seconds, self._at - time.monotonic()))

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The clock stands still: waiting for our own limits is no server's fault."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._at += time.monotonic() - began

    def guard(self, guarded: socket.socket) -> None:
        """Shut this socket when the time is up."""
        with self._lock:
            self._sockets.append(guarded)
        if self.passed:
            self.shut()

    def shut(self) -> None:
        """The time is up: wake whoever waits on a guarded socket."""
        with self._lock:
            for guarded in self._sockets:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(guarded, socket.SHUT_RDWR)  # not SSLSocket's, which another thread is in

    @property
    def at(self) -> float | None:
        """When it ends, by the monotonic clock; None once it is no longer needed."""
        with self._lock:
            return None if self._over else self._at


class _Watchdog:
    """One thread a process that shuts the sockets of deadlines that have passed."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Deadline]] = []
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def watch(self, deadline: Deadline) -> None:
        at = deadline.at
        if at is None:
            return
        with self._changed:
            heapq.heappush(self._heap, (at, next(self._numbers), deadline))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
            elif self._heap[0][0] == at:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._heap and self._heap[0][2].at is None:
                    heapq.heappop(self._heap)
                now = time.monotonic()
                if not self._heap or self._heap[0][0] > now:
                    self._changed.wait(self._heap[0][0] - now if self._heap else None)
                    continue
                deadline = heapq.heappop(self._heap)[2]
            if deadline.passed:
                deadline.shut()
            else:
                self.watch(deadline)  # its clock was stopped for a while


_WATCHDOG: Final = _Watchdog()


@dataclass(slots=True)
class _Host:
    turns: threading.Semaphore
    users: int = 0
    next_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Hosts:
    """Turns at hosts: so many downloads at a time from each, and so long between two."""

    def __init__(self, at_a_time: int, delay: float) -> None:
        self._at_a_time = at_a_time
        self._delay = delay
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, name: str, deadline: Deadline) -> Iterator[None]:
        """Wait for a turn at a host and hold it."""
        host = self._enter(name)
        try:
            with deadline.stopped():
                host.turns.acquire()
                if self._delay:
                    with host.lock:
                        begin = max(time.monotonic(), host.next_at)
                        host.next_at = begin + self._delay
                    time.sleep(max(0.0, begin - time.monotonic()))
            try:
                yield
            finally:
                host.turns.release()
        finally:
            with self._lock:
                host.users -= 1

    def _enter(self, name: str) -> _Host:
        with self._lock:
            host = self._hosts.pop(name, None) or _Host(threading.Semaphore(self._at_a_time))
            self._hosts[name] = host
            host.users += 1
            while len(self._hosts) > HOSTS:
                oldest = next((other for other, one in self._hosts.items() if not one.users), None)
                if oldest is None:
                    break
                del self._hosts[oldest]
        return host


class Throttle:
    """At most so many megabytes a second over all threads; None: no limit."""

    def __init__(self, megabytes: float | None) -> None:
        self._bytes = None if megabytes is None else megabytes * 1e6
        self._free_at = 0.0
        self._lock = threading.Lock()

    def take(self, size: int, deadline: Deadline) -> None:
        """Account for bytes that have come, and wait until they were allowed to; the deadline waits as well."""
        if self._bytes is None:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / self._bytes
            pause = self._free_at - time.monotonic()
        if pause > 0:
            with deadline.stopped():
                time.sleep(pause)
