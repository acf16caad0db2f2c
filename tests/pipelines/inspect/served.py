"""A dataset's pages served from this process, and a client that says what it likes about itself."""

from __future__ import annotations

import asyncio
import contextlib
import html
import http.client
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from aiohttp import web

from pipelines import dataset
from pipelines.inspect.serve import HOST, make_app
from tests.pipelines.small_dataset import write_dataset


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")

    @property
    def links(self) -> list[str]:
        """Where its links and pictures lead, in their order."""
        return [html.unescape(link) for link in re.findall(r'(?:href|src)="([^"]*)"', self.text)]

    def linked(self, part: str) -> list[str]:
        return [link for link in self.links if part in link]

    @property
    def keys(self) -> list[str]:
        """Keys of the samples on a list."""
        return [html.unescape(key) for key in re.findall(r'alt="([^"]*)" loading', self.text)]


@dataclass(frozen=True)
class Client:
    """Asks a server on this machine."""

    port: int

    @property
    def origin(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = Answer(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()
        return found

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def flag(self, key: str, flagged: bool = True, back: str = "/accepted", **headers: str) -> Answer:
        """Send the form of a flag button; by itself, it comes from this server's own page."""
        form = urlencode({"key": key, "flagged": int(flagged), "back": back})
        own = {"Origin": self.origin, "Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", "/flag", form, **{**own, **headers})


def write_indexed(out: Path | str, count: int) -> list[str]:
    """Write a small dataset with its index; return the keys of its accepted samples."""
    keys = write_dataset(out, count)
    dataset.write_index(str(out))
    return keys


@contextlib.contextmanager
def served(out: str) -> Iterator[Client]:
    """Serve a dataset until the end of the block."""
    app = make_app(out)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, HOST, 0).start()
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield Client(int(runner.addresses[0][1]))
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
