"""SIGINT and SIGTERM stop a job in an orderly way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """The first SIGINT or SIGTERM sets `stop`; the second one does what it always does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.getsignal(name) for name in names}

    def set_stop(number: int, frame: FrameType | None) -> None:
        stop.set()
        for name in names:
            signal.signal(name, signal.SIG_DFL)

    for name in names:
        signal.signal(name, set_stop)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
