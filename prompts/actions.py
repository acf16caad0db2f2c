"""The list of actions, built from the small tables in data/actions/ and checked; enlarged from a user's own labels.

    python -m prompts.actions build    write data/actions.tsv anew
    python -m prompts.actions check    say whether data/actions.tsv is what the tables give

How the tables are written is told in data/README.md. Everything here is deterministic: the same tables give the same
bytes. A mistake in a table raises `ActionError`, whose message begins with "file:line:".
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from prompts.grammar import copy_grammar, load_grammar
from prompts.labels import Label, read_labels, to_phrase, verb_forms
from prompts.phrases import MAX_PHRASE_TOKENS, GrammarError
from prompts.tables import ActionError, Section, Tags, expand, load_tags, read_sections
from prompts.tokens import count_tokens, read_table
from prompts.vocabulary import Vocabulary

DATA: Final = Path(__file__).parent / "data"
TABLES: Final = DATA / "actions"
BUILT: Final = DATA / "actions.tsv"

COUNT: Final = 6826
"""How many actions there are: the number the paper gives for its own list, which was never published."""

PUBLISHED: Final = ("ntu120", "haa500", "hico", "babel")
"""Sources whose category names are in the tables, in the order of the list. Everything else is `composed`."""

RANGES: Final = ("1-1", "1-3", "2-3")
HEADER: Final = ("phrase", "source", "label", "people", "tags")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of actions.tsv. `label` is the published category name, or for `composed` the id of the rule."""

    phrase: str
    source: str
    label: str
    people: str
    tags: tuple[str, ...]

    def line(self) -> str:
        return "\t".join((self.phrase, self.source, self.label, self.people, ",".join(self.tags))) + "\n"


# ------------------------------------------------------------------------------------------------ what a phrase may be

_AN: Final = re.compile(r"\ba ((?!uni(?:[cfv]|t)|uk|us[ei]|eu|one\b|u-)[aeiou]\w*|hour\w*|honest)")
_A: Final = re.compile(r"\ban ((?![aeiou]|hour|honest|heir|[fhlmnrsx](?:-|\b))\w+|(?:uni[cfvt]|uk|us[ei]|eu|one\b)\w*)")
_DANGLING: Final = re.compile(
    r"\b(?:an?|the|and|or|of|to|from|with|at|for|into|onto|by|while|against|between|beside|as)$"
)
_NUMBERED: Final = re.compile(r"\b(?:his|her|hers|their|theirs|himself|herself|itself|themselves|oneself|own|they)\b")


@cache
def unwanted() -> tuple[tuple[re.Pattern[str], str], ...]:
    """unwanted.txt: (words, why) for every reason an action is left out."""
    reasons = []
    for section in read_sections(TABLES / "unwanted.txt"):
        words = [word.strip() for _, line in section.lines for word in line.split(",") if word.strip()]
        reasons.append((re.compile(rf"\b(?:{'|'.join(words)})\b"), section.head))
    return tuple(reasons)


def faults(phrase: str) -> list[str]:
    """What a copy editor would strike in an action phrase; empty for a phrase fit for the list."""
    words = phrase.split(" ")
    found = [f"unwanted ({why}): {match[0]!r}" for pattern, why in unwanted() if (match := pattern.search(phrase))]
    if not re.fullmatch(r"[a-z]+(?:-[a-z]+)*ing", words[0]):
        found.append("does not begin with an -ing word")
    if not re.fullmatch(r"[a-z0-9' -]+", phrase) or "  " in phrase or phrase != phrase.strip():
        found.append("has other signs than small letters, hyphens and single spaces")
    if any(a == b for a, b in itertools.pairwise(words)):
        found.append("has a doubled word")
    if match := _AN.search(phrase) or _A.search(phrase):
        found.append(f"has the wrong article: {match[0]!r}")
    if match := _DANGLING.search(phrase):
        found.append(f"ends with {match[0]!r}")
    if match := _NUMBERED.search(phrase):
        found.append(f"does not read for every number of people: {match[0]!r}")
    if len(words) > 12:
        found.append("is longer than 12 words")
    return found


# ------------------------------------------------------------------------------------------------ building the list


def _rows(section: Section, tags: Tags) -> Iterator[tuple[Row, str]]:
    """(row, place) for every phrase of a section; the place is "file:line"."""
    name, *given = section.head.split()
    published = name in PUBLISHED
    for where, line in section.lines:
        text, _, more = line.partition("::")
        template, equals, label = text.partition("=")
        if published != bool(equals):
            raise ActionError(f"{where}: a line of [{name}] is written phrase{' = label' if published else ''}")
        tokens = [*given, *more.split()]
        people = [t for t in tokens if t in RANGES]
        for phrase in expand(template.strip(), where):
            if wrong := faults(phrase):
                raise ActionError(f"{where}: {phrase!r} {'; '.join(wrong)}")
            marks = tags.of(phrase, [t for t in tokens if t not in RANGES], where)
            who = people[-1] if people else "2-3" if "social" in marks else "1-3"
            source, said = (name, label.strip()) if published else ("composed", name)
            yield Row(phrase, source, said, who, marks), where


