"""`humansd demo`: the whole pipeline on the embedded default, and where to look afterwards."""

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
from pipelines.options import say
from pipelines.status import read_status

SHARD_SIZE: Final = 30
"""Small shards, so that two workers have something to do; not smaller, as the end of each draws more than it needs."""

CARDS: Final = 24
INTERRUPTED: Final = 130


def run_demo(folder: Path, n: int, workers: int) -> int:
    """Make `n` samples and two contact sheets below `folder`; return the exit code. Running it again resumes.

    Raises UserError where the folder holds something else or cannot be written.
    """
    out = str(folder / "ghi")
    config = load_config(GhiConfig, "mini", [f"n={n}", f"workers={workers}", f"shard_size={SHARD_SIZE}"])
    say(f"generating {n} samples with the miniature models into {out}")
    report = run_ghi(config, out)
    if report.exit_code == INTERRUPTED:
        return report.exit_code
    dataset.write_index(out)
    sheets = {"shards": folder / "sheet.png", "rejected": folder / "rejected.png"}
    for kind, file in sheets.items():
        picked, total = rows.pick(out, "rejected" if kind == "rejected" else "shards", CARDS)
        word = "rejected candidates" if kind == "rejected" else "accepted samples"
        title = "What the gates rejected" if kind == "rejected" else "Generated people, their poses, their captions"
        save(draw_sheet([card_of(row) for row in picked], title, f"{len(picked)} of {total:,} {word} in {out}"), file)
    print(story(out, folder))
    return report.exit_code


def story(out: str, folder: Path) -> str:
    """Return what was made and what to try next."""
    status = read_status(out)
    quoted = shlex.quote(out)
    return f"""
{status.accepted:,} samples in {out}, from {status.accepted + status.rejected:,} images drawn

look at     {folder / "sheet.png"}      accepted images, their skeletons and captions
            {folder / "rejected.png"}   what was rejected, and why
in Python   pd.read_parquet("{out}/index.parquet")             every column but the images
            pd.read_parquet("{out}/shards/00000000.parquet")   one shard, images included
next        humansd status {quoted}
            humansd inspect {quoted} --sheet more.png --n 60 --seed 1
            humansd plan --n 10000 --from {quoted}
            humansd demo --out {shlex.quote(str(folder))} --n {status.n + 60}   (goes on from here)"""
