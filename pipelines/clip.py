"""Image-text similarity by CLIP (Radford et al. 2021, arXiv 2103.00020; CLIPScore: arXiv 2104.08718)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

MINI_CLIP: Final = Path(__file__).parent / "mini" / "clip"
"""The miniature CLIP: it knows the drawn world only."""


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
