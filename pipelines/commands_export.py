"""`humansd export`: datasets in formats of others."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pipelines import options
from pipelines.options import examples


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(
        epilog=examples(
            "humansd export ghi laion --to webdataset --out tars",
            "humansd export ghi --to hf --conditioning --out s3://bucket/controlnet",
            "humansd export ghi humanart --to humansd-layout --out datasets",
            "humansd export humanart --to coco --out humanart-coco",
            "humansd export ghi --to recipe --out ghi-recipe",
        )
    )(export)


def export(
    datasets: Annotated[
        list[str], typer.Argument(metavar="OUT...", help="Datasets: folders or URLs (s3://, gs://, az://).")
    ],
    to: Annotated[Literal["webdataset", "hf", "humansd-layout", "coco", "recipe"], typer.Option(help="The format.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="A new folder or URL.")],
    conditioning: Annotated[
        bool, typer.Option("--conditioning", help="hf: image, conditioning_image (skeletons) and text, for ControlNet.")
    ] = False,
    poses: Annotated[
        str | None, typer.Option(metavar="NAME", help="The people of these added columns, not the dataset's own.")
    ] = None,
    json: options.Json = False,
) -> int:
    """A dataset in another format: tar shards, a Hugging Face folder, HumanSD's own layout, COCO JSON, or a recipe.

    The same command again makes what is missing or has changed since: shards that grew, rows that were taken down.
    What was imported from COCO JSON comes out of --to coco value for value. A recipe is one Parquet file without
    images, from which humansd rebuild makes the dataset again.
    """
    from pipelines.export import job

    report = job.run_export(datasets, to, out, poses, conditioning, options.say)
    if json:
        options.print_json(job.as_json(report))
    for name, why in list(report.failed.items())[: options.NAMED]:
        options.say(f"failed: shard {name}: {why}")
    if report.taken:
        options.say(f"{report.taken:,} rows were taken down and are left out: humansd takedown finishes their removal")
    what = f"{report.rows:,} rows of {report.shards:,} shards in {out}"
    if report.failed:
        options.say(f"{what}; {len(report.failed):,} shards are missing: the same command again makes them")
    else:
        options.say(f"{what}: {'written and read back' if report.changed else 'all there, nothing to do'}")
    return report.exit_code
