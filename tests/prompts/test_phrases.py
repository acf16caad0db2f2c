"""Phrases: spelling out a cell, articles, fitting by rules and drawing by weight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts.phrases import Bits, Part, Phrase, article, content_words, right_articles, spell_out

LISTS = {"hue": [("red", 3.0), ("orange", 1.0)], "size": [("big", 1.0)]}


def phrase(text: str, tags: int = 0, only: tuple[int, ...] = (), never: int = 0, weight: float = 1.0) -> Phrase:
    return Phrase((text, text), (1, 1), weight, tags, only, never, 0, "here:1")


@pytest.mark.parametrize(
    ("word", "right"),
    [
        ("orange", "an"),
        ("red", "a"),
        ("ukiyo-e", "a"),
        ("unicorn", "a"),
        ("uniform", "a"),
        ("university", "a"),
        ("union", "a"),
        ("unlit", "an"),
        ("unusual", "an"),
        ("unknown", "an"),
        ("uninhabited", "an"),
        ("umbrella", "an"),
        ("ukulele", "a"),
        ("used", "a"),
        ("useful", "a"),
        ("European", "a"),
        ("one-eyed", "a"),
        ("hour", "an"),
        ("honest", "an"),
        ("house", "a"),
        ("8K", "an"),
        ("Impressionist", "an"),
        ("eagle", "an"),
    ],
)
def test_articles_follow_the_sound(word: str, right: str) -> None:
    assert article(word) == right
    assert right_articles(f"in a {word} thing") == f"in {right} {word} thing"
    assert right_articles(f"An {word}") == f"{right.capitalize()} {word}"


def test_a_cell_is_spelled_out_by_number_and_list() -> None:
    found = list(spell_out("in [a {hue} coat|{size} {hue} coats]", "here:1", LISTS))
    assert found == [("in a red coat", "in big red coats", 0.75), ("in an orange coat", "in big orange coats", 0.25)]
    assert list(spell_out("at night", "here:1", LISTS)) == [("at night", "at night", 1.0)]


def test_one_list_named_twice_gives_one_word() -> None:
    assert [one for one, _, _ in spell_out("{hue} and {hue}", "here:1", LISTS)] == ["red and red", "orange and orange"]


def test_content_words_leave_out_small_words_and_plurals() -> None:
    assert content_words("in the streets of New York with a small dog") == {"street", "new", "york", "small", "dog"}
    assert content_words("cross-hatching on glass") == {"cross", "hatching", "glass"}


def test_rules_decide_what_fits() -> None:
    day, night, indoor = 1, 2, 4
    moon = phrase("moonlight", only=(night,), never=indoor)
    assert moon.fits(night, 0)
    assert not moon.fits(day, 0)
    assert not moon.fits(night | indoor, 0)
    assert not phrase("at night", tags=night).fits(0, night)
    both = phrase("street lights", only=(night, day | indoor))
    assert both.fits(night | indoor, 0)
    assert not both.fits(night, 0)


@given(st.integers(0, 2**6 - 1), st.integers(0, 2**6 - 1))
def test_a_parts_choice_is_what_fits_one_by_one(context: int, refused: int) -> None:
    phrases = tuple(phrase(str(i), tags=i, only=(i ^ 5,) if i % 3 else (), never=i * 7 % 64) for i in range(20))
    part = Part("p", 1.0, 1.0, (), 0, phrases)
    bounds, found = part.fitting(context, refused)
    assert found == [p for p in phrases if p.fits(context, refused)]
    assert len(bounds) == len(found)
    assert not bounds or bounds[-1] == 2**32


def test_a_part_with_rules_of_its_own_says_nothing_where_they_fail() -> None:
    part = Part("p", 1.0, 1.0, (), 8, (phrase("x"),))
    assert part.fitting(0, 0)[1]
    assert part.fitting(8, 0) == ([], [])


def test_bounds_are_shares_of_the_weights() -> None:
    part = Part("p", 1.0, 1.0, (), 0, (phrase("a", weight=1), phrase("b", weight=3)))
    assert part.fitting(0, 0)[0] == [2**30, 2**32]


def test_bits_are_handed_out_in_order_of_use() -> None:
    bits = Bits()
    assert (bits.of(["a", "b"]), bits.of(["b", "c"]), bits.of([])) == (3, 6, 0)
