"""Commands around annotated sets: import them, detect people in images, measure detectors."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines import options
from pipelines.config import UserError, load_config, of_kind
from pipelines.detector import DetectorConfig
from pipelines.options import examples

if TYPE_CHECKING:
    from detectors.types import Detector
    from pipelines.humanart.job import ImageSet

SetConfig = Annotated[str, typer.Option(help="A bundled config (humanart, coco) or the path of a TOML file.")]


def register_imports(app: typer.Typer) -> None:
    """Add the commands that import annotated sets."""
    app.command(
        epilog=examples(
            "humansd humanart --root HumanArt --out humanart",
            "humansd humanart --root HumanArt --split validation --out val --dry-run",
        )
    )(humanart)
    app.command(
        epilog=examples(
            "humansd coco --ann person_keypoints_val2017.json --images val2017 --out coco",
            "humansd coco --ann mine.json --images s3://bucket/mine --out mine --n 100",
        )
    )(coco)


def register_detectors(app: typer.Typer, evaluate: typer.Typer) -> None:
    """Add the commands that run pose detectors on images, and `evaluate detector`."""
    app.command(
        epilog=examples(
            "humansd detect photos/ --model rtmdet-s+rtmpose-m --out poses",
            "humansd detect 'art/**/*.png' more.parquet --out poses --overlays",
            "humansd detect ghi --set detector.flip_test=true --out poses --json",
        )
    )(detect)
    evaluate.command(
        "detector",
        epilog=examples(
            "humansd evaluate detector --ann val.json --images val2017",
            "humansd evaluate detector --model mini-pose --data humanart --json",
        ),
    )(evaluate_detector)


Model = Annotated[str, typer.Option(help="The pose detector; humansd models list names them.")]
Batch = Annotated[int, typer.Option(min=1, help="Images (and people) a batch.")]
Device = Annotated[str | None, typer.Option(help="A torch device; by default the GPU if there is one.")]


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """What --set can say here: the `[detector]` table that jobs have."""

    detector: DetectorConfig = dataclasses.field(default_factory=DetectorConfig)


def detect(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Images, folders, globs, Parquet files, datasets.")
    ],
    out: Annotated[str, typer.Option(help="Where the poses go: a new folder or URL.")],
    model: Model = "mini-pose",
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Leave out people with less confidence.")] = 0.0,
    overlays: Annotated[bool, typer.Option("--overlays", help="Draw every image's skeletons over it.")] = False,
    batch_size: Batch = 8,
    device: Device = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> int:
    """Find people and their poses in any images: Parquet, COCO JSON and a contact sheet.

    The same command again goes on where it stopped. Images that cannot be used are named, and the exit code is 1.
    """
    from pipelines import detect as runner

    asked = runner.Asked(model, batch_size, min_score, overlays)
    found = runner.run_detect(inputs, out, asked, lambda: _load(model, batch_size, device, set_), options.say)
    unusable = found.unusable or {}
    if json:
        options.print_json(dataclasses.asdict(found))
    for key, reason in list(unusable.items())[: options.NAMED]:
        options.say(f"{reason}: {key}")
    options.say(f"{found.people:,} people in {found.images:,} images, {len(unusable):,} unusable: {out}/sheet.png")
    return 1 if unusable else 0


def evaluate_detector(
    model: Model = "mini-pose",
    ann: Annotated[str | None, typer.Option(metavar="FILE", help="An annotation file: COCO JSON.")] = None,
    images: Annotated[
        str | None, typer.Option(metavar="DIR", help="The folder or URL that its file names are relative to.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option(metavar="OUT", help="A dataset instead; repeatable.")] = None,
    batch_size: Batch = 8,
    device: Device = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> int:
    """Measure a pose detector on annotated images: COCO's AP and AR in its own boxes, also by scene.

    Images that cannot be used are left out and named, and the exit code is 1.
    """
    from pipelines.evaluate import detector as judge

    if (ann is None or images is None) == (not data) or (data and (ann or images)):
        raise UserError("give either --ann FILE and --images DIR, or --data OUT")
    chosen = judge.annotated_dataset(data) if data else judge.annotated_set(ann or "", images or "")
    loaded, _ = _load(model, batch_size, device, set_)
    scores = judge.evaluate_detector(loaded, chosen, batch_size, options.say)
    if json:
        for row in judge.as_json(scores):
            options.print_json(row)
    else:
        print(judge.as_text(scores))
    for name, reason in list(scores.unusable.items())[: options.NAMED]:
        options.say(f"{reason}: {name}")
    if scores.unusable:
        options.say(f"{len(scores.unusable):,} images are left out")
    return 1 if scores.unusable else 0


def _load(model: str, batch_size: int, device: str | None, set_: list[str] | None) -> tuple[Detector, dict[str, str]]:
    """Load a detector, and what decides what it finds. Raises UserError where it cannot be had."""
    from pipelines.detector import detector_digests, drawn_only, load

    asked = [f"detector.name={model}", f"detector.batch_size={batch_size}", *(set_ or [])]
    config = load_config(Given, None, asked).detector
    if note := drawn_only(config.name):
        options.say(f"note: {note}")
    digests = detector_digests(config)
    settings = {f"detector.{name}": value for name, value in of_kind(config, "identity").items()}
    return load(config, device or _device()), {**settings, **digests}


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def humanart(
    root: Annotated[str, typer.Option(metavar="DIR", help="Your copy of Human-Art: a folder or a URL.")],
    out: options.Out,
    split: Annotated[
        Literal["training", "validation", "test"], typer.Option(help="Which of its annotation files.")
    ] = "training",
    ann: Annotated[str | None, typer.Option(metavar="FILE", help="Another annotation file of it.")] = None,
    config: SetConfig = "humanart",
    n: options.Number = None,
    workers: options.Workers = None,
    shards: options.Shards = None,
    address: options.Address = None,
    set_: options.Set = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> int:
    """Human-Art as shards: images, descriptions, scenes, 17 and 21 keypoints, self-contact.

    What cannot be used is in the ledger with its reason. The same command again resumes.
    """
    from pipelines.humanart.job import ImageSet, find_humanart

    images = find_humanart(root, split) if ann is None else ImageSet("human-art", ann, root)
    return _import(images, out, config, n, workers, shards, address, set_, dry_run, json)


def coco(
    ann: Annotated[str, typer.Option(metavar="FILE", help="The annotation file: COCO JSON.")],
    images: Annotated[str, typer.Option(metavar="DIR", help="The folder or URL that its file names are relative to.")],
    out: options.Out,
    config: SetConfig = "coco",
    n: options.Number = None,
    workers: options.Workers = None,
    shards: options.Shards = None,
    address: options.Address = None,
    set_: options.Set = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> int:
    """Any set annotated in COCO's format as shards.

    What cannot be used is in the ledger with its reason. The same command again resumes.
    """
    from pipelines.humanart.job import ImageSet

    return _import(ImageSet("coco", ann, images), out, config, n, workers, shards, address, set_, dry_run, json)


def _import(
    images: ImageSet,
    out: str,
    config: str,
    n: int | None,
    workers: int | None,
    shards: str | None,
    address: str | None,
    set_: list[str] | None,
    dry_run: bool,
    json: bool,
) -> int:
    from pipelines.humanart import job
    from pipelines.humanart.config import ImportConfig

    resolved = load_config(ImportConfig, config, options.overrides(set_, n=n, workers=workers))
    wanted = options.parse_shards(shards)
    if dry_run:
        found = job.plan_import(images, resolved, out, wanted)
        if json:
            options.print_json(found)
        else:
            print(job.as_text(found))
        return 0
    report = job.run_import(images, resolved, out, wanted, address)
    if json:
        options.print_json(dataclasses.asdict(report))
    else:
        options.say_report(report, out)
    return report.exit_code
