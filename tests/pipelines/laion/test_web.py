"""Downloads from servers that misbehave, each in its own way, over a real socket."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipelines.laion.config import FetchConfig
from pipelines.laion.optout import OptOut
from pipelines.laion.web import Client, FailedError, is_transient
from pipelines.mini import web
from pipelines.mini.hostile import ANSWERS

NAME = f"{web.HOST}:80"
CONFIG = FetchConfig(
    timeout=0.6, total_time=1.5, retries=0, max_redirects=3, max_bytes=200_000, per_host=100, allow_hosts=(NAME,)
)


FORMS = (
    "127.0.0.1",
    "localhost",
    "0177.0.0.1",  # octal
    "0x7f.0.0.1",  # hexadecimal
    "0x7f000001",
    "2130706433",  # decimal
    "127.1",
    "0.0.0.0",
    "[::ffff:127.0.0.1]",  # mapped into IPv6
    "[::ffff:7f00:1]",
    "127.0.0.1.",
    "private.example",  # a name that resolves to 127.0.0.1
)
"""This machine, as a hostile url may write it."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with web.serve() as found:
        yield found


def client(address: str, opt_out: OptOut | None = None, **changes: Any) -> Client:
    return Client(replace(CONFIG, **changes), opt_out or OptOut(), {NAME: address})


def reason(client: Client, url: str) -> str | None:
    try:
        client.fetch(url)
    except FailedError as error:
        return error.reason
    return None


def test_a_picture_comes_as_it_is(address: str) -> None:
    found = client(address).fetch(f"http://{web.HOST}/people/3.jpg")
    assert found.data == web.Pictures().get("people/3.jpg")


def test_every_misbehaviour_ends_in_time_and_has_its_name(address: str) -> None:
    one = client(address)
    assert len(ANSWERS) >= 25

    def get(name: str) -> tuple[str | None, float]:
        began = time.monotonic()
        return reason(one, f"http://{web.HOST}/hostile/{name}"), time.monotonic() - began

    with ThreadPoolExecutor(len(ANSWERS)) as pool:
        found = dict(zip(ANSWERS, pool.map(get, ANSWERS), strict=True))
    # html arrives as bytes: it is the decoder that turns it down
    expected = {name: None if name == "html" else why for name, (_, why) in ANSWERS.items()}
    assert {name: why for name, (why, _) in found.items()} == expected
    assert max(seconds for _, seconds in found.values()) < 30


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://0177.0.0.1/",
        "http://0x7f.1/",
        "http://2130706433/",
        "http://127.1/",
        "http://0.0.0.0/",
        "http://10.1.2.3/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://[fec0::1]/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
    ],
)
def test_private_addresses_are_refused_however_they_are_written(url: str) -> None:
    assert reason(Client(CONFIG, OptOut()), url) == "refused_address"


@contextlib.contextmanager
def forbidden(family: socket.AddressFamily = socket.AF_INET) -> Iterator[tuple[int, list[object]]]:
    """A server inside that nobody may reach: its port, and who connected to it."""
    seen: list[object] = []
    address = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((address, 0), family=family) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    seen.append(server.accept()[1])

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], seen
        with socket.create_connection(server.getsockname()[:2]):  # the server does listen
            deadline = time.monotonic() + 5
            while not seen and time.monotonic() < deadline:
                time.sleep(0.01)
        assert len(seen) == 1


