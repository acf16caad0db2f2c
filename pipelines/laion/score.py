"""What is measured on a downloaded image beside its people: CLIP similarity to its text, aesthetic score.

CLIP runs through clip-retrieval's own inference (`ClipMapper`), which takes any OpenAI, open_clip or transformers
model; the miniature one, whose vocabulary is its own, through `pipelines.clip`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.config import UserError

Images = Sequence[NDArray[np.uint8]]
MINI: Final = "mini"


class Clip(Protocol):
    """A CLIP: unit vectors (N, D) of RGB images (H, W, 3) and of texts, in one space."""

    def images(self, images: Images) -> NDArray[np.float32]: ...

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


class RetrievalClip:
    """A CLIP by clip-retrieval's name for it: `ViT-B/32`, `open_clip:ViT-H-14`, `hf_clip:FOLDER` …"""

    def __init__(self, name: str) -> None:
        """Load the model. Raises UserError where it cannot be had."""
        from all_clip import load_clip
        from clip_retrieval.clip_inference.mapper import ClipMapper

        try:
            with contextlib.redirect_stdout(sys.stderr):  # it tells of its warm-up there
                self._mapper = ClipMapper(
                    enable_image=True,
                    enable_text=True,
                    enable_metadata=False,
                    use_mclip=False,
                    clip_model=name,
                    use_jit=False,
                    mclip_model="",
                )
                _, self._preprocess, self._tokenize = load_clip(
                    clip_model=name, use_jit=False, warmup_batch_size=1, clip_cache_path=None
                )
        except Exception as error:  # whatever a hub client, a loader or a missing file raises
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"score.clip_model = {name!r} cannot be loaded: {line}") from error

    def images(self, images: Images) -> NDArray[np.float32]:
        """Embed RGB images."""
        import torch
        from PIL import Image

        tensor = torch.stack([self._preprocess(Image.fromarray(image)) for image in images])
        return self._run(enable_text=False, image_tensor=tensor, image_filename=[""] * len(images))["image_embs"]

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, cut at the text tower's length."""
        return self._run(enable_text=True, text_tokens=self._tokenize(list(texts)), text=list(texts))["text_embs"]

    def _run(self, *, enable_text: bool, **batch: Any) -> dict[str, NDArray[np.float32]]:
        self._mapper.enable_text, self._mapper.enable_image = enable_text, not enable_text
        found = self._mapper(batch)
        return {name: found[name].astype(np.float32) for name in ("image_embs", "text_embs") if found[name] is not None}


def load_clip_by_name(name: str) -> Clip:
    """`mini`, or a name as clip-retrieval has it. Raises UserError where it cannot be had."""
    if name == MINI:
        from pipelines.clip import ClipScorer

        return ClipScorer()
    return RetrievalClip(name)


def clip_digest(name: str) -> str | None:
    """What a CLIP's files on this machine say, in hex; None where its name is that of a published one.

    Raises UserError where a folder has no safetensors.
    """
    from detectors import weights
    from pipelines.clip import resolve_clip

    kind, _, rest = name.partition(":")
    if name == MINI:
        return resolve_clip(MINI).sha256
    if kind == "hf_clip" and Path(rest).is_dir():
        return resolve_clip(rest).sha256
    file = Path(rest.partition("/")[2])
    return weights.digest(file) if kind == "open_clip" and file.is_file() else None


class AestheticHead:
    """A linear head on CLIP's image embedding, such as LAION's predictors: score = w·e + b."""

    def __init__(self, path: Path) -> None:
        """Read `weight` (1, D) or (D,) and `bias` (1,) from safetensors. Raises UserError where they are not there."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            found = load_file(path)
            self._weight = found["weight"].astype(np.float32).reshape(-1)
            self._bias = float(found["bias"].reshape(-1)[0])
        except (OSError, KeyError, SafetensorError) as error:
            raise UserError(f"score.aesthetic_head: {path}: no safetensors of weight and bias: {error}") from None

    def scores(self, embeddings: NDArray[np.float32]) -> list[float]:
        """Score unit embeddings (N, D). Raises ValueError where the head is for another CLIP."""
        if embeddings.shape[1] != len(self._weight):
            raise ValueError(f"the aesthetic head takes {len(self._weight)} values, CLIP gives {embeddings.shape[1]}")
        return [float(value) for value in embeddings @ self._weight + self._bias]
