from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import prompt_table
from pipelines.config import UserError
from pipelines.prompt_table import PromptRange, as_text, chunks, count, row_of, write, write_lines
from prompts.grammar import PARTS, load_grammar
from prompts.sampling import prompt_at


def test_a_row_says_everything_about_a_prompt() -> None:
    prompt = prompt_at(load_grammar(), 5, 7)
    row = row_of(prompt)
    assert (row["seed"], row["index"], row["text"], row["num_people"]) == (5, 7, prompt.text, prompt.num_people)
    assert [name for name in row if name.startswith("part_")] == [f"part_{name}" for name in PARTS]
    assert row["part_action"] == prompt.parts["action"]
    assert json.loads(json.dumps(row)) == row


def test_one_process_or_several_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = PromptRange(100, seed=3)
    monkeypatch.setattr(prompt_table, "CHUNK", 30)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    alone = list(chunks(wanted))
    assert [len(part["index"]) for part in alone] == [30, 30, 30, 10]
    assert [index for part in alone for index in part["index"]] == list(range(100))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert list(chunks(wanted)) == alone


def test_the_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "folder" / "prompts.parquet"
    write(PromptRange(20), file)
    table = pq.read_table(file)
    assert table.num_rows == 20
    assert str(table.schema.field("index").type) == "int64"
    assert table["part_mood"].null_count > 0
    before = file.read_bytes()

    def fail(wanted: PromptRange) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(prompt_table, "chunks", fail)
    with pytest.raises(OSError, match="disk full"):
        write(PromptRange(30), file)
    assert [path.name for path in file.parent.iterdir()] == ["prompts.parquet"]
    assert file.read_bytes() == before
    with pytest.raises(UserError, match=r"\.parquet or \.jsonl"):
        write(PromptRange(1), tmp_path / "prompts.csv")


def test_lines_hold_the_rows() -> None:
    lines = io.StringIO()
    write_lines(PromptRange(3), lines)
    rows = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert rows == [row_of(prompt_at(load_grammar(), 0, index)) for index in range(3)]


def test_counts_add_up() -> None:
    counted = count(PromptRange(140, scenes=("mural", "sketch")))
    assert counted["scenes"] == {"mural": 70, "sketch": 70}
    assert sum(counted["people"].values()) == 140
    assert counted["parts"]["action"] == 140
    assert 0 < counted["parts"]["mood"] < 140
    assert counted["unique"] == 140
    text = as_text(counted)
    assert "mural" in text
    assert "50.00%" in text