@pytest.mark.parametrize("form", FORMS)
def test_a_server_inside_is_never_connected_to(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with forbidden() as (port, seen):
        look_up = socket.getaddrinfo

        def private(host: str, *rest: Any, **more: Any) -> Any:
            return look_up("127.0.0.1" if host == "private.example" else host, *rest, **more)

        monkeypatch.setattr(socket, "getaddrinfo", private)
        assert reason(Client(CONFIG, OptOut()), f"http://{form}:{port}/secret") == "refused_address"
        monkeypatch.undo()
        assert seen == []


def test_a_redirect_to_a_server_inside_is_never_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[str] = []
    connect = socket.create_connection

    def spy(address: tuple[str, int], *rest: Any, **more: Any) -> socket.socket:
        connected.append(f"{address[0]}:{address[1]}")
        return connect(address, *rest, **more)

    with forbidden() as (port, seen):
        targets = [f"http://{form}:{port}/" for form in FORMS if form != "private.example"]
        targets += ["http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/latest/meta-data/"]

        class Redirects(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(302)
                self.send_header("Location", targets[int(self.path[1:])])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Redirects)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        name = f"127.0.0.1:{server.server_address[1]}"
        one = Client(replace(CONFIG, allow_hosts=(name,)), OptOut())
        monkeypatch.setattr(socket, "create_connection", spy)
        try:
            found = [reason(one, f"http://{name}/{number}") for number in range(len(targets))]
        finally:
            monkeypatch.undo()
            server.shutdown()
            server.server_close()
        assert found == ["refused_address"] * len(targets)
        assert connected == [name] * len(targets)  # the redirects themselves, and nothing they lead to
        assert seen == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a", "gopher://example.org", "data:,x", "x"])
def test_other_schemes_are_refused(url: str) -> None:
    assert reason(Client(CONFIG, OptOut()), url) == "bad_scheme"


@pytest.mark.parametrize(
    "url", ["http://", "http://a b/", "http://user:pass@example.org/", "http://h:99999/", "http:///x"]
)
def test_addresses_that_are_none_are_refused(url: str) -> None:
    assert reason(Client(CONFIG, OptOut()), url) == "bad_url"


def test_a_name_is_looked_up_once_and_refused_if_any_of_its_addresses_is_private(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def look_up(*question: object, **_: object) -> list[tuple[object, ...]]:
        asked.append(question[0])
        return [(0, 0, 0, "", (address, 80)) for address in ("93.184.215.14", "10.0.0.7")]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert reason(Client(CONFIG, OptOut()), "http://both.example/") == "refused_address"
    assert asked == ["both.example"]


def test_a_host_that_is_allowed_is_allowed_at_that_port_alone(address: str) -> None:
    assert reason(client(address, allow_hosts=()), f"http://{web.HOST}/people/0.jpg") == "refused_address"
    host, _, port = address.partition(":")
    allowed = Client(replace(CONFIG, allow_hosts=(address,)), OptOut())
    assert reason(allowed, f"http://{address}/people/0.jpg") is None
    assert reason(allowed, f"http://{host}:{int(port) + 1}/") == "refused_address"


def test_what_nobody_answers_for_is_a_connection_failure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        name = f"127.0.0.1:{unused.getsockname()[1]}"
    assert reason(Client(replace(CONFIG, allow_hosts=(name,)), OptOut()), f"http://{name}/") == "connection"


def test_tls_is_spoken_and_checked(address: str) -> None:
    port = address.rpartition(":")[2]
    allowed = Client(replace(CONFIG, allow_hosts=(address,)), OptOut())
    assert reason(allowed, f"https://127.0.0.1:{port}/people/0.jpg") == "tls"


def test_what_opted_out_is_not_asked(address: str) -> None:
    listed = OptOut.of(["# theirs", f"http://{web.HOST}/people/1.jpg", "example.org"])
    one = client(address, listed)
    assert reason(one, f"http://{web.HOST}/people/1.jpg") == "opt_out"
    assert reason(one, f"http://{web.HOST}/people/2.jpg") is None
    assert reason(one, "http://images.example.org/a.jpg") == "opt_out"


class _Flaky(BaseHTTPRequestHandler):
    asked: Counter[str]
    at: list[float]

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        self.at.append(time.monotonic())
        status = {"/twice": 503 if self.asked[self.path] < 3 else 200, "/gone": 410}.get(self.path, 200)
        body = b"User-agent: *\nDisallow: /private" if self.path == "/robots.txt" else b"picture"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def flaky() -> Iterator[tuple[str, type[_Flaky]]]:
    handler = type("Flaky", (_Flaky,), {"asked": Counter(), "at": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


def test_only_what_may_pass_is_tried_again(flaky: tuple[str, type[_Flaky]]) -> None:
    name, handler = flaky
    one = Client(replace(CONFIG, allow_hosts=(name,), retries=3, backoff=0.01), OptOut())
    assert one.fetch(f"http://{name}/twice").data == b"picture"
    assert reason(one, f"http://{name}/gone") == "http_410"
    assert handler.asked == {"/twice": 3, "/gone": 1}
    assert is_transient("http_503")
    assert not is_transient("http_410")


def test_robots_txt_is_asked_where_wished(flaky: tuple[str, type[_Flaky]]) -> None:
    name, handler = flaky
    one = Client(replace(CONFIG, allow_hosts=(name,), robots_txt=True), OptOut())
    assert reason(one, f"http://{name}/private/a.jpg") == "robots_txt"
    assert reason(one, f"http://{name}/public/a.jpg") is None
    assert handler.asked == {"/robots.txt": 1, "/public/a.jpg": 1}


def test_a_host_is_given_time(flaky: tuple[str, type[_Flaky]]) -> None:
    name, handler = flaky
    one = Client(replace(CONFIG, allow_hosts=(name,), host_delay=0.1, total_time=0.4), OptOut())
    with ThreadPoolExecutor(8) as pool:  # the last has waited longer than one try may take
        found = list(pool.map(lambda i: reason(one, f"http://{name}/{i}"), range(8)))
    assert found == [None] * 8
    assert max(handler.at) - min(handler.at) >= 0.69


def test_bytes_a_second_are_capped(address: str) -> None:
    size = len(client(address).fetch(f"http://{web.HOST}/people/0.jpg").data)
    one = client(address, max_mb_per_second=size * 4 / 1e6)
    began = time.monotonic()
    for _ in range(3):
        one.fetch(f"http://{web.HOST}/people/0.jpg")
    assert time.monotonic() - began >= 0.74
