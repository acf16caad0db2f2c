import argparse
import itertools
from pathlib import Path

import pytest
import torch

from pipelines.mini.train import common


def test_rate_rises_then_falls_to_a_twentieth() -> None:
    rates = [common.cosine(step, 1000, 1.0, warmup=100) for step in range(1001)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[99] == rates[100] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[100:]))
    assert rates[1000] == pytest.approx(0.05)


def test_average_follows_the_model_and_reaches_it() -> None:
    model = torch.nn.Linear(2, 2)
    average = common.Average(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(3.0)
    for step in range(40):
        average.update(step)
    assert torch.allclose(average.shadow["weight"], torch.full((2, 2), 3.0))


def test_log_writes_means_of_an_interval(tmp_path: Path) -> None:
    log = common.Log(tmp_path / "curve.tsv", every=2)
    for step, loss in enumerate((1.0, 3.0, 5.0)):
        log.add(step, (step + 1) * 8, loss=loss)
    header, row = (tmp_path / "curve.tsv").read_text().splitlines()
    assert header.split("\t") == ["samples", "seconds", "loss"]
    assert row.split("\t")[0::2] == ["16", "2.00000"]


def test_state_comes_back_and_a_broken_write_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    assert common.load_state(path) is None
    common.save_state(path, {"step": 3})
    with pytest.raises(Exception, match="pickle"):
        common.save_state(path, {"step": lambda: 0})
    assert common.load_state(path) == {"step": 3}


def halve(rank: int, args: argparse.Namespace) -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.full((3,), float(rank))
    common.average_gradients([parameter], args.processes)
    torch.save(parameter.grad, args.run / f"{rank}.pt")


def test_processes_share_one_gradient(tmp_path: Path) -> None:
    common.launch(halve, argparse.Namespace(run=tmp_path, processes=2))
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True).tolist() == [0.5] * 3
