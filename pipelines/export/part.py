"""What is exported at a time: the accepted rows of one shard."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import columns, follow, shards
from pipelines.config import UserError
from pipelines.reading import open_dataset
from pipelines.shards import Done
from pipelines.store import Store
from pipelines.taken import Takedowns

NOTES: Final = ".export"
"""Where an export keeps its manifest and markers; readers of all formats pass over such folders."""
FRAGMENTS: Final = f"{NOTES}/parts"
"""What a part adds to files that all parts share; they are put together at the end."""

KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""What a key must look like to be a file's name: datasets come from others, too."""
IMAGE_SUFFIXES: Final = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))


@dataclass(frozen=True, slots=True)
class Part:
    """One shard of one dataset.

    name: of its files: the shard's number, after the dataset's where there are several. done: the shard's marker.
    poses: added columns whose people take the place of the record's. gone: keys in the shard that were taken down: a
    takedown that was interrupted leaves rows that must not go out.
    """

    name: str
    store: Store
    done: Done
    poses: str | None
    gone: frozenset[str]

    @property
    def rows(self) -> int:
        """How many rows go out."""
        return self.done.accepted - len(self.gone)

    def follows(self) -> str:
        """The sha256, in hex, of everything that decides what goes out. Raises UserError where poses are missing."""
        of = [self.done.files["shards"].sha256, *sorted(self.gone)]
        if self.poses is not None:
            index = self.done.shard
            marker = next(shards.read_markers(columns.folder(self.store, self.poses), range(index, index + 1)), None)
            of.append("" if marker is None else marker.files[""].sha256)
        return hashlib.sha256(json.dumps(of).encode()).hexdigest()

    def read(self) -> pa.Table:
        """The rows that go out. Raises ValueError where a shard does not match its marker, or a key is no file name."""
        _, table = follow.read_accepted(self.store, self.done.shard)
        table = table.replace_schema_metadata(None)
        for key in table["key"].to_pylist():
            if not KEY.fullmatch(key):
                raise ValueError(f"the key {key!r} cannot be the name of a file")
        if self.poses is not None:
            posed = columns.read_shard(self.store, self.done.shard, columns.POSES, poses=self.poses)
            for name in columns.POSES:
                place = table.column_names.index(name)
                table = table.set_column(place, table.schema.field(name), posed[name])
        return table.filter(pc.invert(pc.is_in(table["key"], pa.array(sorted(self.gone), pa.string()))))


def find_parts(outs: Sequence[str], poses: str | None) -> list[Part]:
    """The committed shards of datasets, in order.

    Raises UserError where one is no dataset, two share a key, nothing is committed, or there are no such poses.
    """
    parts = []
    for number, place in enumerate(open_dataset(outs).parts):
        if poses is not None and poses not in columns.names(place.store):
            there = ", ".join(columns.names(place.store)) or "none"
            raise UserError(f"{place.store.root}: has no columns {poses} (there: {there}): humansd annotate makes them")
        taken = Takedowns.read(place.store)
        opened = set(place.shards)
        for done in shards.read_markers(place.store):
            if done.shard in opened:
                name = f"{done.shard:08d}" if len(outs) == 1 else f"{number}-{done.shard:08d}"
                parts.append(Part(name, place.store, done, poses, _gone(place.store, done.shard, taken)))
    if not parts:
        raise UserError(f"{', '.join(outs)}: no shard is made yet; humansd status tells how far it is")
    return parts


def stores_of(parts: Sequence[Part]) -> list[Store]:
    """The datasets that parts are of, in order."""
    return list({part.store.root: part.store for part in parts}.values())


def _gone(store: Store, index: int, taken: Takedowns) -> frozenset[str]:
    if not taken.entries:
        return frozenset()
    try:
        keys = shards.read_table(store, "shards", index, ["key"])["key"].to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid):
        return frozenset()  # damaged: `read` says so
    return taken.keys & set(keys)


def suffix_of(image: bytes) -> str:
    """The file suffix that an encoded image's first bytes tell: jpg, png or webp. Raises ValueError for any other."""
    for head, suffix in IMAGE_SUFFIXES:
        if image.startswith(head):
            return suffix
    raise ValueError("an image that is neither JPEG, PNG nor WebP")
