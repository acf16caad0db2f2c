"""`PoseShards`: training samples straight from the shards of datasets, in an order that anyone can work out.

    shards = PoseShards(["ghi", "human-art@2"], size=512, batch_size=32, seed=0, augment=Augment())
    for batch in DataLoader(shards, batch_size=32, num_workers=4): ...

Which sample stands at which place of which batch, and how it is augmented, follows from the listing of shards, the seed
and the place alone (`pipelines.train.order`). So any number of ranks and of loader workers gives the same global
batches, and a training goes on at any batch without reading those before it. A worker reads each shard of a window once
and keeps the rows that are its own, so more workers hold no more memory between them, but each reads all shards.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import IterableDataset, get_worker_info

from detectors.skeleton import draw_keypoints
from detectors.types import NUM_KEYPOINTS
from pipelines.config import UserError
from pipelines.train import listing
from pipelines.train.augment import (
    NONE,
    VISIBLE,
    Augment,
    Float32,
    Image,
    decode_reduced,
    draw_view,
    jitter,
    move_keypoints,
    warp,
)
from pipelines.train.listing import Part
from pipelines.train.order import EpochOrder, Mix, Share, Window
from pipelines.train.rows import Row, read_rows
from pipelines.train.shard_cache import CachedStore, ShardCache

log = logging.getLogger(__name__)

Sample = dict[str, Any]
"""image, skeleton: uint8 (3, H, W), RGB; keypoints: float32 (max_people, 17, 3), x and y in pixels of `image`
from the centre of its first pixel, unused rows zero; num_people: int; caption, key: str. From cached latents: latent,
skeleton_latent (C, h, w) and text_states (T, D), float16, in place of image and skeleton."""

SKELETON_WIDTH: Final = 10.0
"""Of limbs, in pixels of a picture of 512 (the release's)."""

_AUGMENT: Final = 3
_READ_ERRORS: Final = (OSError, ValueError, KeyError, pa.ArrowException)


class PoseShards(IterableDataset[Sample]):
    """An endless stream of samples, one rank's share of it: for `DataLoader(shards, batch_size // world_size)`.

    data: `OUT` or `OUT@weight`, or a listing of `pipelines.train.listing.list_shards` that was kept. Without weights
        each row comes once an epoch; one of weight 2 comes twice as often as one of weight 1.
    size: pixels of the square pictures. batch_size: of the global batch, over all ranks. start: global batches that
        were trained on before. augment: None resizes and crops in the middle of where people are.
    max_people: the largest are drawn. cached: read latents that `humansd train cache` made, True or their columns'
        name (`pipelines.train.cache.columns_name`). poses: added columns whose people take the place of the record's.
    on_error: a picture or shard that cannot be read is replaced by the dataset's next sample and logged once ("skip"),
        or ends the stream ("raise"). problems: a file that gets a line for each of them too, once.
    cache: where copies of remote shards are kept.
    Raises UserError where a dataset has no rows or lacks the columns asked for, where batch_size is no multiple of
    world_size, and where augmentation or other poses are asked of cached latents.
    """

    def __init__(
        self,
        data: Sequence[str] | Sequence[Part],
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        augment: Augment | None = None,
        max_people: int = 10,
        cached: bool | str = False,
        poses: str | None = None,
        on_error: Literal["skip", "raise"] = "skip",
        cache: ShardCache | None = None,
        problems: Path | None = None,
    ) -> None:
        super().__init__()
        # Loader workers are the parallelism. OpenCV's own threads do not survive the fork that makes them: a worker
        # that used them, or tried to end them, would wait for ever.
        cv2.setNumThreads(1)
        if batch_size % world_size:
            raise UserError(f"batch_size ({batch_size}) must be a multiple of the number of workers ({world_size})")
        if cached and augment is not None:
            raise UserError("cached latents cannot be augmented: set data.augment=false, or data.cached=false")
        if cached and poses is not None:
            raise UserError(f"cached latents hold the skeletons of the datasets' own poses, not those of {poses}")
        names = [one for one in data if isinstance(one, str)]
        kept = [one for one in data if isinstance(one, Part)]
        self.parts = listing.refresh(kept) if kept else listing.list_shards(names)
        """What is read: keep it (`listing.to_json`) to go on with the same order while datasets grow."""
        self._latents = listing.latents_name(self.parts, cached) if cached else None
        if poses is not None:
            listing.check_columns(self.parts, poses)
        self._size, self._seed, self._max_people, self._poses = size, seed, max_people, poses
        self._augment = augment or NONE
        self._share = Share(batch_size, rank, world_size, start=start)
        self._raises = on_error == "raise"
        self._cache = cache or ShardCache()
        self._problems = problems

    def __iter__(self) -> Iterator[Sample]:
        info = get_worker_info()
        share = self._share
        if info is not None:
            share = Share(share.batch_size, share.rank, share.world_size, info.id, info.num_workers, share.start)
        mix = Mix([part.weight * part.rows for part in self.parts], self._seed)
        streams = [self._stream(number, part, mix, share) for number, part in enumerate(self.parts)]
        turn = 0
        while True:
            for position in share.batch(turn):
                dataset, local = mix.local(position)
                yield self._sample(streams[dataset], position, local)
            turn += 1

    def _stream(self, number: int, part: Part, mix: Mix, share: Share) -> _Stream:
        order = EpochOrder([shard.rows for shard in part.shards], self._seed, number)
        store = CachedStore(part.out, part.shards, self._cache)
        return _Stream(number, part, order, mix, share, store, self._poses, self._latents)

    def _sample(self, stream: _Stream, position: int, local: int) -> Sample:
        """The sample of a global position; if it cannot be read, the one of the next local position that can."""
        for step in range(stream.order.rows):
            try:
                return self._make(stream.row(local + step), np.random.default_rng((self._seed, _AUGMENT, position)))
            except RowError as error:
                if self._raises:
                    raise
                stream.report(str(error), self._problems)
        raise RowError(f"{stream.part.out}: not one sample can be read")

    def _make(self, row: Row, rng: np.random.Generator) -> Sample:
        return make_sample(row, self._augment, self._size, self._max_people, rng)


def make_sample(row: Row, augment: Augment, size: int, max_people: int, rng: np.random.Generator) -> Sample:
    """What is trained on of a row: decoded, augmented, then drawn. Raises RowError where its picture cannot be read."""
    finite = np.isfinite(row.keypoints).all(-1, keepdims=True)
    known_keypoints = np.where(finite, row.keypoints, 0)
    view = draw_view(rng, augment, row.width, row.height, size, known_keypoints)
    keypoints = in_frame(move_keypoints(known_keypoints, view), size)[:max_people]
    padded = np.zeros((max_people, NUM_KEYPOINTS, 3), np.float32)
    padded[: len(keypoints)] = keypoints
    known = {"num_people": len(keypoints), "caption": row.caption, "key": row.key}
    sample: Sample = {"keypoints": torch.from_numpy(padded), **known}
    if row.image is None:
        if not row.latents:
            raise RowError(f"{row.key}: no latents were made of it")
        return sample | {name: torch.from_numpy(array.copy()) for name, array in row.latents.items()}
    try:
        image = warp(decode_reduced(row.image, size), view, row.width, row.height, size)
    except ValueError as error:
        raise RowError(f"{row.key}: {error}") from None
    image = jitter(rng, augment, image)
    skeleton = draw_keypoints(keypoints, size, size, SKELETON_WIDTH, VISIBLE)
    return sample | {"image": _planes(image, (2, 1, 0)), "skeleton": _planes(skeleton)}


class RowError(ValueError):
    """A sample that cannot be trained on; the message names it and says why."""


class _Stream:
    """The rows of one dataset that one loader worker needs, read a window at a time."""

    def __init__(
        self,
        number: int,
        part: Part,
        order: EpochOrder,
        mix: Mix,
        share: Share,
        store: CachedStore,
        poses: str | None,
        latents: str | None,
    ) -> None:
        self.number, self.part, self.order = number, part, order
        self._mix, self._share, self._store = mix, share, store
        self._columns = (poses, latents)
        self._rows: dict[int, Row | str] = {}
        self._window: Window | None = None
        self._reported: set[str] = set()
        self._broken: dict[int, str] = {}

    def row(self, local: int) -> Row:
        """The row of a local position. Raises RowError where it cannot be read."""
        if self._window is None or not 0 <= local - self._window.first < len(self._window):
            window = self.order.window(local)
            whole = np.arange(window.first, window.first + len(window))
            own = whole[self._share.holds(self._mix.positions(self.number, whole))]
            self._window, self._rows = window, self._read(window, own if local in own else np.append(own, local))
        if local not in self._rows:  # of another worker: it takes the place of one that cannot be read
            self._rows |= self._read(self._window, np.array([local]))
        found = self._rows[local]
        if isinstance(found, str):
            raise RowError(found)
        return found

    def report(self, problem: str, problems: Path | None) -> None:
        """Log a problem, the first time it is met."""
        if problem in self._reported:
            return
        self._reported.add(problem)
        log.warning("left out, another sample takes its place: %s", problem)
        if problems is not None:
            line = " ".join(problem.split()) + "\n"
            with problems.open("a+", encoding="utf-8") as file:
                file.seek(0)
                if line not in file:  # of another loader process, or of the run before a kill
                    file.write(line)

    def _read(self, window: Window, local: np.ndarray[Any, np.dtype[np.int64]]) -> dict[int, Row | str]:
        """Rows at local positions of a window, or why they cannot be read; each shard is read once."""
        found: dict[int, Row | str] = {}
        shards, rows = window.shards[local - window.first], window.rows[local - window.first]
        for number in np.unique(shards):
            here = shards == number
            found |= zip(local[here].tolist(), self._read_shard(int(number), rows[here].tolist()), strict=True)
        return found

    def _read_shard(self, number: int, rows: list[int]) -> list[Row | str]:
        shard = self.part.shards[number]
        name = self._store.path(f"shards/{shard.index:08d}.parquet")
        if number not in self._broken:
            try:
                found = read_rows(self._store, shard.index, rows, *self._columns)
                return [row or f"{name}: row {place} is gone" for place, row in zip(rows, found, strict=True)]
            except UserError:
                raise
            except _READ_ERRORS as error:
                self._broken[number] = f"{name}: {str(error).partition(chr(10))[0] or type(error).__name__}"
        return [self._broken[number]] * len(rows)


def in_frame(keypoints: Float32, size: int) -> Float32:
    """Of people (N, 17, 3), those with a visible keypoint in a picture of size x size pixels."""
    places = keypoints[..., :2]
    inside = ((places >= -0.5) & (places < size - 0.5)).all(-1) & (keypoints[..., 2] >= VISIBLE)
    return np.asarray(keypoints[inside.any(-1)], np.float32)


def _planes(image: Image, order: tuple[int, int, int] = (0, 1, 2)) -> torch.Tensor:
    """A picture (H, W, 3) as (3, H, W); order: which plane each channel becomes.

    Floats are left to the device: as such, pictures would be four times as much to stack and to move (measured).
    """
    planes = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(image, [planes[place] for place in order])
    return torch.from_numpy(planes)
