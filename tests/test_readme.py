"""The pages say only what is true: their commands, options, config keys, files, links and code are tried here."""

from __future__ import annotations

import io
import itertools
import re
import shlex
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import typer.main
from PIL import Image

from pipelines import cli, dataset, open_dataset
from pipelines.annotate import Annotation
from pipelines.config import UserError, keys, load_config
from pipelines.evaluate.config import EvaluateConfig
from pipelines.ghi.config import GhiConfig
from pipelines.humanart.config import ImportConfig
from pipelines.laion.config import LaionConfig
from pipelines.train.config import TrainConfig
from tests.pipelines.small_dataset import add_columns, write_dataset
from tests.pipelines.test_cli import LEAVES

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("prompts", "detectors", "pipelines")
PAGES: Final = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
    if "results" not in path.parts
}
"""All pages but tables of results, which benchmarks write."""
README = PAGES["README.md"]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?<![\w/-])(?:humansd|python -m pipelines)( [^&]*|$)")
QUICK_START = "pip install uv && uv run --frozen humansd demo"
ALL_CHECKS = "pip install uv && uv run --frozen python -m tests"
CONFIGS: Final[dict[type[Any], tuple[str, str]]] = {
    GhiConfig: ("mini", ""),
    LaionConfig: ("mini", "laion"),
    TrainConfig: ("mini", "train"),
    EvaluateConfig: ("mini", "evaluate"),
    ImportConfig: ("coco", ""),
}
"""Class of a config → a bundled one, and its folder."""
OF_COMMAND: Final[dict[str, type[Any]]] = {
    "ghi": GhiConfig,
    "plan": GhiConfig,
    "regate": GhiConfig,
    "laion": LaionConfig,
    "train": TrainConfig,
}
KEYS: Final = {name for cls in CONFIGS for name, _ in keys(cls)}
OF_MMENGINE: Final = {"train_dataloader.batch_size"}
"""Keys of the configs that `humansd models train` takes."""
SEPARATE: Final = ("README.md", "detectors/README.md")
"""Pages whose blocks of Python stand alone; on others each goes on from those before, as in a notebook."""


def blocks(page: str, language: str) -> list[str]:
    return [body for kind, body in FENCED.findall(PAGES[page]) if kind == language]


def inline(page: str) -> list[str]:
    """What stands between backticks in running text."""
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", PAGES[page]))


