from pathlib import Path

import numpy as np

from pipelines.mini.train.captions import ATTRIBUTES, END, Captions, attributes, disturb, encode, train_tokenizer
from prompts.grammar import load_grammar

CAPTIONS = Captions(load_grammar())


def test_the_tokenizer_learns_whole_words_and_reads_any_text(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    train_tokenizer(CAPTIONS, tmp_path, count=300)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    ids = encode(tokenizer, ["a man in a red shirt", "żółć ☃ qwxzj " * 30, ""])
    assert ids.shape == (3, 77)
    assert ids.max() < len(tokenizer) <= 4096
    assert (ids[:, -1] == tokenizer.convert_tokens_to_ids(END)).all()
    assert tokenizer.tokenize("a man in a red shirt") == ["a</w>", "man</w>", "in</w>", "a</w>", "red</w>", "shirt</w>"]


def test_training_captions_favour_what_is_rarer() -> None:
    indices, numbers = [], []
    for index, prompt, world in CAPTIONS.training():
        indices.append(index)
        numbers.append(prompt.num_people)
        assert len(attributes(world)) == len(ATTRIBUTES)
        if len(indices) == 500:
            break
    assert indices == sorted(set(indices))
    assert 0.3 < np.mean(np.array(numbers) > 1) < 0.65


def test_disturbing_keeps_most_sentences_and_is_repeatable() -> None:
    text = "two young women in red dresses dancing in a park"
    outcomes = [disturb(text, np.random.default_rng(seed)) for seed in range(400)]
    assert outcomes == [disturb(text, np.random.default_rng(seed)) for seed in range(400)]
    assert 0.8 < outcomes.count(text) / 400 < 0.95
