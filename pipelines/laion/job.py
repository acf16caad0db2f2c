"""The LAION-Human job: plan → fetch and annotate side by side → settle. Each stage is committed shard by shard.

    OUT/plan/        frozen candidates                      (`plan`)
    OUT/raw/0/ …     what was downloaded, a generation each (`fetch`)
    OUT/annotated/   people and scores                      (`annotate`)
    OUT/verdicts/    what the gates and near-duplicates say (`settle`)
    OUT/shards/ …    the dataset

Importing this loads neither torch nor Ray; running the job does.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipelines.config import UserError, identity, identity_of_values, plain
from pipelines.detector import detector_digests
from pipelines.laion.config import LaionConfig

if TYPE_CHECKING:
    from pipelines.job import Job, JobReport, Runtime
    from pipelines.store import Store

MINI: Final = ("mini",)
"""`metadata.files` of the small web that comes with the package."""

_STAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "fetch": ("seed", "shard_size", "metadata.", "filter.", "index.", "fetch."),
    "annotate": ("seed", "shard_size", "metadata.", "filter.", "index.", "fetch.", "score.", "detector."),
}
"""The identity keys that decide the bytes of a stage; those of the last stage are all of them."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where candidates come from. hosts: `host:port` → `address:port` of a small web on this machine."""

    files: tuple[str, ...]
    hosts: Mapping[str, str]


@contextlib.contextmanager
def open_hosts(config: LaionConfig) -> Iterator[Mapping[str, str]]:
    """`Source.hosts`, for downloads that need no metadata."""
    if config.metadata.files != MINI:
        yield {}
        return
    with open_source(config) as source:
        yield source.hosts


@contextlib.contextmanager
def open_source(config: LaionConfig) -> Iterator[Source]:
    """The metadata's files; for `mini`, while the context is open, with the small web they point to."""
    from pipelines.laion.plan import metadata_files

    if config.metadata.files != MINI:
        yield Source(tuple(metadata_files(config.metadata.files)), {})
        return
    from pipelines.mini import web

    with tempfile.TemporaryDirectory() as folder, web.serve() as address:
        path = Path(folder, "mini.parquet")
        web.write_metadata(path, web.pages())
        yield Source((str(path),), {f"{web.HOST}:80": address})


def identity_of(config: LaionConfig, fingerprint: str) -> dict[str, Any]:
    """What decides the bytes of the dataset: identity keys, and everything they name pinned by content."""
    from detectors import weights
    from pipelines.laion.score import clip_digest
    from pipelines.safety import classifier_version

    head = config.score.aesthetic_head
    extra = {
        "metadata.fingerprint": fingerprint,
        **detector_digests(config.detector),
        "score.clip_sha256": clip_digest(config.score.clip_model),
        "score.aesthetic_sha256": None if head is None else weights.digest(head),
        "score.classifier": classifier_version() if config.score.nsfw else None,
    }
    return identity(config, extra)[0]


def run_laion(
    config: LaionConfig, out: str, shards: range | None = None, address: str | None = None, retry: bool = False
) -> JobReport:
    """Make a LAION-Human dataset in `out`, or what is still missing of it.

    shards: only these; None = all. address: the Ray cluster to join. retry: try the addresses that failed in passing
    once more (`max_attempts` grows by one). Raises UserError where the user must act first.
    """
    from pipelines.card import renew_card
    from pipelines.store import Store

    if retry:
        _check_open(out)
    generations = max(config.max_attempts, _generations(Store(out))) + retry
    config = replace(config, max_attempts=generations)
    with open_source(config) as source:
        stages, store = prepare(config, out, source, shards)
        report = _run(stages, store, address)
    renew_card(out, report)
    return report


def prepare(config: LaionConfig, out: str, source: Source, shards: range | None = None) -> tuple[Stages, Store]:
    """Freeze the candidates and write what the dataset is; return its stages. Raises UserError as `run_laion` does."""
    from pipelines import dataset, lease, taken
    from pipelines.laion.plan import make_plan
    from pipelines.laion.stages import ANNOTATED, raw_folder
    from pipelines.store import Store

    store = Store(out)
    plan = make_plan(config, store, source.files)
    named = identity_of(config, plan.fingerprint)
    n = plan.candidates if config.n is None else min(config.n, plan.candidates)
    stages = Stages(config, out, named, n, source.hosts, shards)
    settle = stages.settle()
    if dataset.check_manifest(store, stages.manifest(settle)):
        dataset.write_manifest(store, stages.manifest(settle), settle.files, lease.new_run())
    _check_closed(store, out, n)
    folders = (ANNOTATED, *map(raw_folder, range(config.max_attempts)))
    taken.spread(store, [store.below(folder) for folder in folders], lease.new_run())
    return stages, store


