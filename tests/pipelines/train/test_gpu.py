"""The trainer on a CUDA device, Stable Diffusion 2.1 at full width where that says more: `pytest -m gpu`."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipelines import cli
from pipelines.checkpoint import MINI_FOLDER
from pipelines.train import curves
from pipelines.train.listing import list_shards, to_json
from pipelines.train.loop import Place, train
from pipelines.train.model import load_parts
from tests.bench import train_sides
from tests.bench.train_sides import SCALES, Sides
from tests.pipelines.small_dataset import write_dataset
from tests.pipelines.train.tiny import results, start_and_kill, task

STEPS = 5
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
LOSSES = (train_sides.PLAIN, train_sides.KEYPOINTS, train_sides.DETECTOR, train_sides.CONTROL)


def full(device: str) -> Sides:
    """SD 2.1 as it is, one picture a step, on a GPU; a model of a few channels on a CPU."""
    if device == "cpu":
        return Sides(SCALES["tiny"])
    scale = dataclasses.replace(SCALES["sd21"], batch=1)
    if importlib.util.find_spec("mmpose") is None:
        scale = dataclasses.replace(scale, detector="mini-pose")
    return Sides(scale, device, torch.bfloat16)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_step_moves_what_is_trained_and_nothing_else(device: str, name: str) -> None:
    sides = full(device)
    control = name == train_sides.CONTROL
    step = sides.build(name)
    trained, frozen = (sides.control, sides.base.unet) if control else (sides.parts.unet, sides.base.vae)
    before = [weight.detach().clone() for weight in trained.parameters()]
    kept = [weight.detach().clone() for weight in frozen.parameters()]
    step()
    after = list(trained.parameters())
    assert all(torch.isfinite(weight).all() for weight in after)
    moved = sum(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert moved > (0 if control else 0.95 * len(before))  # a ControlNet's first step moves its zero convolutions only
    assert all(torch.equal(old, new) for old, new in zip(kept, frozen.parameters(), strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("heat", ["none", "keypoints", "detector"])
def test_the_losses_are_those_of_a_cpu(heat: str) -> None:
    def losses(device: str) -> list[float]:
        sides = Sides(SCALES["mini"], device)
        found = sides.objective(heat)(sides.parts.unet, sides.pictures, sides.draws(sides.parts))
        return [float(found.plain), float(found.weighted)]

    assert losses("cuda") == pytest.approx(losses("cpu"), rel=1e-3)


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Between the weights that `other` names."""
    return math.sqrt(sum(float((one[name].cpu() - value.cpu()).square().sum()) for name, value in other.items()))


@pytest.mark.gpu
def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    """Batches, noise and times are the same to the bit; sums on a GPU need not be."""
    write_dataset(tmp_path / "ghi", 2)
    (tmp_path / "listing.json").write_text(to_json(list_shards([str(tmp_path / "ghi")])), encoding="utf-8")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(task(whole, STEPS), Place(device="cuda"))
    start_and_kill(killed, STEPS, 3, "cuda")
    train(task(killed, STEPS), Place(device="cuda"))
    losses = [[point.loss for point in curves.read(run)] for run in (whole, killed)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    start = load_parts(MINI_FOLDER).unet.state_dict()
    expected, found = results(whole, STEPS), results(killed, STEPS)
    assert expected.keys() == found.keys()
    trained = distance(expected, start)
    apart = distance(expected, {name: found[name] for name in start})
    print(f"apart by {apart / trained:.2g} of what was trained")
    assert apart < 0.1 * trained


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), CUDA])
def test_the_command_trains_and_samples(device: str, tmp_path: Path) -> None:
    """All that saves memory or time at once, on Ray, with processes that load."""
    data, run, grid = tmp_path / "ghi", tmp_path / "run", tmp_path / "grid.png"
    write_dataset(data, 2)
    sets = [
        *("steps=4", "batch_size=8", "loss.heat=detector", "data.loaders=2", "output.log_every=1"),
        *(f"compute.gpus_per_worker={int(device == 'cuda')}", "compute.dtype=bfloat16", "compute.accumulation=2"),
        *("compute.gradient_checkpointing=true", "compute.compile=true", "output.grid_every=2"),
    ]
    given = [part for one in sets for part in ("--set", one)]
    assert cli.main(["train", "--data", str(data), "--out", str(run), *given]) == 0
    points = curves.read(run)
    assert [point.step for point in points] == [1, 2, 3, 4]
    assert all(math.isfinite(point.loss) and not point.skipped for point in points)
    assert len(list(run.glob("grids/*.png"))) == 2
    pose = ["--poses", f"{data}:0:0", "--prompt", "a mural of a dancer", "--n", "1"]
    assert cli.main(["sample", "--model", str(run), *pose, "--out", str(grid)]) == 0
    assert grid.stat().st_size > 1000
