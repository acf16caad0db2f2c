"""`humansd annotate`: one function over the committed shards of a dataset, its result beside them as new columns.

A function takes a batch of samples and returns one value a row for each new column:

    def brightness(rows: list[Sample]) -> dict[str, list[float]]:
        return {"brightness": [float(decode_image(row.image).mean()) for row in rows]}

A class is built once on each worker, with what `--arg KEY=VALUE` gives as keyword arguments, and its instances are
called the same way: it loads a model in `__init__`. `Poses` is one. What comes back may also be a `pyarrow.Table`, with
the types that are meant; from lists and numpy arrays Arrow infers them.

The function's name and arguments are the columns' identity; its code is not. A class whose result follows from files
may have a class method `pinned(**arguments) -> dict[str, str]`: checksums that belong to the identity too.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detectors.types import Person
from pipelines import columns, follow, preflight, record
from pipelines.config import UserError, identity_of_values
from pipelines.images import decode_image
from pipelines.job import Job, JobReport, Runtime
from pipelines.record import Sample
from pipelines.store import Store
from pipelines.work import ColumnResult, ShardContext

NewColumns: TypeAlias = Mapping[str, Sequence[Any] | NDArray[Any]] | pa.Table
"""New columns by name, one value a row."""

Annotate = Callable[[list[Sample]], NewColumns]


@dataclass(frozen=True, slots=True)
class Annotation:
    """What to add to a dataset.

    fn: `package.module:name` of a function, or of a class that is called with `arguments`. name: of the columns.
    batch_size: rows a call. threads: CPU threads of each worker. All of this decides the values.
    """

    fn: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 32
    threads: int = 1


def parse_arguments(given: Sequence[str]) -> dict[str, Any]:
    """Read `KEY=VALUE`s: VALUE as in TOML, or text."""
    found: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--arg {one}: must look like key=value, for example --arg detector=mini-pose")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        # What is no JSON, such as a date, stays text.
        found[name] = value if isinstance(value, str | bool | int | float | list | dict) else text
    return found


def compose(out: str, annotation: Annotation, shards: range | None = None) -> tuple[Job, MakeAnnotateWork]:
    """Return the job that adds columns to `out`, and what builds its work.

    Raises UserError where `out` is no dataset or the function cannot be found or takes no such arguments.
    """
    from pipelines import dataset

    source = Store(out)
    manifest = dataset.read_manifest(source)
    follow.check_version(source, manifest)
    own = columns.folder(source, annotation.name)
    make_work = MakeAnnotateWork(source.url, annotation, str(Path.cwd()))
    named = {"dataset": manifest.identity_hash, **_identity(annotation, make_work.find())}
    make_work = replace(make_work, code=make_work.read_code())
    job = Job(
        out=own.url,
        source=columns.SOURCE,
        identity=named,
        identity_hash=identity_of_values(named),
        config={"fn": annotation.fn, "arguments": dict(annotation.arguments)},
        n=manifest.n,
        shard_size=manifest.shard_size,
        max_attempts=1,
        shards=shards,
        standing=partial(follow.annotated, source),
    )
    return job, make_work


def run_annotate(out: str, annotation: Annotation, runtime: Runtime, shards: range | None = None) -> JobReport:
    """Add columns to the committed shards of `out`, or what is missing or stale of them.

    Raises UserError as `compose` does.
    """
    from pipelines.engine import run_job

    job, make_work = compose(out, annotation, shards)
    make_work = replace(make_work, gpu=runtime.num_gpus > 0)
    return run_job(job, make_work, replace(runtime, threads=annotation.threads))


def survey(out: str, annotation: Annotation, shards: range | None = None) -> dict[str, Any]:
    """Return what `run_annotate` would do; raises UserError where it would."""
    from pipelines import dataset
    from pipelines.shards import read_markers

    job, _ = compose(out, annotation, shards)
    manifest = dataset.manifest_of(job)
    own, source = Store(job.out), Store(out)
    dataset.check_manifest(own, manifest)
    wanted = manifest.shards if shards is None else shards
    to_do = {task.index for task in follow.annotated(source, manifest, wanted, read_markers(own, wanted)).tasks}
    rows = {done.shard: done.accepted for done in read_markers(source, wanted)}
    return {
        "out": job.out,
        "fn": annotation.fn,
        "arguments": dict(annotation.arguments),
        "shards": len(rows),
        "shards_to_do": len(to_do),
        "rows_to_do": sum(rows[index] for index in to_do),
    }


def _identity(annotation: Annotation, found: Any) -> dict[str, Any]:
    named: dict[str, Any] = {"fn": annotation.fn, "batch_size": annotation.batch_size, "threads": annotation.threads}
    named |= {f"arguments.{name}": value for name, value in annotation.arguments.items()}
    if inspect.isclass(found) and hasattr(found, "pinned"):
        named |= {f"pinned.{name}": value for name, value in found.pinned(**annotation.arguments).items()}
    return named


@dataclass(frozen=True)
class MakeAnnotateWork:
    """Builds the work on a worker.

    folder: where the user's own module may lie, beside the places Python knows. code: what it says, if it is a single
    file there, for machines that have not got that file. gpu: whether the machine must have one that works.
    """

    source: str
    annotation: Annotation
    folder: str
    code: str | None = None
    gpu: bool = False

    def find(self) -> Any:
        """Return the function or class that is named. Raises UserError where there is none, or its arguments differ."""
        fn, arguments = self.annotation.fn, self.annotation.arguments
        module, colon, name = fn.partition(":")
        if not (colon and module and name.isidentifier()):
            raise UserError(f"--fn {fn}: must be module:function, for example pipelines.annotate:Poses")
        self._let_import()
        try:
            found = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            raise UserError(
                f"--fn {fn}: {error}; your own module must lie in the folder you run this in, and on a cluster what is "
                "not a single file must lie in that folder of every machine"
            ) from None
        except Exception as error:  # the user's module runs here for the first time
            raise UserError(f"--fn {fn}: {type(error).__name__}: {error}") from error
        if not callable(found):
            raise UserError(f"--fn {fn}: is neither a function nor a class")
        if arguments and not inspect.isclass(found):
            raise UserError(f"--arg: {fn} is a function, which takes rows alone; a class takes arguments")
        try:
            if inspect.isclass(found):
                inspect.signature(found).bind(**arguments)
        except TypeError as error:
            raise UserError(f"--fn {fn}: {error}; give arguments with --arg KEY=VALUE") from None
        return found

    @property
    def _file(self) -> Path:
        """Where the user's own module lies, if it is a single file."""
        return Path(self.folder, self.annotation.fn.partition(":")[0] + ".py")

    def read_code(self) -> str | None:
        """Return what `code` is to be, once `find` has imported the module."""
        file = getattr(sys.modules[self.annotation.fn.partition(":")[0]], "__file__", None)
        if file is None or Path(file).resolve() != self._file.resolve():
            return None
        return self._file.read_text(encoding="utf-8")

    def _let_import(self) -> None:
        """Add the folder of the user's module to those Python knows, or a new one with the code that came along."""
        if self.code is None or (self._file.is_file() and self._file.read_text(encoding="utf-8") == self.code):
            if self.folder not in sys.path:
                sys.path.append(self.folder)
        elif self._file.stem not in sys.modules:
            folder = tempfile.mkdtemp(prefix="humansd-")
            Path(folder, self._file.name).write_text(self.code, encoding="utf-8")
            sys.path.insert(0, folder)

    def __call__(self) -> AnnotateWork:
        """Find the function, or build the class. Raises UserError where it cannot be had on this machine."""
        if self.gpu:
            preflight.require_gpu()
        found = self.find()
        fn: Any = found(**self.annotation.arguments) if inspect.isclass(found) else found
        return AnnotateWork(Store(self.source), fn, self.annotation.batch_size)


