"""The job that draws each reference sample once from a model: shards of the engine, like any dataset.

A row's `people` are the poses that conditioned it, in pixels of its image; what a detector finds comes later, as added
columns (`pipelines.evaluate.judge`), so that another detector needs no new image.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from pipelines import record, shards
from pipelines.config import identity_of_values, of_kind, plain
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.generators import Generator, Model, People
from pipelines.evaluate.poses import drawn, scaled
from pipelines.gates import Rejection
from pipelines.images import Pixels, encode_image, perceptual_hash
from pipelines.job import Job, Runtime
from pipelines.judging import Steps
from pipelines.record import Generation, LedgerRow, Sample
from pipelines.sampling import noise_seed
from pipelines.store import Store
from pipelines.work import ShardContext, ShardResult

if TYPE_CHECKING:
    from pipelines.dataset import Manifest

SOURCE: Final = "evaluation"
COLUMNS: Final = [field.name for field in record.SCHEMA if field.name != "image"]
IMAGE: Final = record.SCHEMA.field("image").type
QUARANTINED: Final = Rejection(record.WORKER_STAGE, record.KILLED_WORKER)


def job_of(config: EvaluateConfig, model: Model, reference: Store, manifest: Manifest, out: str) -> Job:
    """Return the job that draws the samples of `reference` from a model."""
    named = _identity(config, model, manifest)
    return Job(
        out=out,
        source=SOURCE,
        identity=named,
        identity_hash=identity_of_values(named),
        config={**plain(config), "model": model.given},
        n=manifest.n,
        shard_size=manifest.shard_size,
        max_attempts=1,
        label=model.name,
    )


def runtime_of(config: EvaluateConfig, address: str | None = None) -> Runtime:
    """Return where and how fast a config wants to run."""
    return Runtime(
        workers=config.workers,
        num_cpus=config.cpus_per_worker,
        num_gpus=config.gpus_per_worker,
        threads=config.sampler.threads,
        address=address,
        hang_seconds=60 * config.hang_minutes,
    )


def _identity(config: EvaluateConfig, model: Model, manifest: Manifest) -> dict[str, Any]:
    judged = ("detector.",)  # decides what is found, not what is drawn
    own = {name: value for name, value in of_kind(config, "identity").items() if not name.startswith(judged)}
    return {**own, **model.identity, "reference": manifest.identity_hash}


@dataclass(frozen=True)
class MakeGenerateWork:
    """Builds the work on a worker; the model is loaded there and has drawn once before it is timed."""

    config: EvaluateConfig
    model: Model
    reference: str
    identity_hash: str

    def __call__(self) -> GenerateWork:
        """Load the model. Raises UserError where it cannot be had on this machine."""
        import torch

        from pipelines import preflight

        torch.set_num_threads(self.config.sampler.threads)
        device = "cpu"
        if self.config.gpus_per_worker > 0:
            preflight.require_gpu()
            device = "cuda"
        generator = Generator(self.model, self.config.sampler, device)
        generator.generate([""], [""], [()], [0], steps=2)
        return GenerateWork(self.config, generator, Store(self.reference), self.identity_hash)


@dataclass(slots=True)
class Row:
    """A sample on its way. index: its place in the reference; fields without default are set step by step."""

    index: int
    asked: Sample
    people: People
    pixels: Pixels = field(init=False)
    failure: Rejection | None = None

    @property
    def label(self) -> str:
        """For logs."""
        return self.asked.key


class GenerateWork:
    """Makes the shards of one worker (`pipelines.work.Work`)."""

    def __init__(self, config: EvaluateConfig, generator: Generator, reference: Store, identity_hash: str) -> None:
        self.config = config
        self.generator = generator
        self.reference = reference
        self.identity_hash = identity_hash
        self.steps: Steps[Row] = Steps(self._harmless_row)

    def __call__(self, context: ShardContext) -> ShardResult:
        task, size = context.task, self.config.sampler.batch_size
        self.steps.seconds = {}
        rows = self._rows(task.index, task.start)
        sampled = 0
        for start in range(0, len(rows), size):
            batch = {self.key(row): row for row in rows[start : start + size]}
            for key in batch.keys() & task.quarantined:
                batch[key].failure = QUARANTINED
            for live in context.rounds(list(batch)):
                self.steps.run("sample", self._sample, [batch[key] for key in live])
                sampled += size
        result = ShardResult(
            accepted=[self._to_sample(row) for row in rows if row.failure is None],
            ledger=[self._ledger_row(row, task.index) for row in rows if row.failure is not None],
            seconds=dict(self.steps.seconds),
            counts={"sampled": sampled, "peak_bytes": peak_memory()},
        )
        result.short = [row.key for row in result.ledger]
        return result

    def key(self, row: Row) -> str:
        """Return the key of a row's sample."""
        return f"eval-{self.identity_hash[:8]}-{row.index}"

    def _rows(self, shard: int, start: int) -> list[Row]:
        table = shards.read_table(self.reference, "shards", shard, COLUMNS)
        table = table.append_column(record.SCHEMA.field("image"), pa.nulls(table.num_rows, IMAGE))
        return [
            Row(start + place, sample, fit(sample, self.generator.width, self.generator.height))
            for place, sample in enumerate(record.table_to_samples(table))
        ]

    def _harmless_row(self) -> Row:
        return Row(0, Sample("", SOURCE, None, "", 64, 64, "a person", ()), ())

    def _sample(self, rows: Sequence[Row]) -> None:
        images = self.generator.generate(
            [row.asked.caption for row in rows],
            [self._negative(row.asked) for row in rows],
            [row.people for row in rows],
            [noise_seed(self.config.seed, row.index, 1) for row in rows],
        )
        for row, image in zip(rows, images, strict=True):
            row.pixels = image

    def _negative(self, asked: Sample) -> str:
        if self.config.negative is not None:
            return self.config.negative
        return str((asked.prompt or {}).get("negative") or "")

    def _to_sample(self, row: Row) -> Sample:
        generator, key = self.generator, self.key(row)
        return Sample(
            key=key,
            source=SOURCE,
            image=encode_image(row.pixels, "png", 0),
            image_path=f"{key}.png",
            width=generator.width,
            height=generator.height,
            caption=row.asked.caption,
            people=row.people,
            scene=row.asked.scene,
            action=row.asked.action,
            prompt=row.asked.prompt,
            generation=Generation(
                model=generator.model.name,
                revision=generator.model.revision,
                scheduler=generator.scheduler,
                steps=generator.config.steps,
                guidance=generator.config.guidance,
                seed=self.config.seed,
                attempt=1,
            ),
            phash=perceptual_hash(row.pixels),
        )

    def _ledger_row(self, row: Row, shard: int) -> LedgerRow:
        why = row.failure or QUARANTINED
        return LedgerRow(
            key=self.key(row),
            shard=shard,
            attempt=1,
            stage=why.stage,
            reason=why.reason,
            measured={},
            asked_people=len(row.people),
            caption=row.asked.caption,
            scene=row.asked.scene,
            action=row.asked.action,
            seed=self.config.seed,
        )


def fit(sample: Sample, width: int, height: int) -> People:
    """Return a sample's people as large as they can be in an image of width x height px, in its middle.

    Keypoints that are too unsure to be asked for have confidence 0: no model draws them.
    """
    scale = min(width / sample.width, height / sample.height)
    dx, dy = (width - sample.width * scale) / 2, (height - sample.height * scale) / 2
    return tuple(scaled(drawn(person), scale, dx, dy) for person in sample.people)


def peak_memory() -> int:
    """Return the most bytes this process has had: of GPU memory where it uses one, else resident."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
