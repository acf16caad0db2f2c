"""Loading a grammar: what the bundled one holds, what a user's folder may be, and what each mistake says."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from prompts.grammar import (
    DATA,
    DRAWN,
    MINOR,
    PARTS,
    UNFIT_FOR_MINORS,
    Grammar,
    GrammarError,
    copy_grammar,
    load_grammar,
)
from prompts.phrases import Phrase
from prompts.sampling import prompt_at

DEFAULT_SCENES = (
    "cartoon digital-art garage-kits ink-painting kids-drawing mural oil-painting relief sculpture shadow-play sketch "
    "stained-glass ukiyoe watercolor"
)


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return load_grammar(scenes="all")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled tables with every two-hundredth action only, so that loading is quick."""
    folder = tmp_path_factory.mktemp("small")
    copy_grammar(None, folder)
    actions = (folder / "actions.tsv").read_text().splitlines(keepends=True)
    (folder / "actions.tsv").write_text("".join([actions[0], *actions[1::200]]))
    return folder


@pytest.fixture
def mine(small: Path, tmp_path: Path) -> Path:
    """A folder of one's own to spoil."""
    copy_grammar(small, tmp_path / "grammar")
    return tmp_path / "grammar"


def edit(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text()
    after = change(before)
    assert before != after
    path.write_text(after)


def add(path: Path, line: str) -> int:
    """Append a line; its number."""
    with path.open("a") as file:
        file.write(line + "\n")
    return len(path.read_text().splitlines())


# ------------------------------------------------------------------------------------------------ the bundled grammar


def test_there_are_eighteen_parts() -> None:
    assert len(PARTS) == 18
    assert set(DRAWN) | {"action"} == set(PARTS)


def test_fourteen_scenes_by_default_and_five_natural_ones(grammar: Grammar) -> None:
    assert [scene.name for scene in load_grammar().scenes] == DEFAULT_SCENES.split()
    natural = load_grammar(scenes="natural").scenes
    assert [scene.name for scene in natural] == ["acrobatics", "cosplay", "dance", "drama", "movie"]
    assert [s.name for s in load_grammar(scenes=["movie", "sketch"]).scenes] == ["sketch", "movie"]
    assert len(grammar.scenes) == 19


def test_every_scene_says_itself_and_has_a_medium_and_a_negative_prompt(grammar: Grammar) -> None:
    for scene, tags in zip(grammar.scenes, grammar.scene_tags, strict=True):
        assert len(grammar.parts["scene"].fitting(tags, 0)[1]) >= 3, scene.name
        assert len(grammar.parts["medium"].fitting(tags, 0)[1]) >= 4, scene.name
        assert grammar.negative[scene.name]


def test_plain_colors_dress_people_wherever_the_scene_has_colors(grammar: Grammar) -> None:
    hues = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black", "grey", "brown"}
    one = grammar.tag_bits["one-person"]
    for scene, tags in zip(grammar.scenes, grammar.scene_tags, strict=True):
        phrases = grammar.parts["clothing"].fitting(tags | one, 0)[1]
        named = {hue for phrase in phrases for hue in hues & set(phrase.texts[0].split())}
        assert named == (set() if "uncolored" in scene.tags else hues), scene.name


def test_scenes_rule_out_what_does_not_fit_them(grammar: Grammar) -> None:
    tags = dict(zip((scene.name for scene in grammar.scenes), grammar.scene_tags, strict=True))

    def said(part: str, scene: str) -> set[str]:
        return {phrase.texts[0] for phrase in grammar.parts[part].fitting(tags[scene], 0)[1]}

    assert "shot on 35mm film" in said("camera", "movie")
    assert "shot on 35mm film" not in said("camera", "stained-glass")
    assert not said("season_weather", "sculpture")
    assert not said("time_of_day", "garage-kits")
    assert not said("colour", "shadow-play")
    assert "thick lead lines" in said("medium", "stained-glass")
    assert "thick lead lines" not in said("medium", "watercolor")


def test_loading_again_gives_the_same_digest_and_other_scenes_another() -> None:
    assert load_grammar().digest == load_grammar().digest
    assert load_grammar().digest != load_grammar(scenes="natural").digest


def test_a_grammar_can_be_sent_to_another_process(small: Path) -> None:
    grammar = load_grammar(small)
    prompt_at(grammar, 0, 0)
    assert prompt_at(pickle.loads(pickle.dumps(grammar)), 3, 5) == prompt_at(grammar, 3, 5)


# ------------------------------------------------------------------------------------------------ words for minors

# Written here a second time and not read from safety.tsv: the test must not trust the table that it tests.
MINORS = re.compile(
    r"\b(girl|boy|child|children|kid|toddler|bab(?:y|ies)|infant|teen|teenager|teenage|adolescent|schoolgirl|schoolboy"
    r"|daughter|son|youngster|newborn)s?\b"
)
UNFIT = re.compile(
    r"\b(sexy|sensual|seductive|erotic|attractive|beautiful|handsome|pretty|gorgeous|romantic|slim|muscular|kiss\w*"
    r"|lover|flirting|naked|nude|topless|shirtless|bikini|swimsuit|swimming|sunbathing|underwear|lingerie|undressing"
    r"|bathing|bathtub|shower\w*|sauna|injured|bleeding|blood\w*|wound\w*|hurt|pain|bandag\w*|vomit\w*|crutch\w*"
    r"|gun|rifle|pistol|sword|dagger|knife|knives|spear|beer|wine|whisky|champagne|cocktail|smoking|cigar\w*|hookah"
    r"|gambling|casino|poker|drunk\w*)s?\b"
)


def everything(grammar: Grammar) -> list[tuple[str, str, Phrase]]:
    """(part, words, phrase) of the whole grammar, both numbers, the actions as phrases of their own."""
    found = [(n, f"{p.texts[0]} / {p.texts[1]}", p) for n, part in grammar.parts.items() for p in part.phrases]
    for action, tags, never, words in zip(
        grammar.actions, grammar.action_tags, grammar.action_never, grammar.action_words, strict=True
    ):
        texts = (action.phrase, action.phrase)
        found.append(("action", action.phrase, Phrase(texts, (1, 1), 1.0, tags, (), never, words, "actions.tsv")))
    return found


def test_words_for_minors_meet_no_unfit_words_over_the_whole_product(grammar: Grammar) -> None:
    phrases = everything(grammar)
    minors = [(n, words, p) for n, words, p in phrases if MINORS.search(words)]
    unfit = [(n, words, p) for n, words, p in phrases if UNFIT.search(words)]
    assert {part for part, _, _ in minors} >= {"people"}
    assert {part for part, _, _ in unfit} >= {"age_looks", "action", "clothing", "mood"}
    for _, words, minor in minors:
        for _, others, bad in unfit:
            assert not minor.fits(bad.tags, bad.never), (words, others)
            assert not bad.fits(minor.tags, minor.never), (words, others)


def test_tagged_actions_never_have_minors(grammar: Grammar) -> None:
    """Also where no word tells: the list of actions tags what is unfit."""
    bits = {tag: grammar.tag_bits[tag] for tag in UNFIT_FOR_MINORS}
    unfit = sum(bits.values())
    people = grammar.parts["people"]
    tagged = {
        (tags, never) for tags, never in zip(grammar.action_tags, grammar.action_never, strict=True) if tags & unfit
    }
    assert tagged
    for tags, never in tagged:
        for number in ("one-person", "two-people", "three-people"):
            _, fitting = people.fitting(tags | grammar.tag_bits[number], never)
            assert fitting
            assert not any(phrase.tags & grammar.tag_bits[MINOR] for phrase in fitting)
            assert not any(MINORS.search(phrase.texts[1]) for phrase in fitting)


def test_a_users_folder_cannot_take_the_rule_for_minors_away(mine: Path) -> None:
    (mine / "safety.tsv").write_text("tag\twords\n")
    add(mine / "parts" / "age_looks.tsv", "1\tsultry gorgeous")
    grammar = load_grammar(mine)
    girl = next(p for p in grammar.parts["people"].phrases if "girl" in p.texts[0])
    looks = next(p for p in grammar.parts["age_looks"].phrases if "gorgeous" in p.texts[0])
    assert not looks.fits(girl.tags, girl.never)


def test_a_users_folder_can_add_to_the_rule(mine: Path) -> None:
    add(mine / "safety.tsv", "sexualised\tsultry")
    add(mine / "parts" / "age_looks.tsv", "1\tsultry")
    grammar = load_grammar(mine)
    girl = next(p for p in grammar.parts["people"].phrases if "girl" in p.texts[0])
    looks = next(p for p in grammar.parts["age_looks"].phrases if p.texts[0] == "sultry")
    assert not looks.fits(girl.tags, girl.never)


# ------------------------------------------------------------------------------------------------ a folder of one's own


def test_a_copy_gives_the_same_prompts_and_the_same_digest(tmp_path: Path) -> None:
    copy_grammar(None, tmp_path)
    bundled, copied = load_grammar(), load_grammar(tmp_path)
    assert bundled.digest == copied.digest
    assert [prompt_at(bundled, 1, i) for i in range(20)] == [prompt_at(copied, 1, i) for i in range(20)]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.tsv")) == sorted(
        p.relative_to(DATA).as_posix() for p in DATA.rglob("*.tsv")
    )


