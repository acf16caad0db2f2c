"""A worker: builds the work once, then makes and commits one shard after another. Knows nothing of Ray."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from pipelines import preflight, shards
from pipelines.config import UserError
from pipelines.lease import Watch
from pipelines.schedule import Death, Failure
from pipelines.store import StorageError, Store, UnreachableError
from pipelines.taken import unsettled
from pipelines.work import MakeWork, ShardCancelledError, ShardContext, ShardResult, ShardTask, Work

_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_STDERR_TAIL: Final = 4000

N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker must know besides its work: where to write (whatever its own working folder), in whose name, and
    its CPU threads."""

    out: str
    run: str
    identity_hash: str
    threads: int
    stale_seconds: float


@dataclass(frozen=True, slots=True)
class Started:
    """A worker that is up: process id and where its stderr goes (for the driver's post-mortem)."""

    host: str
    pid: int
    stderr: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a worker did not start or a shard was not made. user: the user must act. storage: OUT cannot be written."""

    failure: Failure
    user: bool = False
    storage: bool = False
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """A shard that is committed. accepted, rejected, counts, seconds: what this run added to it."""

    done: shards.Done
    accepted: int
    rejected: int
    counts: Mapping[str, int]
    seconds: Mapping[str, float]


class ShardWorker:
    """Makes shards with one work function; lives in its own process."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._store = Store(setup.out, patience=setup.stale_seconds)
        self._watch = Watch(self._store, setup.run, setup.stale_seconds)
        self._work: Work | None = None

    def start(self, make_work: MakeWork, check: bool = False) -> Started | Refused:
        """Set thread counts and build the work. check: prove this machine on storage and one batch as well."""
        try:
            set_threads(self._setup.threads)
            if check:
                preflight.check_storage(self._store, self._setup.run)
            self._work = make_work()
            set_threads(self._setup.threads)  # libraries that the work has imported by now
            if check:
                preflight.try_one_batch(self._work)
        except UserError as error:
            return Refused(Failure(str(error), host=socket.gethostname()), user=True)
        except Exception as error:
            return Refused(_failure(error))
        return Started(socket.gethostname(), os.getpid(), _stderr_path())

    def run(self, task: ShardTask) -> Made | Refused:
        """Make and commit one shard. The one place where whatever the work raises is caught."""
        assert self._work is not None
        began = time.perf_counter()
        try:
            context = self._context(task)
            result = self._work(context)
            self._watch.check(now=True)
            before = context.previous or ShardResult()
            counts, seconds = result.counts, {**result.seconds, "total": time.perf_counter() - began}
            whole = replace(result, counts=_add(before.counts, counts), seconds=_add(before.seconds, seconds))
            done = shards.commit(self._store, task, whole, self._setup.identity_hash, self._setup.run)
            self._store.remove([breadcrumb_name(task.index)])
        except ShardCancelledError as error:
            return Refused(Failure(str(error)), cancelled=True)
        except UnreachableError as error:  # from here, at least: another machine may get through
            return Refused(_failure(error))
        except StorageError as error:
            return Refused(Failure(str(error)), storage=True)
        except Exception as error:
            return Refused(_failure(error))
        accepted, rejected = done.accepted - len(before.accepted), done.rejected - len(before.ledger)
        return Made(done, accepted, rejected, counts, seconds)

    def _context(self, task: ShardTask) -> ShardContext:
        previous = None
        if task.extend:
            marker = next(shards.read_markers(self._store, range(task.index, task.index + 1)), None)
            found = shards.read_back(self._store, marker) if marker else None
            previous = unsettled(found) if found else None

        def leave(keys: Sequence[str], rounds: int) -> None:
            note = {"run": self._setup.run, "pid": os.getpid(), "host": socket.gethostname()}
            note |= {"keys": list(keys), "rounds": rounds, "memory_kills": memory_kills()}
            self._store.write(breadcrumb_name(task.index), json.dumps(note).encode(), self._setup.run, durable=False)

        leave((), 0)  # a death from here to the first batch is nobody's
        return ShardContext(task, previous, leave, self._watch.check)


def breadcrumb_name(index: int) -> str:
    """Where a worker notes which rows of a shard it runs; written before each batch, removed at the commit."""
    return f"{shards.INFLIGHT}/{index:08d}.json"


def read_breadcrumb(store: Store, index: int, run: str) -> tuple[Death, int | None]:
    """What the dead worker of a shard was doing, and how many memory kills its machine had seen before."""
    try:
        note: dict[str, Any] = json.loads(store.read(breadcrumb_name(index)))
        if note["run"] == run:
            return Death(tuple(note["keys"]), note["rounds"]), note["memory_kills"]
    except (FileNotFoundError, ValueError, KeyError):
        pass
    return Death(), None


def memory_kills() -> int | None:
    """How many processes this machine has killed for their memory since it booted; None where it does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def stderr_tail(path: str) -> str:
    """The last lines that a worker's process wrote to its stderr; "" where that is not a file here."""
    try:
        with Path(path).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _STDERR_TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def set_threads(threads: int) -> None:
    """Give every maths library of this process so many threads: their number is part of the bytes that come out."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(threads)


def thread_variables(threads: int) -> dict[str, str]:
    """The environment that gives a process so many threads from its very start."""
    return dict.fromkeys(_THREAD_VARIABLES, str(threads))


def _failure(error: Exception) -> Failure:
    sys.stderr.flush()
    line = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    return Failure(line, traceback.format_exc(), stderr_tail(_stderr_path()), socket.gethostname())


def _stderr_path() -> str:
    try:
        return str(Path("/proc/self/fd/2").readlink())
    except OSError:
        return ""


def _add(before: Mapping[str, N], more: Mapping[str, N]) -> dict[str, N]:
    return {**before, **{name: before[name] + value if name in before else value for name, value in more.items()}}
