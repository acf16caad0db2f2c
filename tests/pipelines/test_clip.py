import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.clip import MINI_CLIP, ClipScorer, resolve_clip
from pipelines.config import UserError
from pipelines.mini.render import draw
from pipelines.mini.world import World

TEXTS = ["an oil painting of a man in a red shirt running", "a pencil sketch of three women sitting"]


def test_a_clip_is_pinned_by_what_its_files_say(tmp_path: Path) -> None:
    mini, copied = resolve_clip("mini"), resolve_clip(str(shutil.copytree(MINI_CLIP, tmp_path / "copy")))
    assert (mini.folder(), copied.folder()) == (MINI_CLIP, tmp_path / "copy")
    assert (mini.sha256, mini.name, copied.name) == (copied.sha256, "mini", "copy")
    (tmp_path / "copy" / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match="changed since"):
        copied.folder()
    assert resolve_clip(str(tmp_path / "copy")).sha256 != mini.sha256
    shutil.rmtree(tmp_path / "copy")
    with pytest.raises(UserError, match="not on this machine"):
        copied.folder()
    with pytest.raises(UserError, match=r"score\.clip_model=owner/name: no folder of a CLIP"):
        resolve_clip("owner/name")


def test_scores_lie_between_0_and_100_and_prefer_the_own_caption() -> None:
    scorer = ClipScorer()
    pictures = [
        draw(World("oil-painting", 1, pose="run", top="red"), np.random.default_rng(0)).image,
        draw(World("sketch", 3, pose="sit", long_hair=True), np.random.default_rng(0)).image,
    ]
    own, other = scorer.score(pictures, TEXTS), scorer.score(pictures, TEXTS[::-1])
    assert ((own >= 0) & (own <= 100)).all()
    assert (own > other).all()


def test_embeddings_are_unit_vectors_and_take_any_text_and_size() -> None:
    scorer = ClipScorer()
    texts = scorer.texts(["", "word " * 200, "ein völlig fremder Satz"])
    images = scorer.images([np.zeros((64, 64, 3), np.uint8), np.full((90, 130, 3), 200, np.uint8)])
    assert texts.shape[1] == images.shape[1]
    assert np.allclose(np.linalg.norm(np.concatenate([texts, images]), axis=1), 1, atol=1e-5)


@pytest.mark.gpu
def test_scores_on_a_gpu_are_those_of_a_cpu() -> None:
    pictures = [draw(World("sketch", 2, pose="run"), np.random.default_rng(seed)).image for seed in range(8)]
    expected, found = (ClipScorer(device=device).score(pictures, TEXTS * 4) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(found, expected, atol=0.05)
