"""How many of CLIP's tokens a phrase takes, without a tokenizer at hand.

CLIP's tokenizer (Radford et al. 2021; the same in OpenAI's, open_clip's and transformers' code) splits a text into
pieces (words, single digits, runs of signs) and gives each piece its own byte-pair tokens, so counts add up over
pieces. data/tokens.tsv holds the counts of the pieces that our phrases use and that take more or less than one token
a byte; a piece it lacks counts as many tokens as it has bytes, which it never exceeds.

    python -m prompts.tokens MERGES [DIR]    write DIR/tokens.tsv anew for the phrases in DIR

where MERGES is `bpe_simple_vocab_16e6.txt.gz` as OpenAI's CLIP and open_clip ship it, or a `merges.txt`.
"""

from __future__ import annotations

import gzip
import itertools
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

_PIECE: Final = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")
_MERGES: Final = 49152 - 256 - 2
"""CLIP's vocabulary is 256 bytes, the same 256 at the end of a piece, the merges and two marks: 49,408 in all."""


def pieces(text: str) -> list[str]:
    """The pieces that CLIP's tokenizer cuts a text into, in small letters."""
    return _PIECE.findall(text.lower())


def count_tokens(text: str, table: Mapping[str, int]) -> int:
    """An upper bound of the CLIP tokens in `text`, exact where `table` (piece → tokens) has all of its pieces."""
    return sum(table[piece] if piece in table else len(piece.encode()) for piece in pieces(text))


def read_merges(path: Path) -> dict[tuple[str, str], int]:
    """(left, right) → rank, from a merges file with one header line; more than CLIP's own are left out."""
    raw = path.read_bytes()
    lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8").split("\n")
    pairs = [tuple(line.split()) for line in lines[1 : _MERGES + 1]]
    return {(pair[0], pair[1]): rank for rank, pair in enumerate(pairs) if len(pair) == 2}


def piece_tokens(piece: str, merges: Mapping[tuple[str, str], int]) -> int:
    """Number of byte-pair tokens of one piece. Sennrich et al. 2016, with CLIP's mark at the end of a word."""
    byte_signs = _byte_signs()
    parts = [byte_signs[byte] for byte in piece.encode()]
    parts[-1] += "</w>"
    while len(parts) > 1:
        ranks = [merges.get(pair, len(merges)) for pair in itertools.pairwise(parts)]
        best = min(ranks)
        if best == len(merges):
            break
        at = ranks.index(best)
        left, right = parts[at], parts[at + 1]
        merged: list[str] = []
        while parts:
            if parts[:2] == [left, right]:
                merged.append(left + right)
                del parts[:2]
            else:
                merged.append(parts.pop(0))
        parts = merged
    return len(parts)


def _byte_signs() -> dict[int, str]:
    """Byte → the printable sign that stands for it in the merges, as in GPT-2's and CLIP's encoders."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def read_table(path: Path) -> dict[str, int]:
    """data/tokens.tsv: lines of `tokens<TAB>pieces separated by spaces`. A missing file is an empty table."""
    table: dict[str, int] = {}
    if not path.is_file():
        return table
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("#") or not line.strip():
            continue
        count, _, words = line.partition("\t")
        if not count.isdigit() or count == "0":
            raise ValueError(f"{path}:{number}: a line is a number of tokens, a tab and pieces, not {line[:40]!r}")
        table.update(dict.fromkeys(words.split(" "), int(count)))
    return table


def write_table(path: Path, texts: Iterable[str], merges: Mapping[tuple[str, str], int]) -> None:
    """Write the counts of all pieces of `texts`, by count and alphabet, some dozen a line."""
    found: dict[int, list[str]] = {}
    for piece in sorted({piece for text in texts for piece in pieces(text)}):
        found.setdefault(piece_tokens(piece, merges), []).append(piece)
    lines = ["# CLIP tokens, tab, the pieces of text that take so many. Written by: python -m prompts.tokens"]
    for count, words in sorted(found.items()):
        lines += [f"{count}\t{' '.join(words[at : at + 16])}" for at in range(0, len(words), 16)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def main(argv: list[str]) -> int:
    """Write tokens.tsv; 2 where the arguments or the data are wrong."""
    from prompts.grammar import GrammarError, all_texts

    if len(argv) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    directory = Path(argv[1]) if len(argv) == 2 else Path(__file__).parent / "data"
    try:
        write_table(directory / "tokens.tsv", all_texts(directory), read_merges(Path(argv[0])))
    except (GrammarError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
