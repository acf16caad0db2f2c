"""Which rows of a dataset there are to look at: filters and pages of index.parquet and of the ledgers, by DuckDB.

DuckDB reads the columns and row groups that a question needs, so a page of a million rows comes as soon as one of a
thousand. No image is read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from pipelines import dataset, shards
from pipelines.config import UserError
from pipelines.evaluate.contents import SCORES
from pipelines.store import Store

Kind = Literal["accepted", "rejected"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

PAGE_ROWS: Final = 24
MOST_CHOICES: Final = 200
"""Of scenes, numbers of people or reasons: a list to choose from is no longer."""
REMOTE_THREADS: Final = 16
"""DuckDB's, where they wait for an object store most of the time."""

_MEASURED: Final = {"min_keypoint_score": "keypoint_score"}
"""Scores that a ledger's measured values have under another name."""
_FROM_LEDGER: Final = ", ".join(
    f"TRY_CAST(measured ->> '{_MEASURED.get(name, name)}' AS FLOAT) AS {name}" for name in SCORES
)
_ROWS: Final[Mapping[Kind, str]] = {
    "accepted": "SELECT key, shard, NULL::INT AS attempt, scene, action, num_people AS people, caption,"
    f" '' AS why, {', '.join(SCORES)} FROM read_parquet($files)",
    "rejected": "SELECT key, shard, attempt, scene, action, found_people AS people, caption,"
    f" concat(stage, ': ', reason) AS why, {_FROM_LEDGER} FROM read_parquet($files)",
}
"""Both kinds of rows, their columns under the same names."""
COLUMNS: Final = ("key", "shard", "attempt", "scene", "action", "people", "caption", "why", *SCORES)


@dataclass(frozen=True, slots=True)
class Query:
    """What to show, and which page of it (from 1).

    scene, why (`stage: reason`): exactly these, "" = any. people: as many as were found. action, text: words that the
    action or the caption has, in any order and case. bounds: (score, lowest, highest), None = open; rows without that
    score are left out. flagged: only rows that are flagged.
    """

    scene: str = ""
    action: str = ""
    people: int | None = None
    text: str = ""
    why: str = ""
    bounds: tuple[tuple[str, float | None, float | None], ...] = ()
    flagged: bool = False
    page: int = 1


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of a page, as mappings of the columns' names, and what they are a part of. number, pages: from 1."""

    rows: Sequence[Mapping[str, Any]]
    total: int
    number: int
    pages: int


@dataclass(frozen=True, slots=True)
class Choices:
    """What there is to choose from, with the number of rows; scores: those that any row has, lowest and highest."""

    total: int
    scenes: tuple[tuple[str, int], ...] = ()
    people: tuple[tuple[int, int], ...] = ()
    why: tuple[tuple[str, int], ...] = ()
    scores: tuple[tuple[str, float, float], ...] = ()


