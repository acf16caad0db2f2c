"""`humansd takedown`: rows that must go, and stay away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import options
from pipelines.config import UserError
from pipelines.options import examples

if TYPE_CHECKING:
    from pipelines.takedown import Report


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(
        epilog=examples(
            "humansd takedown laion --url https://example.org/me.jpg",
            "humansd takedown ghi --key ghi-0123abcd-17 --key ghi-0123abcd-18 --dry-run",
            "humansd takedown s3://bucket/laion --keys requests.txt",
            "humansd takedown laion --hash 9f86d081884c7d65",
        )
    )(takedown)


def takedown(
    out: options.Dataset,
    key: Annotated[list[str] | None, typer.Option(help="A sample's key; repeatable.")] = None,
    url: Annotated[list[str] | None, typer.Option(help="Where an image was found; repeatable.")] = None,
    hash_: Annotated[
        list[str] | None,
        typer.Option("--hash", metavar="HEX", help="SHA-256 of an image (64 digits), or its perceptual hash (16)."),
    ] = None,
    keys: Annotated[str | None, typer.Option(metavar="FILE", help="A text file (or URL) with one key a line.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go; change nothing.")] = False,
    json: options.Json = False,
) -> int:
    """Remove rows from every file of a dataset; they never come back, and their slots stay empty.

    The list OUT/takedown.parquet is written first, then each shard concerned. Added columns of these shards are
    dropped: the same humansd annotate makes them anew. What is not there is named (exit code 1) and will not come.
    Copies under other keys go with --hash; other datasets, made from this one before, need a takedown of their own.
    """
    from pipelines import taken
    from pipelines.shards import now
    from pipelines.takedown import take_down

    listed = [] if keys is None else _lines(keys)
    report = take_down(out, taken.parse([*(key or ()), *listed], url or (), hash_ or (), now()), dry_run=dry_run)
    _print_report(report, json)
    would = "would be " if dry_run else ""
    options.say(f"{len(report.removed):,} keys {would}removed, {len(report.shards):,} shards {would}written anew")
    if report.columns:
        options.say(f"{len(report.columns):,} tables of added columns {would}dropped: run humansd annotate again")
    for name in report.damaged:
        options.say(f"{name}: does not match its done marker: {would}dropped; run the job again to make it anew")
    for entry in report.missing:
        options.say(f"not there: {entry.kind} {entry.value}" + ("" if dry_run else ": noted, so that it never comes"))
    return report.exit_code


def _print_report(report: Report, json: bool) -> None:
    for match in report.removed:
        if json:
            options.print_json({"key": match.key, "shard": match.shard, "matched": match.matched})
        else:
            print(" ".join([f"shard {match.shard}: {match.key}", *(f"({value})" for value in match.matched)]))


def _lines(file: str) -> list[str]:
    from pipelines.store import Store
    from pipelines.taken import listed_keys

    folder, _, name = file.rpartition("/")
    try:
        found = listed_keys(Store(folder or ".").read(name).decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--keys {file}: {error}") from None
    if not found:
        raise UserError(f"--keys {file}: holds no key")
    return found
