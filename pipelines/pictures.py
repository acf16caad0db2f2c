"""Image files of unknown origin: read from below one folder, opened within limits, brought to plain RGB.

Every way in which a file can be wrong is a `PictureError` whose text is the reason as ledgers have it.
"""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from pipelines.config import UserError
from pipelines.store import StorageError, Store, UnreachableError

Pixels = NDArray[np.uint8]

SUFFIX: Final = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats that every reader of a dataset decodes, and their file name endings. MPO: a JPEG with more in it."""
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is opened at all; Pillow knows many more, few of them as well tried."""
WHITE: Final = (255, 255, 255, 255)
"""What shows through transparent pixels."""

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what makes the picture upright."""
_ODD_MODES: Final = {
    "1": "grey",
    "L": "grey",
    "P": "palette",
    "CMYK": "cmyk",
    "YCbCr": "ycbcr",
    "LAB": "lab",
    "I;16": "16-bit",
    "I;16L": "16-bit",
    "I;16B": "16-bit",
}
"""Pillow's modes without transparency that become RGB, and what the picture is then noted to have been."""
_ALPHA_MODES: Final = ("RGBA", "LA", "PA", "RGBa", "La")
_PNG_DEPTH: Final = 24  # where a PNG's header says how many bits a sample has


class PictureError(Exception):
    """A file that cannot be used; the text is the reason: `missing_file`, `outside_root`, `broken` …"""


@dataclass(frozen=True, slots=True)
class Picture:
    """An opened image file.

    pixels: RGB uint8 (H, W, 3), as stored (not turned). orientation: EXIF's 1-8, 1 = upright.
    format: Pillow's name. odd: what keeps the file from being a plain upright RGB JPEG, PNG or WebP: `cmyk`, `16-bit`,
        `grey`, `palette`, `alpha`, `animated`, `turned`, `exif` (unreadable), `gif`, `bmp`, `tiff`; empty for most.
    """

    pixels: Pixels
    orientation: int
    format: str
    odd: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as stored."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as viewers show it."""
        width, height = self.size
        return (height, width) if self.orientation >= 5 else (width, height)

    def upright(self) -> Pixels:
        """The pixels as viewers show them, turned as EXIF says."""
        if self.orientation == 1:
            return self.pixels
        return np.asarray(Image.fromarray(self.pixels).transpose(_TURNS[self.orientation]))

    def as_annotated(self, size: tuple[int | None, int | None]) -> Pixels:
        """The pixels that annotations made at this width and height refer to.

        Those stored where the size is theirs or is not known, those that viewers show where it is the turned one's:
        some tools turn pictures as EXIF says, others do not. Where both have the size (half turns, squares), they are
        those stored, as COCO's own tools have it. Raises PictureError (`size_mismatch`) where neither has.
        """
        if size in (self.size, (None, None)):
            return self.pixels
        if size != self.upright_size:
            raise PictureError("size_mismatch")
        return self.upright()


def open_picture(data: bytes, max_pixels: int) -> Picture:
    """Decode an image file; nothing is decoded of one that is larger than max_pixels.

    The first frame is taken of an animation; 16 bits are cut to 8, transparency is laid on white, CMYK becomes RGB
    without a colour profile. Raises PictureError: `too_many_pixels`, `truncated`, `unsupported` (floating point and
    32-bit pixels), `broken` (anything else, also what is no image).
    """
    Image.init()  # or Pillow does not know all of FORMATS yet
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes that max_pixels decides about
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise PictureError("too_many_pixels")
                return _decoded(image, data)
    except (PictureError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise PictureError("too_many_pixels") from None
    except Exception as error:  # decoders raise whatever comes to mind
        raise PictureError("truncated" if "truncated" in str(error).lower() else "broken") from error


def _decoded(image: Image.Image, data: bytes) -> Picture:
    format_ = str(image.format)
    odd = [] if format_ in SUFFIX else [format_.lower()]
    if format_ != "MPO" and getattr(image, "n_frames", 1) > 1:
        odd.append("animated")
    image.load()
    orientation = 1
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a block of bytes from anywhere
        odd.append("exif")
    if orientation not in _TURNS:
        orientation = 1
    if orientation != 1:
        odd.append("turned")
    rgb, what = _to_rgb(image)
    if format_ == "PNG" and data[_PNG_DEPTH] == 16:
        what = "16-bit"
    if what:
        odd.append(what)
    return Picture(np.asarray(rgb), orientation, format_, tuple(odd))


def _to_rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """The image as RGB, and what it was if it was not."""
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, WHITE), picture).convert("RGB"), "alpha"
    if image.mode == "RGB":
        return image, None
    what = _ODD_MODES.get(image.mode)
    if what is None:
        raise PictureError("unsupported")
    if what == "16-bit":
        high = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(high).convert("RGB"), what
    return image.convert("RGB"), what


class Folder:
    """Files below one folder (or URL) that nothing read from it leads out of."""

    def __init__(self, root: str) -> None:
        """Raises UserError where there is no such folder."""
        self._store = Store(root)
        self._real = Path(self._store.base).resolve() if self._store.local else None
        if self._real is not None and not self._real.is_dir():
            raise UserError(f"{root}: no such folder")

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return a file's bytes; `name` is a path relative to the folder, from an untrusted source.

        Raises PictureError: `outside_root` (absolute, `..`, or a link that leads out), `missing_file`, `not_a_file`,
        `unreadable`, `too_large`. Raises UnreachableError where an object store does not answer.
        """
        if not name or "\0" in name:
            raise PictureError("missing_file")
        if name.startswith("/") or ".." in name.split("/"):
            raise PictureError("outside_root")
        try:
            return self._read_remote(name, max_bytes) if self._real is None else self._read_local(name, max_bytes)
        except (FileNotFoundError, NotADirectoryError):
            raise PictureError("missing_file") from None
        except UnreachableError:
            raise
        except (OSError, StorageError, RuntimeError):  # RuntimeError: links in a circle
            raise PictureError("unreadable") from None

    def holds(self, name: str) -> bool:
        """Whether a file of this name can be read."""
        try:
            self.read(name, 0)
        except PictureError as error:
            return str(error) == "too_large"
        return True

    def _read_local(self, name: str, max_bytes: int) -> bytes:
        assert self._real is not None
        path = (self._real / name).resolve()
        if not path.is_relative_to(self._real):
            raise PictureError("outside_root")
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise PictureError("not_a_file")
        if found.st_size > max_bytes:
            raise PictureError("too_large")
        return path.read_bytes()

    def _read_remote(self, name: str, max_bytes: int) -> bytes:
        if self._store.size(name) > max_bytes:
            raise PictureError("too_large")
        return self._store.read(name)


def read_first(folder: Folder, names: Sequence[str], max_bytes: int) -> bytes:
    """Return the first of several files that is there; raises PictureError as the first name does."""
    first: PictureError | None = None
    for name in names:
        try:
            return folder.read(name, max_bytes)
        except PictureError as error:
            first = first or error
            if str(error) != "missing_file":
                break
    assert first is not None
    raise first
