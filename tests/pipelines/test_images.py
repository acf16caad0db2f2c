import io

import numpy as np
import pytest
from PIL import Image

from pipelines.images import Format, Pixels, decode_image, encode_image, perceptual_hash


def picture() -> Pixels:
    y, x = np.mgrid[:64, :48]
    pixels: Pixels = np.stack([x * 5, y * 2, (x + y) * 2], axis=-1).astype(np.uint8)
    pixels[10:40, 8:20] = (200, 30, 30)
    pixels[30:60, 25:45] = (240, 240, 90)
    return pixels


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_round_trip(format: Format) -> None:
    data = encode_image(picture(), format, 95)
    assert Image.open(io.BytesIO(data)).format == format.upper()
    decoded = decode_image(data)
    assert decoded.shape == (64, 48, 3)
    assert np.abs(decoded.astype(int) - picture()).mean() < (0.1 if format == "png" else 6)
    assert encode_image(picture(), format, 95) == data


def test_perceptual_hash_survives_compression_and_tells_pictures_apart() -> None:
    original = perceptual_hash(picture())
    assert 0 <= original < 2**64
    packed = perceptual_hash(decode_image(encode_image(picture(), "jpeg", 50)))
    assert (original ^ packed).bit_count() <= 4
    noise = np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8)
    assert (original ^ perceptual_hash(noise)).bit_count() > 10


def test_bytes_that_are_no_image() -> None:
    with pytest.raises(OSError, match="cannot identify"):
        decode_image(b"not an image")
