"""`humansd demo`: the whole pipeline on the embedded default, from prompts to a trained model, and where to look."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from pipelines import dataset
from pipelines.config import load_config
from pipelines.ghi.config import GhiConfig
from pipelines.ghi.job import run_ghi
from pipelines.inspect import rows
from pipelines.inspect.sheet import card_of, draw_sheet, save
from pipelines.laion.config import LaionConfig
from pipelines.laion.job import run_laion
from pipelines.options import say
from pipelines.status import read_status
from pipelines.train.config import TrainConfig

SHARD_SIZE: Final = 30
"""Small shards, so that two workers have something to do; not smaller, as the end of each draws more than it needs."""

STEPS: Final = 250
"""Training steps: some minutes on two cores, which show every part of a training and are too few to learn poses."""

CARDS: Final = 24
RUN: Final = "run"
MOST_TRAINERS: Final = 2
"""Workers that train at most: a batch is divided among them evenly."""
INTERRUPTED: Final = 130


def run_demo(folder: Path, n: int, workers: int) -> int:
    """Make `n` generated samples and a LAION-Human of the small web, and train on both, all below `folder`.

    Returns the exit code. Running it again resumes. Raises UserError where the folder holds something else or cannot be
    written.
    """
    ghi, laion = str(folder / "ghi"), str(folder / "laion")
    config = load_config(GhiConfig, "mini", [f"n={n}", f"workers={workers}", f"shard_size={SHARD_SIZE}"])
    say(f"generating {n} samples with the miniature models into {ghi}")
    report = run_ghi(config, ghi)
    if report.exit_code == INTERRUPTED:
        return report.exit_code
    _draw_sheets(ghi, folder / "sheet.png", "Generated people, their poses, their captions", folder / "rejected.png")
    say(f"collecting pictures of people from a small web on this machine, part of it hostile, into {laion}")
    collected = run_laion(load_config(LaionConfig, "mini", [], "laion"), laion)
    if collected.exit_code == INTERRUPTED:
        return collected.exit_code
    _draw_sheets(
        laion, folder / "laion.png", "Collected people, their poses, their captions", folder / "laion-rejected.png"
    )
    say(f"training the miniature model to follow poses, {STEPS} steps on both datasets, in {folder / RUN}")
    trained = train([ghi, laion], folder / RUN, workers)
    if trained == 0:
        print(story(ghi, laion, folder))
    return max(report.exit_code, collected.exit_code, trained)


def train(data: list[str], run: Path, workers: int) -> int:
    """Train on two datasets, or go on with it; returns the exit code."""
    from pipelines.train.run import run_train

    return run_train(train_config(workers), data, str(run), None, say)


def train_config(workers: int) -> TrainConfig:
    """The bundled training, cut short: checkpoints so often that little is lost when it is stopped, one large grid.

    In float32: bfloat16 wants instructions that not every CPU has.
    """
    values = {
        "steps": STEPS,
        "compute.workers": min(workers, MOST_TRAINERS),
        "compute.dtype": "float32",
        "output.checkpoint_every": 50,
        "output.grid_every": 0,
        "output.grid_samples": 8,
    }
    return load_config(TrainConfig, "mini", [f"{key}={value}" for key, value in values.items()], "train")


def _draw_sheets(out: str, accepted: Path, title: str, rejected: Path) -> None:
    """Write a dataset's index and two contact sheets."""
    dataset.write_index(out)
    for kind, file in (("shards", accepted), ("rejected", rejected)):
        picked, total = rows.pick(out, "rejected" if kind == "rejected" else "shards", CARDS)
        word = "rejected candidates" if kind == "rejected" else "accepted samples"
        heading = "What the gates rejected" if kind == "rejected" else title
        save(draw_sheet([card_of(row) for row in picked], heading, f"{len(picked)} of {total:,} {word} in {out}"), file)


def story(ghi: str, laion: str, folder: Path) -> str:
    """Return what was made and what to try next."""
    from pipelines.train.output import MODEL, grid_path
    from pipelines.train.report import REPORT

    made, found = read_status(ghi), read_status(laion)
    quoted, run = shlex.quote(ghi), folder / RUN
    both, named = f"{quoted} {shlex.quote(laion)}", shlex.quote(str(run))
    return f"""
{made.accepted:,} samples in {ghi}, from {made.accepted + made.rejected:,} images drawn
{found.accepted:,} samples in {laion}, from {found.accepted + found.rejected:,} addresses
a model in {run / MODEL}, {STEPS} steps on these {made.accepted + found.accepted:,} pictures: it shows the way,
    not the quality; following poses takes more of both

look at     {folder / "sheet.png"}      accepted images, their skeletons and captions
            {folder / "rejected.png"}   what was rejected, and why
            {folder / "laion.png"}, {folder / "laion-rejected.png"}   the same of what was collected
            {grid_path(run, STEPS)}   skeleton, picture, what the model draws from them
            {run / REPORT}   curves of the training
in Python   pd.read_parquet("{ghi}/index.parquet")             every column but the images
            pd.read_parquet("{laion}/shards/00000000.parquet")   one shard, images included
next        humansd status {quoted}
            humansd inspect {quoted} --sheet more.png --n 60 --seed 1
            humansd plan --n 10000 --from {quoted}
            humansd sample --model {named} --prompt "a mural of a man waving hello" --poses {quoted}:0:3 --out a.png
            humansd train --data {both} --out longer   (1,500 steps in place of {STEPS})
            humansd demo --out {shlex.quote(str(folder))} --n {made.n + 60}   (more data, goes on from here)"""
