"""WebDataset: a tar file a shard, in which the parts of a sample follow one another: `KEY.jpg`, `KEY.txt`, `KEY.json`.

The convention is https://github.com/webdataset/webdataset: a sample's files share the name before the first dot.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pipelines.export.part import Part, suffix_of
from pipelines.store import Store

OMITTED: Final = ("image", "caption")
"""Columns that are files of their own."""


def files(part: Part) -> Iterator[tuple[str, bytes]]:
    """Yield the one tar file of a part; equal rows give equal bytes."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in part.read().to_pylist():
            for suffix, data in _members(row):
                member = tarfile.TarInfo(f"{row['key'].replace('.', '_')}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    yield f"{part.name}.tar", sink.getvalue()


def finish(target: Store, parts: Sequence[Part]) -> Mapping[str, Any]:
    """Tar files stand alone."""
    return {}


def _members(row: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    image = row["image"]["bytes"]
    told = {name: value for name, value in row.items() if name not in OMITTED}
    yield suffix_of(image), image
    yield "txt", row["caption"].encode()
    yield "json", json.dumps(told, ensure_ascii=False, allow_nan=False).encode()
