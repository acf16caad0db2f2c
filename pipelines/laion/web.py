"""One image from a hostile web: bounded in bytes, time, redirects and addresses; every failure has a name.

The connection goes to the very address that was checked; redirects are checked as the first address is. What may pass
(time-outs, 429, 5xx, dropped connections) is tried again with backoff, and only that.
"""

from __future__ import annotations

import email.utils
import http.client
import random
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.robotparser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from img2dataset.downloader import is_disallowed

from pipelines.laion.address import RefusedError, Target, parse, resolve
from pipelines.laion.config import FetchConfig
from pipelines.laion.limits import Deadline, Hosts, Throttle
from pipelines.laion.optout import OptOut

CHUNK: Final = 1 << 18
"""Most images come in one piece: putting pieces together costs a copy."""
ROBOTS_BYTES: Final = 500_000
REDIRECTS: Final = (301, 302, 303, 307, 308)
TRANSIENT: Final = frozenset(
    {"timeout", "too_slow", "connection", "truncated", "http_408", "http_425", "http_429", "dns_busy"}
)
"""Reasons that may pass; every `http_5xx` as well."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A downloaded file. url: where the redirects ended."""

    data: bytes
    url: str


class FailedError(Exception):
    """A download that failed. reason: the ledger's word for it. wait: seconds that the server asks for."""

    def __init__(self, reason: str, detail: str = "", wait: float | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.wait = wait


def is_transient(reason: str) -> bool:
    """Whether a failure may pass: worth another try now, and by `laion retry` later."""
    return reason in TRANSIENT or reason.startswith("http_5")


class Client:
    """Downloads files; shared by the threads of one process.

    hosts: `host:port` → `address:port` in place of a look-up, for a small web of one's own.
    """

    def __init__(self, config: FetchConfig, opt_out: OptOut, hosts: Mapping[str, str] | None = None) -> None:
        self._config = config
        self._opt_out = opt_out
        self._names = dict(hosts or {})
        self._allow = frozenset(config.allow_hosts)
        self._hosts = Hosts(config.per_host, config.host_delay)
        self._throttle = Throttle(config.max_mb_per_second)
        self._tls = ssl.create_default_context()
        self._robots: dict[str, urllib.robotparser.RobotFileParser | None] = {}
        self._robots_lock = threading.Lock()
        token = config.user_agent.strip().lower()
        self._token = token or None
        self._agent = f"Mozilla/5.0 (compatible; {config.user_agent})" if token else "Mozilla/5.0"

    def fetch(self, url: str) -> Fetched:
        """Download one file, trying again what may pass. Raises FailedError."""
        wait = self._config.backoff
        for left in range(self._config.retries, -1, -1):
            try:
                return self._try(url)
            except FailedError as error:
                pause = max(wait, error.wait or 0.0)
                if not left or not is_transient(error.reason) or pause > self._config.max_backoff:
                    raise
            time.sleep(pause * random.uniform(0.8, 1.2))  # so that a host's failures do not come back in step
            wait = min(2 * wait, self._config.max_backoff)
        raise AssertionError("unreachable")

    def _try(self, url: str) -> Fetched:
        """Follow redirects to a file; one deadline for all of it."""
        with Deadline(self._config.total_time) as deadline:
            seen: set[str] = set()
            while True:
                target = self._allowed(url, deadline)
                if target.url in seen:
                    raise FailedError("redirect_loop", target.url)
                if len(seen) > self._config.max_redirects:
                    raise FailedError("too_many_redirects", target.url)
                seen.add(target.url)
                found = self._request(target, deadline, self._config.max_bytes)
                if isinstance(found, bytes):
                    return Fetched(found, target.url)
                url = urllib.parse.urljoin(target.url, found.location)

    def _allowed(self, url: str, deadline: Deadline) -> Target:
        try:
            target = parse(url)
        except RefusedError as error:
            raise FailedError(error.reason, error.detail) from None
        if self._opt_out.refuses(target.url, target.host):
            raise FailedError("opt_out", target.host)
        if self._config.robots_txt and not self._robots_allow(target, deadline):
            raise FailedError("robots_txt", target.host)
        return target

    def _request(self, target: Target, deadline: Deadline, limit: int) -> bytes | _Redirect:
        try:
            address, port = resolve(target, self._allow, self._names)
        except RefusedError as error:
            raise FailedError(error.reason, error.detail) from None
        with self._hosts.turn(target.host, deadline), _failures(deadline):
            connection = self._connect(target, address, port, deadline)
            try:
                headers = {"User-Agent": self._agent, "Accept": "image/*,*/*;q=0.8", "Accept-Encoding": "identity"}
                connection.request("GET", target.path, headers={**headers, "Connection": "close"})
                response = connection.getresponse()
                self._check(response)
                if response.status in REDIRECTS:
                    location = response.headers.get("Location")
                    if not location:
                        raise FailedError("bad_redirect", "no Location")
                    return _Redirect(location)
                return self._body(response, limit, deadline)
            finally:
                connection.close()

    def _connect(self, target: Target, address: str, port: int, deadline: Deadline) -> http.client.HTTPConnection:
        """A connection to an address, that believes it speaks to the host: so Host header and certificate are right."""
        raw = socket.create_connection((address, port), timeout=deadline.patience(self._config.timeout))
        try:
            raw.settimeout(self._config.timeout)
            deadline.guard(raw)
            if target.scheme == "https":
                secure = self._tls.wrap_socket(raw, server_hostname=target.host, do_handshake_on_connect=False)
                raw = secure
                deadline.guard(secure)
                secure.do_handshake()
        except BaseException:
            raw.close()
            raise
        connection = http.client.HTTPConnection(target.host, target.port, timeout=self._config.timeout)
        connection.sock = raw
        return connection

    def _check(self, response: http.client.HTTPResponse) -> None:
        """Raise FailedError unless the answer is a file that we may have, or leads to one."""
        status = response.status
        if self._config.directives and is_disallowed(response.headers, self._token, set(self._config.directives)):
            raise FailedError("noai", "X-Robots-Tag")
        if status in REDIRECTS:
            return
        if status != 200:
            raise FailedError(f"http_{status}", response.reason, _retry_after(response.headers.get("Retry-After")))
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise FailedError("content_encoding", response.headers["Content-Encoding"])

    def _body(self, response: http.client.HTTPResponse, limit: int, deadline: Deadline) -> bytes:
        expected = response.length  # None where it is chunked, or ends with the connection
        if expected is not None and expected > limit:
            raise FailedError("too_large", f"{expected} bytes announced")
        parts = []
        size = 0
        while chunk := response.read(CHUNK):
            size += len(chunk)
            if size > limit:
                raise FailedError("too_large", f"over {limit} bytes")
            self._throttle.take(len(chunk), deadline)
            parts.append(chunk)
        if deadline.passed:  # a socket that was shut reads like one that has ended
            raise FailedError("too_slow", f"{size} bytes until then")
        if expected is not None and size < expected:
            raise FailedError("truncated", f"{size} of {expected} bytes")
        if not size:
            raise FailedError("empty")
        return b"".join(parts)

    def _robots_allow(self, target: Target, deadline: Deadline) -> bool:
        """What the host's robots.txt says (RFC 9309): none there allows all, one that cannot be read allows nothing."""
        origin = f"{target.scheme}://{target.name}"
        with self._robots_lock:
            known = origin in self._robots
        if not known:
            rules: urllib.robotparser.RobotFileParser | None = urllib.robotparser.RobotFileParser()
            assert rules is not None
            try:
                found = self._request(parse(f"{origin}/robots.txt"), deadline, ROBOTS_BYTES)
                rules.parse(found.decode(errors="replace").splitlines() if isinstance(found, bytes) else [])
            except FailedError as error:
                if error.reason == "empty" or error.reason.startswith("http_4"):
                    rules.parse([])
                else:
                    rules = None
            with self._robots_lock:
                self._robots[origin] = rules
        rules = self._robots[origin]
        return rules is not None and rules.can_fetch(self._token or "*", target.url)


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: str


@contextmanager
def _failures(deadline: Deadline) -> Iterator[None]:
    """Give every way in which a connection fails its name."""
    try:
        yield
    except FailedError:
        raise
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        if deadline.passed:
            raise FailedError("too_slow", detail) from None
        if isinstance(error, TimeoutError):
            raise FailedError("timeout", detail) from None
        if isinstance(error, ssl.SSLError):
            raise FailedError("tls", detail) from None
        if isinstance(error, http.client.IncompleteRead):
            raise FailedError("truncated", detail) from None
        if isinstance(error, http.client.RemoteDisconnected | OSError):
            raise FailedError("connection", detail) from None
        if isinstance(error, http.client.InvalidURL | UnicodeError):
            raise FailedError("bad_url", detail) from None
        if isinstance(error, http.client.HTTPException | ValueError):
            raise FailedError("bad_answer", detail) from None
        raise


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
