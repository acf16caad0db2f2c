"""Features of images: what is absent is said, the miniature CLIP's are there, Inception's are torch-fidelity's."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from pipelines.config import UserError
from pipelines.evaluate.features import WEIGHTS, absent, load_features
from pipelines.images import Pixels
from pipelines.mini.render import draw
from pipelines.mini.world import random_world


def pictures(count: int) -> list[Pixels]:
    return [draw(random_world(rng), rng).image for rng in map(np.random.default_rng, range(count))]


def test_mini_clip_features_need_nothing_and_follow_the_picture() -> None:
    assert absent("mini-clip", None) is None
    images = pictures(3)
    found = load_features("mini-clip", None)([*images, images[0]])
    assert found.shape[0] == 4
    np.testing.assert_allclose(found[0], found[3], atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_what_is_absent_is_said_in_one_line() -> None:
    why = absent("inception-2048", None)
    assert why is not None
    assert why.startswith("FID and KID need")
    assert "\n" not in why
    with pytest.raises(UserError, match="need"):
        load_features("inception-64", Path("absent.pth"))


def test_inception_layers_have_their_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    import torch

    weights = tmp_path / WEIGHTS
    torch.manual_seed(0)
    with monkeypatch.context() as patch:  # a random network in place of the download
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), weights)
    images = pictures(2)
    for name, width in (("inception-2048", 2048), ("inception-64", 64)):
        extract = load_features(name, weights)  # type: ignore[arg-type]
        found = extract(images)
        assert found.shape == (2, width)
        np.testing.assert_allclose(extract([images[0], images[1][:48]])[0], found[0], atol=1e-4)


def test_a_pickle_that_would_run_code_is_never_loaded(tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    trap, sign = tmp_path / "weights.pth", tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (sign.touch.__func__, (sign,))  # type: ignore[attr-defined, return-value]

    trap.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match="not the weights of Inception"):
        load_features("inception-2048", trap)
    assert not sign.exists()
