"""`humansd clean`: downloads go when their shards are finished, and the dataset stays what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipelines import dataset, shards
from pipelines.cli import main
from pipelines.config import UserError
from pipelines.laion.clean import clean
from pipelines.laion.job import config_of, run_laion
from pipelines.laion.stages import closed_shards
from pipelines.status import as_text, read_status
from pipelines.store import Store
from tests.pipelines.laion.mini_job import SIZE, N, config, shard_tables, tables
from tests.pipelines.small_dataset import write_dataset

STAGES = ("raw", "annotated", "verdicts")


def files(out: Path) -> list[Path]:
    """The files of shards in the stages."""
    return [path for folder in STAGES for path in (out / folder).rglob("0*.*") if path.is_file()]


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "out")


def test_a_dry_run_tells_the_bytes_and_removes_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tables(out)
    assert main(["clean", str(out), "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == sum(path.stat().st_size for path in files(out))
    assert (told["shards"], told["waiting"], told["files"]) == (2, 0, len(files(out)))
    assert told["transient"] == len(json.loads((out / "raw/0/done/00000000.json").read_text())["short"]) + len(
        json.loads((out / "raw/0/done/00000001.json").read_text())["short"]
    )
    assert tables(out) == before
    assert main(["clean", str(out), "--dry-run"]) == 0
    assert "would be removed" in capsys.readouterr().out


def test_the_dataset_stays_and_every_command_knows(out: Path, made: Path, cluster: str) -> None:
    assert clean(str(out)).bytes > 0
    assert files(out) == []
    assert shard_tables(out) == shard_tables(made)
    assert list(dataset.verify(str(out))) == []
    status = read_status(str(out))
    assert status.complete
    assert status.stages == {"raw/0": 0, "annotated": 0, "closed": 2}
    assert "closed 2 of 2 shards" in as_text(status)
    again = run_laion(config(), str(out))
    assert (again.exit_code, again.shards_done, again.shards_complete) == (0, 0, 2)
    with pytest.raises(UserError, match="nothing to try again"):
        run_laion(config_of(str(out)), str(out), retry=True)
    assert clean(str(out)).files == 0
    grown = run_laion(config(f"n={N + SIZE // 2}"), str(out))
    assert (grown.exit_code, grown.shards_done) == (0, 1)
    store = Store(str(out))
    assert closed_shards(store) == {0, 1}
    assert shards.done_indices(store.below("raw/0")) == [2]
    assert {name: shard_tables(out)[name] for name in shard_tables(made)} == shard_tables(made)
    assert list(dataset.verify(str(out))) == []
    assert clean(str(out)).waiting == 1  # a larger n still makes the last one longer
    assert shards.done_indices(store.below("raw/0")) == [2]


def test_a_clean_that_was_killed_is_finished_by_the_next(
    out: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = Store.remove

    def killed(self: Store, names: object) -> None:
        remove(self, list(names)[:3])  # type: ignore[call-overload]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Store, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            clean(str(out))
    assert files(out)
    assert clean(str(out)).bytes > 0
    assert files(out) == []
    assert shard_tables(out) == shard_tables(made)
    assert list(dataset.verify(str(out))) == []


def test_what_is_not_finished_stays(out: Path, tmp_path: Path) -> None:
    (out / "done/00000001.json").unlink()
    (out / "verdicts/00000000.parquet").write_bytes((out / "verdicts/00000001.parquet").read_bytes())  # to settle anew
    before = tables(out)
    found = clean(str(out))
    assert (found.shards, found.waiting, found.bytes) == (0, 2, 0)
    assert tables(out) == before
    write_dataset(tmp_path / "ghi", 1)
    with pytest.raises(UserError, match="only what was downloaded"):
        clean(str(tmp_path / "ghi"))
