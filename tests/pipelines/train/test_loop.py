from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.multiprocessing.spawn import spawn

from pipelines.config import UserError
from pipelines.train import checkpoints, curves
from pipelines.train.config import OptimizerConfig
from pipelines.train.data import PoseShards
from pipelines.train.listing import list_shards, to_json
from pipelines.train.loop import Place, learning_rate, make_optimizer, train
from pipelines.train.output import GAP
from tests.pipelines.small_dataset import write_dataset
from tests.pipelines.train.tiny import results, start_and_kill, task, train_one_of_two

STEPS = 5
SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs lie; beside them the listing of a small dataset."""
    found = tmp_path_factory.mktemp("runs")
    write_dataset(found / "ghi", 2)
    (found / "listing.json").write_text(to_json(list_shards([str(found / "ghi")])), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    run = folder / "undisturbed"
    train(task(run, STEPS, ["output.grid_samples=2", "output.grid_every=3"]), Place())
    return run


def test_a_run_leaves_curves_checkpoints_grids_and_a_model(undisturbed: Path) -> None:
    points = curves.read(undisturbed)
    assert [point.step for point in points] == [1, 2, 3, 4, 5]
    assert all(point.weighted_loss > point.loss > 0 for point in points)
    assert all(point.images_per_second > 0 and 0 <= point.data_wait <= 100 for point in points)
    assert checkpoints.steps(undisturbed) == [4, 5]
    assert [path.name for path in sorted((undisturbed / "grids").iterdir())] == ["00000003.png", "00000005.png"]
    events = EventAccumulator(str(undisturbed / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {f"train/{name}" for name in curves.NAMES[1:]}
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5]
    assert [event.step for event in events.Images("samples")] == [3, 5]
    state = checkpoints.load_newest(undisturbed)
    assert state is not None
    assert state.ema is not None
    saved = load_file(undisturbed / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in state.ema.items())  # the average is what is saved


def test_a_grid_shows_skeleton_data_and_sample(folder: Path, undisturbed: Path) -> None:
    """The picture in the middle is the one that is trained on, as it is stored."""
    grid = np.asarray(Image.open(undisturbed / "grids" / "00000005.png"))
    shards = iter(PoseShards([str(folder / "ghi")], SIZE, 2, 0))
    for row in range(2):
        top = row * (SIZE + GAP)
        skeleton, data = (grid[top : top + SIZE, left : left + SIZE] for left in (0, SIZE + GAP))
        expected = next(shards)
        assert np.array_equal(data, expected["image"].permute(1, 2, 0).numpy())
        assert np.array_equal(skeleton, expected["skeleton"].permute(1, 2, 0).numpy())


def test_what_a_kill_after_the_last_checkpoint_left_undone_is_done(folder: Path, undisturbed: Path) -> None:
    run = folder / "late"
    shutil.copytree(undisturbed, run)
    shutil.rmtree(run / "model")
    (run / "grids" / "00000005.png").unlink()
    train(task(run, STEPS, ["output.grid_samples=2"]), Place())
    name = "model/unet/diffusion_pytorch_model.safetensors"
    assert (run / name).read_bytes() == (undisturbed / name).read_bytes()
    assert (run / "grids" / "00000005.png").read_bytes() == (undisturbed / "grids" / "00000005.png").read_bytes()


@pytest.mark.parametrize("loaders", [0, 2])
def test_shards_that_cannot_be_read_are_named(folder: Path, loaders: int) -> None:
    """By default other samples take their place; with data.on_error=raise the training ends."""
    spoilt = folder / f"spoilt{loaders}"
    spoilt.mkdir()
    write_dataset(spoilt / "ghi", 2)
    (spoilt / "listing.json").write_text(to_json(list_shards([str(spoilt / "ghi")])), encoding="utf-8")
    shard = spoilt / "ghi" / "shards" / "00000001.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    set_ = f"data.loaders={loaders}"
    train(task(spoilt / "run", 1, [set_]), Place())
    train(task(spoilt / "run", 3, [set_]), Place())  # meets it again, and names it once
    (line,) = (spoilt / "run" / "left_out.txt").read_text(encoding="utf-8").splitlines()
    assert "shards/00000001.parquet: " in line
    with pytest.raises(UserError, match=r"^\S*shards/00000001\.parquet: [^\n]*; data\.on_error=skip takes other"):
        train(task(spoilt / "strict", 2, [set_, "data.on_error=raise"]), Place())


@pytest.mark.slow
def test_a_compiled_unet_trains_the_same(folder: Path, undisturbed: Path) -> None:
    run = folder / "compiled"
    train(task(run, 2, ["compute.compile=true"]), Place())
    one, other = curves.read(undisturbed), curves.read(run)
    assert [p.loss for p in other] == pytest.approx([p.loss for p in one[:2]], rel=1e-3)


@pytest.mark.parametrize("killed_after", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_run_killed_anywhere_ends_with_the_same_bits(folder: Path, undisturbed: Path, killed_after: int) -> None:
    """Before the first checkpoint (of step 2), and after it."""
    run = folder / f"killed{killed_after}"
    start_and_kill(run, STEPS, killed_after)
    train(task(run, STEPS), Place())
    expected, found = results(undisturbed, STEPS), results(run, STEPS)
    assert expected.keys() == found.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []
    one, other = curves.read(undisturbed), curves.read(run)
    assert [(p.step, p.loss, p.weighted_loss) for p in one] == [(p.step, p.loss, p.weighted_loss) for p in other]


def test_a_run_goes_on_with_another_number_of_workers(folder: Path, undisturbed: Path) -> None:
    run = folder / "two"
    train(task(run, 2), Place())
    spawn(train_one_of_two, (str(run), STEPS, str(folder / "rendezvous")), nprocs=2)
    one, two = curves.read(undisturbed), curves.read(run)
    assert [point.loss for point in two] == pytest.approx([point.loss for point in one], rel=1e-3)
    expected, found = results(undisturbed, STEPS), results(run, STEPS)
    for name in ("conv_in.weight", "conv_out.weight"):
        assert torch.allclose(expected[name], found[name], atol=2e-4)


def test_a_batch_in_parts_trains_the_same(folder: Path, undisturbed: Path) -> None:
    run = folder / "parts"
    train(task(run, 2, ["compute.accumulation=2", "compute.gradient_checkpointing=true"]), Place())
    one, other = curves.read(undisturbed), curves.read(run)
    assert [p.loss for p in other] == pytest.approx([p.loss for p in one[:2]], rel=1e-3)
    assert [p.grad_norm for p in other] == pytest.approx([p.grad_norm for p in one[:2]], rel=1e-2)


def test_a_training_that_explodes_says_what_to_do(folder: Path) -> None:
    run = folder / "explodes"
    with pytest.raises(UserError, match=r"no finite gradient in 10 steps .* smaller optimizer.learning_rate"):
        train(task(run, 20, ["optimizer.learning_rate=1e30"]), Place())


def test_another_optimizer_does_not_take_over(folder: Path, undisturbed: Path) -> None:
    run = folder / "other"
    state = checkpoints.load_newest(undisturbed)
    assert state is not None
    state.optimizer_name = "AdamW8bit"
    checkpoints.save(run, state, 2)
    with pytest.raises(UserError, match="was trained with AdamW8bit, and here it would be AdamW"):
        train(task(run, 6), Place())


def test_without_cuda_the_state_is_not_in_8_bits() -> None:
    weights = torch.nn.Linear(2, 2)
    made = make_optimizer(weights.parameters(), OptimizerConfig(eight_bit=True, beta2=0.9), torch.device("cpu"))
    assert type(made) is torch.optim.AdamW
    assert made.param_groups[0]["betas"] == (0.9, 0.9)


def test_the_learning_rate_rises_then_falls() -> None:
    config = OptimizerConfig(learning_rate=1.0, schedule="cosine", warmup_steps=4)
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[100] == pytest.approx(0.05)
    assert learning_rate(77, 100, OptimizerConfig(learning_rate=1.0)) == 1.0
