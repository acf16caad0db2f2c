"""The prompt grammar: eighteen parts, loaded from tables that anyone can read, and checked.

The tables are told in README.md. Loading looks at everything once, so that a mistake is found before the first prompt,
and raises `GrammarError` whose message begins with "file:line:".
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from prompts.phrases import GrammarError, Part, Phrase, Row, check_text, content_words, nearest, read_rows, spell_out
from prompts.schedule import people_table
from prompts.vocabulary import AFTER_ACTION, DATA, MINOR, NUMBERS, RULES, UNFIT_FOR_MINORS, Vocabulary, joint

__all__ = [
    "DATA",
    "MAX_TOKENS",
    "MINOR",
    "NUMBERS",
    "PARTS",
    "UNFIT_FOR_MINORS",
    "Action",
    "Grammar",
    "GrammarError",
    "Scene",
    "copy_grammar",
    "load_grammar",
]

PARTS: Final = (
    "realism",
    "scene",
    "people",
    "age_looks",
    "clothing",
    "action",
    "companion",
    "place",
    "time_of_day",
    "season_weather",
    "camera",
    "composition",
    "light",
    "mood",
    "medium",
    "colour",
    "resolution",
    "praise",
)
"""The names of the eighteen parts, in the order of the record."""

REQUIRED: Final = ("scene", "people", "action")
"""Parts that every prompt says."""
DRAWN: Final = (
    "people",
    "scene",
    "age_looks",
    "clothing",
    "place",
    "time_of_day",
    "season_weather",
    "companion",
    "medium",
    "light",
    "colour",
    "realism",
    "camera",
    "composition",
    "mood",
    "resolution",
    "praise",
)
"""The order in which a prompt's parts are drawn: the rules of a part may name tags of those before it."""

MAX_TOKENS: Final = 75
"""CLIP reads 77 tokens; two of them mark the beginning and the end."""

_FILES: Final = ("parts.tsv", "scenes.tsv", "words.tsv", "marks.tsv", "safety.tsv", "negative.tsv", "actions.tsv")
_ACTION: Final = ("phrase", "source", "label", "people", "tags")
_SETTING: Final = ("part", "chance", "keep", "only", "not", "what it tells")
_VERSION: Final = 1
"""Raised when the same data give other prompts."""


@dataclass(frozen=True, slots=True)
class Action:
    """What the people do: a present-participle phrase, where it is from, and for how many people it makes sense."""

    phrase: str
    source: str
    label: str
    people: tuple[int, int]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """A kind of picture, as Human-Art names them. `set` is `default` or `natural`."""

    name: str
    set: str
    tags: tuple[str, ...]
    about: str


@dataclass(frozen=True, eq=False)
class Grammar:
    """A checked grammar. Equal digests give equal prompts.

    scenes: those in use, in the order of scenes.tsv. parts: name → phrases, for all of PARTS but `action`. negative:
    scene → negative prompt. scene_tags, action_tags, action_never, action_words, action_tokens: bit sets and token
    counts by number of scene and action. digest: SHA-256 in hex of all data that decide the prompts, and of the scenes.
    """

    directory: Path
    scenes: tuple[Scene, ...]
    actions: tuple[Action, ...]
    parts: Mapping[str, Part]
    negative: Mapping[str, str]
    tag_bits: Mapping[str, int]
    digest: str
    scene_tags: tuple[int, ...] = field(repr=False)
    action_tags: tuple[int, ...] = field(repr=False)
    action_never: tuple[int, ...] = field(repr=False)
    action_words: tuple[int, ...] = field(repr=False)
    action_tokens: tuple[int, ...] = field(repr=False)

    def ranges(self) -> list[tuple[int, int]]:
        """Fewest and most people of each action."""
        return [action.people for action in self.actions]


def load_grammar(directory: Path | None = None, scenes: Sequence[str] | None = None) -> Grammar:
    """Load and check a grammar.

    directory: a folder with all the tables; None is the bundled one. scenes: names of scenes, or "natural", "all",
    "default"; None is the default set. Raises GrammarError for a mistake in the tables and for an unknown scene.
    """
    directory = DATA if directory is None else Path(directory)
    if not directory.is_dir():
        raise GrammarError(f"{directory}: no such folder")
    words = Vocabulary(directory)
    catalogue = _read_scenes(directory)
    chosen = _choose_scenes(catalogue, scenes, directory / "scenes.tsv")
    actions, places = _read_actions(directory)
    rows = {name: read_rows(_table(directory, name), RULES) for name in DRAWN}
    own_tags = _name_tags(directory, words, catalogue, actions, rows)
    parts = _read_parts(directory, words, rows)
    action_tags = [words.mark(a.phrase, tags, at) for a, tags, at in zip(actions, own_tags, places, strict=True)]
    grammar = Grammar(
        directory=directory,
        scenes=chosen,
        actions=actions,
        parts=parts,
        negative=_read_negative(directory, words, chosen),
        tag_bits=dict(words.tags.bit),
        digest=_digest(directory, chosen),
        scene_tags=tuple(words.tags.of([scene.name, *scene.tags]) for scene in chosen),
        action_tags=tuple(action_tags),
        action_never=tuple(words.refused_by(tags) for tags in action_tags),
        action_words=tuple(words.words.of(_action_words(a.phrase)) for a in actions),
        action_tokens=tuple(words.count_tokens(a.phrase, place) for a, place in zip(actions, places, strict=True)),
    )
    _check_people(grammar)
    _check_every_slot_has_words(grammar)
    return grammar


