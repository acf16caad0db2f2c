"""The README says only what is true: its commands, options, config keys and code are tried here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from pipelines import cli, dataset
from pipelines.annotate import Annotation
from pipelines.config import load_config
from pipelines.ghi.config import GhiConfig
from tests.pipelines.small_dataset import add_columns, write_dataset
from tests.pipelines.test_cli import LEAVES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUICK_START = "pip install uv && uv run --frozen humansd demo"
ALL_CHECKS = "pip install uv && uv run --frozen python -m tests"


def blocks(language: str) -> list[str]:
    return [body for kind, body in FENCED.findall(README) if kind == language]


def command_lines() -> list[str]:
    """Every `humansd …` of the README, in blocks and in running text, without comments."""
    shell = [line.partition("#")[0] for body in blocks("bash") for line in body.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", FENCED.sub("", README))
    found = [re.search(r"\bhumansd( [^&]*|$)", line) for line in [*shell, *inline]]
    return [match[0].strip() for match in found if match]


@pytest.mark.parametrize("line", sorted(set(command_lines())))
def test_every_command_of_the_readme_exists(line: str) -> None:
    words = shlex.split(line)[1:]
    command: Any = typer.main.get_command(cli.app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for word in words:
        if word.startswith("--"):
            assert word in known, f"{line}: no option {word}"
    assert words or not getattr(command, "commands", {}) or line == "humansd", f"{line}: not a command"
    if words and words[0] != "COMMAND":
        assert not getattr(command, "commands", {}) or words[0].startswith("--"), f"{line}: not a command"


def test_every_command_is_in_the_readme() -> None:
    for path in LEAVES:
        assert f"`humansd {' '.join(path)}" in README, f"humansd {' '.join(path)} is not documented"


def test_options_named_alone_belong_to_some_command() -> None:
    known = {option for command in LEAVES.values() for parameter in command.params for option in parameter.opts}
    for option in re.findall(r"`(--[a-z-]+)", README):
        assert option in known, option


def test_its_config_loads(tmp_path: Path) -> None:
    found = blocks("toml")
    assert found
    for number, text in enumerate(found):
        file = tmp_path / f"{number}.toml"
        file.write_text(text, encoding="utf-8")
        load_config(GhiConfig, file)


def test_overrides_in_it_are_keys() -> None:
    lines = [line for line in command_lines() if line.split()[1:2] in (["ghi"], ["plan"], ["regate"])]
    overrides = re.findall(r"--set (\S+=\S+)", "\n".join(lines))
    assert overrides
    load_config(GhiConfig, "mini", overrides)


def test_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "ghi", 1)
    dataset.write_index(str(tmp_path / "ghi"))
    add_columns(tmp_path / "ghi", Annotation("pipelines.annotate:Poses", "sure", {"min_score": 0.6}))
    monkeypatch.chdir(tmp_path)
    found = blocks("python")
    assert found
    for text in found:
        exec(compile(text, "README.md", "exec"), {})
    assert "17, 3)" in capsys.readouterr().out


def test_both_commands_are_what_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in (QUICK_START, ALL_CHECKS):
        assert command in README
        for part in command.split(" && "):
            assert part in script, f".ci/run does not run: {part}"


def test_links_and_pictures_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    for name in re.findall(r"`((?:pipelines|prompts|detectors|tests)/[\w./]+)`", README):
        assert (ROOT / name).exists(), name
