"""`PoseShards` against the release's loader, webdataset and mosaicml-streaming, on the same pictures and poses.

    python -m tests.bench.test_loader_speed [--rows 200] [--rounds 5]

Each in a process of its own, of one thread. Needs the extra `mm` (albumentations) and the group `dev` (webdataset);
mosaicml-streaming, of the group `bench`, is compared where it is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from pipelines.record import Sample
from tests.bench import loader_sides as sides
from tests.bench.apart import apart, in_turns
from tests.bench.report import Seconds, median, table, write

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


def compare(samples: Sequence[Sample], rounds: int) -> dict[str, list[Seconds]]:
    """Store the samples in each layout and read them all from each in turns."""
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as stack:
        folder = Path(root)
        sides.write_shards(folder / "ours", samples)
        sides.write_files(folder / "files", samples)
        sides.write_webdataset(folder / "web", samples)
        names = {OURS: "ours", RELEASE: "files", WEBDATASET: "webdataset"}
        if importlib.util.find_spec("streaming"):
            sides.write_streaming(folder / "mds", samples)
            names[STREAMING] = "streaming"
        found: dict[str, Callable[[int], Seconds]] = {}
        for name, side in names.items():
            process = stack.enter_context(apart("tests.bench.loader_sides", side, root, str(len(samples))))
            found[name] = lambda turn, process=process: process(str(turn))  # type: ignore[misc]
        return in_turns(found, rounds)


def main(rows: int, rounds: int) -> list[dict[str, float]]:
    """Run the comparison and write results/loader.md; returns, for each case, everybody's CPU time over ours."""
    pytest.importorskip("albumentations")
    pytest.importorskip("webdataset")
    parts = [
        f"{rows} samples with 1 to 5 people, JPEG, to {sides.SIZE} px, batches of {sides.BATCH} of floats in [-1, 1], "
        "one process for each, one thread, warm cache, memory kept by malloc; "
        f"median of {rounds} interleaved rounds, each with opening. All augment as the paper does.",
    ]
    ratios = []
    for title, (least, most) in CASES.items():
        samples = sides.pictures(rows, least, most)
        seconds = compare(samples, rounds)
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
