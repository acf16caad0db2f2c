"""`humansd rebuild`: a dataset again from its recipe, and how each row came out.

OUT becomes a dataset of the recipe's own identity. Generated images are sampled again, only the accepted attempts;
downloaded ones are fetched again. Which of them are those of the recipe is told in OUT/rebuild.parquet.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import dataset, lease, shards
from pipelines.config import plain
from pipelines.job import Job, JobReport, Runtime
from pipelines.recipe import DIFFERENT, STAGE, Recipe, open_recipe
from pipelines.status import size
from pipelines.store import Store
from pipelines.taken import Entry, Takedowns

if TYPE_CHECKING:
    from pipelines.work import MakeWork

MATCHES: Final = "rebuild.parquet"
MATCHES_SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("match", pa.string()),
        ("reason", pa.string()),
        ("expected_sha256", pa.string()),
        ("sha256", pa.string()),
    ]
)
"""`match` as `pipelines.recipe.Match`; `reason` of what is missing or different; sha256 of the images' bytes, hex."""
NOT_MADE: Final = "not_made"
HOSTS: Final = 5
"""Hosts that a plan names: those that are asked most."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """How a rebuild ended: the job, and rows of the recipe by match."""

    report: JobReport
    matches: dict[str, int]

    @property
    def exit_code(self) -> int:
        """0 where every row is there; 130 interrupted; else 1."""
        short = self.matches["different"] + self.matches["missing"]
        return 130 if self.report.exit_code == 130 else int(short > 0)


def run_rebuild(
    path: str, out: str, overrides: Sequence[str] = (), shards: range | None = None, address: str | None = None
) -> Rebuilt:
    """Make the dataset of a recipe in `out`, or what is missing of it.

    overrides: keys that decide no bytes (`workers=2`, `gpus_per_worker=1`, `model.id=FOLDER`). shards: only these.
    Raises UserError where the user must act first: the file is no recipe, the checkpoint is not here.
    """
    from pipelines.card import renew_card
    from pipelines.engine import run_job

    recipe = open_recipe(path)
    store = Store(out)
    with compose(recipe, out, overrides, shards, address) as (job, make_work, runtime):
        dataset.check_manifest(store, dataset.manifest_of(job))
        _take_over(recipe, store)
        report = run_job(job, make_work, runtime)
    renew_card(out, report)
    return Rebuilt(report, write_matches(recipe, store))


def plan_rebuild(path: str, out: str, overrides: Sequence[str] = (), shards: range | None = None) -> dict[str, Any]:
    """Return what `run_rebuild` would do, and make nothing; raises UserError where it would.

    bytes: of the images to make, as the recipe has them. sampled: images with those that fill batches up. hosts: how
    many are asked, and host → addresses of those asked most.
    """
    from pipelines.shards import read_markers

    recipe = open_recipe(path)
    store = Store(out)
    with compose(recipe, out, overrides, shards, None) as (job, make_work, _):
        manifest = dataset.manifest_of(job)
        dataset.check_manifest(store, manifest)
        made: Any = make_work
    wanted = manifest.shards if shards is None else range(shards.start, min(shards.stop, manifest.shards.stop))
    markers = {done.shard: done for done in read_markers(store, wanted)}
    standing = recipe.standing(manifest, wanted, markers.values())
    to_do = [recipe.by_index[task.index] for task in standing.tasks]
    again = {task.index: markers[task.index].short for task in standing.tasks if task.extend}
    rows, stored, hosts = _to_make(recipe, {shard.index: again.get(shard.index) for shard in to_do})
    found = {
        "out": out,
        "identity": recipe.identity_hash[:8],
        "shards": standing.complete + len(to_do),
        "shards_complete": standing.complete,
        "shards_to_do": len(to_do),
        "accepted": standing.accepted,
        "rows_to_make": rows,
        "bytes": stored,
        "taken_down": len(recipe.taken),
    }
    if recipe.source == "ghi":
        size = made.config.sampler.batch_size
        found["model"] = f"{made.checkpoint.name} ({made.checkpoint.revision[:19]})"
        found["sampled"] = sum(-(-shard.rows // size) * size for shard in to_do)
    else:
        found |= {"hosts": len(hosts), "asked_most": dict(hosts.most_common(HOSTS))}
    return found


def _to_make(recipe: Recipe, keys: Mapping[int, Collection[str] | None]) -> tuple[int, int, Counter[str]]:
    """Return rows to make, the bytes of their images, and the hosts of their addresses; keys: by shard, None = all."""
    rows, stored, hosts = 0, 0, Counter[str]()
    for index, table in recipe.columns(keys, ["key", "image_bytes", "origin"]):
        wanted = keys[index]
        if wanted is not None:
            table = table.filter(pc.is_in(table["key"], pa.array(wanted, pa.string())))
        rows += table.num_rows
        stored += pc.sum(table["image_bytes"]).as_py() or 0
        hosts.update(map(_host, pc.struct_field(table["origin"], "url").drop_null().to_pylist()))
    return rows, stored, hosts


def _host(url: str) -> str:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        host = ""
    return host if host.isprintable() and host else "no host"


def as_text(found: Mapping[str, Any]) -> str:
    """Return a plan as lines to read."""
    rows, downloads = f"{found['rows_to_make']:,} rows", "hosts" in found
    lines = [
        f"{found['out']}: {found['shards']:,} shards of a recipe, identity {found['identity']}",
        f"there     {found['accepted']:,} rows, {found['shards_complete']:,} shards complete",
        f"to do     {rows} in {found['shards_to_do']:,} shards, to be {'downloaded' if downloads else 'sampled'}",
    ]
    if downloads:
        asked = ", ".join(f"{host} {number:,}" for host, number in found["asked_most"].items())
        lines.append(f"hosts     {found['hosts']:,}" + (f"; asked most: {asked}" if asked else ""))
    else:
        lines.append(f"model     {found['model']}; {found['sampled']:,} images with those that fill batches up")
    lines.append(f"storage   about {size(found['bytes'])} of images")
    if found["taken_down"]:
        lines.append(f"left out  {found['taken_down']:,} rows that were taken down")
    return "\n".join(lines)


@contextlib.contextmanager
def compose(
    recipe: Recipe, out: str, overrides: Sequence[str], shards: range | None, address: str | None
) -> Iterator[tuple[Job, MakeWork, Runtime]]:
    """What to make, by what, and where; while the context is open."""
    config: Any
    make_work: Any
    if recipe.source == "ghi":
        from pipelines.ghi import job as ghi
        from pipelines.ghi import rebuild

        make_work = rebuild.prepare(recipe, overrides)
        config = make_work.config
        yield _job(recipe, out, config, shards), make_work, ghi.runtime_of(config, address)
        return
    from pipelines.laion import job as laion
    from pipelines.laion.blocklist import Hashes
    from pipelines.laion.config import LaionConfig
    from pipelines.laion.optout import OptOut
    from pipelines.laion.rebuild import MakeRebuildWork, bounded

    config = recipe.config(LaionConfig, {}, overrides)
    opt_out = OptOut.read(config.filter.opt_out)
    hashes = Hashes.read(config.fetch.blocklist, config.fetch.blocklist_distance)
    runtime = Runtime(workers=config.fetch.workers, address=address, hang_seconds=60 * config.hang_minutes)
    with laion.open_hosts(config) as hosts:
        make_work = MakeRebuildWork(recipe, bounded(config.fetch), Store(out).url, opt_out, hashes, hosts)
        yield _job(recipe, out, config, shards), make_work, runtime


def _job(recipe: Recipe, out: str, config: Any, shards: range | None) -> Job:
    return Job(
        out=out,
        source=recipe.source,
        identity=recipe.identity,
        identity_hash=recipe.identity_hash,
        config=plain(config),
        n=recipe.n,
        shard_size=recipe.shard_size,
        max_attempts=recipe.max_attempts,
        shards=shards,
        standing=recipe.standing,
        label="rebuild",
    )


def _take_over(recipe: Recipe, store: Store) -> None:
    """What was taken down from the dataset stays away from this one too, if ever it grows."""
    Takedowns.read(store).add(Entry("key", key) for key in recipe.taken).write(store, lease.new_run())


def write_matches(recipe: Recipe, store: Store) -> dict[str, int]:
    """Compare what is in `store` with the recipe: write OUT/rebuild.parquet, and return its rows by match."""
    counts: Counter[str] = Counter(dict.fromkeys(("equal", "perceptual", "different", "missing"), 0))

    def write(file: BinaryIO) -> None:
        with pq.ParquetWriter(file, MATCHES_SCHEMA, compression="zstd") as writer:
            for shard in recipe.shards:
                rows = _matches(recipe, store, shard.index)
                counts.update(row["match"] for row in rows)
                writer.write_table(pa.Table.from_pylist(rows, MATCHES_SCHEMA))

    store.write_large(MATCHES, write, lease.new_run())
    return dict(counts)


def _matches(recipe: Recipe, store: Store, index: int) -> list[dict[str, Any]]:
    digests: dict[str, str] = {}
    reasons: dict[str, str] = {}
    if store.exists(shards.done_name(index)):
        for row in shards.read_table(store, "shards", index, ["key", "image"]).to_pylist():
            digests[row["key"]] = hashlib.sha256(row["image"]["bytes"]).hexdigest()
        for row in shards.read_table(store, "ledger", index, ["key", "stage", "reason"]).to_pylist():
            reasons[row["key"]] = row["reason"] if row["stage"] == STAGE else f"{row['stage']}: {row['reason']}"
    found = []
    for row in recipe.read(index):
        key, digest, reason = row.sample.key, digests.get(row.sample.key), None
        if digest is not None:
            match = "equal" if digest == row.sha256 else "perceptual"
        else:
            reason = reasons.get(key, NOT_MADE)
            match = "different" if reason == DIFFERENT else "missing"
        values = (key, index, match, reason, row.sha256, digest)
        found.append(dict(zip(MATCHES_SCHEMA.names, values, strict=True)))
    return found
