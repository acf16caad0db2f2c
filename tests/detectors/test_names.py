"""Names of detectors: what they stand for, and what is said where they stand for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from detectors import load_detector, names, weights
from detectors.weights import ModelFiles

OWN = ModelFiles("my.py", Path("my.pth"))


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUMANSD_CACHE", str(tmp_path))
    monkeypatch.delenv("HUMANSD_OFFLINE", raising=False)


def test_every_published_network_has_a_short_name() -> None:
    assert names.parts("person") == (
        *("rtmdet-tiny", "rtmdet-s"),
        *(f"yolox-{size}" for size in ("nano", "tiny", "s", "m", "l", "x")),
    )
    assert {"rtmpose-t", "rtmpose-l", "hrnet-w32", "hrnet-w48", "vitpose-s", "vitpose-h"} <= set(names.parts("pose"))


@pytest.mark.parametrize("name", ["mini-pose", "rtmdet-s+rtmpose-m", "yolox-x+vitpose-h", "rtmdet-tiny+hrnet-w48"])
def test_known_names_pass(name: str) -> None:
    names.check(name)


@pytest.mark.parametrize(
    ("name", "person", "pose", "said"),
    [
        ("rtmpose-m", None, None, r"unknown detector 'rtmpose-m'; known: mini-pose.*PERSON\+POSE.*rtmdet-s.*rtmpose-m"),
        ("rtmdet-s+", None, None, "unknown detector"),
        ("rtmpose-m+rtmdet-s", None, None, "unknown detector"),
        ("custom+rtmpose-m", None, None, "custom needs person_config and person_checkpoint"),
        ("rtmdet-s+custom", None, None, "custom needs pose_config and pose_checkpoint"),
        ("rtmdet-s+rtmpose-m", None, OWN, "pose_config is for the part called custom"),
        ("mini-pose", OWN, None, "person_config is for the part called custom"),
    ],
)
def test_other_names_are_told_what_to_write(
    name: str, person: ModelFiles | None, pose: ModelFiles | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        names.check(name, person, pose)
    assert "\n" not in str(refused.value)


def test_absent_weights_name_the_command_that_fetches_them() -> None:
    with pytest.raises(weights.WeightsError, match="run `humansd models fetch rtmdet-s-humanart`"):
        load_detector("rtmdet-s+rtmpose-m")
    with pytest.raises(weights.WeightsError, match="run `humansd models fetch rtmpose-m-humanart`"):
        load_detector("custom+rtmpose-m", person=OWN)


def test_one_network_is_pinned_by_its_weights() -> None:
    assert names.digests("mini-pose") == {"sha256": weights.get("mini-pose").sha256}


def test_mini_pose_has_no_flip_test() -> None:
    with pytest.raises(ValueError, match="mini-pose has no flip test"):
        load_detector("mini-pose", flip_test=True)
