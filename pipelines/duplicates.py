"""Near-duplicates by perceptual hash: of pictures that look the same the best stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

BITS: Final = 64


def near_duplicates(hashes: Sequence[int], distance: int) -> list[int | None]:
    """Return for each hash, best first, the index of the earlier one it is a near-duplicate of, or None if it stays.

    hashes: unsigned 64-bit, in order of preference. distance: bits in which two may differ and still be the same. A
    hash is compared with those that stay only, and with the first of them (in order) that is near enough.

    Two hashes within `distance` bits share at least one of distance + 1 bands exactly (pigeonhole), so only those that
    share a band are compared: memory and time grow with the hashes, not with their square.
    """
    width = -(-BITS // (distance + 1))
    shifts = range(0, BITS, width)
    mask = (1 << width) - 1
    bands: list[dict[int, list[int]]] = [{} for _ in shifts]
    found: list[int | None] = []
    for index, value in enumerate(hashes):
        near: int | None = None
        for shift, band in zip(shifts, bands, strict=True):
            for other in band.get(value >> shift & mask, ()):
                if (near is None or other < near) and (hashes[other] ^ value).bit_count() <= distance:
                    near = other
        found.append(near)
        if near is None:
            for shift, band in zip(shifts, bands, strict=True):
                band.setdefault(value >> shift & mask, []).append(index)
    return found
