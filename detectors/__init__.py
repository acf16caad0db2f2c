"""People in pictures: who is there, where their joints are, and how to draw them. `load_detector` is the way in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from detectors.types import Detector

DETECTORS: Final = ("mini-pose", "ae-hrnet-w32", "higherhrnet-w48")
"""Names that `load_detector` knows."""


def load_detector(name: str, device: str = "cpu", batch_size: int = 32) -> Detector:
    """Load a detector by name; nothing heavy is imported before.

    device: a torch device. batch_size: pictures per forward, short batches are padded. Raises ValueError for an unknown
    name.
    """
    if name == "mini-pose":
        from detectors.mini import MiniPose

        return MiniPose(device=device, batch_size=batch_size)
    if name in ("ae-hrnet-w32", "higherhrnet-w48"):
        from detectors import bottomup

        load = bottomup.ae_hrnet_w32 if name == "ae-hrnet-w32" else bottomup.higherhrnet_w48
        return load(device=device, batch_size=batch_size)
    raise ValueError(f"unknown detector {name!r}; known: {', '.join(DETECTORS)}")
