"""A job as data: what to make, on what, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pipelines.dataset import Manifest, Standing
    from pipelines.shards import Done


@dataclass(frozen=True)
class Job:
    """What to make, and where: everything that does not depend on the machines.

    out: folder or fsspec URL (s3://, gs://, az://), the same for every machine.
    identity, identity_hash: what `pipelines.config.identity` returned; OUT holds one identity only.
    config: the whole resolved config, for dataset.json. n, max_attempts: the extendable keys; they may only grow.
    shard_size: slots a shard; shard i holds slots i * shard_size … min((i + 1) * shard_size, n) - 1.
    shards: the shards this driver works on (`--shards A:B`); None = all; what lies beyond the last is left out.
        Drivers of one OUT need disjoint ranges.
    files: more files for OUT, by path below it (`grammar/scenes.tsv`, `README.md`).
    label: what progress calls the job, where several run together.
    standing: tells which of the shards wanted are still to make, where those are not simply all that are missing
        (`pipelines.dataset.standing`): a job that follows another dataset's shards.
    """

    out: str
    source: str
    identity: Mapping[str, Any]
    identity_hash: str
    config: Mapping[str, Any]
    n: int
    shard_size: int
    max_attempts: int
    shards: range | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    standing: Callable[[Manifest, range, Iterable[Done]], Standing] | None = None
    label: str = ""


@dataclass(frozen=True)
class Runtime:
    """Where and how fast: nothing in here changes a byte, except `threads`, which is identity and set on each worker.

    workers: actors. num_cpus, num_gpus: what each reserves (fractions allowed). threads: CPU threads of each.
    address: None starts Ray on this machine and stops it at the end (or joins the cluster under `ray job submit`);
        else the cluster to join (`auto`, `ray://…`).
    budget_gpu_hours: stop cleanly when this run's workers have held GPUs so long (workers, where num_gpus is 0).
    price_per_gpu_hour: for the cost per 1,000 accepted in the progress.
    hang_seconds: a shard is killed and requeued after max(hang_seconds, 5 x the median shard).
    stale_seconds: a lease without heartbeat for so long is anybody's.
    """

    workers: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    threads: int = 1
    address: str | None = None
    budget_gpu_hours: float | None = None
    price_per_gpu_hour: float | None = None
    hang_seconds: float = 600.0
    stale_seconds: float = 30.0


class Feed(Protocol):
    """What a job's shards are made from, where an earlier stage still makes it while the job runs."""

    def ready(self, index: int) -> bool:
        """Whether shard `index` can be made now. Called often: a cheap look."""
        ...

    def ended(self) -> bool:
        """Whether nothing more will become ready."""
        ...


@dataclass
class JobReport:
    """How a job ended.

    shards_done: shards committed by this run; shards_complete: shards of the range that are on disk and complete.
    failed: shard → one line; short: keys of slots that are not filled; missing: shards not made (stopped early).
    accepted, rejected: rows of this run. seconds: worker wall-clock seconds by stage. gpu_seconds: GPUs x time held.
    stopped: why the job ended before its end, in one line, else None.
    exit_code: 0 all there; 1 some shards are short, failed or missing; 130 interrupted.
    """

    shards_done: int = 0
    shards_complete: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    short: list[str] = field(default_factory=list)
    missing: int = 0
    accepted: int = 0
    rejected: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    gpu_seconds: float = 0.0
    stopped: str | None = None
    exit_code: int = 0
