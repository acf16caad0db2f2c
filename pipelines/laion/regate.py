"""A LAION-Human dataset under another detector or other gates, from the images that are there: nothing is downloaded.

Two stages of the new dataset, as of any LAION-Human: OUT/annotated holds what the detector finds, the gates and
near-duplicates are settled over everything in OUT/verdicts, and each shard follows from both. Its images are the
source's: those it kept, and those it did not keep from its downloads where they were not cleaned away. The shards are
closed: `humansd laion` leaves them as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from detectors.types import Detector
from pipelines import dataset, follow, lease, preflight, record, shards
from pipelines.config import UserError, difference, identity, of_kind, restore
from pipelines.dataset import Manifest, Standing
from pipelines.detector import check_detector, detector_digests, load_pinned
from pipelines.gates import Rejection
from pipelines.judging import NO_IMAGE, Steps, find_people
from pipelines.laion.annotate import Row, annotated, batches, decode, harmless_row, ledger_row
from pipelines.laion.config import LaionConfig, LaionGates
from pipelines.laion.gates import GATES, OF_PEOPLE, OF_USABLE, judge
from pipelines.laion.images import read_kept
from pipelines.laion.job import Stages, runtimes
from pipelines.laion.plan import PLAN
from pipelines.laion.settle import DUPLICATE, MakeSettleWork, SettleStanding, decide
from pipelines.laion.stages import ANNOTATED, raw_folder
from pipelines.record import KILLED_WORKER, WORKER_STAGE, LedgerRow, Sample
from pipelines.regate import Plan, Survey
from pipelines.shards import Done
from pipelines.store import Store
from pipelines.taken import Takedowns
from pipelines.work import ShardContext, ShardResult

if TYPE_CHECKING:
    from pipelines.job import Job, JobReport, Runtime

JUDGED: Final = (*GATES, DUPLICATE.stage, NO_IMAGE.stage)
"""Ledger stages of candidates that other gates may judge otherwise."""


@dataclass(frozen=True, slots=True)
class Still:
    """What of the source's measurements holds. people: who was found; usable: who of them is large and whole enough."""

    people: bool
    usable: bool

    def judge(self, row: LedgerRow, gates: LaionGates) -> LedgerRow:
        """The ledger row, under other gates, of a candidate whose image was not kept. It is not accepted."""
        if row.stage not in JUDGED:
            return row
        gone = OF_PEOPLE if not self.people else () if self.usable else ("usable_people",)
        measured = {name: None if name in gone else value for name, value in row.measured.items()}
        why = judge(measured, row.caption or "", gates) or NO_IMAGE
        found = row.found_people if self.people else None
        return replace(row, stage=why.stage, reason=why.reason, measured=measured, found_people=found)


def plan(
    source: Store,
    manifest: Manifest,
    to: str,
    overrides: Sequence[str],
    shards_: range | None = None,
    address: str | None = None,
) -> Plan:
    """Check a regate of `source` into `to`, and count what it will look at. Raises UserError where it cannot be."""
    where = source.path(dataset.DATASET)
    before, config = (restore(LaionConfig, manifest.config, where, given) for given in ((), overrides))
    for line in difference(_of_images(before), _of_images(config)):
        raise UserError(f"{line}: regate changes detector and gates only; for other images run humansd laion")
    named = _identity(manifest, config)
    changes = difference(manifest.identity, named)
    if not changes:
        raise UserError(f"{source.root} was made with this detector and these gates: there is nothing to judge anew")
    made = len(shards.done_indices(source, manifest.shards))
    if made < len(manifest.shards):
        raise UserError(
            f"{source.root}: {made} of {len(manifest.shards)} shards are there, and near-duplicates are judged over"
            f" all: finish it first with humansd laion --out {source.root}"
        )
    stages = Stages(config, to, named, manifest.n, {}, shards_)
    settle = replace(stages.settle(), standing=SettleStanding(to, source.url))
    still = _still(manifest.identity, named)
    survey = _survey(source, manifest, config.gates, still, changes)
    make = MakeRegateWork(source.url, config, named, still)
    return Plan(survey, settle, partial(_run, source, stages, settle, make, runtimes(config, address)[1]))


