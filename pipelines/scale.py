"""The same job on more and more GPUs: hours, requests, what the driver does, and what is the first to hold it up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipelines.ghi.config import GhiConfig
from pipelines.measured import Measured

if TYPE_CHECKING:
    from pipelines.plan import Prediction

REQUESTS_A_SHARD: Final = 6
"""Writes and deletes of a shard besides one breadcrumb a batch: three tables, the done marker, the first breadcrumb and
its removal."""

REQUESTS_LIMIT: Final = 3500.0
"""Writes a second that one prefix of an S3 bucket takes, as Amazon publishes it."""

DRIVER_LIMIT: Final = 50.0
"""Shards a second that one driver is taken to hand out; tests/bench/test_engine_speed.py measures it."""

CLOSE: Final = 0.5
"""Share of a limit from which it is called the bottleneck."""

IDLE: Final = 0.1
"""Share of the workers' time, spent waiting for the last shards, from which that is called the bottleneck."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A job on so many GPUs. hours: wall-clock, the wait for the last shards included. idle: share of the workers' time
    spent in that wait. requests: writes and deletes on OUT; requests, bytes, shards _per_second: at full speed.
    """

    gpus: int
    workers: int
    hours: float
    idle: float
    requests: float
    requests_per_second: float
    bytes_per_second: float
    shards_per_second: float
    cost: float | None
    bottleneck: str


def scale(config: GhiConfig, measured: Measured, predicted: Prediction, shard_size: int, gpus: int) -> Scale:
    """Work out a job on `gpus` GPUs. predicted: for any number of workers; shard_size: what would be a better one."""
    a_worker = config.gpus_per_worker or 1.0
    workers = max(1, math.floor(gpus / a_worker))
    shards = -(-config.n // config.shard_size)
    images = predicted.images.median
    of_shard = images / shards / measured.images_per_second  # a worker's seconds
    rounds = -(-shards // workers)
    seconds = rounds * of_shard + measured.load_seconds
    working = shards * of_shard / min(workers, shards)  # if the shards could be shared out evenly
    requests = REQUESTS_A_SHARD * shards + images / config.sampler.batch_size
    idle = 1 - shards / (rounds * workers)
    pressure = {
        f"writes to one bucket prefix ({REQUESTS_LIMIT:,.0f}/s)": requests / working / REQUESTS_LIMIT,
        f"the one driver ({DRIVER_LIMIT:,.0f} shards/s): give several disjoint --shards": shards
        / working
        / DRIVER_LIMIT,
    }
    worst = max(pressure, key=pressure.__getitem__)
    if pressure[worst] >= CLOSE:
        bottleneck = worst
    elif idle > IDLE:
        better = min(shard_size, max(1, config.n // (10 * workers)))
        bottleneck = f"{100 * idle:.0f}% waiting for the last shards: shard_size={better}"
    else:
        bottleneck = slowest_stage(measured.stages)
    price = config.price_per_gpu_hour
    return Scale(
        gpus=gpus,
        workers=workers,
        hours=seconds / 3600,
        idle=idle,
        requests=requests,
        requests_per_second=requests / working,
        bytes_per_second=predicted.bytes.median / working,
        shards_per_second=shards / working,
        cost=None if price is None else price * gpus * seconds / 3600,
        bottleneck=bottleneck,
    )


def slowest_stage(stages: dict[str, float]) -> str:
    """Name the stage that a worker spends most of its time in."""
    if not stages:
        return "the workers"
    stage = max(stages, key=stages.__getitem__)
    return f"{stage}: {100 * stages[stage] / sum(stages.values()):.0f}% of a worker's time"


def as_table(scales: Sequence[Scale], duration: Callable[[float], str], size: Callable[[float], str]) -> list[str]:
    """Return one line for each number of GPUs, under a heading."""
    lines = [
        f"{'GPUs':>6s}{'time':>10s}{'cost':>12s}{'requests':>12s}{'a second':>10s}{'written/s':>11s}  first bottleneck"
    ]
    for one in scales:
        cost = "-" if one.cost is None else f"{one.cost:,.0f}"
        lines.append(
            f"{one.gpus:6,d}{duration(3600 * one.hours):>10s}{cost:>12s}{one.requests:12,.0f}"
            f"{one.requests_per_second:10.1f}{size(one.bytes_per_second):>11s}  {one.bottleneck}"
        )
    return lines
