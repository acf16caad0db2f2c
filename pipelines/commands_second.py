"""Commands for second thoughts: other gates, another detector, a new column, on the images that are there."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from pipelines import options
from pipelines.options import examples


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(
        epilog=examples(
            "humansd regate ghi --set gates.min_keypoint_score=0.5 --out sure --dry-run",
            "humansd regate ghi --detector mini-pose --out other --workers 2",
            "humansd regate laion --set gates.min_clip_score=25 --out closer",
        )
    )(regate)
    app.command(
        epilog=examples(
            "humansd annotate ghi --fn pipelines.annotate:Poses --name mini-pose",
            "humansd annotate ghi --fn my_module:Faces --arg size=64 --name faces",
            "humansd annotate ghi --fn my_module:fn --name fn --gpus-per-worker 0.5",
        )
    )(annotate)


def regate(
    dataset: options.Dataset,
    out: Annotated[str, typer.Option(help="Where the new dataset goes: another folder or URL.")],
    detector: Annotated[str | None, typer.Option(help="Another pose detector; the dataset's own by default.")] = None,
    workers: options.Workers = None,
    shards: options.Shards = None,
    address: options.Address = None,
    set_: options.Set = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> int:
    """Judge a dataset's images anew, with another detector or other gates, into another dataset.

    Accepted and rejected images are detected and gated again; nothing is sampled or downloaded. Of generated images
    the lowest accepted attempt fills each slot, and `humansd ghi` with the same settings and --out fills what is short.
    Of images from the web near-duplicates are judged anew as well.
    """
    from pipelines import regate as second

    plan = second.plan_regate(
        dataset, out, detector, options.overrides(set_, workers=workers), options.parse_shards(shards), address
    )
    if dry_run:
        if json:
            options.print_json(dataclasses.asdict(plan.survey))
        else:
            print(second.as_text(plan.survey))
        return 0
    options.say(second.as_text(plan.survey))
    report = second.run_regate(plan)
    if json:
        options.print_json(dataclasses.asdict(report))
    else:
        fills = f"humansd ghi with the same settings and --out {out} samples for slots that are short"
        options.say_report(report, out, *([fills] if report.short else []))
    return report.exit_code


def annotate(
    out: options.Dataset,
    fn: Annotated[str, typer.Option(metavar="MODULE:NAME", help="A function of rows, or a class of such functions.")],
    name: Annotated[str, typer.Option(help="What the columns are called.")],
    arg: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An argument of the class; repeatable.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows that the function gets at a time.")] = 32,
    workers: options.Workers = None,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="GPUs (or a fraction) that each worker gets.")] = 0.0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each worker.")] = 1,
    shards: options.Shards = None,
    address: options.Address = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> int:
    """Add columns to a dataset: one function over its accepted rows, the result in OUT/columns/NAME.

    The same command again makes what is missing, and what no longer belongs to its rows.
    """
    from pipelines import annotate as annotating
    from pipelines.job import Runtime

    arguments = annotating.parse_arguments(arg or [])
    annotation = annotating.Annotation(fn, name, arguments, batch_size, threads)
    wanted = options.parse_shards(shards)
    if dry_run:
        found = annotating.survey(out, annotation, wanted)
        if json:
            options.print_json(found)
        else:
            to_do, whole = found["shards_to_do"], found["shards"]
            print(f"{found['out']}: {found['rows_to_do']:,} rows in {to_do:,} of {whole:,} shards")
        return 0
    runtime = Runtime(workers=workers or 1, num_cpus=threads, num_gpus=gpus_per_worker, address=address)
    report = annotating.run_annotate(out, annotation, runtime, wanted)
    if json:
        options.print_json(dataclasses.asdict(report))
    else:
        options.say_report(report, f"{out.rstrip('/')}/columns/{name}")
    return report.exit_code
