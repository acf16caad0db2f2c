"""Near-duplicates by perceptual hash: of pictures that look the same the best stays."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

BITS: Final = 64
PIECE: Final = 2**20
"""Pairs of hashes that are compared at once."""

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]

_BITS_SET: Final = np.array([number.bit_count() for number in range(2**16)], np.uint8)


def near_duplicates(hashes: Sequence[int] | Hashes, distance: int) -> list[int | None]:
    """Return for each hash, best first, the index of the earlier one it is a near-duplicate of, or None if it stays.

    hashes: unsigned 64-bit, in order of preference. distance: bits in which two may differ and still be the same. A
    hash is compared with those that stay only, and with the first of them (in order) that is near enough.
    """
    values, first, number = np.unique(np.array(hashes, np.uint64), return_index=True, return_inverse=True)
    order = np.argsort(first)
    near = np.full(len(values), -1)  # of each distinct hash, as they come: its like among them
    earlier, later = _near_pairs(values[order], distance)
    for one, other in zip(earlier.tolist(), later.tolist(), strict=True):
        if near[other] < 0 and near[one] < 0:
            near[other] = one
    place = np.argsort(order)[number]  # of each hash: which of the distinct ones it is
    stays = first[order][np.where(near[place] < 0, place, near[place])]
    return [None if other == index else other for index, other in enumerate(stays.tolist())]


def _near_pairs(values: Hashes, distance: int) -> tuple[Indices, Indices]:
    """Return all pairs of distinct hashes within `distance` bits, as (earlier, later), ascending by later, earlier.

    Hashes are cut into distance + 2 blocks, of which two that differ in `distance` bits share at least two. So only
    those that share two blocks are compared (Manku, Jain and Das Sarma, "Detecting near-duplicates for web crawling",
    2007): time grows with the hashes, and not with their square as long as few of them share 26 bits (at 3 of 64).
    """
    found = [np.empty((2, 0), np.int64)]
    for mask in _masks(distance):
        order = np.argsort(values & mask, kind="stable")
        for one, other in _pairs_of_equal((values & mask)[order]):
            pairs = order[np.stack((one, other))]
            found.append(pairs[:, _distances(values[pairs[0]], values[pairs[1]]) <= distance])
    together = np.concatenate(found, 1)
    earlier, later = together[:, np.lexsort(together)]
    return earlier, later


def _masks(distance: int) -> Iterator[np.uint64]:
    edges = np.linspace(0, BITS, distance + 3).astype(int).tolist()
    blocks = [(1 << stop) - (1 << start) for start, stop in itertools.pairwise(edges)]
    return (np.uint64(one | other) for one, other in itertools.combinations(blocks, 2))


def _pairs_of_equal(keys: Hashes) -> Iterator[tuple[Indices, Indices]]:
    """Yield the places of all pairs of equal keys, which are sorted, about `PIECE` pairs at a time."""
    starts = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
    sizes = np.diff(starts, append=len(keys))
    after = np.repeat(starts + sizes, sizes) - np.arange(len(keys)) - 1  # equal keys that follow each
    before = np.cumsum(after) - after
    cuts = np.searchsorted(before, np.arange(PIECE, int(after.sum()), PIECE)).tolist()
    for start, stop in itertools.pairwise([0, *cuts, len(keys)]):
        one = np.repeat(np.arange(start, stop), after[start:stop])
        if len(one):
            yield one, one + 1 + np.arange(len(one)) - (before[one] - before[start])


def _distances(one: Hashes, other: Hashes) -> NDArray[np.int64]:
    """Return the bits in which hashes differ."""
    found: NDArray[np.int64] = _BITS_SET[(one ^ other).view(np.uint16).reshape(-1, BITS // 16)].sum(1, np.int64)
    return found
