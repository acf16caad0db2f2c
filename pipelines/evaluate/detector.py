"""How well a detector finds people whose poses are annotated: COCO's AP and AR, over all images and by scene."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from detectors.types import Detector, Person
from pipelines import dataset, shards
from pipelines.coco import UnusableError, annotated_size, is_person, person_categories, person_of, scene_of
from pipelines.coco_file import AnnotationFile, Record
from pipelines.config import UserError
from pipelines.evaluate.keypoints import STATS, coco_scores
from pipelines.images import Pixels
from pipelines.pictures import Folder, PictureError, open_picture, read_first
from pipelines.record import table_to_samples
from pipelines.store import Store

MAX_PIXELS: Final = 80_000_000
MAX_BYTES: Final = 500_000_000
ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class Annotated:
    """An image with its annotated people; `pixels` None where it cannot be used, then `reason` says why."""

    name: str
    scene: str | None
    pixels: Pixels | None
    people: tuple[Person, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SceneScores:
    """`scores` are `STATS`, 0-1, of one scene (or of `all`). people: annotated ones with keypoints, crowds left out."""

    scene: str
    images: int
    people: int
    found: int
    scores: dict[str, float]


@dataclass(slots=True)
class DetectorScores:
    """How a detector did. unusable: name → reason of the images that were left out."""

    detector: str
    scenes: list[SceneScores] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)


def annotated_set(annotations: str, images: str) -> Iterator[Annotated]:
    """Yield the images of a COCO-style set, such as Human-Art; file names are also looked for without their first
    folder. Raises UserError where the annotation file or the folder is not there.
    """
    file, folder = AnnotationFile.open(annotations), Folder(images)
    try:
        categories = person_categories(file.head)
    except ValueError as error:
        raise UserError(f"{annotations}: {error}") from None
    for record in file.records():
        yield _annotated(record, folder, categories)


def _annotated(record: Record, folder: Folder, categories: frozenset[int] | None) -> Annotated:
    image, annotations = record.parse()
    name, scene = str(image.get("file_name", record.name)), scene_of(image)
    try:
        if record.trouble is not None:
            raise UnusableError(record.trouble)
        people = tuple(person_of(one, *annotated_size(image)) for one in annotations if is_person(one, categories))
        data = read_first(folder, [name, name.partition("/")[2]], MAX_BYTES)
        pixels = open_picture(data, MAX_PIXELS).as_annotated(annotated_size(image))
    except (UnusableError, PictureError) as error:
        return Annotated(name, scene, None, reason=str(error))
    return Annotated(name, scene, pixels, people)


def annotated_dataset(outs: Sequence[str]) -> Iterator[Annotated]:
    """Yield the accepted samples of datasets of ours; their people count as annotated, wherever they came from."""
    for out in outs:
        store = Store(out)
        dataset.read_manifest(store)
        for index in shards.done_indices(store):
            for sample in table_to_samples(shards.read_table(store, "shards", index)):
                try:
                    pixels = open_picture(sample.image or b"", MAX_PIXELS).pixels
                except PictureError as error:
                    yield Annotated(sample.key, sample.scene, None, reason=str(error))
                else:
                    yield Annotated(sample.key, sample.scene, pixels, sample.people)


def evaluate_detector(
    detector: Detector,
    images: Iterable[Annotated],
    batch_size: int,
    note: Callable[[str], None] = lambda text: None,
) -> DetectorScores:
    """Let a detector find the people of all images, in boxes of its own, and score what it finds.

    Sizes are in pixels of the images as they are, and a found person's area is the extent of its keypoints, as in
    pycocotools' own reading of results. Images that cannot be used are left out and named.
    """
    scores = DetectorScores(detector.name)
    rows: list[tuple[str, tuple[Person, ...], tuple[Person, ...]]] = []
    waiting: list[Annotated] = []

    def flush() -> None:
        pixels = [one.pixels for one in waiting if one.pixels is not None]
        for one, people in zip(waiting, detector.detect(pixels), strict=True):
            rows.append((one.scene or "none", one.people, tuple(map(as_result, people))))
        waiting.clear()
        note(f"{len(rows):,} images")

    for image in images:
        if image.pixels is None:
            scores.unusable[image.name] = image.reason
            continue
        waiting.append(image)
        if len(waiting) == batch_size:
            flush()
    if waiting:
        flush()
    if not rows:
        raise UserError("no image of it can be used")
    names = sorted({scene for scene, _, _ in rows})
    for name in [ALL, *(names if len(names) > 1 else [])]:
        chosen = [(truth, found) for scene, truth, found in rows if name in (ALL, scene)]
        scores.scenes.append(_scores(name, [t for t, _ in chosen], [f for _, f in chosen]))
    return scores


def as_result(person: Person) -> Person:
    """Return a found person with the area that pycocotools gives it: that of the box round all its keypoints."""
    low, high = person.keypoints[:, :2].min(0), person.keypoints[:, :2].max(0)
    return replace(person, area=float((high - low).prod()))


def _scores(scene: str, truth: list[tuple[Person, ...]], found: list[tuple[Person, ...]]) -> SceneScores:
    posed = sum(not p.iscrowd and bool((p.keypoints[:, 2] > 0).any()) for people in truth for p in people)
    return SceneScores(scene, len(truth), posed, sum(map(len, found)), coco_scores(truth, found))


def as_json(scores: DetectorScores) -> list[dict[str, Any]]:
    """Return one object a scene, JSON values."""
    return [
        {
            "detector": scores.detector,
            "scene": one.scene,
            "images": one.images,
            "people": one.people,
            "found": one.found,
            **{name: None if value < 0 else value for name, value in one.scores.items()},
        }
        for one in scores.scenes
    ]


def as_text(scores: DetectorScores) -> str:
    """Return a table in Markdown, scores in per cent; `-` where nobody is of that size."""
    titles = ("AP", "AP50", "AP75", "AP(M)", "AP(L)", "AR", "AR50", "AR75", "AR(M)", "AR(L)")
    lines = [
        f"{scores.detector}: COCO keypoint AP and AR x 100, in its own boxes",
        f"| scene | images | people | found | {' | '.join(titles)} |",
        "|---" * (4 + len(STATS)) + "|",
    ]
    for one in scores.scenes:
        values = ["-" if one.scores[name] < 0 else f"{100 * one.scores[name]:.1f}" for name in STATS]
        lines.append(f"| {one.scene} | {one.images:,} | {one.people:,} | {one.found:,} | {' | '.join(values)} |")
    return "\n".join(lines)