def copy_grammar(directory: Path | None, target: Path) -> None:
    """Copy the tables that decide the prompts to the folder `target`, from where `load_grammar` reads them again.

    Raises GrammarError where one is missing.
    """
    source = DATA if directory is None else Path(directory)
    for name in _files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source / name, target / name)
        except FileNotFoundError:
            raise GrammarError(f"{source / name}:1: this file is missing") from None


def all_texts(directory: Path) -> Iterator[str]:
    """Every text of a grammar folder that a prompt may hold, for counting tokens."""
    lists = Vocabulary(directory).lists
    yield from (row["phrase"] for row in read_rows(directory / "actions.tsv", _ACTION))
    for name in DRAWN:
        for row in read_rows(_table(directory, name), RULES):
            for one, several, _ in spell_out(row["text"], row.where, lists):
                yield from (one, several)
    yield from (row["text"] for row in read_rows(directory / "negative.tsv", ("scene", "text")))
    yield "a an of, ."


def _action_words(phrase: str) -> set[str]:
    return content_words(phrase).union(*(joint(part, phrase.split()[-1]) for part in AFTER_ACTION))


def _table(directory: Path, part: str) -> Path:
    return directory / "parts" / f"{part}.tsv"


def _files(directory: Path) -> list[str]:
    """The files of a grammar folder, as sorted paths inside it; tokens.tsv may be missing."""
    parts = [f"parts/{name}.tsv" for name in DRAWN]
    return sorted([*_FILES, *parts, *(["tokens.tsv"] if (directory / "tokens.tsv").is_file() else [])])


def _digest(directory: Path, scenes: Sequence[Scene]) -> str:
    """SHA-256 of the tables' contents, of the bundled words of safety and of the scenes in use."""
    total = hashlib.sha256(f"grammar {_VERSION}\n{' '.join(scene.name for scene in scenes)}\n".encode())
    total.update(hashlib.sha256((DATA / "safety.tsv").read_bytes()).digest())
    for name in _files(directory):
        total.update(f"{name} {hashlib.sha256((directory / name).read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


# ------------------------------------------------------------------------------------------------ reading the tables


def _read_scenes(directory: Path) -> dict[str, Scene]:
    found: dict[str, Scene] = {}
    for row in read_rows(directory / "scenes.tsv", ("scene", "set", "tags", "what it is")):
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row["scene"]):
            raise GrammarError(f"{row.where}: a scene's name is small letters, digits, hyphens; not {row['scene']!r}")
        if row["scene"] in found:
            raise GrammarError(f"{row.where}: the scene {row['scene']!r} is there already")
        if row["set"] not in ("default", "natural"):
            raise GrammarError(f"{row.where}: set is default or natural, not {row['set']!r}")
        found[row["scene"]] = Scene(row["scene"], row["set"], tuple(row.names("tags")), row["what it is"])
    return found


def _choose_scenes(catalogue: Mapping[str, Scene], wanted: Sequence[str] | None, path: Path) -> tuple[Scene, ...]:
    names = ["default"] if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    known = [*catalogue, "default", "natural", "all"]
    for name in names:
        if name not in known:
            there = nearest(name, known) or f"; there are {', '.join(known)}"
            raise GrammarError(f"{path}:1: no scene is called {name!r}{there}")
    chosen = tuple(scene for scene in catalogue.values() if {scene.name, scene.set, "all"} & set(names))
    if not chosen:
        raise GrammarError(f"{path}:1: no scenes to choose from")
    return chosen


def _read_actions(directory: Path) -> tuple[tuple[Action, ...], list[str]]:
    """The actions, and the "file:line" of each."""
    found: dict[str, Action] = {}
    places: list[str] = []
    for row in read_rows(directory / "actions.tsv", _ACTION):
        check_text(row["phrase"], row.where)
        if row["phrase"] in found:
            raise GrammarError(f"{row.where}: the action {row['phrase']!r} is there already")
        people = re.fullmatch(r"([123])-([123])", row["people"])
        if not people or people[1] > people[2]:
            raise GrammarError(f"{row.where}: people is a range such as 1-3 or 2-3, not {row['people']!r}")
        least, most = int(people[1]), int(people[2])
        found[row["phrase"]] = Action(
            row["phrase"], row["source"], row["label"], (least, most), tuple(row.names("tags"))
        )
        places.append(row.where)
    if not found:
        raise GrammarError(f"{directory / 'actions.tsv'}:1: no actions")
    return tuple(found.values()), places


