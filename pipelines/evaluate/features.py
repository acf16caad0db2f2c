"""What FID and KID compare: an image's features by Inception v3 (needs weights), or by the miniature CLIP (offline)."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.config import UserError

if TYPE_CHECKING:
    from pipelines.images import Pixels

FeatureName = Literal["inception-2048", "inception-64", "mini-clip"]
Extract = Callable[[Sequence["Pixels"]], NDArray[np.float32]]
"""RGB images uint8 (H, W, 3) of any sizes → features (N, D)."""

LAYERS: Final = {"inception-2048": "2048", "inception-64": "64"}
TITLES: Final[dict[str, str]] = {"inception-2048": "FID", "inception-64": "FID-64", "mini-clip": "mini-FID"}
"""What the distance is called in reports; only the first is the usual FID."""
WEIGHTS: Final = "weights-inception-2015-12-05-6726825d.pth"
URL: Final = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"


def absent(name: FeatureName, inception: Path | None) -> str | None:
    """Say in one line why FID and KID cannot be measured by these features here; None where they can."""
    if name == "mini-clip":
        return None
    if importlib.util.find_spec("torch_fidelity") is None:
        return f"{TITLES[name]} and KID need torch-fidelity: run `uv sync --frozen --extra evaluate`"
    if inception is None:
        return f"{TITLES[name]} and KID need Inception weights: download {URL} and give --set inception={WEIGHTS}"
    if not inception.is_file():
        return f"{TITLES[name]} and KID need Inception weights, and {inception} is not there: download {URL}"
    return None


def load_features(name: FeatureName, inception: Path | None, device: str = "cpu") -> Extract:
    """Load what turns images into features. Raises UserError where the weights are not there or not Inception's."""
    if name == "mini-clip":
        from pipelines.clip import ClipScorer

        return ClipScorer(device=device).images
    why = absent(name, inception)
    if why is not None or inception is None:
        raise UserError(str(why))
    return _load_inception(LAYERS[name], inception, device)


def _load_inception(layer: str, weights: Path, device: str) -> Extract:
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        # torch-fidelity unpickles the file without restriction: what does not pass here is never given to it.
        torch.load(weights, weights_only=True, map_location="cpu")
        network = FeatureExtractorInceptionV3("inception-v3-compat", [layer], feature_extractor_weights_path=weights)
    except (RuntimeError, ValueError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{weights}: not the weights of Inception: {str(error).splitlines()[0][:200]}") from error
    network.to(device)

    def extract(images: Sequence[Pixels]) -> NDArray[np.float32]:
        same = len({image.shape for image in images}) == 1
        batches = [np.stack(images)] if same else [image[None] for image in images]
        with torch.inference_mode():
            found = [network(torch.from_numpy(batch).to(device).permute(0, 3, 1, 2))[0] for batch in batches]
        return np.asarray(torch.cat(found).cpu().numpy(), np.float32)

    return extract
