"""The house rules: which folders there are, who may import whom, and that nobody else's packages take our names."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("pipelines", "prompts", "detectors")
FOLDERS = {*OURS, "tests"}
FILES = {"pyproject.toml", "uv.lock", "README.md", "LICENSE", "ray_cluster.yaml"}
SOURCES = ("pipelines.ghi", "pipelines.laion", "pipelines.humanart")
CONSUMERS = ("pipelines.train", "pipelines.evaluate", "pipelines.inspect")
MAY_IMPORT_RAY = ("pipelines/engine.py", "pipelines/cluster/", "pipelines/train/ray.py", "tests/")


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return listed.stdout.split("\n")[:-1]


def modules() -> list[Path]:
    found = [path for package in OURS for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(found) > 10
    return found


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of everything a file imports, at whatever depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def test_the_top_level_holds_only_what_it_should() -> None:
    files = tracked()
    folders = {file.split("/")[0] for file in files if "/" in file}
    assert {folder for folder in folders if not folder.startswith(".")} <= FOLDERS
    assert {file for file in files if "/" not in file and not file.startswith(".")} <= FILES


@pytest.mark.parametrize("package", ["prompts", "detectors"])
def test_the_leaves_import_nothing_else_of_ours(package: str) -> None:
    others = tuple(name for name in (*OURS, "tests") if name != package)
    for path in sorted((ROOT / package).rglob("*.py")):
        for line, name in imports(path):
            assert not within(name, others), f"{path}:{line} imports {name}"


def test_sources_and_consumers_do_not_know_each_other() -> None:
    for path in modules():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for line, name in imports(path):
            if within(module, SOURCES):
                assert not within(name, CONSUMERS), f"{path}:{line} imports {name}"
            if within(module, CONSUMERS):
                assert not within(name, SOURCES), f"{path}:{line} imports {name}"


def test_only_the_engine_and_the_cluster_import_ray() -> None:
    for path in modules():
        if str(path.relative_to(ROOT)).startswith(MAY_IMPORT_RAY):
            continue
        for line, name in imports(path):
            assert not within(name, ("ray",)), f"{path}:{line} imports {name}"


def test_no_dependency_provides_a_package_of_our_name() -> None:
    for top, names in importlib.metadata.packages_distributions().items():
        if top in OURS:
            assert set(names) <= {"humansd"}, f"{top} also comes with {names}"


def test_every_test_mirrors_the_tree() -> None:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        assert (path.parent / "__init__.py").is_file(), f"{path.parent} lacks __init__.py"
        folder = path.parent.relative_to(ROOT / "tests")
        assert (ROOT / folder).is_dir() or folder.parts[0] == "bench", f"{path} mirrors no folder"


def test_nothing_large_is_tracked() -> None:
    sizes = {file: (ROOT / file).stat().st_size for file in tracked() if (ROOT / file).is_file()}
    weights = sum(size for file, size in sizes.items() if file.endswith(".safetensors"))
    assert weights <= 40_000_000
    assert not [file for file, size in sizes.items() if size > 12_000_000]
