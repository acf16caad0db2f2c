"""Prompts by number: the same anywhere, within CLIP's length, saying what the record says, and reading as English."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompts.grammar import DRAWN, PARTS, Grammar, copy_grammar, load_grammar
from prompts.phrases import content_words
from prompts.sampling import Prompt, compose, prompt_at
from tests.prompts.clip_tokenizer import clip_tokenizer
from tests.prompts.test_grammar import MINORS, UNFIT

MANY = 100_000
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return load_grammar()


@pytest.fixture(scope="module")
def natural() -> Grammar:
    return load_grammar(scenes="natural")


@pytest.fixture(scope="module")
def many(grammar: Grammar, natural: Grammar) -> list[Prompt]:
    """A hundred thousand prompts: four fifths in the default scenes, one in the natural ones."""
    first = [prompt_at(grammar, 0, index) for index in range(MANY * 4 // 5)]
    return first + [prompt_at(natural, 1, index) for index in range(MANY // 5)]


# ------------------------------------------------------------------------------------------------ length


def test_clip_reads_every_prompt_whole(many: list[Prompt]) -> None:
    """77 tokens less the two marks, counted with open_clip's own tokenizer.

    It splits at every space, so a text has the tokens of its words; the longest are counted whole as well.
    """
    tokenizer = clip_tokenizer()
    assert len(many) == MANY
    lengths = {word: len(tokenizer.encode(word)) for word in {w for prompt in many for w in prompt.text.split()}}
    counted = sorted((sum(lengths[word] for word in prompt.text.split()), prompt.text) for prompt in many)
    assert 60 < counted[-1][0] <= 75
    assert all(len(tokenizer.encode(text)) == count for count, text in counted[-2000:] + counted[::100])


def test_the_negative_prompts_fit_too(grammar: Grammar, natural: Grammar) -> None:
    tokenizer = clip_tokenizer()
    for text in {*grammar.negative.values(), *natural.negative.values()}:
        assert 0 < len(tokenizer.encode(text)) <= 75


def test_parts_are_dropped_to_fit_and_those_with_small_keep_first(tmp_path: Path) -> None:
    copy_grammar(None, tmp_path)
    table = (tmp_path / "parts.tsv").read_text()
    (tmp_path / "parts.tsv").write_text(re.sub(r"\t0\.\d+\t", "\t1\t", table))
    wordy = {"camera": "view", "composition": "picture", "mood": "mood", "praise": "work", "resolution": "drawing"}
    for part, noun in wordy.items():
        line = f"1\t{'one and two and three and ' * 2}one {noun}"
        (tmp_path / "parts" / f"{part}.tsv").write_text(f"weight\ttext\ttags\tonly\tnot\n{line}\n")
    talkative = load_grammar(tmp_path)
    tokenizer = clip_tokenizer()
    dropped: Counter[str] = Counter()
    lengths = []
    for index in range(1500):
        prompt = prompt_at(talkative, 0, index)
        dropped.update(name for name, words in prompt.parts.items() if words is None)
        lengths.append(len(tokenizer.encode(prompt.text)))
    assert max(lengths) <= 75
    assert sum(lengths) / len(lengths) > 60
    assert dropped["scene"] == dropped["people"] == dropped["action"] == 0
    assert dropped["praise"] > dropped["composition"] > dropped["mood"] > 0


# ------------------------------------------------------------------------------------------------ random access


@given(st.integers(0, 2**63), st.integers(0, 10**9), st.integers(1, 30))
@settings(max_examples=100)
def test_a_prompt_is_its_arguments_alone(seed: int, index: int, attempt: int) -> None:
    grammar = _loaded()
    prompt = prompt_at(grammar, seed, index, attempt)
    assert prompt == prompt_at(grammar, seed, index, attempt)
    assert (prompt.seed, prompt.index, prompt.attempt) == (seed, index, attempt)
    assert tuple(prompt.parts) == PARTS
    first = prompt_at(grammar, seed, index)
    assert (prompt.scene, prompt.action, prompt.num_people) == (first.scene, first.action, first.num_people)
    assert (prompt.text == first.text) or attempt > 3


_GRAMMARS: list[Grammar] = []


def _loaded() -> Grammar:
    if not _GRAMMARS:
        _GRAMMARS.append(load_grammar())
    return _GRAMMARS[0]


def test_the_first_three_attempts_say_the_same_and_later_ones_something_else(grammar: Grammar) -> None:
    for index in range(50):
        texts = [prompt_at(grammar, 0, index, attempt).text for attempt in range(1, 9)]
        assert len(set(texts[:3])) == 1
        assert len(set(texts[2:])) == 6


def test_the_order_in_which_prompts_are_asked_for_does_not_matter(grammar: Grammar) -> None:
    forward = [prompt_at(grammar, 9, index) for index in range(300)]
    fresh = load_grammar()
    assert [prompt_at(fresh, 9, index) for index in reversed(range(300))] == forward[::-1]


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_another_process_gives_the_same_prompts(grammar: Grammar, hash_seed: str) -> None:
    code = (
        "import hashlib; from prompts.grammar import load_grammar; from prompts.sampling import prompt_at\n"
        "g = load_grammar(); print(g.digest)\n"
        "texts = ''.join(prompt_at(g, 5, i, 1 + i % 6).text for i in range(0, 10**6, 3989))\n"
        "print(hashlib.sha256(texts.encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    texts = "".join(prompt_at(grammar, 5, i, 1 + i % 6).text for i in range(0, 10**6, 3989))
    assert ran.stdout.split() == [grammar.digest, hashlib.sha256(texts.encode()).hexdigest()]


@pytest.mark.parametrize(("index", "attempt"), [(-1, 1), (0, 0)])
def test_numbers_below_the_first_are_refused(grammar: Grammar, index: int, attempt: int) -> None:
    with pytest.raises(ValueError, match="an index is 0 or more, an attempt 1 or more"):
        prompt_at(grammar, 0, index, attempt)


def test_prompts_hardly_ever_repeat(many: list[Prompt]) -> None:
    assert len({prompt.text for prompt in many}) >= 0.9995 * len(many)


# ------------------------------------------------------------------------------------------------ the record


def test_the_text_says_the_recorded_parts_and_nothing_else(many: list[Prompt]) -> None:
    for prompt in many[::10]:
        parts = {name: words for name, words in prompt.parts.items() if words}
        looks = parts.pop("age_looks", None)
        who = parts["people"]
        if looks:
            assert f" {looks} " in prompt.text
            number, _, kind = who.partition(" ")
            rest = prompt.text.replace(f" {looks} ", " ", 1)
            who = kind if number == "a" else who
        else:
            rest = prompt.text
        for words in (who, *(words for name, words in parts.items() if name != "people")):
            rest, found = re.subn(rf"(?<![\w-]){re.escape(words)}(?![\w-])", "", rest, count=1)
            assert found, (prompt.text, words)
        assert re.fullmatch(r"an? +of (an? )?[ ,]*\.", rest), (prompt.text, rest)
        assert prompt.parts["action"] == prompt.action


def test_scene_number_and_action_come_before_what_may_be_dropped(many: list[Prompt]) -> None:
    for prompt in many[::20]:
        first, *others = prompt.text.split(", ")
        assert f"{prompt.parts['scene']} of " in first
        assert prompt.action in first
        assert all(prompt.action not in other for other in others)


def test_numbers_of_people_agree_with_the_words(many: list[Prompt]) -> None:
    for prompt in many:
        people = str(prompt.parts["people"])
        number = {"a ": 1, "two ": 2, "three ": 3}
        if " and a " in people:
            said = (1 if people.startswith("a ") else 2) + 1
        else:
            said = next(n for word, n in number.items() if people.startswith(word))
        assert said == prompt.num_people, people


def test_people_and_scenes_are_at_their_shares(many: list[Prompt]) -> None:
    people = Counter(prompt.num_people for prompt in many)
    assert all(abs(people[k] / MANY - share) < 0.003 for k, share in ((1, 0.7), (2, 0.2), (3, 0.1)))
    scenes = Counter(prompt.scene for prompt in many)
    assert len(scenes) == 19
    assert max(scenes[s] for s in list(scenes)[:14]) - min(scenes[s] for s in list(scenes)[:14]) <= 3


def test_what_the_image_needs_most_is_said_often(many: list[Prompt]) -> None:
    said = Counter(name for prompt in many for name, words in prompt.parts.items() if words)
    assert said["clothing"] > 0.75 * MANY
    assert said["place"] > 0.5 * MANY
    assert all(said[name] > 0.2 * MANY for name in DRAWN if name not in ("companion", "colour"))
    assert all(0.1 * MANY < said[name] < MANY for name in ("companion", "colour"))
    hues = re.compile(r"\b(red|orange|yellow|green|blue|purple|pink|white|black|grey|brown)\b")
    colored = [p for p in many if p.scene not in ("ink-painting", "relief", "sculpture", "shadow-play")]
    assert sum(bool(hues.search(p.parts["clothing"] or "")) for p in colored) > 0.7 * len(colored)


# ------------------------------------------------------------------------------------------------ English


def test_articles_are_right(many: list[Prompt]) -> None:
    vowel = r"(?:[aeio]|u(?!k|ni[cftvq]|s[ei])|8|hour|[xl]-)"
    for prompt in many:
        for wrong in re.findall(rf"\ba {vowel}\S*|\ban (?!{vowel})\S*", prompt.text.lower()):
            assert re.match(r"a (eu|one-|uni|use)", wrong), (wrong, prompt.text)


def test_nothing_is_doubled_or_dangling(many: list[Prompt]) -> None:
    for prompt in many:
        text = prompt.text
        assert not re.search(r"\b(\w+) \1\b|  | ,|,,|,\.|[{}\[\]|*\t]", text), text
        assert re.fullmatch(r"an? .*\w\.", text), text
        assert not re.search(r"\b(of|at|with|a|an|the|and)(,|\.)", text), text


def test_optional_parts_do_not_repeat_words_of_others(many: list[Prompt]) -> None:
    for prompt in many[::5]:
        seen = content_words(prompt.action)
        for name in ("age_looks", "clothing", "place", "companion", "time_of_day", "season_weather", "light", "mood"):
            words = content_words(prompt.parts[name] or "")
            assert not words & seen, prompt.text
            seen |= words


def test_numbers_and_nouns_agree(many: list[Prompt]) -> None:
    one = re.compile(r"\ba (?:\S+ ){0,2}?(women|men|people|girls|boys|children|coats|shirts|dresses)\b")
    several = re.compile(r"^(?:two|three) (?:\S+ ){0,2}?(woman|man|person|girl|boy|child|dancer|friend)\b")
    for prompt in many:
        who = f"{prompt.parts['people']} {prompt.parts['clothing'] or ''}"
        assert not one.search(who), who
        assert not several.search(who), who
        if prompt.num_people > 1:
            assert not re.search(r"^in an? ", prompt.parts["clothing"] or ""), who


def test_words_for_minors_meet_no_unfit_words(many: list[Prompt]) -> None:
    meant = [prompt.text for prompt in many if MINORS.search(prompt.text)]
    assert len(meant) > 0.05 * MANY
    assert not [text for text in meant if UNFIT.search(text)]
    assert any(UNFIT.search(prompt.text) for prompt in many)


def test_the_papers_sentence_can_be_said(grammar: Grammar) -> None:
    """The example of the HumanSD paper (ICCV 2023), with young women for its young girls."""
    wanted = {
        "realism": "realistic",
        "scene": "pixel art",
        "people": "two * women",
        "age_looks": "beautiful young",
        "place": "in the street",
        "time_of_day": "at midnight",
        "season_weather": "in winter",
        "resolution": "64K",
        "praise": "a masterpiece",
    }
    scene = next(i for i, scene in enumerate(grammar.scenes) if scene.name == "digital-art")
    run = next(i for i, action in enumerate(grammar.actions) if action.phrase == "running")
    context = grammar.scene_tags[scene] | grammar.action_tags[run] | grammar.tag_bits["two-people"]
    refused, words = grammar.action_never[run], grammar.action_words[run]
    for name in DRAWN:
        if name in wanted:
            found = grammar.parts[name].fitting(context, refused)[1]
            phrase = next(phrase for phrase in found if phrase.texts[1] == wanted[name])
            assert not phrase.words & words
            context, refused, words = context | phrase.tags, refused | phrase.never, words | phrase.words
    said = dict.fromkeys(PARTS) | wanted | {"action": "running"}
    assert compose(said) == (
        "a realistic pixel art of two beautiful young women running in the street at midnight, in winter, 64K, "
        "a masterpiece."
    )


# ------------------------------------------------------------------------------------------------ sense

_SKIS = (
    r"\b(?<!water-)(?<!jet )(?<!one )ski(?:ing|s)?\b(?! pole| boots| down a grassy)"
    r"|snowboard|\b(?:ice|figure|speed)-skating"
)

CLASHES = [
    (_SKIS + r"|\bsnowball|(?<!weight )\bsled\b|\bon ice\b", "season_weather", r"spring|summer|autumn|rain|storm"),
    (_SKIS, "place", r"street|city|market|rooftop|desert|room"),
    (r"autumn leaves|fallen leaves|through the rain|\bgate\b|\bhay\b", "place", r"kitchen|\broom\b|library|gym\b"),
    (r"\bdrawer\b|\bcurtains?\b|dishwasher|whiteboard", "place", r"forest|desert|meadow|mountain|beach"),
    (r"\bbeard\b|mustache", "people", r"wom[ae]n|lad(?:y|ies)|girl|boy|child"),
    (r"\bskirt\b", "people", r"\bm[ae]n\b|gentlem|\bboys?\b|monk"),
]
"""(what people do, the part it touches, words that part may not say then)"""


@pytest.mark.parametrize(("doing", "part", "never"), CLASHES)
def test_what_is_done_rules_out_what_would_clash(many: list[Prompt], doing: str, part: str, never: str) -> None:
    meant = [prompt for prompt in many if re.search(doing, prompt.action)]
    assert len(meant) > 20
    assert not [prompt.text for prompt in meant if re.search(never, prompt.parts[part] or "")]


def test_the_sun_does_not_shine_in_the_rain(many: list[Prompt]) -> None:
    shining = re.compile(r"big smiling sun|warm sunlight|bright light|strong shadows")
    dull = re.compile(r"in the rain|thunderstorm|fog|cloudy")
    wet = [p for p in many if dull.search(p.parts["season_weather"] or "")]
    assert wet
    assert not [p.text for p in wet if shining.search(p.text)]
