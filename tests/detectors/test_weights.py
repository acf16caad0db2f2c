"""Checkpoints are found, fetched over a real socket, checked, and refused with a message that says what to do."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from detectors import weights
from detectors.weights import CHECKPOINTS, WeightsError, fetch, find, status

NAME = "rtmdet-tiny-humanart"
BODY = b"not a real checkpoint" * 100_000


class Handler(BaseHTTPRequestHandler):
    """Serves BODY at /file, half of it at /short, and redirects /away to plain http elsewhere."""

    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://example.com/file")
            self.end_headers()
            return
        if self.path not in ("/file", "/short"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY if self.path == "/file" else BODY[: len(BODY) // 2])

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """A web server on loopback; its address."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, downloads allowed."""
    monkeypatch.setenv("HUMANSD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HUMANSD_OFFLINE", raising=False)
    return tmp_path / "cache"


def expect(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """Make BODY (or another body) what the checkpoint NAME should be."""
    digits = hashlib.sha256(body).hexdigest()[:8]
    changed = tuple(
        weights.Checkpoint(c.name, c.task, c.url, digits, c.bytes, c.licence, c.ap, c.measured) if c.name == NAME else c
        for c in CHECKPOINTS
    )
    monkeypatch.setattr(weights, "CHECKPOINTS", changed)


def test_every_checkpoint_says_where_it_is_from_and_how_to_check_it() -> None:
    assert len({checkpoint.name for checkpoint in CHECKPOINTS}) == len(CHECKPOINTS)
    for checkpoint in CHECKPOINTS:
        assert checkpoint.licence
        if not checkpoint.bundled:
            assert checkpoint.url is not None
            assert checkpoint.url.startswith("https://")
            assert re.fullmatch(r"[0-9a-f]{8}([0-9a-f]{56})?", checkpoint.sha256 or "")


def test_fetched_weights_are_whole_and_then_found(server: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(monkeypatch, BODY)
    assert status(NAME) == "missing"
    steps: list[tuple[int, int | None]] = []
    path = fetch(NAME, f"{server}/file", progress=lambda done, total: steps.append((done, total)))
    assert path.read_bytes() == BODY
    assert path.parent == cache
    assert steps[-1] == (len(BODY), len(BODY))
    assert find(NAME) == path
    assert status(NAME) == "cached"
    assert fetch(NAME, "http://127.0.0.1:1/never-asked") == path
    assert [one.name for one in cache.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("page", "reason"),
    [("/file", "SHA-256 is"), ("/short", "download failed"), ("/nothing", "download failed"), ("/away", "https only")],
)
def test_what_is_not_the_file_leaves_nothing_behind(server: str, cache: Path, page: str, reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        fetch(NAME, server + page)
    assert list(cache.iterdir()) == []


def test_plain_http_is_refused_unless_it_is_this_machine(cache: Path) -> None:
    for url in ("http://example.com/x.pth", "ftp://127.0.0.1/x.pth", "file:///etc/passwd", "http://localhost.evil/x"):
        with pytest.raises(WeightsError, match="https only"):
            fetch(NAME, url)


def test_offline_downloads_nothing_and_says_which_file_goes_where(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUMANSD_OFFLINE", "1")
    with pytest.raises(WeightsError, match="HUMANSD_OFFLINE") as refused:
        fetch(NAME, f"{server}/file")
    assert str(cache / "rtmdet_tiny_8xb32-300e_humanart-7da5554e.pth") in str(refused.value)
    with pytest.raises(WeightsError, match=r"put https://download\.openmmlab\.com/\S+7da5554e\.pth there"):
        find(NAME)


def test_missing_weights_name_the_command_and_the_place(cache: Path) -> None:
    with pytest.raises(WeightsError, match=f"humansd models fetch {NAME}") as missing:
        find(NAME)
    assert str(cache) in str(missing.value)
    assert "\n" not in str(missing.value)


def test_damaged_weights_are_not_used(cache: Path) -> None:
    cache.mkdir()
    path = weights.path_of(weights.get(NAME))
    path.write_bytes(b"damaged")
    assert status(NAME) == "damaged"
    with pytest.raises(WeightsError, match="damaged"):
        find(NAME)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(WeightsError, match=r"unknown checkpoint 'rtmpose'; known: mini-pose, .*vitpose-h-humanart"):
        find("rtmpose")


def test_the_bundled_weights_are_there() -> None:
    assert find("mini-pose").is_file()
    assert status("mini-pose") == "bundled"
