"""Tables of the action list: sections, templates with alternatives, tags. Told for readers in data/README.md."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

NO_TAG = "no tag"
"""Header of the words of tags.txt that bring nothing: they keep a shorter word inside them from bringing its tag."""


SETTLED = frozenset(
    f"pose-{name}" for name in ("walk", "run", "sit", "crouch", "kneel", "lie", "jump", "kick", "dance", "arms-out")
)
"""Poses that a first verb gives for good; the others are taken over by what a later word says of the body."""


class ActionError(ValueError):
    """A mistake in a table or in a user's label file; the message begins with the place."""


@dataclass(slots=True)
class Section:
    """A `[header]` of a table and the lines under it, each with its "file:line"."""

    where: str
    head: str
    lines: list[tuple[str, str]] = field(default_factory=list)


def read_sections(path: Path) -> list[Section]:
    """Sections of a table; lines that begin with `#` and empty lines are left out, `@name` stands for its list."""
    sections: list[Section] = []
    lists: dict[str, str] = {}
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        where, line = f"{path.name}:{number}", raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("@"):
            name, equals, body = line[1:].partition("=")
            if not equals:
                raise ActionError(f"{where}: a list is written @name = this|that")
            lists[name.strip()] = _insert_lists(body.strip(), lists, where)
        elif line.startswith("["):
            if not line.endswith("]"):
                raise ActionError(f"{where}: a header ends with ]")
            sections.append(Section(where, line[1:-1].strip()))
        elif not sections:
            raise ActionError(f"{where}: a line before the first [header]")
        else:
            sections[-1].lines.append((where, _insert_lists(line, lists, where)))
    return sections


def _insert_lists(text: str, lists: dict[str, str], where: str) -> str:
    def body(match: re.Match[str]) -> str:
        if match[1] not in lists:
            raise ActionError(f"{where}: no list @{match[1]} above this line")
        return lists[match[1]]

    return re.sub(r"@(\w+)", body, text)


def expand(template: str, where: str) -> list[str]:
    """All phrases of a template: each `{this|that|}` stands for one of its alternatives, the empty one included."""
    pieces = re.split(r"\{([^{}]*)\}", template)
    if any(mark in piece for piece in pieces[::2] for mark in "{}|"):
        raise ActionError(f"{where}: unbalanced braces or a bar outside of braces: {template}")
    choices = [piece.split("|") if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return [" ".join("".join(parts).split()) for parts in itertools.product(*choices)]


@dataclass(frozen=True, slots=True)
class Tags:
    """The closed list of tags, the words that bring a tag with them, and each first verb's usual tags."""

    meaning: dict[str, str]
    implied: dict[str, tuple[str, ...]]
    words: re.Pattern[str]
    tag_of: dict[str, tuple[str, ...]]
    verbs: dict[str, tuple[str, ...]]

    def of(self, phrase: str, given: Sequence[str], where: str) -> tuple[str, ...]:
        """Tags of a phrase in the closed list's order; `given` are its line's and section's, `-tag` takes one away.

        The pose is the last one given, else the first verb's where it settles the matter ("sitting with both arms
        raised" is sitting), else what a word of the phrase says, else the first verb's.
        """
        verb = phrase.split()[0]
        found = [tag for match in self.words.finditer(phrase) for tag in self.tag_of[match[1]]]
        usual = self.verbs.get(verb, ())
        settled = any(tag in SETTLED for tag in usual)
        poses = [t for tags in ((found, usual) if settled else (usual, found)) for t in tags if t.startswith("pose-")]
        poses += [t for t in given if t.startswith("pose-")]
        if not poses:
            raise ActionError(f"{where}: no pose for {phrase!r}: name one, or add {verb!r} to verbs.txt")
        tags = {poses[-1]} | {t for t in (*usual, *found, *given) if not t.startswith(("pose-", "-"))}
        for tag in tuple(tags):
            tags.update(self.implied.get(tag, ()))
        unknown = sorted(tags - set(self.meaning))
        if unknown:
            raise ActionError(f"{where}: not in the closed list of tags: {', '.join(unknown)}")
        tags -= {t[1:] for t in given if t.startswith("-")}
        return tuple(tag for tag in self.meaning if tag in tags)


def load_tags(tables: Path) -> Tags:
    """tags.txt and verbs.txt."""
    meaning: dict[str, str] = {}
    implied: dict[str, tuple[str, ...]] = {}
    tag_of: dict[str, tuple[str, ...]] = {}
    for section in read_sections(tables / "tags.txt"):
        names, _, said = section.head.partition(":")
        tag, _, more = (part.strip() for part in names.partition(">"))
        brings = () if tag == NO_TAG else (tag,)
        if brings:
            meaning[tag] = said.strip()
            implied[tag] = tuple(more.split())
        for _, line in section.lines:
            for words in filter(None, (w.strip() for w in line.split(","))):
                tag_of[words] = (*tag_of.get(words, ()), *brings)
    verbs: dict[str, tuple[str, ...]] = {}
    for section in read_sections(tables / "verbs.txt"):
        for where, line in section.lines:
            for verb in line.split():
                if verb in verbs:
                    raise ActionError(f"{where}: {verb} twice")
                verbs[verb] = tuple(section.head.split())
    longest_first = sorted(tag_of, key=lambda w: (-len(w), w))
    words_re = re.compile(r"\b(" + "|".join(map(re.escape, longest_first)) + r")\b")
    return Tags(meaning, implied, words_re, tag_of, verbs)
