"""What `tests.bench.gpu` measures runs, here on the CPU and on a model of a few channels."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.bench import gpu
from tests.bench.test_train_step import BARS
from tests.bench.train_sides import SCALES, names_of


def test_the_whole_page_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    page = "\n".join(gpu.pages("cpu", True, tmp_path))
    speeds = re.findall(r"^\| (\d+) \| float32 \| (?:yes|no) \| no \| ([\d.]+) \|", page, re.MULTILINE)
    assert [batch for batch, _ in speeds] == ["1", "2"]
    assert all(float(speed) > 0 for _, speed in speeds)
    assert "each time loaded anew (float32): the same bytes" in page
    for name in names_of(SCALES["tiny"]):
        assert re.search(rf"^\| {re.escape(name)} \| \d+\.\d+ \|", page, re.MULTILINE), name
    assert len(re.findall(r"^\| .* / .* \| \d+\.\d\d \|", page, re.MULTILINE)) == len(BARS) - 1  # AE-HRNet is not in it
