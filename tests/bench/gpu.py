"""Sampling and training on one GPU, full-size Stable Diffusion 2.1: `python -m tests.bench.gpu`, under ten minutes.

Weights are random and made on the spot, nothing is downloaded; writes results/gpu.md. `--device cpu --tiny` does the
same with a model of a few channels, to see that it runs, and prints the page. The loss's detector is HigherHRNet-w48
where the extra `mm` is installed, else mini-pose.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch

from pipelines.checkpoint import ModelConfig, SamplerConfig, resolve
from pipelines.sampling import Pixels, Sampler
from tests.bench.random_sd import save_random_sd
from tests.bench.report import median, table, write
from tests.bench.test_train_step import BARS, describe
from tests.bench.train_sides import SCALES, SIDES, Scale, Sides

STEPS: Final = 20
SAMPLERS: Final = (
    SamplerConfig(steps=STEPS, batch_size=1, dtype="float16", channels_last=True),
    SamplerConfig(steps=STEPS, batch_size=4, dtype="float16", channels_last=True),
    SamplerConfig(steps=STEPS, batch_size=8, dtype="float16", channels_last=True),
    SamplerConfig(steps=STEPS, batch_size=16, dtype="float16", channels_last=True),
    SamplerConfig(steps=STEPS, batch_size=8, dtype="float16"),
    SamplerConfig(steps=STEPS, batch_size=8, dtype="bfloat16", channels_last=True),
    SamplerConfig(steps=STEPS, batch_size=8, dtype="float32"),
    SamplerConfig(steps=STEPS, batch_size=8, dtype="float16", channels_last=True, compile=True),
)
TINY_SAMPLERS: Final = (SamplerConfig(steps=2, batch_size=1), SamplerConfig(steps=2, batch_size=2, channels_last=True))
ROUNDS: Final = 5


def seconds(run: Callable[[], object], rounds: int) -> float:
    """Median seconds on the wall's clock, after two runs: kernels are chosen, the optimizer makes its state."""
    taken = []
    for number in range(rounds + 2):
        began = time.perf_counter()
        run()
        if number >= 2:
            taken.append(time.perf_counter() - began)
    return median(taken)


def measured(build: Callable[[], Callable[[], object]], device: str, rounds: int) -> tuple[float, float] | None:
    """Median seconds, and peak memory (GB) of the device (0 on a CPU), of what `build` makes; None if too large.

    What earlier ones left on the device is let go of first.
    """
    gc.collect()
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        taken = seconds(build(), rounds)
    except torch.cuda.OutOfMemoryError:
        return None
    return taken, torch.cuda.max_memory_allocated(device) / 1e9 if cuda else 0.0


def draw(sampler: Sampler) -> list[Pixels]:
    """One batch."""
    count = sampler.batch_size
    prompts = ["an oil painting of two women dancing in a park at noon"] * count
    return sampler.sample(prompts, ["blurry"] * count, range(count))


def sampling(folder: Path, device: str, configs: Sequence[SamplerConfig], rounds: int) -> str:
    """A table of images a second by batch, dtype, memory layout and compilation, decoding included."""
    checkpoint, rows = resolve(ModelConfig(id=str(folder))), []
    for config in configs:

        def build(config: SamplerConfig = config) -> Callable[[], object]:
            sampler = Sampler(checkpoint, config, device)
            return lambda: draw(sampler)

        found = measured(build, device, rounds)
        speed, memory = (
            ("does not fit", "") if found is None else (f"{config.batch_size / found[0]:.2f}", f"{found[1]:.1f}")
        )
        layout, compiled = ("yes" if on else "no" for on in (config.channels_last, config.compile))
        rows.append([str(config.batch_size), config.dtype, layout, compiled, speed, memory])
    return table(["batch", "dtype", "channels last", "compiled", "images/s", "peak memory, GB"], rows)


def same_twice(folder: Path, device: str, config: SamplerConfig) -> str:
    """Whether two samplers, each loaded anew, draw the same bytes."""
    one, other = (draw(Sampler(resolve(ModelConfig(id=str(folder))), config, device)) for _ in range(2))
    equal = all((a == b).all() for a, b in zip(one, other, strict=True))
    found = "the same" if equal else "other"
    return f"The same prompts and seeds twice, each time loaded anew ({config.dtype}): {found} bytes."


def training(scale: Scale, device: str, dtype: torch.dtype, rounds: int) -> list[str]:
    """Tables of the training sides, each built alone, and of their ratios."""
    times: dict[str, float] = {}
    rows = []
    for name in SIDES:

        def build(name: str = name) -> Callable[[], object]:
            return Sides(scale, device, dtype).build(name)

        found = measured(build, device, rounds)
        if found is None:
            rows.append([name, "does not fit", ""])
            continue
        times[name] = found[0]
        rows.append([name, f"{found[0]:.4f}", f"{found[1]:.1f}"])
    bars = [
        [f"{one} / {other}", f"{times[one] / times[other]:.2f}", f"{most or ''}"]
        for one, other, most in BARS
        if one in times and other in times
    ]
    return [table(["", "seconds a step", "peak memory, GB"], rows), table(["", "time", "at most"], bars)]


def pages(device: str, tiny: bool, folder: Path) -> list[str]:
    """The parts of the results page. folder: where the model is written meanwhile."""
    scale = SCALES["tiny" if tiny else "sd21"]
    if importlib.util.find_spec("mmpose") is None:
        scale = dataclasses.replace(scale, detector="mini-pose")
    configs, rounds = (TINY_SAMPLERS, 1) if tiny else (SAMPLERS, ROUNDS)
    dtype = torch.float32 if tiny else torch.bfloat16
    save_random_sd(folder, scale.divisor, scale.pixels, device)
    cuda = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else "CPU"
    return [
        f"{name}, torch {torch.__version__}; random weights; medians of {rounds} after two that are not counted.",
        f"## Sampling, {configs[0].steps} steps of DPM-Solver++ with guidance, {scale.pixels} x {scale.pixels} px",
        sampling(folder, device, configs, rounds),
        same_twice(folder, device, configs[1]),
        f"## Training: {describe(scale)}; {str(dtype).removeprefix('torch.')} under autocast",
        *training(scale, device, dtype, rounds),
    ]


def main(device: str, tiny: bool) -> None:
    """Measure, then write results/gpu.md; tiny: print it."""
    with tempfile.TemporaryDirectory() as folder:
        found = pages(device, tiny, Path(folder) / "model")
    if tiny:
        print("\n\n".join(found))
    else:
        write("gpu", "One GPU", *found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    main(**vars(parser.parse_args()))
