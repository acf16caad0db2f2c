"""The paper's table: what was measured of each model's images, over all of them and by scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from detectors.types import Person
from pipelines import columns, record, shards
from pipelines.evaluate.distances import frechet_distance, kernel_distance
from pipelines.evaluate.features import TITLES, FeatureName
from pipelines.evaluate.poses import score_poses
from pipelines.store import Store

ALL: Final = "all"
NONE: Final = "none"
WANTED: Final = ("key", "scene", "width", "height", "people")
REAL: Final = "real images"


@dataclass(frozen=True, slots=True)
class Measured:
    """One set of images as measured: a list or array a quantity, one entry an image, in order.

    asked: the people that conditioned each image; found: the people detected in it; sizes: (width, height) px.
    features (N, D) and clip_scores (N,) are None where they are not measured.
    """

    scenes: list[str]
    asked: list[tuple[Person, ...]]
    found: list[tuple[Person, ...]]
    sizes: list[tuple[int, int]]
    clip_scores: NDArray[np.float32] | None
    features: NDArray[np.float32] | None

    def of_scene(self, scene: str) -> Measured:
        """Return the images of a scene, or `all` of them."""
        places = [index for index, own in enumerate(self.scenes) if scene in (ALL, own)]
        return Measured(
            scenes=[self.scenes[i] for i in places],
            asked=[self.asked[i] for i in places],
            found=[self.found[i] for i in places],
            sizes=[self.sizes[i] for i in places],
            clip_scores=None if self.clip_scores is None else self.clip_scores[places],
            features=None if self.features is None else self.features[places],
        )


@dataclass(frozen=True, slots=True)
class Scores:
    """A line of the table. None: not measured, or not defined (too few images, nobody asked for).

    fid, kid: between real and generated features. ap, ap_medium, cap: 0-1. pce: people. clipsim: 100 x cosine.
    seconds: an image, at the batch size of the config; peak_bytes: of memory, the most of any worker.
    """

    model: str
    scene: str
    images: int
    fid: float | None
    kid: float | None
    ap: float | None
    ap_medium: float | None
    cap: float | None
    pce: float | None
    clipsim: float | None
    seconds: float | None = None
    peak_bytes: int | None = None


def read_measured(store: Store, name: str) -> Measured:
    """Read the images of a dataset as its columns `name` (of `pipelines.evaluate.judge`) measured them.

    An image that could not be measured, because it kills the process, is left out.
    """
    rows: list[dict[str, Any]] = []
    features: list[NDArray[np.float32]] = []
    for index in shards.done_indices(store):
        table = columns.read_shard(store, index, WANTED, [name])
        table = table.filter(pc.is_valid(table[f"{name}.people"]))
        if f"{name}.features" in table.column_names and table.num_rows:
            flat = table[f"{name}.features"].combine_chunks()
            features.append(np.asarray(flat.flatten(), np.float32).reshape(table.num_rows, -1))
            table = table.drop_columns([f"{name}.features"])
        rows += table.to_pylist()
    scores = [row.get(f"{name}.clip_score") for row in rows]
    return Measured(
        scenes=[row["scene"] or NONE for row in rows],
        asked=[tuple(map(record.row_to_person, row["people"])) for row in rows],
        found=[tuple(map(record.row_to_person, row[f"{name}.people"])) for row in rows],
        sizes=[(row["width"], row["height"]) for row in rows],
        clip_scores=None if None in scores else np.array(scores, np.float32),
        features=np.concatenate(features) if features else None,
    )


def score_model(model: str, real: Measured, made: Measured, cost: tuple[float | None, int | None]) -> list[Scores]:
    """Return a model's lines: all images, then each scene (where there are several). cost: seconds an image, bytes."""
    names = sorted(set(made.scenes))
    lines = [_score(model, ALL, real, made, cost)]
    if len(names) > 1:
        lines += [_score(model, name, real.of_scene(name), made.of_scene(name)) for name in names]
    return lines


def _score(
    model: str, scene: str, real: Measured, made: Measured, cost: tuple[float | None, int | None] = (None, None)
) -> Scores:
    poses = score_poses(made.asked, made.found, made.sizes)
    comparable = model != REAL and real.features is not None and made.features is not None
    return Scores(
        model=model,
        scene=scene,
        images=len(made.scenes),
        fid=frechet_distance(real.features, made.features) if comparable else None,  # type: ignore[arg-type]
        kid=kernel_distance(real.features, made.features) if comparable else None,  # type: ignore[arg-type]
        ap=poses.ap,
        ap_medium=poses.ap_medium,
        cap=poses.cap,
        pce=poses.pce,
        clipsim=None if made.clip_scores is None or not len(made.clip_scores) else float(made.clip_scores.mean()),
        seconds=cost[0],
        peak_bytes=cost[1],
    )


def cost_of(store: Store) -> tuple[float | None, int | None]:
    """Return what drawing a dataset took: seconds an image (of full batches), and the most bytes of any worker."""
    markers = list(shards.read_markers(store))
    drawn = sum(done.counts.get("sampled", 0) for done in markers)
    seconds = sum(done.seconds.get("sample", 0.0) for done in markers)
    return seconds / drawn if drawn else None, max((done.counts.get("peak_bytes", 0) for done in markers), default=None)


def as_text(lines: Sequence[Scores], features: FeatureName | None) -> str:
    """Return the table in Markdown: AP, AP(m) and CAP in per cent, KID x 10; `-` where there is no figure."""
    fid = TITLES[features] if features else "FID"
    kid = fid.replace("FID", "KID")
    measures = [f"{fid} ↓", f"{kid} x10 ↓", "AP ↑", "AP(m) ↑", "CAP ↑", "PCE ↓", "CLIPSIM ↑", "s/image ↓", "MB ↓"]
    titles = ["model", "scene", "images", *measures]
    text = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for one in lines:
        cells = [
            *_numbers(one.fid, 1, one.kid, 10),
            *_numbers(one.ap, 100, one.ap_medium, 100, one.cap, 100, one.pce, 1, one.clipsim, 1, one.seconds, 1),
            "-" if one.peak_bytes is None else f"{one.peak_bytes / 1e6:,.0f}",
        ]
        text.append(f"| {one.model} | {one.scene} | {one.images:,} | {' | '.join(cells)} |")
    return "\n".join(text)


def _numbers(*values: float | None) -> list[str]:
    """Text of values (each followed by its factor)."""
    pairs = zip(values[::2], values[1::2], strict=True)
    return ["-" if value is None or factor is None else f"{value * factor:.2f}" for value, factor in pairs]
