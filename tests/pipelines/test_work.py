"""What a source is told to run: whole batches, and single rows where one of them kills its process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.work import ShardCancelledError, ShardContext, ShardTask

TASK = ShardTask(0, 0, 8, 3)
BATCH = ["a", "b", "c", "d"]


def test_a_batch_runs_whole_and_its_breadcrumb_names_what_else_is_in_flight() -> None:
    left: list[tuple[tuple[str, ...], int]] = []
    context = ShardContext(TASK, leave_breadcrumb=lambda keys, rounds: left.append((tuple(keys), rounds)))
    assert list(context.rounds(BATCH)) == [("a", "b", "c", "d")]
    assert list(context.rounds(["e"], in_flight=BATCH)) == [("e",)]
    assert left == [(("a", "b", "c", "d"), 0), (("a", "b", "c", "d", "e"), 1)]
    assert not context.isolating


def test_quarantined_rows_never_run() -> None:
    context = ShardContext(replace(TASK, quarantined=frozenset("bd")))
    assert list(context.rounds(BATCH)) == [("a", "c")]
    assert list(context.rounds(["b", "d"])) == []


def test_rows_to_isolate_run_alone_and_suspects_last() -> None:
    task = replace(TASK, isolate=frozenset("abc"), suspects=frozenset("a"), quarantined=frozenset("c"))
    context = ShardContext(task)
    assert context.isolating
    assert list(context.rounds(BATCH)) == [("d",), ("b",), ("a",)]
    assert list(context.rounds(["e", "f"])) == [("e", "f")]


def test_a_breadcrumb_is_left_before_each_round_not_earlier() -> None:
    left: list[tuple[str, ...]] = []
    context = ShardContext(
        replace(TASK, isolate=frozenset("ab")), leave_breadcrumb=lambda keys, rounds: left.append(tuple(keys))
    )
    for live in context.rounds(["a", "b"]):
        assert left[-1] == live
    assert left == [("a",), ("b",)]


def test_an_orphan_stops_before_its_next_round() -> None:
    def lost() -> None:
        raise ShardCancelledError("the driver's lease is gone")

    with pytest.raises(ShardCancelledError):
        list(ShardContext(TASK, check_lease=lost).rounds(BATCH))
