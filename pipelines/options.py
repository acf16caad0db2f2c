"""Options of the command line that several commands share, so that each means the same everywhere."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pipelines.config import UserError

if TYPE_CHECKING:
    from pipelines.job import JobReport

NAMED: Final = 10
"""Shards and slots that are named one by one."""

Config = Annotated[str, typer.Option(help="A bundled config (mini, sd15, sd21, sdxl) or the path of a TOML file.")]
Out = Annotated[str, typer.Option(help="The dataset: a folder or a URL (s3://, gs://, az://).")]
Dataset = Annotated[str, typer.Argument(metavar="OUT", help="The dataset: a folder or a URL (s3://, gs://, az://).")]
Data = Annotated[list[str] | None, typer.Option(metavar="OUT...", help="Datasets: folders or URLs.")]
Number = Annotated[int | None, typer.Option("--n", min=1, help="How many; the config's n by default.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Another seed is another dataset.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Workers that hold the models: one a GPU, or a CPU core.")]
Shards = Annotated[str | None, typer.Option(metavar="A:B", help="Only the shards A … B-1, beside other drivers.")]
Address = Annotated[str | None, typer.Option(metavar="RAY", help="Ray cluster to join; else Ray starts here.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a config key; repeatable.")]
Poses = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Show the people of these added columns in place of the dataset's own."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and say what would run; make nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


def examples(*lines: str) -> str:
    """Return the end of a command's help: command lines to copy."""
    return "Examples:\n" + "\n".join(f"  {line}" for line in lines)


def overrides(given: list[str] | None, **options: int | float | None) -> list[str]:
    """Return `--set` overrides with those of an option's own added; an option that was not given adds none."""
    return [*(given or []), *(f"{name}={value}" for name, value in options.items() if value is not None)]


def parse_shards(text: str | None) -> range | None:
    """Read `A:B` as the shards A … B-1; None stays None."""
    if text is None:
        return None
    start, colon, stop = text.partition(":")
    if not (colon and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise UserError(f"--shards {text}: must be A:B with A < B, for example --shards 0:100 for the first hundred")
    return range(int(start), int(stop))


def print_json(value: Any) -> None:
    """Print one JSON object on one line of stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str))


def say(text: str) -> None:
    """Tell the user something that is not data: on stderr."""
    print(text, file=sys.stderr, flush=True)


def say_report(report: JobReport, out: str, again: str = "the same command again makes what is missing") -> None:
    """Name what a job could not make, and how to see more."""
    for shard, line in sorted(report.failed.items())[:NAMED]:
        say(f"failed: shard {shard}: {line}")
    if report.short:
        more = " …" if len(report.short) > NAMED else ""
        say(f"short: {len(report.short):,} slots are not filled: {', '.join(report.short[:NAMED])}{more}")
    if report.missing:
        say(f"not made: {report.missing:,} shards" + (f" ({report.stopped})" if report.stopped else ""))
    say(f"humansd status {out} tells more; {again}")
