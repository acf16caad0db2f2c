"""A dataset's folder, on a local disk or an object store, with writes that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.parquet import open_parquet_file

from pipelines.config import UserError

Data = bytes | memoryview | Callable[[BinaryIO], object]
"""What to write: the bytes, or a function that writes them to an open file."""

_NO_LONGER_WRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
_READERS: Final = 16
_RETRY_SECONDS: Final = 1.0
_PARQUET_BLOCK: Final = 8 * 2**20  # of an object that is smaller all is fetched, else runs of columns up to so long
_SMALL_BLOCK: Final = 2**18

T = TypeVar("T")


class StorageError(UserError):
    """The folder cannot be used: disk full, read-only, not allowed, no bucket. Trying again would not help."""


class UnreachableError(StorageError):
    """The object store does not answer, or with an error that may pass."""


class Store:
    """Files below one root, named by paths relative to it (`shards/00000012.parquet`).

    root: a folder or an fsspec URL (`s3://`, `gs://`, `az://`).
    patience: seconds for which what an object store refuses for now is tried again before UnreachableError is raised.
    Local writes go to a temporary name that carries the writer's run id, are flushed, and renamed; an object store's
    put is atomic by itself. All methods raise StorageError where they cannot do their work.
    """

    def __init__(self, root: str, patience: float = 0.0) -> None:
        try:
            # Listings must be fresh; Arrow, which opens files for itself, knows which bytes it wants.
            options = {"default_cache_type": "none"} if root.startswith(("s3://", "s3a://")) else {}
            self.fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False, **options)
        except ImportError as error:
            raise UserError(f"{root}: {error}") from None
        except ValueError as error:
            raise UserError(f"{root}: not a folder or URL that can be written: {error}") from None
        self.root = root
        self.base = str(path).rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)
        self.url = self.base if self.local else root
        """The root, whatever a process's working folder."""
        self.patience = patience

    def below(self, folder: str) -> Store:
        """The store of a folder inside this one."""
        return Store(f"{self.root.rstrip('/')}/{folder}")

    def listed(self) -> fsspec.AbstractFileSystem:
        """The file system for readers like DuckDB, which ask for small parts, and again and again how large a file is.

        What a listing said is kept until `invalidate_cache`, and read ahead a little.
        """
        options = {**self.fs.storage_options, "use_listings_cache": True}
        if "default_cache_type" in options:  # S3's
            options |= {"default_cache_type": "bytes", "default_block_size": _SMALL_BLOCK}
        return type(self.fs)(**options)

    def path(self, name: str) -> str:
        """The file's full path in its file system."""
        return f"{self.base}/{name}" if name else self.base

    def write(self, name: str, data: Data, run: str, *, durable: bool = True) -> None:
        """Write one file under its final name; it survives a power cut when `durable`. Raises StorageError."""
        self.write_all({name: data}, run, durable=durable)

    def write_all(self, files: Mapping[str, Data], run: str, *, durable: bool = True) -> None:
        """Write files in order. On a local disk all are complete on disk before the first gets its final name."""
        if not self.local:
            for name, data in files.items():
                self._remote_write(name, _in_memory(data))
            return
        with self._storage_errors(", ".join(files)):
            targets = [Path(self.path(name)) for name in files]
            temporary = [target.with_name(f".{target.name}.{run}.tmp") for target in targets]
            try:
                for path, data in zip(temporary, files.values(), strict=True):
                    _make_folder(path.parent, durable)
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
                    sync(folder)

    def write_large(self, name: str, write: Callable[[BinaryIO], object], run: str) -> None:
        """Write one file that may be larger than memory; to an object store it goes by way of a temporary file."""
        if self.local:
            self.write(name, write, run)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "file")
            with path.open("wb") as file:
                write(file)
            self._call(lambda target: self.fs.put_file(str(path), target), name)

    def touch(self, name: str) -> None:
        """Renew a file's modification time. Raises FileNotFoundError where it is gone: it is never made anew."""
        if self.local:
            os.utime(self.path(name))
        else:
            self._remote_write(name, self.read(name))

    def read(self, name: str) -> bytes:
        """The file's bytes; FileNotFoundError where there is none."""
        data: bytes = self._call(_read if self.local else self.fs.cat_file, name)
        return data

    def open(self, name: str) -> BinaryIO:
        """Open a file to read it piece by piece; FileNotFoundError where there is none."""
        file: BinaryIO = self._call(lambda path: self.fs.open(path, "rb"), name)
        return file

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (name, bytes) of those files that exist, in order, fetched many at a time from object stores."""

        def read(name: str) -> tuple[str, bytes | None]:
            try:
                return name, self.read(name)
            except FileNotFoundError:
                return name, None

        with contextlib.ExitStack() as stack:
            several = map if self.local else stack.enter_context(ThreadPoolExecutor(_READERS)).map
            for name, data in several(read, names):
                if data is not None:
                    yield name, data

    def open_parquet(
        self, name: str, columns: list[str] | None = None, row_groups: list[int] | None = None
    ) -> BinaryIO:
        """Open a file to read these columns and row groups of it (None = all); FileNotFoundError where there is none.

        Of a large object only the bytes of these are fetched, all of them before this returns.
        """
        if self.local:
            return self._call(lambda path: Path(path).open("rb"), name)
        options: dict[str, Any] = {"engine": "pyarrow", "max_block": _PARQUET_BLOCK, "strict": True}
        options |= {"fs": self.fs, "columns": columns, "row_groups": row_groups}
        file: BinaryIO = self._call(lambda path: open_parquet_file(path, **options), name)
        return file

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self._call(self.fs.exists, name))

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted, without the folder; [] where there is none."""
        try:
            if self.local:
                return sorted(self._call(os.listdir, folder))
            found = self._call(self.fs.ls, folder, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        # Consoles of object stores put an empty object in place of a folder, which would be listed with its content.
        paths = (path.rstrip("/") for path in found)
        return sorted(path.rsplit("/", 1)[-1] for path in paths if path != self.path(folder))

    def names_below(self, folder: str) -> list[str]:
        """Names of all files below a folder, at whatever depth, as paths below the root; [] where there is none."""
        found: list[str] = self._call(self.fs.find, folder)
        return sorted(path.removeprefix(f"{self.base}/") for path in found)

    def size(self, name: str) -> int:
        """The file's bytes on disk; FileNotFoundError where there is none."""
        return int(self._call(self.fs.size, name))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file in a folder, by name; {} where there is none."""
        try:
            found = self._call(self.fs.ls, folder, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {one["name"].rsplit("/", 1)[-1]: one["size"] for one in found if one["type"] == "file"}

    def modified(self, name: str) -> float | None:
        """Seconds since the epoch by the file system's own clock; None where there is no such file."""
        try:
            if self.local:
                return Path(self.path(name)).stat().st_mtime
            return float(self._call(self.fs.modified, name).timestamp())
        except FileNotFoundError:
            return None

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already do not matter."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._call(self.fs.rm_file, name)

    def _remote_write(self, name: str, data: bytes) -> None:
        try:
            self._call(self.fs.pipe_file, name, data)
        except FileNotFoundError as error:
            raise StorageError(f"{self.root}: {error} ({name})") from error

    def _call(self, function: Callable[..., T], name: str, *arguments: Any, **options: Any) -> T:
        """Call function(path of `name`, ...); FileNotFoundError and NotADirectoryError mean the file."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                with self._storage_errors(name):
                    return function(self.path(name), *arguments, **options)
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)

    @contextlib.contextmanager
    def _storage_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise
        except Exception as error:
            reason = (getattr(error, "strerror", None) or str(error)).strip().partition("\n")[0]
            told = f"{self.root}: {reason or type(error).__name__} ({what})"
            code = getattr(error, "errno", None)
            if isinstance(error, PermissionError) or (isinstance(error, OSError) and code in _NO_LONGER_WRITABLE):
                raise StorageError(told) from error
            # What the libraries of object stores raise of their own is no OSError, and no mistake of this program.
            foreign = isinstance(error, OSError) or type(error).__module__ != "builtins"
            if foreign and not self.local:
                raise UnreachableError(told) from error
            raise


def temporary_run(name: str) -> str | None:
    """The run id that a temporary file's name carries; None for any other name."""
    return name.split(".")[-2] if name.startswith(".") and name.endswith(".tmp") else None


def _in_memory(data: Data) -> bytes:
    if not callable(data):
        return bytes(data)
    buffer = io.BytesIO()
    data(buffer)
    return buffer.getvalue()


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _write(path: Path, data: Data, durable: bool) -> None:
    with path.open("wb") as file:
        if callable(data):
            data(file)
        else:
            file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _make_folder(folder: Path, durable: bool) -> None:
    """Make a folder and those above it; they too survive a power cut when `durable`."""
    missing = list(itertools.takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    if durable:
        for path in missing:
            sync(path.parent)


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to its disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
