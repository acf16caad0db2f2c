from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import preflight
from pipelines.config import UserError
from pipelines.store import Store
from pipelines.work import ShardContext, ShardResult
from pipelines.worker import Refused, Setup, ShardWorker, Started
from tests.pipelines.disks import small_disk
from tests.pipelines.toy import HASH

MODULE_580 = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (user@host)\nGCC version:\n"
)
MODULE_535 = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.12  Wed Sep 20 09:35:17 UTC 2023\n"


class Trial:
    """Work that counts its trials, and may fail them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.tried = 0

    def __call__(self, context: ShardContext) -> ShardResult:
        return ShardResult()

    def try_one_batch(self) -> None:
        self.tried += 1
        if self.error is not None:
            raise self.error


def start(out: Path, work: Trial, check: bool) -> Started | Refused:
    return ShardWorker(Setup(str(out), "run-1", HASH, 1, 0.0)).start(lambda: work, check)


def test_a_sound_machine_passes_and_leaves_nothing(tmp_path: Path) -> None:
    work = Trial()
    assert isinstance(start(tmp_path, work, check=False), Started)
    assert work.tried == 0
    assert isinstance(start(tmp_path, work, check=True), Started)
    assert work.tried == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_batch_that_fails_refuses_the_machine(tmp_path: Path) -> None:
    refused = start(tmp_path, Trial(RuntimeError("CUDA error: unspecified launch failure")), check=True)
    assert isinstance(refused, Refused)
    assert "CUDA error" in refused.failure.error
    assert refused.failure.host


def test_a_folder_that_cannot_be_written_refuses_the_machine(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "64k", "ro") as folder:
        refused = start(folder / "out", Trial(), check=True)
    assert isinstance(refused, Refused)
    assert refused.user
    assert "cannot write to" in refused.failure.error
    assert "every machine needs the same folder or bucket" in refused.failure.error


@pytest.mark.parametrize(("method", "told"), [("read", "cannot read from"), ("remove", "cannot delete in")])
def test_rights_that_are_missing_are_named(
    method: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*arguments: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(Store, method, forbidden)
    with pytest.raises(UserError, match=told):
        preflight.check_storage(Store(str(tmp_path)), "run-1")


def test_the_driver_tells_its_version(tmp_path: Path) -> None:
    file = tmp_path / "version"
    assert preflight.driver_version(file) is None
    for text, version in ((MODULE_580, (580, 95, 5)), (MODULE_535, (535, 104, 12)), ("", None)):
        file.write_text(text, encoding="utf-8")
        assert preflight.driver_version(file) == version


@pytest.mark.parametrize(
    ("cuda", "driver", "told"),
    [
        (None, (580, 1), "build without CUDA: install the locked one"),
        ("13.0", None, "no NVIDIA driver runs here: this torch (CUDA 13.0) needs NVIDIA driver 580 or newer"),
        (
            "13.0",
            (535, 104),
            "driver 535.104 is too old for this torch (CUDA 13.0): install NVIDIA driver 580 or newer",
        ),
        ("12.8", (535, 104), "see what nvidia-smi says"),
        ("99.0", None, "needs an NVIDIA driver"),
    ],
)
def test_why_there_is_no_gpu(cuda: str | None, driver: tuple[int, ...] | None, told: str) -> None:
    assert told in preflight.why_no_gpu(cuda, driver)
