"""Prompts without pictures: written as Parquet or JSON lines with every part as a column, or counted."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, TextIO

from pipelines.config import UserError
from prompts.grammar import PARTS, Grammar, load_grammar
from prompts.sampling import Prompt, prompt_at

CHUNK: Final = 10_000
"""Prompts that one process makes at a time; also the rows of a Parquet row group."""

PART_PREFIX: Final = "part_"
"""The columns of the 18 parts are `part_realism` …; `scene` and `action` are the catalogue's own names."""

Columns = dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class PromptRange:
    """Which prompts: the first n of a seed, from a grammar folder (None = bundled) and scenes (None = the default)."""

    n: int
    seed: int = 0
    grammar: Path | None = None
    scenes: str | tuple[str, ...] | None = None


def row_of(prompt: Prompt) -> dict[str, Any]:
    """Return a prompt as one flat row."""
    row: dict[str, Any] = {
        "index": prompt.index,
        "seed": prompt.seed,
        "text": prompt.text,
        "negative": prompt.negative,
        "num_people": prompt.num_people,
        "scene": prompt.scene,
        "action": prompt.action,
    }
    return row | {PART_PREFIX + name: prompt.parts[name] for name in PARTS}


def chunks(wanted: PromptRange) -> Iterator[Columns]:
    """Yield the prompts in order, `CHUNK` at a time, as columns; made by as many processes as there are cores."""
    spans = [range(start, min(start + CHUNK, wanted.n)) for start in range(0, wanted.n, CHUNK)]
    processes = min(len(os.sched_getaffinity(0)), len(spans))
    if processes < 2:
        yield from (_columns(wanted, span) for span in spans)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_columns, [wanted] * len(spans), spans)


def _columns(wanted: PromptRange, span: range) -> Columns:
    grammar = _grammar(wanted.grammar, wanted.scenes)
    rows = [row_of(prompt_at(grammar, wanted.seed, index)) for index in span]
    return {name: [row[name] for row in rows] for name in rows[0]}


@cache
def _grammar(folder: Path | None, scenes: str | tuple[str, ...] | None) -> Grammar:
    return load_grammar(folder, scenes)


def write(wanted: PromptRange, file: Path) -> None:
    """Write the prompts as Parquet or as JSON lines, by the file's suffix; the file is there whole or not at all."""
    if file.suffix not in (".parquet", ".jsonl"):
        raise UserError(f"--out {file}: must end in .parquet or .jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        if file.suffix == ".parquet":
            _write_parquet(wanted, temporary)
        else:
            with temporary.open("w", encoding="utf-8") as lines:
                write_lines(wanted, lines)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_lines(wanted: PromptRange, file: TextIO = sys.stdout) -> None:
    """Write the prompts as one JSON object a line."""
    for columns in chunks(wanted):
        for values in zip(*columns.values(), strict=True):
            file.write(json.dumps(dict(zip(columns, values, strict=True)), ensure_ascii=False) + "\n")


def write_text(wanted: PromptRange) -> None:
    """Print the prompts, one a line."""
    for columns in chunks(wanted):
        print("\n".join(columns["text"]))


def _write_parquet(wanted: PromptRange, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = {"index": pa.int64(), "seed": pa.int64(), "num_people": pa.int8()}
    names = ["index", "seed", "text", "negative", "num_people", "scene", "action", *(PART_PREFIX + p for p in PARTS)]
    schema = pa.schema([(name, whole.get(name, pa.string())) for name in names])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for columns in chunks(wanted):
            writer.write_table(pa.Table.from_pydict(columns, schema=schema))


def count(wanted: PromptRange) -> dict[str, Any]:
    """Return the distributions of the prompts: people, scenes, actions, parts present, unique texts, words."""
    people: Counter[int] = Counter()
    scenes: Counter[str] = Counter()
    actions: Counter[str] = Counter()
    present: Counter[str] = Counter()
    texts: set[int] = set()
    words = longest = 0
    for columns in chunks(wanted):
        people.update(columns["num_people"])
        scenes.update(columns["scene"])
        actions.update(columns["action"])
        for name in PARTS:
            present[name] += sum(value is not None for value in columns[PART_PREFIX + name])
        texts.update(hash(text) for text in columns["text"])
        lengths = [len(text.split()) for text in columns["text"]]
        words += sum(lengths)
        longest = max(longest, *lengths)
    every = list(actions.values())
    return {
        "prompts": wanted.n,
        "unique": len(texts),
        "people": {str(number): people[number] for number in sorted(people)},
        "scenes": dict(sorted(scenes.items())),
        "actions": {"different": len(every), "fewest": min(every), "most": max(every)},
        "parts": {name: present[name] for name in PARTS},
        "words": {"mean": round(words / wanted.n, 1), "most": longest},
    }


def as_text(counted: dict[str, Any]) -> str:
    """Return the distributions that `count` gives as lines for people."""
    total = counted["prompts"]

    def share(number: int) -> str:
        return f"{number:9,} {100 * number / total:6.2f}%"

    lines = [f"prompts    {total:9,}", f"unique     {share(counted['unique'])}"]
    lines += [f"{name:>3} people {share(number)}" for name, number in counted["people"].items()]
    lines += ["", "scenes"] + [f"  {name:15s} {share(number)}" for name, number in counted["scenes"].items()]
    actions, words = counted["actions"], counted["words"]
    often = f"{actions['fewest']:,}" + (f"-{actions['most']:,}" if actions["most"] > actions["fewest"] else "")
    lines += ["", f"actions    {actions['different']:,} different, each {often}x"]
    lines += [f"words      {words['mean']} a prompt, at most {words['most']}", "", "parts said"]
    lines += [f"  {name:15s} {share(number)}" for name, number in counted["parts"].items()]
    return "\n".join(lines)
