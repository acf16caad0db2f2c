from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer.main

from pipelines import cli
from pipelines.options import overrides, parse_shards
from pipelines.store import Store
from tests.pipelines.small_dataset import SHARD, write_dataset

HEAVY = ("torch", "ray", "pandas", "pyarrow", "diffusers", "transformers", "numpy", "PIL", "cv2")


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command that can be run, with its path; a group is one if it runs without a subcommand."""
    children = getattr(command, "commands", {})
    if not children or command.invoke_without_command:
        yield path, command
    for name, child in children.items():
        yield from walk(child, (*path, name))


COMMANDS = dict(walk(typer.main.get_command(cli.app)))
LEAVES = {path: command for path, command in COMMANDS.items() if path}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cli") / "out"
    write_dataset(folder, 3)
    return str(folder)


def run(*arguments: str) -> int:
    return cli.main(arguments)


def test_there_are_the_commands_that_there_should_be() -> None:
    assert {" ".join(path) for path in LEAVES} == {
        "demo",
        "prompts",
        "prompts actions import",
        "ghi",
        "humanart",
        "coco",
        "laion",
        "clean",
        "laion index",
        "laion retry",
        "train",
        "train cache",
        "sample",
        "detect",
        "regate",
        "annotate",
        "evaluate",
        "evaluate mini",
        "evaluate dataset",
        "evaluate detector",
        "status",
        "inspect",
        "index",
        "verify",
        "repair",
        "takedown",
        "export",
        "rebuild",
        "plan",
        "models list",
        "models fetch",
        "models train",
        "models check",
    }


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    command = LEAVES[path]
    assert command.help
    assert command.epilog
    lines = re.findall(r"^  (humansd .*)$", command.epilog, re.MULTILINE)
    assert lines
    for line in lines:
        assert line.startswith("humansd " + " ".join(path)), f"an example of another command: {line}"
        assert len(line) <= 76, f"breaks on a narrow terminal: {line}"
    for parameter in command.params:
        if "--help" not in parameter.opts:
            assert parameter.help, f"{parameter.name} is not explained"
    assert run(*path, "--help") == 0
    assert "Examples:" in capsys.readouterr().out


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_example_can_be_parsed(path: tuple[str, ...]) -> None:
    command = LEAVES[path]
    for line in re.findall(r"^  humansd (.*)$", command.epilog, re.MULTILINE):
        arguments = cli.spread(line.split()[len(path) :])
        command.make_context(" ".join(path), arguments).close()


def test_options_mean_the_same_everywhere() -> None:
    helps: dict[str, dict[str, list[str]]] = {}
    for path, command in LEAVES.items():
        for parameter in command.params:
            helps.setdefault(parameter.opts[0], {}).setdefault(parameter.help, []).append(" ".join(path))
    for shared in ("--seed", "--workers", "--set", "--json", "--shards", "--address"):
        meanings = [where for where in helps[shared].values() if where not in (["inspect"], ["sample"])]
        assert len(meanings) == 1, f"{shared}: {helps[shared]}"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pipelines.cli import main; main(['ghi', '--help']); main(['--help']);"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_module_is_the_command(out: str) -> None:
    def humansd(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    status = humansd("status", out, "--json")
    assert (status.returncode, status.stderr) == (1, "")
    assert json.loads(status.stdout)["accepted"] == 11
    mistake = humansd("status", out + "/absent")
    assert (mistake.returncode, mistake.stdout) == (2, "")
    assert mistake.stderr.count("\n") == 1
    assert "Traceback" not in mistake.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stauts"], "Did you mean 'status'?"),
        (["ghi", "--confg", "mini"], "--config"),
        (["ghi"], "Missing option '--out'"),
        (["ghi", "--out", "x", "--n", "0"], "'--n'"),
        (["ghi", "--out", "x", "--set", "sampler.stpes=3"], "did you mean 'sampler.steps'?"),
        (["ghi", "--out", "x", "--set", "sampler.steps=few"], "'sampler.steps' must be a whole number, not 'few'"),
        (["ghi", "--out", "x", "--config", "minni"], "did you mean 'mini'?"),
        (["ghi", "--out", "x", "--config", "absent.toml"], "absent.toml: no such config file"),
        (["ghi", "--out", "x", "--shards", "5"], "--shards 5: must be A:B"),
        (["prompts", "--scenes", "murals"], "did you mean 'mural'?"),
        (["prompts", "--grammar", "absent"], "absent: no such folder"),
        (["prompts", "--out", "prompts.csv"], "must end in .parquet or .jsonl"),
        (["status", "absent"], "absent: holds no dataset"),
        (["inspect", "absent"], "absent: holds no dataset"),
        (["verify", "absent"], "absent: holds no dataset"),
        (["repair", "absent"], "absent: holds no dataset"),
        (["index", "absent"], "absent: holds no dataset"),
        (["ghi", "--out", "/proc/absent/x"], "cannot write to /proc/absent/x: No such file or directory"),
        (["prompts", "--out", "/proc/absent/x.jsonl"], "/proc/absent: No such file or directory"),
        (["plan", "--from", "absent"], "absent: holds no dataset"),
        (["models", "check", "absent"], "unknown model 'absent'"),
        (["models", "fetch", "absent"], "unknown model 'absent'"),
        (["humanart", "--root", "absent", "--out", "x"], "absent: holds no annotations/training_humanart.json"),
        (["humanart", "--root", ".", "--split", "all", "--out", "x"], "'--split'"),
        (["coco", "--ann", "absent.json", "--images", ".", "--out", "x"], "absent.json: no such file"),
        (["detect", "absent", "--out", "x"], "absent: no such file, folder or dataset"),
        (["evaluate", "detector"], "give either --ann FILE and --images DIR, or --data OUT"),
        (["export", "absent", "--to", "coco", "--out", "x"], "absent: holds no dataset"),
        (["models"], "Missing command"),
        (["prompts", "actions", "import", "--out", "x"], "give --babel PATH or --humman PATH"),
        (["prompts", "actions", "import", "--out", "x", "--babel", "absent"], "absent: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


def test_options_of_several_values_take_them_in_a_row() -> None:
    given = ["plan", "--models", "a", "b", "--n", "5", "c"]
    assert cli.spread(given) == ["plan", "--models", "a", "--models", "b", "--n", "5", "c"]


def test_our_own_mistakes_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(out: str, add: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("pipelines.dataset.write_index", broken)
    with pytest.raises(ValueError, match="a bug"):
        run("index", "x")


def test_an_interrupt_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(out: str, add: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.dataset.write_index", interrupted)
    assert run("index", "x") == 130


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m pipelines prompts --n 3000 --json | head -n 1"
    shell = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["index"] == 0


def test_prompts_are_printed_written_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prompts", "--n", "3") == 0
    texts = capsys.readouterr().out.splitlines()
    assert len(texts) == 3
    for name in ("some.jsonl", "some.parquet"):
        file = tmp_path / name
        assert run("prompts", "--n", "3", "--out", str(file)) == 0
        table = pd.read_json(file, lines=True) if file.suffix == ".jsonl" else pd.read_parquet(file)
        assert list(table["text"]) == texts
        assert sum(column.startswith("part_") for column in table.columns) == 18
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.jsonl", "some.parquet"]
    capsys.readouterr()
    assert run("prompts", "--n", "1000", "--scenes", "natural", "--stats", "--json") == 0
    counted = json.loads(capsys.readouterr().out)
    assert set(counted["scenes"]) == {"acrobatics", "cosplay", "dance", "drama", "movie"}
    assert sum(counted["people"].values()) == 1000
    assert run("prompts", "--n", "100", "--scenes", "mural,sketch", "--stats") == 0
    assert re.search(r"mural +50 +50.00%", capsys.readouterr().out)


def test_own_action_labels_make_an_own_grammar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.txt").write_text("juggling seven kiwis\nstabbing a person with a knife\n", encoding="utf-8")
    labels = {"labels": [{"raw_label": "", "proc_label": "walk like a heron", "act_cat": None}]}
    (tmp_path / "babel.json").write_text(json.dumps({"1": {"seq_ann": labels, "frame_ann": None}}), encoding="utf-8")
    out = tmp_path / "mine"
    given = ["--humman", str(tmp_path / "names.txt"), "--babel", str(tmp_path / "babel.json")]
    assert run("prompts", "actions", "import", *given, "--out", str(out), "--json") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(line["from"], line["added"]) for line in told} == {("babel", 1), ("humman", 1)}
    assert "walking like a heron" in (out / "actions.tsv").read_text(encoding="utf-8")
    assert run("prompts", "--grammar", str(out), "--n", "1") == 0


def test_inspect_lists_rows_or_draws_them(out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", out, "--n", "4", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 4
    assert {"key", "caption", "people"} <= lines[0].keys()
    assert run("inspect", out, "--rejected") == 0
    assert capsys.readouterr().out.count("people_count: too_few") == 6
    assert run("inspect", out, "--sheet", str(tmp_path / "sheet.png")) == 0
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert "11 of 11 accepted" in capsys.readouterr().err


def test_status_and_its_exit_code(out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status", out) == 1  # a slot is short
    assert "1 slots not filled" in capsys.readouterr().out
    write_dataset(tmp_path / "whole", 1)
    assert run("status", str(tmp_path / "whole"), "--watch", "--json") == 0
    assert json.loads(capsys.readouterr().out)["complete"] is True
    write_dataset(tmp_path / "short", 2)
    assert run("status", str(tmp_path / "short"), "--watch", "--json") == 1  # nobody works on it: it stays short


def test_damage_is_found_and_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    write_dataset(out, 2)
    assert run("verify", str(out)) == 0
    assert "sound" in capsys.readouterr().err
    damaged = out / "shards" / "00000001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert run("verify", str(out), "--json") == 1
    problem = json.loads(capsys.readouterr().out)
    assert (problem["file"], problem["shard"]) == ("shards/00000001.parquet", 1)
    assert run("repair", str(out)) == 0
    assert run("verify", str(out)) == 0
    assert not damaged.exists()


def test_index_is_for_pandas(tmp_path: Path) -> None:
    out = tmp_path / "out"
    keys = write_dataset(out, 2)
    assert run("index", str(out)) == 0
    table = pd.read_parquet(out / "index.parquet")
    assert list(table["key"]) == keys
    assert list(table["row"][:SHARD]) == list(range(SHARD))


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "list", "--json") == 0
    models = {model["name"]: model for model in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {"mini", "sd15", "sd21", "sdxl", "mini-pose", "rtmpose-m-humanart"} <= models.keys()
    assert all(model["licence"] for model in models.values())
    assert models["mini"]["state"] == "bundled"
    assert run("models", "check") == 0


def test_several_models_are_planned_with_one_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "--models", "mini", "sd15", "owner/name", "--n", "250", "--set", "shard_size=50", "--json") == 0
    plans = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [plan["config"] for plan in plans] == ["mini", "sd15", "owner/name"]
    assert [plan["model"] for plan in plans] == ["mini", "stable-diffusion-v1-5/stable-diffusion-v1-5", "owner/name"]
    assert {(plan["n"], plan["shards"]) for plan in plans} == {(250, 5)}


def test_a_plan_without_measurements(capsys: pytest.CaptureFixture[str], out: str) -> None:
    assert run("plan", "--n", "250", "--set", "shard_size=100") == 0
    assert "250 in 3 shards" in capsys.readouterr().out
    assert run("plan", "--n", "250", "--from", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["predicted"]["images"]["median"] > 250


def test_overrides_come_after_the_file() -> None:
    assert overrides(["a=1"], n=5, seed=None, workers=2) == ["a=1", "n=5", "workers=2"]


@pytest.mark.parametrize(("text", "expected"), [(None, None), ("0:1", range(1)), ("12:40", range(12, 40))])
def test_shard_ranges(text: str | None, expected: range | None) -> None:
    assert parse_shards(text) == expected


def test_a_dataset_in_an_object_store_is_as_good_as_in_a_folder(
    s3: str, out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = f"{s3}/{tmp_path.name}/out"
    write_dataset(there, 3)
    assert run("status", there, "--json") == 1
    assert json.loads(capsys.readouterr().out)["accepted"] == 11
    for command in (["inspect", "--json"], ["inspect", "--rejected", "--json"], ["verify"]):
        told = []
        for where in (out, there):
            code = run(command[0], where, *command[1:])
            told.append((code, capsys.readouterr().out.replace(where, "OUT")))
        assert told[0] == told[1]
    assert run("index", there) == 0
    assert len(pd.read_parquet(f"{there}/index.parquet")) == 11
    assert run("inspect", there, "--sheet", str(tmp_path / "sheet.png")) == 0
    store = Store(there)
    store.write("shards/00000001.parquet", b"damaged", "run")
    store.remove(["ledger/00000002.parquet"])
    assert run("verify", there) == 1
    assert run("repair", there) == 0
    assert store.names("done") == ["00000000.json"]
    assert run("verify", there) == 0
