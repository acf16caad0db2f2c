"""People in pictures: who is there, where their joints are, and how to draw them. `load_detector` is the way in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectors.types import Detector
    from detectors.weights import ModelFiles


def load_detector(
    name: str,
    device: str = "cpu",
    batch_size: int = 32,
    *,
    person: ModelFiles | None = None,
    pose: ModelFiles | None = None,
    flip_test: bool = False,
    min_box_score: float = 0.3,
) -> Detector:
    """Load a detector by name; nothing heavy is imported before, nothing is downloaded.

    name: `mini-pose`, `ae-hrnet-w32`, `higherhrnet-w48`, or a person detector and a pose estimator such as
        `rtmdet-s+rtmpose-m` (`detectors.names`); `custom` in place of either takes `person` or `pose`, the user's own
        config and checkpoint.
    device: a torch device. batch_size: pictures, and people, per forward; short batches are padded.
    flip_test: look at mirrored pictures too and average. min_box_score: people's boxes must be more certain (0-1).
    Raises ValueError (WeightsError) in one line for what is unknown, absent or does not fit.
    """
    from detectors.names import files_of

    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, must be at least 1")
    files = files_of(name, person, pose)
    if files is not None:
        from detectors.person import PersonDetector
        from detectors.pose import PoseEstimator
        from detectors.topdown import TopDown

        boxes = PersonDetector(files[0], device, batch_size, min_box_score)
        return TopDown(name, boxes, PoseEstimator(files[1], device, batch_size, flip_test))
    if name == "mini-pose":
        from detectors.mini import MiniPose

        if flip_test:
            raise ValueError(f"{name} has no flip test")
        return MiniPose(device=device, batch_size=batch_size)
    from detectors import bottomup

    load = bottomup.ae_hrnet_w32 if name == "ae-hrnet-w32" else bottomup.higherhrnet_w48
    return load(device, batch_size, flip_test)
