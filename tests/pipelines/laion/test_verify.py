"""`verify` and `repair` know the stages, and what was dropped is made anew."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines import dataset
from pipelines.laion.job import run_laion
from pipelines.status import as_text, read_status
from tests.pipelines.laion.mini_job import config, tables


def test_damage_to_any_stage_is_found_dropped_and_made_anew(made: Path, cluster: str, tmp_path: Path) -> None:
    out = shutil.copytree(made, tmp_path / "out")
    assert list(dataset.verify(str(out))) == []
    raw = out / "raw/0/shards/00000000.parquet"
    raw.write_bytes(raw.read_bytes()[:-1] + b"x")
    (out / "annotated/ledger/00000001.parquet").unlink()
    (out / "verdicts/00000000.parquet").write_bytes(b"junk")
    plan = out / "plan/00000001.parquet"
    plan.write_bytes(plan.read_bytes()[:100])
    (out / "raw/0/shards/00000007.parquet").write_bytes(b"never committed")
    problems = {problem.file: problem for problem in dataset.verify(str(out))}
    assert set(problems) == {
        "raw/0/shards/00000000.parquet",
        "raw/0/shards/00000007.parquet",
        "annotated/ledger/00000001.parquet",
        "verdicts/00000000.parquet",
        "plan/plan.json",
    }
    assert problems["raw/0/shards/00000000.parquet"].stage == "raw/0"
    assert "plan/00000001.parquet, which is not readable" in problems["plan/plan.json"].what
    dropped = {problem.file for problem in dataset.repair(str(out))}
    assert dropped == set(problems) - {"verdicts/00000000.parquet"}  # there is nothing left that it could be about
    assert not (out / "annotated/done/00000000.json").exists()  # it followed from what was dropped
    status = read_status(str(out))
    assert status.stages == {"raw/0": 1, "annotated": 0, "closed": 0}
    assert "raw/0 1, annotated 0, closed 0 of 2 shards" in as_text(status)
    assert run_laion(config(), str(out)).exit_code == 0
    assert tables(out) == tables(made)
    assert list(dataset.verify(str(out))) == []
