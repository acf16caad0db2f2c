"""`humansd laion`: images of people from the web."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import options
from pipelines.config import UserError, load_config
from pipelines.options import examples

if TYPE_CHECKING:
    from pipelines.job import JobReport

laion_app = typer.Typer(invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(laion_app, name="laion")
    app.command(epilog=examples("humansd clean laion --dry-run", "humansd clean s3://bucket/laion"))(clean)


@laion_app.callback(
    epilog=examples(
        "humansd laion --config mini --out laion",
        "humansd laion --config relaion2b --set metadata.files=['meta/'] --dry-run",
        "humansd laion --config my.toml --out s3://bucket/laion --address auto",
        "humansd laion retry laion",
    )
)
def laion(
    context: typer.Context,
    out: Annotated[str | None, typer.Option(help="The dataset: a folder or a URL (s3://, gs://, az://).")] = None,
    config: Annotated[str, typer.Option(help="A bundled config, or the path of a TOML file.")] = "mini",
    n: options.Number = None,
    seed: options.Seed = None,
    workers: options.Workers = None,
    shards: options.Shards = None,
    address: options.Address = None,
    set_: options.Set = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> int:
    """Collect images of people from the web: metadata, download, scores, poses, gates, as shards of Parquet.

    The same command again resumes. A larger --n extends the dataset.
    """
    if context.invoked_subcommand is not None:
        return 0
    from pipelines.laion import job
    from pipelines.laion.config import LaionConfig

    resolved = load_config(LaionConfig, config, options.overrides(set_, n=n, seed=seed, workers=workers), "laion")
    if dry_run:
        plan = job.plan_laion(resolved)
        if json:
            options.print_json(plan)
        else:
            print(job.as_text(plan))
        return 0
    if out is None:
        raise UserError("laion: --out is missing: the folder or URL of the dataset")
    return _finish_laion(job.run_laion(resolved, out, options.parse_shards(shards), address), out, json)


@laion_app.command("retry", epilog=examples("humansd laion retry laion", "humansd laion retry laion --address auto"))
def laion_retry(out: options.Dataset, address: options.Address = None, json: options.Json = False) -> int:
    """Try the addresses that failed in passing (time-outs, 429, 5xx) once more, and only those."""
    from pipelines.laion import job

    return _finish_laion(job.run_laion(job.config_of(out), out, None, address, retry=True), out, json)


@laion_app.command("index", epilog=examples("humansd laion index --embeddings embeddings --out index"))
def laion_index(
    embeddings: Annotated[Path, typer.Option(metavar="DIR", help="clip-retrieval's: img_emb/ and metadata/.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The index folder, for index.folder in a config.")],
    memory_gb: Annotated[
        int, typer.Option(min=1, help="Gigabytes that the index may take; its making four times as much.")
    ] = 4,
) -> None:
    """Build a clip-retrieval index from embeddings, to take candidates by text."""
    from pipelines.laion.index import build

    build(embeddings, out, memory_gb)
    options.say(f"index in {out}: use it with --set index.folder={out}")


def clean(
    out: options.Dataset,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    json: options.Json = False,
) -> None:
    """Remove the downloads of a LAION-Human dataset whose shards are finished, and what only settling them needed.

    The dataset stays as it is; a larger --n still extends it, and near-duplicates give way to what is there. Addresses
    that failed in passing are not asked again: run humansd laion retry before.
    """
    from pipelines.laion import clean as cleaning
    from pipelines.status import size

    found = cleaning.clean(out, dry_run=dry_run)
    if json:
        options.print_json(dataclasses.asdict(found))
        return
    would = "would be " if dry_run else ""
    print(f"{size(found.bytes)} in {found.files:,} files of {found.shards:,} shards {would}removed")
    if found.waiting:
        options.say(f"{found.waiting:,} shards are not finished: theirs stay (humansd status {out})")
    if found.transient:
        options.say(
            f"{found.transient:,} addresses that failed in passing {'would ' if dry_run else 'will '}not be asked again"
            + (f": humansd laion retry {out} asks them first" if dry_run else "")
        )


def _finish_laion(report: JobReport, out: str, json: bool) -> int:
    from pipelines.laion import job
    from pipelines.store import Store

    if json:
        options.print_json({**dataclasses.asdict(report), "ledger": dict(job.funnel(Store(out)))})
        return report.exit_code
    for why, rows in job.funnel(Store(out)):
        print(f"{rows:>10,}  {why}")
    options.say_report(report, out)
    return report.exit_code
