"""In which order samples are trained on: pure functions of (seed, position), so that any place is found at once.

*Mix*: blocks of `BLOCK` global positions; in each, every dataset has its share of places, shuffled.
*Epoch*: a dataset is gone through again and again. Each time its shards are shuffled, cut into windows of at least
`WINDOW_ROWS` rows (whole shards), and the rows of each window are shuffled: what a shuffle buffer of that size does.
*Batch*: global batch b holds the positions b * B … b * B + B - 1, whatever the number of ranks and loader workers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

BLOCK: Final = 10_000
WINDOW_ROWS: Final = 4_096

_MIX, _SHARDS, _ROWS = 0, 1, 2


class Mix:
    """Which dataset each global position takes its sample from.

    weights: positive, one a dataset; the shares are exact to one in `BLOCK`. Its draws are *local positions*: a
    dataset's 0th, 1st, 2nd … sample.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self._seed = seed
        self.counts = _shares(weights, BLOCK)
        """Places of each dataset in a block."""
        self._block = functools.lru_cache(4)(self._shuffled)

    def _shuffled(self, block: int) -> tuple[Ints, Ints, tuple[Ints, ...]]:
        """Of a block: the dataset of each place; how often it had its turn before; the places of each dataset."""
        datasets = np.repeat(np.arange(len(self.counts)), self.counts)
        if len(self.counts) > 1:
            datasets = np.random.default_rng((self._seed, _MIX, block)).permutation(datasets)
        places = tuple(np.flatnonzero(datasets == dataset) for dataset in range(len(self.counts)))
        turn = np.empty(BLOCK, np.int64)
        for own in places:
            turn[own] = np.arange(len(own))
        return datasets, turn, places

    def local(self, position: int) -> tuple[int, int]:
        """(dataset, local position) of a global position."""
        block, place = divmod(position, BLOCK)
        datasets, turn, _ = self._block(block)
        dataset = int(datasets[place])
        return dataset, block * int(self.counts[dataset]) + int(turn[place])

    def positions(self, dataset: int, local: Ints) -> Ints:
        """The global positions of local ones: the inverse of `local`."""
        blocks, turns = np.divmod(local, self.counts[dataset])
        found = np.empty(len(local), np.int64)
        for block in np.unique(blocks):
            here = blocks == block
            found[here] = block * BLOCK + self._block(int(block))[2][dataset][turns[here]]
        return found


def _shares(weights: Sequence[float], total: int) -> Ints:
    """Whole numbers that sum to `total`, at least 1 each, in proportion to the weights (largest remainders)."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * (total - len(weights))
    counts = np.floor(exact).astype(np.int64)
    rest = total - len(weights) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    return np.asarray(counts + 1, np.int64)


@dataclass(frozen=True, slots=True)
class Window:
    """Rows that are shuffled together: local position `first + i` is row `rows[i]` of shard number `shards[i]`.

    shards: numbers in the dataset's list of shards, not the shards' own indices.
    """

    first: int
    shards: Ints
    rows: Ints

    def __len__(self) -> int:
        return len(self.rows)


class EpochOrder:
    """Which row each local position of a dataset is.

    shard_rows: rows of each shard, at least one in all. dataset: its number in the mix.
    """

    def __init__(self, shard_rows: Sequence[int], seed: int, dataset: int = 0, window_rows: int = WINDOW_ROWS) -> None:
        self._shard_rows = np.asarray(shard_rows, np.int64)
        self._window_rows = window_rows
        self._key = (seed, dataset)
        self.rows = int(self._shard_rows.sum())
        """Rows of an epoch."""
        assert self.rows > 0
        self._epoch = functools.lru_cache(2)(self._windows)
        self._window = functools.lru_cache(2)(self._shuffle)

    def window(self, local: int) -> Window:
        """The window that holds a local position."""
        epoch, offset = divmod(local, self.rows)
        starts = self._epoch(epoch)[1]
        return self._window(epoch, int(np.searchsorted(starts, offset, side="right")) - 1)

    def _windows(self, epoch: int) -> tuple[tuple[Ints, ...], Ints]:
        """The shards of each window of an epoch, and the offset of its first row."""
        order = np.random.default_rng((*self._key, _SHARDS, epoch)).permutation(len(self._shard_rows))
        windows, starts, rows, begin = [], [0], 0, 0
        for end, shard in enumerate(order, 1):
            rows += int(self._shard_rows[shard])
            if rows - starts[-1] >= self._window_rows or end == len(order):
                windows.append(order[begin:end])
                starts.append(rows)
                begin = end
        return tuple(windows), np.asarray(starts[:-1], np.int64)

    def _shuffle(self, epoch: int, number: int) -> Window:
        windows, starts = self._epoch(epoch)
        counts = self._shard_rows[windows[number]]
        shards = np.repeat(windows[number], counts)
        rows = np.concatenate([np.arange(count) for count in counts])
        shuffled = np.random.default_rng((*self._key, _ROWS, epoch, number)).permutation(len(rows))
        return Window(epoch * self.rows + int(starts[number]), shards[shuffled], rows[shuffled])


@dataclass(frozen=True, slots=True)
class Share:
    """Which global positions one loader worker of one rank yields: its slice of every `workers`-th batch from `start`.

    batch_size: of the global batch. DataLoader takes whole batches from its workers in turns, so they come in order.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    worker: int = 0
    workers: int = 1
    start: int = 0

    def batch(self, turn: int) -> range:
        """The positions of this worker's batch number `turn`, counted from 0."""
        size = self.batch_size // self.world_size
        first = (self.start + turn * self.workers + self.worker) * self.batch_size + self.rank * size
        return range(first, first + size)

    def holds(self, positions: Ints) -> NDArray[np.bool_]:
        """Which of these global positions are this worker's."""
        batches, places = np.divmod(positions, self.batch_size)
        turns = batches - self.start
        mine = places // (self.batch_size // self.world_size) == self.rank
        return np.asarray(mine & (turns >= 0) & (turns % self.workers == self.worker), np.bool_)