class AnnotateWork:
    """Makes the columns of one shard after another (`pipelines.work.Work`)."""

    def __init__(self, source: Store, fn: Annotate, batch_size: int) -> None:
        self._source = source
        self._fn = fn
        self._batch_size = batch_size

    def __call__(self, context: ShardContext) -> ColumnResult:
        done, table = follow.read_accepted(self._source, context.task.index)
        start = time.perf_counter()
        batches = []
        for first in range(0, table.num_rows, self._batch_size):
            rows = record.table_to_samples(table.slice(first, self._batch_size))
            by_key = {row.key: row for row in rows}
            parts = [
                as_table([by_key[key] for key in live], self._fn([by_key[key] for key in live]))
                for live in context.rounds(list(by_key))
            ]
            batches.append(_in_order(list(by_key), parts))
        found = pa.concat_tables(batches, promote_options="permissive") if batches else table.select(["key"])
        seconds = {"annotate": time.perf_counter() - start}
        return ColumnResult(found, done.files["shards"].sha256, seconds, {"annotated": found.num_rows})


def as_table(rows: Sequence[Sample], found: NewColumns) -> pa.Table:
    """What a function returned, checked: one value a row. Raises ValueError or TypeError that says what is wrong."""
    if not isinstance(found, pa.Table):
        if not isinstance(found, Mapping):
            raise TypeError(f"the function returned {type(found).__name__}, not a dict of columns or a pyarrow.Table")
        for name, values in found.items():
            if len(values) != len(rows):
                raise ValueError(f"column {name!r} has {len(values)} values for {len(rows)} rows")
        found = pa.table({name: pa.array(_plain(values)) for name, values in found.items()})
    if not found.column_names or "key" in found.column_names or len(set(found.column_names)) < found.num_columns:
        raise ValueError(f"the columns must have names of their own, not {found.column_names}")
    if found.num_rows != len(rows):
        raise ValueError(f"the table has {found.num_rows} rows for {len(rows)}")
    return found.add_column(0, "key", pa.array([row.key for row in rows], pa.string())).combine_chunks()