def build(tables: Path = TABLES, count: int = COUNT) -> list[Row]:
    """The whole list: published categories first, then the composed phrases in the order of their tables.

    Raises ActionError for a fault in a table, for a phrase that is there already, and where the tables do not give
    exactly `count` phrases.
    """
    tags = load_tags(tables)
    kept: dict[str, Row] = {}
    for path in [*(tables / f"{source}.txt" for source in PUBLISHED), *sorted(tables.glob("composed_*.txt"))]:
        for section in read_sections(path):
            for row, where in _rows(section, tags):
                if row.phrase in kept:
                    raise ActionError(f"{where}: {row.phrase!r} is in the list already")
                kept[row.phrase] = row
    if len(kept) != count:
        raise ActionError(f"{tables.name}: the tables give {len(kept)} phrases, {count} are wanted")
    return list(kept.values())


def to_tsv(rows: Iterable[Row]) -> str:
    """The text of an actions.tsv."""
    return "\t".join(HEADER) + "\n" + "".join(row.line() for row in rows)


def counts(rows: Iterable[Row]) -> Counter[str]:
    """Rows for each source, the composed ones by rule as `composed/rule`."""
    return Counter(r.source if r.source != "composed" else f"composed/{r.label}" for r in rows)


# ------------------------------------------------------------------------------------------------ a user's own labels


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: the rows added, and how many labels were left out for which reason."""

    added: tuple[Row, ...]
    left_out: Counter[str]


def import_labels(path: Path, kind: str, out_dir: Path, base: Path = DATA) -> Imported:
    """Add the labels of a user's own copy of BABEL or HuMMan to the actions of a grammar folder.

    path: a file, or a folder of them, as prompts/labels.py tells. kind: "babel" or "humman". out_dir: becomes a copy
    of the grammar folder `base` with more actions, for `[grammar] dir`; it must not exist or be empty, or be `base`
    itself, so that one import can follow another. What the rules of `faults` strike is left out, as is what is there
    already. Deterministic. Raises ActionError for a file that is not of the published form, naming file and record.
    """
    labels = read_labels(path, kind)
    same = out_dir.resolve() == base.resolve()
    if out_dir.resolve() == DATA.resolve() or (out_dir.exists() and not out_dir.is_dir()):
        raise ActionError(f"{out_dir}: not a folder for a grammar of your own")
    if out_dir.is_dir() and any(out_dir.iterdir()) and not same:
        raise ActionError(f"{out_dir}: is not empty")
    text = (base / "actions.tsv").read_text(encoding="utf-8")
    result = _sift(labels, kind, {line.split("\t")[0] for line in text.splitlines()}, base)
    more = text + "".join(row.line() for row in result.added)
    with tempfile.TemporaryDirectory() as scratch:  # a folder that does not load is never left behind
        copy_grammar(base, Path(scratch))
        Path(scratch, "actions.tsv").write_text(more, encoding="utf-8", newline="\n")
        load_grammar(Path(scratch))
    if not same:
        copy_grammar(base, out_dir)
    (out_dir / "actions.tsv").write_text(more, encoding="utf-8", newline="\n")
    return result


def _sift(labels: Iterable[Label], kind: str, known: Set[str], base: Path) -> Imported:
    """Rows for the labels that are fit for the grammar folder `base` and not yet among the phrases `known`."""
    tags, words = load_tags(TABLES), Vocabulary(base)
    tokens = read_table(base / "tokens.tsv") if (base / "tokens.tsv").is_file() else {}
    things = {match[1] for phrase in known if (match := re.search(r"\ban? (\w+)$", phrase))}
    forms, added, left_out = verb_forms(tags.verbs), dict[str, Row](), Counter[str]()
    given = ["exercise"] if kind == "humman" else []
    for label in labels:
        phrase = to_phrase(label.text, kind, forms, things)
        wrong = faults(phrase) if phrase else ["has no verb that we know"]
        if phrase is None or wrong:
            left_out[wrong[0].split(": ")[0]] += 1
        elif phrase in known or phrase in added:
            left_out["is there already"] += 1
        elif count_tokens(phrase, tokens) > MAX_PHRASE_TOKENS:
            left_out[f"takes more than {MAX_PHRASE_TOKENS} CLIP tokens"] += 1
        else:
            marks = tags.of(phrase, given, label.where)
            try:
                words.mark(phrase, marks, label.where)
            except GrammarError:
                left_out["puts words for minors beside words unfit for them"] += 1
                continue
            said = " ".join(label.text.split())
            added[phrase] = Row(phrase, kind, said, "2-3" if "social" in marks else "1-3", marks)
    return Imported(tuple(added.values()), left_out)


# ------------------------------------------------------------------------------------------------ command line


def main(argv: list[str] | None = None) -> int:
    """Build or check; 0 done, 1 the committed list is not what the tables give, 2 a mistake in a table."""
    parser = argparse.ArgumentParser(prog="python -m prompts.actions", description="The list of actions.")
    parser.add_argument("task", choices=("build", "check"))
    task = parser.parse_args(argv).task
    try:
        rows = build()
    except ActionError as error:
        print(error, file=sys.stderr)
        return 2
    for name, number in sorted(counts(rows).items()):
        print(f"{number:5d} {name}", file=sys.stderr)
    if task == "build":
        BUILT.write_text(to_tsv(rows), encoding="utf-8", newline="\n")
    elif BUILT.read_text(encoding="utf-8") != to_tsv(rows):
        print("data/actions.tsv is not what its tables give: python -m prompts.actions build", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