def command_lines(page: str) -> list[str]:
    """Every `humansd …` of a page, in blocks and in running text, without comments."""
    bodies = (body.replace("\\\n", " ") for body in blocks(page, "bash"))
    shell = [line.partition("#")[0] for body in bodies for line in body.splitlines()]
    found = [COMMAND.search(line) for line in [*shell, *inline(page)]]
    return [f"humansd{match[1]}".strip() for match in found if match]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_on_a_page_exists(page: str) -> None:
    for line in sorted(set(command_lines(page))):
        words = shlex.split(line)[1:]
        command: Any = typer.main.get_command(cli.app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for word in words:
            if word.startswith("--"):
                assert word in known, f"{page}: {line}: no option {word}"
        alone = line == "humansd" or getattr(command, "invoke_without_command", False)
        assert words or not getattr(command, "commands", {}) or alone, f"{page}: {line}: not a command"
        if words and words[0] != "COMMAND":
            is_leaf = not getattr(command, "commands", {})
            assert is_leaf or words[0].startswith("--") or words[0] == "…", f"{page}: {line}: not a command"


def test_every_command_is_in_the_readme() -> None:
    for path in LEAVES:
        assert f"`humansd {' '.join(path)}" in README, f"humansd {' '.join(path)} is not documented"


@pytest.mark.parametrize("page", PAGES)
def test_options_named_alone_belong_to_some_command(page: str) -> None:
    known = {option for command in LEAVES.values() for parameter in command.params for option in parameter.opts}
    for text in inline(page):
        option = re.match(r"--[a-z-]+", text)
        assert option is None or option[0] in known, f"{page}: {text}"


def loads_somewhere(file: Path) -> bool:
    """Whether a file is some command's config."""
    for cls in CONFIGS:
        try:
            load_config(cls, file)
        except UserError:
            continue
        return True
    return False


@pytest.mark.parametrize("page", PAGES)
def test_configs_on_a_page_load(page: str, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(page, "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(text, encoding="utf-8")
        assert loads_somewhere(file), f"{page}: {text}"


@pytest.mark.parametrize("page", PAGES)
def test_config_keys_on_a_page_exist(page: str) -> None:
    for line in command_lines(page):
        words = shlex.split(line)
        for given in (value for option, value in itertools.pairwise(words) if option == "--set"):
            if "…" in given or words[1] == "models":  # a detector's own training has mmengine's keys
                continue
            if words[1] in OF_COMMAND:
                name, folder = CONFIGS[OF_COMMAND[words[1]]]
                load_config(OF_COMMAND[words[1]], name, [given], folder)
            assert given.partition("=")[0] in KEYS, f"{page}: {line}"
    tables = {name.partition(".")[0] for name in KEYS if "." in name}
    for text in inline(page):
        if text.startswith("--set "):
            assert text.removeprefix("--set ").partition("=")[0] in KEYS | OF_MMENGINE, f"{page}: {text}"
        named = re.match(r"\[?([a-z_]+)(?:\.|\] )([a-z_]+)(?: ?=.*)?$", text)
        if named and named[1] in tables and named[2] not in ("py", "parquet", "json", "md", "png"):
            assert f"{named[1]}.{named[2]}" in KEYS, f"{page}: {text}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_code_on_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_dataset(tmp_path / "ghi", 3)
    dataset.write_index(str(tmp_path / "ghi"))
    add_columns(tmp_path / "ghi", Annotation("pipelines.annotate:Poses", "sure", {"min_score": 0.6}))
    (sample,) = open_dataset(str(tmp_path / "ghi")).rows([0])
    image = np.asarray(Image.open(io.BytesIO(sample.image or b"")))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"image": image}
    for text in blocks(page, "python"):
        code = compile(text, page, "exec")
        if not text.startswith("# after: "):  # of something that takes minutes, or needs weights
            exec(code, {"image": image} if page in SEPARATE else names)
    if page == "README.md":
        assert (tmp_path / "sheet.png").exists()
    if page == "pipelines/NOTEBOOK.md":
        assert len(names["samples"]) == len(names["skeletons"]) > 0
        assert names["keypoints"].shape[1:] == (17, 3)
        assert (tmp_path / "keys.txt").read_text().splitlines() == list(names["crowded"]["key"])
        assert names["train"][0]["image"].size == (64, 64)


def test_both_commands_are_what_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in (QUICK_START, ALL_CHECKS):
        assert command in README
        for part in command.split(" && "):
            assert part in script, f".ci/run does not run: {part}"


def anchors(page: Path) -> set[str]:
    """The places that a link into a page can name, as GitHub makes them of headings."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    titles = (title.replace("`", "").lower() for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_are_there(page: str) -> None:
    here = (ROOT / page).parent
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]+))?\)", PAGES[page]):
        if not target.startswith("http"):
            file = here / target if target else ROOT / page
            assert file.exists(), f"{page}: {target}"
            assert not anchor or anchor in anchors(file), f"{page}: {target}#{anchor}"
    for name in inline(page):
        if re.fullmatch(r"(?:pipelines|prompts|detectors|tests)/[\w./]+", name):
            assert (ROOT / name).exists(), f"{page}: {name}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_modules_that_a_page_names_are_there(page: str) -> None:
    files = [f"/{path.relative_to(ROOT)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    drawn = [name for body in blocks(page, "") for name in re.findall(r"[\w/]+\.py\b", body)]
    told = [name for name in inline(page) if re.fullmatch(r"[\w/]+\.py", name)]
    for name in [*drawn, *told]:
        assert any(file.endswith(f"/{name}") for file in files), f"{page}: {name}"
