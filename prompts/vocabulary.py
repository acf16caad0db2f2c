"""The words of a grammar folder: lists, tags, what words say of themselves, token counts; and phrases made with them.

A tag is a bit of an integer, so that rules are checked with a few bit operations. Tags come from the tables, and from
words: marks.tsv and safety.tsv name words that bring a tag with them, wherever they stand.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from prompts import tokens
from prompts.phrases import (
    MAX_PHRASE_TOKENS,
    Bits,
    GrammarError,
    Phrase,
    Row,
    check_text,
    content_words,
    nearest,
    read_rows,
    spell_out,
)

DATA: Final = Path(__file__).parent / "data"

NUMBERS: Final = ("one-person", "two-people", "three-people")
"""The tag that says how many people there are."""
MINOR: Final = "minor"
UNFIT_FOR_MINORS: Final = ("sexualised", "intimate", "undressed", "injury", "weapon", "adult")
"""Tags that never meet the tag `minor` in a prompt. The words in safety.tsv give these tags to any phrase."""

AFTER_ACTION: Final = ("place", "time_of_day")
"""Parts that may follow the action without a comma."""

RULES: Final = ("weight", "text", "tags", "only", "not")
"""The columns of a part's table."""


class Vocabulary:
    """What is known of words and tags while a folder is read. Raises GrammarError for a mistake in its tables."""

    def __init__(self, directory: Path) -> None:
        self.tags = Bits()
        self.words = Bits()
        self.lists = _read_lists(directory / "words.tsv")
        try:
            self._tokens = tokens.read_table(directory / "tokens.tsv")
        except ValueError as error:
            raise GrammarError(str(error)) from None
        self._marks: dict[str, int] = {}
        self.tags.of([*NUMBERS, MINOR, *UNFIT_FOR_MINORS])
        self._minor, self._unfit = self.tags.of([MINOR]), self.tags.of(UNFIT_FOR_MINORS)
        # The bundled words of safety hold in every grammar: a user's own folder can add to them, not take away.
        for path in dict.fromkeys((DATA / "safety.tsv", directory / "safety.tsv", directory / "marks.tsv")):
            self._read_marks(path)

    def _read_marks(self, path: Path) -> None:
        for row in read_rows(path, ("tag", "words")):
            if not row["tag"]:
                raise GrammarError(f"{row.where}: no tag")
            bit = self.tags.of([row["tag"]])
            for word in row.names("words"):
                if not re.fullmatch(r"[a-z0-9'-]+", word):
                    raise GrammarError(f"{row.where}: {word!r} is not a single word in small letters")
                self._marks[word] = self._marks.get(word, 0) | bit

    def mark(self, text: str, tags: Sequence[str], where: str) -> int:
        """Tags as a bit set: those given, and those that the text's words bring along."""
        found = self.tags.of(tags)
        for word in re.findall(r"[a-z0-9'-]+", text.lower()):
            found |= self._marks.get(word, 0) | self._marks.get(word.removesuffix("'s"), 0)
            if "-" in word:
                for piece in word.split("-"):
                    found |= self._marks.get(piece, 0)
        if found & self._minor and found & self._unfit:
            raise GrammarError(f"{where}: {text!r} puts words for minors beside words unfit for them")
        return found

    def refused_by(self, tags: int) -> int:
        """What a phrase with these tags never meets, whatever its own rules say."""
        return (self._unfit if tags & self._minor else 0) | (self._minor if tags & self._unfit else 0)

    def count_tokens(self, text: str, where: str, limit: int = MAX_PHRASE_TOKENS) -> int:
        """CLIP tokens of a text, at most `limit`."""
        count = tokens.count_tokens(text, self._tokens)
        if count > limit:
            raise GrammarError(
                f"{where}: {text!r} takes {count} CLIP tokens, at most {limit}"
                " (words that tokens.tsv lacks count a token a letter: see python -m prompts.tokens)"
            )
        return count

    def rules(self, row: Row) -> tuple[tuple[int, ...], int]:
        """(only, never) of a line: sets of tags of which one must be there, and the tags that must not."""
        groups = [[name.strip() for name in group.split(",")] for group in row.names("only", "&")]
        for name in itertools.chain(*groups, row.names("not")):
            if name not in self.tags.bit:
                raise GrammarError(f"{row.where}: no scene or tag is called {name!r}{nearest(name, self.tags.bit)}")
        return tuple(self.tags.of(group) for group in groups), self.tags.of(row.names("not"))

    def phrases(self, row: Row, part: str) -> Iterator[Phrase]:
        """The phrases that a line of the table of `part` stands for."""
        weight = row.number("weight", 0, float("inf"))
        only, never = self.rules(row)
        if row["text"].count("*") > (part == "people"):
            raise GrammarError(f"{row.where}: '*' stands once, in people.tsv, where age and looks go")
        for one, several, share in spell_out(row["text"], row.where, self.lists):
            for text in (one, several):
                check_text(text.replace("* ", "", 1), row.where)
            tags = self.mark(one if one == several else f"{one} {several}", row.names("tags"), row.where)
            counts = tuple(self.count_tokens(text.replace("* ", ""), row.where) for text in (one, several))
            words = self.words.of(content_words(f"{one} {several}") | joint(part, one.split()[0]))
            refused = never | self.refused_by(tags)
            yield Phrase((one, several), (counts[0], counts[1]), weight * share, tags, only, refused, words, row.where)


def joint(part: str, word: str) -> set[str]:
    """The word at which a part follows the action directly, so that it is not the action's last word again."""
    return {f"{part} {word}"} if part in AFTER_ACTION else set()


def _read_lists(path: Path) -> dict[str, list[tuple[str, float]]]:
    """words.tsv: list → (word, weight)."""
    lists: dict[str, list[tuple[str, float]]] = {}
    for row in read_rows(path, ("list", "weight", "word")):
        check_text(row["word"], row.where)
        words = lists.setdefault(row["list"], [])
        if row["word"] in (word for word, _ in words):
            raise GrammarError(f"{row.where}: {row['word']!r} is in the list {row['list']!r} already")
        words.append((row["word"], row.number("weight", 0, float("inf"))))
    return lists
