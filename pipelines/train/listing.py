"""What a training reads: the committed shards of its datasets, listed once, so that those may grow meanwhile."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from pipelines import columns
from pipelines.config import UserError
from pipelines.dataset import read_manifest
from pipelines.shards import read_markers
from pipelines.store import Store

LATENTS: Final = "latents-"
"""How names of columns begin that hold cached latents."""

PATIENCE: Final = 60.0
"""Seconds for which an object store may be out of reach."""


@dataclass(frozen=True, slots=True)
class ShardRows:
    """A committed shard: its index, its rows, and the checksum and size of its file."""

    index: int
    rows: int
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Part:
    """One OUT of a training: each of its rows is drawn `weight` times as often as a row of weight 1."""

    out: str
    weight: float
    shards: tuple[ShardRows, ...]

    @property
    def rows(self) -> int:
        """Rows of all its shards."""
        return sum(shard.rows for shard in self.shards)


def parse_weight(data: str) -> tuple[str, float]:
    """Split `OUT@weight`; the weight is 1 where none is given. Raises UserError where it is no positive number."""
    out, at, text = data.rpartition("@")
    try:
        weight = float(text)
    except ValueError:
        return data, 1.0  # an @ of the path itself
    if not at:
        return data, 1.0
    if not (out and math.isfinite(weight) and weight > 0):
        raise UserError(f"--data {data}: must be OUT or OUT@weight with a weight above 0, for example ghi@2")
    return out, weight


def list_shards(data: Sequence[str]) -> tuple[Part, ...]:
    """List the shards of each OUT that are committed now. data: `OUT` or `OUT@weight`.

    Raises UserError where an OUT is no dataset, has no committed row, or is named twice.
    """
    if not data:
        raise UserError("no data: name at least one dataset, for example --data ghi")
    parts: list[Part] = []
    for one in data:
        out, weight = parse_weight(one)
        store = Store(out, PATIENCE)
        if store.url in (Store(part.out).url for part in parts):
            raise UserError(f"--data {out}: named twice; give it a weight instead: {out}@2")
        read_manifest(store)
        found = tuple(
            ShardRows(done.shard, done.files["shards"].rows, done.files["shards"].sha256, done.files["shards"].bytes)
            for done in read_markers(store)
            if done.files["shards"].rows
        )
        if not found:
            raise UserError(
                f"--data {out}: has no committed shard with rows yet: humansd status {out} shows how far it is"
            )
        parts.append(Part(store.url, weight, found))
    return tuple(parts)


def refresh(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The same shards with the checksums of what they are now; the order of a training, its row counts, stays.

    A shard from which rows were taken down has fewer rows than it had; one that is gone keeps its old checksum.
    """
    return tuple(_refreshed(part) for part in parts)


def _refreshed(part: Part) -> Part:
    now = {done.shard: done.files["shards"] for done in read_markers(Store(part.out, PATIENCE))}
    fresh = (
        replace(shard, sha256=now[shard.index].sha256, bytes=now[shard.index].bytes) if shard.index in now else shard
        for shard in part.shards
    )
    return replace(part, shards=tuple(fresh))


def check_columns(parts: Sequence[Part], name: str) -> None:
    """Raise UserError where a dataset has no added columns of that name."""
    for part in parts:
        there = columns.names(Store(part.out, PATIENCE))
        if name not in there:
            raise UserError(f"{part.out}: has no columns {name} (there: {', '.join(there) or 'none'})")


def latents_name(parts: Sequence[Part], cached: bool | str) -> str:
    """The columns of cached latents that all datasets have: those named, or the only ones there are.

    Raises UserError where there are none, or several to choose from.
    """
    if isinstance(cached, str):
        check_columns(parts, cached)
        return cached
    there = set.intersection(*({*columns.names(Store(part.out, PATIENCE))} for part in parts))
    found = sorted(name for name in there if name.startswith(LATENTS))
    if len(found) != 1:
        told = f"several ({', '.join(found)}): name one" if found else "none: humansd train cache makes them"
        raise UserError(f"cached latents that all of {', '.join(part.out for part in parts)} have: {told}")
    return found[0]


def to_json(parts: Sequence[Part]) -> str:
    """A listing as text, to go on with the same one after a restart."""
    return json.dumps([asdict(part) for part in parts])


def from_json(text: str) -> tuple[Part, ...]:
    """The inverse of `to_json`. Raises ValueError where the text is no listing."""
    try:
        values: list[dict[str, Any]] = json.loads(text)
        return tuple(Part(**{**v, "shards": tuple(ShardRows(**shard) for shard in v["shards"])}) for v in values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a listing of shards: {error!r}") from None
