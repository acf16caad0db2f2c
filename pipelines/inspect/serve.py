"""`humansd inspect OUT --serve`: pages on this machine to look through a dataset, sample by sample, and to flag some.

Captions, urls and keys come from strangers. Templates escape every text; the browser is told to load and run nothing
but what this server has; other sites can neither read pages (the Host header must be this machine's) nor flag (the
Origin of a form must be a page of this server). The server listens on the loopback address and nowhere else.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import os
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import jinja2
from aiohttp import web
from PIL import Image

from pipelines.config import UserError
from pipelines.inspect import details
from pipelines.inspect.catalog import KINDS, Catalog, Kind
from pipelines.inspect.flags import Flags
from pipelines.inspect.form import as_parameters, read_query
from pipelines.inspect.lookup import Lookup
from pipelines.inspect.sheet import Card, card_of, pictures
from pipelines.options import say
from pipelines.page import STYLE
from pipelines.record import Rejected, Sample
from pipelines.store import Store

HOST: Final = "127.0.0.1"
WEB: Final = Path(__file__).parent / "web"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",  # what was taken down is not to stay in a browser
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with none at all, forms would come without an Origin
    "X-Content-Type-Options": "nosniff",
}
IMAGES: Final = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""What a stored image may be, and what the browser is told that it is; nothing else is sent."""

_OWN: Final = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?")
"""Hosts that are this machine; a tunnel to it (`ssh -L`) may have any port."""
_BACK: Final = re.compile(r"/(accepted|rejected)(/sample)?(\?[^#\s]*)?(#row-\d+)?")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serve(out: str, port: int) -> None:
    """Serve a dataset's pages until Ctrl-C. port: 0 takes a free one; the address is printed.

    Raises UserError where `out` is no dataset, has no index, or the port is taken.
    """
    app = make_app(out)
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"--port {port}: {reason}; give another, or 0 for a free one") from None
    print(f"http://{HOST}:{listening.getsockname()[1]}/", flush=True)
    say(f"shows {out} to this machine only; Ctrl-C ends it")
    web.run_app(app, sock=listening, print=None, access_log=None, shutdown_timeout=1)


def make_app(out: str) -> web.Application:
    """Return the server's application. Raises UserError where `out` is no dataset or has no index."""
    site = Site(Store(out))
    app = web.Application(middlewares=[site.guard])
    app.on_response_prepare.append(_add_headers)
    kind = f"/{{kind:{'|'.join(KINDS)}}}"
    app.add_routes(
        [
            web.get("/", site.start),
            web.get(kind, site.listing),
            web.get(f"{kind}/sample", site.sample),
            web.get(f"{kind}/image", site.image),
            web.get(f"{kind}/thumbnail", site.thumbnail),
            web.post("/flag", site.flag),
            web.get("/style.css", site.style),
            web.get("/page.js", site.script),
            web.get("/favicon.ico", site.no_icon),
        ]
    )
    return app


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _kind(request: web.Request) -> Kind:
    return "accepted" if request.match_info["kind"] == "accepted" else "rejected"


@dataclasses.dataclass(frozen=True, slots=True)
class _Address:
    """The row that a page's or picture's address names."""

    kind: Kind
    shard: int
    key: str
    attempt: int | None

    @classmethod
    def of(cls, request: web.Request) -> _Address:
        kind = _kind(request)
        numbers = [request.query.get(name, "") for name in ("shard", "attempt")]
        if not all(re.fullmatch(r"\d{1,8}", text) for text in (numbers if kind == "rejected" else numbers[:1])):
            raise web.HTTPNotFound
        attempt = int(numbers[1]) if kind == "rejected" else None
        return cls(kind, int(numbers[0]), request.query.get("key", ""), attempt)

    def parameters(self) -> dict[str, str]:
        """As they stand in an address."""
        found = {"shard": str(self.shard), "key": self.key}
        return found if self.attempt is None else {**found, "attempt": str(self.attempt)}


