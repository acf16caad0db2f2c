"""Reading datasets from Python: `from pipelines import open_dataset`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import columns, record, shards
from pipelines.config import UserError
from pipelines.dataset import INDEX, read_manifest
from pipelines.record import Sample
from pipelines.store import Store

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.dataset
    from PIL import Image

READERS: Final = 8
WITHOUT_IMAGE: Final = [name for name in record.SCHEMA.names if name != "image"]


@dataclass(frozen=True, slots=True)
class Part:
    """One OUT: where it is, and its committed shards when it was opened."""

    store: Store
    shards: tuple[int, ...]


class Dataset:
    """The accepted rows of one or several OUTs, in their order; made by `open_dataset`.

    add, poses: as in `pipelines.columns.read_shard`.
    """

    def __init__(self, parts: Sequence[Part], add: Sequence[str] = (), poses: str | None = None) -> None:
        self.parts = tuple(parts)
        self._add = tuple(add)
        self._poses = poses

    def __len__(self) -> int:
        return sum(sum(sizes.values()) for sizes in map(_sizes, self.parts))

    def tables(self, wanted: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows a shard at a time. wanted: columns of the record; None = all, images included."""
        for part in self.parts:
            for index in part.shards:
                yield columns.read_shard(part.store, index, wanted, self._add, self._poses)

    def table(self, wanted: Sequence[str] | None = None) -> pa.Table:
        """All rows as one table; leave `image` out of `wanted` where they are many."""
        found = list(self.tables(wanted))
        if not found:
            return record.SCHEMA.empty_table().select(list(wanted or record.SCHEMA.names))
        return pa.concat_tables(found, promote_options="permissive")

    def samples(self) -> Iterator[Sample]:
        """Yield the rows one by one."""
        for table in self.tables():
            yield from record.table_to_samples(table)

    def rows(self, numbers: Sequence[int]) -> list[Sample]:
        """Return the rows of these numbers (from 0, as `df` counts them), ascending; reads only shards that hold them.

        Raises IndexError for a number that is not a row's.
        """
        wanted = sorted(set(numbers))
        places: list[tuple[Part, int, list[int]]] = []
        start = 0
        for part in self.parts:
            for index, size in _sizes(part).items():
                here = [number - start for number in wanted if start <= number < start + size]
                places += [(part, index, here)] if here else []
                start += size
        outside = [number for number in wanted if not 0 <= number < start]
        if outside:
            raise IndexError(f"row {outside[0]}: there are rows 0 to {start - 1}" if start else "there are no rows")

        def read(place: tuple[Part, int, list[int]]) -> list[Sample]:
            part, index, here = place
            table = columns.read_shard(part.store, index, None, self._add, self._poses)
            return record.table_to_samples(table.take(here))

        with ThreadPoolExecutor(READERS) as pool:
            return [sample for found in pool.map(read, places) for sample in found]

    @functools.cached_property
    def df(self) -> pd.DataFrame:
        """Every column but the image, a row a sample; row i is what `show(i)` shows. Read once, then kept.

        From an OUT's index.parquet where that is of the rows opened, else from the shards.
        """
        import pandas as pd  # takes a second to load

        # As floats, which pandas makes of integers where some are missing, hashes would lose their lower bits.
        exact = {pa.uint64(): pd.UInt64Dtype()}
        frame: pd.DataFrame = self._without_images(WITHOUT_IMAGE).to_pandas(types_mapper=exact.get)
        return frame

    def people(self) -> pd.DataFrame:
        """Return one tidy row a person: box, scores and keypoints (`pipelines.people.one_row_a_person`)."""
        from pipelines.people import one_row_a_person

        return one_row_a_person(self._without_images(["key", "people"]))

    def show(self, row: int) -> Image.Image:
        """Return a picture of a row: its image beside its skeletons and caption; RGB. Raises IndexError for no row."""
        from pipelines.inspect.sheet import card_of, draw_sheet

        (sample,) = self.rows([row])
        return draw_sheet([card_of(sample)], f"Row {row:,}", self._name)

    def sheet(self, count: int = 24) -> Image.Image:
        """Return a contact sheet of at most `count` rows, spread evenly over all; RGB."""
        from pipelines.inspect.sheet import card_of, draw_sheet

        total = len(self)
        count = max(0, min(count, total))
        samples = self.rows([number * total // count for number in range(count)])
        return draw_sheet([card_of(sample) for sample in samples], self._name, f"{count} of {total:,} samples")

    @property
    def _name(self) -> str:
        return " + ".join(part.store.root for part in self.parts)

    def _without_images(self, wanted: Sequence[str]) -> pa.Table:
        """Return columns of all rows: from the index of each OUT where it can be, else from its shards."""
        found = []
        for part in self.parts:
            plain = not self._add and self._poses is None
            indexed = _read_index(part, wanted) if plain else None
            found.append(Dataset([part], self._add, self._poses).table(wanted) if indexed is None else indexed)
        return pa.concat_tables(found, promote_options="permissive")

    def arrow(self) -> pyarrow.dataset.Dataset:
        """The shards as an Arrow dataset, to scan, filter or hand to DuckDB: the record's own columns."""
        import pyarrow.dataset as pads  # imports pandas: a second that only this function needs
        from pyarrow.fs import LocalFileSystem

        parts = []
        for part in self.parts:
            paths = [part.store.path(shards.table_name("shards", index)) for index in part.shards]
            filesystem = LocalFileSystem() if part.store.local else part.store.fs
            if paths:
                parts.append(pads.dataset(paths, schema=record.SCHEMA, format="parquet", filesystem=filesystem))
            else:
                parts.append(pads.dataset(record.SCHEMA.empty_table()))
        return parts[0] if len(parts) == 1 else pads.dataset(parts)


def _sizes(part: Part) -> dict[int, int]:
    """Return the rows of each shard that was opened, in their order."""
    opened = set(part.shards)
    return {done.shard: done.accepted for done in shards.read_markers(part.store) if done.shard in opened}


def _read_index(part: Part, wanted: Sequence[str]) -> pa.Table | None:
    """Return these columns of OUT/index.parquet; None where it is not there or not of the rows that were opened.

    A shard's rows follow from its identity, grow, and are taken down from the index too: as many rows are the same.
    """
    try:
        with part.store.open_parquet(INDEX, ["shard", *wanted]) as file:
            table = shards.read_parquet(file, ["shard", *wanted])
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    if not set(wanted) < set(table.column_names):
        return None
    table = table.filter(pc.is_in(table["shard"], pa.array(part.shards, pa.int32())))
    counted = {row["values"]: row["counts"] for row in table["shard"].value_counts().to_pylist()}
    if counted != {shard: size for shard, size in _sizes(part).items() if size}:
        return None
    return table.select(list(wanted))


def open_dataset(outs: str | Sequence[str], columns: Sequence[str] = (), poses: str | None = None) -> Dataset:
    """Open one or several OUTs as one dataset. Only shards that are committed now are in it.

    columns: names of columns that `humansd annotate` added, which come as `NAME.column`. poses: one of them whose
    people take the place of the record's.
    Raises UserError where an OUT holds no dataset and where a key is in two of them (it names both).
    """
    stores = [Store(out) for out in ([outs] if isinstance(outs, str) else outs)]
    for store in stores:
        read_manifest(store)
    parts = [Part(store, tuple(shards.done_indices(store))) for store in stores]
    if len(parts) > 1:  # within one, `humansd verify` looks
        _check_keys(parts)
    return Dataset(parts, columns, poses)


def _check_keys(parts: Sequence[Part]) -> None:
    def keys_of(place: tuple[Store, int]) -> list[str]:
        store, index = place
        keys: list[str] = shards.read_table(store, "shards", index, ["key"])["key"].to_pylist()
        return keys

    places = [(part.store, index) for part in parts for index in part.shards]
    seen: dict[str, str] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for (store, index), keys in zip(places, pool.map(keys_of, places), strict=True):
            where = store.path(shards.table_name("shards", index))
            for key in keys:
                if key in seen:
                    raise UserError(f"key {key} is in both {seen[key]} and {where}: leave one of them out")
                seen[key] = where
