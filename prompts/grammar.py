"""The prompt grammar: eighteen parts, loaded from tables that anyone can read, and checked.

The tables are told in README.md. Loading looks at everything once, so that a mistake is found before the first prompt,
and raises `GrammarError` whose message begins with "file:line:".
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from prompts import tokens
from prompts.phrases import (
    MAX_PHRASE_TOKENS,
    Bits,
    GrammarError,
    Part,
    Phrase,
    Row,
    check_text,
    content_words,
    read_rows,
    spell_out,
)
from prompts.schedule import people_table

__all__ = ["MAX_TOKENS", "PARTS", "Action", "Grammar", "GrammarError", "Scene", "copy_grammar", "load_grammar"]

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

NUMBERS: Final = ("one-person", "two-people", "three-people")
"""The tag that says how many people there are."""
MINOR: Final = "minor"
UNFIT_FOR_MINORS: Final = ("sexualised", "intimate", "undressed", "injury", "weapon", "adult")
"""Tags that never meet the tag `minor` in a prompt. The words in safety.tsv give these tags to any phrase."""

DATA: Final = Path(__file__).parent / "data"
_FILES: Final = ("parts.tsv", "scenes.tsv", "words.tsv", "marks.tsv", "safety.tsv", "negative.tsv", "actions.tsv")
_RULES: Final = ("weight", "text", "tags", "only", "not")
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
    directory = DATA if directory is None else directory
    return _Loader(directory).load(scenes)


def copy_grammar(directory: Path | None, target: Path) -> None:
    """Copy the tables that decide the prompts to the folder `target`, from where `load_grammar` reads them again."""
    source = DATA if directory is None else directory
    for name in _files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def all_texts(directory: Path) -> Iterator[str]:
    """Every text of a grammar folder that a prompt may hold."""
    loader = _Loader(directory)
    for row in read_rows(directory / "actions.tsv", ("phrase", "source", "label", "people", "tags")):
        yield row["phrase"]
    for name in (part for part in PARTS if part != "action"):
        for row in read_rows(directory / "parts" / f"{name}.tsv", _RULES):
            for one, several, _ in spell_out(row["text"], row.where, loader.lists):
                yield from (one, several)
    for row in read_rows(directory / "negative.tsv", ("scene", "text")):
        yield row["text"]
    yield "a an of, ."


def _files(directory: Path) -> list[str]:
    """The files of a grammar folder, as sorted paths inside it; tokens.tsv may be missing."""
    parts = [f"parts/{name}.tsv" for name in PARTS if name != "action"]
    return sorted([*_FILES, *parts, *(["tokens.tsv"] if (directory / "tokens.tsv").is_file() else [])])


class _Loader:
    """What is known while a folder is read: lists of words, marks, tags and token counts."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise GrammarError(f"{directory}: no such folder")
        self.directory = directory
        self.tags = Bits()
        self.words = Bits()
        self.lists = self._lists()
        try:
            self.tokens = tokens.read_table(directory / "tokens.tsv")
        except ValueError as error:
            raise GrammarError(str(error)) from None
        self.marks: dict[str, tuple[str, ...]] = {}
        self.tags.of([*NUMBERS, MINOR, *UNFIT_FOR_MINORS])
        # The bundled words of safety hold in every grammar: a user's own folder can add to them, not take away.
        for path in dict.fromkeys((DATA / "safety.tsv", directory / "safety.tsv", directory / "marks.tsv")):
            self._read_marks(path)

    def load(self, wanted: Sequence[str] | None) -> Grammar:
        catalogue = self._scenes()
        actions, action_rows = self._actions()
        rows = {name: read_rows(self.directory / "parts" / f"{name}.tsv", _RULES) for name in PARTS if name != "action"}
        self._know_tags(catalogue, actions, rows)
        parts = self._parts(rows)
        scenes = _choose_scenes(catalogue, wanted, self.directory / "scenes.tsv")
        scene_tags = tuple(self.tags.of([scene.name, *scene.tags]) for scene in scenes)
        marked = [self._mark(action.phrase, action.tags) for action in actions]
        counts = [self._tokens(a.phrase, row.where) for a, row in zip(actions, action_rows, strict=True)]
        grammar = Grammar(
            directory=self.directory,
            scenes=scenes,
            actions=actions,
            parts=parts,
            negative=self._negative(scenes),
            tag_bits=dict(self.tags.bit),
            digest=self._digest(scenes),
            scene_tags=scene_tags,
            action_tags=tuple(marked),
            action_never=tuple(self._refuses(tags) for tags in marked),
            action_words=tuple(self.words.of(content_words(a.phrase)) for a in actions),
            action_tokens=tuple(counts),
        )
        self._check_minors(actions, marked, action_rows)
        self._check_reach(grammar)
        return grammar

    # ----------------------------------------------------------------------------------------------------- the tables

    def _lists(self) -> dict[str, list[tuple[str, float]]]:
        lists: dict[str, list[tuple[str, float]]] = {}
        for row in read_rows(self.directory / "words.tsv", ("list", "weight", "word")):
            check_text(row["word"], row.where)
            words = lists.setdefault(row["list"], [])
            if row["word"] in (word for word, _ in words):
                raise GrammarError(f"{row.where}: {row['word']!r} is in the list {row['list']!r} already")
            words.append((row["word"], row.number("weight", 0, float("inf"))))
        return lists

    def _read_marks(self, path: Path) -> None:
        for row in read_rows(path, ("tag", "words")):
            if not row["tag"]:
                raise GrammarError(f"{row.where}: no tag")
            self.tags.of([row["tag"]])
            for word in row.names("words"):
                if not re.fullmatch(r"[\w'-]+", word):
                    raise GrammarError(f"{row.where}: {word!r} is not a single word")
                self.marks[word] = (*self.marks.get(word, ()), row["tag"])

    def _scenes(self) -> dict[str, Scene]:
        found: dict[str, Scene] = {}
        for row in read_rows(self.directory / "scenes.tsv", ("scene", "set", "tags", "what it is")):
            if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row["scene"]):
                raise GrammarError(
                    f"{row.where}: a scene's name has small letters, digits and hyphens, not {row['scene']!r}"
                )
            if row["scene"] in found:
                raise GrammarError(f"{row.where}: the scene {row['scene']!r} is there already")
            if row["set"] not in ("default", "natural"):
                raise GrammarError(f"{row.where}: set is default or natural, not {row['set']!r}")
            found[row["scene"]] = Scene(row["scene"], row["set"], tuple(row.names("tags")), row["what it is"])
        return found

    def _actions(self) -> tuple[tuple[Action, ...], list[Row]]:
        rows = read_rows(self.directory / "actions.tsv", ("phrase", "source", "label", "people", "tags"))
        found: dict[str, Action] = {}
        for row in rows:
            check_text(row["phrase"], row.where)
            if row["phrase"] in found:
                raise GrammarError(f"{row.where}: the action {row['phrase']!r} is there already")
            people = re.fullmatch(r"([123])-([123])", row["people"])
            if not people or people[1] > people[2]:
                raise GrammarError(f"{row.where}: people is a range such as 1-3 or 2-3, not {row['people']!r}")
            found[row["phrase"]] = Action(
                row["phrase"], row["source"], row["label"], (int(people[1]), int(people[2])), tuple(row.names("tags"))
            )
        if not found:
            raise GrammarError(f"{self.directory / 'actions.tsv'}:1: no actions")
        return tuple(found.values()), rows

    def _know_tags(self, scenes: Mapping[str, Scene], actions: Sequence[Action], rows: Mapping[str, list[Row]]) -> None:
        for scene in scenes.values():
            self.tags.of([scene.name, *scene.tags])
        for tags in sorted({tags for action in actions for tags in action.tags}):
            self.tags.of([tags])
        for name in DRAWN:
            for row in rows[name]:
                self.tags.of(row.names("tags"))

    def _parts(self, rows: Mapping[str, list[Row]]) -> dict[str, Part]:
        settings = {
            row["part"]: row
            for row in read_rows(
                self.directory / "parts.tsv", ("part", "chance", "keep", "only", "not", "what it tells")
            )
        }
        path = self.directory / "parts.tsv"
        for name, row in settings.items():
            if name not in PARTS:
                raise GrammarError(f"{row.where}: no part is called {name!r}{_nearest(name, PARTS)}")
        if missing := [name for name in PARTS if name not in settings]:
            raise GrammarError(f"{path}:1: the part {missing[0]!r} is missing")
        return {name: self._part(settings[name], rows[name]) for name in DRAWN}

    def _part(self, setting: Row, rows: Sequence[Row]) -> Part:
        name = setting["part"]
        if name in REQUIRED:
            chance, keep = 1.0, float("inf")
        else:
            chance, keep = setting.number("chance", 0, 1), setting.number("keep", 0, float("inf"))
        only, never = self._rules(setting)
        phrases: list[Phrase] = []
        seen: dict[str, str] = {}
        for row in rows:
            for phrase in self._phrases(row):
                if phrase.texts[0] in seen:
                    raise GrammarError(f"{row.where}: {phrase.texts[0]!r} is there already, at {seen[phrase.texts[0]]}")
                seen[phrase.texts[0]] = row.where
                phrases.append(phrase)
        if not phrases:
            raise GrammarError(f"{self.directory / 'parts' / f'{name}.tsv'}:1: no phrases")
        return Part(name, chance, keep, only, never, tuple(phrases))

    def _phrases(self, row: Row) -> Iterator[Phrase]:
        weight = row.number("weight", 0, float("inf"))
        only, never = self._rules(row)
        if row["text"].count("*") > ("parts/people.tsv" in row.where.replace("\\", "/")):
            raise GrammarError(f"{row.where}: '*' stands once, in people.tsv, for age and looks")
        for one, several, share in spell_out(row["text"], row.where, self.lists):
            texts = (one, several)
            for text in texts:
                check_text(text.replace("* ", ""), row.where)
            tags = self._mark(f"{one} {several}", row.names("tags"))
            if tags & self.tags.bit[MINOR] and tags & self.tags.of(UNFIT_FOR_MINORS):
                raise GrammarError(f"{row.where}: {one!r} puts words for minors beside words unfit for them")
            counts = (self._tokens(one, row.where), self._tokens(several, row.where))
            words = self.words.of(content_words(f"{one} {several}"))
            yield Phrase(texts, counts, weight * share, tags, only, never | self._refuses(tags), words, row.where)

    def _rules(self, row: Row) -> tuple[tuple[int, ...], int]:
        """(only, never) of a line: sets of tags of which one must be there, and the tags that must not."""
        groups = [[n.strip() for n in group.split(",")] for group in row.names("only", "&")]
        for name in itertools.chain(*groups, row.names("not")):
            if name not in self.tags.bit:
                raise GrammarError(
                    f"{row.where}: no scene or tag is called {name!r}{_nearest(name, list(self.tags.bit))}"
                )
        return tuple(self.tags.of(group) for group in groups), self.tags.of(row.names("not"))

    def _negative(self, scenes: Sequence[Scene]) -> dict[str, str]:
        texts: dict[str, str] = {}
        for row in read_rows(self.directory / "negative.tsv", ("scene", "text")):
            if row["scene"] != "*" and row["scene"] not in self.tags.bit:
                raise GrammarError(f"{row.where}: no scene or tag is called {row['scene']!r}")
            if row["scene"] in texts:
                raise GrammarError(f"{row.where}: {row['scene']!r} has a negative prompt already")
            if (count := tokens.count_tokens(row["text"], self.tokens)) > MAX_TOKENS:
                raise GrammarError(f"{row.where}: {count} CLIP tokens, at most {MAX_TOKENS}")
            texts[row["scene"]] = row["text"]
        return {s.name: next((texts[n] for n in (s.name, *s.tags, "*") if n in texts), "") for s in scenes}

    # ---------------------------------------------------------------------------------------------------- what it means

    def _mark(self, text: str, tags: Sequence[str]) -> int:
        """Tags as a bit set: those given, and those that the text's words bring along."""
        found = self.tags.of(tags)
        for word in re.findall(r"[\w'-]+", text.lower()):
            for piece in {word, *word.split("-"), word.removesuffix("'s")}:
                if piece in self.marks:
                    found |= self.tags.of(self.marks[piece])
        return found

    def _refuses(self, tags: int) -> int:
        """What a phrase with these tags never meets, whatever its own rules say."""
        minor, unfit = self.tags.bit[MINOR], self.tags.of(UNFIT_FOR_MINORS)
        return (unfit if tags & minor else 0) | (minor if tags & unfit else 0)

    def _tokens(self, text: str, where: str) -> int:
        count = tokens.count_tokens(text.replace("* ", ""), self.tokens)
        if count > MAX_PHRASE_TOKENS:
            raise GrammarError(f"{where}: {text!r} takes {count} CLIP tokens, at most {MAX_PHRASE_TOKENS}")
        return count

    def _digest(self, scenes: Sequence[Scene]) -> str:
        """SHA-256 of the tables' contents, of the bundled words of safety and of the scenes in use."""
        total = hashlib.sha256(f"grammar {_VERSION}\n{' '.join(scene.name for scene in scenes)}\n".encode())
        total.update(hashlib.sha256((DATA / "safety.tsv").read_bytes()).digest())
        for name in _files(self.directory):
            total.update(f"{name} {hashlib.sha256((self.directory / name).read_bytes()).hexdigest()}\n".encode())
        return total.hexdigest()

    # ----------------------------------------------------------------------------------------------------------- checks

    def _check_minors(self, actions: Sequence[Action], marked: Sequence[int], rows: Sequence[Row]) -> None:
        minor, unfit = self.tags.bit[MINOR], self.tags.of(UNFIT_FOR_MINORS)
        for action, tags, row in zip(actions, marked, rows, strict=True):
            if tags & minor and tags & unfit:
                raise GrammarError(f"{row.where}: {action.phrase!r} puts words for minors beside words unfit for them")

    def _check_reach(self, grammar: Grammar) -> None:
        """Every slot must find people and scene words, and the numbers of people must be possible."""
        for name, tags in zip((s.name for s in grammar.scenes), grammar.scene_tags, strict=True):
            for action_tags, never in set(zip(grammar.action_tags, grammar.action_never, strict=True)):
                for number in NUMBERS:
                    context = tags | action_tags | self.tags.bit[number]
                    for part in ("people", "scene"):
                        if not grammar.parts[part].fitting(context, never)[1]:
                            raise GrammarError(
                                f"{self.directory / 'parts' / f'{part}.tsv'}:1: nothing fits {number} in {name}"
                            )
        sizes: dict[tuple[int, int], int] = {}
        for people in grammar.ranges():
            sizes[people] = sizes.get(people, 0) + 1
        try:
            people_table(sizes)
        except ValueError as error:
            raise GrammarError(f"{self.directory / 'actions.tsv'}:1: {error}") from None


def _choose_scenes(catalogue: Mapping[str, Scene], wanted: Sequence[str] | None, path: Path) -> tuple[Scene, ...]:
    names = ["default"] if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in (*catalogue, "default", "natural", "all"):
            raise GrammarError(f"{path}:1: no scene is called {name!r}{_nearest(name, [*catalogue, 'natural', 'all'])}")
    chosen = tuple(s for s in catalogue.values() if {s.name, s.set, "all"} & set(names))
    if not chosen:
        raise GrammarError(f"{path}:1: no scenes chosen")
    return chosen


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""
