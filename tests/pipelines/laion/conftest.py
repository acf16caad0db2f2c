"""Settings that hold before img2dataset is imported, and one finished dataset for all tests that only read it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"


@pytest.fixture(scope="session")
def made(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small web as a dataset: two shards of 50 candidates. Copy it to change it."""
    from pipelines.laion.job import run_laion
    from tests.pipelines.laion.mini_job import config

    out = tmp_path_factory.mktemp("laion") / "out"
    report = run_laion(config(), str(out))
    assert (report.exit_code, report.missing, report.stopped) == (0, 0, None)
    return out
