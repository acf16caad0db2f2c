from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.checkpoint import SamplerConfig
from pipelines.ghi.config import GhiConfig
from pipelines.lease import LEASES, acquire
from pipelines.measured import Measured
from pipelines.plan import predict
from pipelines.scale import DRIVER_LIMIT, REQUESTS_A_SHARD, REQUESTS_LIMIT, Scale, scale
from pipelines.store import Data, Store
from pipelines.work import ShardTask
from pipelines.worker import Made, Setup, ShardWorker, Started, breadcrumb_name
from tests.pipelines.toy import HASH, OPEN_BATCH, Toy

MEASURED = Measured(
    cells={("mural", people): (10**7, 10**7) for people in (1, 2, 3)},  # everything is accepted
    seconds=(1.0,) * 10,
    images=(2,) * 10,
    bytes_accepted=1000,
    bytes_rejected=500,
    memory={},
    load_seconds=30.0,
    device="a machine",
    stages={"sample": 0.4, "detect": 0.1},
)


def scaled(gpus: int, measured: Measured = MEASURED, batch_size: int = 10) -> Scale:
    config = GhiConfig(n=6400, shard_size=100, gpus_per_worker=1.0, price_per_gpu_hour=2.0)
    config = dataclasses.replace(config, sampler=SamplerConfig(batch_size=batch_size))
    predicted = predict(measured, config.n, config.max_attempts, 1, True, None)
    return scale(config, measured, predicted, 250, gpus)


def test_time_goes_down_as_long_as_there_are_shards() -> None:
    one, eight, all_of_them, too_many = (scaled(gpus) for gpus in (1, 8, 64, 128))
    assert one.hours == pytest.approx((6400 / 2 + 30) / 3600, rel=1e-3)
    assert eight.hours == pytest.approx((6400 / 16 + 30) / 3600, rel=1e-3)
    assert all_of_them.hours == too_many.hours == pytest.approx((50 + 30) / 3600, rel=1e-3)
    assert (one.idle, eight.idle, all_of_them.idle, too_many.idle) == (0, 0, 0, 0.5)
    assert one.cost is not None
    assert too_many.cost == pytest.approx(2 * 128 * too_many.hours)
    assert one.cost == pytest.approx(2 * one.hours)


def test_the_first_bottleneck_is_named() -> None:
    assert scaled(8).bottleneck == "sample: 80% of a worker's time"
    assert scaled(48).bottleneck == "33% waiting for the last shards: shard_size=13"
    assert scaled(3).bottleneck.startswith("sample")  # 22 shards for one, 21 for two others: 3% idle
    fast = dataclasses.replace(MEASURED, seconds=(1e-3,) * 10)
    assert "the one driver" in scaled(64, fast).bottleneck
    small = dataclasses.replace(MEASURED, seconds=(2e-3,) * 10)
    writes = scaled(64, small, batch_size=1)
    assert "writes to one bucket prefix" in writes.bottleneck
    assert scaled(8, dataclasses.replace(MEASURED, stages={})).bottleneck == "the workers"


def test_rates_are_those_of_full_speed() -> None:
    one = scaled(8)
    assert one.requests == pytest.approx(64 * REQUESTS_A_SHARD + 640, rel=1e-3)
    assert one.requests_per_second == pytest.approx(one.requests / 400, rel=1e-3)
    assert one.shards_per_second == pytest.approx(64 / 400, rel=1e-3)
    assert one.bytes_per_second == pytest.approx(6400 * 1000 / 400, rel=1e-3)
    assert 0 < DRIVER_LIMIT < REQUESTS_LIMIT


def test_a_shard_writes_so_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted on a worker that makes one shard: everything that is written to OUT or deleted there."""
    store = Store(str(tmp_path / "out"))
    requests: list[str] = []
    write_all, remove = Store.write_all, Store.remove

    def count_writes(self: Store, files: Mapping[str, Data], run: str, **options: bool) -> None:
        requests.extend(files)
        write_all(self, files, run, **options)

    def count_removes(self: Store, names: Iterable[str]) -> None:
        requests.extend(names := list(names))
        remove(self, names)

    with closing(acquire(store, range(1), "run-1")):
        worker = ShardWorker(Setup(store.root, "run-1", HASH, 1, 30.0))
        assert isinstance(worker.start(Toy()), Started)
        monkeypatch.setattr(Store, "write_all", count_writes)
        monkeypatch.setattr(Store, "remove", count_removes)
        assert isinstance(worker.run(ShardTask(0, 0, 8, 8)), Made)
    requests = [name for name in requests if not name.startswith(LEASES)]
    breadcrumbs = requests.count(breadcrumb_name(0)) - 2  # the first, and the removal
    assert breadcrumbs >= 8 // OPEN_BATCH
    assert len(requests) == REQUESTS_A_SHARD + breadcrumbs
