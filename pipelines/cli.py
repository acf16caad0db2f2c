"""The command line: `humansd` or `python -m pipelines`. Heavy imports happen inside the commands, never here.

Data for machines goes to stdout, progress and notes to stderr. Exit codes: 0 done; 1 finished, but something is short,
failed or unsound (named); 2 the user's mistake, told in one line; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import typer
from typer.core import TyperGroup

from pipelines import commands
from pipelines.config import UserError
from pipelines.options import examples, say

LEAVES: Final = ("prompts", "detectors")
"""Packages that know nothing of UserError: the ValueErrors they define are the user's mistakes too."""


SEVERAL: Final = ("--models", "--gpus", "--data")
"""Options that take several values in a row."""


class _Group(TyperGroup):
    """The commands; one whose reader has seen enough (`humansd prompts | head`) ends well."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:  # here, as Typer makes a bare exit code of it
            say("humansd: interrupted")
            return 130
        return result


app = typer.Typer(
    name="humansd",
    cls=_Group,
    help="Datasets of humans with text and poses: generate, check, look at, resume.",
    epilog=examples("humansd demo", "humansd ghi --config mini --n 1000 --out ghi", "humansd status ghi"),
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
commands.register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a mistake of the user is one line on stderr, never a traceback."""
    given = spread(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(args=given, prog_name="humansd", standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "humansd"
        say(f"{path}: {one_line(error.format_message())} (see {path} --help)")
        return 2
    except UserError as error:
        say(f"humansd: {one_line(str(error))}")
        return 2
    except ValueError as error:
        if type(error).__module__.partition(".")[0] not in LEAVES:
            raise
        say(f"humansd: {one_line(str(error))}")
        return 2
    except OSError as error:  # a file that the user named and that cannot be written or read
        if error.filename is None:
            raise
        say(f"humansd: {error.filename}: {error.strerror}")
        return 2
    except typer.Abort:
        say("humansd: interrupted")
        return 130
    return code if isinstance(code, int) else 0


def spread(arguments: Sequence[str]) -> list[str]:
    """Return `--models A B` as the parser wants it, `--models A --models B`; likewise all of `SEVERAL`."""
    result: list[str] = []
    option, values = "", 0
    for word in arguments:
        if word.startswith("-"):
            option, values = word, 0
        else:
            if option in SEVERAL and values:
                result.append(option)
            values += 1
        result.append(word)
    return result


def one_line(text: str) -> str:
    """Return text without line breaks."""
    return " ".join(text.split())
