"""Who makes which shard, and what a failure costs: rules by example, then whole simulated jobs."""

from __future__ import annotations

import random

import pytest

from pipelines.schedule import Death, Failure, Schedule
from pipelines.work import ShardContext, ShardTask

WHY = Failure("it failed")
BATCH = ("a", "b", "c", "d")


def tasks(number: int) -> list[ShardTask]:
    return [ShardTask(i, 4 * i, 4 * i + 4, 1) for i in range(number)]


def schedule(number: int, slots: int) -> Schedule:
    made = Schedule(tasks(number))
    for slot in range(slots):
        made.ready(slot)
    return made


def take(schedule: Schedule, slot: int) -> ShardTask:
    task = schedule.take(slot)
    assert task is not None
    return task


def die(schedule: Schedule, slot: int, *keys: str, rounds: int = 0) -> None:
    schedule.died(slot, Death(keys, rounds), WHY)
    schedule.gone(slot)
    if slot not in schedule.retired:
        schedule.ready(slot)


def test_shards_are_handed_out_in_order_one_each() -> None:
    made = schedule(3, 2)
    assert [take(made, 0).index, take(made, 1).index] == [0, 1]
    made.succeeded(0, 1.0)
    assert take(made, 0).index == 2
    made.succeeded(0, 3.0)
    made.succeeded(1, 8.0)
    assert (made.waiting, made.in_flight, made.failed, made.median_seconds) == (0, {}, {}, 3.0)
    assert made.take(0) is None


def test_a_shard_that_raised_goes_to_another_worker_and_fails_when_nobody_can_make_it() -> None:
    made = schedule(1, 2)
    take(made, 0)
    made.raised(0, WHY)
    assert made.take(0) is None
    take(made, 1)
    made.raised(1, WHY)
    assert made.failed == {0: WHY}


def test_one_worker_alone_tries_a_shard_twice() -> None:
    made = schedule(2, 1)
    assert take(made, 0).index == 0
    made.raised(0, WHY)
    assert take(made, 0).index == 0
    assert made.failed == {}
    made.raised(0, WHY)
    assert made.failed == {0: WHY}
    assert take(made, 0).index == 1


def test_a_worker_that_only_fails_is_retired_and_costs_no_shard() -> None:
    made = schedule(5, 2)
    assert take(made, 1).index == 0
    for _ in range(3):
        take(made, 0)
        made.raised(0, WHY)
    assert made.retired == {0}
    for _ in range(5):
        made.succeeded(1, 1.0)
        if made.waiting:
            take(made, 1)
    assert (made.waiting, made.failed) == (0, {})


def test_shards_that_failed_on_a_retired_worker_only_get_another_try() -> None:
    made = schedule(4, 1)
    for _ in range(5):
        take(made, 0)
        made.raised(0, WHY)
    assert made.retired == {0}
    made.ready(1)
    assert sorted(take_all(made, 1)) == [0, 1, 2, 3]
    assert made.failed == {}


def take_all(schedule: Schedule, slot: int) -> list[int]:
    found = []
    while (task := schedule.take(slot)) is not None:
        found.append(task.index)
        schedule.succeeded(slot, 1.0)
    return found


def test_a_success_ends_a_row_of_failures() -> None:
    made = schedule(9, 2)
    for _ in range(4):
        take(made, 0)
        made.raised(0, WHY)
        take(made, 0)
        made.succeeded(0, 1.0)
    assert made.retired == set()


def test_three_deaths_isolate_a_batch_and_two_more_quarantine_the_row() -> None:
    made = schedule(1, 1)
    for _ in range(3):
        assert take(made, 0).isolate == frozenset()
        die(made, 0, *BATCH, rounds=5)
    assert take(made, 0).isolate == set(BATCH)
    die(made, 0, "c", rounds=7)
    task = take(made, 0)
    assert (task.isolate, task.suspects, task.quarantined) == (frozenset(BATCH), frozenset("c"), frozenset())
    die(made, 0, "c", rounds=8)
    task = take(made, 0)
    assert (task.isolate, task.suspects, task.quarantined) == (frozenset("abd"), frozenset(), frozenset("c"))


