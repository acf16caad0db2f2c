"""A recipe: one Parquet file that tells how a dataset is made again, without its images.

Its rows are those of the dataset without `image`, with the sha256 of the image's bytes; a row group is a shard. The
file's metadata tells what the dataset was made from (`Recipe`). A recipe comes from strangers: what it says is checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import record
from pipelines.config import UserError, difference, identity_of_values, keys, of_kind, restore
from pipelines.dataset import Manifest, Standing
from pipelines.images import decode_image, perceptual_hash
from pipelines.record import LedgerRow, Sample, table_to_samples
from pipelines.shards import Done
from pipelines.store import Store
from pipelines.work import ShardResult, ShardTask

METADATA: Final = b"humansd.recipe"
SCHEMA: Final = pa.schema(
    [
        *(field for field in record.SCHEMA if field.name != "image"),
        ("image_path", pa.string()),
        ("image_sha256", pa.string()),
        ("image_bytes", pa.int64()),
    ]
)
STAGE: Final = "rebuild"
"""`LedgerRow.stage` of a row that did not come out again."""
DIFFERENT: Final = "different"
"""`LedgerRow.reason` where there is an image, and another one. It was never judged, so it is not kept."""

Match = Literal["equal", "perceptual", "different", "missing"]
"""How an image made again compares: the same bytes; the same size and perceptual hash; another image; none."""

LARGEST: Final = 10**6
"""Slots of a shard at most, before a recipe is refused."""

_KEYS: Final = {"ghi": re.compile(r"ghi-[0-9a-f]{8}-[0-9]{1,12}"), "laion-human": re.compile(r"laion-[0-9a-f]{16}")}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RecipeShard:
    """One shard of a recipe: its slots start … stop - 1, how often each could be tried, its accepted rows."""

    index: int
    start: int
    stop: int
    max_attempts: int
    rows: int


@dataclass(frozen=True, slots=True)
class RecipeRow:
    """A row to make again: the sample without its image, and the sha256 (hex) that the image had."""

    sample: Sample
    sha256: str

    def match(self, image: bytes) -> Match:
        """How an image compares with the one of the dataset. Raises OSError or ValueError where it is no image."""
        if hashlib.sha256(image).hexdigest() == self.sha256:
            return "equal"
        pixels, sample = decode_image(image), self.sample
        if pixels.shape[:2] == (sample.height, sample.width) and perceptual_hash(pixels) == sample.phash:
            return "perceptual"
        return "different"


@dataclass(frozen=True)
class Recipe:
    """What a recipe's metadata tells.

    url: where the file is. identity, identity_hash, n, shard_size, max_attempts: as in `dataset.Manifest`.
    shards: in the order of the row groups; those without rows have none. taken: keys that were taken down.
    """

    url: str
    source: str
    identity: Mapping[str, Any]
    identity_hash: str
    n: int
    shard_size: int
    max_attempts: int
    shards: tuple[RecipeShard, ...]
    taken: tuple[str, ...]

    def config(self, cls: type[T], given: Mapping[str, Any], overrides: Sequence[str]) -> T:
        """The config that the dataset was made with; runtime keys are the defaults, `given` and `overrides`.

        Raises UserError where an override would make other images.
        """
        known = {name for name, field in keys(cls) if field.metadata["kind"] == "identity"}
        flat = {name: value for name, value in self.identity.items() if name in known} | dict(given)
        named = {name for name, _ in keys(cls)}
        flat |= {name: getattr(self, name) for name in ("n", "max_attempts") if name in named}
        before, after = (restore(cls, _nested(flat), self.url, some) for some in ((), overrides))
        if changed := difference(of_kind(before, "identity"), of_kind(after, "identity")):
            raise UserError(f"{changed[0]}: would make other images than the recipe's; leave it out")
        return after

    @cached_property
    def by_index(self) -> Mapping[int, RecipeShard]:
        """The shards by their number."""
        return {shard.index: shard for shard in self.shards}

    def read(self, index: int) -> list[RecipeRow]:
        """The rows of one shard; only these are read. Raises ValueError where they are none of this dataset."""
        tables = [table for _, table in self.columns([index], SCHEMA.names)]
        if not tables:
            return []
        table = tables[0].replace_schema_metadata(None).cast(SCHEMA)
        paths, digests = table["image_path"].to_pylist(), table["image_sha256"].to_pylist()
        images = [{"bytes": None, "path": path} for path in paths]
        whole = table.append_column("image", pa.array(images, record.SCHEMA.field("image").type))
        rows = [RecipeRow(*row) for row in zip(table_to_samples(whole), digests, strict=True)]
        for row in rows:
            if row.sample.source != self.source or not _KEYS[self.source].fullmatch(row.sample.key):
                raise ValueError(f"{self.url}: {row.sample.key!r} is no key of {self.source}")
        return rows

    def columns(self, indices: Collection[int], names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield each of these shards that has rows, with these columns of them."""
        groups = [shard.index for shard in self.shards if shard.rows]
        folder, _, name = self.url.rpartition("/")
        with Store(folder).open(name) as opened:
            file = pq.ParquetFile(opened)
            for number, index in enumerate(groups):
                if index in indices:
                    yield index, file.read_row_group(number, list(names), use_threads=False)

    def standing(self, manifest: Manifest, wanted: range, markers: Iterable[Done]) -> Standing:
        """Which of the recipe's shards are to be made; of downloaded ones, those too whose failures may have passed."""
        found = Standing([])
        there = {done.shard: done for done in markers}
        for shard in self.shards:
            task = ShardTask(shard.index, shard.start, shard.stop, shard.max_attempts)
            done = there.get(shard.index)
            if done is None and shard.index in wanted:
                found.tasks.append(task)
            elif done is not None:
                again = bool(done.short) and self.source == "laion-human"
                found.tasks += [replace(task, extend=True)] if again else []
                found.complete += not again
                found.accepted += done.accepted
                found.rejected += done.rejected
        return found


