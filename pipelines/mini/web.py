"""A small web on this machine: drawn people, landscapes, copies, broken files and servers that misbehave.

Its addresses have the fixed name `web.mini.test`, which the fetch stage connects to whatever port the server got, so
keys do not depend on the port. The metadata is a LAION-style Parquet file.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.mini.hostile import ANSWERS, malformed
from pipelines.mini.render import draw
from pipelines.mini.train.captions import Captions
from pipelines.mini.world import SCENES, World
from prompts.grammar import load_grammar

HOST: Final = "web.mini.test"
SEED: Final = 90_010
SIZE: Final = 64
QUICK: Final = (
    "not-found",
    "gone",
    "server-error",
    "redirect-loop",
    "redirect-to-metadata-service",
    "truncated-body",
    "noai",
    "html",
)
"""What the pages link to of `hostile.ANSWERS`: not what takes a client its whole patience."""


@dataclass(frozen=True, slots=True)
class Page:
    """One row of metadata: path below the host, text, size in pixels as the metadata has it, similarity, aesthetic."""

    path: str
    caption: str
    width: int
    height: int
    similarity: float
    aesthetic: float


def pages(people: int = 120, empty: int = 24, copies: int = 8) -> list[Page]:
    """The web's pages: pictures of people, of nobody, the same picture at two addresses, and what is no picture."""
    captions = Captions(load_grammar(), SEED)
    found = []
    for index in range(people):
        prompt, _ = captions.at(index)
        found.append(_page(f"people/{index}.jpg", prompt.text, index))
    for index in range(empty):
        scene = SCENES[index % len(SCENES)].replace("-", " ")
        found.append(_page(f"empty/{index}.jpg", f"a {scene} of a landscape", index + 1000))
    found += [_page(f"copies/{index}.png", found[index].caption, index + 2000) for index in range(copies)]
    found += [_page(f"hostile/{name}", "a man walking", 3000) for name in QUICK]
    found += [_page(f"files/{name.replace(' ', '-')}", "a woman sitting", 4000) for name in malformed()]
    return found


def _page(path: str, caption: str, index: int) -> Page:
    rng = np.random.default_rng((SEED, index, 1))
    return Page(path, caption, SIZE, SIZE, round(float(rng.uniform(0.2, 0.4)), 4), round(float(rng.uniform(4, 8)), 3))


def write_metadata(path: Path, listed: list[Page], host: str = HOST) -> None:
    """Write pages as LAION metadata: URL, TEXT, WIDTH, HEIGHT, similarity, punsafe, pwatermark, AESTHETIC_SCORE."""
    columns: dict[str, list[Any]] = {
        "URL": [f"http://{host}/{page.path}" for page in listed],
        "TEXT": [page.caption for page in listed],
        "WIDTH": [page.width for page in listed],
        "HEIGHT": [page.height for page in listed],
        "similarity": [page.similarity for page in listed],
        "punsafe": [0.01] * len(listed),
        "pwatermark": [0.1] * len(listed),
        "AESTHETIC_SCORE": [page.aesthetic for page in listed],
    }
    pq.write_table(pa.table(columns), path)


class Pictures:
    """The pictures of the web, drawn when they are asked for; the same at every start."""

    def __init__(self) -> None:
        self._captions = Captions(load_grammar(), SEED)
        self._malformed = {name.replace(" ", "-"): data for name, (data, _) in malformed().items()}
        self._known: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, path: str) -> bytes | None:
        """The file at `people/7.jpg`, `empty/3.jpg`, `copies/7.png` or `files/…`; None where there is none."""
        with self._lock:
            if path not in self._known:
                made = self._make(path)
                if made is None:
                    return None
                self._known[path] = made
            return self._known[path]

    def _make(self, path: str) -> bytes | None:
        folder, _, name = path.partition("/")
        if folder == "files":
            return self._malformed.get(name)
        number = name.partition(".")[0]
        if folder not in ("people", "empty", "copies") or not number.isdecimal():
            return None
        index = int(number)
        world = World(SCENES[index % len(SCENES)], 0) if folder == "empty" else self._captions.at(index)[1]
        drawn = draw(world, np.random.default_rng((SEED, folder == "empty", index)), SIZE)
        file = io.BytesIO()
        Image.fromarray(drawn.image).save(file, "PNG" if folder == "copies" else "JPEG", quality=95)
        return file.getvalue()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pictures: Pictures
    delay = 0.0

    def do_GET(self) -> None:
        self.close_connection = True
        path = self.path.lstrip("/")
        time.sleep(self.delay)
        if path.startswith("hostile/"):
            name = path.removeprefix("hostile/").partition("?")[0]
            if name in ANSWERS:
                ANSWERS[name][0](self, self.pictures.get("people/0.jpg") or b"")
                return
        data = self.pictures.get(path)
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *_: object) -> None: ...

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client hung up, as it should on most of what is done here
            super().handle()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None: ...


@contextmanager
def serve(delay: float = 0.0) -> Iterator[str]:
    """Serve the web on a loopback port while the context is open; yields `127.0.0.1:port`.

    delay: seconds before every answer.
    """
    handler = type("Handler", (_Handler,), {"pictures": Pictures(), "delay": delay})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, name="mini-web", daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
