"""A small dataset on disk, of drawn pictures, for what only reads datasets: made without models and without Ray."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from pipelines import dataset, lease, shards
from pipelines.annotate import Annotation, compose
from pipelines.config import identity, plain
from pipelines.ghi.config import GhiConfig
from pipelines.images import encode_image
from pipelines.mini.render import draw
from pipelines.mini.world import world_from_prompt
from pipelines.record import Generation, LedgerRow, Rejected, Sample
from pipelines.store import Store
from pipelines.work import ShardContext, ShardResult
from prompts.grammar import Grammar, load_grammar
from prompts.sampling import prompt_at

SHARD = 4
WORKER_SECONDS = 2.0


@cache
def grammar() -> Grammar:
    """Return the bundled grammar."""
    return load_grammar()


def write_dataset(out: Path | str, count: int, n: int | None = None) -> list[str]:
    """Write `count` shards of 4 accepted and 2 rejected samples of a dataset of n (default all); return the keys.

    The last slot of shard 1 is short.
    """
    config = GhiConfig(n=n or count * SHARD, shard_size=SHARD, max_attempts=3)
    named, digest = identity(config, {"grammar": grammar().digest})
    store = Store(str(out))
    manifest = dataset.Manifest("ghi", digest, named, config.n, SHARD, 3, plain(config))
    dataset.write_manifest(store, manifest, {}, lease.new_run())
    keys = []
    for index in range(count):
        task = manifest.task(index)
        result = ShardResult(seconds={"sample": 1.5, "total": WORKER_SECONDS}, counts={"sampled": 6})
        for slot in range(task.start, task.stop):
            result.accepted.append(sample(digest, slot, 1))
        for slot in (task.start, task.start + 1):
            turned_down = sample(digest, slot, 2)
            result.rejected.append(Rejected(turned_down, "people_count", "too_few", 2))
            result.ledger.append(ledger_row(turned_down, index))
        if index == 1:
            lost = result.accepted.pop()
            result.short.append(lost.key)
            result.ledger.append(ledger_row(lost, index))
        keys += [one.key for one in result.accepted]
        shards.commit(store, task, result, digest, "20250101T000000-00000000")
    return keys


def add_columns(out: Path | str, annotation: Annotation) -> None:
    """Annotate a dataset, or what is missing or stale of it, in this process."""
    job, make_work = compose(str(out), annotation)
    store = Store(job.out)
    manifest = dataset.manifest_of(job)
    dataset.write_manifest(store, manifest, {}, lease.new_run())
    assert job.standing is not None
    work = make_work()
    for task in job.standing(manifest, manifest.shards, shards.read_markers(store)).tasks:
        shards.commit(store, task, work(ShardContext(task)), job.identity_hash, lease.new_run())


def sample(digest: str, slot: int, attempt: int) -> Sample:
    """Draw one sample whose caption is the grammar's and whose picture shows somebody."""
    prompt = prompt_at(grammar(), 0, slot, attempt)
    drawing = draw(world_from_prompt(prompt, {}), np.random.default_rng((slot, attempt)), 64)
    key = f"ghi-{digest[:8]}-{slot}"
    return Sample(
        key=key,
        source="ghi",
        image=encode_image(drawing.image, "png", 0),
        image_path=f"{key}.png",
        width=64,
        height=64,
        caption=prompt.text,
        people=drawing.people,
        scene=prompt.scene,
        action=prompt.action,
        prompt={**prompt.parts, "num_people": prompt.num_people, "negative": prompt.negative},
        generation=Generation("mini", "sha256:0", "DPMSolverMultistepScheduler", 20, 5.0, 0, attempt),
    )


def ledger_row(sample: Sample, shard: int) -> LedgerRow:
    """Return the ledger row of a sample that has too few people."""
    assert sample.generation is not None
    assert sample.prompt is not None
    return LedgerRow(
        key=sample.key,
        shard=shard,
        attempt=sample.generation.attempt,
        stage="people_count",
        reason="too_few",
        measured={"people": 0.0},
        asked_people=int(sample.prompt["num_people"] or 0),
        found_people=0,
        caption=sample.caption,
        scene=sample.scene,
        action=sample.action,
        seed=0,
    )
