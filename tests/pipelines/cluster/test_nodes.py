"""Nodes are proven before their first shard: two raylets of one machine, one or both of them unfit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def run(out: Path, which: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.pipelines.cluster.picky", str(out), which]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_unfit_node_is_named_and_left_out(tmp_path: Path) -> None:
    done = run(tmp_path / "out", "ONE")
    assert done.returncode == 0, done.stderr
    assert "is left out: no GPU on" in done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["shards_done"], report["accepted"], report["worked_elsewhere"]) == (2, 8, True)


def test_where_no_node_is_fit_the_user_must_act(tmp_path: Path) -> None:
    done = run(tmp_path / "out", "ALL")
    assert done.returncode == 2
    assert "no machine can do the work: " in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].count("install a driver") == 2
    assert not list((tmp_path / "out").glob("done/*"))
