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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
PATIENCE = {
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "300",
    "RAY_worker_niceness": "0",
}
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
    gcs, dashboard, client, *agents = free_ports(7)
    address = f"127.0.0.1:{gcs}"
    head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    head += ["--dashboard-host=127.0.0.1", f"--temp-dir={folder}", *agent_ports(agents[:2])]
    try:
        start(head, environment)
        start([f"--address={address}", *agent_ports(agents[2:])], environment)
        yield RealCluster(address, f"http://127.0.0.1:{dashboard}", environment)
    finally:
        end(folder, address)
        shutil.rmtree(folder, ignore_errors=True)


def agent_ports(ports: list[int]) -> list[str]:
    """Options of a node's dashboard agent."""
    return [f"--dashboard-agent-listen-port={ports[0]}", f"--dashboard-agent-grpc-port={ports[1]}"]


def start(options: list[str], environment: dict[str, str]) -> None:
    """Start one node with two CPUs; its processes stay when this returns."""
    command = [str(BIN / "ray"), "start", *options, "--num-cpus=2", f"--object-store-memory={80 * 2**20}"]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def end(folder: Path, address: str) -> None:
    """Kill the processes of this cluster: they name its folder or its address."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if str(folder) in line or address in line:
                process.kill()
