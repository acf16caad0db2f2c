"""What comes from the web, before it is decoded: is it an image, a whole one, and of a size we can afford?"""

from __future__ import annotations

import io
import warnings
from typing import Any, Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_PLAIN: Final = {"JPEG": ("RGB", "L"), "PNG": ("RGB", "RGBA"), "WEBP": ("RGB", "RGBA")}
"""What img2dataset's decoder (OpenCV) makes the right pixels of; everything else is turned into plain RGB first."""

_ORIENTATION: Final = 0x0112

Resized = tuple[bytes | None, int | None, int | None, int | None, int | None, str | None]
"""What img2dataset's resizer returns: bytes, width, height, original width and height, error."""

_NAMES: Final = {
    "Image decoding error": "decode",
    "image too small": "too_small",
    "aspect ratio too large": "bad_aspect",
    "image area too large": "too_many_pixels",
}


class ImageRefusedError(Exception):
    """A file that is no image we take; the message is the ledger's reason."""


class SafeResizer:
    """img2dataset's resizer behind a look at the file's header, with upright RGB pixels whatever the file is."""

    def __init__(self, resizer: Any, max_pixels: int) -> None:
        self._resizer = resizer
        self._max_pixels = max_pixels

    def __call__(self, stream: io.BytesIO, bbox_list: object = None) -> Resized:
        """Resize one image; every error is a reason of the ledger."""
        try:
            plain = upright(stream.getvalue(), self._max_pixels)
        except ImageRefusedError as error:
            return None, None, None, None, None, str(error)
        *result, error_message = self._resizer(stream if plain is None else io.BytesIO(plain))
        if error_message is not None:
            error_message = _NAMES.get(error_message, f"decode: {error_message}")
        return (*result, error_message)


def upright(data: bytes, max_pixels: int) -> bytes | None:
    """Return an image's pixels as an upright RGB PNG where its file needs that, None where it is plain already.

    EXIF rotation is applied, transparency goes on white, CMYK, 16-bit and palette pixels become RGB, of an animation
    the first picture is taken. Raises ImageRefusedError.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is judged here
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise ImageRefusedError("too_many_pixels")
                if _is_plain(image):
                    if not _looks_whole(data, image.format or ""):
                        image.load()
                    return None
                return _as_png(image)
        except ImageRefusedError:
            raise
        except Image.DecompressionBombError:
            raise ImageRefusedError("too_many_pixels") from None
        except UnidentifiedImageError:
            raise ImageRefusedError("not_an_image") from None
        except OSError as error:
            raise ImageRefusedError("truncated_image" if "truncated" in str(error) else "decode") from None
        except Exception:  # Pillow's parsers raise what they like on hostile files
            raise ImageRefusedError("decode") from None


def _is_plain(image: Image.Image) -> bool:
    if image.mode not in _PLAIN.get(image.format or "", ()) or getattr(image, "n_frames", 1) > 1:
        return False
    return image.getexif().get(_ORIENTATION, 1) in (0, 1) and "transparency" not in image.info


def _looks_whole(data: bytes, kind: str) -> bool:
    """Whether a file ends as it should: cheaper than decoding it, and OpenCV takes half files for whole."""
    if kind == "JPEG":
        return b"\xff\xd9" in data[-1024:]
    if kind == "PNG":
        return b"IEND" in data[-1024:]
    return len(data) >= int.from_bytes(data[4:8], "little") + 8  # RIFF


def _as_png(image: Image.Image) -> bytes:
    image.seek(0)
    if image.mode.startswith(("I", "F")):  # 16 bits a value
        values = np.asarray(image, np.float32)
        scale = 255 / 65535 if values.max() > 255 else 1.0
        image = Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8))
    turned = ImageOps.exif_transpose(image)
    if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
        ground = Image.new("RGBA", turned.size, "white")
        ground.alpha_composite(turned.convert("RGBA"))
        turned = ground
    file = io.BytesIO()
    turned.convert("RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()
