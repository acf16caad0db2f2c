"""Which nodes of a cluster may hold workers: each is proven before its first shard, and left out where it fails."""

from __future__ import annotations

from typing import Final

import ray
from ray.util.scheduling_strategies import NodeLabelSchedulingStrategy, NotIn

from pipelines.cluster.session import cluster_of
from pipelines.job import Runtime
from pipelines.schedule import Failure

NODE_LABEL: Final = "ray.io/node-id"


class Nodes:
    """What is known of the nodes. On this machine alone nothing is proven: its first shard tells the same."""

    def __init__(self, runtime: Runtime) -> None:
        self._wants = {"CPU": runtime.num_cpus, "GPU": runtime.num_gpus}
        self._in_cluster = cluster_of(runtime) is not None
        self._passed: set[str] = set()
        self._failed: dict[str, Failure] = {}

    @property
    def proven(self) -> frozenset[str] | None:
        """Nodes on which a worker has started; None where no proof is asked for."""
        return frozenset(self._passed) if self._in_cluster else None

    @property
    def any_proven(self) -> bool:
        """Whether a worker has started anywhere."""
        return bool(self._passed)

    def passed(self, node: str) -> None:
        """A worker has started there."""
        self._passed.add(node)
        self._failed.pop(node, None)

    def failed(self, node: str, failure: Failure) -> None:
        """No worker can start there: leave it out."""
        self._failed[node] = failure

    def others(self) -> bool:
        """Whether the cluster has a node large enough for a worker that is not left out."""
        fitting = (n for n in ray.nodes() if n["Alive"] and n["NodeID"] not in self._failed)
        return any(all(n["Resources"].get(kind, 0) >= wanted for kind, wanted in self._wants.items()) for n in fitting)

    def strategy(self) -> str | NodeLabelSchedulingStrategy:
        """Where Ray may place a worker."""
        if not self._failed:
            return "DEFAULT"
        return NodeLabelSchedulingStrategy(hard={NODE_LABEL: NotIn(*sorted(self._failed))})

    def why(self) -> str:
        """What failed, in one line."""
        reasons = {failure.error: failure for failure in self._failed.values()}
        if len(reasons) == 1:
            return next(iter(reasons))
        return "no machine can do the work: " + "; ".join(f"{f.host}: {f.error}" for f in self._failed.values())

    def lacking(self) -> str:
        """What a worker wants of which no more is free on the cluster, in one line; empty where there is enough."""
        wants = {kind: number for kind, number in self._wants.items() if number}
        free = {kind: ray.available_resources().get(kind, 0.0) for kind in wants}
        if all(free[kind] >= number for kind, number in wants.items()):
            return ""
        needs, has = (", ".join(f"{n:g} {kind}" for kind, n in some.items()) for some in (wants, free))
        return f"each wants {needs}; free on the cluster: {has}"
