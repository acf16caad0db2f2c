"""The pages of `humansd inspect --serve`, asked over HTTP on this machine."""

from __future__ import annotations

import dataclasses
import html
import io
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines import cli, dataset, shards
from pipelines.config import UserError
from pipelines.inspect.catalog import PAGE_ROWS
from pipelines.inspect.serve import make_app
from pipelines.store import Store
from tests.pipelines.inspect.served import Client, served, write_indexed
from tests.pipelines.inspect.test_report import HOSTILE, Page, write_hostile
from tests.pipelines.small_dataset import write_dataset
from tests.pipelines.test_dataset import MANIFEST

Frame = pd.DataFrame


@pytest.fixture(scope="module")
def index(out: Path) -> Frame:
    return pd.read_parquet(out / "index.parquet")


def test_pages_hold_all_samples_in_order(client: Client, index: Frame) -> None:
    first = client.get("/accepted")
    assert first.keys == list(index["key"][:PAGE_ROWS])
    (following,) = {link for link in first.linked("page=2") if link.startswith("/accepted?")}
    second = client.get(following)
    assert second.keys == list(index["key"][PAGE_ROWS:])
    assert f"{len(index)} of {len(index)} accepted, page 2 of 2" in second.text
    assert client.get("/accepted?page=99").keys == second.keys
    start = client.get("/")
    assert (start.status, start.headers["Location"]) == (302, "/accepted")


def words(column: pd.Series[str], *wanted: str) -> pd.Series[bool]:
    lower = column.str.lower()
    return pd.Series([all(word in text for word in wanted) for text in lower], column.index)


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        ({"scene": "mural"}, lambda all_: all_["scene"] == "mural"),
        ({"people": "2"}, lambda all_: all_["num_people"] == 2),
        ({"text": "PAINTING  of"}, lambda all_: words(all_["caption"], "painting", "of")),
        ({"action": "ing a"}, lambda all_: words(all_["action"], "ing", "a")),
        ({"min_keypoint_score_high": "0.99"}, lambda all_: all_["min_keypoint_score"] <= 0.99),
        ({"min_keypoint_score_low": "0.95", "people": "1"}, lambda all_: (all_["min_keypoint_score"] >= 0.95)
            & (all_["num_people"] == 1)),
        ({"clip_score_low": "0"}, lambda all_: all_["clip_score"].notna()),
        ({"text": "'; DROP TABLE x; --"}, lambda all_: all_["key"] == ""),
        ({"text": "%"}, lambda all_: words(all_["caption"], "%")),
        ({"flagged": "1"}, lambda all_: all_["key"] == ""),
    ],
)  # fmt: skip
def test_filters_select_the_rows_that_pandas_selects(
    client: Client, index: Frame, filters: dict[str, str], rows: Callable[[Frame], Any]
) -> None:
    expected = list(index[rows(index)]["key"])
    answer = client.get(f"/accepted?{urlencode(filters)}")
    assert answer.keys == expected[:PAGE_ROWS]
    assert f"{len(expected)} of {len(index)} accepted" in answer.text
    links = answer.linked("/accepted/sample?")
    assert len(links) == len(answer.keys)
    for link in links[:1]:  # the way back is to the same rows
        assert client.get(client.get(link).linked("/accepted?")[0]).keys == answer.keys


def test_choices_are_those_of_the_dataset(client: Client, index: Frame) -> None:
    text = html.unescape(client.get("/accepted?scene=mural").text)
    for scene, count in index["scene"].value_counts().items():
        assert re.search(rf'<option value="{scene}"[^>]*>{scene!s} \({count}\)</option>', text), scene
    assert '<option value="mural" selected>' in text
    assert 'name="min_keypoint_score_low"' in text
    assert 'name="clip_score_low"' not in text  # measured of no row


def test_pictures_come_from_the_shards(client: Client, out: Path) -> None:
    row = pd.read_parquet(out / "shards" / "00000003.parquet").iloc[2]
    place = urlencode({"shard": 3, "key": row["key"]})
    image = client.get(f"/accepted/image?{place}")
    assert (image.headers["Content-Type"], image.body) == ("image/png", row["image"]["bytes"])
    small = client.get(f"/accepted/thumbnail?{place}")
    assert small.headers["Content-Type"] == "image/jpeg"
    pixels = np.asarray(Image.open(io.BytesIO(small.body)).resize((64, 64)), float)
    stored = np.asarray(Image.open(io.BytesIO(image.body)), float)
    assert np.abs(pixels - stored).mean() < 12
    assert client.get(f"/accepted/thumbnail?{place}&skeletons=1").body != small.body


