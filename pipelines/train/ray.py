"""A training on Ray Train: 1 to N workers here or on a cluster, started again from the last checkpoint when lost."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import ray.train
import ray.train.torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from pipelines.cluster.session import ray_session, reason
from pipelines.config import UserError
from pipelines.job import Runtime
from pipelines.train.loop import Place, Task, train

POLL_SECONDS = 1.0


class TrainingError(Exception):
    """A worker failed, and not by the user's mistake; details: the whole of what Ray tells."""

    def __init__(self, why: str, details: str) -> None:
        super().__init__(why)
        self.details = details


def run_workers(task: Task, address: str | None, look: Callable[[], None]) -> None:
    """Train on as many workers as the config says; look: called every second meanwhile.

    Raises UserError for the user's mistakes, TrainingError where the workers fail, KeyboardInterrupt at SIGINT and
    SIGTERM. Workers end with this process.
    """
    compute = task.config.compute
    runtime = Runtime(compute.workers, compute.cpus_per_worker, compute.gpus_per_worker, compute.threads, address)
    # stdout is for data, and Ray prints what raylets complain of there.
    with contextlib.redirect_stdout(sys.stderr), ray_session(runtime), _sigterm():
        ended: list[BaseException | None] = []
        # Not in the main thread, where Ray would take SIGINT for itself and leave with its own exit code.
        thread = threading.Thread(target=_fit, args=(task, ended), daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            look()
    if ended[0] is not None:
        raise ended[0]


def _fit(task: Task, ended: list[BaseException | None]) -> None:
    compute = task.config.compute
    resources = {"CPU": compute.cpus_per_worker}
    if compute.gpus_per_worker:
        resources["GPU"] = compute.gpus_per_worker
    try:
        TorchTrainer(
            _worker,
            train_loop_config={"task": task},
            scaling_config=ScalingConfig(
                num_workers=compute.workers, use_gpu=compute.gpus_per_worker > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(Path(task.out).absolute()),
                failure_config=FailureConfig(max_failures=compute.max_failures),
            ),
        ).fit()
        ended.append(None)
    except WorkerGroupError as error:
        ended.append(_why(error))
    except Exception as error:  # Ray's own, of which there are many
        ended.append(TrainingError(reason(error), str(error)))


def _why(error: WorkerGroupError) -> Exception:
    """The user's mistake, where one worker's failure is one; else what failed first."""
    failures: list[Any] = list(error.worker_failures.values())
    for failure in failures:
        cause = getattr(failure, "_base_exc", failure)  # Ray wraps it, to keep the traceback's text
        if isinstance(cause, UserError):
            return UserError(str(cause))
    return TrainingError(reason(failures[0]) if failures else "a worker was lost", str(error))


def _worker(options: dict[str, Any]) -> None:
    context = ray.train.get_context()
    device = str(ray.train.torch.get_device())
    train(options["task"], Place(context.get_world_rank(), context.get_world_size(), device))


@contextlib.contextmanager
def _sigterm() -> Iterator[None]:
    """SIGTERM ends a training as SIGINT does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
