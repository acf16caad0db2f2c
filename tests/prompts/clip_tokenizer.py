"""CLIP's tokenizer as open_clip ships it, loaded by its file so that none of open_clip's models are imported."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Final, Protocol


class Tokenizer(Protocol):
    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, without the marks of its beginning and end."""
        ...


def _folder() -> Path:
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None, "the tests need the package open-clip-torch for CLIP's tokenizer"
    assert spec.origin is not None
    return Path(spec.origin).parent


MERGES: Final = _folder() / "bpe_simple_vocab_16e6.txt.gz"


@cache
def clip_tokenizer() -> Tokenizer:
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer_alone", _folder() / "tokenizer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer: Tokenizer = module.SimpleTokenizer()
    return tokenizer
