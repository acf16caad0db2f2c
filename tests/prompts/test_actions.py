"""The list of actions: what it holds, how it is built, and how a user's own labels join it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from prompts import actions
from prompts.actions import (
    BUILT,
    COUNT,
    DATA,
    PUBLISHED,
    TABLES,
    Row,
    build,
    counts,
    faults,
    import_labels,
    to_tsv,
    unwanted,
)
from prompts.grammar import copy_grammar, load_grammar
from prompts.labels import gerund, read_labels, to_phrase, verb_forms
from prompts.phrases import GrammarError
from prompts.tables import ActionError, expand, load_tags


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return build()


def test_there_are_as_many_as_the_paper_says(rows: list[Row]) -> None:
    assert len(rows) == COUNT == 6826
    assert len({row.phrase for row in rows}) == COUNT


def test_the_committed_list_is_what_the_tables_give(rows: list[Row]) -> None:
    assert BUILT.read_bytes() == to_tsv(rows).encode()


def test_every_source_is_counted(rows: list[Row]) -> None:
    found = counts(rows)
    assert sum(found.values()) == COUNT
    assert {"ntu120", "haa500", "hico", "babel"} == {name for name in found if "/" not in name}
    assert (found["ntu120"], found["haa500"], found["hico"], found["babel"]) == (109, 470, 497, 213)
    assert min(found.values()) >= 10
    told = (DATA / "README.md").read_text(encoding="utf-8")
    for name in found:
        assert f"`{name.removeprefix('composed/')}`" in told, name


def test_no_published_label_is_used_twice(rows: list[Row]) -> None:
    labels = [(row.source, row.label) for row in rows if row.source != "composed"]
    assert len(set(labels)) == len(labels)


def test_phrases_are_clean_english(rows: list[Row]) -> None:
    assert not [(row.phrase, wrong) for row in rows if (wrong := faults(row.phrase))]
    assert all(re.match(r"[a-z-]+ing\b", row.phrase) for row in rows)
    assert not [row.phrase for row in rows if re.search(r"\bperforming an? |\bsomething\b|\banother\b", row.phrase)]
    assert not [row.phrase for row in rows if re.search(r"\b(?:together|alone)\b.*\beach other\b", row.phrase)]


def test_tags_are_of_the_closed_list_with_one_pose_each(rows: list[Row]) -> None:
    meaning = load_tags(TABLES).meaning
    poses = [tag for tag in meaning if tag.startswith("pose-")]
    assert len(poses) == 16
    for row in rows:
        assert set(row.tags) <= set(meaning), row
        assert sum(tag in poses for tag in row.tags) == 1, row
    assert {tag for row in rows for tag in row.tags} >= set(poses) | {
        "adult",
        "injury",
        "weapon",
        "intimate",
        "undressed",
    }
    told = (DATA / "README.md").read_text(encoding="utf-8")
    assert not [tag for tag in meaning if f"`{tag}`" not in told]


def test_people_ranges_are_sane(rows: list[Row]) -> None:
    for row in rows:
        assert row.people in ("1-1", "1-3", "2-3")
        if re.search(
            r"each other|together|side by side|hand in hand|in a row|cheek to cheek|\bjoined hands", row.phrase
        ):
            together = re.search(r"(?:feet|hands|palms|lids|parts|pressed) together", row.phrase)
            assert row.people == "2-3" or together, row
        assert (row.people == "2-3") == ("social" in row.tags), row
    # Two or three people come to 3 slots in 10: most of those must be left for actions that fit any number.
    assert sum(row.people == "2-3" for row in rows) < 0.12 * len(rows)


@pytest.mark.parametrize(
    ("words", "tag"),
    [
        (r"\b(?:wine|beer|champagne|cocktail|sake|cider)\b", "adult"),
        (r"(?<!toy )(?:\b|wooden )(?:sword|spear|bow and arrow|crossbow|nunchucks)\b", "weapon"),
        (r"\b(?:kissing|hugging each|embracing|cuddling|snuggling)\b.*(?<!knees)$", "intimate"),
        (r"^(?:swimming|sunbathing|surfing|diving (?:off|in|among))\b", "undressed"),
        (r"\b(?:limping|crutches|bandage|bandaging|falling (?:to|off))\b", "injury"),
        (r"^(?:feeding|petting|brushing|hugging|leading) an? (?:dog|puppy|horse|goat|kitten|camel)\b", "animal"),
        (r"^(?:playing|tuning) .*(?:guitar|violin|trumpet|cello|saxophone)$(?<!air guitar)", "instrument"),
    ],
)
def test_words_bring_their_tags(rows: list[Row], words: str, tag: str) -> None:
    having = [row for row in rows if re.search(words, row.phrase)]
    assert len(having) >= 5
    # A kiss for an animal is no tenderness between people.
    lacking = [row.phrase for row in having if tag not in row.tags and not (tag == "intimate" and _is_kind(row))]
    assert not lacking


def _is_kind(row: Row) -> bool:
    return "animal" in row.tags or "teddy" in row.phrase


def test_what_is_unwanted_is_not_there(rows: list[Row]) -> None:
    reasons = {why for _, why in unwanted()}
    assert len(reasons) == 7
    for phrase in ("stabbing a doll", "smoking on a bench", "holding a baby", "swimming naked", "practicing cpr"):
        assert faults(phrase), phrase
    assert not any(pattern.search(row.phrase) for row in rows for pattern, _ in unwanted())


@pytest.mark.parametrize(
    ("phrase", "why"),
    [
        ("a cartwheel", "-ing"),
        ("holding a a cup", "doubled"),
        ("holding a apple", "article"),
        ("riding an unicycle", "article"),
        ("looking at", "ends with"),
        ("brushing their teeth", "number of people"),
        ("Walking", "small letters"),
        ("performing a backflip", "clumsy"),
    ],
)
def test_faults_are_named(phrase: str, why: str) -> None:
    assert any(why in fault for fault in faults(phrase))


def test_right_articles_pass() -> None:
    for phrase in ("riding a unicycle", "holding an hourglass", "doing an l-sit on parallel bars", "playing a ukulele"):
        assert not faults(phrase), phrase


def test_templates() -> None:
    assert expand("walking {slowly|up {x}".replace("{x}", "a hill}"), "here") == ["walking slowly", "walking up a hill"]
    assert expand("{a|b} and {c|}", "here") == ["a and c", "a and", "b and c", "b and"]
    with pytest.raises(ActionError, match="unbalanced"):
        expand("walking {slowly", "here")


def test_a_mistake_names_file_and_line(tmp_path: Path) -> None:
    for name in ("tags.txt", "verbs.txt"):
        shutil.copy(TABLES / name, tmp_path)
    for source in PUBLISHED:
        (tmp_path / f"{source}.txt").write_text(f"# a note\n[{source}]\n", encoding="utf-8")
    (tmp_path / "hico.txt").write_text("[hico]\nriding a horse = ride horse\n", encoding="utf-8")
    path = tmp_path / "composed_a.txt"
    start = "@how = slowly|fast\n\n[gait]\nwalking {@how|on}\n"
    for line, said in (
        ("jumping over a elephant", "article"),
        ("riding a horse", "already"),
        ("jumping = jump", "is written phrase"),
        ("jumping on a drum :: pose-float", "closed list"),
        ("glowing brightly", "no pose"),
        ("jumping {up|down", "unbalanced"),
        ("jumping @where", "no list @where"),
    ):
        path.write_text(f"{start}{line}\n", encoding="utf-8")
        with pytest.raises(ActionError, match=f"^composed_a.txt:5: .*{said}"):
            build(tmp_path)
    path.write_text(start, encoding="utf-8")
    assert [row.phrase for row in build(tmp_path, 4)] == [
        "riding a horse",
        "walking slowly",
        "walking fast",
        "walking on",
    ]
    with pytest.raises(ActionError, match="give 4 phrases, 6826 are wanted"):
        build(tmp_path)


def test_check_and_build_say_what_they_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert actions.main(["check"]) == 0
    assert "497 hico" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ a user's own labels


def test_gerunds() -> None:
    pairs = {"walk": "walking", "hop": "hopping", "wave": "waving", "lie": "lying", "row": "rowing", "see": "seeing"}
    assert {base: gerund(base) for base in pairs} == pairs
    forms = verb_forms(load_tags(TABLES).verbs)
    assert (forms["walks"], forms["catches"], forms["carries"], forms["tie"]) == (
        "walking",
        "catching",
        "carrying",
        "tying",
    )
    assert "star" not in forms


@pytest.mark.parametrize(
    ("label", "phrase"),
    [
        ("Hop over box", "hopping over a box"),
        ("he raises left arm", "raising the left arm"),
        ("wiggle_the_toes", "wiggling the toes"),
        ("put his hat on (slowly)", "putting the hat on"),
        ("water bottle", None),
        ("water the roses", "watering the roses"),
        ("idle", None),
    ],
)
def test_babel_labels_become_phrases(label: str, phrase: str | None) -> None:
    assert to_phrase(label, "babel", verb_forms(load_tags(TABLES).verbs), {"box"}) == phrase


@pytest.mark.parametrize(
    ("label", "phrase"),
    [
        ("toe press toe presses", "doing toe presses"),
        ("Hip sway r", "doing a hip sway on the right"),
        ("swing arms", "swinging arms"),
    ],
)
def test_humman_names_become_phrases(label: str, phrase: str) -> None:
    assert to_phrase(label, "humman", verb_forms(load_tags(TABLES).verbs)) == phrase


BABEL = {
    "17": {
        "babel_sid": 17,
        "seq_ann": {"labels": [{"raw_label": "x", "proc_label": "twirl umbrella", "act_cat": ["spin", "transition"]}]},
        "frame_ann": {
            "labels": [
                {"proc_label": "stab someone", "act_cat": None, "start_t": 0.0, "end_t": 1.0},
                {"proc_label": "climb over a haystack", "act_cat": ["climb"], "start_t": 1.0, "end_t": 2.0},
            ]
        },
    },
    "18": {"seq_anns": [{"labels": [{"proc_label": "kneeling", "act_cat": ["kneel"]}]}], "frame_anns": None},
}


def test_labels_of_babel_join_a_copy(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps(BABEL), encoding="utf-8")
    (tmp_path / "note.txt").write_text("not labels", encoding="utf-8")
    out = tmp_path / "mine"
    done = import_labels(tmp_path, "babel", out)
    assert [(row.phrase, row.source, row.label) for row in done.added] == [
        ("twirling an umbrella", "babel", "twirl umbrella"),
        ("spinning", "babel", "spin"),
        ("climbing over a haystack", "babel", "climb over a haystack"),
        ("climbing", "babel", "climb"),
    ]
    assert done.added[0].tags == ("pose-stand", "has-object")
    assert done.left_out["is there already"] == 2
    assert done.left_out["has no verb that we know"] == 2
    assert len((out / "actions.tsv").read_text(encoding="utf-8").splitlines()) == 1 + COUNT + 4
    again = import_labels(tmp_path / "train.json", "babel", tmp_path / "again")
    assert again == done
    assert (tmp_path / "again/actions.tsv").read_bytes() == (out / "actions.tsv").read_bytes()


def test_a_second_import_follows_the_first(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(
        "a000001,wall lean wall leans\na000002\tankle hold l\na3,swing incomprehensibilities\n", encoding="utf-8"
    )
    (tmp_path / "names.json").write_text(json.dumps({"a3": "elbow tap"}), encoding="utf-8")
    out = tmp_path / "mine"
    first = import_labels(tmp_path / "names.txt", "humman", out)
    assert [row.phrase for row in first.added] == ["doing wall leans", "doing an ankle hold on the left"]
    assert "exercise" in first.added[0].tags
    assert first.left_out == {"takes more than 20 CLIP tokens": 1}
    second = import_labels(tmp_path / "names.json", "humman", out, base=out)
    assert [row.phrase for row in second.added] == ["doing an elbow tap"]
    assert len((out / "actions.tsv").read_text(encoding="utf-8").splitlines()) == 1 + COUNT + 3


def test_labels_that_the_grammar_refuses_are_left_out(tmp_path: Path) -> None:
    """A word that only safety.tsv knows as a minor's, in an action that it marks as tender."""
    (tmp_path / "babel").mkdir()
    labels = {"7": {"seq_ann": {"labels": [{"proc_label": text} for text in ("hug son", "twirl umbrella")]}}}
    (tmp_path / "babel/val.json").write_text(json.dumps(labels), encoding="utf-8")
    done = import_labels(tmp_path / "babel", "babel", tmp_path / "mine")
    assert [row.phrase for row in done.added] == ["twirling an umbrella"]
    assert done.left_out == {"puts words for minors beside words unfit for them": 1}
    assert len(load_grammar(tmp_path / "mine").actions) == COUNT + 1


