"""Takedowns in an imported set: its copy of the annotations keeps a record's name, and nothing else of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pipelines.coco import text_of
from pipelines.coco_file import Record
from pipelines.dataset import Manifest
from pipelines.humanart.config import prefix_of
from pipelines.humanart.work import ANNOTATIONS, URLS, read_records, write_records
from pipelines.shards import table_name
from pipelines.store import Store
from pipelines.taken import STAGE, Takedowns


def withdraw(records: Iterable[Record], prefix: str, taken: Takedowns) -> Iterator[Record]:
    """Yield records, those that are on the list without their content. prefix: of keys."""
    for record in records:
        gone = taken.entries and taken.names(prefix + record.name, _url(record))
        yield replace(record, image=None, annotations=(), trouble=STAGE) if gone else record


def find(store: Store, manifest: Manifest, taken: Takedowns) -> Iterator[tuple[str, int, list[str], bool]]:
    """Yield keys on the list: their shard, the urls that they match, whether their record's content is there."""
    prefix = prefix_of(manifest.source, manifest.identity_hash)
    for index in _indices(store):
        for record in read_records(store, index):
            key, url = prefix + record.name, _url(record)
            if taken.names(key, url):
                yield key, index, [url] if url is not None and url in taken.urls else [], record.trouble != STAGE


def rewrite(store: Store, manifest: Manifest, taken: Takedowns, run: str) -> None:
    """Take the content out of the records that are on the list."""
    prefix = prefix_of(manifest.source, manifest.identity_hash)
    for index in sorted({index for _, index, _, here in find(store, manifest, taken) if here}):
        data = write_records(withdraw(read_records(store, index), prefix, taken))
        store.write(table_name(ANNOTATIONS, index), data, run)


def _url(record: Record) -> str | None:
    return text_of(record.parse()[0], *URLS)


def _indices(store: Store) -> list[int]:
    return [int(name[:8]) for name in store.names(ANNOTATIONS) if name.endswith(".parquet") and name[:8].isdigit()]
