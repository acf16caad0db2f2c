"""From metadata to frozen candidates: one pass of DuckDB counts the funnel, one writes OUT/plan/.

The order of the candidates is that of sha256(url and seed), so that any part of them is a fair sample of all. Rows are
streamed, and sorted a range of the order at a time; what the memory allowed does not hold goes to the scratch folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import lease
from pipelines.config import UserError
from pipelines.laion.config import COLUMNS, FilterConfig, LaionConfig
from pipelines.laion.optout import OptOut
from pipelines.laion.stages import candidates_name
from pipelines.shards import read_parquet
from pipelines.store import Store

if TYPE_CHECKING:
    import duckdb

PLAN: Final = "plan/plan.json"
_EDGE: Final = 1 << 16
KEY_PREFIX: Final = "laion-"
PART_ROWS: Final = 500_000
"""About how many candidates are sorted at a time; of hundreds of millions it is a 256th part."""
_TYPES: Final = {
    **dict.fromkeys(("width", "height"), pa.int32()),
    **dict.fromkeys(("similarity", "punsafe", "pwatermark", "aesthetic"), pa.float32()),
}
CANDIDATES: Final = pa.schema([("key", pa.string()), *((name, _TYPES.get(name, pa.string())) for name in COLUMNS)])
"""A candidate: key and what the metadata says. width and height are the metadata's, in pixels."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The frozen candidates of a dataset.

    fingerprint: of the metadata's content. funnel: (condition, rows left after it), from all rows to the candidates.
    """

    fingerprint: str
    funnel: tuple[tuple[str, int], ...]
    candidates: int
    shard_size: int


def read_plan(store: Store) -> Plan | None:
    """The plan that OUT holds; None where there is none."""
    try:
        values = json.loads(store.read(PLAN))
    except FileNotFoundError:
        return None
    return Plan(**{**values, "funnel": tuple((name, rows) for name, rows in values["funnel"])})


def read_candidates(store: Store, index: int) -> list[dict[str, Any]]:
    """The candidates of a shard, as rows of `CANDIDATES`, in order."""
    rows: list[dict[str, Any]] = read_parquet(pa.BufferReader(store.read(candidates_name(index)))).to_pylist()
    return rows


def metadata_files(patterns: Sequence[str]) -> list[str]:
    """The files that `metadata.files` names, folders and globs resolved, sorted. Raises UserError where it has none."""
    found: list[str] = []
    for pattern in patterns:
        fs, path = fsspec.core.url_to_fs(pattern)
        scheme = "" if "://" not in pattern else pattern.partition("://")[0] + "://"
        if fs.isdir(path):
            names = [name for ending in ("parquet", "csv", "csv.gz") for name in fs.glob(f"{path}/**/*.{ending}")]
        else:
            names = fs.glob(path)
        if not names:
            raise UserError(f"metadata.files: {pattern}: no such file; give Parquet or CSV files, a folder or a glob")
        found += [scheme + name for name in names]
    if not found:
        raise UserError("metadata.files is empty: name the metadata's Parquet or CSV files, a folder or a glob")
    return sorted(set(found))


def fingerprint(files: Sequence[str]) -> str:
    """SHA-256 over every file's name, size and both ends: where the files lie does not matter, what they hold does.

    A Parquet file's footer, which tells the offsets and statistics of all its parts, is at its end.
    """
    digest = hashlib.sha256()
    for file in files:
        fs, path = fsspec.core.url_to_fs(file)
        size = fs.size(path)
        with fs.open(path, "rb") as handle:
            head = handle.read(_EDGE)
            handle.seek(max(0, size - _EDGE))
            tail = handle.read(_EDGE)
        digest.update(f"{Path(path).name} {size} ".encode() + hashlib.sha256(head + tail).digest())
    return digest.hexdigest()


def conditions(config: FilterConfig) -> list[tuple[str, str]]:
    """The filter as (name, DuckDB expression), in the order in which the funnel counts them."""
    side, other = "least(width, height)", "greatest(width, height)"
    found: list[tuple[str, str | None]] = [
        ("has url", "url IS NOT NULL AND url <> ''"),
        ("has caption", "caption IS NOT NULL AND trim(caption) <> ''"),
        ("language", f"language IN ({', '.join(map(_text, config.languages))})" if config.languages else None),
        ("min_size", _bound(side, ">=", config.min_size)),
        ("max_aspect", _bound(f"{other} / {side}", "<=", config.max_aspect)),
        ("min_similarity", _bound("similarity", ">=", config.min_similarity)),
        ("max_punsafe", _bound("punsafe", "<=", config.max_punsafe)),
        ("max_pwatermark", _bound("pwatermark", "<=", config.max_pwatermark)),
        ("min_aesthetic", _bound("aesthetic", ">=", config.min_aesthetic)),
        ("min_caption", _bound("length(caption)", ">=", config.min_caption)),
        ("max_caption", _bound("length(caption)", "<=", config.max_caption)),
        ("where", config.where and f"({config.where})"),
    ]
    return [(name, f"coalesce({text}, {'false' if name == 'where' else 'true'})") for name, text in found if text]


def _bound(column: str, relation: str, value: float | None) -> str | None:
    return None if value is None else f"{column} {relation} {value!r}"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


class Metadata:
    """The user's metadata behind our column names, in DuckDB."""

    def __init__(self, config: LaionConfig, files: Sequence[str]) -> None:
        """Open the files. Raises UserError where a column or an expression does not fit them."""
        self._config = config
        self._scratch = tempfile.TemporaryDirectory(dir=config.metadata.scratch, prefix="humansd-")
        self._db = _connect(config.metadata.memory_mb, self._scratch.name, files)
        self._conditions = conditions(config.filter)
        opt_out = OptOut.read(config.filter.opt_out)
        if opt_out.urls or opt_out.hosts:
            self._db.create_function("opted_out", lambda url: _opted_out(opt_out, url), ["VARCHAR"], "BOOLEAN")
            self._conditions.append(("opt_out", "NOT opted_out(url)"))
        if config.index.folder is not None:
            from pipelines.laion.index import search
            from pipelines.laion.score import load_clip_by_name

            clip = load_clip_by_name(config.index.clip_model)
            self._db.register("found", search(config.index.folder, clip, config.index))
            self._conditions.append(("index", "url IN (SELECT url FROM found)"))
        self._query(self._view(files))

    def close(self) -> None:
        """Let go of the files and of the scratch folder."""
        self._db.close()
        self._scratch.cleanup()

    def funnel(self) -> tuple[tuple[str, int], ...]:
        """(condition, rows left after it): all rows first, the candidates last."""
        passed = [" AND ".join(text for _, text in self._conditions[: i + 1]) for i in range(len(self._conditions))]
        counts = ", ".join(["count(*)", *(f"count(*) FILTER (WHERE {text})" for text in passed)])
        (found,) = self._query(f"SELECT {counts} FROM metadata")
        # eight bytes a key: DuckDB keeps those in place, and half of the memory that the text would take
        keys = f"SELECT DISTINCT unhex(substr(key, {len(KEY_PREFIX) + 1})) FROM metadata WHERE {passed[-1]}"
        (distinct,) = self._query(f"SELECT count(*) FROM ({keys})")
        names = ["all rows", *(name for name, _ in self._conditions), "one row a url"]
        return tuple(zip(names, (*found, *distinct), strict=True))

    def candidates(self, rows: int, count: int) -> Iterator[pa.Table]:
        """The candidates in their order, `rows` at a time; of a url's rows the most similar to its text is taken.

        count: about how many there are.
        """
        kept: list[pa.RecordBatch] = []
        size = 0
        for batch in self._sorted(rows, count):
            kept.append(batch)
            size += batch.num_rows
            while size >= rows:
                table = pa.Table.from_batches(kept)
                yield table.slice(0, rows).cast(CANDIDATES)
                kept, size = table.slice(rows).to_batches(), size - rows
        if size:
            yield pa.Table.from_batches(kept).cast(CANDIDATES)

    def _sorted(self, rows: int, count: int) -> Iterator[pa.RecordBatch]:
        best = "similarity DESC NULLS LAST, aesthetic DESC NULLS LAST, caption, width, height"
        columns = ", ".join(CANDIDATES.names)
        for source in self._parts(count):
            with _told_of_duckdb():
                yield from self._db.sql(
                    f"SELECT {columns} FROM (SELECT *, row_number() OVER (PARTITION BY key ORDER BY {best}) AS turn"
                    f" FROM {source}) WHERE turn = 1 ORDER BY place, key"
                ).to_arrow_reader(rows)

    def _parts(self, count: int) -> Iterator[str]:
        """Tables of the candidates that hold one range each of their order, which is that of `place`, in turn.

        Rows of one url have one place. A part is written to the scratch folder first and removed when it was read.
        """
        where = " AND ".join(text for _, text in self._conditions)
        chosen = f"SELECT *, sha256(url || ' {self._config.seed}') AS place FROM metadata WHERE {where}"
        parts = min(-(-count // PART_ROWS), 256)
        if parts <= 1:
            yield f"({chosen})"
            return
        high, low = (f"(strpos('0123456789abcdef', substr(place, {digit}, 1)) - 1)" for digit in (1, 2))
        whole = Path(self._scratch.name, "parts")
        self._query(
            f"COPY (SELECT *, (16 * {high} + {low}) * {parts} // 256 AS part FROM ({chosen}))"
            f" TO {_text(str(whole))} (FORMAT parquet, PARTITION_BY (part))"
        )
        for number in range(parts):
            folder = whole / f"part={number}"
            if folder.is_dir():
                yield f"read_parquet({_text(str(folder / '*.parquet'))}, hive_partitioning = false)"
                shutil.rmtree(folder)

    def _view(self, files: Sequence[str]) -> str:
        own = self._config.metadata.columns
        names = {column: getattr(own, column) for column in COLUMNS}
        there = {row[0].lower(): row[0] for row in self._query(f"DESCRIBE SELECT * FROM {_source(files)}")}
        found = {column: _first(name, there) for column, name in names.items()}
        for column in ("url", "caption"):
            if found[column] is None:
                raise UserError(
                    f"metadata.columns.{column} = {names[column]!r}: the files have no such column;"
                    f" they have {', '.join(there.values())}"
                )
        kinds = {pa.int32(): "INTEGER", pa.float32(): "FLOAT", pa.string(): "VARCHAR"}
        parts = []
        for column, own_name in found.items():
            kind = kinds[CANDIDATES.field(column).type]
            value = "NULL" if own_name is None else '"' + own_name.replace('"', '""') + '"'
            parts.append(
                f"TRY_CAST({f'trim(CAST({value} AS VARCHAR))' if column == 'url' else value} AS {kind}) AS {column}"
            )
        inner = f"SELECT {', '.join(parts)} FROM {_source(files)}"
        return f"CREATE VIEW metadata AS SELECT '{KEY_PREFIX}' || substr(sha256(url), 1, 16) AS key, * FROM ({inner})"

    def _query(self, sql: str) -> list[tuple[Any, ...]]:
        with _told_of_duckdb():
            return self._db.execute(sql).fetchall()


@contextlib.contextmanager
def _told_of_duckdb() -> Iterator[None]:
    """DuckDB's errors as the user's, with what to do about them."""
    import duckdb

    try:
        yield
    except (duckdb.Error, pa.ArrowException) as error:
        line = str(error).splitlines()[0]
        hint = f"is filter.where an expression over {', '.join(COLUMNS)}?"
        if "memory" in line.lower():
            hint = "metadata.memory_mb gives it more"
        raise UserError(f"metadata: {line} ({hint})") from None


def _first(names: str, there: Mapping[str, str]) -> str | None:
    """The first of the names `a|b|c` that the files have, as they write it."""
    return next((there[name.strip().lower()] for name in names.split("|") if name.strip().lower() in there), None)


def _opted_out(opt_out: OptOut, url: str) -> bool:
    from pipelines.laion.address import RefusedError, parse

    try:
        return opt_out.refuses(url, parse(url).host)
    except RefusedError:
        return opt_out.refuses(url, "")


def _source(files: Sequence[str]) -> str:
    listed = "[" + ", ".join(map(_text, files)) + "]"
    if all(".csv" in file for file in files):
        return f"read_csv({listed}, union_by_name = true, all_varchar = true)"
    return f"read_parquet({listed}, union_by_name = true)"


def _connect(memory_mb: int, scratch: str, files: Sequence[str]) -> duckdb.DuckDBPyConnection:
    import duckdb

    db = duckdb.connect()
    db.execute(f"SET memory_limit = '{memory_mb}MB'")
    db.execute(f"SET temp_directory = {_text(scratch)}")
    db.execute("SET preserve_insertion_order = false")
    db.execute("SET partitioned_write_flush_threshold = 65536")  # rows that a thread holds before it writes them
    for scheme in sorted({file.partition("://")[0] for file in files if "://" in file}):
        db.register_filesystem(fsspec.filesystem(scheme))
    return db


def make_plan(config: LaionConfig, store: Store, files: Sequence[str]) -> Plan:
    """Freeze the candidates in OUT/plan/, unless that is done; the plan is written last.

    Raises UserError where OUT was planned from other metadata.
    """
    found = fingerprint(files)
    plan = read_plan(store)
    if plan is not None:
        if plan.fingerprint != found:
            raise UserError(f"{store.root} was planned from other metadata: take the old files, or another --out")
        return plan
    run = lease.new_run()
    metadata = Metadata(config, files)
    try:
        funnel = metadata.funnel()
        rows = 0
        for index, table in enumerate(metadata.candidates(config.shard_size, funnel[-1][1])):
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            store.write(candidates_name(index), memoryview(sink.getvalue()), run)
            rows += table.num_rows
    finally:
        metadata.close()
    if not rows:
        raise UserError(f"no candidate is left of {funnel[0][1]:,} rows: {describe(funnel)}")
    assert rows == funnel[-1][1]
    plan = Plan(found, funnel, rows, config.shard_size)
    store.write(PLAN, json.dumps(asdict(plan), indent=1).encode(), run)
    return plan


def describe(funnel: Sequence[tuple[str, int]]) -> str:
    """The funnel in one line."""
    return ", ".join(f"{name} {rows:,}" for name, rows in funnel)
