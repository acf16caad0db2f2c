"""A dataset's folder, on a local disk or an object store, with writes that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.config import UserError

Data = bytes | memoryview

_NO_LONGER_WRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
_READ_MANY: Final = 256


class StorageError(Exception):
    """The folder cannot be written: disk full, read-only, not allowed. Trying the next shard would not help."""


class Store:
    """Files below one root, named by paths relative to it (`shards/00000012.parquet`).

    root: a folder or an fsspec URL (`s3://`, `gs://`, `az://`).
    Local writes go to a temporary name that carries the writer's run id, are flushed, and renamed; an object store's
    put is atomic by itself.
    """

    def __init__(self, root: str) -> None:
        try:
            self.fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False)
        except ImportError as error:
            raise UserError(f"{root}: {error}") from None
        except ValueError as error:
            raise UserError(f"{root}: not a folder or URL that can be written: {error}") from None
        self.root = root
        self.base = str(path).rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """The file's full path in its file system."""
        return f"{self.base}/{name}" if name else self.base

    def write(self, name: str, data: Data, run: str, *, durable: bool = True) -> None:
        """Write one file under its final name; it survives a power cut when `durable`. Raises StorageError."""
        self.write_all({name: data}, run, durable=durable)

    def write_all(self, files: Mapping[str, Data], run: str, *, durable: bool = True) -> None:
        """Write files in order. On a local disk all are complete on disk before the first gets its final name."""
        with self._storage_errors(", ".join(files)):
            if not self.local:
                for name, data in files.items():
                    self.fs.pipe_file(self.path(name), bytes(data))
                return
            targets = [Path(self.path(name)) for name in files]
            temporary = [target.with_name(f".{target.name}.{run}.tmp") for target in targets]
            try:
                for path, data in zip(temporary, files.values(), strict=True):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _write(path, data, durable)
                for path, target in zip(temporary, targets, strict=True):
                    path.replace(target)
            except BaseException:
                for path in temporary:
                    with contextlib.suppress(OSError):
                        path.unlink()
                raise
            if durable:
                for folder in dict.fromkeys(target.parent for target in targets):
                    _sync_folder(folder)

    def touch(self, name: str) -> None:
        """Renew a file's modification time. Raises FileNotFoundError where it is gone: it is never made anew."""
        if self.local:
            os.utime(self.path(name))
        else:
            self.fs.pipe_file(self.path(name), self.fs.cat_file(self.path(name)))

    def read(self, name: str) -> bytes:
        """The file's bytes; FileNotFoundError where there is none."""
        data: bytes = self.fs.cat_file(self.path(name))
        return data

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (name, bytes) of those files that exist, fetched many at a time from object stores."""
        names = list(names)
        if self.local:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    yield name, Path(self.path(name)).read_bytes()
            return
        for start in range(0, len(names), _READ_MANY):
            chunk = {self.path(name): name for name in names[start : start + _READ_MANY]}
            found = self.fs.cat(list(chunk), on_error="omit")
            for path, name in chunk.items():
                if path in found:
                    yield name, found[path]

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self.fs.exists(self.path(name)))

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted, without the folder; [] where there is none."""
        try:
            if self.local:
                return sorted(path.name for path in Path(self.path(folder)).iterdir())
            return sorted(path.rsplit("/", 1)[-1] for path in self.fs.ls(self.path(folder), detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def size(self, name: str) -> int:
        """The file's bytes on disk; FileNotFoundError where there is none."""
        return int(self.fs.size(self.path(name)))

    def modified(self, name: str) -> float | None:
        """Seconds since the epoch by the file system's own clock; None where there is no such file."""
        try:
            if self.local:
                return Path(self.path(name)).stat().st_mtime
            return float(self.fs.modified(self.path(name)).timestamp())
        except FileNotFoundError:
            return None

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already do not matter."""
        for name in names:
            with contextlib.suppress(FileNotFoundError), self._storage_errors(name):
                self.fs.rm_file(self.path(name))

    @contextlib.contextmanager
    def _storage_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _NO_LONGER_WRITABLE or isinstance(error, PermissionError):
                reason = error.strerror or str(error)
                raise StorageError(f"{self.root}: {reason} ({what})") from error
            raise


def temporary_run(name: str) -> str | None:
    """The run id that a temporary file's name carries; None for any other name."""
    return name.split(".")[-2] if name.startswith(".") and name.endswith(".tmp") else None


def _write(path: Path, data: Data, durable: bool) -> None:
    with path.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