def test_a_sample_s_page_tells_all_of_it(client: Client, out: Path) -> None:
    row = pd.read_parquet(out / "shards" / "00000001.parquet").iloc[1]
    page = client.get(f"/accepted/sample?{urlencode({'shard': 1, 'key': row['key']})}")
    text = Page(page.text).text
    parts = [value for value in row["prompt"].values() if isinstance(value, str)]
    assert len(parts) > 5
    for value in [row["key"], row["caption"], row["action"], "DPMSolverMultistepScheduler", "64 × 64 px", *parts]:
        assert value in text
    assert page.text.count("<line ") == len(drawn_limbs(row["people"]))
    assert page.text.count("of 17") == len(row["people"])


def drawn_limbs(people: Any) -> list[tuple[int, int]]:
    from detectors.types import LIMBS

    confident = [np.asarray(person["keypoints"]).reshape(17, 3)[:, 2] >= 0.3 for person in people]
    return [limb for sure in confident for limb in LIMBS if sure[list(limb)].all()]


def snippet(text: str) -> dict[str, Any]:
    """Run the Python that a page shows, and return what it made."""
    found = re.search(r'<code id="snippet">(.*?)</code>', text, re.DOTALL)
    assert found
    names: dict[str, Any] = {}
    exec(compile(html.unescape(found[1]), "snippet", "exec"), names)
    return names


def test_the_snippet_opens_the_row(client: Client) -> None:
    page = client.get(client.get("/accepted").linked("/accepted/sample?")[7])
    made = snippet(page.text)
    assert len(made["rows"]) == 1
    assert made["row"]["key"] in page.text
    assert made["image"].size == (64, 64)
    rejected = client.get(client.get("/rejected").linked("/rejected/sample?")[0])
    made = snippet(rejected.text)
    assert (made["row"]["reason"], made["image"].size) == ("too_few", (64, 64))


def test_rejected_ones_say_why(client: Client, out: Path) -> None:
    ledger = pd.concat([pd.read_parquet(file) for file in sorted((out / "ledger").iterdir())])
    listed = client.get("/rejected")
    assert listed.keys == list(ledger["key"])
    assert listed.text.count("people count: too few</p>") == len(ledger)
    why = urlencode({"why": "people_count: too_few"})
    assert client.get(f"/rejected?{why}&people=0").keys == listed.keys
    assert client.get(f"/rejected?{why}&people=1").keys == []
    text = Page(client.get(listed.linked("/rejected/sample?")[0]).text).text
    told = [line.strip() for line in text.split("\n") if line.strip()]
    for name, value in (("stage", "people_count"), ("reason", "too_few"), ("attempt", "2"), ("people", "0")):
        assert told[told.index(name) + 1] == value, name
    kept = ledger["attempt"] == 2
    for link, is_kept in zip(listed.linked("/rejected/thumbnail?"), kept, strict=True):
        image = client.get(link.replace("thumbnail", "image"))
        assert image.status == (200 if is_kept else 404)
        assert client.get(link).headers["Content-Type"] == "image/jpeg"  # a picture that says so
    (lost,) = (link for link, is_kept in zip(listed.linked("/rejected/sample?"), kept, strict=True) if not is_kept)
    page = client.get(lost)
    assert "image not kept" in page.text
    assert snippet(page.text)["row"]["reason"] == "too_few"


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    folder = tmp_path / "a<b>"
    write_hostile(folder)
    dataset.write_index(str(folder))
    with served(str(folder)) as client:
        client.flag(f"{HOSTILE}0")
        pages = [client.get(path) for path in ("/accepted", "/rejected", f"/accepted?{urlencode({'text': HOSTILE})}")]
        pages += [client.get(link) for page in pages[:2] for link in page.linked("/sample?")]
        assert len(pages) == 3 + 2 + 2
        pages.append(client.get(f"/accepted?{urlencode({'people': HOSTILE})}"))
        for answer in pages:
            page = Page(answer.text)
            assert "<script>alert(1)</script>" in page.text  # to be read
            assert page.elements["script"] == 1
            assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
            leads = [value for name, value in page.attributes if name in ("src", "href", "action")]
            assert all(value.startswith("/") and not value.startswith("//") for value in leads)
        assert pages[0].keys == [f"{HOSTILE}{number}" for number in range(2)]
        for link in [*pages[0].linked("/thumbnail?"), *pages[1].linked("/thumbnail?")]:
            assert client.get(link).status == 200