def _name_tags(
    directory: Path,
    words: Vocabulary,
    catalogue: Mapping[str, Scene],
    actions: Sequence[Action],
    rows: Mapping[str, Sequence[Row]],
) -> list[list[str]]:
    """Give a bit to every scene, every tag of a scene and every tag of an action; the actions' tags as rules name them.

    A scene's name is a scene's alone: the action tag `dance` is `doing-dance` in rules where a scene is called `dance`.
    """
    scenes = {name for scene in catalogue.values() for name in (scene.name, *scene.tags)}
    if both := sorted(set(catalogue) & set(words.tags.bit)):
        raise GrammarError(
            f"{directory / 'scenes.tsv'}:1: {both[0]!r} is a scene here and a tag in marks.tsv or safety.tsv"
        )
    for row in (row for name in DRAWN for row in rows[name]):
        if both := [tag for tag in row.names("tags") if tag in catalogue]:
            raise GrammarError(f"{row.where}: the tag {both[0]!r} is the name of a scene")
    named = [[f"doing-{tag}" if tag in scenes else tag for tag in action.tags] for action in actions]
    words.tags.of(sorted(scenes))
    words.tags.of(sorted({tag for tags in named for tag in tags}))
    return named


def _read_parts(directory: Path, words: Vocabulary, rows: Mapping[str, Sequence[Row]]) -> dict[str, Part]:
    path = directory / "parts.tsv"
    settings = {row["part"]: row for row in read_rows(path, _SETTING)}
    for name, row in settings.items():
        if name not in PARTS:
            raise GrammarError(f"{row.where}: no part is called {name!r}{nearest(name, PARTS)}")
    if missing := [name for name in PARTS if name not in settings]:
        raise GrammarError(f"{path}:1: the part {missing[0]!r} is missing")
    later = Counter(
        tag for name in DRAWN for row in rows[name] for tag in row.names("tags") if tag not in words.tags.bit
    )
    parts: dict[str, Part] = {}
    for name in DRAWN:
        # `not` may name a tag of a part drawn later, as that part then minds it; `only` cannot wait for one.
        for row in (settings[name], *rows[name]):
            for tag in re.split(r"\s*[,&]\s*", row["only"]):
                if later[tag] > 0:
                    raise GrammarError(f"{row.where}: {tag!r} is only known after {name} is drawn: {' '.join(DRAWN)}")
        own = [tag for row in rows[name] for tag in row.names("tags")]
        later.subtract(own)
        words.tags.of([*own, *later])
        parts[name] = _read_part(words, settings[name], rows[name], _table(directory, name))
    return parts


def _read_part(words: Vocabulary, setting: Row, rows: Sequence[Row], path: Path) -> Part:
    name = setting["part"]
    chance, keep = 1.0, float("inf")
    if name not in REQUIRED:
        chance, keep = setting.number("chance", 0, 1), setting.number("keep", 0, float("inf"))
    only, never = words.rules(setting)
    phrases: dict[str, Phrase] = {}
    for row in rows:
        for phrase in words.phrases(row, name):
            first = phrases.setdefault(phrase.texts[0], phrase)
            if first is not phrase:
                raise GrammarError(f"{row.where}: {phrase.texts[0]!r} is there already, at {first.where}")
    if not phrases:
        raise GrammarError(f"{path}:1: no phrases")
    return Part(name, chance, keep, only, never, tuple(phrases.values()))


def _read_negative(directory: Path, words: Vocabulary, scenes: Sequence[Scene]) -> dict[str, str]:
    """Scene → negative prompt: the one of its name, else of one of its tags, else of "*"."""
    texts: dict[str, str] = {}
    for row in read_rows(directory / "negative.tsv", ("scene", "text")):
        if row["scene"] != "*" and row["scene"] not in words.tags.bit:
            raise GrammarError(f"{row.where}: no scene or tag is called {row['scene']!r}")
        if row["scene"] in texts:
            raise GrammarError(f"{row.where}: {row['scene']!r} has a negative prompt already")
        words.count_tokens(row["text"], row.where, MAX_TOKENS)
        texts[row["scene"]] = row["text"]
    return {s.name: next((texts[n] for n in (s.name, *s.tags, "*") if n in texts), "") for s in scenes}


# ------------------------------------------------------------------------------------------------ what must hold


def _check_people(grammar: Grammar) -> None:
    """The actions' numbers of people must allow 1, 2 and 3 people at 7 : 2 : 1."""
    try:
        people_table(Counter(grammar.ranges()))
    except ValueError as error:
        raise GrammarError(f"{grammar.directory / 'actions.tsv'}:1: {error}") from None


def _check_every_slot_has_words(grammar: Grammar) -> None:
    """Whatever the scene, the action and the number of people: there must be words for the people and for the scene."""
    for name in ("people", "scene"):
        part = grammar.parts[name]
        asked = {part.heeded(*pair) for pair in zip(grammar.action_tags, grammar.action_never, strict=True)}
        for scene, tags in zip(grammar.scenes, grammar.scene_tags, strict=True):
            for number in NUMBERS:
                for action_tags, never in asked:
                    if not part.fitting(tags | action_tags | grammar.tag_bits[number], never)[1]:
                        path = _table(grammar.directory, name)
                        raise GrammarError(f"{path}:1: nothing fits {number} in {scene.name} for every action")
