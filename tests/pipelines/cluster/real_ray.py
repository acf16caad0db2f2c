"""A real cluster on this machine, as `ray start` makes it: a head with dashboard and token, and a second node."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
SECONDS = 400
PATIENCE = {"RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300", "RAY_worker_niceness": "0"}
"""Where other work keeps the machine busy."""


@dataclass(frozen=True)
class RealCluster:
    """address: of the head, for drivers; dashboard: for `ray job submit`; environment: with the token."""

    address: str
    dashboard: str
    environment: dict[str, str]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def real_cluster() -> Iterator[RealCluster]:
    """Start two nodes outside the checkout, so that workers have no code of ours but what is sent to them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    environment = {**kept, "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token"}
    environment |= {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0", **PATIENCE}
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short: sockets' paths may have 107 characters
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for left in (2, 1, 0):  # a busy machine makes Ray miss its own start-up deadlines
            gcs, dashboard, client, *agents = free_ports(5)
            address = f"127.0.0.1:{gcs}"
            head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
            head += ["--dashboard-host=127.0.0.1", f"--temp-dir={folder}", *agent_ports(agents)]
            nodes.append(start(head, environment, folder))
            try:
                wait_until_up(address, 1, environment, nodes, folder)
                break
            except AssertionError:
                end(nodes)
                if not left:
                    raise
        nodes.append(start([f"--address={address}", *agent_ports(free_ports(2))], environment, folder))
        wait_until_up(address, 2, environment, nodes, folder)
        yield RealCluster(address, f"http://127.0.0.1:{dashboard}", environment)
    finally:
        end(nodes)
        shutil.rmtree(folder, ignore_errors=True)


def end(nodes: list[subprocess.Popen[bytes]]) -> None:
    """End nodes with all their processes."""
    for node in reversed(nodes):
        node.terminate()
    for node in nodes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, 9)
    nodes.clear()


def agent_ports(ports: list[int]) -> list[str]:
    """Options of a node's dashboard agent."""
    return [f"--dashboard-agent-listen-port={ports[0]}", f"--dashboard-agent-grpc-port={ports[1]}"]


def start(options: list[str], environment: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """Start one node with two CPUs; it ends with the process that is returned."""
    command = [str(BIN / "ray"), "start", *options, "--num-cpus=2", f"--object-store-memory={80 * 2**20}", "--block"]
    log = (folder / f"node-{time.monotonic_ns()}.log").open("wb")
    return subprocess.Popen(command, env=environment, cwd="/", stdout=log, stderr=log, start_new_session=True)


def wait_until_up(
    address: str, count: int, environment: dict[str, str], nodes: list[subprocess.Popen[bytes]], folder: Path
) -> None:
    """Return when the cluster has so many nodes."""
    code = "import ray, sys; ray.init(sys.argv[1], logging_level='ERROR'); print(sum(n['Alive'] for n in ray.nodes()))"
    end = time.monotonic() + SECONDS
    told = ""
    while time.monotonic() < end:
        if any(node.poll() is not None for node in nodes):
            raise AssertionError(
                "a node has ended:\n" + "\n".join(log.read_text()[-3000:] for log in folder.glob("*.log"))
            )
        command = [sys.executable, "-W", "ignore", "-c", code, address]
        done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
        told = done.stdout.strip() or done.stderr
        if done.returncode == 0 and int(told.splitlines()[-1]) >= count:
            return
        time.sleep(1)
    raise AssertionError(f"no cluster of {count} nodes: {told}")
