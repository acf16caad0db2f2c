"""The loaders that `test_loader_speed` compares, each over the same pictures, captions and poses.

    python -m tests.bench.loader_sides NAME FOLDER ROWS

takes so many rows from one of `SIDES` whenever it is told to.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset

from detectors.types import LIMB_COLORS, LIMBS, Person
from pipelines import dataset, lease, shards
from pipelines.images import encode_image
from pipelines.record import Sample
from pipelines.store import Store
from pipelines.train.augment import Augment
from pipelines.train.data import PoseShards, make_sample
from pipelines.train.model import in_floats
from pipelines.train.rows import Row
from pipelines.work import ShardResult
from tests.bench.apart import answer

SIZE = 512
BATCH = 8
SHARD = 100
MAX_PEOPLE = 10
STANDING = np.array(
    [
        (0.5, 0.06), (0.53, 0.04), (0.47, 0.04), (0.57, 0.05), (0.43, 0.05), (0.7, 0.2), (0.3, 0.2), (0.82, 0.36),
        (0.18, 0.36), (0.9, 0.5), (0.1, 0.5), (0.63, 0.53), (0.37, 0.53), (0.65, 0.76), (0.35, 0.76), (0.66, 0.98),
        (0.34, 0.98),
    ]
)  # fmt: skip
"""The 17 keypoints in a box of 1 x 1."""


def pictures(n: int, least: int, most: int) -> list[Sample]:
    """Draw n samples with sides of `least` to `most` pixels and 1 to 5 people, on a textured ground."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(n):
        height, width = (int(side) for side in rng.integers(least, most + 1, 2))
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        ground = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        pixels = np.clip(ground + rng.normal(0, 4, ground.shape), 0, 255).astype(np.uint8)
        people = tuple(_person(rng, width, height) for _ in range(1 + number % 5))
        key = f"drawn-{number:05d}"
        data = encode_image(pixels, "jpeg", 85)
        found.append(Sample(key, "drawn", data, f"{key}.jpg", width, height, f"people, number {number}", people))
    return found


def _person(rng: np.random.Generator, width: int, height: int) -> Person:
    """Somebody who stands, 40% to 80% as tall as the picture, each joint a little off."""
    tall = height * rng.uniform(0.4, 0.8)
    box = np.minimum((tall / 2, tall), (width, height))
    corner = rng.random(2) * ((width, height) - box)
    places = corner + np.clip(STANDING + rng.normal(0, 0.05, STANDING.shape), 0, 1) * box
    keypoints = np.concatenate([places, rng.uniform(0.1, 1, (len(places), 1))], 1).astype(np.float32)
    x, y, w, h = (float(value) for value in (*corner, *box))
    return Person((x, y, w, h), 1.0, w * h, keypoints)


def write_shards(folder: Path, samples: Sequence[Sample]) -> None:
    """As a dataset of this project."""
    store = Store(str(folder))
    manifest = dataset.Manifest("drawn", "0" * 16, {}, len(samples), SHARD, 1, {})
    dataset.write_manifest(store, manifest, {}, lease.new_run())
    for index in manifest.shards:
        task = manifest.task(index)
        shards.commit(store, task, ShardResult(accepted=list(samples[task.start : task.stop])), "0" * 16, "bench")


def keypoints_of(sample: Sample) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.stack([person.keypoints for person in sample.people])


def write_files(folder: Path, samples: Sequence[Sample]) -> None:
    """As one picture and one `.npz` of poses a sample, the release's layout, with an index of captions."""
    folder.mkdir()
    for sample in samples:
        (folder / f"{sample.key}.jpg").write_bytes(sample.image or b"")
        np.savez(folder / f"{sample.key}.npz", keypoints=keypoints_of(sample))
    (folder / "captions.json").write_text(json.dumps({sample.key: sample.caption for sample in samples}))


def write_webdataset(folder: Path, samples: Sequence[Sample]) -> None:
    """As tar files."""
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=SHARD, verbose=0) as writer:
        for sample in samples:
            points = io.BytesIO()
            np.save(points, keypoints_of(sample))
            meta = {"caption": sample.caption, "width": sample.width, "height": sample.height}
            writer.write({"__key__": sample.key, "jpg": sample.image, "npy": points.getvalue(), "json": meta})


def write_streaming(folder: Path, samples: Sequence[Sample]) -> None:
    """As mosaicml-streaming's MDS shards."""
    from streaming import MDSWriter

    columns = {"key": "str", "image": "bytes", "caption": "str", "width": "int", "height": "int"}
    with MDSWriter(out=str(folder), columns={**columns, "keypoints": "ndarray:float32"}) as writer:
        for sample in samples:
            row = {name: getattr(sample, name) for name in columns}
            writer.write({**row, "keypoints": keypoints_of(sample)})