def _of_images(config: LaionConfig) -> dict[str, Any]:
    """The keys that decide which images there are, and what is measured on them beside people."""
    named = of_kind(config, "identity") | of_kind(config, "extendable")
    return {name: value for name, value in named.items() if not name.startswith(("detector.", "gates."))}


def _identity(manifest: Manifest, config: LaionConfig) -> dict[str, Any]:
    """The dataset's identity with another detector and other gates; what else it was pinned to stays."""
    check_detector(config.detector)
    own = of_kind(config, "identity")
    pinned = {name: value for name, value in manifest.identity.items() if not name.startswith("detector.")}
    extra = {name: value for name, value in pinned.items() if name not in own}
    return identity(config, extra | detector_digests(config.detector))[0]


def _still(old: Mapping[str, Any], new: Mapping[str, Any]) -> Still:
    changed = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    people = not any(name.startswith("detector.") for name in changed)
    return Still(people, people and changed.isdisjoint(f"gates.{name}" for name in OF_USABLE))


def _survey(source: Store, manifest: Manifest, gates: LaionGates, still: Still, changes: Sequence[str]) -> Survey:
    def count(done: Done) -> Counter[str]:
        kept = set(shards.read_table(source, "rejected", done.shard, ["key"])["key"].to_pylist())
        found = Counter(images=done.accepted + len(kept))
        raw = _raw_keys(source, done.shard)
        for row in record.table_to_ledger(shards.read_table(source, "ledger", done.shard)):
            if row.key in raw and row.stage in JUDGED and row.key not in kept:
                found["images"] += 1
            elif row.key not in kept:
                judged = still.judge(row, gates)
                found["unsafe" if (judged.stage, judged.reason) == NO_IMAGE else "stand"] += 1
        return found

    with ThreadPoolExecutor(8) as pool:
        total = sum(pool.map(count, shards.read_markers(source, manifest.shards)), Counter[str]())
    size = len(manifest.shards)
    return Survey(size, size, total["images"], total["stand"], total["unsafe"], 0, tuple(changes))


def _raw_keys(source: Store, index: int) -> set[str]:
    """Keys of the downloaded images of a shard that are still there."""
    found: set[str] = set()
    generation = 0
    while shards.done_indices(raw := source.below(raw_folder(generation)), range(index, index + 1)):
        found.update(shards.read_table(raw, "shards", index, ["key"])["key"].to_pylist())
        generation += 1
    return found


def _run(source: Store, stages: Stages, settle: Job, make_work: MakeRegateWork, runtime: Runtime) -> JobReport:
    """Look at the images of all shards again, settle them over everything, and write the shards."""
    from pipelines.cluster import session
    from pipelines.engine import run_job

    to, run = Store(stages.out), lease.new_run()
    manifest = stages.manifest(settle)
    if dataset.check_manifest(to, manifest):
        dataset.write_manifest(to, manifest, settle.files, run)
    taken = Takedowns.read(to).add(Takedowns.read(source).entries)
    for part in (to, to.below(ANNOTATED)) if taken.entries else ():
        taken.write(part, run)
    _copy_plan(source, to, run)
    look = replace(stages.annotate(), standing=partial(_to_look_at, source))
    with session.ray_session(runtime):
        report = run_job(look, make_work, runtime)
        made = shards.done_indices(to.below(ANNOTATED), manifest.shards)
        if report.exit_code or len(made) < len(manifest.shards):
            return replace(report, stopped=report.stopped or "near-duplicates are judged when all shards are detected")
        decide(to, stages.config.gates, made, run)
        work = MakeSettleWork(to.url, stages.config.keep_rejected, source.url)
        settled = run_job(settle, work, replace(runtime, workers=1, num_gpus=0.0, num_cpus=1.0))
    return replace(settled, counts={**report.counts, **settled.counts}, gpu_seconds=report.gpu_seconds)


