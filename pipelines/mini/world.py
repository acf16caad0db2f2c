"""What one picture of the drawn world shows, and how a grammar prompt decides it.

A `World` is a handful of words: the scene (whose look it has), who is there, in which pose and clothes, on which
ground, at what time. `world_from_prompt` reads them off a prompt's parts, `random_world` draws them without text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from prompts.sampling import Prompt

SCENES: Final = (
    "cartoon",
    "digital-art",
    "ink-painting",
    "kids-drawing",
    "mural",
    "oil-painting",
    "shadow-play",
    "sketch",
    "stained-glass",
    "ukiyoe",
    "watercolor",
    "garage-kits",
    "relief",
    "sculpture",
)
POSES: Final = (
    "stand",
    "walk",
    "run",
    "sit",
    "crouch",
    "kneel",
    "lie",
    "jump",
    "arms-up",
    "wave",
    "arms-out",
    "bend",
    "kick",
    "dance",
    "reach",
    "carry",
)
COLORS: Final[Mapping[str, tuple[int, int, int]]] = {
    "red": (205, 38, 38),
    "orange": (240, 130, 25),
    "yellow": (242, 210, 40),
    "green": (40, 150, 60),
    "blue": (40, 85, 205),
    "purple": (130, 50, 165),
    "pink": (240, 130, 175),
    "white": (240, 240, 238),
    "black": (32, 32, 36),
    "grey": (135, 138, 142),
    "brown": (125, 80, 45),
}
COLOR_WORDS: Final = {"gray": "grey", "golden": "yellow", "gold": "yellow", "crimson": "red", "navy": "blue"}
PLACES: Final[Mapping[str, str]] = {
    "beach": r"beach|shore|coast|sand|dune|desert|island|seaside|harbou?r|pier|dock",
    "water": r"lake|river|sea\b|ocean|pool|pond|canal|waterfall|boat|stream",
    "snow": r"snow|ice\b|icy|glacier|rink|frozen",
    "mountain": r"mountain|hill|cliff|rock|canyon|valley|volcano|cave",
    "forest": r"forest|\bwoods?\b|jungle|tree|garden|orchard|park|bamboo|vineyard|farm",
    "stage": r"stage|theat|circus|concert|arena|ballroom|opera|cinema",
    "street": r"street|city|town|market|square|alley|road|bridge|station|roof|village|plaza|sidewalk|courtyard|temple",
    "room": r"room|kitchen|studio|library|office|gym|school|house|hall|shop|caf|restaurant|museum|workshop|\bbar\b",
    "field": r"field|meadow|grass|lawn|stadium|playground|court|track|pasture|prairie",
}
"""Ground family → words of the place part; the first family that matches wins."""
TIMES: Final[Mapping[str, str]] = {
    "night": r"night|midnight|moon|star",
    "sunset": r"sunset|dusk|sunrise|dawn|golden|twilight|evening",
}
SKIRTS: Final = re.compile(r"dress|skirt|gown|robe|kimono|sari|tunic|cloak|toga")
SHORTS: Final = re.compile(r"shorts|swim|leotard")
LONG_HAIR: Final = re.compile(r"\b(wom[ae]n|girls?|lad(y|ies)|grandmothers?|princess(es)?)\b")
CHILD: Final = re.compile(r"\b(girls?|boys?|child(ren)?|kids?|toddlers?)\b")
OLD: Final = re.compile(r"\b(elderly|old|aged|grand\w+|grey-haired|white-haired)\b")


@dataclass(frozen=True, slots=True)
class World:
    """One picture in words. Colours are names of `COLORS`; None leaves the choice to the renderer's generator."""

    scene: str
    num_people: int
    pose: str | None = None
    top: str | None = None
    garment: str = "trousers"
    long_hair: bool | None = None
    child: bool = False
    old: bool = False
    place: str | None = None
    time: str = "day"
    snow: bool = False
    wide: bool = False
    """Any articulation, size, overlap and direction (for detectors), not only what prompts name."""


def world_from_prompt(prompt: Prompt, pose_of: Mapping[str, str]) -> World:
    """Read off what a prompt asks for; parts that say nothing the drawn world knows stay None.

    pose_of: action phrase → one of `POSES` (see `poses_of_actions`).
    """
    parts = {name: (words or "").lower() for name, words in prompt.parts.items()}
    people = f"{parts['age_looks']} {parts['people']}"
    place = f"{parts['place']}"
    weather = parts["season_weather"]
    return World(
        scene=prompt.scene,
        num_people=prompt.num_people,
        pose=pose_of.get(prompt.action),
        top=color_word(parts["clothing"]),
        garment="skirt"
        if SKIRTS.search(parts["clothing"])
        else "shorts"
        if SHORTS.search(parts["clothing"])
        else "trousers",
        long_hair=bool(LONG_HAIR.search(people)) if people.strip() else None,
        child=bool(CHILD.search(people)),
        old=bool(OLD.search(people)),
        place=next((family for family, words in PLACES.items() if re.search(words, place)), None),
        time=next((time for time, words in TIMES.items() if re.search(words, parts["time_of_day"])), "day"),
        snow=bool(re.search(r"snow|winter|blizzard", weather)),
    )


def color_word(text: str) -> str | None:
    """Return the first colour of `COLORS` that the text names, or None."""
    for word in re.findall(r"[a-z]+", text):
        color = COLOR_WORDS.get(word, word)
        if color in COLORS:
            return str(color)
    return None


def poses_of_actions(tags_of: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Action phrase → pose, from the `pose-…` tag that every action carries."""
    return {
        phrase: tag.removeprefix("pose-")
        for phrase, tags in tags_of.items()
        for tag in tags
        if tag.startswith("pose-") and tag.removeprefix("pose-") in POSES
    }


def random_world(rng: np.random.Generator) -> World:
    """A picture without a prompt: any scene, 0-3 people (1 in 12 shows nobody), any articulation."""
    return World(
        scene=str(rng.choice(SCENES)),
        num_people=int(rng.choice(4, p=[1 / 12, 5 / 12, 4 / 12, 2 / 12])),
        pose=str(rng.choice(POSES)),
        top=str(rng.choice(list(COLORS))),
        garment=str(rng.choice(["trousers", "skirt", "shorts"], p=[0.6, 0.25, 0.15])),
        child=bool(rng.random() < 0.15),
        old=bool(rng.random() < 0.15),
        place=str(rng.choice(list(PLACES))),
        time=str(rng.choice(["day", "night", "sunset"], p=[0.6, 0.2, 0.2])),
        snow=bool(rng.random() < 0.1),
        wide=bool(rng.random() < 0.6),
    )
