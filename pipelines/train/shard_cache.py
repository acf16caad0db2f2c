"""Copies of remote shards on this machine, so that each node fetches a shard once for all its loader workers.

A copy is named by the checksum in its shard's done marker and checked against it, so a shard that was rebuilt, or that
rows were taken down from, is fetched anew. The copies used longest ago go when the folder holds more than its limit.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from detectors.weights import cache_dir
from pipelines.config import UserError
from pipelines.shards import table_name
from pipelines.store import Store
from pipelines.train.listing import PATIENCE, ShardRows

FOLDERS_FAULT: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT)
"""What a folder that cannot be written, or is full, answers: no fault of a shard's."""
LIMIT: Final = 50 * 10**9
"""Bytes that the copies of a machine may take."""


class ChangedShardError(ValueError):
    """A remote shard's bytes are not those of its done marker."""


class ShardCache:
    """A folder of copies, shared by all processes of a machine; no half copy of a killed one is taken for whole.

    folder: by default `shards` in $HUMANSD_CACHE or ~/.cache/humansd. limit: bytes; the newest copy stays in any case.
    """

    def __init__(self, folder: Path | str | None = None, limit: int = LIMIT) -> None:
        self.folder = Path(folder) if folder else cache_dir() / "shards"
        self.limit = limit

    def open(self, store: Store, name: str, shard: ShardRows) -> BinaryIO:
        """Open the copy of a file of `store`, fetched if it is not here.

        Raises ChangedShardError where the file is not what the shard's done marker says, UserError where the folder
        cannot be written.
        """
        copy = self.folder / f"{shard.sha256}.parquet"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock(shard.sha256[:2]):  # by the first digits: few lock files, few waits
                with contextlib.suppress(FileNotFoundError):
                    os.utime(copy)
                    return copy.open("rb")
                data = store.read(name)
                if hashlib.sha256(data).hexdigest() != shard.sha256:
                    raise ChangedShardError("its bytes are not those of its done marker")
                temporary = copy.with_suffix(".tmp")  # of one writer at a time: the next overwrites what a kill left
                temporary.write_bytes(data)
                temporary.replace(copy)
                opened = copy.open("rb")
        except OSError as error:
            if error.errno not in FOLDERS_FAULT:
                raise
            raise UserError(f"{self.folder}: {error.strerror}; HUMANSD_CACHE names another folder") from None
        self._evict(copy)
        return opened

    def _evict(self, newest: Path) -> None:
        """Remove the copies used longest ago; whoever has one open reads on."""
        with self._lock("evict"):
            found = []
            for path in self.folder.iterdir():
                if path.suffix in (".parquet", ".tmp") and path != newest:
                    with contextlib.suppress(FileNotFoundError):
                        status = path.stat()
                        found.append((status.st_mtime, status.st_size, path))
            held = newest.stat().st_size if newest.exists() else 0
            for _, size, path in sorted(found, reverse=True):
                held += size
                if held > self.limit:
                    path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with (self.folder / f".{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go of by the system when the process ends, however it ends
            yield


class CachedStore(Store):
    """A dataset whose shards are read by way of a cache where they are remote; all else as in `Store`."""

    def __init__(self, root: str, shards: Sequence[ShardRows], cache: ShardCache) -> None:
        super().__init__(root, PATIENCE)
        self._shards = {table_name("shards", shard.index): shard for shard in shards}
        self._cache = cache

    def open_parquet(
        self, name: str, columns: list[str] | None = None, row_groups: list[int] | None = None
    ) -> BinaryIO:
        """Open a file, a shard from the cache; FileNotFoundError where there is none."""
        if self.local or name not in self._shards:
            return super().open_parquet(name, columns, row_groups)
        return self._cache.open(self, name, self._shards[name])
