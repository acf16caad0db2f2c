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
from pipelines.laion.config import LaionConfig
from pipelines.laion.job import run_laion
from pipelines.options import say
from pipelines.status import read_status

SHARD_SIZE: Final = 30
"""Small shards, so that two workers have something to do; not smaller, as the end of each draws more than it needs."""

CARDS: Final = 24
INTERRUPTED: Final = 130


def run_demo(folder: Path, n: int, workers: int) -> int:
    """Make `n` generated samples and a LAION-Human of the small web, with contact sheets, below `folder`.

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
    print(story(ghi, laion, folder))
    return max(report.exit_code, collected.exit_code)


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
    made, found = read_status(ghi), read_status(laion)
    quoted = shlex.quote(ghi)
    return f"""
{made.accepted:,} samples in {ghi}, from {made.accepted + made.rejected:,} images drawn
{found.accepted:,} samples in {laion}, from {found.accepted + found.rejected:,} addresses

look at     {folder / "sheet.png"}      accepted images, their skeletons and captions
            {folder / "rejected.png"}   what was rejected, and why
            {folder / "laion.png"}, {folder / "laion-rejected.png"}   the same of what was collected
in Python   pd.read_parquet("{ghi}/index.parquet")             every column but the images
            pd.read_parquet("{laion}/shards/00000000.parquet")   one shard, images included
next        humansd status {quoted}
            humansd inspect {quoted} --sheet more.png --n 60 --seed 1
            humansd plan --n 10000 --from {quoted}
            humansd demo --out {shlex.quote(str(folder))} --n {made.n + 60}   (goes on from here)"""
