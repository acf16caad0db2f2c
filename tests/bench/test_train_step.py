"""Time and memory of a training step and of a sampling step, beside the release's arithmetic and ControlNet.

    python -m tests.bench.test_train_step [--rounds 3] [--scales sd21/4 mini]

One thread. Needs the extra `mm` (HigherHRNet's backbone).
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
from collections.abc import Mapping, Sequence
from typing import Final

import pytest
import torch

from tests.bench import train_sides as sides
from tests.bench.report import Seconds, interleaved, median, table, write
from tests.bench.train_sides import SCALES, Scale, Sides, names_of, peak_megabytes

FULL: Final = "sd21/4"
BARS: Final = (
    (sides.KEYPOINTS, sides.PLAIN, 1.1),
    (sides.DETECTOR, sides.RELEASE, 0.7),
    (sides.DETECTOR_AE, sides.RELEASE_AE, 0.7),
    (sides.DETECTOR, sides.RELEASE_LESS, None),
    (sides.STORED_DETECTOR, sides.RELEASE, None),
    (sides.MASK, sides.RELEASE_MASK, None),
    (sides.STORED_PLAIN, sides.STORED_CONTROL, 0.9),
    (sides.STORED_PLAIN, sides.STORED_CONTROL_FUSED, None),
    (sides.PLAIN, sides.CONTROL, None),
    (sides.SAMPLE, sides.CONTROL_SAMPLE, 0.75),
)
"""What is compared: one side, another, and the most that the first may take of the other's time."""

PARTIAL: Final = (sides.MASK, sides.RELEASE_MASK, sides.RELEASE_LESS)
"""What nobody runs as it is: its memory says nothing."""

HOW: Final = """\
CPU time of one thread, float32, {rounds} interleaved rounds after one that is thrown away, medians. A training step:
loss, gradients, AdamW, no gradient checkpointing. Peak memory: the most that a process holds that makes two steps of
this side and nothing else, its libraries included."""
RELEASE: Final = """\
*The release's arithmetic* is a step of HumanSD's public code with the same networks: it encodes picture and skeleton
and decodes the error as ours does; beyond ours it sends the mask through the VAE encoder, and decodes the clean latent
to a reconstruction that is not used; its detector keeps its batch normalisation, which ours puts into convolutions.
ControlNet is diffusers' own: UNet frozen, gradients through its decoder into the copy, skeleton as a picture, PyTorch's
default AdamW as in diffusers' example, or the fused one, which ours takes. *Stored latents*: what `humansd train cache`
stores in place of pictures and captions; here the UNet is all that is left to compare, besides what ControlNet does to
the skeleton's picture."""


@pytest.mark.bench
def test_steps_are_as_cheap_as_promised() -> None:
    pytest.importorskip("mmpose")
    found = main(rounds=3, scales=[FULL, "mini"])[FULL]
    missed = [
        f"{one} / {other}: {found[one, other]:.2f} > {most}"
        for one, other, most in BARS
        if most and found[one, other] > most
    ]
    assert not missed


def ratios(seconds: Mapping[str, Sequence[Seconds]]) -> dict[tuple[str, str], list[float]]:
    """CPU time of one side over the other's, round by round."""
    return {
        (one, other): [a.cpu / b.cpu for a, b in zip(seconds[one], seconds[other], strict=True)]
        for one, other, _ in BARS
        if one in seconds
    }


def describe(scale: Scale) -> str:
    """A scale in words."""
    size = "Stable Diffusion 2.1" if scale.divisor else "the miniature Stable Diffusion"
    if scale.divisor > 1:
        size += f", channels of all networks over {scale.divisor}"
    return f"{size}; {scale.pixels} x {scale.pixels} px, {scale.batch} a step, heat of {scale.detector}"


def peaks(scale: str) -> dict[str, float]:
    """Peak memory (MB) of each whole step, each in a process of its own."""
    names = [name for name in names_of(SCALES[scale]) if name not in PARTIAL]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([peak_megabytes.__module__])
    with context.Pool(1, maxtasksperchild=1) as pool:
        return dict(zip(names, pool.map(functools.partial(peak_megabytes, scale), names, chunksize=1), strict=True))


def measure(scale: str, rounds: int) -> tuple[dict[tuple[str, str], float], list[str]]:
    """Time one scale; return the median ratios and the parts of the page."""
    memory = peaks(scale)
    shared = Sides(SCALES[scale])
    seconds = interleaved({name: shared.build(name) for name in names_of(SCALES[scale])}, rounds)
    found = ratios(seconds)
    rows = [
        [name, f"{median([run.cpu for run in runs]):.3f}", f"{memory[name]:,.0f}" if name in memory else ""]
        for name, runs in seconds.items()
    ]
    bars = [
        [f"{one} / {other}", f"{median(each):.2f} ({min(each):.2f}-{max(each):.2f})", f"{most or ''}"]
        for one, other, most in BARS
        if (each := found.get((one, other)))
    ]
    return {pair: median(each) for pair, each in found.items()}, [
        f"## {describe(SCALES[scale])}",
        table(["", "seconds a step", "peak memory, MB"], rows),
        table(["", "time", "at most"], bars),
    ]


def main(rounds: int, scales: Sequence[str]) -> dict[str, dict[tuple[str, str], float]]:
    """Run and write results/train_step.md; return the median ratios of each scale."""
    torch.set_num_threads(1)
    found, parts = {}, [HOW.format(rounds=rounds), RELEASE]
    for scale in scales:
        found[scale], page = measure(scale, rounds)
        parts += page
    write("train_step", "Training and sampling steps", *parts)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scales", nargs="+", choices=SCALES, default=[FULL, "mini"])
    main(**vars(parser.parse_args()))
