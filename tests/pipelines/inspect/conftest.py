"""One small dataset, served once for all tests that only read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines.inspect.served import Client, served, write_indexed


@pytest.fixture(scope="package")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pages of accepted samples, one of rejected ones; only read."""
    folder = tmp_path_factory.mktemp("serve") / "out"
    write_indexed(folder, 8)
    return folder


@pytest.fixture(scope="package")
def client(out: Path) -> Iterator[Client]:
    with served(str(out)) as found:
        yield found