class ReleaseFiles(Dataset[dict[str, Any]]):
    """What the release's loader computes, written anew: `ldm/data/humansd.py` of IDEA-Research/HumanSD, c5db29d.

    Pillow decodes; albumentations changes the whole picture and a list of 10 x 17 places, empty ones among them, and
    leaves out those that fall outside; each place is then looked up in what is left; OpenCV draws on float64. Left and
    right stay where they were. Poses lie in plain arrays here, not in pickles.
    """

    def __init__(self, folder: Path) -> None:
        import albumentations

        self._folder = folder
        self._captions: list[tuple[str, str]] = list(json.loads((folder / "captions.json").read_text()).items())
        self._labels = [(person, joint) for person in range(MAX_PEOPLE) for joint in range(17)]
        changes = [
            albumentations.HorizontalFlip(p=0.2),
            albumentations.VerticalFlip(p=0.1),
            # the release's albumentations kept one place a keypoint; 1.4 would mirror them at the edges, many times
            albumentations.Rotate(p=0.1, border_mode=cv2.BORDER_CONSTANT),
            albumentations.SmallestMaxSize(max_size=SIZE, interpolation=cv2.INTER_AREA),
            albumentations.RandomCrop(SIZE, SIZE),
            albumentations.OneOf([albumentations.HueSaturationValue(p=0.5), albumentations.RGBShift(p=0.5)], p=0.4),
            albumentations.RandomBrightnessContrast(p=0.2),
        ]
        places = albumentations.KeypointParams(format="xy", label_fields=["labels"], remove_invisible=True)
        self._augment = albumentations.Compose(changes, keypoint_params=places)

    def __len__(self) -> int:
        return len(self._captions)

    def __getitem__(self, number: int) -> dict[str, Any]:
        key, caption = self._captions[number]
        image = np.asarray(Image.open(self._folder / f"{key}.jpg").convert("RGB"))
        stored = np.load(self._folder / f"{key}.npz")["keypoints"]
        places = [[0.0, 0.0] for _ in self._labels]
        for slot, (person, joint) in enumerate(self._labels):
            if person < len(stored):
                x, y = stored[person, joint, :2]
                if 0 <= x < image.shape[1] and 0 <= y < image.shape[0]:
                    places[slot] = [x, y]
        changed = self._augment(image=image, keypoints=np.array(places), labels=self._labels)
        left = [tuple(label) for label in changed["labels"]]
        keypoints = np.tile(np.array([-1.0, -1.0, 0.0]), (MAX_PEOPLE, 17, 1))
        for person, joint in self._labels:
            if person < len(stored) and (person, joint) in left and stored[person, joint, 2] > 0.02:
                keypoints[person, joint, :2] = changed["keypoints"][left.index((person, joint))]
                keypoints[person, joint, 2] = stored[person, joint, 2]
        pictures = {"image": changed["image"], "skeleton": _draw_as_released(keypoints)}
        planes = {name: (one / 255 * 2 - 1).astype(np.float32).transpose(2, 0, 1) for name, one in pictures.items()}
        return {**planes, "keypoints": keypoints, "caption": caption, "key": key, "num_people": len(stored)}


def _draw_as_released(keypoints: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    canvas = np.zeros((SIZE, SIZE, 3))
    for points in keypoints:
        for (start, end), color in zip(LIMBS, LIMB_COLORS, strict=True):
            if min(points[start, 2], points[end, 2]) > 0.02:
                ends = [(int(points[joint, 0]), int(points[joint, 1])) for joint in (start, end)]
                cv2.line(canvas, ends[0], ends[1], color, 10)
                for place in ends:
                    cv2.circle(canvas, place, 5, color, -1)
    return canvas


class Others(IterableDataset[dict[str, Any]]):
    """Rows from another library, decoded, augmented and drawn as `PoseShards` does."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        cv2.setNumThreads(1)
        for number, row in enumerate(self._rows):
            yield make_sample(row, Augment(), SIZE, MAX_PEOPLE, np.random.default_rng((0, 3, number)))


class WebRows(IterableDataset[Row]):
    """webdataset: shards shuffled, then a buffer of rows."""

    def __init__(self, folder: Path) -> None:
        self._urls = [str(path) for path in sorted(folder.glob("*.tar"))]

    def __iter__(self) -> Iterator[Row]:
        import webdataset

        for row in webdataset.WebDataset(self._urls, shardshuffle=100, empty_check=False).shuffle(1000):
            meta, keypoints = json.loads(row["json"]), np.load(io.BytesIO(row["npy"]))
            yield Row(row["__key__"], meta["width"], meta["height"], meta["caption"], keypoints, row["jpg"], {})


class StreamingRows(IterableDataset[Row]):
    """mosaicml-streaming: its own shuffle, over local MDS shards."""

    def __init__(self, folder: Path) -> None:
        from streaming import StreamingDataset

        self._rows: Any = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            keypoints = np.array(row["keypoints"])
            yield Row(row["key"], row["width"], row["height"], row["caption"], keypoints, row["image"], {})


def open_ours(folder: Path) -> Any:
    return PoseShards([str(folder / "ours")], SIZE, BATCH, 0, augment=Augment())


def open_files(folder: Path) -> Any:
    return ReleaseFiles(folder / "files")


def open_streaming(folder: Path) -> Any:
    return Others(StreamingRows(folder / "mds"))


def open_webdataset(folder: Path) -> Any:
    return Others(WebRows(folder / "web"))


SIDES: Final[dict[str, Callable[[Path], Any]]] = {
    "ours": open_ours,
    "files": open_files,
    "streaming": open_streaming,
    "webdataset": open_webdataset,
}


def take(name: str, folder: Path, rows: int) -> None:
    """Open a loader and take so many rows from it, as floats in [-1, 1]."""
    seen = 0
    for batch in DataLoader(SIDES[name](folder), batch_size=BATCH, shuffle=True if name == "files" else None):
        images, skeletons = in_floats(batch["image"]), in_floats(batch["skeleton"])
        assert images.shape[1:] == skeletons.shape[1:] == (3, SIZE, SIZE)
        assert images.dtype == skeletons.dtype == torch.float32
        seen += len(batch["key"])
        if seen >= rows:
            return
    assert seen >= rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    side, where, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    answer(lambda _: take(side, where, count))
