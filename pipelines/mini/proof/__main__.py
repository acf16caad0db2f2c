"""`python -m pipelines.mini.proof --run DIR`: draw the data, train every model, evaluate them, write the report.

HumanSD is trained and all are measured by the commands that users have. Run again, it goes on with what is missing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipelines.mini.proof.data import HELD_OUT as FIRST_HELD_OUT
from pipelines.mini.proof.data import write_set
from pipelines.mini.proof.report import write_report
from pipelines.mini.proof.rivals import RIVAL_KINDS

CONFIG: Final = Path(__file__).resolve().with_name("proof.toml")
ROOT: Final = CONFIG.parents[3]
TRAINING, HELD_OUT, EVALUATION = "training", "held-out", "evaluation"
HEATS: Final = ("none", "keypoints", "detector")
SEEDS: Final = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Run:
    """A training. given: how `humansd evaluate` is told of what it leaves. command: the arguments of Python."""

    name: str
    given: str
    command: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether its model is there: a log of it says how long that took."""
        return Path(self.name if self.name in RIVAL_KINDS else f"{self.name}/model").is_dir()


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
    args.run.mkdir(parents=True, exist_ok=True)
    os.chdir(args.run)  # so that the evaluation calls the models by their names
    prepare(args.pictures, args.held_out)
    runs = plan(args.steps)
    chosen = [run for run in runs if (not args.only or run.name in args.only) and not run.is_done]
    with ThreadPoolExecutor(args.processes) as pool:
        list(pool.map(lambda run: call(*run.command, log=Path(f"{run.name}.log")), chosen))
    if args.only:
        return
    cli("evaluate", "--models", "mini", *(run.given for run in runs), "--data", HELD_OUT, "--out", EVALUATION, say=True)
    write_report(Path(EVALUATION), {run.given: run.name for run in runs})


def prepare(pictures: int, held_out: int) -> None:
    """Draw and import both sets, and compute the latents of the first."""
    for out, first, count in ((TRAINING, 0, pictures), (HELD_OUT, FIRST_HELD_OUT, held_out)):
        drawn = f"{out}-drawn"
        annotations = write_set(Path(drawn), first, count)
        cli("humanart", "--root", drawn, "--ann", str(annotations), "--out", out)
    cli("train", "cache", "--config", str(CONFIG), "--data", TRAINING, "--workers", "2")


def plan(steps: int | None) -> list[Run]:
    """All trainings, the first seed of each first."""
    changed = [] if steps is None else ["--set", f"steps={steps}"]
    runs = []
    for seed in SEEDS:
        for heat in HEATS:
            name = f"{heat}-{seed}"
            values = ("--set", f"loss.heat={heat}", "--set", f"seed={seed}", *changed)
            arguments = ("--config", str(CONFIG), "--data", TRAINING, "--out", name)
            runs.append(Run(name, name, ("-m", "pipelines", "train", *arguments, *values)))
        for kind in RIVAL_KINDS if seed == 0 else ():
            given = kind if kind == "plain" else f"{kind}:{kind}"
            told = (kind, "--data", TRAINING, "--out", kind, *changed)
            runs.append(Run(kind, given, ("-m", "pipelines.mini.proof.rival", *told)))
    return runs


def call(*arguments: str, log: Path | None = None, say: bool = False) -> None:
    """Run Python; what it says goes into the log. Raises SystemExit where it failed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        stdout=None if say else subprocess.PIPE,
        stderr=None if say else subprocess.STDOUT,
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
