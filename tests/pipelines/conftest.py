"""One Ray and one S3 server for all tests that need them: starting them takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cluster(s3: str) -> Iterator[str]:
    """A local Ray that `run_job` in this process uses and that other drivers may join; yields its address."""
    from pipelines.cluster.session import ray_session
    from pipelines.job import Runtime

    with ray_session(Runtime(workers=6)):
        import ray

        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """An S3 bucket's URL, for this process and the processes it starts from here on."""
    from tests.pipelines.object_store import BUCKET, s3_server

    with s3_server():
        yield f"s3://{BUCKET}"


@pytest.fixture(scope="session")
def sound(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy dataset made in one go by one worker."""
    from tests.pipelines.jobs import N, make

    out = tmp_path_factory.mktemp("sound") / "out"
    report = make(out, workers=1)
    assert (report.exit_code, report.shards_done, report.accepted, report.stopped) == (0, 5, N, None)
    return out


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of this test run their shards in this process, without Ray."""
    from tests.pipelines.in_process import patch

    patch(monkeypatch)
