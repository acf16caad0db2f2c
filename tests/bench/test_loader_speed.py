"""`PoseShards` against the release's loader, webdataset and mosaicml-streaming, on the same pictures and poses.

    python -m tests.bench.test_loader_speed [--rows 200] [--rounds 5]

One process, one thread. Needs the extra `mm` (albumentations) and the group `dev` (webdataset); mosaicml-streaming,
of the group `bench`, is compared where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import pytest
import torch
from torch.utils.data import DataLoader

from pipelines.record import Sample
from pipelines.train.augment import Augment
from pipelines.train.data import PoseShards
from tests.bench import loader_sides as sides
from tests.bench.report import interleaved, median, table, write

BATCH: Final = 8
CASES: Final = {"512 x 512, as sampled": (512, 512), "sides of 512 to 1536, as collected": (512, 1536)}
OURS: Final = "PoseShards"
RELEASE: Final = "(a) the release's arithmetic: a picture file and an .npz a sample, Pillow, albumentations"
STREAMING: Final = "(b) mosaicml-streaming, decode and draw as ours"
WEBDATASET: Final = "(c) webdataset, decode and draw as ours"


@pytest.mark.bench
def test_the_loader_is_not_slower_than_the_others() -> None:
    for times in main(rows=200, rounds=5):
        assert times[RELEASE] >= 2
        assert times[WEBDATASET] >= 1
        assert times[STREAMING] >= 1  # mosaicml-streaming is in the group `bench`


def loaders(folder: Path, samples: Sequence[Sample]) -> dict[str, Callable[[], Iterable[dict[str, Any]]]]:
    """Store the samples in each layout; what opens them."""
    sides.write_shards(folder / "ours", samples)
    sides.write_files(folder / "files", samples)
    sides.write_webdataset(folder / "web", samples)
    load = partial(DataLoader, batch_size=BATCH)
    found: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {
        OURS: lambda: load(PoseShards([str(folder / "ours")], sides.SIZE, BATCH, 0, augment=Augment())),
        RELEASE: lambda: load(sides.ReleaseFiles(folder / "files"), shuffle=True),
    }
    if importlib.util.find_spec("streaming"):
        sides.write_streaming(folder / "mds", samples)
        rows = sides.StreamingRows(folder / "mds")
        found[STREAMING] = lambda: load(sides.Others(rows))
    found[WEBDATASET] = lambda: load(sides.Others(sides.WebRows(folder / "web")))
    return found


def run(open_loader: Callable[[], Iterable[dict[str, Any]]], rows: int) -> None:
    """Open a loader and take so many rows from it."""
    seen = 0
    for batch in open_loader():
        sides.touch(batch)
        seen += len(batch["key"])
        if seen >= rows:
            return
    assert seen >= rows


def main(rows: int, rounds: int) -> list[dict[str, float]]:
    """Run the comparison and write results/loader.md; returns, for each case, everybody's CPU time over ours."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    pytest.importorskip("albumentations")
    pytest.importorskip("webdataset")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    parts = [
        f"{rows} samples with 1 to 5 people, JPEG, to {sides.SIZE} px, batches of {BATCH}, one process, warm cache; "
        f"median of {rounds} interleaved rounds, each with opening. All augment as the paper does.",
    ]
    ratios = []
    for title, (least, most) in CASES.items():
        samples = sides.pictures(rows, least, most)
        with tempfile.TemporaryDirectory() as folder:
            found = loaders(Path(folder), samples)
            seconds = interleaved({name: partial(run, one, rows) for name, one in found.items()}, rounds)
        medians = {
            name: (median([r.wall for r in runs]), median([r.cpu for r in runs])) for name, runs in seconds.items()
        }
        ours = medians[OURS][1]
        ratios.append({name: cpu / ours for name, (_, cpu) in medians.items()})
        lines = [
            [name, f"{rows / cpu:.0f}", f"{rows / wall:.0f}", f"{cpu / ours:.2f}"]
            for name, (wall, cpu) in medians.items()
        ]
        size = sum(len(sample.image or b"") for sample in samples) / rows / 1000
        head = ["", "images per CPU second", "images per second", "CPU time, ours = 1"]
        parts += [f"## {title} ({size:.0f} KB a picture)", table(head, lines)]
    if not importlib.util.find_spec("streaming"):
        parts.append("mosaicml-streaming was not installed: not measured.")
    write("loader", "Loader", *parts)
    return ratios


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    main(**vars(parser.parse_args()))