def test_an_edited_table_changes_the_digest_and_is_heard(mine: Path) -> None:
    before = load_grammar(mine)
    (mine / "parts" / "praise.tsv").write_text("weight\ttext\ttags\tonly\tnot\n1\tgood\n")
    edit(mine / "parts.tsv", lambda text: re.sub(r"praise\t0\.\d+", "praise\t1", text))
    after = load_grammar(mine)
    assert before.digest != after.digest
    assert all(prompt_at(after, 0, i).parts["praise"] == "good" for i in range(30))


def test_a_table_may_leave_out_trailing_cells_and_have_comments(mine: Path) -> None:
    (mine / "parts" / "mood.tsv").write_text("# said of the whole\n\nweight\ttext\ttags\tonly\tnot\n1\tmerry mood\n")
    assert [p.texts[0] for p in load_grammar(mine).parts["mood"].phrases] == ["merry mood"]


MISTAKES = [
    ("parts/mood.tsv", "0\tmerry mood", "weight is a number above 0, not '0'"),
    ("parts/mood.tsv", "-1\tmerry mood", "weight is a number above 0, not '-1'"),
    ("parts/mood.tsv", "many\tmerry mood", "weight is a number above 0, not 'many'"),
    ("parts/mood.tsv", "inf\tmerry mood", "weight is a number above 0, not 'inf'"),
    ("parts/mood.tsv", "nan\tmerry mood", "weight is a number above 0, not 'nan'"),
    ("parts/mood.tsv", "1", "the text is empty"),
    ("parts/mood.tsv", "1\tmerry mood\t\t\t\t\tmore", "7 cells for 5 columns"),
    ("parts/mood.tsv", "1\tmerry mood\t\tstained-glas", "no scene or tag is called 'stained-glas'; did you mean"),
    (
        "parts/mood.tsv",
        "1\tmerry mood\t\t\tsculptur",
        "no scene or tag is called 'sculptur'; did you mean 'sculpture'?",
    ),
    ("parts/mood.tsv", "1\tcalm mood", "'calm mood' is there already, at "),
    ("parts/mood.tsv", "1\tmerry mood.", "'.' does not belong there in 'merry mood.'"),
    ("parts/mood.tsv", "1\tmerry  mood", "does not belong there in 'merry  mood'"),
    ("parts/mood.tsv", "1\tmerry merry mood", "doubled word 'merry merry'"),
    ("parts/mood.tsv", "1\t{feeling} mood", "no list {feeling} in words.tsv; there are city, hue"),
    ("parts/mood.tsv", "1\t[merry mood", "'[' does not belong there"),
    ("parts/mood.tsv", "1\tmood of a * person", "'*' stands once, in people.tsv"),
    ("parts/mood.tsv", "1\tbeautiful girl mood", "'beautiful girl mood' puts words for minors beside words unfit"),
    ("parts/mood.tsv", "1\t" + "extraordinarily unforgettable " * 3 + "mood", "CLIP tokens, at most 20"),
    ("parts/people.tsv", "1\tfour * * women\t\tone-person", "'*' stands once, in people.tsv"),
    ("parts/clothing.tsv", "1\tin a mask\tmasked\tsunny", "'sunny' is only known after clothing is drawn"),
    ("parts/clothing.tsv", "1\tin a mask\tmovie", "the tag 'movie' is the name of a scene"),
    ("words.tsv", "hue\t1\tred", "'red' is in the list 'hue' already"),
    ("words.tsv", "hue\tno\tteal", "weight is a number above 0, not 'no'"),
    ("scenes.tsv", "Comic Strip\tdefault", "a scene's name is small letters, digits, hyphens; not 'Comic Strip'"),
    ("scenes.tsv", "mural\tdefault", "the scene 'mural' is there already"),
    ("scenes.tsv", "collage\tmine", "set is default or natural, not 'mine'"),
    ("parts.tsv", "weather\t0.5\t1", "no part is called 'weather'"),
    ("parts.tsv", "mood\t1.5\t1", "chance is a number above 0 up to 1, not '1.5'"),
    ("parts.tsv", "mood\t0.5\t", "keep is a number above 0, not ''"),
    ("marks.tsv", "snow\ttwo words", "'two words' is not a single word in small letters"),
    ("marks.tsv", "\tword", "no tag"),
    ("negative.tsv", "*\tugly", "'*' has a negative prompt already"),
    ("negative.tsv", "murals\tugly", "no scene or tag is called 'murals'"),
    ("negative.tsv", "mural\t" + "ugly, " * 40 + "bad", "CLIP tokens, at most 75"),
    ("actions.tsv", "dancing\tcomposed\tx\t3-1\t", "people is a range such as 1-3 or 2-3, not '3-1'"),
    ("actions.tsv", "dancing\tcomposed\tx\t1-4\t", "people is a range such as 1-3 or 2-3, not '1-4'"),
    ("actions.tsv", "walking, singing.\tcomposed\tx\t1-3\t", "'.' does not belong there"),
    ("actions.tsv", "undressing a child\tcomposed\tx\t1-3\t", "puts words for minors beside words unfit for them"),
    ("actions.tsv", "photographing counterrevolutionaries\tcomposed\tx\t1-3\t", "CLIP tokens, at most 20"),
    ("tokens.tsv", "x\tword", "a line is a number of tokens, a tab and pieces"),
]


