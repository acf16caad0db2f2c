from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from pipelines import lease, shards
from pipelines.config import UserError
from pipelines.shards import Done
from pipelines.status import as_json, as_text, duration, read_status, size, speed, worker_speed
from pipelines.store import Store
from tests.pipelines.small_dataset import SHARD, write_dataset


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three of five shards, one of them a slot short."""
    folder = tmp_path_factory.mktemp("status") / "out"
    write_dataset(folder, 3, n=20)
    return str(folder)


def markers(out: str) -> list[Done]:
    return list(shards.read_markers(Store(out)))


def test_a_dataset_tells_where_it_stands(out: str) -> None:
    status = read_status(out)
    assert (status.n, status.shards, status.shards_done, status.growing) == (20, 5, 3, 0)
    assert (status.accepted, status.rejected) == (11, 7)
    assert status.accept_rate == pytest.approx(11 / 18)
    assert status.reasons == {"people_count: too_few": 7}
    assert status.short == {1: 1}
    assert status.failed == {}
    assert status.drivers == ()
    assert status.eta_seconds is None
    assert not status.complete
    assert not status.over
    files = [path for folder in shards.FOLDERS for path in Path(out, folder).iterdir()]
    assert status.bytes == sum(path.stat().st_size for path in files)
    assert status.worker_images_per_second == pytest.approx(18 / 6)


def test_the_text_names_what_is_wrong_and_what_to_do(out: str) -> None:
    text = as_text(read_status(out))
    assert "3 of 5 (60%)" in text
    assert "11 of 20" in text
    assert "accept rate 61.1%" in text
    assert "people_count: too_few" in text
    assert "short      shard 1: 1 slots not filled" in text
    assert "run the same command again" in text


def test_the_json_is_one_object(out: str) -> None:
    status = as_json(read_status(out))
    assert json.loads(json.dumps(status))["accepted"] == 11
    assert status["complete"] is False


def test_failed_shards_are_named_until_they_are_made(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(out, 1, n=2 * SHARD)
    (out / "failed").mkdir()
    for shard, error in ((0, "made since"), (1, "OutOfMemoryError: 3 GB too few")):
        report = json.dumps({"error": error, "traceback": "…"})
        (out / "failed" / f"{shard:08d}.json").write_text(report, encoding="utf-8")
    status = read_status(str(out))
    assert status.over
    assert not status.complete
    assert status.failed == {1: "OutOfMemoryError: 3 GB too few"}
    assert "failed     shard 1: OutOfMemoryError: 3 GB too few" in as_text(status)


def test_a_driver_at_work_is_seen(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(out, 1, n=2 * SHARD)
    (out / "failed").mkdir()
    (out / "failed" / "00000001.json").write_text("{}", encoding="utf-8")
    held = lease.acquire(Store(str(out)), range(2), lease.new_run())
    try:
        assert len(read_status(str(out)).drivers) == 1
        assert not read_status(str(out)).over  # it may try again
        assert "at work: process" in as_text(read_status(str(out)))
    finally:
        held.close()
    assert read_status(str(out)).drivers == ()


def test_a_complete_dataset_says_so(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", 1)
    status = read_status(str(tmp_path / "out"))
    assert status.complete
    assert as_text(status).endswith("complete")


def test_a_dataset_without_shards_divides_by_nothing(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", 0, n=8)
    status = read_status(str(tmp_path / "out"))
    assert (status.accept_rate, status.images_per_second, status.worker_images_per_second) == (None, None, None)
    assert "0 of 2 (0%)" in as_text(status)


def test_what_is_no_dataset_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no dataset"):
        read_status(str(tmp_path))


def test_speed_is_that_of_the_newest_run_over_its_wall_clock(out: str) -> None:
    base = dataclasses.replace(markers(out)[0], accepted=90, rejected=10, seconds={"total": 5.0})
    times = ["2025-01-01T00:00:00+00:00", "2025-01-02T00:00:00+00:00", "2025-01-02T00:00:10+00:00"]
    times.append("2025-01-02T00:00:20+00:00")
    done = [dataclasses.replace(base, run="b" if i else "a", finished=time) for i, time in enumerate(times)]
    assert speed(done) == pytest.approx(300 / 25)
    assert speed(done[:2]) == pytest.approx(100 / 5)
    assert speed([dataclasses.replace(base, seconds={})]) is None
    assert speed([]) is None
    assert worker_speed([dataclasses.replace(base, seconds={"total": 25.0})]) == pytest.approx(4.0)
    assert worker_speed([]) is None


@pytest.mark.parametrize(
    ("given", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (1.25e15, "1,250.0 TB")],
)
def test_sizes(given: float, text: str) -> None:
    assert size(given) == text


@pytest.mark.parametrize(
    ("given", "text"), [(1, "1 s"), (89, "89 s"), (120, "2 min"), (7200, "2.0 h"), (864_000, "10.0 days")]
)
def test_durations(given: float, text: str) -> None:
    assert duration(given) == text
