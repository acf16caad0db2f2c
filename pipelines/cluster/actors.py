"""What of a worker is Ray's: the actor, what is asked after its death, and the series that its driver exports."""

from __future__ import annotations

from collections.abc import Collection

import ray
from ray.exceptions import ActorUnavailableError, NodeDiedError, RayActorError, RayError
from ray.util.metrics import Gauge

from pipelines.progress import METRICS
from pipelines.work import MakeWork
from pipelines.worker import Refused, ShardWorker, Started, memory_kills, stderr_tail


class Actor(ShardWorker):
    """A worker that can tell where it is."""

    def start_here(self, make_work: MakeWork, proven: Collection[str] | None) -> tuple[str, Started | Refused]:
        """Build the work. proven: nodes that need no preflight any more; None where no node needs it."""
        node = ray.get_runtime_context().get_node_id()
        return node, self.start(make_work, check=proven is not None and node not in proven)


def inquest(stderr: str) -> tuple[int | None, str]:
    """On the machine of a dead worker: the memory kills it has seen, and the worker's last words."""
    return memory_kills(), stderr_tail(stderr)


def is_node_death(error: RayError) -> bool:
    """Whether the machine is to blame: it died, was preempted, or cannot be reached."""
    preempted = isinstance(error, RayActorError) and error.preempted
    return preempted or isinstance(error, NodeDiedError | ActorUnavailableError) or "node has died" in str(error)


def gauges(tags: dict[str, str]) -> dict[str, Gauge]:
    """The series that Ray's agents export, by the attribute of `Snapshot` that they show.

    Series of drivers that have ended stay there for a while: the tags tell them apart.
    """
    found = {name: Gauge(f"humansd_{name}", meaning, tuple(tags)) for name, meaning in METRICS.items()}
    for gauge in found.values():
        gauge.set_default_tags(tags)
    return found
