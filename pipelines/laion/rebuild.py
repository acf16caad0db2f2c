"""Downloaded images again, from a recipe: its addresses, behind the same guard and through the same resizing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.laion.blocklist import Hashes
from pipelines.laion.config import FetchConfig
from pipelines.laion.fetch import Downloads
from pipelines.laion.optout import OptOut
from pipelines.laion.plan import CANDIDATES
from pipelines.laion.web import is_transient
from pipelines.recipe import Recipe, RecipeRow, settle
from pipelines.record import KILLED_WORKER, Sample
from pipelines.store import Store
from pipelines.taken import REASON, Takedowns
from pipelines.work import ShardContext, ShardResult


@dataclass(frozen=True)
class MakeRebuildWork:
    """Builds the work on a worker. out: the dataset that is made; hosts: as in `fetch.MakeFetchWork`."""

    recipe: Recipe
    config: FetchConfig
    out: str
    opt_out: OptOut
    hashes: Hashes
    hosts: Mapping[str, str] = field(default_factory=dict)

    def __call__(self) -> RebuildWork:
        return RebuildWork(self)


class RebuildWork:
    """Makes the shards of a recipe (`pipelines.work.Work`)."""

    def __init__(self, make: MakeRebuildWork) -> None:
        self._recipe = make.recipe
        self._store = Store(make.out)
        self._downloads = Downloads(make.config, make.opt_out, make.hashes, make.hosts)

    def __call__(self, context: ShardContext) -> ShardResult:
        began = time.perf_counter()
        rows = {row.sample.key: row for row in self._recipe.read(context.task.index)}
        before = context.previous or ShardResult()
        found: dict[str, bytes | str] = {one.key: one.image for one in before.accepted if one.image is not None}
        found |= {one.key: one.reason for one in before.ledger if not is_transient(one.reason)}
        found = {key: value for key, value in found.items() if key in rows}
        taken = Takedowns.read(self._store)
        found |= {key: REASON for key, row in rows.items() if taken.names(key, _url(row))}
        todo = [key for key in rows if key not in found]
        found |= dict.fromkeys(todo, KILLED_WORKER)
        for live in context.rounds(todo):
            for key, one in self._downloads.get([_candidate(rows[key]) for key in live]).items():
                found[key] = (one.image or b"") if isinstance(one, Sample) else one
        result = settle(context.task, list(rows.values()), found)
        result.short = [row.key for row in result.ledger if is_transient(row.reason)]
        result.seconds = {"fetch": time.perf_counter() - began}
        return result


def bounded(config: FetchConfig) -> FetchConfig:
    """A recipe's config under our own limits on files: a stranger's recipe must not lift them."""
    own = FetchConfig()
    return replace(
        config,
        max_bytes=min(config.max_bytes, own.max_bytes),
        max_pixels=min(config.max_pixels, own.max_pixels),
    )


def _url(row: RecipeRow) -> str:
    origin = row.sample.origin
    return (origin.url if origin else None) or ""


def _candidate(row: RecipeRow) -> dict[str, Any]:
    """As much of a candidate as a download needs."""
    return {**dict.fromkeys(CANDIDATES.names), "key": row.sample.key, "url": _url(row), "caption": row.sample.caption}