@pytest.mark.parametrize(("file", "line", "message"), MISTAKES)
def test_a_mistake_names_file_and_line(mine: Path, file: str, line: str, message: str) -> None:
    number = add(mine / file, line)
    with pytest.raises(GrammarError) as caught:
        load_grammar(mine)
    assert str(caught.value).startswith(f"{mine / file}:{number}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_action_tag_is_not_taken_for_a_scene_of_that_name(mine: Path) -> None:
    line = "waltzing on the pavement\tcomposed\tx\t1-3\tdance"
    add(mine / "actions.tsv", line)
    add(mine / "parts" / "mood.tsv", "1\tsway in every line\t\tdoing-dance")
    grammar = load_grammar(mine, ["mural"])
    tags = grammar.action_tags[-1]
    assert not tags & grammar.tag_bits["dance"]
    assert any("sway" in p.texts[0] for p in grammar.parts["mood"].fitting(tags, 0)[1])
    (mine / "marks.tsv").write_text((mine / "marks.tsv").read_text() + "mural\n")
    with pytest.raises(GrammarError, match="'mural' is a scene here and a tag in marks"):
        load_grammar(mine)


def test_a_doubled_action_names_its_line(mine: Path) -> None:
    number = add(mine / "actions.tsv", (mine / "actions.tsv").read_text().splitlines()[1])
    with pytest.raises(GrammarError, match=rf"actions\.tsv:{number}: the action '.*' is there already"):
        load_grammar(mine)


@pytest.mark.parametrize("part", [name for name in PARTS if name != "action"])
def test_a_missing_part_is_named(mine: Path, part: str) -> None:
    (mine / "parts" / f"{part}.tsv").unlink()
    with pytest.raises(GrammarError, match=rf"{part}\.tsv:1: this file is missing"):
        load_grammar(mine)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("parts/mood.tsv", "weight\ttext\ttags\tonly\tnot\n", "mood.tsv:1: no phrases"),
        ("parts/mood.tsv", "text\tweight\ncalm\t1\n", "mood.tsv:1: the columns are weight, text, tags, only, not"),
        ("parts/mood.tsv", "", "mood.tsv:1: the first line names the columns: weight, text"),
        (
            "parts.tsv",
            "part\tchance\tkeep\tonly\tnot\twhat it tells\nscene\n",
            "parts.tsv:1: the part 'realism' is missing",
        ),
        ("actions.tsv", "phrase\tsource\tlabel\tpeople\ttags\n", "actions.tsv:1: no actions"),
        ("scenes.tsv", "scene\tset\ttags\twhat it is\n", "scenes.tsv:1: no scenes to choose from"),
        (
            "actions.tsv",
            "phrase\tsource\tlabel\tpeople\ttags\nrunning\tmine\tx\t1-1\t\nhugging\tmine\tx\t2-3\tintimate\n",
            "actions.tsv:1: the actions' numbers of people do not allow 1, 2 and 3 people at 7 : 2 : 1",
        ),
    ],
)
def test_a_table_that_lacks_something_says_what(mine: Path, file: str, content: str, message: str) -> None:
    (mine / file).write_text(content)
    with pytest.raises(GrammarError) as caught:
        load_grammar(mine)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("file", "without", "message"),
    [
        ("parts/people.tsv", r".*three-people", "people.tsv:1: nothing fits three-people in cartoon for every action"),
        (
            "parts/people.tsv",
            r"(?!.*(girl|boy|child)).*one-person",
            "nothing fits one-person in cartoon for every action",
        ),
        ("parts/scene.tsv", r".*\tcartoon", "scene.tsv:1: nothing fits one-person in cartoon for every action"),
    ],
)
def test_a_slot_that_would_have_no_words_is_named(mine: Path, file: str, without: str, message: str) -> None:
    edit(mine / file, lambda text: "".join(x for x in text.splitlines(keepends=True) if not re.match(without, x)))
    with pytest.raises(GrammarError) as caught:
        load_grammar(mine)
    assert message in str(caught.value)