def _check_open(out: str) -> None:
    """Raise UserError where no shard is left that failed addresses could go to."""
    from pipelines import dataset
    from pipelines.laion.stages import closed_shards
    from pipelines.store import Store

    store = Store(out)
    if len(closed_shards(store)) == len(dataset.read_manifest(store).shards):
        raise UserError(
            f"{out}: nothing to try again: its shards were closed by humansd clean or regate; a larger --n extends it"
        )


def _check_closed(store: Store, out: str, n: int) -> None:
    """Raise UserError where a closed shard would have to grow: `regate` closes the last one as it is."""
    from pipelines import dataset, shards
    from pipelines.laion.stages import is_closed

    size = dataset.read_manifest(store).shard_size
    for done in shards.read_markers(store):
        if is_closed(done) and done.stop < min(done.start + size, n):
            raise UserError(
                f"{out}: shard {done.shard} was made by humansd regate and cannot grow: "
                "grow the dataset it was made from and run regate again"
            )


def _generations(store: Store) -> int:
    from pipelines import dataset

    try:
        return dataset.read_manifest(store).max_attempts
    except UserError:
        return 1


@dataclass(frozen=True)
class Stages:
    """The jobs of one dataset."""

    config: LaionConfig
    out: str
    named: Mapping[str, Any]
    n: int
    hosts: Mapping[str, str]
    shards: range | None

    def fetch(self, generation: int) -> Job:
        from pipelines.laion.stages import OpenStanding, raw_folder

        return replace(self._job(raw_folder(generation), "fetch", 1), standing=OpenStanding(self.out))

    def annotate(self) -> Job:
        from pipelines.laion.stages import ANNOTATED, OpenStanding

        job = self._job(ANNOTATED, "annotate", self.config.max_attempts)
        return replace(job, standing=OpenStanding(self.out))

    def settle(self) -> Job:
        from pipelines.laion.settle import SettleStanding

        job = self._job("", "", self.config.max_attempts)
        return replace(job, shards=None, standing=SettleStanding(self.out))

    def manifest(self, job: Job) -> Any:
        from pipelines import dataset

        fields = ("source", "identity_hash", "identity", "n", "shard_size", "max_attempts", "config")
        return dataset.Manifest(**{name: getattr(job, name) for name in fields})

    def _job(self, folder: str, stage: str, max_attempts: int) -> Job:
        from pipelines.job import Job

        prefixes = _STAGES.get(stage, ("",))
        named = {name: value for name, value in self.named.items() if name.startswith(prefixes)}
        return Job(
            out=f"{self.out.rstrip('/')}/{folder}".rstrip("/"),
            source="laion-human",
            identity=named,
            identity_hash=identity_of_values(named),
            config=plain(self.config),
            n=self.n,
            shard_size=self.config.shard_size,
            max_attempts=max_attempts,
            shards=self.shards,
            label=stage or "settle",
        )


def runtimes(config: LaionConfig, address: str | None) -> tuple[Runtime, Runtime]:
    """Where the fetch stage and the annotate stage run."""
    from pipelines.job import Runtime

    fetch = Runtime(workers=config.fetch.workers, address=address, hang_seconds=60 * config.hang_minutes)
    annotate = Runtime(
        workers=config.workers,
        num_cpus=config.cpus_per_worker,
        num_gpus=config.gpus_per_worker,
        threads=config.score.threads,
        address=address,
        budget_gpu_hours=config.budget_gpu_hours,
        price_per_gpu_hour=config.price_per_gpu_hour,
        hang_seconds=60 * config.hang_minutes,
    )
    return fetch, annotate


def _run(stages: Stages, store: Store, address: str | None) -> JobReport:
    from pipelines import engine, lease
    from pipelines.cluster import session
    from pipelines.laion.annotate import MakeAnnotateWork
    from pipelines.laion.settle import MakeSettleWork, decide
    from pipelines.laion.stages import ANNOTATED, closed_shards
    from pipelines.shards import done_indices

    config, out = stages.config, stages.out
    fetch, annotate = runtimes(config, address)
    cpus = fetch.workers * fetch.num_cpus + annotate.workers * annotate.num_cpus
    with session.ray_session(replace(annotate, workers=1, num_cpus=cpus)):
        stop = threading.Event()
        fetching = _Fetching(stages, store, fetch, stop)
        fetching.start()
        try:
            report = engine.run_job(
                stages.annotate(), MakeAnnotateWork(config, out, stages.named), annotate, fetching, stop
            )
        except BaseException:
            stop.set()
            raise
        finally:
            fetching.join()
        if fetching.error is not None:
            raise fetching.error
        report = replace(
            report, short=[], exit_code=130 if stop.is_set() else int(bool(report.missing or report.failed))
        )
        settle = stages.settle()
        closed = closed_shards(store)
        made = [i for i in done_indices(store.below(ANNOTATED), stages.manifest(settle).shards) if i not in closed]
        if report.exit_code or len(made) + len(closed) < len(stages.manifest(settle).shards):
            why = "near-duplicates are settled when all shards are annotated"
            return replace(report, stopped=report.stopped or why)
        decide(store, config.gates, made, lease.new_run(), closed)
        return engine.run_job(settle, MakeSettleWork(out, config.keep_rejected), replace(fetch, workers=1), stop=stop)


