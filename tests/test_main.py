"""`python -m tests`: what it asks for, what it runs, and when it stops."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import __main__ as checks


class Runner:
    """Stands in for the processes: notes their commands, and lets one tool fail."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.fails = ""

    def __call__(self, command: list[str], cwd: Path, check: bool) -> subprocess.CompletedProcess[str]:
        assert (cwd / "pyproject.toml").is_file()
        self.commands.append(command)
        return subprocess.CompletedProcess(command, 3 if self.fails in command else 0)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    made = Runner()
    monkeypatch.setattr(subprocess, "run", made)
    monkeypatch.setattr(checks, "missing_tools", list)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    return made


def test_every_check_runs_and_arguments_go_to_pytest(runner: Runner) -> None:
    assert checks.main(["-k", "sheet"]) == 0
    assert all(command[:3] == ["uv", "run", "--frozen"] and "--all-extras" in command for command in runner.commands)
    tools = [command[len(checks.UV_RUN) :] for command in runner.commands]
    pytest_command = ["pytest", *checks.PARALLEL, "-k", "sheet"]
    assert tools == [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], pytest_command]


def test_the_first_failure_ends_it(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    runner.fails = "mypy"
    assert checks.main([]) == 3
    assert runner.commands[-1][-1] == "mypy"
    assert "types failed" in capsys.readouterr().err


def test_a_missing_compiler_is_named_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert checks.main([]) == 2
    message = capsys.readouterr().err
    assert "g++" in message
    assert "apt-get install g++ python3-dev" in message


def test_a_missing_browser_is_named_and_everything_else_runs(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "chromium" else f"/usr/bin/{name}")
    assert checks.main([]) == 0
    assert len(runner.commands) == 4
    assert "missing: chromium; the tests in a browser are skipped" in capsys.readouterr().out


def test_it_needs_nothing_installed() -> None:
    tree = ast.parse(Path(checks.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
