"""The order of a training: every row once an epoch, the same for any ranks and workers, any place found at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.train.order import BLOCK, EpochOrder, Mix, Share

SHARD_ROWS = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any)


def rows_at(order: EpochOrder, local: int) -> tuple[int, int]:
    window = order.window(local)
    return int(window.shards[local - window.first]), int(window.rows[local - window.first])


@given(SHARD_ROWS, st.integers(0, 5), st.integers(1, 40))
def test_every_epoch_holds_every_row_once_and_in_another_order(shard_rows: list[int], seed: int, window: int) -> None:
    order = EpochOrder(shard_rows, seed, window_rows=window)
    rows = [rows_at(order, local) for local in range(2 * order.rows)]
    everything = [(shard, row) for shard, count in enumerate(shard_rows) for row in range(count)]
    first, second = rows[: order.rows], rows[order.rows :]
    assert sorted(first) == sorted(second) == everything
    if order.rows > 20:
        assert first != second
        assert first != everything


@given(SHARD_ROWS, st.integers(0, 5), st.integers(1, 40))
def test_a_place_is_the_same_however_one_comes_to_it(shard_rows: list[int], seed: int, window: int) -> None:
    order = EpochOrder(shard_rows, seed, window_rows=window)
    forward = [rows_at(order, local) for local in range(3 * order.rows)]
    again = EpochOrder(shard_rows, seed, window_rows=window)
    assert [rows_at(again, local) for local in reversed(range(3 * order.rows))] == forward[::-1]


def test_windows_bound_what_a_worker_holds() -> None:
    order = EpochOrder([10] * 50, seed=1, window_rows=30)
    sizes = {len(order.window(local)) for local in range(order.rows)}
    assert sizes == {30, 20}
    assert len({rows_at(order, local)[0] for local in range(30)}) == 3


@settings(max_examples=30)
@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=5), st.integers(0, 9), st.integers(0, 3 * BLOCK - 1))
def test_the_mix_counts_and_finds_its_places(weights: list[float], seed: int, position: int) -> None:
    mix = Mix(weights, seed)
    dataset, local = mix.local(position)
    assert mix.positions(dataset, np.array([local])).tolist() == [position]
    shares = np.bincount([mix.local(place)[0] for place in range(BLOCK)], minlength=len(weights)) / BLOCK
    assert np.abs(shares - np.array(weights) / sum(weights)).max() <= (1 + len(weights)) / BLOCK
    assert shares.min() > 0


def test_each_dataset_is_gone_through_without_a_gap() -> None:
    mix = Mix([1, 2.5, 0.1], seed=3)
    places = [mix.local(position) for position in range(2 * BLOCK + 77)]
    for dataset in range(3):
        turns = [local for one, local in places if one == dataset]
        assert turns == list(range(len(turns)))


@given(
    st.sampled_from([(4, 1), (4, 2), (4, 4), (6, 3), (6, 2), (1, 1)]),
    st.integers(1, 5),
    st.integers(0, 7),
)
def test_ranks_and_workers_share_batches_without_overlap(
    batch_ranks: tuple[int, int], workers: int, start: int
) -> None:
    batch_size, world_size = batch_ranks
    turns = 4
    everywhere = []
    for rank in range(world_size):
        shares = [Share(batch_size, rank, world_size, worker, workers, start) for worker in range(workers)]
        # as DataLoader takes them: a batch of each worker in turn
        batches = [share.batch(turn) for turn in range(turns) for share in shares]
        per_rank = batch_size // world_size
        for number, batch in enumerate(batches):
            first = (start + number) * batch_size + rank * per_rank
            assert list(batch) == list(range(first, first + per_rank))
        for share in shares:
            mine = {place for turn in range(turns) for place in share.batch(turn)}
            span = np.arange((start + turns * workers) * batch_size)
            assert set(span[share.holds(span)].tolist()) == mine
        everywhere += [place for batch in batches for place in batch]
    assert sorted(everywhere) == list(range(start * batch_size, (start + turns * workers) * batch_size))
