"""What `humansd` can do: one small function a command, each a way into one module."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import typer

from pipelines import (
    commands_evaluate,
    commands_export,
    commands_laion,
    commands_models,
    commands_second,
    commands_sets,
    commands_takedown,
    commands_train,
    options,
)
from pipelines.config import UserError, load_config
from pipelines.options import examples

prompts_app = typer.Typer(invoke_without_command=True)
actions_app = typer.Typer(help="The list of actions that prompts draw from.")


def register(app: typer.Typer) -> None:
    """Add every command to the command line, in the order that `--help` shows."""
    app.command(epilog=examples("humansd demo", "humansd demo --out /data/demo"))(demo)
    prompts_app.add_typer(actions_app, name="actions")
    app.add_typer(prompts_app, name="prompts")
    app.command(
        epilog=examples(
            "humansd ghi --config mini --n 1000 --workers 2 --out ghi",
            "humansd ghi --config sd21 --out s3://bucket/ghi --address auto --workers 8",
            "humansd ghi --config sd21 --set sampler.steps=20 --out ghi --dry-run",
        )
    )(ghi)
    commands_sets.register_imports(app)
    commands_sets.register_detectors(app, commands_evaluate.app)
    commands_second.register(app)
    commands_laion.register(app)
    commands_train.register(app)
    app.add_typer(commands_evaluate.app, name="evaluate")
    app.command(epilog=examples("humansd status ghi", "humansd status s3://bucket/ghi --watch"))(status)
    app.command(
        epilog=examples(
            "humansd inspect ghi --sheet sheet.png",
            "humansd inspect ghi --sheet rejected.png --rejected --n 48",
            "humansd inspect ghi --html report.html",
            "humansd inspect ghi --serve",
            "humansd inspect s3://bucket/ghi --serve --port 0",
            "humansd inspect ghi --json",
        )
    )(inspect)
    app.command(epilog=examples("humansd index ghi", "humansd index ghi --columns captions"))(index)
    app.command(epilog=examples("humansd verify ghi", "humansd verify s3://bucket/ghi --json"))(verify)
    app.command(epilog=examples("humansd repair ghi"))(repair)
    commands_takedown.register(app)
    commands_export.register(app)
    app.command(
        epilog=examples(
            "humansd plan --config mini --n 10000",
            "humansd plan --config mini --n 10000 --probe",
            "humansd plan --models sd21 sd15 --n 1000000 --gpus 8 --probe",
            "humansd plan --config sd21 --from ghi --gpus 1 8 64 512",
            "humansd plan --config sd21 --from ghi --set price_per_gpu_hour=2.50",
        ),
    )(plan)
    commands_models.register(app)


def demo(
    out: Annotated[Path, typer.Option(help="The folder for everything.")] = Path("out/demo"),
    n: Annotated[int, typer.Option("--n", min=1, help="Samples to make.")] = 60,
    workers: options.Workers = 2,
) -> int:
    """The whole pipeline on the embedded default: miniature models, no GPU, no network, a few minutes.

    Generates images of people from grammar prompts, collects others from a small web, finds the poses, keeps what
    fits, draws contact sheets, and trains a model on both that draws people in given poses. The same command again
    goes on where it stopped.
    """
    from pipelines.demo import run_demo

    return run_demo(out, n, workers or 2)


@prompts_app.callback(
    epilog=examples(
        "humansd prompts --n 5",
        "humansd prompts --n 1000000 --out prompts.parquet",
        "humansd prompts --n 10000 --scenes natural --stats",
    )
)
def prompts(
    context: typer.Context,
    n: Annotated[int, typer.Option("--n", min=1, help="How many prompts.")] = 10,
    seed: options.Seed = None,
    scenes: Annotated[
        str | None, typer.Option(help="'natural', 'all' or names with commas; the 14 artificial ones by default.")
    ] = None,
    grammar: Annotated[Path | None, typer.Option(help="Your own grammar folder in place of the bundled one.")] = None,
    out: Annotated[Path | None, typer.Option(help="FILE.parquet or FILE.jsonl, every part a column.")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Print the distributions in place of the prompts.")] = False,
    json: options.Json = False,
) -> None:
    """Prompts alone: print them, write them with all their parts, or count what they draw."""
    if context.invoked_subcommand is not None:
        return
    from pipelines import prompt_table

    names = tuple(scenes.split(",")) if scenes and "," in scenes else scenes
    wanted = prompt_table.PromptRange(n, seed or 0, grammar, names)
    if out is not None:
        prompt_table.write(wanted, out)
        options.say(f"{n:,} prompts in {out}")
    if stats:
        counted = prompt_table.count(wanted)
        if json:
            options.print_json(counted)
        else:
            print(prompt_table.as_text(counted))
    elif json:
        prompt_table.write_lines(wanted)
    elif out is None:
        prompt_table.write_text(wanted)


@actions_app.command(
    "import",
    epilog=examples(
        "humansd prompts actions import --babel babel_v1.0_release --out my-grammar",
        "humansd prompts actions import --humman action_names.txt --out my-grammar",
    ),
)
def actions_import(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Your grammar folder: made, or added to if it is there.")],
    babel: Annotated[Path | None, typer.Option(metavar="PATH", help="Your copy of BABEL: a file or a folder.")] = None,
    humman: Annotated[Path | None, typer.Option(metavar="PATH", help="HuMMan's action names: text or JSON.")] = None,
    json: options.Json = False,
) -> None:
    """Add action labels from your own licensed copy of BABEL or HuMMan to a grammar folder of yours.

    Use it with --set grammar.dir=DIR. Neither data set may be passed on, so do not publish the folder.
    """
    from prompts.actions import DATA, import_labels

    given = {"babel": babel, "humman": humman}
    if not any(given.values()):
        raise UserError("nothing to import: give --babel PATH or --humman PATH")
    for kind, path in given.items():
        if path is None:
            continue
        done = import_labels(path, kind, out, out if (out / "actions.tsv").is_file() else DATA)
        if json:
            options.print_json({"from": kind, "added": len(done.added), "left_out": dict(done.left_out)})
        else:
            print(f"{kind}: {len(done.added):,} actions added")
            for reason, number in done.left_out.most_common():
                print(f"  {number:,} left out: {reason}")
    options.say(f"humansd ghi --set grammar.dir={out} … uses them")


def ghi(
    out: options.Out,
    config: options.Config = "mini",
    n: options.Number = None,
    seed: options.Seed = None,
    workers: options.Workers = None,
    shards: options.Shards = None,
    address: options.Address = None,
    set_: options.Set = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> int:
    """Generate images of people with text and poses from a diffusion model, as shards of Parquet.

    The same command again resumes: only missing shards are made. A larger --n extends the dataset.
    """
    from pipelines.ghi.config import GhiConfig
    from pipelines.ghi.job import plan_ghi, run_ghi

    resolved = load_config(GhiConfig, config, options.overrides(set_, n=n, seed=seed, workers=workers))
    wanted = options.parse_shards(shards)
    if dry_run and json:
        options.print_json(plan_ghi(resolved, out, wanted))
        return 0
    report = run_ghi(resolved, out, wanted, address, dry_run)
    if json:
        options.print_json(dataclasses.asdict(report))
    elif not dry_run:
        options.say_report(report, out)
    return report.exit_code


def status(
    out: options.Dataset,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every few seconds until all is made.")] = False,
    json: options.Json = False,
) -> int:
    """Where a dataset stands: shards, accept rate, reasons, speed, cost, and what is short or failed."""
    from pipelines import status as reader

    while True:
        found = reader.read_status(out)
        if json:
            options.print_json(reader.as_json(found))
        else:
            if watch:
                typer.echo("\x1b[2J\x1b[H", nl=False)
            print(reader.as_text(found), flush=True)
        if not watch or found.over:
            return 1 if found.short or found.failed else 0
        time.sleep(5)


def inspect(
    out: options.Dataset,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw a contact sheet.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="One page: samples, funnel, coverage, why rejected.")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve pages on this machine: filter, look, flag.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where --serve listens; 0 takes a free one.")] = 8800,
    rejected: Annotated[bool, typer.Option("--rejected", help="What was rejected, with the reasons.")] = False,
    n: Annotated[int, typer.Option("--n", min=1, help="How many rows, drawn at random.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other rows.")] = 0,
    poses: options.Poses = None,
    json: options.Json = False,
) -> None:
    """Look at a dataset: a contact sheet with skeletons and captions, a page about all of it, or rows as text.

    --serve shows every sample in the browser, on this machine only: filters, skeletons, prompts, provenance. What is
    flagged there goes to OUT/flagged.txt, a list that humansd takedown --keys reads.
    """
    if serve:
        from pipelines.inspect.serve import serve as serve_pages

        if sheet is not None or html is not None or rejected or poses is not None or json:
            raise UserError("--serve shows accepted and rejected as they are: leave the other options but --port out")
        serve_pages(out, port)
        return
    if html is not None:
        from pipelines.inspect.report import write_report

        if sheet is not None or rejected:
            raise UserError("--html shows accepted and rejected: leave --sheet and --rejected out")
        options.say(f"{write_report(out, html, n, seed, poses):,} samples and what was rejected in {html}")
        return
    from pipelines.inspect import rows

    picked, total = rows.pick(out, "rejected" if rejected else "shards", n, seed, poses)
    if sheet is not None:
        from pipelines.inspect.sheet import card_of, draw_sheet, save

        kind = "rejected" if rejected else "accepted"
        save(draw_sheet([card_of(row) for row in picked], out, f"{len(picked)} of {total:,} {kind}"), sheet)
        options.say(f"{len(picked)} of {total:,} {kind} samples in {sheet}")
    elif json:
        for row in picked:
            options.print_json(rows.summary(row))
    else:
        for row in picked:
            print(rows.as_text(row))


def index(
    out: options.Dataset,
    columns: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Columns that annotate added, too; repeatable.")
    ] = None,
) -> None:
    """Write OUT/index.parquet: every column but the images, for pandas."""
    from pipelines.dataset import write_index

    rows = write_index(out, columns or ())
    options.say(f"{rows:,} rows in {out.rstrip('/')}/index.parquet")


def verify(out: options.Dataset, json: options.Json = False) -> int:
    """Re-read every file of a dataset and compare it with its done marker."""
    from pipelines.dataset import verify as check

    found = 0
    for problem in check(out):
        found += 1
        if json:
            options.print_json(dataclasses.asdict(problem))
        else:
            print(f"{problem.file}: {problem.what}")
    options.say(f"{found} problems: humansd repair {out} drops what is wrong" if found else "sound")
    return 1 if found else 0


def repair(out: options.Dataset, json: options.Json = False) -> None:
    """Drop what `verify` finds wrong, so that running the job again makes exactly that anew."""
    from pipelines.dataset import repair as mend

    problems = mend(out)
    for problem in problems:
        if json:
            options.print_json(dataclasses.asdict(problem))
        else:
            print(f"{problem.file}: {problem.what}")
    options.say("dropped; run the job again to make it anew" if problems else "sound: nothing to repair")


def plan(
    config: options.Config = "mini",
    models: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL...", help="Side by side: bundled configs, TOML files, hub ids or folders."),
    ] = None,
    n: options.Number = None,
    workers: options.Workers = None,
    gpus: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="N...", help="GPUs to spread the work over; several are compared."),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="OUT", help="Take what this dataset, or an earlier plan --json, measured."),
    ] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Measure here: 200 prompts, five minutes at most.")] = False,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    """What a job will take before it runs: images, hours, cost and storage, with intervals.

    Without --probe or --from only what follows from the config is said.
    """
    from pipelines import plan as planner
    from pipelines.ghi.config import GhiConfig

    if models and from_:
        raise UserError("--from tells of one model: give --config, or --probe with several --models")
    plans = []
    for name in models or [config]:
        given = options.overrides(set_, n=n, workers=workers)
        source = name if planner.names_config(name) else config
        if source != name:
            given += [f"model.id={name}", "model.revision=none", "model.variant=none"]
        resolved = load_config(GhiConfig, source, given)
        plans.append(planner.make_plan(name, resolved, gpus or (), probe=probe, out=from_))
        if json:
            options.print_json(planner.as_json(plans[-1]))
        else:
            print(planner.as_text(plans[-1]), end="\n\n")
    if len(plans) > 1 and not json and any(plan.measured for plan in plans):
        print(planner.side_by_side(plans))
