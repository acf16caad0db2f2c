"""A Ray cluster of several nodes on this machine, with GPUs in name."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Callable
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families


class Machines:
    """A cluster whose head does no work, and its other nodes."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        _patiently(lambda: self._cluster.add_node(num_cpus=0))
        self.address: str = self._cluster.address
        self._nodes: list[Any] = []

    def add(self, gpus: int = 1) -> Any:
        """Add a node of as many CPUs as GPUs."""
        size: dict[str, Any] = {"num_cpus": gpus, "num_gpus": gpus, "object_store_memory": 80 * 2**20}
        self._nodes.append(_patiently(lambda: self._cluster.add_node(**size)))
        return self._nodes[-1]

    def kill(self, node: Any) -> None:
        """Kill a node and all its processes, without a word to the rest of the cluster."""
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_all(self) -> None:
        """Leave the head alone."""
        for node in list(self._nodes):
            self.kill(node)

    def metrics(self, out: str) -> dict[str, float]:
        """What Prometheus would find at the nodes' agents of the jobs that write to `out`."""
        found: dict[str, float] = {}
        for node in self._cluster.list_all_nodes():
            url = f"http://{node.node_ip_address}:{node.metrics_export_port}/metrics"
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
                for family in text_string_to_metric_families(answer.read().decode()):
                    found |= {sample.name: sample.value for sample in family.samples if sample.labels.get("out") == out}
        return found

    def close(self) -> None:
        """End the cluster."""
        self._cluster.shutdown()


def _patiently(start: Callable[[], Any]) -> Any:
    """Start a node again where a busy machine made it miss its own start-up deadline, which Ray sets at 30 seconds."""
    for left in (2, 1, 0):
        before = set(psutil.Process().children(recursive=True))
        try:
            return start()
        except Exception as error:  # Ray raises just that
            for process in set(psutil.Process().children(recursive=True)) - before:
                process.kill()
            if not left or "timed out" not in str(error):
                raise
    return None
