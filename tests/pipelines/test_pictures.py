"""Hostile and odd image files: opened within limits, or named. (`humanart/test_work.py` goes through all kinds.)"""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipelines.config import UserError
from pipelines.pictures import Folder, PictureError, open_picture

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (6, 9, 3), dtype=np.uint8)


def encoded(format: str = "PNG", orientation: int = 1, **options: object) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(file, format, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_viewers_turn_them(orientation: int) -> None:
    data = encoded(orientation=orientation)
    picture = open_picture(data, 100)
    assert np.array_equal(picture.pixels, PIXELS)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(picture.upright(), shown)
    assert picture.upright_size == (shown.shape[1], shown.shape[0])
    assert ("turned" in picture.odd) == (orientation != 1)


def test_the_annotated_size_says_which_pixels_are_meant() -> None:
    lying = open_picture(encoded(orientation=6), 100)
    assert lying.as_annotated((9, 6)).shape == (6, 9, 3)
    assert lying.as_annotated((6, 9)).shape == (9, 6, 3)
    assert lying.as_annotated((None, None)).shape == (6, 9, 3)
    with pytest.raises(PictureError, match="size_mismatch"):
        lying.as_annotated((6, 10))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_plain_pictures_have_nothing_odd(format: str) -> None:
    assert open_picture(encoded(format), 100).odd == ()


def test_a_png_of_sixteen_bits_is_noticed() -> None:
    rows = b"".join(b"\0" + bytes(6 * 4) for _ in range(4))
    chunks = [
        (b"IHDR", bytes([0, 0, 0, 4, 0, 0, 0, 4, 16, 2, 0, 0, 0])),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        data += len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
    assert open_picture(data, 100).odd == ("16-bit",)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "broken"),
        (b"<svg/>", "broken"),
        (b"%!PS-Adobe-3.0", "broken"),
        (encoded("JPEG")[:-40], "truncated"),
        (b"P6 2 2 255 123456789012", "broken"),
    ],
)
def test_what_cannot_be_decoded_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=f"^{reason}$"):
        open_picture(data, 10**6)


def test_a_bomb_is_not_decoded() -> None:
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    with pytest.raises(PictureError, match="too_many_pixels"):
        open_picture(file.getvalue(), 80_000_000)
    with pytest.raises(PictureError, match="too_many_pixels"):
        open_picture(encoded(), 53)


def test_a_folder_gives_only_what_is_in_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "in" / "a.bin").write_bytes(b"12345")
    (tmp_path / "out.bin").write_bytes(b"secret")
    (root / "link.bin").symlink_to(root / "in" / "a.bin")
    (root / "leak.bin").symlink_to(tmp_path / "out.bin")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    folder = Folder(str(root))
    assert folder.read("in/a.bin", 5) == folder.read("link.bin", 5) == b"12345"
    for name, reason in {
        "../out.bin": "outside_root",
        "in/../../out.bin": "outside_root",
        str(tmp_path / "out.bin"): "outside_root",
        "leak.bin": "outside_root",
        "in": "not_a_file",
        "pipe": "not_a_file",
        "": "missing_file",
        "a\0b": "missing_file",
        "absent": "missing_file",
        "in/a.bin/x": "missing_file",
        "loop": "unreadable",
        "x" * 5000: "unreadable",
    }.items():
        with pytest.raises(PictureError, match=f"^{reason}$"):
            folder.read(name, 5)
        assert not folder.holds(name)
    with pytest.raises(PictureError, match="too_large"):
        folder.read("in/a.bin", 4)
    assert folder.holds("in/a.bin")
    with pytest.raises(UserError, match="no such folder"):
        Folder(str(root / "absent"))
