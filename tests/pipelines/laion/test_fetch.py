"""Downloads through img2dataset's own Downloader, in this process."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import UserError, load_config
from pipelines.images import decode_image, perceptual_hash
from pipelines.laion.blocklist import Hashes
from pipelines.laion.config import LaionConfig
from pipelines.laion.fetch import Downloads, MakeFetchWork
from pipelines.laion.optout import OptOut
from pipelines.laion.plan import CANDIDATES
from pipelines.laion.web import is_transient
from pipelines.mini import web
from pipelines.mini.hostile import ANSWERS, malformed
from pipelines.record import Sample
from pipelines.work import ShardContext, ShardResult, ShardTask


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with web.serve() as found:
        yield found


def get(address: str, *paths: str, hashes: Hashes | None = None, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    config = load_config(LaionConfig, "mini", list(overrides), "laion").fetch
    downloads = Downloads(config, OptOut(), hashes or Hashes(), {f"{web.HOST}:80": address})
    blank = dict.fromkeys(CANDIDATES.names)
    rows = [
        {**blank, "key": path, "url": f"http://{web.HOST}/{path}", "caption": "x", "punsafe": 0.1} for path in paths
    ]
    return downloads.get(rows)


def test_images_and_reasons_come_back_by_key(address: str) -> None:
    found = get(address, "people/1.jpg", "hostile/gone", "files/html", "people/2.jpg", "files/turned-by-exif")
    assert list(found) == ["people/1.jpg", "hostile/gone", "files/html", "people/2.jpg", "files/turned-by-exif"]
    assert (found["hostile/gone"], found["files/html"]) == ("http_410", "not_an_image")
    original = web.Pictures().get("people/1.jpg")
    assert original is not None
    sample = found["people/1.jpg"]
    assert isinstance(sample, Sample)
    assert sample.image == original  # of the right size and format: stored as it came
    assert sample.origin is not None
    assert sample.origin.sha256 == hashlib.sha256(original).hexdigest()
    assert sample.annotation is not None
    assert '"punsafe": 0.1' in sample.annotation
    turned = found["files/turned-by-exif"]
    assert (turned.width, turned.height) == (48, 64)
    assert "Orientation" in turned.annotation


@pytest.mark.parametrize(
    ("mode", "size"), [("no", (64, 48)), ("keep_ratio", (43, 32)), ("center_crop", (32, 32)), ("border", (32, 32))]
)
def test_images_are_resized_as_the_config_says(address: str, mode: str, size: tuple[int, int]) -> None:
    overrides = (f"fetch.resize_mode='{mode}'", "fetch.image_size=32")
    found = get(address, "files/progressive-jpeg", overrides=overrides)["files/progressive-jpeg"]
    assert (found.width, found.height) == size
    assert decode_image(found.image).shape == (size[1], size[0], 3)
    assert (found.origin.width, found.origin.height) == (64, 48)


def test_each_hostile_page_and_broken_file_has_its_reason_in_the_ledger(address: str, tmp_path: Path) -> None:
    files = {name.replace(" ", "-"): why for name, (_, why) in malformed().items()}
    expected = {f"hostile/{name}": why for name, (_, why) in ANSWERS.items()}
    expected |= {f"files/{name}": why for name, why in files.items() if why is not None}
    fine = [f"files/{name}" for name, why in files.items() if why is None]
    assert len(ANSWERS) >= 25
    assert len(files) >= 20
    blank = dict.fromkeys(CANDIDATES.names)
    rows = [{**blank, "key": path, "url": f"http://{web.HOST}/{path}", "caption": "x"} for path in [*expected, *fine]]
    (tmp_path / "plan").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, CANDIDATES), tmp_path / "plan/00000000.parquet")
    quick = ("timeout=0.6", "total_time=1.5", "retries=0", "max_redirects=3", "max_bytes=200_000", "threads=64")
    config = load_config(LaionConfig, "mini", [f"fetch.{one}" for one in (*quick, "per_host=64")], "laion").fetch
    make = MakeFetchWork(config, str(tmp_path), 0, OptOut(), Hashes(), {f"{web.HOST}:80": address})
    found = make()(ShardContext(ShardTask(0, 0, len(rows), 1)))
    assert isinstance(found, ShardResult)
    assert {row.key: row.reason for row in found.ledger} == expected
    assert {row.stage for row in found.ledger} == {"fetch"}
    assert [sample.key for sample in found.accepted] == fine
    assert found.short == [key for key, why in expected.items() if is_transient(why)]


def test_blocked_images_are_never_stored(address: str, tmp_path: Path) -> None:
    picture, other = (web.Pictures().get(f"people/{index}.jpg") or b"" for index in (1, 2))
    near = perceptual_hash(decode_image(other)) ^ 0b101
    (tmp_path / "list.txt").write_text(f"# known\n{hashlib.sha256(picture).hexdigest()}\n{near:016x}\n")
    found = get(address, *(f"people/{i}.jpg" for i in (1, 2, 3)), hashes=Hashes.read(tmp_path / "list.txt", 4))
    assert [found[f"people/{i}.jpg"] == "blocked_hash" for i in (1, 2, 3)] == [True, True, False]


def test_a_program_of_ones_own_judges_each_image(address: str, tmp_path: Path) -> None:
    script = tmp_path / "judge.py"
    script.write_text(
        "import sys\n"
        "source = sys.stdin.buffer\n"
        "while line := source.readline():\n"
        "    sha256, size = line.split()\n"
        "    data = source.read(int(size))\n"
        "    print('block' if int(size) % 2 else 'ok', flush=True)\n"
    )
    command = f"fetch.blocklist_command=['{sys.executable}', '{script}']"
    paths = [f"people/{i}.jpg" for i in range(6)]
    found = get(address, *paths, overrides=(command,))
    pictures = web.Pictures()
    assert {path: found[path] == "blocked_hash" for path in paths} == {
        path: len(pictures.get(path) or b"") % 2 == 1 for path in paths
    }
    with pytest.raises(UserError, match="blocklist_command"):
        get(address, "people/1.jpg", overrides=("fetch.blocklist_command=['/no/such/program']",))


def test_a_line_that_is_no_hash_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\nabc\n")
    with pytest.raises(UserError, match=r"list\.txt:2: not 64 hex digits"):
        Hashes.read(tmp_path / "list.txt", 4)
