"""The import job: an annotation file and its images → identity → engine.

The driver reads the annotation file, once; each shard's records go to OUT/annotations, from where workers take them.
Importing this does not load Ray; running the job does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pipelines.coco import person_categories, scene_of
from pipelines.coco_file import AnnotationFile
from pipelines.config import UserError, identity, plain
from pipelines.humanart.config import ImportConfig, prefix_of
from pipelines.store import Store

if TYPE_CHECKING:
    from pipelines.humanart.work import ImportWork
    from pipelines.job import Job, JobReport, Runtime

Source = Literal["human-art", "coco"]

SPLITS: Final = ("training", "validation", "test")
"""Human-Art's own splits; each is `annotations/<split>_humanart.json`."""
HEAD: Final = "annotations/coco.json"
"""What the annotation file says besides images and annotations."""
PROBED: Final = 100
"""Image files that are looked for before a job starts."""


@dataclass(frozen=True)
class ImageSet:
    """What to import: source, annotation file and the folder (or URL) that its file names are relative to."""

    source: Source
    annotations: str
    images: str


@dataclass(frozen=True)
class MakeImportWork:
    """Builds the work on a worker: `out` has the records, `images` must be the same folder or URL on every machine."""

    config: ImportConfig
    source: Source
    prefix: str
    out: str
    images: str
    head: Mapping[str, Any]

    def __call__(self) -> ImportWork:
        """Raises UserError where this machine does not have the folder of images."""
        from pipelines.humanart.work import ImportWork, licences_of
        from pipelines.pictures import Folder

        return ImportWork(
            config=self.config,
            source=self.source,
            prefix=self.prefix,
            store=Store(self.out),
            folder=Folder(self.images),
            categories=person_categories(self.head),
            licences=licences_of(self.head.get("licenses")),
            inner=self.source == "human-art",
        )


def find_humanart(root: str, split: str) -> ImageSet:
    """Return one split of a copy of Human-Art: `root` is its folder, or the one around it.

    Raises UserError where the annotation file is not there.
    """
    name = f"{split}_humanart.json"
    places = [f"{root.rstrip('/')}/{folder}{name}" for folder in ("annotations/", "HumanArt/annotations/", "")]
    for place in places:
        if Store(place.rpartition("/")[0]).exists(name):
            return ImageSet("human-art", place, root)
    raise UserError(f"{root}: holds no annotations/{name}: give the folder of your copy of Human-Art, or --ann FILE")


