from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.train import checkpoints
from pipelines.train.checkpoints import State


def state(step: int, ema: bool = True) -> State:
    weights = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(weights.parameters())
    weights(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    average = {name: value + 1 for name, value in weights.state_dict().items()} if ema else None
    return State(step, weights.state_dict(), optimizer.state_dict(), "AdamW", average, 7)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved = state(12)
    checkpoints.save(tmp_path, saved, keep=2)
    loaded = checkpoints.load_newest(tmp_path)
    assert loaded is not None
    assert (loaded.step, loaded.optimizer_name, loaded.ema_steps) == (12, "AdamW", 7)
    assert saved.ema is not None
    assert loaded.ema is not None
    for name, value in saved.unet.items():
        assert torch.equal(loaded.unet[name], value)
        assert torch.equal(loaded.ema[name], saved.ema[name])
    moment = saved.optimizer["state"][0]["exp_avg"]
    assert torch.equal(loaded.optimizer["state"][0]["exp_avg"], moment)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        checkpoints.save(tmp_path, state(step, ema=False), keep=2)
    assert checkpoints.steps(tmp_path) == [10, 15]
    newest = checkpoints.load_newest(tmp_path)
    assert newest is not None
    assert newest.step == 15
    assert newest.ema is None


def test_a_writer_that_was_killed_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(tmp_path, state(5), keep=2)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "replace_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path, state(10), keep=2)
    monkeypatch.undo()
    assert checkpoints.steps(tmp_path) == [5]
    checkpoints.clean(tmp_path)
    assert [path.name for path in (tmp_path / checkpoints.FOLDER).iterdir()] == ["00000005"]


def test_a_step_saved_twice_is_there_once(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, state(5), keep=2)
    again = state(5)
    checkpoints.save(tmp_path, again, keep=2)
    loaded = checkpoints.load_newest(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded.unet["weight"], again.unet["weight"])
    assert len(list((tmp_path / checkpoints.FOLDER).iterdir())) == 1


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    folder = checkpoints.save(tmp_path, state(5), keep=2)

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("ran",)

    torch.save({"state": Evil()}, folder / "optimizer.pt")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        checkpoints.load_newest(tmp_path)