def test_what_a_browser_may_do_is_said_with_every_answer(client: Client) -> None:
    for path in ("/accepted", "/absent", "/style.css", "/page.js", "/accepted?page=x", "/accepted/image?shard=0&key="):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
    for path in ("/accepted", client.get("/accepted").linked("/accepted/sample?")[0]):
        assert not re.search(r"https?://", client.get(path).text)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8800", "", "localhost@evil"])
def test_other_names_of_this_machine_are_not_answered(client: Client, host: str) -> None:
    answer = client.get("/accepted", Host=host)
    assert answer.status == 403
    assert b"<" not in answer.body  # nothing of the dataset, not even its name


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1"])
def test_this_machine_is_answered_through_a_tunnel_too(client: Client, host: str) -> None:
    assert len(client.get("/accepted", Host=host).keys) == PAGE_ROWS


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/accepted?people=two", 400, "people must be a whole number, not 'two'"),
        ("/accepted?nsfw_low=nan", 400, "nsfw_low must be a number, not 'nan'"),
        ("/accepted/sample?shard=0&key=absent", 404, "humansd index"),
        ("/accepted/sample?shard=99&key=absent", 404, "humansd index"),
        ("/accepted/sample?shard=../0&key=absent", 404, "Not Found"),
        ("/rejected/sample?shard=0&key=absent&attempt=", 404, "Not Found"),
        ("/absent", 404, "Not Found"),
        ("/flag", 405, "Not Allowed"),
    ],
)
def test_what_is_not_there_is_a_page_too(client: Client, path: str, status: int, told: str) -> None:
    answer = client.get(path)
    assert answer.status == status
    assert told in Page(answer.text).text


def damage(file: Path, places: list[tuple[int, int]]) -> None:
    """Overwrite parts of a file, given as (start, length)."""
    with file.open("r+b") as opened:
        for start, length in places:
            opened.seek(start)
            opened.write(b"\xff" * length)


def test_a_list_reads_only_the_columns_it_shows(tmp_path: Path) -> None:
    keys = write_indexed(tmp_path / "out", 2)
    file = tmp_path / "out" / "index.parquet"
    group = pq.ParquetFile(file).metadata.row_group(0)
    chunks = [group.column(number) for number in range(group.num_columns)]
    unread = ("people.", "prompt.", "generation.", "origin.", "annotation", "phash", "source", "width", "row")
    others = [chunk for chunk in chunks if chunk.path_in_schema.startswith(unread)]
    assert len(others) > 40
    starts = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in others]
    damage(file, [(start, chunk.total_compressed_size) for start, chunk in zip(starts, others, strict=True)])
    with pytest.raises((OSError, pa.ArrowInvalid)):
        pd.read_parquet(file)
    with served(str(tmp_path / "out")) as client:
        assert client.get("/accepted").keys == keys
        assert client.get("/accepted?people=1&text=a&min_keypoint_score_low=0").status == 200