class Catalog:
    """The rows of one dataset. Its methods may be called from several threads at once."""

    def __init__(self, store: Store) -> None:
        """Raises UserError where the store holds no dataset, or one without an index."""
        import duckdb

        dataset.read_manifest(store)
        if not store.exists(dataset.INDEX):
            raise UserError(f"{store.root}: has no {dataset.INDEX}: humansd index {store.root} writes it")
        self._store = store
        self._db = duckdb.connect()
        self._remote = None if store.local else store.listed()
        if self._remote is not None:
            self._db.register_filesystem(self._remote)
            self._db.execute(f"SET threads = {REMOTE_THREADS}")
        self._choices: dict[Kind, tuple[object, Choices]] = {}

    def page(self, kind: Kind, query: Query, flagged: Sequence[str] = ()) -> Page:
        """Return one page of the rows that a query asks for, in the dataset's order; one too high is the last."""
        files = self._files(kind)
        where, values = _conditions(query, flagged)

        def read(number: int) -> list[dict[str, Any]]:
            rest = f"WHERE {where} LIMIT {PAGE_ROWS} OFFSET {(number - 1) * PAGE_ROWS}"
            found = self._ask(kind, files, ", ".join(COLUMNS), rest, values)
            return [dict(zip(COLUMNS, row, strict=True)) for row in found]

        number = max(1, query.page)
        rows = read(number)
        if 0 < len(rows) < PAGE_ROWS or (not rows and number == 1):  # the last page: what matches is counted already
            return Page(rows, (number - 1) * PAGE_ROWS + len(rows), number, number)
        total = sum(row[0] for row in self._ask(kind, files, "count(*)", f"WHERE {where}", values))
        pages = max(1, -(-total // PAGE_ROWS))
        return Page(rows or read(pages), total, min(number, pages), pages)

    def choices(self, kind: Kind) -> Choices:
        """Return what the filters can be set to; counted anew only when the files are others."""
        files = self._files(kind)
        state = (self._store.modified(dataset.INDEX) if kind == "accepted" else None, files)
        before = self._choices.get(kind)
        if before is None or before[0] != state:
            self._choices[kind] = state, self._count(kind, files)
        return self._choices[kind][1]

    def is_behind(self) -> bool:
        """Whether shards were committed, or dropped, since the index was written."""
        there = set(shards.done_indices(self._store))
        indexed = {row[0] for row in self._ask("accepted", self._files("accepted"), "DISTINCT shard")}
        if indexed - there:
            return True
        new = (range(index, index + 1) for index in sorted(there - indexed))
        return any(done.accepted for one in new for done in shards.read_markers(self._store, one))

    def _files(self, kind: Kind) -> list[str]:
        if kind == "accepted":
            folder, names = "", [dataset.INDEX]
        else:
            folder = "ledger"
            names = [shards.table_name(folder, index) for index in shards.done_indices(self._store)]
        if self._remote is not None and names:
            self._remote.invalidate_cache()  # what it knew before may have changed
            self._remote.ls(self._store.path(folder))
        return [f"{self._store.url}/{name}" for name in names]

    def _count(self, kind: Kind, files: Sequence[str]) -> Choices:
        def counted(column: str, order: str) -> tuple[tuple[Any, int], ...]:
            rest = f"WHERE {column} IS NOT NULL GROUP BY ALL ORDER BY {order} LIMIT {MOST_CHOICES}"
            return tuple((value, rows) for value, rows in self._ask(kind, files, f"{column}, count(*) AS rows", rest))

        ends = ", ".join(f"min({name}), max({name})" for name in SCORES)
        found = self._ask(kind, files, f"count(*), {ends}")
        if not found:
            return Choices(0)
        ((total, *values),) = found
        scores = zip(SCORES, values[::2], values[1::2], strict=True)
        return Choices(
            total,
            scenes=counted("scene", "scene"),
            people=counted("people", "people"),
            why=counted("why", "rows DESC, why") if kind == "rejected" else (),
            scores=tuple((name, low, high) for name, low, high in scores if low is not None),
        )

    def _ask(
        self, kind: Kind, files: Sequence[str], columns: str, rest: str = "", values: Mapping[str, Any] = {}
    ) -> list[tuple[Any, ...]]:
        """Return the answer to `SELECT columns FROM` these files' rows `rest`."""
        import duckdb

        if not files:  # no shard yet
            return []
        try:
            sql = f"SELECT {columns} FROM ({_ROWS[kind]}) {rest}"
            return self._db.cursor().execute(sql, {"files": files, **values}).fetchall()
        except duckdb.Error as error:
            line, out = str(error).partition("\n")[0], self._store.root
            action = f"humansd index {out} writes it anew" if kind == "accepted" else f"humansd verify {out} tells more"
            raise UserError(f"{out}: the {kind} rows are not readable: {action} ({line})") from None


def _conditions(query: Query, flagged: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The WHERE clause of a query, and the values that it names: nothing that was typed becomes SQL."""
    found = list(_each_condition(query, flagged))
    named = {name: value for _, values in found for name, value in values.items()}
    return " AND ".join(["true", *(text for text, _ in found)]), named


def _each_condition(query: Query, flagged: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if query.scene:
        yield "scene = $scene", {"scene": query.scene}
    if query.why:
        yield "why = $why", {"why": query.why}
    if query.people is not None:
        yield "people = $people", {"people": query.people}
    for column, text in (("action", query.action), ("caption", query.text)):
        for number, word in enumerate(text.split()):
            name = f"{column}{number}"
            yield f"regexp_matches({column}, regexp_escape(${name}), 'i')", {name: word}
    for score, low, high in query.bounds:
        assert score in SCORES
        if low is not None:
            yield f"{score} >= $low_{score}::FLOAT", {f"low_{score}": low}
        if high is not None:
            yield f"{score} <= $high_{score}::FLOAT", {f"high_{score}": high}
    if query.flagged:
        yield "key IN (SELECT unnest($flagged::VARCHAR[]))", {"flagged": list(flagged)}
