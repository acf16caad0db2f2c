"""Pixels to stored bytes and back, and the perceptual hash."""

from __future__ import annotations

import io
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Format = Literal["png", "jpeg", "webp"]
SUFFIXES: Final[dict[str, str]] = {"png": "png", "jpeg": "jpg", "webp": "webp"}


def encode_image(pixels: Pixels, format: Format, quality: int) -> bytes:
    """Encode an RGB image (height, width, 3); `quality` is 1-100 and means nothing for PNG.

    The encoders add no date and no software name, so equal pixels give equal bytes.
    """
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    if format == "png":
        image.save(file, "PNG", compress_level=6)
    elif format == "jpeg":
        image.save(file, "JPEG", quality=quality)
    else:
        image.save(file, "WEBP", quality=quality, method=4)
    return file.getvalue()


def decode_image(data: bytes) -> Pixels:
    """Decode image bytes to RGB pixels (height, width, 3); raises OSError or ValueError where they are no image."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def perceptual_hash(pixels: Pixels) -> int:
    """Return the 64-bit DCT hash of an image as an unsigned integer (imagehash's `phash`, first bit highest)."""
    import imagehash  # pulls in scipy

    return int(str(imagehash.phash(Image.fromarray(pixels))), 16)
