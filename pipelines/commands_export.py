"""`humansd export` and `humansd rebuild`: datasets to pass on."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pipelines import options
from pipelines.options import examples


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(
        epilog=examples(
            "humansd export ghi laion --to webdataset --out tars",
            "humansd export ghi --to hf --conditioning --out s3://bucket/controlnet",
            "humansd export ghi humanart --to humansd-layout --out datasets",
            "humansd export humanart --to coco --out humanart-coco",
            "humansd export ghi --to recipe --out ghi-recipe",
        )
    )(export)
    app.command(
        epilog=examples(
            "humansd rebuild ghi-recipe/recipe.parquet --out ghi-again --dry-run",
            "humansd rebuild ghi-recipe/recipe.parquet --out ghi-again",
            "humansd rebuild recipe.parquet --out ghi --set gpus_per_worker=1",
            "humansd rebuild recipe.parquet --out s3://bucket/ghi --address auto",
        )
    )(rebuild)


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


def rebuild(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="The recipe.parquet that export --to recipe wrote.")],
    out: options.Out,
    workers: options.Workers = None,
    shards: options.Shards = None,
    address: options.Address = None,
    set_: options.Set = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> int:
    """A dataset again from its recipe: its accepted images are sampled, or downloaded, once more.

    OUT/rebuild.parquet tells of each row whether its image has the same bytes, the same perceptual hash, is another
    one (left out), or is missing. The same command again makes what is missing. --set takes keys that decide no bytes,
    such as gpus_per_worker or model.id.
    """
    from pipelines import rebuild as maker
    from pipelines.recipe import open_recipe

    key = "workers" if open_recipe(recipe).source == "ghi" else "fetch.workers"
    given = options.overrides(set_, **{key: workers})
    if dry_run:
        found = maker.plan_rebuild(recipe, out, given, options.parse_shards(shards))
        if json:
            options.print_json(found)
        else:
            print(maker.as_text(found))
        return 0
    done = maker.run_rebuild(recipe, out, given, options.parse_shards(shards), address)
    if json:
        options.print_json({"out": out, **done.matches})
    else:
        for match, rows in done.matches.items():
            print(f"{rows:>10,}  {match}")
    for shard, line in sorted(done.report.failed.items())[: options.NAMED]:
        options.say(f"failed: shard {shard}: {line}")
    options.say(f"{out.rstrip('/')}/{maker.MATCHES} tells of each row; the same command again makes what is missing")
    return done.exit_code