def test_two_deaths_of_a_batch_prove_nothing() -> None:
    made = schedule(1, 1)
    for keys in (BATCH, BATCH, ("e", "f"), ("e", "f")):
        take(made, 0)
        die(made, 0, *keys)
    assert take(made, 0).isolate == frozenset()


def test_where_batches_overlap_the_one_in_all_deaths_is_isolated() -> None:
    made = schedule(1, 1)
    for keys in (("a", "b", "c", "d"), ("c", "d", "e", "f"), ("c", "d", "e", "f")):
        take(made, 0)
        die(made, 0, *keys)
    assert take(made, 0).isolate == {"c", "d"}


def test_a_process_that_dies_whatever_it_runs_quarantines_nothing() -> None:
    made = schedule(3, 1)
    while not made.retired:
        task = take(made, 0)
        assert task.quarantined == frozenset()
        rounds = list(ShardContext(task).rounds([f"{task.index}{key}" for key in BATCH]))
        die(made, 0, *rounds[0], rounds=0)
    assert made.retired == {0}


def test_lost_machines_count_nothing_and_memory_kills_and_hangs_end_somewhere() -> None:
    made = schedule(1, 1)
    for _ in range(50):
        take(made, 0)
        made.dropped(0)
    assert made.failed == {}
    for _ in range(5):
        assert take(made, 0).isolate == frozenset()
        made.killed_for_memory(0, WHY)
    assert (made.failed, made.retired) == ({0: WHY}, set())
    made = schedule(1, 1)
    for _ in range(3):
        take(made, 0)
        made.hung(0, WHY)
    assert made.failed == {0: WHY}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_goes_wrong_only_the_guilty_rows_are_lost(seed: int) -> None:
    """Simulated jobs: some rows kill, some shards raise, some slots are broken, machines vanish; others go on."""
    rng = random.Random(seed)
    number, slots = rng.randrange(1, 30), rng.randrange(2, 6)
    killers = {f"{rng.randrange(number)}/{rng.randrange(8)}" for _ in range(rng.randrange(4))}
    raising = {index for index in range(number) if rng.random() < 0.05}
    broken = {slot: rng.choice(("raise", "die", "hang")) for slot in range(1, slots) if rng.random() < 0.5}
    made = schedule(number, slots)
    results: dict[int, frozenset[str]] = {}
    for _ in range(10_000):
        if not (made.waiting or made.in_flight) or len(made.retired) == slots:
            break
        for slot in rng.sample(range(slots), slots):
            if slot in made.retired or slot in made.in_flight or made.take(slot) is None:
                continue
        for slot, task in list(made.in_flight.items()):
            if rng.random() < 0.3:
                run_one(made, slot, task, broken.get(slot), killers, raising, results, rng)
    assert not made.in_flight
    assert set(made.failed) <= raising
    if len(made.retired) < slots:  # else too much went wrong in a row everywhere, and the job ended early
        assert made.waiting == 0
        assert set(made.failed) == raising
        assert set(results) == set(range(number)) - raising
    assert set().union(*results.values()) == {key for key in killers if int(key.split("/")[0]) in results}


def run_one(
    made: Schedule,
    slot: int,
    task: ShardTask,
    broken: str | None,
    killers: set[str],
    raising: set[int],
    results: dict[int, frozenset[str]],
    rng: random.Random,
) -> None:
    ran: list[tuple[str, ...]] = []
    context = ShardContext(task, leave_breadcrumb=lambda keys, rounds: ran.append(tuple(keys)))
    if rng.random() < 0.05:
        made.dropped(slot)
    elif broken == "raise" or (broken is None and task.index in raising):
        made.raised(slot, WHY)
    elif broken == "hang":
        made.hung(slot, WHY)
    else:
        for start in (0, 4):
            for live in context.rounds([f"{task.index}/{i}" for i in range(start, start + 4)]):
                if broken == "die" or killers & set(live):
                    die(made, slot, *live, rounds=len(ran) - 1)
                    return
        results[task.index] = task.quarantined
        made.succeeded(slot, 1.0)
