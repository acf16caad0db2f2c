"""The folders in which a LAION-Human dataset keeps its stages, and which of its shards no longer need them.

A shard is *closed* once nothing but its rows is left of it: `humansd clean` has removed its downloads, or `humansd
regate` made it from another dataset's images. It stays as it is: it is not fetched again, and later near-duplicates
give way to what it accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from pipelines import shards
from pipelines.dataset import Manifest, Problem, Standing, standing
from pipelines.shards import Done
from pipelines.store import Store

ANNOTATED: Final = "annotated"
_CLOSED: Final = "closed "


def raw_folder(generation: int) -> str:
    """`raw/0` for the first try at every address, `raw/1` for the first retry of those that failed."""
    return f"raw/{generation}"


def candidates_name(index: int) -> str:
    """`plan/00000012.parquet` for 12."""
    return f"plan/{index:08d}.parquet"


def verdicts_name(index: int) -> str:
    """`verdicts/00000012.parquet` for 12."""
    return f"verdicts/{index:08d}.parquet"


def folders(store: Store) -> list[str]:
    """The folders of downloaded and of annotated images that are there, as they follow from each other."""
    raw = sorted((name for name in store.names("raw") if name.isdecimal()), key=int)
    return [name for name in (*(f"raw/{name}" for name in raw), ANNOTATED) if store.exists(f"{name}/dataset.json")]


def close(follows: str) -> str:
    """`Done.follows` of a closed shard that was made from this."""
    return follows if follows.startswith(_CLOSED) else _CLOSED + follows


def is_closed(done: Done) -> bool:
    """Whether nothing but a shard's rows is left of it."""
    return done.follows.startswith(_CLOSED)


def closed_shards(store: Store) -> frozenset[int]:
    """The indices of the closed shards of a dataset."""
    return frozenset(done.shard for done in shards.read_markers(store) if is_closed(done))


@dataclass(frozen=True)
class OpenStanding:
    """Which shards of a stage are missing or to be grown (`Job.standing`): those of closed shards never are.

    out: the dataset; the job's own folder is that of a stage.
    """

    out: str

    def __call__(self, manifest: Manifest, wanted: range, markers: Iterable[Done]) -> Standing:
        closed = closed_shards(Store(self.out))
        found = standing(manifest, [index for index in wanted if index not in closed], markers)
        found.complete += len(closed.intersection(wanted))
        return found


def problems(store: Store) -> Iterator[Problem]:
    """What is wrong with the plan and the verdicts, which have no done markers of their own.

    What must be dropped to have them made anew is named: of the plan that is `plan/plan.json`.
    """
    from pipelines.laion.plan import PLAN, read_plan

    plan = read_plan(store)
    if plan is None:
        yield Problem(PLAN, "is missing")
        return
    for index in range(-(-plan.candidates // plan.shard_size)):
        rows = min(plan.shard_size, plan.candidates - index * plan.shard_size)
        why = _unreadable(store, candidates_name(index), rows)
        if why is not None:
            yield Problem(PLAN, f"lists {candidates_name(index)}, which {why}")
            break
    annotated = store.below(ANNOTATED)
    for done in shards.read_markers(store):
        if not is_closed(done):
            note = next(shards.read_markers(annotated, range(done.shard, done.shard + 1)), None)
            why = None if note is None else _unreadable(store, verdicts_name(done.shard), note.accepted)
            if why is not None:
                yield Problem(verdicts_name(done.shard), why)


def _unreadable(store: Store, name: str, rows: int) -> str | None:
    try:
        found = shards.read_parquet(pa.BufferReader(store.read(name))).num_rows
    except FileNotFoundError:
        return "is missing"
    except (pa.ArrowInvalid, OSError) as error:
        return f"is not readable: {str(error).splitlines()[0]}"
    return None if found == rows else f"has {found} rows, not {rows}"
