from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ghi.slots import Candidate, Slots

Passes = Callable[[Candidate], bool]


def run(slots: Slots, passes: Passes) -> list[list[Candidate]]:
    """Fill the slots as a worker does: one batch is settled while the next one is under way."""
    batches: list[list[Candidate]] = []
    in_flight: deque[list[Candidate]] = deque()
    while True:
        batch = slots.next_batch()
        if batch:
            batches.append(batch)
            in_flight.append(batch)
            if len(in_flight) == 1:
                continue
        elif not in_flight:
            return batches
        slots.settle((candidate, passes(candidate)) for candidate in in_flight.popleft())


@given(
    st.integers(0, 1000), st.integers(1, 30), st.integers(1, 8), st.integers(1, 9), st.floats(0, 1), st.integers(0, 99)
)
def test_every_slot_gets_its_lowest_passing_attempt(
    first: int, count: int, max_attempts: int, batch_size: int, rate: float, seed: int
) -> None:
    def passes(candidate: Candidate) -> bool:
        return hash((seed, *candidate)) % 1000 < 1000 * rate

    slots = Slots(range(first, first + count), max_attempts, batch_size)
    batches = run(slots, passes)
    tried = [candidate for batch in batches for candidate in batch]
    assert len(set(tried)) == len(tried)
    for slot in range(first, first + count):
        attempts = sorted(candidate.attempt for candidate in tried if candidate.slot == slot)
        assert attempts == list(range(1, len(attempts) + 1))
        passing = [attempt for attempt in range(1, max_attempts + 1) if passes(Candidate(slot, attempt))]
        assert slots.accepted.get(slot) == (passing[0] if passing else None)
        if not passing:
            assert slot in slots.short()
            assert len(attempts) == max_attempts
    assert all(len(batch) == batch_size for batch in batches[:-1] if not _exhausted(batch, max_attempts))
    assert all(0 < len(batch) <= batch_size for batch in batches)


def _exhausted(batch: list[Candidate], max_attempts: int) -> bool:
    return any(candidate.attempt == max_attempts for candidate in batch)


def test_first_attempts_come_in_index_order_then_what_failed() -> None:
    slots = Slots(range(10, 18), max_attempts=5, batch_size=3)
    batches = run(slots, lambda c: c not in {Candidate(10, 1), Candidate(12, 1)})
    assert batches == [
        [(10, 1), (11, 1), (12, 1)],
        [(13, 1), (14, 1), (15, 1)],
        [(10, 2), (12, 2), (16, 1)],
        [(17, 1), (17, 2), (17, 3)],
    ]


def test_last_open_slots_share_a_batch_in_rounds_and_the_lowest_wins() -> None:
    slots = Slots(range(2), max_attempts=9, batch_size=5)
    batches = run(slots, lambda c: c in {Candidate(0, 2), Candidate(0, 3), Candidate(1, 1)})
    assert batches == [[(0, 1), (1, 1), (0, 2), (1, 2), (0, 3)]]
    assert slots.accepted == {0: 2, 1: 1}


def test_a_batch_stays_short_only_where_no_attempts_are_left() -> None:
    slots = Slots(range(2), max_attempts=2, batch_size=8)
    assert run(slots, lambda c: False) == [[(0, 1), (1, 1), (0, 2), (1, 2)]]
    assert slots.short() == [0, 1]


def test_settling_what_is_not_in_flight_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Slots(range(2), 1, 1).settle([(Candidate(0, 1), True)])