def open_recipe(path: str) -> Recipe:
    """Read a recipe's metadata. Raises UserError where the file is none, or of another version."""
    folder, _, name = path.rpartition("/")
    store = Store(folder or ".")
    try:
        with store.open(name) as file:
            told = json.loads((pq.ParquetFile(file).schema_arrow.metadata or {})[METADATA])
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file; humansd export OUT --to recipe writes one") from None
    except (KeyError, ValueError, OSError, pa.ArrowInvalid):
        raise UserError(f"{path}: is no recipe; humansd export OUT --to recipe writes one") from None
    try:
        return _parse(told, f"{store.url.rstrip('/')}/{name}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a sound recipe: {error}") from None


def _parse(told: Mapping[str, Any], url: str) -> Recipe:
    if told["source"] not in _KEYS:
        raise UserError(f"{url}: is of {told['source']}, imported from files: import your own copy of them instead")
    versions = (told["schema_version"], told["data_version"])
    if versions != (record.SCHEMA_VERSION, record.DATA_VERSION):
        raise UserError(f"{url}: was written by a version of humansd with other data: take that version")
    if identity_of_values(told["identity"]) != told["identity_hash"]:
        raise ValueError("its identity is not what its hash says")
    sizes = {name: int(told[name]) for name in ("n", "shard_size", "max_attempts")}
    shards = tuple(RecipeShard(*map(int, shard)) for shard in told["shards"])
    if min(sizes.values()) < 1 or sizes["shard_size"] > LARGEST or not all(_fits(one, **sizes) for one in shards):
        raise ValueError("its shards have no sizes that can be")
    if len({shard.index for shard in shards}) < len(shards):
        raise ValueError("a shard is in it twice")
    taken = tuple(map(str, told["takedown"]))
    return Recipe(url, told["source"], told["identity"], told["identity_hash"], **sizes, shards=shards, taken=taken)


def _fits(shard: RecipeShard, n: int, shard_size: int, max_attempts: int) -> bool:
    """Whether a shard is where its number says, and holds no more rows than slots."""
    slots = shard.stop - shard.start
    placed = shard.start == shard.index * shard_size and shard.stop <= n and slots <= shard_size
    return placed and 0 <= shard.rows <= slots and 0 <= shard.max_attempts <= max_attempts


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *tables, last = name.split(".")
        inner = nested
        for table in tables:
            inner = inner.setdefault(table, {})
        inner[last] = value
    return nested


def settle(task: ShardTask, rows: Sequence[RecipeRow], found: Mapping[str, bytes | str]) -> ShardResult:
    """A shard's rows from what was found: key → image, or the reason why there is none.

    An image that is not the dataset's (`RecipeRow.match`) is left out: its people were never looked for.
    """
    result = ShardResult()
    counts: dict[str, int] = dict.fromkeys(("equal", "perceptual", "different", "missing"), 0)
    for row in rows:
        image, match, reason = found[row.sample.key], "missing", DIFFERENT
        if isinstance(image, str):
            reason = image
        else:
            try:
                match = row.match(image)
            except (OSError, ValueError) as error:
                reason = type(error).__name__
        counts[match] += 1
        if match in ("equal", "perceptual") and isinstance(image, bytes):
            result.accepted.append(replace(row.sample, image=image))
        else:
            result.ledger.append(_ledger_row(row.sample, task.index, reason))
    result.counts = counts
    return result


def _ledger_row(sample: Sample, shard: int, reason: str) -> LedgerRow:
    made, origin = sample.generation, sample.origin
    return LedgerRow(
        key=sample.key,
        shard=shard,
        attempt=made.attempt if made else 1,
        stage=STAGE,
        reason=reason,
        measured={},
        caption=sample.caption,
        scene=sample.scene,
        action=sample.action,
        url=origin.url if origin else None,
        seed=made.seed if made else None,
    )