def compose(
    images: ImageSet, config: ImportConfig, out: str, shards: range | None = None
) -> tuple[Job, MakeImportWork, AnnotationFile]:
    """Return the job that imports a set, what builds its work on a worker, and the annotation file.

    Raises UserError where the file is none, its people have other keypoints, or no image is where it should be.
    """
    from pipelines.humanart.takedown import withdraw
    from pipelines.humanart.work import ANNOTATIONS, write_records
    from pipelines.job import Job
    from pipelines.taken import Takedowns

    file = AnnotationFile.open(images.annotations)
    try:
        person_categories(file.head)
    except ValueError as error:
        raise UserError(f"{images.annotations}: {error}") from None
    if not len(file):
        raise UserError(f"{images.annotations}: lists no image")
    check_images(images, file)
    named, hashed = identity(config, {"source": images.source, "annotations.sha256": file.sha256})
    n = len(file) if config.n is None else min(config.n, len(file))
    size = config.shard_size
    prefix, gone = prefix_of(images.source, hashed), Takedowns.read(Store(out))
    records = {
        f"{ANNOTATIONS}/{index:08d}.parquet": write_records(
            withdraw(file.records(index * size, (index + 1) * size), prefix, gone)
        )
        for index in range(-(-n // size))
    }
    job = Job(
        out=out,
        source=images.source,
        identity=named,
        identity_hash=hashed,
        config={**plain(config), "annotations": images.annotations, "images": images.images},
        n=n,
        shard_size=size,
        max_attempts=1,
        shards=shards,
        files={**records, HEAD: json.dumps(file.head).encode()},
    )
    folder = Store(images.images).url
    return job, MakeImportWork(config, images.source, prefix, Store(out).url, folder, file.head), file


def check_images(images: ImageSet, file: AnnotationFile) -> int:
    """Return how many of the set's first image files are there. Raises UserError where none is."""
    from pipelines.pictures import Folder

    folder = Folder(images.images)
    listed = (record.parse()[0].get("file_name") for record in file.records(0, PROBED))
    names = [name for name in listed if isinstance(name, str)]
    there = sum(folder.holds(name) or folder.holds(name.partition("/")[2]) for name in names)
    if names and not there:
        raise UserError(
            f"{images.images}: none of the first {len(names)} images is there (such as {names[0]!r}): "
            "give the folder that file_name is relative to"
        )
    return there


def runtime_of(config: ImportConfig, address: str | None = None) -> Runtime:
    """Return where and how fast a config wants to run."""
    from pipelines.job import Runtime

    return Runtime(
        workers=config.workers,
        num_cpus=config.cpus_per_worker,
        address=address,
        hang_seconds=60 * config.hang_minutes,
    )


def run_import(
    images: ImageSet, config: ImportConfig, out: str, shards: range | None = None, address: str | None = None
) -> JobReport:
    """Import a set into `out`, or what is still missing of it. Raises UserError where the user must act first."""
    from pipelines.card import renew_card
    from pipelines.engine import run_job

    job, make_work = compose(images, config, out, shards)[:2]  # the annotation file is not kept while the job runs
    report = run_job(job, make_work, runtime_of(config, address))
    renew_card(out, report)
    return report


def plan_import(images: ImageSet, config: ImportConfig, out: str, shards: range | None = None) -> dict[str, Any]:
    """Return what `run_import` would do; raises UserError where it would."""
    from pipelines import dataset
    from pipelines.shards import read_markers

    job, _, file = compose(images, config, out, shards)
    manifest = dataset.Manifest(
        job.source, job.identity_hash, job.identity, job.n, job.shard_size, job.max_attempts, job.config
    )
    wanted = manifest.shards if shards is None else range(shards.start, min(shards.stop, manifest.shards.stop))
    store = Store(out)
    dataset.check_manifest(store, manifest)
    standing = dataset.standing(manifest, wanted, read_markers(store, wanted))
    scenes: Counter[str] = Counter()
    troubles: Counter[str] = Counter()
    annotations = 0
    for record in file.records(0, job.n):
        scenes[scene_of(record.parse()[0]) or "none"] += 1
        annotations += len(record.annotations)
        troubles.update([record.trouble] if record.trouble else [])
    return {
        "out": out,
        "identity": job.identity_hash[:8],
        "images": job.n,
        "annotations": annotations,
        "files_there": check_images(images, file),
        "shards": len(wanted),
        "shards_complete": standing.complete,
        "shards_to_do": len(standing.tasks),
        "accepted": standing.accepted,
        "scenes": dict(scenes.most_common()),
        "unusable": dict(troubles.most_common()),
    }


def as_text(found: Mapping[str, Any]) -> str:
    """Return a plan as lines to read."""
    scenes = ", ".join(f"{name} {number:,}" for name, number in found["scenes"].items())
    unusable = ", ".join(f"{number:,} {reason}" for reason, number in found["unusable"].items())
    looked_at = min(found["images"], PROBED)
    return "\n".join(
        [
            f"{found['out']}: {found['images']:,} images with {found['annotations']:,} annotations in "
            f"{found['shards']:,} shards, identity {found['identity']}",
            f"there     {found['accepted']:,} accepted, {found['shards_complete']:,} shards complete",
            f"to do     {found['shards_to_do']:,} shards",
            f"files     {found['files_there']:,} of the first {looked_at:,} are where they should be",
            f"scenes    {scenes}",
            f"unusable  {unusable or 'none, as far as the annotation file tells'}",
        ]
    )
