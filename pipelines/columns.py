"""Columns that `annotate` added to a dataset: OUT/columns/NAME holds one table and one done marker a shard.

A columns' folder is a small dataset of its own (`dataset.json`, `done/`, `failed/`), whose shards follow the dataset's:
a table has the key and the new columns, in the order of the shard's rows. Its done marker notes the shard's checksum,
so that columns of a shard that was rebuilt or has grown are told from current ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa

from pipelines import record, shards
from pipelines.config import UserError
from pipelines.store import Store

COLUMNS: Final = "columns"
SOURCE: Final = "columns"
"""What `dataset.json` of added columns names as their source."""

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
POSES: Final = ("people", "num_people", "min_keypoint_score")
"""The columns that poses under another name take the place of."""


def check_name(name: str) -> str:
    """Return a name that can be a folder's. Raises UserError for any other."""
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name}: must be letters, digits, - and _")
    return name


def names(store: Store) -> list[str]:
    """Names of the columns that a dataset has, sorted."""
    found = (name for name in store.names(COLUMNS) if NAME.fullmatch(name))
    return [name for name in found if store.exists(f"{COLUMNS}/{name}/dataset.json")]


def folder(store: Store, name: str) -> Store:
    """Where columns lie, read as patiently as the dataset itself."""
    return Store(f"{store.url.rstrip('/')}/{COLUMNS}/{check_name(name)}", store.patience)


def read_shard(
    store: Store,
    index: int,
    wanted: Sequence[str] | None = None,
    add: Sequence[str] = (),
    poses: str | None = None,
) -> pa.Table:
    """The accepted rows of a shard, with added columns: the one way in for whoever reads a dataset.

    wanted: which of the record's columns; None = all. add: names of added columns, which come as `NAME.column`.
    poses: added columns whose `people` (with `num_people` and `min_keypoint_score`) take the place of the record's.
    Raises UserError where a shard has no such columns, or those of other rows.
    """
    chosen = list(record.SCHEMA.names if wanted is None else wanted)
    table = shards.read_table(store, "shards", index, list(dict.fromkeys(["key", *chosen])))
    keys = table["key"]
    for name in add:
        more = _read(store, name, index, keys)
        for column in more.column_names:
            if column != "key":
                table = table.append_column(f"{name}.{column}", more[column])
    if poses is not None:
        more = _read(store, poses, index, keys)
        if "people" not in more.column_names:
            raise UserError(f"{store.root}: the columns {poses} hold no poses (no column 'people')")
        for column in set(POSES) & set(chosen) & set(more.column_names):
            place, kind = table.column_names.index(column), record.SCHEMA.field(column)
            table = table.set_column(place, kind, more[column].cast(kind.type))
    return table if "key" in chosen else table.drop_columns(["key"])


def fields(store: Store, indices: Sequence[int], add: Sequence[str]) -> list[pa.Field]:
    """The types of added columns over all shards: numbers widen, and a shard's nulls take the others' type."""
    found: list[pa.Field] = []
    for name in add:
        schemas = [shards.read_schema(folder(store, name), index) for index in indices]
        schemas = [schema for schema in schemas if len(schema) > 1]  # a shard without rows has its key alone
        try:
            whole = pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UserError(f"{store.root}: the columns {name} differ in type between shards: {error}") from None
        found += [field.with_name(f"{name}.{field.name}") for field in whole if field.name != "key"]
    return found


def _read(store: Store, name: str, index: int, keys: pa.ChunkedArray) -> pa.Table:
    own = folder(store, name)
    try:
        table = shards.read_table(own, "", index)
    except FileNotFoundError:
        raise UserError(f"{store.root}: shard {index} has no columns {name}: {_next_action(store, name)}") from None
    if not shards.done_indices(own, range(index, index + 1)) or not table["key"].equals(keys):
        action = _next_action(store, name)
        raise UserError(f"{store.root}: the columns {name} of shard {index} are of other rows: {action}")
    return table


def _next_action(store: Store, name: str) -> str:
    if name in names(store):
        return f"run the same humansd annotate with --name {name} again"
    there = ", ".join(names(store)) or "none"
    return f"humansd annotate --name {name} makes them (there: {there})"


def stale(store: Store, name: str) -> Iterator[tuple[int, str]]:
    """Yield the shards whose columns are not those of their rows, and why."""
    rows = {done.shard: done.files["shards"].sha256 for done in shards.read_markers(store)}
    for done in shards.read_markers(folder(store, name)):
        if done.shard not in rows:
            yield done.shard, f"belongs to shard {done.shard}, which is not there any more"
        elif done.follows != rows[done.shard]:
            yield done.shard, f"is of other rows: shard {done.shard} was rebuilt or has grown"
