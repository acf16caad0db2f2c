"""Install everything and pass every check: `uv run --frozen python -m tests [pytest arguments]`.

Standard library only, so that it runs before anything is installed. The first run compiles mmcv: 10 to 20 minutes.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BROWSER = ["chromium", "chromedriver"]
INSTALL_IT = "apt-get install chromium chromium-driver"
UV_RUN = ["uv", "run", "--frozen", "--all-extras", "--group", "dev"]
PARALLEL = ["--numprocesses", "2", "--dist", "loadfile"]
"""Two processes, a file at a time: what a file's tests share is made once."""


def missing_tools() -> list[str]:
    """Name what compiling mmcv needs and this machine lacks."""
    missing = []
    if shutil.which("g++") is None:
        missing.append("g++ (a C++ compiler)")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        missing.append(f"Python.h (headers of Python {sys.version_info.major}.{sys.version_info.minor})")
    return missing


def run(title: str, command: list[str]) -> int:
    """Run one check from the project's root; say what runs, and give back its exit code."""
    print(f"\n== {title}: {shlex.join(command)}", flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def main(pytest_arguments: list[str]) -> int:
    """Run the checks in order and stop at the first that fails; return its exit code."""
    missing = missing_tools()
    if missing:
        print(f"missing: {', '.join(missing)}; install with: apt-get install g++ python3-dev", file=sys.stderr)
        return 2
    if shutil.which("uv") is None:
        print("missing: uv; install with: pip install uv", file=sys.stderr)
        return 2
    browser = [name for name in BROWSER if shutil.which(name) is None]
    if browser:
        print(f"missing: {', '.join(browser)}; the tests in a browser are skipped without; install with: {INSTALL_IT}")
    print("installing all extras (mmcv is compiled the first time: 10 to 20 minutes) and running every check")
    checks = [
        ("lint", [*UV_RUN, "ruff", "check"]),
        ("format", [*UV_RUN, "ruff", "format", "--check"]),
        ("types", [*UV_RUN, "mypy"]),
        ("tests", [*UV_RUN, "pytest", *PARALLEL, *pytest_arguments]),
    ]
    for title, command in checks:
        code = run(title, command)
        if code != 0:
            print(f"\n{title} failed (exit code {code})", file=sys.stderr)
            return code
    print("\nall checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
