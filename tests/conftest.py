"""Tests of GPUs are skipped where there is none; none asks how long anything took."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`pytest -m gpu` asks for them; without it they are not even selected."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and this machine has none")