def test_an_unknown_scene_or_folder_is_named(mine: Path, tmp_path: Path) -> None:
    with pytest.raises(
        GrammarError, match=r"scenes\.tsv:1: no scene is called 'watercolour'; did you mean 'watercolor'"
    ):
        load_grammar(mine, ["watercolour"])
    with pytest.raises(GrammarError, match="nowhere: no such folder"):
        load_grammar(tmp_path / "nowhere")


def test_a_table_that_is_not_text_is_named(mine: Path) -> None:
    (mine / "parts" / "mood.tsv").write_bytes(b"weight\ttext\n1\t\xff\n")
    with pytest.raises(GrammarError, match=r"mood\.tsv:1: not UTF-8 text"):
        load_grammar(mine)


def test_the_guide_to_the_tables_is_true(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (DATA.parent / "README.md").read_text()
    block = re.search(r"```python\n(.*?)```", guide, re.DOTALL)
    assert block
    exec(block[1], {})
    assert " of " in capsys.readouterr().out
    order = re.search(r"drawn in this\s+order.*?: (.*?)\.\n", guide, re.DOTALL)
    assert order
    assert tuple(re.split(r",\s+", order[1])) == DRAWN
    assert all((DATA / name).exists() for name in re.findall(r"^\| `([\w.]+\.tsv)`", guide, re.MULTILINE))
