"""What the job costs over a bare loop, and what a second worker brings: `pytest -m bench tests/bench/test_ghi_job.py`.

Every round runs all four in turn: one bare loop, the job with one worker, two bare loops at once, the job with two
workers. All fill the same number of slots with the miniature models. Results: `tests/bench/results/ghi_job.md`.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

RESULTS = Path(__file__).parent / "results" / "ghi_job.md"
ROUNDS = int(os.environ.get("HUMANSD_BENCH_ROUNDS", "3"))
SLOTS = int(os.environ.get("HUMANSD_BENCH_SLOTS", "400"))
SHARD_SIZE = int(os.environ.get("HUMANSD_BENCH_SHARD", "200"))
SIDES = ("1 bare loop", "job, 1 worker", "2 bare loops", "job, 2 workers")


@dataclass(frozen=True)
class Run:
    """One run: seconds of the whole process, and of the work alone (models loaded, nothing to wait for)."""

    accepted: int
    sampled: int
    whole: float
    work: float

    @property
    def rate(self) -> float:
        """Accepted images per second of work."""
        return self.accepted / self.work


def bare_loops(out: Path, seed: int, processes: int) -> Run:
    """Run the slots through `processes` bare loops at once; the work ends with the last of them."""
    began = time.perf_counter()
    share = SLOTS // processes
    running = [
        _start(
            "tests.bench.ghi_loop",
            str(out / f"{i}.parquet"),
            "mini",
            str(i * share),
            str((i + 1) * share),
            f"seed={seed}",
        )
        for i in range(processes)
    ]
    found = [json.loads(_output(process).splitlines()[-1]) for process in running]
    whole = time.perf_counter() - began
    accepted, sampled = (sum(each[name] for each in found) for name in ("accepted", "sampled"))
    return Run(accepted, sampled, whole, max(each["seconds"] for each in found))


def job(out: Path, seed: int, workers: int) -> Run:
    """Run the slots as a job; the work lasts from the first shard's beginning to the last one's commit."""
    began = time.perf_counter()
    options = [f"n={SLOTS}", f"seed={seed}", f"shard_size={SHARD_SIZE}", f"workers={workers}"]
    sets = [word for option in options for word in ("--set", option)]
    _output(_start("pipelines", "ghi", "--config", "mini", "--out", str(out), *sets))
    whole = time.perf_counter() - began
    markers = [(path.stat().st_mtime, json.loads(path.read_text())) for path in (out / "done").glob("*.json")]
    first = min(at - done["seconds"]["total"] for at, done in markers)
    return Run(
        accepted=sum(done["accepted"] for _, done in markers),
        sampled=sum(done["accepted"] + done["rejected"] for _, done in markers),
        whole=whole,
        work=max(at for at, _ in markers) - first,
    )


def _start(module: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def _output(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate()
    assert process.returncode in (0, 1), process.args  # 1: some slots stay short, on both sides alike
    return out


@pytest.mark.bench
def test_job_against_bare_loops(tmp_path: Path) -> None:
    runs: dict[str, list[Run]] = {side: [] for side in SIDES}
    for turn in range(ROUNDS):
        for i, side in enumerate(SIDES):
            out = tmp_path / f"{turn}-{i}"
            out.mkdir()
            workers = 1 + i // 2
            run = (job if side.startswith("job") else bare_loops)(out, 1000 + turn, workers)
            runs[side].append(run)
            print(f"round {turn}: {side}: {run.rate:.3f} accepted images/s, {run}", flush=True)
    text = report(runs)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)
    print(text)
    assert ratio(runs, SIDES[1], SIDES[0]) >= 0.9
    assert ratio(runs, SIDES[3], SIDES[1]) >= 1.6
    assert ratio(runs, SIDES[3], SIDES[2]) >= 0.95


def ratio(runs: dict[str, list[Run]], one: str, other: str) -> float:
    """Median over the rounds of one side's rate over the other's in the same round."""
    return statistics.median(a.rate / b.rate for a, b in zip(runs[one], runs[other], strict=True))


def report(runs: dict[str, list[Run]]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# GHI job against a bare loop",
        "",
        f"{time.strftime('%Y-%m-%d')}, {_machine()}, Python {platform.python_version()}.",
        f"{SLOTS} slots a run, shards of {SHARD_SIZE}, miniature models, one thread a process;",
        f"{ROUNDS} rounds of all four sides in turn, medians.",
        "Both sides sample, decode, detect, score safety, gate, retry and write Parquet, with the same prompts and",
        "noise; only the job keeps a ledger and rejected images, checks its lease, leaves breadcrumbs, can be resumed.",
        "*work* is without start and loading.",
        "",
        "| side | accepted | sampled | whole s | work s | accepted images/s |",
        "|---|---|---|---|---|---|",
    ]
    for side, found in runs.items():
        cells = [statistics.median(getattr(run, name) for run in found) for name in ("accepted", "sampled")]
        times = [statistics.median(getattr(run, name) for run in found) for name in ("whole", "work", "rate")]
        lines.append(f"| {side} | {cells[0]:g} | {cells[1]:g} | {times[0]:.1f} | {times[1]:.1f} | {times[2]:.3f} |")
    lines += [
        "",
        f"- job over bare loop, one process each: **{ratio(runs, SIDES[1], SIDES[0]):.3f}** (at least 0.9)",
        f"- two workers over one: **{ratio(runs, SIDES[3], SIDES[1]):.2f}x** (at least 1.6)",
        f"- two workers over two bare loops: **{ratio(runs, SIDES[3], SIDES[2]):.3f}** (at least 0.95)",
        f"- two bare loops over one: {ratio(runs, SIDES[2], SIDES[0]):.2f}x (what this machine has to give)",
        "",
    ]
    return "\n".join(lines)


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{os.cpu_count()} cores of {model}"