def _plain(values: Sequence[Any] | NDArray[Any]) -> Any:
    """Arrow reads arrays of one dimension; rows of more become lists."""
    return list(values) if isinstance(values, np.ndarray) and values.ndim > 1 else values


def _in_order(keys: list[str], parts: Sequence[pa.Table]) -> pa.Table:
    """The rows in the shard's order; those that were never run, because they kill their process, are null."""
    if not parts:
        return pa.table({"key": pa.array(keys, pa.string())})
    table = pa.concat_tables(parts, promote_options="permissive")
    place = {key: number for number, key in enumerate(table["key"].to_pylist())}
    taken = table.drop_columns(["key"]).take(pa.array([place.get(key) for key in keys], pa.int64()))
    return taken.add_column(0, "key", pa.array(keys, pa.string()))


class Poses:
    """The people that another detector finds: `people`, `num_people`, `min_keypoint_score`, as in the record.

    detector: a name that `detectors.load_detector` knows. batch_size: pictures a forward. min_score: people found with
    less confidence (0-1) are left out. Runs on a GPU where the worker has one.
    """

    def __init__(self, detector: str = "mini-pose", batch_size: int = 8, min_score: float = 0.0) -> None:
        import torch

        from pipelines.detector import DetectorConfig, load

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._detector = load(DetectorConfig(name=detector, batch_size=batch_size), device)
        self._min_score = min_score

    @classmethod
    def pinned(cls, detector: str = "mini-pose", batch_size: int = 8, min_score: float = 0.0) -> dict[str, str]:
        """The checksums of the detector's weights and configs."""
        from pipelines.detector import DetectorConfig, detector_digests

        return detector_digests(DetectorConfig(name=detector, batch_size=batch_size))

    def __call__(self, rows: list[Sample]) -> pa.Table:
        """Find the people of each row's image."""
        found = self._detector.detect([decode_image(row.image or b"") for row in rows])
        return pose_columns(rows, found, self._min_score)


def pose_columns(rows: Sequence[Sample], found: Sequence[tuple[Person, ...]], min_score: float) -> pa.Table:
    """The columns `people`, `num_people`, `min_keypoint_score` of what a detector found in each row's image."""
    kept = [tuple(person for person in people if person.score >= min_score) for people in found]
    posed = [replace(row, people=people) for row, people in zip(rows, kept, strict=True)]
    return record.samples_to_table(posed).select(list(columns.POSES))
