"""The GHI job: config → identity → engine. What a worker needs to build its work travels in `MakeGhiWork`.

Importing this loads neither torch nor Ray; running the job does.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.checkpoint import MINI, Checkpoint, resolve
from pipelines.clip import ClipCheckpoint, ClipScorer, resolve_clip
from pipelines.config import UserError, identity, plain
from pipelines.detector import check_detector, detector_digests, drawn_only, load_pinned
from pipelines.ghi.config import GhiConfig
from prompts.grammar import Grammar, copy_grammar, load_grammar

if TYPE_CHECKING:
    from pipelines.ghi.stage import GhiWork
    from pipelines.job import Job, JobReport, Runtime


@dataclass(frozen=True)
class MakeGhiWork:
    """Builds the work on a worker: everything here is small and travels; models are loaded there.

    grammar_files: a grammar folder of the user's own, which other nodes may not have; empty for the bundled one.
    """

    config: GhiConfig
    checkpoint: Checkpoint
    identity_hash: str
    grammar_digest: str
    detector_digests: Mapping[str, str]
    grammar_files: Mapping[str, bytes] = field(default_factory=dict)
    clip: ClipCheckpoint | None = None

    def __call__(self) -> GhiWork:
        """Load grammar, sampler and detector. Raises UserError where they cannot be had on this machine."""
        import torch

        from pipelines.ghi.candidates import CandidateMaker
        from pipelines.ghi.stage import GhiWork
        from pipelines.sampling import Sampler

        config = self.config
        device = device_of(config)
        torch.set_num_threads(config.sampler.threads)
        grammar = self._grammar()
        sampler = Sampler(self.checkpoint, config.sampler, device)
        detector = load_pinned(config.detector, device, self.detector_digests)
        clip = None if self.clip is None else ClipScorer(self.clip.folder(), device)
        maker = CandidateMaker(config, grammar, sampler, detector, self.identity_hash, clip)
        return GhiWork(maker, overlap=device == "cuda")

    def _grammar(self) -> Grammar:
        with tempfile.TemporaryDirectory() as folder:
            for name, data in self.grammar_files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            grammar = load_grammar(Path(folder) if self.grammar_files else None, self.config.grammar.scenes)
        if grammar.digest != self.grammar_digest:
            raise UserError("this worker's grammar is not the driver's: both must run the same version of humansd")
        return grammar


def device_of(config: GhiConfig) -> str:
    """Return the torch device of a worker. Raises UserError where there is none such."""
    from pipelines import preflight

    if config.gpus_per_worker <= 0:
        return "cpu"
    preflight.require_gpu()
    return "cuda"


def prepare(config: GhiConfig) -> MakeGhiWork:
    """Check a config against what is there (grammar, model, detector) and pin all of it by content.

    Raises UserError where something is not there or not right; no weights are downloaded.
    """
    check_detector(config.detector)
    try:
        grammar = load_grammar(config.grammar.dir, config.grammar.scenes)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    checkpoint = resolve(config.model)
    detector = detector_digests(config.detector)
    clip = None if config.score.clip_model is None else resolve_clip(config.score.clip_model)
    pinned = clip.pinned if clip else None
    return MakeGhiWork(
        config=config,
        checkpoint=checkpoint,
        identity_hash=identity_of(config, grammar.digest, checkpoint, detector, pinned)[1],
        grammar_digest=grammar.digest,
        detector_digests=detector,
        grammar_files={} if config.grammar.dir is None else read_grammar_files(config.grammar.dir),
        clip=clip,
    )


def identity_of(
    config: GhiConfig, grammar_digest: str, checkpoint: Checkpoint, detector: Mapping[str, str], clip: str | None
) -> tuple[dict[str, Any], str]:
    """Return what decides the bytes of a GHI dataset: identity keys, and everything they name pinned by content.

    detector: `detector_digests`. clip: `ClipCheckpoint.pinned`; None where no CLIP score is measured.
    """
    from pipelines.safety import classifier_version

    extra = {
        "grammar.digest": grammar_digest,
        "model.name": checkpoint.name,
        "model.revision": checkpoint.revision,
        **detector,
        "score.clip": clip,
        "gates.classifier": None if config.gates.max_nsfw is None else classifier_version(),
    }
    return identity(config, extra)


def read_grammar_files(directory: Path | None) -> dict[str, bytes]:
    """Return the files of a grammar (None = the bundled one) by their path inside its folder."""
    with tempfile.TemporaryDirectory() as folder:
        copy_grammar(directory, Path(folder))
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def compose(config: GhiConfig, out: str, shards: range | None = None) -> tuple[Job, MakeGhiWork]:
    """Return the job that a config describes, and what builds its work on a worker."""
    from pipelines.job import Job

    make_work = prepare(config)
    if config.model.id != MINI and (note := drawn_only(config.detector.name)):
        print(f"note: detector.name={note}", file=sys.stderr, flush=True)
    clip = make_work.clip.pinned if make_work.clip else None
    named, hashed = identity_of(
        config, make_work.grammar_digest, make_work.checkpoint, make_work.detector_digests, clip
    )
    files = {f"grammar/{name}": data for name, data in read_grammar_files(config.grammar.dir).items()}
    job = Job(
        out=out,
        source="ghi",
        identity=named,
        identity_hash=hashed,
        config=plain(config),
        n=config.n,
        shard_size=config.shard_size,
        max_attempts=config.max_attempts,
        shards=shards,
        files=files,
    )
    return job, make_work


def runtime_of(config: GhiConfig, address: str | None = None) -> Runtime:
    """Return where and how fast a config wants to run."""
    from pipelines.job import Runtime

    return Runtime(
        workers=config.workers,
        num_cpus=config.cpus_per_worker,
        num_gpus=config.gpus_per_worker,
        threads=config.sampler.threads,
        address=address,
        budget_gpu_hours=config.budget_gpu_hours,
        price_per_gpu_hour=config.price_per_gpu_hour,
        hang_seconds=60 * config.hang_minutes,
    )


def run_ghi(
    config: GhiConfig, out: str, shards: range | None = None, address: str | None = None, dry_run: bool = False
) -> JobReport:
    """Make a GHI dataset in `out`, or what is still missing of it.

    shards: only these; None = all. address: the Ray cluster to join. dry_run: print what would run and make nothing.
    Raises UserError where the user must act first.
    """
    if dry_run:
        from pipelines.ghi.dry_run import as_text
        from pipelines.job import JobReport

        print(as_text(plan_ghi(config, out, shards)))
        return JobReport()
    from pipelines.card import renew_card
    from pipelines.engine import run_job

    job, make_work = compose(config, out, shards)
    report = run_job(job, make_work, runtime_of(config, address))
    renew_card(out, report)
    return report


def plan_ghi(config: GhiConfig, out: str, shards: range | None = None) -> dict[str, Any]:
    """Return what `run_ghi` would do (`dry_run.describe`); raises UserError where it would."""
    from pipelines.dataset import manifest_of
    from pipelines.ghi.dry_run import describe

    job, make_work = compose(config, out, shards)
    manifest = manifest_of(job)
    wanted = manifest.shards if shards is None else range(shards.start, min(shards.stop, manifest.shards.stop))
    return describe(config, make_work.checkpoint, manifest, out, wanted)