def test_a_grammar_that_does_not_load_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("toe tap\n", encoding="utf-8")
    own = tmp_path / "mine"
    copy_grammar(None, own)
    (own / "scenes.tsv").unlink()
    before = (own / "actions.tsv").read_bytes()
    with pytest.raises(GrammarError):
        import_labels(tmp_path / "names.txt", "humman", own, base=own)
    assert (own / "actions.tsv").read_bytes() == before


def test_a_wrong_label_file_names_file_and_record(tmp_path: Path) -> None:
    path = tmp_path / "val.json"
    for text, said in (
        ('{"1": {}\n', r"^val.json:2: not JSON"),
        ('["walk"]', r"^val.json:1: BABEL's files are objects"),
        ('{"7": {"dur": 2.0}}', r"^val.json: record 7: none of seq_ann"),
        ('{"7": {"seq_ann": {"labels": 3}}}', r"^val.json: record 7: seq_ann: labels is not a list"),
        ('{"7": {"frame_ann": {"labels": [{"proc_label": 3}]}}}', r"^val.json: record 7: frame_ann: a label has"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ActionError, match=said):
            import_labels(path, "babel", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(ActionError, match=r"^val.json: record 0: a name is a text"):
        list(read_labels(path, "humman"))
    with pytest.raises(ActionError, match="babel or humman"):
        list(read_labels(path, "kinetics"))
    with pytest.raises(ActionError, match="no such file"):
        list(read_labels(tmp_path / "nowhere.json", "babel"))


def test_an_import_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("toe tap\n", encoding="utf-8")
    with pytest.raises(ActionError, match="is not empty"):
        import_labels(tmp_path / "names.txt", "humman", tmp_path)
    with pytest.raises(ActionError, match="grammar of your own"):
        import_labels(tmp_path / "names.txt", "humman", DATA)
