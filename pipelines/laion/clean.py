"""`humansd clean`: the downloads of a LAION-Human dataset go, once their shards are finished.

A finished shard is closed first (its done marker says so), then its files in OUT/raw, OUT/annotated and OUT/verdicts
are removed: a run that was killed is finished by the same command.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from pipelines import dataset, lease, shards
from pipelines.config import UserError
from pipelines.laion import stages
from pipelines.laion.plan import Plan, read_plan
from pipelines.laion.settle import source_print
from pipelines.shards import Done
from pipelines.store import Store

READERS = 8


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was (or, in a dry run, would be) removed.

    shards: finished ones whose files are still there. waiting: shards that are not finished; theirs stay. files, bytes:
    of what goes. transient: addresses of these shards that failed in passing: `laion retry` will not ask them again.
    """

    shards: int
    waiting: int
    files: int
    bytes: int
    transient: int


def clean(out: str, *, dry_run: bool = False) -> Cleaned:
    """Remove the downloads of finished shards, and what was written only to settle them.

    Raises UserError where OUT is no LAION-Human dataset, or a driver works on it.
    """
    store = Store(out)
    manifest = dataset.read_manifest(store)
    plan = read_plan(store)
    if manifest.source != "laion-human" or plan is None:
        raise UserError(f"{out} holds {manifest.source}: only what was downloaded (laion-human) leaves raw images")
    folders = stages.folders(store)
    with contextlib.ExitStack() as stack:
        run = lease.new_run()
        for part in () if dry_run else (*map(store.below, folders), store):
            stack.enter_context(contextlib.closing(lease.acquire(part, dataset.EVERYTHING, run)))
        done = [one for one in shards.read_markers(store) if _is_finished(store, manifest, plan, one)]
        finished = {one.shard for one in done}
        transient = sum(len(short) for short in _transient(store, folders, finished))
        files = [name for name in _files(store, folders) if _index(name) in finished]
        with ThreadPoolExecutor(READERS) as pool:
            size = sum(pool.map(store.size, files))
        if not dry_run:
            for one in done:
                if not stages.is_closed(one):
                    closed = replace(one, follows=stages.close(one.follows))
                    store.write(shards.done_name(one.shard), json.dumps(asdict(closed), indent=1).encode(), run)
            store.remove(files)
    found = len({_index(name) for name in files})
    return Cleaned(found, len(manifest.shards) - len(finished), len(files), size, transient)


def _is_finished(store: Store, manifest: dataset.Manifest, plan: Plan, done: Done) -> bool:
    """Whether a shard has all candidates it can ever have, and says what the verdicts say."""
    if stages.is_closed(done):
        return True
    if done.stop < min(done.start + plan.shard_size, plan.candidates):
        return False  # a larger n makes it longer
    try:
        return done.follows == source_print(store, manifest.task(done.shard))
    except FileNotFoundError:
        return False


def _transient(store: Store, folders: list[str], finished: set[int]) -> Iterator[tuple[str, ...]]:
    raw = [folder for folder in folders if folder != stages.ANNOTATED]
    for done in shards.read_markers(store.below(raw[-1])) if raw else ():
        if done.shard in finished:
            yield done.short


def _files(store: Store, folders: list[str]) -> Iterator[str]:
    """The files of all shards in the stages: done markers first, so that a killed run leaves none without its files."""
    for kind in ("done", *shards.FOLDERS):
        for folder in folders:
            yield from (f"{folder}/{kind}/{name}" for name in store.names(f"{folder}/{kind}"))
    yield from (f"verdicts/{name}" for name in store.names("verdicts"))


def _index(name: str) -> int:
    number = name.rpartition("/")[2][:8]
    return int(number) if number.isdigit() else -1
