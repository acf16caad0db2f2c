"""Decoding a batch gives what mmpose's codecs give one person at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmpose")

from detectors.decode import decode, decode_msra, decode_simcc, decode_udp, heat_maxima

INPUT, CELLS = (192, 256), (48, 64)
PEOPLE = 6


def heatmap_codec(kind: str) -> Any:
    from mmpose.codecs import MSRAHeatmap, UDPHeatmap

    if kind == "msra":
        return MSRAHeatmap(INPUT, CELLS, sigma=2)
    if kind == "dark":
        return MSRAHeatmap(INPUT, CELLS, sigma=2, unbiased=True)
    return UDPHeatmap(INPUT, CELLS, heatmap_type="combined" if kind == "udp-offsets" else "gaussian")


def keypoints() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Somewhere in the input, at its edges too."""
    return np.random.default_rng(3).uniform((1, 1), (190, 254), (PEOPLE, 17, 2)).astype(np.float32)


@pytest.mark.parametrize("kind", ["msra", "dark", "udp", "udp-offsets"])
def test_heatmaps_decode_as_in_mmpose(kind: str) -> None:
    codec, truth = heatmap_codec(kind), keypoints()
    noise = np.random.default_rng(4).normal(0, 0.01, (PEOPLE, 1, 64, 48))
    heat = np.stack([codec.encode(one[None])["heatmaps"] for one in truth]) + noise
    heat = heat.astype(np.float32)
    places, scores = decode(codec, torch.from_numpy(heat))
    expected = [codec.decode(one) for one in heat]
    np.testing.assert_allclose(places, np.concatenate([one[0] for one in expected]), atol=1e-3)
    np.testing.assert_allclose(scores, np.concatenate([one[1] for one in expected]), atol=1e-6)
    assert np.median(np.abs(places.numpy() - truth)) < 2


@pytest.mark.parametrize("dark", [False, True])
def test_simcc_decodes_as_in_mmpose(dark: bool) -> None:
    from mmpose.codecs import SimCCLabel

    codec = SimCCLabel(INPUT, sigma=(4.9, 5.66), normalize=False, use_dark=dark)
    encoded = [codec.encode(one[None]) for one in keypoints()]
    x, y = (np.concatenate([one[f"keypoint_{axis}_labels"] for one in encoded]) for axis in "xy")
    x += np.random.default_rng(4).normal(0, 0.01, x.shape).astype(np.float32)
    places, scores = decode(codec, (torch.from_numpy(x), torch.from_numpy(y)))
    expected, confidences = codec.decode(x.copy(), y.copy())
    np.testing.assert_allclose(places, expected, atol=1e-3)
    np.testing.assert_allclose(scores, confidences, atol=1e-6)
    assert np.abs(places.numpy() - keypoints()).max() < 2


def test_without_any_response_a_keypoint_lies_outside() -> None:
    nothing = torch.zeros(2, 17, 64, 48)
    places, scores = heat_maxima(nothing)
    assert (places == -1).all()
    assert (scores == 0).all()
    assert (decode_msra(nothing, INPUT)[0] < 0).all()
    assert torch.isfinite(decode_udp(nothing, INPUT, 11)[0]).all()
    places, scores = decode_simcc(torch.full((2, 17, 384), -1.0), torch.zeros(2, 17, 512), 2.0)
    assert (places == -0.5).all()
    assert (scores == -1).all()
