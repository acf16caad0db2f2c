"""Which scene, which action and how many people a slot has: exactly even, and found for any index at once.

Let A be the number of actions and S that of scenes. Slot i lies in block j = i // A at place q = i % A.

Actions. One keyed order of the A actions serves every block, so every A slots in a row, aligned or not, hold each
action exactly once, and any N slots in a row hold each floor(N / A) or ceil(N / A) times.

People. Ten blocks make a cycle. Actions of the same people range form a class. A small table with fixed sums (7A, 2A
and A for 1, 2 and 3 people; ten times the size of each class) says how many people a class has how often in a cycle;
it is filled by iterative proportional fitting (Deming & Stephan 1940) and rounded. In block j an action has the phase
(its own + j + j // 10) mod 10; the own phases of ten neighbours of a class all differ. The 10 n visits of a class of n
actions are numbered n * phase + m, where m numbers the actions in an order that steps by the golden section: the first
visits have three people, the next two, the rest one, as many as the table says. So a cycle has exactly 7 : 2 : 1, each
action its share of the class to within one visit, ten neighbours of a class about theirs; and as classes are mixed
evenly along the order, any run of slots differs from 7 : 2 : 1 by a few people only.

Scenes. The first S * (A // S) places are cut into runs of S, each with a keyed order of all scenes that moves on by one
scene a block: an action meets all S scenes in S blocks. The other places of a block take scenes in turn, going on where
the block before stopped, so that after every whole block the scenes' counts differ by at most one.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from typing import Final

RATIO: Final = (7, 2, 1)
"""Slots with 1, 2 and 3 people out of ten."""
CYCLE: Final = sum(RATIO)
"""Blocks after which the people are exactly at RATIO."""


_Cell = tuple[tuple[int, int], int]
"""A class of actions (fewest, most people) and a number of people less one."""


class Schedule:
    """The slots of one seed. `block` slots hold each action once; `block * CYCLE` slots hold people at 7 : 2 : 1."""

    __slots__ = ("_action", "_class", "_full", "_scene", "_tail", "_threes", "_twos", "_visit", "block", "scenes")

    def __init__(self, ranges: Sequence[tuple[int, int]], scenes: int, seed: int) -> None:
        """
        ranges: fewest and most people of each action, 1-3. Raises ValueError where they do not allow 7 : 2 : 1.
        """
        self.block = len(ranges)
        self.scenes = scenes
        kinds = sorted(set(ranges))
        members = {kind: [a for a, people in enumerate(ranges) if people == kind] for kind in kinds}
        table = people_table({kind: len(members[kind]) for kind in kinds})
        order: list[tuple[float, int, int, int]] = []
        for number, kind in enumerate(kinds):
            own, size = members[kind], len(members[kind])
            keys = keyed_numbers(f"order {seed} {kind}", size)
            shift = keyed_numbers(f"shift {seed} {kind}", 1)[0] / 2**64
            for rank, place in enumerate(sorted(range(size), key=keys.__getitem__)):
                order.append(((rank + shift) / size, number, rank, own[place]))
        order.sort()
        sizes = [len(members[kind]) for kind in kinds]
        phases = [_permutations(f"phase {seed} {kind}", CYCLE, len(members[kind])) for kind in kinds]
        self._action = [action for _, _, _, action in order]
        self._class = bytes(number for _, number, _, _ in order)
        self._visit = [(phases[n][rank], sizes[n], rank * _stride(sizes[n]) % sizes[n]) for _, n, rank, _ in order]
        self._threes = [table[kind][2] for kind in kinds]
        self._twos = [table[kind][1] + table[kind][2] for kind in kinds]
        self._full = self.block // scenes * scenes
        self._scene = bytes(_permutations(f"scenes {seed}", scenes, self._full))
        self._tail = bytes(_permutations(f"tail {seed}", scenes, scenes))

    def slot(self, index: int) -> tuple[int, int, int]:
        """(scene, action, people) of slot `index`: numbers of the scene and the action, and 1-3 people."""
        block, place = divmod(index, self.block)
        phase, size, own = self._visit[place]
        visit = (phase + block + block // CYCLE) % CYCLE * size + own
        number = self._class[place]
        people = 3 if visit < self._threes[number] else 2 if visit < self._twos[number] else 1
        if place < self._full:
            scene = (self._scene[place] + block) % self.scenes
        else:
            scene = self._tail[((self.block - self._full) * block + place - self._full) % self.scenes]
        return scene, self._action[place], people


def people_table(sizes: dict[tuple[int, int], int]) -> dict[tuple[int, int], tuple[int, int, int]]:
    """How often each class of actions has 1, 2 and 3 people in a cycle of ten blocks.

    sizes: (fewest, most) people → number of actions. The sums over classes are exactly 7, 2 and 1 times the number of
    actions, the sum of a class ten times its size, and no class has people out of its range.
    Raises ValueError where no such table exists.
    """
    total = sum(sizes.values())
    wanted = [share * total for share in RATIO]
    kinds = sorted(sizes)
    cells = {(kind, k): float(RATIO[k]) for kind in kinds for k in range(3) if kind[0] <= k + 1 <= kind[1]}
    for _ in range(200):
        for kind in kinds:
            _scale(cells, [c for c in cells if c[0] == kind], CYCLE * sizes[kind])
        for k in range(3):
            _scale(cells, [c for c in cells if c[1] == k], wanted[k])
    rows = {kind: CYCLE * sizes[kind] for kind in kinds}
    columns = list(wanted)
    counts: dict[_Cell, int] = {}
    for cell, value in cells.items():
        counts[cell] = min(int(value + 1e-6), rows[cell[0]], columns[cell[1]])
        rows[cell[0]] -= counts[cell]
        columns[cell[1]] -= counts[cell]
    _settle(counts, rows, columns)
    return {kind: (counts.get((kind, 0), 0), counts.get((kind, 1), 0), counts.get((kind, 2), 0)) for kind in kinds}


def _scale(cells: dict[_Cell, float], some: list[_Cell], to: float) -> None:
    now = sum(cells[cell] for cell in some)
    for cell in some:
        cells[cell] *= to / now if now else 0.0


def _settle(counts: dict[_Cell, int], rows: dict[tuple[int, int], int], columns: list[int]) -> None:
    """Put what rounding left over into the table, along augmenting paths (Ford & Fulkerson 1956)."""
    while any(left > 0 for left in rows.values()):
        path = _augmenting_path(counts, rows, columns)
        amount = min(rows[path[0][0]], columns[path[-1][1]], *(counts[cell] for cell in path[1::2]))
        for place, cell in enumerate(path):
            counts[cell] += -amount if place % 2 else amount
        rows[path[0][0]] -= amount
        columns[path[-1][1]] -= amount


def _augmenting_path(counts: dict[_Cell, int], rows: dict[tuple[int, int], int], columns: list[int]) -> list[_Cell]:
    """Cells to raise and lower in turn, from a class that lacks visits to a number of people that does."""
    paths: list[list[_Cell]] = [[cell] for cell in sorted(counts) if rows[cell[0]] > 0]
    seen = {path[0] for path in paths}
    while paths:
        path = paths.pop(0)
        column = path[-1][1]
        if columns[column] > 0:
            return path
        for out in sorted(cell for cell in counts if cell[1] == column and counts[cell] > 0):
            for into in sorted(cell for cell in counts if cell[0] == out[0] and cell not in seen):
                seen.add(into)
                paths.append([*path, out, into])
    raise ValueError("the actions' numbers of people do not allow 1, 2 and 3 people at 7 : 2 : 1")


def _stride(size: int) -> int:
    """A step near the golden section of `size`, with no divisor in common: its multiples fill range(size) evenly."""
    step = max(1, round(size * 0.6180339887))
    while math.gcd(step, size) != 1:
        step += 1
    return step


def keyed_numbers(key: str, count: int) -> list[int]:
    """`count` numbers of 64 bits that depend on the key alone."""
    raw = b"".join(hashlib.blake2b(f"{key}/{i}".encode()).digest() for i in range((count + 7) // 8))
    return list(struct.unpack(f"<{len(raw) // 8}Q", raw)[:count])


def _permutations(key: str, size: int, count: int) -> list[int]:
    """The first `count` numbers of a row of keyed permutations of range(size)."""
    found: list[int] = []
    while len(found) < count:
        keys = keyed_numbers(f"{key}/{len(found)}", size)
        found += sorted(range(size), key=keys.__getitem__)
    return found[:count]
