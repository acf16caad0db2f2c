"""`humansd regate`: a dataset under another detector or other gates, made from the images that are there.

What is common to all sources is here; how rows become a shard again is the source's own (`pipelines.ghi.regate`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from pipelines.config import UserError, difference

if TYPE_CHECKING:
    from pipelines.gates import Rejection
    from pipelines.job import Job, JobReport, Runtime
    from pipelines.record import LedgerRow
    from pipelines.store import Store
    from pipelines.work import Work

SHOWN: Final = 8


class MakeRegate(Protocol):
    """What a source gives: the work that makes shards anew, and what it says of candidates without image."""

    def __call__(self) -> Work: ...

    def judge_without_image(self, row: LedgerRow) -> Rejection | None: ...


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is to look at again, counted before anything runs.

    shards: committed in the source, of `shards_of`. images: kept, to be detected and judged again. stand: candidates
    without image that stay rejected whatever a detector says. unsafe: candidates without image that the safety gate
    dropped and the new gates might not: they stay rejected. unknown: candidates without image that cannot be judged:
    their slots stay short from there on.
    changes: identity keys that differ, as `difference` tells them.
    """

    shards: int
    shards_of: int
    images: int
    stand: int
    unsafe: int
    unknown: int
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A regate that can run: what it will find, the job that writes the new dataset, and all there is to do for it."""

    survey: Survey
    job: Job
    run: Callable[[], JobReport]


def plan_regate(
    out: str,
    to: str,
    detector: str | None = None,
    overrides: Sequence[str] = (),
    shards: range | None = None,
    address: str | None = None,
) -> Plan:
    """Check a regate of the dataset `out` into `to` against what is there, and count what it will look at.

    Raises UserError where the user must act first.
    """
    from pipelines import dataset, follow
    from pipelines.ghi import regate as ghi
    from pipelines.store import Store

    source = Store(out)
    manifest = dataset.read_manifest(source)
    follow.check_version(source, manifest)
    if Store(to).path("") == source.path(""):
        raise UserError(f"--out {to} is the dataset itself: regate leaves it as it is and makes another one")
    given = [*([f"detector.name={detector}"] if detector else []), *overrides]
    if manifest.source == "laion-human":
        from pipelines.laion import regate as laion

        return laion.plan(source, manifest, to, given, shards, address)
    if manifest.source != "ghi":
        raise UserError(f"{out}: regate knows ghi and laion-human; {manifest.source} has annotated poses and no gates")
    job, make_work, runtime = ghi.compose(source, manifest, to, given, shards, address)
    changes = difference(manifest.identity, job.identity)
    if not changes:
        raise UserError(f"{out} was made with this detector and these gates: there is nothing to judge anew")
    wanted = manifest.shards if shards is None else shards
    survey = _survey(source, make_work, wanted, len(manifest.shards), changes)
    return Plan(survey, job, partial(_run_ghi, source, job, make_work, runtime))


def run_regate(plan: Plan) -> JobReport:
    """Make what a plan says, or what is still missing of it."""
    from pipelines.card import renew_card

    report = plan.run()
    renew_card(plan.job.out, report)
    return report


def _run_ghi(source: Store, job: Job, make_work: MakeRegate, runtime: Runtime) -> JobReport:
    from pipelines import dataset, lease
    from pipelines.engine import run_job
    from pipelines.ghi.outcomes import candidate_of, key_of
    from pipelines.store import Store
    from pipelines.taken import Takedowns

    to = Store(job.out)
    dataset.check_manifest(to, dataset.manifest_of(job))
    entries = Takedowns.read(source).entries
    if entries:  # what was taken down stays so under its new key
        renamed = [
            replace(entry, value=key_of(job.identity_hash, candidate_of(entry.value, 1).slot))
            for entry in entries
            if entry.kind == "key" and entry.value.rpartition("-")[2].isdecimal()
        ]
        others = [entry for entry in entries if entry.kind != "key"]
        Takedowns.read(to).add([*renamed, *others]).write(to, lease.new_run())
    return run_job(job, make_work, runtime)


def as_text(survey: Survey) -> str:
    """Return a survey as lines for people; what cannot be judged anew is said plainly."""
    lines = [f"regate: {survey.images:,} images in {survey.shards:,} of {survey.shards_of:,} shards"]
    lines += [f"  {line}" for line in survey.changes[:SHOWN]]
    if len(survey.changes) > SHOWN:
        lines.append(f"  and {len(survey.changes) - SHOWN} more")
    if survey.shards < survey.shards_of:
        lines.append("shards that are not made yet are left out; the same command takes them later")
    if survey.stand:
        lines.append(f"{survey.stand:,} rejected candidates have no image and stay rejected whatever it shows")
    if survey.unsafe:
        lines.append(
            f"{survey.unsafe:,} candidates cannot be judged anew, because no bytes of them were kept (of unsafe ones "
            "they never are): they stay rejected (regate: no_image)"
        )
    if survey.unknown:
        lines.append(
            f"{survey.unknown:,} rejected candidates cannot be judged anew, because their images were not kept "
            "(keep_rejected = false): their slots are short from there on until `humansd ghi` samples them again"
        )
    return "\n".join(lines)


def _survey(source: Store, make_work: MakeRegate, wanted: range, of: int, changes: Sequence[str]) -> Survey:
    from pipelines import shards

    markers = list(shards.read_markers(source, wanted))
    images = sum(done.accepted + done.files["rejected"].rows for done in markers)
    lossy = [done.shard for done in markers if done.rejected > done.files["rejected"].rows]

    def count(index: int) -> Counter[str]:
        return Counter(_fates(source, index, make_work))

    with ThreadPoolExecutor(8) as pool:
        fates = sum(pool.map(count, lossy), Counter[str]())
    return Survey(len(markers), of, images, fates["stand"], fates["unsafe"], fates["unknown"], tuple(changes))


def _fates(source: Store, index: int, make_work: MakeRegate) -> Iterator[str]:
    """What becomes of each candidate of a shard that has no image: `stand`, `unsafe` or `unknown`."""
    from pipelines import record, shards
    from pipelines.judging import NO_IMAGE
    from pipelines.taken import STAGE

    kept = shards.read_table(source, "rejected", index, ["key", "attempt"])
    kept_names = set(zip(kept["key"].to_pylist(), kept["attempt"].to_pylist(), strict=True))
    for row in record.table_to_ledger(shards.read_table(source, "ledger", index)):
        if (row.key, row.attempt) not in kept_names and row.stage != STAGE:
            why = make_work.judge_without_image(row)
            yield "unknown" if why is None else "unsafe" if why == NO_IMAGE else "stand"
