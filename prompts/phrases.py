"""Phrases of a part: read from a table, spelled out, marked with tags, and drawn by weight among those that fit.

How the tables are written is told in README.md; nothing here knows which parts there are.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MAX_PHRASE_TOKENS: Final = 20
"""CLIP tokens a phrase may take, so that scene, people and action always fit into a prompt together."""

_ODD: Final = re.compile(r"\s\s|[\t\n\r{}\[\]|*]|^\s|\s$|[.,;:!?]$|\s[,.;:]")


class GrammarError(ValueError):
    """A mistake in the grammar's data; the message begins with the place: "file:line: what"."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: its "file:line" and its cells by column name; a cell that is missing is empty."""

    where: str
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    def names(self, column: str, separator: str = ",") -> list[str]:
        return [name for name in (n.strip() for n in self.cells[column].split(separator)) if name]

    def number(self, column: str, low: float, high: float) -> float:
        """The cell as a number above `low` and up to `high`."""
        try:
            value = float(self.cells[column])
        except ValueError:
            value = float("nan")
        if not (math.isfinite(value) and low < value <= high):
            limit = f" up to {high:g}" if high < float("inf") else ""
            raise GrammarError(f"{self.where}: {column} is a number above {low:g}{limit}, not {self.cells[column]!r}")
        return value


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """The lines of a tab-separated table with a header; empty lines and lines that begin with # are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise GrammarError(f"{path}:1: this file is missing") from None
    except UnicodeDecodeError as error:
        raise GrammarError(f"{path}:1: not UTF-8 text: {error.reason} at byte {error.start}") from None
    rows: list[Row] = []
    header: tuple[str, ...] | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.rstrip("\n").split("\t")
        if header is None:
            header = tuple(cells)
            if header != tuple(columns):
                raise GrammarError(
                    f"{path}:{number}: the columns are {', '.join(columns)}, parted by tabs; not {line!r}"
                )
            continue
        if len(cells) > len(columns):
            raise GrammarError(f"{path}:{number}: {len(cells)} cells for {len(columns)} columns")
        filled = [*(cell.strip() for cell in cells), *[""] * (len(columns) - len(cells))]
        rows.append(Row(f"{path}:{number}", dict(zip(columns, filled, strict=True))))
    if header is None:
        raise GrammarError(f"{path}:1: the first line names the columns: {', '.join(columns)}")
    return rows


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: what may have been meant, or nothing."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


# -------------------------------------------------------------------------------------------------- spelling out a text

_VOWEL_SOUND: Final = re.compile(
    r"(?!us[aeiou]|uk|uni(?![mn])|ute|ubi|eu|ew|one\b|once\b)[aeiou]|hour|honest|heir|x-ray|8|11\b|18\b", re.I
)


def article(word: str) -> str:
    """The indefinite article before a word: "an" before a vowel sound."""
    return "an" if _VOWEL_SOUND.match(word) else "a"


def right_articles(text: str) -> str:
    """`text` with every "a" and "an" made to fit the word that follows."""
    return re.sub(r"\b([Aa])n? (?=(\w[\w-]*))", lambda m: m[1] + article(m[2])[1:] + " ", text)


def spell_out(
    text: str, where: str, lists: Mapping[str, Sequence[tuple[str, float]]]
) -> Iterator[tuple[str, str, float]]:
    """Every (text for one person, text for several, share) that a cell stands for.

    `[this|that]` is this for one person and that for several; `{name}` is any word of that list, by its weight.
    """
    names = re.findall(r"\{([^{}]*)\}", text)
    for name in names:
        if name not in lists:
            raise GrammarError(f"{where}: no list {{{name}}} in words.tsv; there are {', '.join(sorted(lists))}")
    distinct = sorted(set(names))
    for words in itertools.product(*(lists[name] for name in distinct)):
        share, filled = 1.0, text
        for name, (word, weight) in zip(distinct, words, strict=True):
            filled = filled.replace("{" + name + "}", word)
            share *= weight / sum(w for _, w in lists[name])
        one, several = (right_articles(re.sub(r"\[([^\[\]|]*)\|([^\[\]|]*)\]", rf"\{n}", filled)) for n in (1, 2))
        yield one, several, share


def check_text(text: str, where: str) -> None:
    """Raise GrammarError for a text that would leave odd signs in a sentence."""
    if not text:
        raise GrammarError(f"{where}: the text is empty")
    if odd := _ODD.search(text):
        raise GrammarError(f"{where}: {odd[0]!r} does not belong there in {text!r}")
    if match := re.search(r"\b(\w+) \1\b", text, re.I):
        raise GrammarError(f"{where}: doubled word {match[0]!r}")


# ------------------------------------------------------------------------------------------------------------ phrases


@dataclass(frozen=True, slots=True, eq=False)
class Phrase:
    """One thing a part may say. Tags, rules and words are bit sets whose bits the grammar hands out.

    texts and tokens: for one person, for several. `only`: of each set one tag is needed; `never`: none may be there.
    """

    texts: tuple[str, str]
    tokens: tuple[int, int]
    weight: float
    tags: int
    only: tuple[int, ...]
    never: int
    words: int
    where: str

    def fits(self, context: int, refused: int) -> bool:
        """Whether it may be said where the tags `context` are there and others refuse the tags `refused`."""
        return not (self.tags & refused or self.never & context) and all(group & context for group in self.only)


_Choice = tuple[list[int], list[Phrase]]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One of the grammar's parts: how often it is said, how long it is kept when room is short, and its phrases."""

    name: str
    chance: float
    keep: float
    only: tuple[int, ...]
    never: int
    phrases: tuple[Phrase, ...]
    _has: int = field(init=False, repr=False)
    _heeds: int = field(init=False, repr=False)
    _fitting: dict[tuple[int, int], _Choice] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        has, heeds = 0, self.never
        for phrase in self.phrases:
            has |= phrase.tags
            heeds |= phrase.never
        for group in itertools.chain(self.only, *(phrase.only for phrase in self.phrases)):
            heeds |= group
        object.__setattr__(self, "_has", has)
        object.__setattr__(self, "_heeds", heeds)

    def fitting(self, context: int, refused: int) -> _Choice:
        """(bounds, phrases): those that fit, with the upper bounds of their shares of 2**32; empty where none fits."""
        key = self.heeded(context, refused)
        found = self._fitting.get(key)
        if found is None:
            found = self._fitting[key] = self._select(*key)
        return found

    def heeded(self, context: int, refused: int) -> tuple[int, int]:
        """What of the arguments of `fitting` makes a difference to this part."""
        return context & self._heeds, refused & self._has

    def _select(self, context: int, refused: int) -> _Choice:
        if self.never & context or not all(group & context for group in self.only):
            return [], []
        phrases = [phrase for phrase in self.phrases if phrase.fits(context, refused)]
        total = sum(phrase.weight for phrase in phrases)
        sums = itertools.accumulate(phrase.weight for phrase in phrases)
        return [int(part / total * 2**32) for part in sums], phrases


# ----------------------------------------------------------------------------------------------------------- bit sets


class Bits:
    """Hands out one bit per name, in the order of first use."""

    def __init__(self) -> None:
        self.bit: dict[str, int] = {}

    def of(self, names: Iterable[str]) -> int:
        found = 0
        for name in names:
            found |= self.bit.setdefault(name, 1 << len(self.bit))
        return found


_SMALL_WORDS: Final = frozenset(
    re.findall(
        r"\w+",
        "a an the and or of in on at with to from by for into onto near nearby under over above behind beside between "
        "up down out off all around each other one two three as while like front very",
    )
)


def content_words(text: str) -> set[str]:
    """The words of a text that must not come twice in a sentence, without a plural's s."""
    words = set(re.findall(r"[a-z0-9]+", text.lower())) - _SMALL_WORDS
    return {word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words}
