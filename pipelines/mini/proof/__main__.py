"""`python -m pipelines.mini.proof --run DIR`: draw the data, train every model, evaluate them, write the report.

HumanSD is trained and all are measured by the commands that users have. Run again, it goes on with what is missing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipelines.mini.proof.data import HELD_OUT, write_set
from pipelines.mini.proof.report import write_report
from pipelines.mini.proof.rivals import RIVAL_KINDS

CONFIG: Final = Path(__file__).with_name("proof.toml")
HEATS: Final = ("none", "keypoints", "detector")
SEEDS: Final = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Run:
    """A training. given: how `humansd evaluate` is told of what it leaves. command: the arguments of Python."""

    name: str
    given: str
    command: tuple[str, ...]


def main() -> None:
    """Everything, in order."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--run", type=Path, required=True, help="folder for data, models and figures")
    options.add_argument("--processes", type=int, default=2, help="trainings at a time, one core each")
    options.add_argument("--steps", type=int, help="of each training, in place of the config's")
    options.add_argument("--pictures", type=int, default=4000, help="drawn pictures to train on")
    options.add_argument("--held-out", type=int, default=300, help="drawn pictures whose poses are asked for")
    options.add_argument("--only", nargs="*", help="trainings to make, by name; then stop")
    args = options.parse_args()
    data, held_out = prepare(args.run, args.pictures, args.held_out)
    runs = plan(args.run, data, args.steps)
    chosen = [run for run in runs if not args.only or run.name in args.only]
    with ThreadPoolExecutor(args.processes) as pool:
        list(pool.map(lambda run: call(*run.command, log=args.run / f"{run.name}.log"), chosen))
    if args.only:
        return
    out = args.run / "evaluation"
    cli(
        "evaluate",
        "--models",
        "mini",
        *(run.given for run in runs),
        "--data",
        str(held_out),
        "--out",
        str(out),
        say=True,
    )
    write_report(out, args.run, {run.given: run.name for run in runs})


def prepare(run: Path, pictures: int, held_out: int) -> tuple[Path, Path]:
    """Draw and import both sets, and compute the latents of the first; return their datasets."""
    outs = []
    for name, first, count in (("training", 0, pictures), ("held-out", HELD_OUT, held_out)):
        drawn, out = run / f"{name}-drawn", run / name
        annotations = write_set(drawn, first, count)
        cli("humanart", "--root", str(drawn), "--ann", str(annotations), "--out", str(out))
        outs.append(out)
    cli("train", "cache", "--config", str(CONFIG), "--data", str(outs[0]), "--workers", "2")
    return outs[0], outs[1]


def plan(run: Path, data: Path, steps: int | None) -> list[Run]:
    """All trainings, the first seed of each first."""
    changed = [] if steps is None else ["--set", f"steps={steps}"]
    runs = []
    for seed in SEEDS:
        for heat in HEATS:
            name = f"{heat}-{seed}"
            values = ("--set", f"loss.heat={heat}", "--set", f"seed={seed}", *changed)
            arguments = ("--config", str(CONFIG), "--data", str(data), "--out", str(run / name))
            runs.append(Run(name, str(run / name), ("-m", "pipelines", "train", *arguments, *values)))
        for kind in RIVAL_KINDS if seed == 0 else ():
            prefix = "" if kind == "plain" else f"{kind}:"
            told = (kind, "--data", str(data), "--out", str(run / kind), *changed)
            runs.append(Run(kind, f"{prefix}{run / kind}", ("-m", "pipelines.mini.proof.rival", *told)))
    return runs


def call(*arguments: str, log: Path | None = None, say: bool = False) -> None:
    """Run Python; what it says goes into the log. Raises SystemExit where it failed."""
    done = subprocess.run(
        [sys.executable, *arguments], stdout=None if say else subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if log is not None and not say:
        log.write_bytes(done.stdout)
    if done.returncode:
        told = (done.stdout or b"").decode(errors="replace")
        sys.exit(f"{' '.join(arguments)} failed with {done.returncode}\n{told[-2000:]}")


def cli(*arguments: str, say: bool = False) -> None:
    """Run a command of humansd."""
    call("-m", "pipelines", *arguments, say=say)


if __name__ == "__main__":
    main()
