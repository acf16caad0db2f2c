"""Commands around annotated sets: import them, detect people in images, measure detectors, export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines import options
from pipelines.config import load_config
from pipelines.options import examples

if TYPE_CHECKING:
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


def register_export(app: typer.Typer) -> None:
    """Add the command that writes datasets in other formats."""
    app.command(epilog=examples("humansd export humanart --to coco --out humanart-coco"))(export)


def export(
    dataset: options.Dataset,
    to: Annotated[Literal["coco"], typer.Option(help="The format.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    json: options.Json = False,
) -> None:
    """A dataset in another format: COCO JSON with its images beside it.

    What was imported from COCO JSON comes out value for value; DIR is a set that `humansd coco` imports again.
    """
    from pipelines import export as writer

    images, annotations = writer.to_coco(dataset, out)
    if json:
        options.print_json({"out": str(out), "format": to, "images": images, "annotations": annotations})
    options.say(f"{images:,} images and {annotations:,} annotations in {out / writer.COCO_FILE}")


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
