"""One Ray for all tests that need it: starting it takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """A local Ray that `run_job` in this process uses and that other drivers may join; yields its address."""
    ray = pytest.importorskip("ray")
    from pipelines.engine import Runtime, ray_session

    with ray_session(Runtime(workers=6)):
        yield ray.get_runtime_context().gcs_address
