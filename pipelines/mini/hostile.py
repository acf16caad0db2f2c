"""Servers that misbehave and files that are not what they say: each by name, with the reason the ledger must give.

The small web of `humansd laion --config mini` has some of them on its pages; the tests go through all.
"""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

import numpy as np
from PIL import Image, ImageCms

DRIP_SECONDS: Final = 0.2
PATIENCE: Final = 600
"""Drops of a drip, and links of a chain: more than any client should wait for."""

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]
"""Answers a request; the bytes are a good picture."""


def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def _status(status: int, **headers: str) -> Answer:
    return lambda handler, image: _send(handler, status, b"no", **headers)


def _redirect(location: str) -> Answer:
    return lambda handler, image: _send(handler, 302, Location=location)


def _raw(data: bytes) -> Answer:
    return lambda handler, image: _write(handler, data)


def _write(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.wfile.write(data)
    handler.wfile.flush()


def _drip(handler: BaseHTTPRequestHandler, drop: bytes) -> None:
    for _ in range(PATIENCE):
        _write(handler, drop)
        time.sleep(DRIP_SECONDS)


def _chain(handler: BaseHTTPRequestHandler, image: bytes) -> None:
    path, _, number = handler.path.partition("?")
    _send(handler, 302, Location=f"{path}?{int(number or 0) + 1}")


def _endless(handler: BaseHTTPRequestHandler, image: bytes) -> None:
    _write(handler, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    with contextlib.suppress(OSError):
        for _ in range(100_000):
            _write(handler, b"10000\r\n" + bytes(0x10000) + b"\r\n")


def _slow_body(handler: BaseHTTPRequestHandler, image: bytes) -> None:
    _write(handler, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    _drip(handler, b"x")


def _slow_headers(handler: BaseHTTPRequestHandler, image: bytes) -> None:
    _write(handler, b"HTTP/1.1 200 OK\r\nX-Slow: ")
    _drip(handler, b"x")


def _endless_continue(handler: BaseHTTPRequestHandler, image: bytes) -> None:
    _drip(handler, b"HTTP/1.1 100 Continue\r\n\r\n")


def _silent(handler: BaseHTTPRequestHandler, image: bytes) -> None:
    time.sleep(DRIP_SECONDS * PATIENCE)


def _truncated(handler: BaseHTTPRequestHandler, image: bytes) -> None:
    _write(handler, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(image) + image[: len(image) // 2])


def _gzip(handler: BaseHTTPRequestHandler, image: bytes) -> None:
    _send(handler, 200, zlib.compress(bytes(10_000_000)), Content_Encoding="deflate")


def _header_flood(handler: BaseHTTPRequestHandler, image: bytes) -> None:
    _write(handler, b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(1000)) + b"\r\n")


ANSWERS: Final[Mapping[str, tuple[Answer, str]]] = {
    "not-found": (_status(404), "http_404"),
    "gone": (_status(410), "http_410"),
    "forbidden": (_status(403), "http_403"),
    "teapot": (_status(418), "http_418"),
    "server-error": (_status(500), "http_500"),
    "bad-gateway": (_status(502), "http_502"),
    "unavailable": (_status(503), "http_503"),
    "too-many-requests": (_status(429, Retry_After="3600"), "http_429"),
    "no-content": (_raw(b"HTTP/1.1 204 No Content\r\n\r\n"), "http_204"),
    "part-of-it": (_status(206), "http_206"),
    "redirect-loop": (_redirect("redirect-loop"), "redirect_loop"),
    "redirect-chain": (_chain, "too_many_redirects"),
    "redirect-to-metadata-service": (_redirect("http://169.254.169.254/latest/meta-data/"), "refused_address"),
    "redirect-to-loopback": (_redirect("http://127.0.0.1:1/"), "refused_address"),
    "redirect-to-octal-loopback": (_redirect("http://0177.0.0.1/"), "refused_address"),
    "redirect-to-private-v6": (_redirect("http://[::ffff:10.0.0.1]/"), "refused_address"),
    "redirect-to-file": (_redirect("file:///etc/passwd"), "bad_scheme"),
    "redirect-to-ftp": (_redirect("ftp://127.0.0.1/image.jpg"), "bad_scheme"),
    "redirect-to-user": (_redirect("http://user:secret@203.0.113.1/"), "bad_url"),
    "redirect-to-nowhere": (_status(302), "bad_redirect"),
    "endless-body": (_endless, "too_large"),
    "huge-announced": (_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"), "too_large"),
    "negative-length": (_raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), "empty"),
    "slow-body": (_slow_body, "too_slow"),
    "slow-headers": (_slow_headers, "too_slow"),
    "endless-continue": (_endless_continue, "too_slow"),
    "silent": (_silent, "timeout"),
    "truncated-body": (_truncated, "truncated"),
    "hangs-up": (_raw(b""), "connection"),
    "garbage": (_raw(b"\x00\xff\x16not http at all\r\n\r\n"), "bad_answer"),
    "header-flood": (_header_flood, "bad_answer"),
    "long-header": (_raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"), "bad_answer"),
    "bad-chunks": (_raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n"), "truncated"),
    "compressed": (_gzip, "content_encoding"),
    "noai": (lambda handler, image: _send(handler, 200, image, X_Robots_Tag="noai"), "noai"),
    "noai-for-us": (
        lambda handler, image: _send(handler, 200, image, X_Robots_Tag="humansd: noindex, noimageai"),
        "noai",
    ),
    "empty": (lambda handler, image: _send(handler, 200), "empty"),
    "html": (lambda handler, image: _send(handler, 200, b"<html>Please log in</html>"), "not_an_image"),
}
"""What a server may do on `/hostile/NAME`, and the reason that the ledger must give."""


def malformed() -> dict[str, tuple[bytes, str | None]]:
    """Image files that are not plain: name → (bytes, the ledger's reason, None where it is an image all the same)."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (48, 64, 3), np.uint8)
    rgb = Image.fromarray(pixels)
    jpeg, png, webp, gif = (_save(rgb, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF"))
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.fromarray(rng.integers(0, 255, (48, 64), np.uint8)))
    palette = rgb.quantize(16)
    sixteen = Image.fromarray((rng.random((48, 64)) * 65535).astype(np.uint16))
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)  # when it was made: now
    return {
        "truncated jpeg": (jpeg[: len(jpeg) // 2], "truncated_image"),
        "truncated png": (png[: len(png) // 2], "truncated_image"),
        "truncated webp": (webp[: len(webp) // 2], "decode"),
        "jpeg header alone": (jpeg[:4], "not_an_image"),
        "zeros": (bytes(5000), "not_an_image"),
        "one byte": (b"\xff", "not_an_image"),
        "wrong magic": (b"\x00\x00" + jpeg[2:], "not_an_image"),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>', "not_an_image"),
        "html": (b"<!doctype html><title>404</title>", "not_an_image"),
        "json": (b'{"error": "expired"}', "not_an_image"),
        "pdf": (b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n", "not_an_image"),
        "tiff": (_save(rgb, "TIFF"), "not_an_image"),
        "icon": (_save(rgb, "ICO"), "not_an_image"),
        "png that lies about its size": (_png_of(30_000, 30_000), "too_many_pixels"),
        "gif that lies about its size": (gif[:6] + struct.pack("<HH", 60_000, 60_000) + gif[10:], "too_many_pixels"),
        "png with broken pixels": (png[:2000] + bytes(500) + png[2500:], "decode"),
        "a line": (_save(rgb.resize((640, 4)), "PNG"), "bad_aspect"),
        "cmyk jpeg": (_save(rgb.convert("CMYK"), "JPEG"), None),
        "grey jpeg": (_save(rgb.convert("L"), "JPEG"), None),
        "16-bit png": (_save(sixteen, "PNG"), None),
        "palette with alpha": (_save(palette, "PNG", transparency=0), None),
        "alpha": (_save(alpha, "PNG"), None),
        "grey with alpha": (_save(alpha.convert("LA"), "PNG"), None),
        "one-bit png": (_save(rgb.convert("1"), "PNG"), None),
        "animated gif": (_save(rgb, "GIF", save_all=True, append_images=[rgb.rotate(180)]), None),
        "animated webp": (_save(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(180)]), None),
        "bmp": (_save(rgb, "BMP"), None),
        "turned by exif": (_save(rgb, "JPEG", exif=exif), None),
        "junk profile": (_save(rgb, "JPEG", icc_profile=b"junk" * 1000), None),
        "good profile": (_save(rgb, "JPEG", icc_profile=bytes(profile)), None),
        "junk exif": (_save(rgb, "JPEG", exif=b"Exif\x00\x00" + b"\xff" * 500), None),
        "progressive jpeg": (_save(rgb, "JPEG", progressive=True), None),
        "bytes after the end": (jpeg + b"appended", None),
    }


def _save(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _png_of(width: int, height: int) -> bytes:
    """A tiny PNG file that says it is very large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
