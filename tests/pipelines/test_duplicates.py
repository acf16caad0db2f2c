from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.duplicates import near_duplicates

WORDS = st.integers(0, 2**64 - 1)


@st.composite
def clustered(draw: st.DrawFn) -> list[int]:
    """Hashes of which many are a few bits from another."""
    centres = draw(st.lists(WORDS, min_size=1, max_size=5))
    found = []
    for _ in range(draw(st.integers(1, 30))):
        value = draw(st.sampled_from(centres))
        for bit in draw(st.lists(st.integers(0, 63), max_size=6)):
            value ^= 1 << bit
        found.append(value)
    return found


@given(clustered(), st.integers(0, 8))
def test_the_same_as_comparing_all_with_all(hashes: list[int], distance: int) -> None:
    expected: list[int | None] = []
    for index, value in enumerate(hashes):
        kept = (other for other in range(index) if expected[other] is None)
        expected.append(next((other for other in kept if (hashes[other] ^ value).bit_count() <= distance), None))
    assert near_duplicates(hashes, distance) == expected
