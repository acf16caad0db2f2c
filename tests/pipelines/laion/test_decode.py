"""Files that are not what they say, through img2dataset's resizer as the fetch stage uses it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.images import decode_image
from pipelines.laion.decode import SafeResizer
from pipelines.mini.hostile import malformed

FILES = malformed()


@pytest.fixture(scope="module")
def resizer() -> SafeResizer:
    from img2dataset.resizer import Resizer

    own = Resizer(image_size=64, resize_mode="no", resize_only_if_bigger=True, encode_format="png", encode_quality=1,
                  max_aspect_ratio=5.0, skip_reencode=True)  # fmt: skip
    return SafeResizer(own, max_pixels=10_000_000)


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_an_image_or_has_its_reason(resizer: SafeResizer, name: str) -> None:
    data, expected = FILES[name]
    image, width, height, *_, error = resizer(io.BytesIO(data))
    assert error == expected or (error or "").startswith(f"{expected}:")
    if expected is None:
        assert image is not None
        assert decode_image(image).shape == (height, width, 3)


def test_there_are_many_kinds() -> None:
    assert len(FILES) >= 20


def pixels(resizer: SafeResizer, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = resizer(io.BytesIO(FILES[name][0]))[0]
    assert image is not None
    return decode_image(image)


def test_a_picture_turned_by_exif_is_upright(resizer: SafeResizer) -> None:
    turned = pixels(resizer, "turned by exif")
    assert turned.shape == (64, 48, 3)
    plain = decode_image(FILES["turned by exif"][0])
    assert np.abs(turned.astype(int) - np.rot90(plain, -1)).max() <= 2


def test_sixteen_bits_keep_their_range(resizer: SafeResizer) -> None:
    image = pixels(resizer, "16-bit png")
    original = np.asarray(Image.open(io.BytesIO(FILES["16-bit png"][0])))
    assert np.abs(image[..., 0].astype(int) - original / 257).max() <= 1.5


def test_transparency_goes_on_white(resizer: SafeResizer) -> None:
    image = np.asarray(Image.open(io.BytesIO(FILES["alpha"][0]))).astype(float)
    expected = image[..., :3] * image[..., 3:] / 255 + 255 - image[..., 3:]
    assert np.abs(pixels(resizer, "alpha") - expected).max() <= 2
