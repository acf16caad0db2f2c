"""Whether a machine can do its part, asked before it gets its first shard: storage, GPU and driver, models, a batch.

What fails is a UserError that says what to do next; the engine then leaves the machine out.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from pipelines.config import UserError
from pipelines.store import StorageError, Store

DRIVERS: Final = {12: 525, 13: 580}
"""CUDA's major version → the oldest NVIDIA driver that runs it (NVIDIA's table of minor version compatibility)."""

DRIVER_FILE: Final = Path("/proc/driver/nvidia/version")


@runtime_checkable
class TriesOneBatch(Protocol):
    """Work that can be tried before it counts."""

    def try_one_batch(self) -> None:
        """Run one whole batch and throw it away; raises where this machine cannot."""
        ...


def check_storage(store: Store, run: str) -> None:
    """Write, read and delete a file in OUT. Raises UserError naming which of them this machine may not do."""
    name = f".run/preflight-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    data = secrets.token_bytes(64)
    doing = "write to"
    try:
        store.write(name, data, run)
        doing = "read from"
        same = store.read(name) == data
        doing = "delete in"
        store.remove([name])
    except (StorageError, OSError) as error:
        raise UserError(
            f"cannot {doing} {store.root} from here ({error}): every machine needs the same folder or bucket, and the "
            "rights to write, read and delete in it"
        ) from error
    if not same:
        raise UserError(f"{store.root} gives back other bytes than were written: see to that file system first")


def require_gpu() -> None:
    """Check that torch can use a GPU here. Raises UserError that tells why it cannot."""
    import torch

    if torch.cuda.is_available():
        return
    raise UserError(f"gpus_per_worker is above 0, but {why_no_gpu(torch.version.cuda, driver_version(DRIVER_FILE))}")


def driver_version(path: Path) -> tuple[int, ...] | None:
    """Return the version of the NVIDIA driver that runs here, (580, 95, 5); None where there is none."""
    try:
        found = re.search(r"\s(\d+(?:\.\d+)+)\s", path.read_text(encoding="utf-8"))
    except OSError:
        return None
    return tuple(map(int, found[1].split("."))) if found else None


def why_no_gpu(cuda: str | None, driver: tuple[int, ...] | None) -> str:
    """Return why torch, built for `cuda` ("13.0"), sees no GPU beside this driver, and what to do."""
    if cuda is None:
        return "this torch is a build without CUDA: install the locked one (uv sync --frozen)"
    needed = DRIVERS.get(int(cuda.split(".")[0]))
    wanted = f"NVIDIA driver {needed} or newer" if needed else "an NVIDIA driver"
    if driver is None:
        return f"no NVIDIA driver runs here: this torch (CUDA {cuda}) needs {wanted}, and a container needs --gpus all"
    told = ".".join(map(str, driver))
    if needed and driver[0] < needed:
        return f"the NVIDIA driver {told} is too old for this torch (CUDA {cuda}): install {wanted}"
    return f"torch sees no GPU beside the driver {told}: see what nvidia-smi says, and CUDA_VISIBLE_DEVICES"


def try_one_batch(work: object) -> None:
    """Run one batch of work that can be tried; what it raises tells what is wrong with this machine."""
    if isinstance(work, TriesOneBatch):
        work.try_one_batch()
