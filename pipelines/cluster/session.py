"""Ray for a job: joins a cluster and brings the code along, or starts Ray on this machine; leaves all as it was."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import ray
from ray.exceptions import AuthenticationError, OutOfMemoryError

from pipelines.config import UserError
from pipelines.job import Runtime

PACKAGES: Final = tuple(Path(__file__).resolve().parents[2] / name for name in ("pipelines", "prompts", "detectors"))
"""The code that workers run."""

NOT_SHIPPED: Final = ("results/",)
"""What lies in the packages and is no code: measured results and pictures."""

SUBMITTED: Final = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set where `ray job submit` runs the driver: the job's own runtime environment holds already."""

CONNECT_SECONDS: Final = 10.0
OBJECT_STORE_BYTES: Final = 80 * 2**20  # about Ray's least: only summaries pass through it


@contextlib.contextmanager
def ray_session(runtime: Runtime) -> Iterator[None]:
    """Join a cluster, or start Ray on this machine; left as it was found."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = cluster_of(runtime)
    if address:
        _check_address(address)
        try:
            _init_ray(address, runtime_env=code_environment())
        except (AuthenticationError, ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"no Ray cluster at {address}: {reason(error)}; one that wants a token takes RAY_AUTH_MODE=token and "
                "the token in ~/.ray/auth_token, RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"
            ) from None
    else:
        _start_ray(max(os.cpu_count() or 1, math.ceil(runtime.workers * runtime.num_cpus)))
    try:
        if not address and runtime.num_gpus > ray.cluster_resources().get("GPU", 0):
            raise UserError(f"each worker wants {runtime.num_gpus:g} GPU, and this machine has not got that")
        yield
    finally:
        ray.shutdown()


def _init_ray(address: str, **options: Any) -> None:
    with warnings.catch_warnings():  # Ray announces changes of its own future versions
        warnings.simplefilter("ignore", FutureWarning)
        try:
            ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **options)
        except SystemExit:  # what Ray makes of a SIGTERM while it starts
            raise KeyboardInterrupt from None


def _check_address(address: str) -> None:
    """Raise UserError at once where nobody listens: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return  # `auto`, `local`
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(f"no Ray cluster at {address}: {error.strerror or error}") from None


def _start_ray(cpus: int) -> None:
    for left in (2, 1, 0):
        try:
            _init_ray("local", num_cpus=cpus, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES)
            return
        except Exception as error:  # Ray raises just that when a busy machine makes it miss its own start-up deadline
            ray.shutdown()
            if not left:
                raise UserError(f"Ray does not start on this machine: {reason(error)}") from error


def cluster_of(runtime: Runtime) -> str | None:
    """Return the address of the cluster that a job joins; None where Ray is started on this machine."""
    return runtime.address or os.environ.get("RAY_ADDRESS") or None


def code_environment() -> dict[str, Any] | None:
    """Return the runtime environment that takes the driver's code to every worker: our packages, and nothing else.

    None under `ray job submit`, which has brought the code (`--working-dir`) or found it in the image.
    """
    if SUBMITTED in os.environ:
        return None
    return {"py_modules": [str(package) for package in PACKAGES], "excludes": list(NOT_SHIPPED)}


def reason(error: Exception) -> str:
    """One line of what can be a page."""
    if isinstance(error, OutOfMemoryError):
        return "Ray killed the worker because its machine ran low on memory"
    lines = str(error).strip().splitlines()
    return textwrap.shorten(lines[-1], 200) if lines else type(error).__name__
