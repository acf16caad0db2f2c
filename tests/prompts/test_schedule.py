"""The schedule: what is exactly even, what is nearly even, and for which lists of actions."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompts.grammar import Grammar, load_grammar
from prompts.schedule import CYCLE, RATIO, Schedule, keyed_numbers, people_table

RANGES = st.sampled_from([(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3)])


def feasible(ranges: list[tuple[int, int]]) -> bool:
    """Hall's condition, written out: no set of numbers of people is asked more or less often than actions allow."""
    visits, total = CYCLE, len(ranges)
    for some in ({1}, {2}, {3}, {1, 2}, {2, 3}, {1, 3}):
        wanted = sum(RATIO[k - 1] for k in some) * total
        can = visits * sum(1 for low, high in ranges if some & set(range(low, high + 1)))
        must = visits * sum(1 for low, high in ranges if set(range(low, high + 1)) <= some)
        if not must <= wanted <= can:
            return False
    return True


@given(st.lists(RANGES, min_size=1, max_size=40), st.integers(1, 20), st.integers(0, 2**63))
@settings(max_examples=60)
def test_a_cycle_is_exact_for_any_list_that_allows_it(ranges: list[tuple[int, int]], scenes: int, seed: int) -> None:
    if not feasible(ranges):
        with pytest.raises(ValueError, match="7 : 2 : 1"):
            Schedule(ranges, scenes, seed)
        return
    schedule = Schedule(ranges, scenes, seed)
    size = len(ranges)
    for cycle in (0, 3):
        slots = [schedule.slot(i) for i in range(cycle * CYCLE * size, (cycle + 1) * CYCLE * size)]
        people = Counter(number for _, _, number in slots)
        assert [people[k] for k in (1, 2, 3)] == [share * size for share in RATIO]
        assert all(ranges[action][0] <= number <= ranges[action][1] for _, action, number in slots)
        assert set(Counter(action for _, action, _ in slots).values()) == {CYCLE}
        seen = Counter(scene for scene, _, _ in slots)
        assert max(seen.values()) - min(seen[s] for s in range(scenes)) <= 1


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 99), st.integers(0, 400), st.integers(0, 300))
@settings(max_examples=60)
def test_any_run_holds_each_action_equally_often(actions: int, scenes: int, seed: int, start: int, length: int) -> None:
    schedule = Schedule([(1, 3)] * actions, scenes, seed)
    slots = [schedule.slot(i) for i in range(start, start + length)]
    counts = Counter(action for _, action, _ in slots)
    assert all(length // actions <= counts[a] <= -(-length // actions) for a in range(actions))
    # A run begins and ends within a keyed run of all scenes, and each block it touches has a rest of its own.
    seen = Counter(scene for scene, _, _ in slots)
    slack = 3 + 2 * (length // actions + 1)
    assert max(seen.values(), default=0) - min((seen[s] for s in range(scenes)), default=0) <= slack


def test_a_block_is_even_in_scenes_and_an_action_meets_all_scenes_and_numbers() -> None:
    schedule = Schedule([(1, 3)] * 100, 14, 5)
    for block in range(20):
        counts = Counter(schedule.slot(i)[0] for i in range(100 * block, 100 * (block + 1)))
        assert max(counts.values()) - min(counts.values()) <= 1
    met = {schedule.slot(i)[:2] for i in range(14 * 100)}
    assert len(met) >= 14 * 98 + 2 * 7  # the two places beyond 7 x 14 meet half of the scenes
    together = {schedule.slot(i) for i in range(14 * CYCLE * 100)}
    assert len(together) > 0.85 * 14 * 100 * 3


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return load_grammar()


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_any_ten_thousand_slots_of_the_bundled_grammar_are_balanced(grammar: Grammar, seed: int) -> None:
    """Balanced: people within half a percent of the slots of 7 : 2 : 1, scenes within 4, actions within 1."""
    schedule = Schedule(grammar.ranges(), len(grammar.scenes), seed)
    starts = [0, 1, 3412, 6825, 9_999, 31_007, 68_259, 68_260, 123_456, 990_000]
    for start in starts:
        slots = [schedule.slot(i) for i in range(start, start + 10_000)]
        people = Counter(number for _, _, number in slots)
        assert all(abs(people[k] - RATIO[k - 1] * 1000) <= 50 for k in (1, 2, 3)), (start, people)
        scenes = Counter(scene for scene, _, _ in slots)
        assert max(scenes.values()) - min(scenes.values()) <= 4
        actions = Counter(action for _, action, _ in slots)
        assert len(actions) == len(grammar.actions)
        assert set(actions.values()) <= {1, 2}


def test_small_runs_have_near_their_share_of_people(grammar: Grammar) -> None:
    schedule = Schedule(grammar.ranges(), len(grammar.scenes), 0)
    for start in range(0, 50_000, 1000):
        people = Counter(schedule.slot(i)[2] for i in range(start, start + 100))
        assert abs(people[1] - 70) <= 9
        assert abs(people[2] - 20) <= 8
        assert abs(people[3] - 10) <= 7


def test_a_seed_gives_another_order_and_the_same_seed_the_same() -> None:
    def some(seed: int) -> list[tuple[int, int, int]]:
        schedule = Schedule([(1, 3)] * 50, 5, seed)
        return [schedule.slot(i) for i in range(100)]

    assert some(1) == some(1)
    assert some(1) != some(2)


def test_the_table_keeps_both_kinds_of_sums_where_classes_pull_apart() -> None:
    table = people_table({(1, 1): 600, (1, 3): 200, (2, 3): 190, (3, 3): 10})
    assert [sum(row[k] for row in table.values()) for k in range(3)] == [7000, 2000, 1000]
    assert {kind: sum(row) for kind, row in table.items()} == {(1, 1): 6000, (1, 3): 2000, (2, 3): 1900, (3, 3): 100}
    assert table[1, 1] == (6000, 0, 0)
    assert table[2, 3][0] == 0


def test_keyed_numbers_are_the_keys_alone() -> None:
    assert keyed_numbers("a", 20)[:3] == keyed_numbers("a", 3)
    assert len(set(keyed_numbers("a", 1000))) == 1000
    assert keyed_numbers("a", 2) == [5665373574351757178, 6548252824302934784]  # the same on every machine
