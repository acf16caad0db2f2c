"""Prompts by number: `prompt_at` gives the prompt of any slot and attempt, without state and the same anywhere.

A prompt is drawn in three steps: the slot's scene, action and number of people come from the schedule; every other part
is drawn by its chance and weights among the phrases that fit what is there already; parts are dropped until CLIP's 75
tokens hold the rest. All chance comes from BLAKE2b of (seed, index, attempt), so no generator is carried along.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from prompts.grammar import DRAWN, MAX_TOKENS, NUMBERS, PARTS, REQUIRED, Grammar
from prompts.phrases import Phrase, article
from prompts.schedule import Schedule

SAME_WORDS_ATTEMPTS: Final = 3
"""The first attempts at a slot say the same and change the noise only."""

_DRAWS: Final = struct.Struct("<64I")
"""Two numbers for each part drawn, and one for each part dropped."""
_CERTAIN: Final = 2**32
_LEAD: Final = ("scene", "people", "action", "clothing", "place", "time_of_day", "realism", "age_looks")
"""Parts of the first clause; every other part follows after a comma, which is a token too."""
_TAIL: Final = (
    "companion",
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


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt of one slot and attempt.

    parts: all of PARTS in their order, with the words as chosen; None where the text does not say the part.
    """

    text: str
    negative: str
    num_people: int
    scene: str
    action: str
    parts: Mapping[str, str | None]
    seed: int
    index: int
    attempt: int


def prompt_at(grammar: Grammar, seed: int, index: int, attempt: int = 1) -> Prompt:
    """The prompt of slot `index` (from 0) at `attempt` (from 1).

    Scene, action and number of people depend on (seed, index) alone; attempts 1-3 have the same text, each later one
    draws all other parts anew. Raises ValueError for a negative index or an attempt below 1.
    """
    if index < 0 or attempt < 1:
        raise ValueError(f"index {index} and attempt {attempt}: an index is 0 or more, an attempt 1 or more")
    scene, action, people = schedule(grammar, seed).slot(index)
    draws = _draws(seed, index, attempt if attempt > SAME_WORDS_ATTEMPTS else 1)
    chosen = _choose(grammar, scene, action, people, draws)
    _drop_to_fit(grammar, chosen, grammar.action_tokens[action], people > 1, draws)
    return _prompt(grammar, chosen, scene, action, people, (seed, index, attempt))


@lru_cache(maxsize=16)
def schedule(grammar: Grammar, seed: int) -> Schedule:
    """The schedule of a seed, kept because it takes some ten milliseconds to lay out."""
    return Schedule(grammar.ranges(), len(grammar.scenes), seed)


def _draws(seed: int, index: int, attempt: int) -> tuple[int, ...]:
    """64 numbers below 2**32 that depend on the arguments alone."""
    blocks = (hashlib.blake2b(b"prompt %d/%d/%d/%d" % (seed, index, attempt, i)).digest() for i in range(4))
    return _DRAWS.unpack(b"".join(blocks))


def _choose(grammar: Grammar, scene: int, action: int, people: int, draws: tuple[int, ...]) -> dict[str, Phrase]:
    """Part → phrase for every part that is said before room is looked at."""
    context = grammar.scene_tags[scene] | grammar.action_tags[action] | grammar.tag_bits[NUMBERS[people - 1]]
    refused = grammar.action_never[action]
    words = grammar.action_words[action]
    chosen: dict[str, Phrase] = {}
    parts = grammar.parts
    for place, name in enumerate(DRAWN):
        part = parts[name]
        needed = name in REQUIRED
        if not needed and draws[2 * place] >= part.chance * _CERTAIN:
            continue
        if name == "age_looks" and "*" not in chosen["people"].texts[0]:
            continue
        bounds, phrases = part.fitting(context, refused)
        if not phrases:
            continue
        first = min(bisect_right(bounds, draws[2 * place + 1]), len(phrases) - 1)
        phrase = _without_doubles(phrases, first, words)
        if phrase is None:
            if not needed:
                continue
            phrase = phrases[first]
        chosen[name] = phrase
        context |= phrase.tags
        refused |= phrase.never
        words |= phrase.words
    return chosen


def _without_doubles(phrases: list[Phrase], first: int, words: int) -> Phrase | None:
    """The phrase at `first`, or the next one that shares no word with what is said already; None if all do."""
    if not phrases[first].words & words:
        return phrases[first]
    for at in range(first + 1, first + len(phrases)):
        phrase = phrases[at % len(phrases)]
        if not phrase.words & words:
            return phrase
    return None


def _drop_to_fit(
    grammar: Grammar, chosen: dict[str, Phrase], action_tokens: int, several: bool, draws: tuple[int, ...]
) -> None:
    """Take optional parts out of `chosen` until the sentence has at most MAX_TOKENS CLIP tokens.

    Each time one of them is drawn, with chances in inverse proportion to the parts' `keep`.
    """
    total = action_tokens + 3  # the article, "of" and the full stop
    for name, phrase in chosen.items():
        total += phrase.tokens[several] + (name not in _LEAD)
    left = iter(draws[2 * len(DRAWN) :])
    while total > MAX_TOKENS:
        names = [name for name in chosen if name not in REQUIRED]
        sums = list(itertools.accumulate(1 / grammar.parts[name].keep for name in names))
        name = names[bisect_right(sums, next(left) / _CERTAIN * sums[-1], hi=len(sums) - 1)]
        total -= chosen.pop(name).tokens[several] + (name not in _LEAD)


def _prompt(
    grammar: Grammar,
    chosen: dict[str, Phrase],
    scene: int,
    action: int,
    people: int,
    which: tuple[int, int, int],
) -> Prompt:
    several = people > 1
    phrase = grammar.actions[action].phrase
    parts: dict[str, str | None] = dict.fromkeys(PARTS)
    for name, said in chosen.items():
        parts[name] = said.texts[several]
    parts["action"] = phrase
    text = compose(parts)
    parts["people"] = (parts["people"] or "").replace("* ", "")
    name = grammar.scenes[scene].name
    return Prompt(text, grammar.negative[name], people, name, phrase, parts, *which)


def compose(parts: Mapping[str, str | None]) -> str:
    """The sentence that says `parts`; people's words may hold "*" where age and looks go.

    "a REALISM SCENE of PEOPLE CLOTHING ACTION PLACE TIME, COMPANION, SEASON, …, PRAISE."
    """
    looks = parts["age_looks"]
    who = parts["people"] or ""
    if "*" in who:
        who = who.replace("*", looks) if looks else who.replace("* ", "")
        if looks and who.startswith("a "):
            who = f"{article(looks)} {who[2:]}"
    realism = parts["realism"]
    what = f"{realism} {parts['scene']}" if realism else parts["scene"] or ""
    words = [article(what), what, "of", who]
    words += [said for name in ("clothing", "action", "place", "time_of_day") if (said := parts[name])]
    return ", ".join([" ".join(words), *(said for name in _TAIL if (said := parts[name]))]) + "."