def test_an_image_reads_only_its_row_group(tmp_path: Path) -> None:
    """A shard of three groups of which two are damaged shows what the third has."""
    write_hostile(tmp_path / "out")
    store = Store(str(tmp_path / "out"))
    (accepted, *_), manifest = shards.read_markers(store), dataset.read_manifest(store)
    rows = shards.read_back(store, accepted)
    assert rows is not None
    base = rows.accepted[0]
    rows = dataclasses.replace(rows, accepted=[dataclasses.replace(base, key=f"k{number}") for number in range(250)])
    shards.commit(store, manifest.task(0), rows, manifest.identity_hash, "run")
    dataset.write_index(str(tmp_path / "out"))
    file = tmp_path / "out" / "shards" / "00000000.parquet"
    metadata = pq.ParquetFile(file).metadata
    assert metadata.num_row_groups == 3
    chunks = [metadata.row_group(group).column(number) for group in (0, 2) for number in range(metadata.num_columns)]
    images = [chunk for chunk in chunks if chunk.path_in_schema.startswith(("image", "people", "caption"))]
    damage(file, [(chunk.data_page_offset, chunk.total_compressed_size // 2) for chunk in images])
    with served(str(tmp_path / "out")) as client:
        assert client.get("/accepted/image?shard=0&key=k142").body == base.image
        damaged = client.get("/accepted/image?shard=0&key=k0")
        assert damaged.status == 500
        assert f"humansd verify {tmp_path / 'out'}" in damaged.text


def test_a_dataset_without_shards_has_pages(tmp_path: Path) -> None:
    dataset.write_manifest(Store(str(tmp_path)), MANIFEST, {}, "run")
    assert dataset.write_index(str(tmp_path)) == 0
    with served(str(tmp_path)) as client:
        for path in ("/accepted", "/rejected", "/rejected?page=3"):
            assert "Nothing matches" in client.get(path).text


def test_an_index_that_is_behind_is_told(tmp_path: Path) -> None:
    keys = write_indexed(tmp_path / "out", 2)
    assert write_dataset(tmp_path / "out", 3)[: len(keys)] == keys
    with served(str(tmp_path / "out")) as client:
        answer = client.get("/accepted")
        assert answer.keys == keys
        assert f"humansd index {tmp_path / 'out'}" in answer.text


def test_a_shard_that_is_not_committed_is_not_shown(tmp_path: Path) -> None:
    write_indexed(tmp_path / "out", 2)
    with served(str(tmp_path / "out")) as client:
        links = client.get("/accepted").linked("/thumbnail?shard=1")
        (tmp_path / "out" / "done" / "00000001.json").unlink()
        assert links
        assert {client.get(link).status for link in links} == {404}


def test_what_cannot_be_served_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="holds no dataset"):
        make_app(str(tmp_path / "absent"))
    write_dataset(tmp_path / "out", 1)
    assert cli.main(["inspect", str(tmp_path / "out"), "--serve"]) == 2
    assert f"humansd index {tmp_path / 'out'} writes it" in capsys.readouterr().err
    dataset.write_index(str(tmp_path / "out"))
    assert cli.main(["inspect", str(tmp_path / "out"), "--serve", "--rejected"]) == 2
    assert "leave the other options" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["inspect", str(tmp_path / "out"), "--serve", "--port", port]) == 2
    assert f"--port {port}: Address already in use; give another" in capsys.readouterr().err


def test_the_command_serves_this_machine_until_it_is_stopped(out: Path) -> None:
    command = [sys.executable, "-m", "pipelines", "inspect", str(out), "--serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with urllib.request.urlopen(address) as answer:
            assert b"of 31 accepted" in answer.read()
        port = int(address.rstrip("/").rpartition(":")[2])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), 5)
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate(timeout=30)
    assert (process.returncode, rest) == (0, "")
    assert told == f"shows {out} to this machine only; Ctrl-C ends it\n"


def test_a_dataset_on_an_object_store_has_the_same_pages(tmp_path: Path, s3: str) -> None:
    here, there = str(tmp_path / "out"), f"{s3}/served"
    keys = [write_indexed(out, 2) for out in (here, there)][1]
    with served(here) as client, served(there) as other:
        for path in ("/accepted?text=a", "/rejected?people=0"):
            local, remote = client.get(path), other.get(path)
            assert local.keys
            assert (local.keys, local.links) == (remote.keys, remote.links)
            picture, page = local.linked("/thumbnail?")[1], local.linked("/sample?")[1]
            assert client.get(picture).body == other.get(picture).body
            assert client.get(page).text.replace(here, there) == other.get(page).text
        other.flag(keys[3])
    assert cli.main(["takedown", there, "--keys", f"{there}/flagged.txt"]) == 0
    with served(there) as other:
        assert other.get("/accepted").keys == [key for key in keys if key != keys[3]]
