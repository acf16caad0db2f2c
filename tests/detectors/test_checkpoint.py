"""Checkpoints of others are read without running what is in them, and fit key for key or are refused in one line."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from detectors.checkpoint import load_strictly, read_state
from detectors.weights import WeightsError


def saved(path: Path, content: Any, zipped: bool = True) -> Path:
    """Write a checkpoint as torch does now, or as it did before version 1.6."""
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def trained(state: dict[str, Tensor]) -> dict[str, Any]:
    """A checkpoint with what mmengine and mmcv keep beside the weights."""
    history = pytest.importorskip("mmengine.logging").HistoryBuffer([1.0, 0.5], [1, 1])
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(2))])
    return {
        "meta": {"epoch": 3, "hook_msgs": {"best_score": np.float64(0.7)}, "sigmas": np.ones(17, np.float32)},
        "message_hub": {"log_scalars": {"train/loss": history}},
        "state_dict": OrderedDict(state),
        "optimizer": optimizer.state_dict(),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found_beside_what_a_training_keeps(tmp_path: Path, zipped: bool) -> None:
    state = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}
    found = read_state(saved(tmp_path / "trained.pth", trained(state), zipped))
    assert list(found) == ["weight", "bias"]
    assert torch.equal(found["weight"], state["weight"])


def test_a_bare_state_dict_and_safetensors_are_read_too(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2, 3)}
    save_file(state, tmp_path / "plain.safetensors")
    for path in (saved(tmp_path / "plain.pth", state), tmp_path / "plain.safetensors"):
        assert torch.equal(read_state(path)["weight"], state["weight"])


class Hostile:
    """Unpickled with plain pickle, it calls a function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def test_what_a_file_wants_called_is_not_called(tmp_path: Path) -> None:
    trace = tmp_path / "was-here"
    hostile = Hostile(open, str(trace), "w")
    path = saved(tmp_path / "hostile.pth", {"state_dict": {"weight": torch.ones(2)}, "meta": hostile})
    assert torch.equal(read_state(path)["weight"], torch.ones(2))
    assert not trace.exists()
    pickle.loads(pickle.dumps(hostile)).close()
    assert trace.exists()  # plain pickle calls it


@pytest.mark.parametrize("function", [os.mkdir, Path.touch])
def test_files_that_insist_are_refused(tmp_path: Path, function: Any) -> None:
    trace = tmp_path / "was-here"
    hostile = Hostile(function, trace)
    path = saved(tmp_path / "hostile.pth", {"state_dict": {"weight": torch.ones(2)}, "meta": hostile})
    with pytest.raises(WeightsError, match=r"hostile\.pth: not a checkpoint that can be read safely") as refused:
        read_state(path)
    assert "\n" not in str(refused.value)
    assert not trace.exists()
    pickle.loads(pickle.dumps(hostile))
    assert trace.exists()


def test_weights_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "arrays.pth", {"state_dict": {"weight": np.ones(2), "bias": torch.ones(2)}})
    with pytest.raises(WeightsError, match="holds no weights"):
        read_state(path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint" * 50, pickle.dumps([1, 2], protocol=2)])
def test_what_is_no_checkpoint_says_so(tmp_path: Path, content: bytes) -> None:
    for name in ("file.pth", "file.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=f"{name}: not a checkpoint|{name}: holds no weights") as refused:
            read_state(tmp_path / name)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [{"state_dict": {"epoch": 1}}, {}, [torch.ones(2)], {"state_dict": {}}])
def test_a_file_without_weights_says_so(tmp_path: Path, content: Any) -> None:
    with pytest.raises(WeightsError, match="holds no weights"):
        read_state(saved(tmp_path / "empty.pth", content))


def test_weights_fit_key_for_key_or_are_refused() -> None:
    net = nn.Linear(3, 2)
    load_strictly(net, {"weight": torch.ones(2, 3), "bias": torch.ones(2)}, "mine")
    assert bool((net.weight == 1).all())
    with pytest.raises(WeightsError, match=r"^mine: .*1 keys missing \(bias\); 4 keys too many \(a, b, c, …\)$"):
        load_strictly(net, {"weight": torch.ones(2, 3), **{key: torch.ones(1) for key in "abcd"}}, "mine")
    with pytest.raises(WeightsError, match=r"^mine: .*size mismatch for bias") as refused:
        load_strictly(net, {"weight": torch.ones(2, 3), "bias": torch.ones(5)}, "mine")
    assert "\n" not in str(refused.value)