class Site:
    """The pages of one dataset. What reads files runs in threads, so that no request waits for another."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._catalog = Catalog(store)
        self._lookup = Lookup(store)
        self._flags = Flags(store)
        self._behind = self._catalog.is_behind()
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(WEB),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"words": details.words, "number": details.number, "summary": details.summary}
        self._templates.filters["address"] = urlencode

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer this machine's own pages only, and tell what went wrong as a page."""
        host = request.headers.get("Host", "")
        if not _OWN.fullmatch(host):
            return web.Response(status=403, text="This page answers as 127.0.0.1 or localhost only.")
        if request.method == "POST" and request.headers.get("Origin") != f"http://{host}":
            return web.Response(status=403, text="Only this server's own pages may flag.")
        try:
            return await handler(request)
        except web.HTTPRedirection:
            raise
        except web.HTTPException as error:
            return self._message(error.status, error.text or error.reason)
        except UserError as error:
            return self._message(500, str(error))

    async def start(self, request: web.Request) -> web.StreamResponse:
        """The first page is that of the accepted samples."""
        raise web.HTTPFound("/accepted")

    async def listing(self, request: web.Request) -> web.StreamResponse:
        """One page of thumbnails, with the filters above it."""
        return await asyncio.to_thread(self._listing, request)

    def _listing(self, request: web.Request) -> web.Response:
        kind = _kind(request)
        try:
            query = read_query(request.query)
        except ValueError as error:
            return self._message(400, str(error))
        flagged = self._flags.keys()
        page = self._catalog.page(kind, query, flagged)
        view = {"skeletons": "1"} if request.query.get("skeletons") else {}
        query = dataclasses.replace(query, page=page.number)
        return self._page(
            "list.html",
            kind=kind,
            query=query,
            bounds={name: (low, high) for name, low, high in query.bounds},
            page=page,
            choices=self._catalog.choices(kind),
            flagged=flagged,
            parameters=as_parameters(query) | view,
            to_page=lambda number: urlencode(as_parameters(query, number) | view),
            view=view,
        )

    async def sample(self, request: web.Request) -> web.StreamResponse:
        """All about one sample."""
        return await asyncio.to_thread(self._sample, request)

    def _sample(self, request: web.Request) -> web.Response:
        address = _Address.of(request)
        found = self._find(address)
        rejected = address.attempt is not None
        ledger = self._lookup.ledger_row(address.shard, address.key, address.attempt or 0) if rejected else None
        row = found or ledger
        if row is None:
            return self._message(404, f"No such sample in shard {address.shard} (any more). {self._index_again()}")
        sample = row.sample if isinstance(row, Rejected) else row
        sample = sample if isinstance(sample, Sample) else details.of_ledger(sample)
        own = address.parameters()
        return self._page(
            "sample.html",
            kind=address.kind,
            sample=sample,
            own=own,
            limbs=details.limbs(sample.people),
            why=f"{row.stage}: {row.reason}" if not isinstance(row, Sample) else "",
            verdict=details.verdict(ledger) if ledger else [],
            measured=details.measured(ledger) if ledger else [],
            people=details.people_rows(sample.people),
            parts=details.prompt_parts(sample),
            provenance=details.provenance(sample, address.shard) if found else [],
            scores=[] if ledger else details.scores(sample),
            annotation=details.annotation(sample),
            snippet=details.snippet(self._store, address.kind, address.shard, row),
            flagged=self._flags.keys(),
            back=urlencode({name: value for name, value in request.query.items() if name not in own}),
            here=str(request.rel_url),
        )

    async def image(self, request: web.Request) -> web.StreamResponse:
        """The stored bytes of a sample's image."""
        found = await asyncio.to_thread(self._find, _Address.of(request))
        sample = found.sample if isinstance(found, Rejected) else found
        if sample is None or sample.image is None:
            raise web.HTTPNotFound
        try:
            with Image.open(io.BytesIO(sample.image), formats=list(IMAGES)) as image:
                kind = IMAGES[str(image.format)]
        except (OSError, Image.DecompressionBombError):
            raise web.HTTPUnsupportedMediaType from None
        return web.Response(body=sample.image, content_type=kind)

    async def thumbnail(self, request: web.Request) -> web.StreamResponse:
        """A sample's image in a small square; `skeletons=1` draws them over it."""
        drawn = bool(request.query.get("skeletons"))
        body = await asyncio.to_thread(self._thumbnail, _Address.of(request), drawn)
        return web.Response(body=body, content_type="image/jpeg")

    def _thumbnail(self, address: _Address, drawn: bool) -> bytes:
        found = self._find(address)
        if found is None and address.kind == "accepted":
            raise web.HTTPNotFound
        card = Card(None, (), "", False, "", ()) if found is None else card_of(found)
        buffer = io.BytesIO()
        try:
            pictures(card)[drawn].save(buffer, "JPEG", quality=88)
        except Image.DecompressionBombError:
            raise web.HTTPUnsupportedMediaType from None
        return buffer.getvalue()

    def _find(self, address: _Address) -> Sample | Rejected | None:
        return self._lookup.find(address.kind, address.shard, address.key, address.attempt)

    async def flag(self, request: web.Request) -> web.StreamResponse:
        """Flag a key, or take its flag back, and show the page that asked for it."""
        form = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        back = form.get("back", "")
        if not form.get("key") or form.get("flagged") not in ("0", "1") or not _BACK.fullmatch(back):
            raise web.HTTPBadRequest(text="A form of this server has a key, whether to flag it, and a way back.")
        change = self._flags.flag if form["flagged"] == "1" else self._flags.unflag
        await asyncio.to_thread(change, form["key"])
        raise web.HTTPSeeOther(back)

    async def style(self, request: web.Request) -> web.StreamResponse:
        """The style of all reports, and what these pages add to it."""
        own = (WEB / "style.css").read_text(encoding="utf-8")
        return web.Response(text=STYLE + own, content_type="text/css", charset="utf-8")

    async def script(self, request: web.Request) -> web.StreamResponse:
        """What the pages can do without asking the server."""
        text = (WEB / "page.js").read_text(encoding="utf-8")
        return web.Response(text=text, content_type="text/javascript", charset="utf-8")

    async def no_icon(self, request: web.Request) -> web.StreamResponse:
        """Browsers ask for one, whatever a page says."""
        return web.Response(status=204)

    def _index_again(self) -> str:
        return f"humansd index {self._store.root} writes the index anew."

    def _page(self, template: str, status: int = 200, **values: Any) -> web.Response:
        common: Mapping[str, Any] = {"out": self._store.root, "kinds": KINDS, "command": self._flags.command}
        note = f"The index is older than the dataset: {self._index_again()}" if self._behind else ""
        text = self._templates.get_template(template).render(**common, note=note, **values)
        return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")

    def _message(self, status: int, text: str) -> web.Response:
        return self._page("message.html", status, kind="", flagged=(), text=text)
