"""Generated images again, from a recipe: exactly the accepted attempts, in full batches, without any detector.

Other attempts stood beside them the first time. On a CPU that changes no bit (`pipelines.sampling`), so on the same
kind of machine the images come out byte for byte; on a GPU pixels may be rounded otherwise, and an image counts as
`perceptual` where its bytes are not `equal`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.checkpoint import HUB_ID, MINI, Checkpoint, resolve
from pipelines.config import UserError
from pipelines.gates import Rejection
from pipelines.ghi.config import GhiConfig
from pipelines.ghi.job import device_of
from pipelines.ghi.outcomes import key_of
from pipelines.images import encode_image
from pipelines.judging import Steps
from pipelines.recipe import Recipe, RecipeRow, settle
from pipelines.record import KILLED_WORKER
from pipelines.sampling import Sampler, noise_seed
from pipelines.work import ShardContext, ShardResult


@dataclass(slots=True)
class Again:
    """A row on its way: text and seed of its noise, then what the steps fill in."""

    label: str
    text: str
    negative: str
    noise: int
    latents: torch.Tensor = field(init=False)
    drawn: NDArray[np.uint8] = field(init=False)
    image: bytes = field(init=False)
    failure: Rejection | None = None


@dataclass(frozen=True)
class MakeRebuildWork:
    """Builds the work on a worker: the sampler is loaded there, and nothing else."""

    recipe: Recipe
    config: GhiConfig
    checkpoint: Checkpoint

    def __call__(self) -> RebuildWork:
        """Load the sampler. Raises UserError where it cannot be had on this machine."""
        torch.set_num_threads(self.config.sampler.threads)
        sampler = Sampler(self.checkpoint, self.config.sampler, device_of(self.config))
        return RebuildWork(self.recipe, self.config, sampler)


class RebuildWork:
    """Makes the shards of a recipe (`pipelines.work.Work`)."""

    def __init__(self, recipe: Recipe, config: GhiConfig, sampler: Sampler) -> None:
        self._recipe = recipe
        self._config = config
        self._sampler = sampler
        self._steps = Steps(self._harmless_row)

    def __call__(self, context: ShardContext) -> ShardResult:
        task = context.task
        self._steps.seconds = {}
        rows = self._recipe.read(task.index)
        slots = {key_of(self._recipe.identity_hash, slot): slot for slot in range(task.start, task.stop)}
        todo = [self._again(row, slots) for row in rows]
        found: dict[str, bytes | str] = {row.label: KILLED_WORKER for row in todo}
        size = self._sampler.batch_size
        for first in range(0, len(todo), size):
            batch = {row.label: row for row in todo[first : first + size]}
            for live in context.rounds(list(batch)):
                found |= self._make([batch[key] for key in live])
        result = settle(task, rows, found)
        there = {sample.key for sample in result.accepted} | set(self._recipe.taken)
        result.short = [key for key in slots if key not in there]
        result.seconds = dict(self._steps.seconds)
        return result

    def _again(self, row: RecipeRow, slots: Mapping[str, int]) -> Again:
        sample = row.sample
        if sample.generation is None or sample.prompt is None or sample.key not in slots:
            raise ValueError(f"{self._recipe.url}: {sample.key} is of another shard, or not generated")
        made = sample.generation
        noise = noise_seed(made.seed, slots[sample.key], made.attempt)
        return Again(sample.key, sample.caption, str(sample.prompt["negative"]), noise)

    def _make(self, rows: Sequence[Again]) -> dict[str, bytes | str]:
        self._steps.run("sample", self._sample, rows)
        self._steps.run("decode", self._decode, rows)
        self._steps.run("encode", self._encode, rows)
        return {row.label: row.failure.reason if row.failure else row.image for row in rows}

    def _sample(self, rows: Sequence[Again]) -> None:
        texts, negatives = [row.text for row in rows], [row.negative for row in rows]
        for row, latents in zip(
            rows, self._sampler.denoise(texts, negatives, [row.noise for row in rows]), strict=True
        ):
            row.latents = latents

    def _decode(self, rows: Sequence[Again]) -> None:
        decoded = self._sampler.decode(torch.stack([row.latents for row in rows]))
        for row, pixels in zip(rows, decoded.pixels, strict=True):
            row.drawn = pixels

    def _encode(self, rows: Sequence[Again]) -> None:
        for row in rows:
            row.image = encode_image(row.drawn, self._config.output.format, self._config.output.quality)

    def _harmless_row(self) -> Again:
        row = Again("", "", "", 0)
        row.latents = self._sampler.empty_latents()
        row.drawn = np.full((self._sampler.height, self._sampler.width, 3), 127, np.uint8)
        return row


def prepare(recipe: Recipe, overrides: Sequence[str]) -> MakeRebuildWork:
    """Find the recipe's checkpoint. Raises UserError where it is not here, or another one is."""
    name, revision = recipe.identity["model.name"], recipe.identity["model.revision"]
    own_folder = name != MINI and not HUB_ID.fullmatch(name)
    if own_folder and not any(one.startswith("model.id=") for one in overrides):
        raise UserError(f"it was sampled from a folder called {name}: give yours with --set model.id=FOLDER")
    pinned = None if own_folder or name == MINI else revision
    config = recipe.config(GhiConfig, {"model.id": name, "model.revision": pinned}, overrides)
    checkpoint = resolve(config.model)
    if checkpoint.revision != revision:
        raise UserError(
            f"{config.model.id} is not the checkpoint that it was sampled from ({name}, {revision[:19]}): "
            "give that one with --set model.id=…"
        )
    return MakeRebuildWork(recipe, config, checkpoint)
