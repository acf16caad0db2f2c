"""Token counts without a tokenizer, held against the tokenizer that open_clip ships."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompts.grammar import DATA, all_texts
from prompts.tokens import count_tokens, main, piece_tokens, pieces, read_merges, read_table
from tests.prompts.clip_tokenizer import MERGES, clip_tokenizer


@pytest.fixture(scope="module")
def merges() -> dict[tuple[str, str], int]:
    return read_merges(MERGES)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
@settings(max_examples=300)
def test_byte_pairs_are_those_of_open_clip(text: str) -> None:
    plain = text.replace("&", "").replace("<", "")  # open_clip first undoes HTML's escapes
    counted = sum(piece_tokens(piece, read_merges_once()) for piece in pieces(plain))
    assert counted == len(clip_tokenizer().encode(plain))


def read_merges_once() -> dict[tuple[str, str], int]:
    if not _MERGES:
        _MERGES.update(read_merges(MERGES))
    return _MERGES


_MERGES: dict[tuple[str, str], int] = {}


def test_the_bundled_table_is_exact_for_every_text_of_the_bundled_grammar() -> None:
    table = read_table(DATA / "tokens.tsv")
    tokenizer = clip_tokenizer()
    lacking = {piece for text in all_texts(DATA) for piece in pieces(text)} - set(table)
    assert not lacking, "python -m prompts.tokens MERGES writes the table anew"
    for text in all_texts(DATA):
        plain = text.replace("* ", "")
        assert count_tokens(plain, table) == len(tokenizer.encode(plain)), text


def test_the_bundled_table_is_what_the_script_writes(tmp_path: Path) -> None:
    from prompts.grammar import copy_grammar

    copy_grammar(None, tmp_path)
    (tmp_path / "tokens.tsv").unlink()
    assert main([str(MERGES), str(tmp_path)]) == 0
    assert (tmp_path / "tokens.tsv").read_bytes() == (DATA / "tokens.tsv").read_bytes()


@given(st.text(max_size=40))
@settings(max_examples=300)
def test_without_a_table_the_count_is_an_upper_bound(text: str) -> None:
    # ftfy and lower-casing may shorten a text; letters and signs of ASCII stay as they are.
    plain = text.encode("ascii", "ignore").decode().replace("&", "").replace("<", "")
    assert count_tokens(plain, {}) >= len(clip_tokenizer().encode(plain))


def test_counts_add_up_over_pieces() -> None:
    table = {"woman": 1, "running": 1, "k": 1}
    assert count_tokens("A woman running, 64K", table) == 1 + 1 + 1 + 1 + 2 + 1
    assert pieces("the bird's-eye view") == ["the", "bird", "'s", "-", "eye", "view"]


@pytest.mark.parametrize("line", ["none\twoman", "0\twoman", "woman"])
def test_a_broken_table_names_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "tokens.tsv"
    path.write_text(f"# comment\n1\tman\n{line}\n")
    with pytest.raises(ValueError, match=r"tokens\.tsv:3: "):
        read_table(path)


def test_the_script_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main([str(MERGES), str(tmp_path / "none")]) == 2
    assert "words.tsv:1: this file is missing" in capsys.readouterr().err
