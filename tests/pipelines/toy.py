"""A source without models, whose workers can be told to misbehave; and a driver for it in its own process.

    python -m tests.pipelines.toy OUT '{"n": 40, "workers": 2}'

prints the job's report as JSON and exits with the job's exit code (2 and one line on stderr for a user's mistake).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from detectors.types import Person
from pipelines.config import UserError
from pipelines.job import Job, JobReport, Runtime
from pipelines.record import KILLED_WORKER, WORKER_STAGE, LedgerRow, Rejected, Sample
from pipelines.work import ShardContext, ShardResult, Work

HASH = "0123456789abcdef"
OPEN_BATCH = 4


def sample_key(index: int) -> str:
    return f"toy-{HASH[:8]}-{index}"


def make_sample(index: int, attempt: int, image_bytes: int = 64) -> Sample:
    """A sample that follows from (index, attempt) alone; its "image" is noise."""
    rng = np.random.default_rng([index, attempt])
    person = Person((1.0, 2.0, 30.0, 60.0), 0.5, 954.0, rng.random((17, 3), dtype=np.float32))
    key = sample_key(index)
    return Sample(
        key, "toy", rng.bytes(image_bytes), f"{key}.png", 8, 8, f"toy {index}", (person,) * (index % 3), phash=index
    )


def is_good(index: int, attempt: int) -> bool:
    """Whether a candidate is accepted: two of three are, at random."""
    return hashlib.sha256(f"{index} {attempt}".encode()).digest()[0] % 3 > 0


@dataclass(frozen=True)
class Toy:
    """How to run, and how to misbehave. Paths are of local files that all processes share.

    pause: seconds a batch. log: each candidate that runs is noted here. kill, fail: candidates (`<index>#<attempt>`)
    that end their process or raise. bad: the first process that creates this file raises, hangs or dies
    (`bad_way`) on every shard. no_start: make_work raises. places: where each shard is begun is noted here, as JSON
    (shard, node, gpu, pid). hold: shards wait until there is this file.
    """

    pause: float = 0.0
    log: str = ""
    kill: tuple[str, ...] = ()
    fail: tuple[str, ...] = ()
    bad: str = ""
    bad_way: str = "raise"
    no_start: str = ""
    places: str = ""
    hold: str = ""
    image_bytes: int = 64

    def __call__(self) -> Work:
        if self.no_start == "user":
            raise UserError("no such model: toy")
        if self.no_start:
            raise RuntimeError("cannot load the model")
        bad = bool(self.bad) and _create(Path(self.bad))

        def work(context: ShardContext) -> ShardResult:
            if bad:
                _misbehave(self.bad_way)
            if self.places:
                _note_place(Path(self.places), context.task.index)
            while self.hold and not Path(self.hold).exists():
                time.sleep(0.05)
            return fill_slots(context, self._run, self.pause, self.image_bytes)

        return work

    def _run(self, name: str) -> None:
        if self.log:
            with Path(self.log).open("a") as log:
                log.write(f"{name}\n")
        if name in self.kill:
            os._exit(1)
        if name in self.fail:
            print(f"about to make {name}", file=sys.stderr)
            raise ValueError(f"cannot make {name}")


def fill_slots(
    context: ShardContext, run: Callable[[str], None], pause: float = 0.0, image_bytes: int = 64
) -> ShardResult:
    """Fill a shard's slots, four candidates at a time."""
    task = context.task
    before = context.previous or ShardResult()
    accepted = {sample.key: sample for sample in before.accepted}
    ledger = list(before.ledger)
    rejected = list(before.rejected)
    tried = Counter(row.key for row in ledger)
    sampled = 0
    while True:
        slots = [i for i in range(task.start, task.stop) if sample_key(i) not in accepted]
        slots = [i for i in slots if tried[sample_key(i)] < task.max_attempts][:OPEN_BATCH]
        if not slots:
            break
        batch = {f"{i}#{tried[sample_key(i)] + 1}": i for i in slots}
        reasons = {name: (WORKER_STAGE, KILLED_WORKER) for name in batch if name in task.quarantined}
        for live in context.rounds(list(batch)):
            time.sleep(pause)
            for name in live:
                run(name)
                sampled += 1
        for name, index in batch.items():
            attempt = int(name.split("#")[1])
            sample = make_sample(index, attempt, image_bytes)
            tried[sample.key] += 1
            if name not in reasons and is_good(index, attempt):
                accepted[sample.key] = sample
                continue
            stage, reason = reasons.get(name, ("gate", "coin"))
            ledger.append(LedgerRow(sample.key, task.index, attempt, stage, reason, {"coin": float("nan")}))
            if name not in reasons:
                rejected.append(Rejected(sample, stage, reason, attempt))
    order = {sample_key(i): i for i in range(task.start, task.stop)}
    return ShardResult(
        accepted=[accepted[key] for key in order if key in accepted],
        rejected=sorted(rejected, key=lambda row: (order[row.sample.key], row.attempt)),
        ledger=sorted(ledger, key=lambda row: (order[row.key], row.attempt)),
        seconds={"toy": 0.0},
        counts={
            "sampled": sampled,
            "threads": int(os.environ.get("OMP_NUM_THREADS", 0)),
            "mimalloc": int(pa.default_memory_pool().backend_name == "mimalloc"),
        },
        short=[key for key in order if key not in accepted],
    )


def make_job(out: str, n: int, shard_size: int, max_attempts: int, seed: int = 0) -> Job:
    """A toy dataset's job; seed is its identity."""
    named = {"seed": seed, "shard_size": shard_size}
    digest = hashlib.sha256(json.dumps(named).encode()).hexdigest()
    return Job(out, "toy", named, digest, {"n": n, **named}, n, shard_size, max_attempts)


def _note_place(places: Path, shard: int) -> None:
    import ray

    node, gpu = ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    with places.open("a") as file:
        file.write(json.dumps({"shard": shard, "node": node, "gpu": gpu, "pid": os.getpid()}) + "\n")


def _create(path: Path) -> bool:
    try:
        path.open("x").close()
    except FileExistsError:
        return False
    return True


def _misbehave(way: str) -> None:
    if way == "raise":
        raise RuntimeError("this worker is broken")
    if way == "die":
        os._exit(3)
    time.sleep(3600)


def main() -> int:
    from pipelines.engine import run_job

    out, options = sys.argv[1], json.loads(sys.argv[2])
    given = {kind: {f.name: options.pop(f.name) for f in fields(kind) if f.name in options} for kind in (Toy, Runtime)}
    shards = options.pop("shards", None)
    n, shard_size = options.pop("n", 40), options.pop("shard_size", 8)
    job = make_job(out, n, shard_size, options.pop("max_attempts", 8), options.pop("seed", 0))
    assert not options, options
    toy_options: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given[Toy].items()}
    toy = Toy(**toy_options)
    try:
        report: JobReport = run_job(
            job if shards is None else Job(**{**job.__dict__, "shards": range(*shards)}), toy, Runtime(**given[Runtime])
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(asdict(report)))
    return report.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
