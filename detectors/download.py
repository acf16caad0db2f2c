"""Downloads that are whole and match their checksum, or leave nothing."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import os
import socket
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

CHUNK: Final = 1 << 20
TIMEOUT: Final = 30.0
"""Seconds without a byte after which a download is given up."""


class WeightsError(ValueError):
    """A checkpoint is unknown, absent, damaged or cannot be had; the message says what to do next."""


def download(
    url: str, path: Path, sha256: str | None, progress: Callable[[int, int | None], None] | None = None
) -> None:
    """Download over https to `path`, whole and matching or not at all (written beside, checked, renamed).

    Plain http is taken from this machine's own loopback addresses only. Raises WeightsError.
    """
    _require_safe(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            found = _copy(url, handle, progress)
            handle.flush()
            os.fsync(handle.fileno())
        if sha256 is not None and not found.startswith(sha256.lower()):
            raise WeightsError(
                f"{url}: SHA-256 is {found}, expected {sha256}{'…' if len(sha256) < 64 else ''}; not kept"
            )
        part.chmod(0o644)
        part.replace(path)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, socket.gaierror) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(
            f"{url}: download failed ({reason}); put the file at {path} yourself, or try again"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _copy(url: str, handle: IO[bytes], progress: Callable[[int, int | None], None] | None) -> str:
    """Stream a url into an open file; return the SHA-256. A body shorter than announced is an error."""
    opener = urllib.request.build_opener(_SafeRedirects())
    sha, done = hashlib.sha256(), 0
    with opener.open(url, timeout=TIMEOUT) as answer:
        length = answer.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        while chunk := answer.read(CHUNK):
            handle.write(chunk)
            sha.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    if total is not None and done < total:
        raise http.client.IncompleteRead(b"", total - done)
    return sha.hexdigest()


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to places that would have been taken at first."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _require_safe(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_safe(url: str) -> None:
    """Raise WeightsError unless the url is https, or http on loopback."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname)):
        return
    raise WeightsError(f"{url}: weights are downloaded over https only")


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
