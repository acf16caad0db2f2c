"""A job on two raylets of its own, for its own process: `python -m tests.pipelines.cluster.picky OUT ONE|ALL`.

One of the nodes (or each) fails its preflight. Prints the report and the nodes that made shards as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import UserError
from pipelines.work import ShardContext, ShardResult, Work
from tests.pipelines.toy import fill_slots, make_job


@dataclass(frozen=True)
class Picky:
    """Fails on the node that asks first (on every node if `all_fail`), and notes the nodes that work."""

    folder: str
    all_fail: bool

    def __call__(self) -> Work:
        import ray

        node = ray.get_runtime_context().get_node_id()
        first = Path(self.folder, "first")
        if not first.exists():
            first.write_text(node)
        if self.all_fail or first.read_text() == node:
            raise UserError(f"no GPU on {node[:4]}: install a driver")

        def work(context: ShardContext) -> ShardResult:
            Path(self.folder, "worked").write_text(node)
            return fill_slots(context, lambda name: None)

        return work


def main(out: str, which: str) -> int:
    from ray.cluster_utils import Cluster

    from pipelines.engine import Runtime, run_job

    size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(initialize_head=True, head_node_args=size)
        try:
            cluster.add_node(**size)
            cluster.wait_for_nodes()
            runtime = Runtime(workers=1, address=cluster.address)
            report = run_job(make_job(out, 8, 4, 8), Picky(folder, which == "ALL"), runtime)
            places = [Path(folder, name).read_text() for name in ("first", "worked")]
            print(json.dumps({**dataclasses.asdict(report), "worked_elsewhere": places[0] != places[1]}))
            return report.exit_code
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
        finally:
            cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