def _copy_plan(source: Store, to: Store, run: str) -> None:
    """Give the new dataset the same candidates; `plan.json` is written last."""
    names = [name for name in source.names_below("plan") if name != PLAN]
    for name, data in source.read_many([*names, PLAN]):
        if not to.exists(PLAN):
            to.write(name, data, run)


def _to_look_at(source: Store, manifest: Manifest, wanted: range, markers: Iterable[Done]) -> Standing:
    """Which of the source's shards were not looked at yet, or have changed since."""
    there = {done.shard: done for done in markers}
    found = Standing([])
    for known in shards.read_markers(source, wanted):
        done = there.get(known.shard)
        if done is None or done.follows != follow.fingerprint(known):
            found.tasks.append(manifest.task(known.shard))
        else:
            found.complete += 1
            found.accepted += done.accepted
            found.rejected += done.rejected
    return found


@dataclass(frozen=True)
class MakeRegateWork:
    """Builds the work on a worker: the detector is loaded there, where its people are not those of the source."""

    source: str
    config: LaionConfig
    named: Mapping[str, Any]
    still: Still

    def __call__(self) -> RegateWork:
        """Load the detector. Raises UserError where it cannot be had on this machine."""
        import torch

        torch.set_num_threads(self.config.score.threads)
        if self.still.people:
            return RegateWork(self, None)
        device = "cuda" if self.config.gpus_per_worker > 0 else "cpu"
        if device == "cuda":
            preflight.require_gpu()
        return RegateWork(self, load_pinned(self.config.detector, device, self.named))


class RegateWork:
    """Makes annotated shards from a finished dataset (`pipelines.work.Work`). detector: None keeps who was found."""

    def __init__(self, make: MakeRegateWork, detector: Detector | None) -> None:
        self._source = Store(make.source)
        self._config = make.config
        self._still = make.still
        self._detector = detector

    def __call__(self, context: ShardContext) -> ShardResult:
        task, config = context.task, self._config
        done, images, lost = read_kept(self._source, task.index)
        notes: dict[str, Sample] = {}
        failed: dict[str, LedgerRow] = {}
        steps = Steps(harmless_row)
        for batch in batches(list(images), config.score.clip_batch_size):
            for live in context.rounds(batch):
                rows = [_row(images[key]) for key in live]
                self._look(rows, steps)
                for row in rows:
                    if row.failure is None:
                        notes[row.sample.key] = annotated(row)
                    else:
                        failed[row.sample.key] = ledger_row(row.sample, task, row.failure)
        for key in task.quarantined & images.keys():
            failed[key] = ledger_row(images[key], task, Rejection(WORKER_STAGE, KILLED_WORKER))
        return ShardResult(
            accepted=[notes[key] for key in images if key in notes],
            ledger=[*failed.values(), *(self._still.judge(row, config.gates) for row in lost)],
            seconds=steps.seconds,
            counts={"detected" if self._detector else "judged": len(images)},
            follows=follow.fingerprint(done),
        )

    def try_one_batch(self) -> None:
        """Look at one whole batch of grey pictures; raises what only this machine is to blame for."""
        self._look([harmless_row() for _ in range(self._config.score.clip_batch_size)], Steps(harmless_row))

    def _look(self, rows: Sequence[Row], steps: Steps[Row]) -> None:
        steps.run("decode", decode, rows)
        if (detector := self._detector) is not None:
            look = partial(find_people, detector=detector, min_score=self._config.detector.min_score)
            steps.run("detect", look, rows)


def _row(sample: Sample) -> Row:
    """An image with what was measured on it, to be looked at again."""
    row = Row(sample, clip=sample.clip_score, nsfw=sample.nsfw)
    row.people = sample.people
    return row
