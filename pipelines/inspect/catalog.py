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

    rows: tuple[Mapping[str, Any], ...]
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
        if not store.local:
            self._db.register_filesystem(store.fs)
            self._db.execute(f"SET threads = {REMOTE_THREADS}")
        self._choices: dict[Kind, tuple[object, Choices]] = {}

    def page(self, kind: Kind, query: Query, flagged: Sequence[str] = ()) -> Page:
        """Return one page of the rows that a query asks for, in the dataset's order; one too high is the last."""
        files = self._files(kind)
        where, values = _conditions(query, flagged)
        total = self._ask(kind, "SELECT count(*)", files, where, values)[0][0] if files else 0
        pages = max(1, -(-total // PAGE_ROWS))
        number = min(max(1, query.page), pages)
        values |= {"rows": PAGE_ROWS, "start": (number - 1) * PAGE_ROWS}
        names = ("key", "shard", "attempt", "scene", "action", "people", "caption", "why", *SCORES)
        limit = " LIMIT $rows OFFSET $start"
        found = self._ask(kind, f"SELECT {', '.join(names)}", files, where, values, limit) if total else []
        return Page(tuple(dict(zip(names, row, strict=True)) for row in found), total, number, pages)

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
        indexed = {row[0] for row in self._ask("accepted", "SELECT DISTINCT shard", self._files("accepted"))}
        if indexed - there:
            return True
        new = (range(index, index + 1) for index in sorted(there - indexed))
        return any(done.accepted for one in new for done in shards.read_markers(self._store, one))

    def _files(self, kind: Kind) -> list[str]:
        if kind == "accepted":
            return [f"{self._store.url}/{dataset.INDEX}"]
        return [f"{self._store.url}/{shards.table_name('ledger', index)}" for index in shards.done_indices(self._store)]

    def _count(self, kind: Kind, files: list[str]) -> Choices:
        if not files:
            return Choices(0)

        def counted(column: str, order: str) -> tuple[tuple[Any, int], ...]:
            end = f" GROUP BY ALL ORDER BY {order} LIMIT {MOST_CHOICES}"
            found = self._ask(kind, f"SELECT {column}, count(*) AS number", files, f"{column} IS NOT NULL", {}, end)
            return tuple((value, number) for value, number in found)

        ends = ", ".join(f"min({name}), max({name})" for name in SCORES)
        ((total, *values),) = self._ask(kind, f"SELECT count(*), {ends}", files)
        scores = zip(SCORES, values[::2], values[1::2], strict=True)
        return Choices(
            total,
            scenes=counted("scene", "scene"),
            people=counted("people", "people"),
            why=counted("why", "number DESC, why") if kind == "rejected" else (),
            scores=tuple((name, low, high) for name, low, high in scores if low is not None),
        )

    def _ask(
        self,
        kind: Kind,
        select: str,
        files: list[str],
        where: str = "true",
        values: Mapping[str, Any] = {},
        end: str = "",
    ) -> list[tuple[Any, ...]]:
        import duckdb

        sql = f"{select} FROM ({_ROWS[kind]}) WHERE {where}{end}"
        try:
            return self._db.cursor().execute(sql, {"files": files, **values}).fetchall()
        except duckdb.Error as error:
            line = str(error).partition("\n")[0]
            action = (
                f"humansd index {self._store.root} writes it anew" if kind == "accepted" else "humansd verify tells"
            )
            raise UserError(f"{self._store.root}: the {kind} rows are not readable ({line}): {action}") from None


def _conditions(query: Query, flagged: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The WHERE clause of a query, and the values that it names: nothing that was typed becomes SQL."""
    found = list(_each_condition(query, flagged))
    return " AND ".join(["true", *(text for text, _ in found)]), {
        name: value for _, values in found for name, value in values.items()
    }


def _each_condition(query: Query, flagged: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if query.scene:
        yield "scene = $scene", {"scene": query.scene}
    if query.why:
        yield "why = $why", {"why": query.why}
    if query.people is not None:
        yield "people = $people", {"people": query.people}
    for column, text in (("action", query.action), ("caption", query.text)):
        for number, word in enumerate(text.split()):
            yield f"contains(lower({column}), lower(${column}{number}))", {f"{column}{number}": word}
    for score, low, high in query.bounds:
        assert score in SCORES
        if low is not None:
            yield f"{score} >= $low_{score}::FLOAT", {f"low_{score}": low}
        if high is not None:
            yield f"{score} <= $high_{score}::FLOAT", {f"high_{score}": high}
    if query.flagged:
        yield "key IN (SELECT unnest($flagged::VARCHAR[]))", {"flagged": list(flagged)}