class _Fetching(threading.Thread):
    """Runs the fetch jobs, one generation after the other, and tells the annotate job which shards are there."""

    LOOK_SECONDS: Final = 1.0

    def __init__(self, stages: Stages, store: Store, runtime: Runtime, stop: threading.Event) -> None:
        super().__init__(name="fetch")
        self._stages, self._store, self._runtime, self._halt = stages, store, runtime, stop
        self._over = False
        self._ready: frozenset[int] = frozenset()
        self._looked = 0.0
        self.error: BaseException | None = None

    def run(self) -> None:
        """Fetch every generation; what goes wrong is kept for the job's own thread."""
        from pipelines import engine
        from pipelines.laion.blocklist import Hashes
        from pipelines.laion.fetch import MakeFetchWork
        from pipelines.laion.optout import OptOut

        config = self._stages.config
        try:
            opt_out = OptOut.read(config.filter.opt_out)
            hashes = Hashes.read(config.fetch.blocklist, config.fetch.blocklist_distance)
            for generation in range(config.max_attempts):
                make = MakeFetchWork(config.fetch, self._stages.out, generation, opt_out, hashes, self._stages.hosts)
                report = engine.run_job(self._stages.fetch(generation), make, self._runtime, stop=self._halt)
                if report.missing or report.failed or self._halt.is_set():
                    break
        except BaseException as error:
            self.error = error
        finally:
            self._over = True

    def ready(self, index: int) -> bool:
        """Whether a shard's raw images of all generations are there."""
        if index not in self._ready and (self._over or time.monotonic() - self._looked > self.LOOK_SECONDS):
            self._looked = time.monotonic()
            self._ready = frozenset(self._made())
        return index in self._ready

    def ended(self) -> bool:
        """Whether no more shards will come."""
        return self._over

    def _made(self) -> list[int]:
        from pipelines.laion.stages import raw_folder
        from pipelines.shards import done_indices

        return done_indices(self._store.below(raw_folder(self._stages.config.max_attempts - 1)))


def config_of(out: str) -> LaionConfig:
    """The config that a dataset was last run with. Raises UserError where OUT holds none of this source."""
    from pipelines import dataset
    from pipelines.config import restore
    from pipelines.store import Store

    manifest = dataset.read_manifest(Store(out))
    if manifest.source != "laion-human":
        raise UserError(f"{out} holds {manifest.source}, which was not downloaded")
    return restore(LaionConfig, manifest.config, f"{out}/dataset.json")


def funnel(store: Store) -> list[tuple[str, int]]:
    """(stage and reason, candidates that ended there) of a dataset, most first; they and the accepted add up to n."""
    from pipelines import shards

    counts: Counter[str] = Counter()
    for index in shards.done_indices(store):
        table = shards.read_table(store, "ledger", index, ["stage", "reason"])
        counts.update(f"{row['stage']}: {row['reason']}" for row in table.to_pylist())
    return counts.most_common()


def plan_laion(config: LaionConfig) -> dict[str, Any]:
    """Return what `run_laion` would begin with: the funnel of the metadata, counted without any download."""
    from pipelines.laion.plan import Metadata

    with open_source(config) as source:
        metadata = Metadata(config, source.files)
        try:
            found = metadata.funnel()
        finally:
            metadata.close()
    candidates = found[-1][1] if config.n is None else min(config.n, found[-1][1])
    return {
        "files": len(source.files),
        "funnel": dict(found),
        "candidates": candidates,
        "shards": -(-candidates // config.shard_size),
        "detector": config.detector.name,
        "clip": config.score.clip_model,
    }


def as_text(plan: Mapping[str, Any]) -> str:
    """Return what `plan_laion` found as lines for people."""
    lines = [f"{rows:>14,}  {name}" for name, rows in plan["funnel"].items()]
    lines.append(f"{plan['candidates']:>14,}  candidates in {plan['shards']:,} shards would be downloaded")
    lines.append(f"then scored by CLIP {plan['clip']} and judged by the poses that {plan['detector']} finds")
    return "\n".join(lines)
