"""`humansd train cache`: what the frozen parts of a model make of each sample, computed once and stored beside it.

Latents of picture and skeleton and the text states go into added columns of the dataset (`pipelines.columns`), as
float16: made on the engine, resumable, told from those of rows that have changed, and gone with rows that are taken
down. They hold the pictures as `PoseShards` gives them without augmentation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.annotate import Annotation, run_annotate
from pipelines.checkpoint import Checkpoint, ModelConfig, resolve
from pipelines.job import JobReport, Runtime
from pipelines.record import Sample
from pipelines.train.augment import NONE
from pipelines.train.data import RowError, make_sample
from pipelines.train.listing import LATENTS as PREFIX
from pipelines.train.listing import parse_weight
from pipelines.train.rows import LATENTS, stored_row

BATCH: int = 8
"""Rows that go through the models together."""


def columns_name(base: Checkpoint, size: int, max_people: int = 10) -> str:
    """What the columns are called that hold a model's latents: for `PoseShards(cached=…)`.

    It follows from the model's weights, the size of the pictures and how many people are drawn in them.
    """
    told = f"{base.revision} {size} {max_people}"
    return PREFIX + hashlib.sha256(told.encode()).hexdigest()[:12]


def cache_latents(
    data: Sequence[str], model: ModelConfig, size: int, max_people: int, runtime: Runtime
) -> dict[str, JobReport]:
    """Make the columns of each dataset, or what is missing of them; how each ended, by its OUT.

    data: `OUT` or `OUT@weight`, whose weight means nothing here. Raises UserError where one is no dataset, or the model
    cannot be had.
    """
    base = resolve(model)
    values = {"model": base.source, "revision": model.revision, "variant": model.variant}
    arguments: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    arguments |= {"size": size, "max_people": max_people}
    name = columns_name(base, size, max_people)
    annotation = Annotation("pipelines.train.cache:Latents", name, arguments, BATCH, runtime.threads)
    return {out: run_annotate(out, annotation, runtime) for out in (parse_weight(one)[0] for one in data)}


class Latents:
    """The function that `humansd annotate` would run: float16 arrays of samples as bytes, and their shapes.

    A sample whose picture cannot be read has null in their place.
    """

    def __init__(
        self,
        model: str = "mini",
        revision: str | None = None,
        variant: str | None = None,
        size: int = 512,
        max_people: int = 10,
    ) -> None:
        from pipelines.train.model import load_parts

        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._parts = load_parts(resolve(ModelConfig(model, revision, variant)).folder(), extra=False)
        self._parts.vae.to(self._device)
        self._parts.text_encoder.to(self._device)
        self._make = partial(make_sample, augment=NONE, size=size, max_people=max_people, rng=np.random.default_rng(0))

    @classmethod
    def pinned(
        cls, model: str = "mini", revision: str | None = None, variant: str | None = None, **_: Any
    ) -> dict[str, str]:
        """The checksum, or commit, of the model."""
        return {"model": resolve(ModelConfig(model, revision, variant)).revision}

    def __call__(self, rows: list[Sample]) -> pa.Table:
        """Encode some samples."""
        found: list[Mapping[str, Any] | None] = []
        for row in rows:
            try:
                found.append(self._make(stored_row(row)))
            except RowError:
                found.append(None)
        good = [sample for sample in found if sample is not None]
        arrays = iter(self._encode(good) if good else ())
        values = [None if sample is None else next(arrays) for sample in found]
        columns: dict[str, pa.Array] = {}
        for name in LATENTS:
            own = [None if value is None else value[name] for value in values]
            columns[name] = pa.array([None if array is None else array.tobytes() for array in own], pa.binary())
            shapes = [None if array is None else list(array.shape) for array in own]
            columns[f"{name}_shape"] = pa.array(shapes, pa.list_(pa.int32()))
        return pa.table(columns)

    def _encode(self, samples: list[Mapping[str, Any]]) -> list[dict[str, np.ndarray[Any, np.dtype[np.float16]]]]:
        images, skeletons = (torch.stack([s[name] for s in samples]).to(self._device) for name in ("image", "skeleton"))
        both = self._parts.encode_images(torch.cat([images, skeletons])).half().cpu().numpy()
        text = self._parts.encode_text([sample["caption"] for sample in samples]).half().cpu().numpy()
        parts = both[: len(samples)], both[len(samples) :], text
        return [dict(zip(LATENTS, arrays, strict=True)) for arrays in zip(*parts, strict=True)]
