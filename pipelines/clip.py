"""Image-text similarity by CLIP (Radford et al. 2021, arXiv 2103.00020; CLIPScore: arXiv 2104.08718)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.config import UserError

MINI: Final = "mini"
MINI_CLIP: Final = Path(__file__).parent / "mini" / "clip"
"""The miniature CLIP: it knows the drawn world only."""


@dataclass(frozen=True, slots=True)
class ClipCheckpoint:
    """A CLIP, pinned. name: 'mini' or the folder's own; source: 'mini' or its absolute path; sha256: of its files."""

    name: str
    source: str
    sha256: str

    @property
    def pinned(self) -> str:
        """What of it decides scores: the name, and what the files say; not where they lie."""
        return f"{self.name} sha256:{self.sha256}"

    def folder(self) -> Path:
        """Return the folder on this machine. Raises UserError where it is not there or not the one that was pinned."""
        folder = MINI_CLIP if self.source == MINI else Path(self.source)
        if not folder.is_dir():
            raise UserError(f"CLIP folder {folder} is not on this machine; every node needs it at the same path")
        if _digest(folder) != self.sha256:
            raise UserError(f"CLIP folder {folder} changed since the job began")
        return folder


def resolve_clip(name: str) -> ClipCheckpoint:
    """Pin the CLIP that `score.clip_model` names: 'mini', or a folder in transformers layout.

    Raises UserError where there is no such folder or no CLIP in it.
    """
    folder = MINI_CLIP if name == MINI else Path(name).expanduser().resolve()
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise UserError(
            f"score.clip_model={name}: no folder of a CLIP in safetensors; 'mini' knows drawn pictures, others are "
            "fetched with: hf download openai/clip-vit-large-patch14 --local-dir DIR"
        )
    return ClipCheckpoint(folder.name if name != MINI else MINI, MINI if name == MINI else str(folder), _digest(folder))


def _digest(folder: Path) -> str:
    """The sha256 (hex) over every file that decides a CLIP's scores."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".txt", ".safetensors"):
            with path.open("rb") as file:
                total.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


class ClipScorer:
    """A CLIP in transformers layout, on one device; batches are as given."""

    def __init__(self, folder: Path = MINI_CLIP, device: str = "cpu") -> None:
        """Load the folder's safetensors. Raises OSError when it holds no CLIP."""
        import torch
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        model = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True, dtype=torch.float32)
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        self.processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        self.device = device

    def images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed RGB images (H, W, 3): unit vectors (N, D)."""
        import torch

        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"].to(self.device)
        with torch.no_grad():
            features = self.model.get_image_features(pixel_values=pixels)
        return unit(features.cpu().numpy())

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed sentences, cut at the text tower's length: unit vectors (N, D)."""
        import torch

        tokens = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").to(self.device)
        with torch.no_grad():
            features = self.model.get_text_features(input_ids=tokens["input_ids"])
        return unit(features.cpu().numpy())

    def score(self, images: Sequence[NDArray[np.uint8]], texts: Sequence[str]) -> NDArray[np.float32]:
        """CLIP score of each pair: 100 x cosine, at least 0; (N,)."""
        cosine = (self.images(images) * self.texts(texts)).sum(1)
        return np.asarray(np.maximum(100 * cosine, 0), np.float32)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
