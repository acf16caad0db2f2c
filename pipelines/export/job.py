"""`humansd export`: part by part, so that the same command again makes only what is missing or has changed.

    .export/export.json         what is exported, and how
    .export/done/NAME.json      one marker a part, written when its files were read back: their checksums
    .export/complete.json       written last: rows, checksums of the files that all parts share, parts that failed

A shard that was rebuilt, has grown, or lost rows to a takedown is exported anew; what it had before is removed first.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, Final

import pyarrow as pa

from pipelines import dataset, lease
from pipelines.config import UserError, difference
from pipelines.export import coco, huggingface, layout, recipe, webdataset
from pipelines.export.part import NOTES, Part, find_parts, stores_of
from pipelines.store import Store

MANIFEST: Final = f"{NOTES}/export.json"
COMPLETE: Final = f"{NOTES}/complete.json"
VERSION: Final = 1
"""Raised when the bytes of an export change."""
THREADS: Final = 4
CHUNK: Final = 1 << 20
NOTE_SECONDS: Final = 10.0

FORMATS: Final = ("coco", "webdataset", "hf", "humansd-layout", "recipe")

Write = Callable[[BinaryIO], object]


@dataclass(frozen=True, slots=True)
class Format:
    """files: yields (path, bytes) of a part. finish: what is written from all parts at the end, by path."""

    files: Callable[[Part], Iterator[tuple[str, bytes]]]
    finish: Callable[[Store, Sequence[Part]], Mapping[str, Write]]


@dataclass(slots=True)
class Report:
    """How an export ended.

    shards, rows: in the export now. written: shards that this run wrote. removed: files of earlier runs that went.
    taken: rows left out because they were taken down. files: those that all shards share. failed: part → why it is not
    there. changed: whether this run had anything to do.
    """

    out: str
    format: str
    shards: int = 0
    rows: int = 0
    written: int = 0
    removed: int = 0
    taken: int = 0
    files: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    changed: bool = False

    @property
    def exit_code(self) -> int:
        """1 where a shard is missing."""
        return 1 if self.failed else 0


def format_of(to: str, conditioning: bool) -> Format:
    """The functions of a format. Raises UserError where it has no conditioning images."""
    if conditioning and to != "hf":
        raise UserError(f"--conditioning belongs to --to hf, not to --to {to}")
    if to == "coco":
        return Format(coco.files, coco.finish)
    if to == "webdataset":
        return Format(webdataset.files, webdataset.finish)
    if to == "humansd-layout":
        return Format(layout.files, layout.finish)
    if to == "recipe":
        return Format(recipe.files, recipe.finish)
    assert to == "hf", to
    return Format(
        functools.partial(huggingface.files, conditioning=conditioning),
        functools.partial(huggingface.finish, conditioning=conditioning),
    )


def run_export(
    outs: Sequence[str],
    to: str,
    out: str,
    poses: str | None = None,
    conditioning: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Report:
    """Write the accepted rows of datasets to `out` (a folder or URL), or what is missing or has changed of them.

    to: one of `FORMATS`. poses: added columns whose people go out. conditioning: skeleton pictures beside the images.
    Raises UserError where the user must act first: `out` holds something else, datasets share a key.
    """
    chosen = format_of(to, conditioning)
    parts = find_parts(outs, poses)
    if to == "recipe":
        recipe.check(parts)
    target, run = Store(out), lease.new_run()
    now = {
        "format": to,
        "conditioning": conditioning,
        "poses": poses,
        "datasets": [dataset.read_manifest(store).identity_hash for store in stores_of(parts)],
        "version": VERSION,
    }
    new = _is_new(target, now)
    with contextlib.closing(lease.acquire(target.below(NOTES), dataset.EVERYTHING, run)):
        if new:
            target.write(MANIFEST, json.dumps(now, indent=1).encode(), run)
        return _Export(target, run, chosen, parts, Report(out, to)).make(note)


def _is_new(target: Store, now: Mapping[str, Any]) -> bool:
    try:
        before = json.loads(target.read(MANIFEST))
    except NotADirectoryError:
        raise UserError(f"{target.root}: is a file; take another --out") from None
    except FileNotFoundError:
        if set(target.names("")) - {NOTES}:
            raise UserError(f"{target.root}: is there already and is no export; take another --out") from None
        return True
    if changed := difference(before, now):
        raise UserError(f"{target.root} holds an export of something else ({'; '.join(changed)}): take another --out")
    return False


class _Export:
    """One run of an export."""

    def __init__(self, target: Store, run: str, chosen: Format, parts: Sequence[Part], report: Report) -> None:
        self.target, self.run, self.format, self.parts, self.report = target, run, chosen, parts, report
        self._sizes = functools.lru_cache(64)(target.sizes)

    def make(self, note: Callable[[str], None]) -> Report:
        report = self.report
        names = {part.name for part in self.parts}
        stale = [name[:-5] for name in self.target.names(f"{NOTES}/done") if name.endswith(".json")]
        stale = [name for name in stale if name not in names]
        todo = [part for part in self.parts if not self._is_there(part)]
        if todo or stale or not self._is_complete():
            report.changed = True
            self._forget_ends()
            for name in stale:
                self._remove(self._marker(name) or {"files": {}}, {})
                self.target.remove([_done(name)])
            self._write_all(todo, note)
            self._finish()
        report.shards = len(self.parts) - len(report.failed)
        report.rows = sum(part.rows for part in self.parts if part.name not in report.failed)
        report.taken = sum(len(part.gone) for part in self.parts)
        return report

    def _write_all(self, todo: Sequence[Part], note: Callable[[str], None]) -> None:
        said = time.monotonic()
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            for number, (part, failure) in enumerate(zip(todo, pool.map(self._try, todo), strict=True), 1):
                if failure is not None:
                    self.report.failed[part.name] = failure
                self.report.written += failure is None
                if time.monotonic() - said > NOTE_SECONDS:
                    note(f"{number:,} of {len(todo):,} shards")
                    said = time.monotonic()

    def _try(self, part: Part) -> str | None:
        """Write a part; why it could not be, in one line, else None."""
        try:
            self._write(part)
        except (ValueError, FileNotFoundError, pa.ArrowInvalid) as error:
            return " ".join(str(error).split())
        return None

    def _write(self, part: Part) -> None:
        made: dict[str, bytes] = {}
        for name, data in self.format.files(part):
            if made.setdefault(name, data) != data:
                raise UserError(f"shard {part.name}: two images have one file name and other bytes: {name}")
        files = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in made.items()}
        before = self._marker(part.name) or {"files": {}}
        # Whenever this is cut off, the marker names every file that may be there, so that none is ever left behind.
        self._mark(part.name, "", 0, {**before["files"], **files})
        for name, data in made.items():
            self.target.write(name, data, self.run, durable=False)
        for name, info in files.items():
            if hashlib.sha256(self.target.read(name)).hexdigest() != info["sha256"]:
                raise ValueError(f"{name}: reads back as other bytes than were written")
        self._remove(before, files)
        self._mark(part.name, part.follows(), part.rows, files)

    def _mark(self, name: str, follows: str, rows: int, files: Mapping[str, Any]) -> None:
        marker = {"follows": follows, "rows": rows, "files": files}
        self.target.write(_done(name), json.dumps(marker).encode(), self.run)

    def _remove(self, marker: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
        """Remove what a part had before and has no more."""
        gone = [file for file in marker["files"] if file not in kept]
        self.target.remove(gone)
        self.report.removed += len(gone)

    def _marker(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self.target.read(_done(name)))
            return found if isinstance(found.get("files"), dict) else None
        except (FileNotFoundError, ValueError):
            return None

    def _is_there(self, part: Part) -> bool:
        marker = self._marker(part.name)
        return marker is not None and marker["follows"] == part.follows() and self._have_sizes(marker["files"])

    def _is_complete(self) -> bool:
        try:
            found = json.loads(self.target.read(COMPLETE))
        except (FileNotFoundError, ValueError):
            return False
        self.report.files = list(found["files"])
        return not found["failed"] and self._have_sizes(found["files"])

    def _have_sizes(self, files: Mapping[str, Mapping[str, Any]]) -> bool:
        return all(self._size(name) == info["bytes"] for name, info in files.items())

    def _size(self, name: str) -> int | None:
        folder, _, file = name.rpartition("/")
        size: int | None = self._sizes(folder).get(file)
        return size

    def _forget_ends(self) -> None:
        """Remove the shared files: without them nobody takes a folder that is being written for a whole one."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.target.remove(json.loads(self.target.read(COMPLETE))["files"])
        self.target.remove([COMPLETE])

    def _finish(self) -> None:
        self._sizes.cache_clear()
        for part in self.parts:  # shared or lost while others were written
            if part.name not in self.report.failed and not self._is_there(part):
                self.report.failed[part.name] = "its files are not those that were written; run the same command again"
        there = [part for part in self.parts if part.name not in self.report.failed]
        files = {}
        for name, write in self.format.finish(self.target, there).items() if there else ():
            files[name] = self._write_large(name, write)
        self.report.files = list(files)
        told = {"rows": sum(part.rows for part in there), "files": files, "failed": sorted(self.report.failed)}
        self.target.write(COMPLETE, json.dumps(told).encode(), self.run)

    def _write_large(self, name: str, write: Write) -> dict[str, Any]:
        self.target.write_large(name, write, self.run)
        digest, size = hashlib.sha256(), 0
        with self.target.open(name) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
        return {"sha256": digest.hexdigest(), "bytes": size}


def _done(name: str) -> str:
    return f"{NOTES}/done/{name}.json"


def as_json(report: Report) -> dict[str, Any]:
    """A report as an object for machines."""
    return asdict(report)
