"""Captions for the miniature trainings: grammar prompts, what they show, and the tokenizer's vocabulary."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pipelines.mini.world import COLORS, PLACES, POSES, SCENES, World, poses_of_actions, world_from_prompt
from prompts.grammar import Grammar
from prompts.sampling import Prompt, prompt_at

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY = 4096
TRAIN_SEED: Final = 20_000_003
"""Grammar seed of training captions; evaluations use others."""
ATTRIBUTES: Final[dict[str, tuple[str | int, ...]]] = {
    "scene": SCENES,
    "number": (1, 2, 3),
    "pose": POSES,
    "top": (*COLORS, ""),
    "place": (*PLACES, ""),
    "time": ("day", "night", "sunset"),
    "garment": ("trousers", "skirt", "shorts"),
}


class Captions:
    """Random access to (prompt, world) pairs of one grammar seed."""

    def __init__(self, grammar: Grammar, seed: int = TRAIN_SEED) -> None:
        self.grammar, self.seed = grammar, seed
        self.pose_of = poses_of_actions({action.phrase: action.tags for action in grammar.actions})

    def training(self, start: int = 0) -> Iterator[tuple[int, Prompt, World]]:
        """Numbered pairs from grammar index `start` on, without end.

        Half of the single people and half of those who just stand are left out: more than one is harder to learn, and
        the other poses are rarer.
        """
        for index in itertools.count(start):
            prompt, world = self.at(index)
            if (prompt.num_people > 1 or index % 2) and (world.pose != "stand" or index % 4 < 2):
                yield index, prompt, world

    def at(self, index: int) -> tuple[Prompt, World]:
        """The prompt of an index and what it makes the picture show."""
        prompt = prompt_at(self.grammar, self.seed, index)
        return prompt, world_from_prompt(prompt, self.pose_of)


def attributes(world: World) -> list[int]:
    """Class numbers of a world in the order of `ATTRIBUTES`."""
    values = (world.scene, world.num_people, world.pose, world.top or "", world.place or "", world.time, world.garment)
    return [
        names.index(value) if value in names else -100 for names, value in zip(ATTRIBUTES.values(), values, strict=True)
    ]


def disturb(text: str, rng: np.random.Generator) -> str:
    """Sometimes drop or garble words, so that a word never seen does not throw the model off."""
    if rng.random() > 0.15:
        return text
    words = text.split(" ")
    for _ in range(int(rng.integers(1, 3))):
        at = int(rng.integers(len(words)))
        noise = "".join(chr(97 + int(c)) for c in rng.integers(0, 26, int(rng.integers(3, 9))))
        words[at] = noise if rng.random() < 0.5 else words[at]
        if rng.random() < 0.5:
            words.insert(at, noise)
    return " ".join(words)


def train_tokenizer(captions: Captions, folder: Path, count: int = 60_000) -> None:
    """Learn a byte-pair vocabulary of grammar sentences and write it as a CLIP tokenizer folder."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Lowercase()
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2 - len(alphabet),
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    texts = [captions.at(index)[0].text for index in range(count)]
    texts += [action.phrase for action in captions.grammar.actions]
    texts += [captions.at(index)[0].negative for index in range(2_000)]
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    learned = tokenizer.model.save(str(folder))
    merges = Path(learned[1])
    pieces = [line for line in merges.read_text().splitlines() if line and not line.startswith("#version")]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(piece.split(" ")) for piece in pieces)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    merges.write_text("#version: 0.2\n" + "\n".join(pieces) + "\n")
    CLIPTokenizer(
        str(folder / "vocab.json"),
        str(merges),
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=77,
    ).save_pretrained(str(folder))


def encode(tokenizer: CLIPTokenizer, texts: list[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Token numbers (N, 77), padded with the end token."""
    out = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="np")
    ids: np.ndarray[Any, np.dtype[np.int64]] = out["input_ids"]
    return ids
