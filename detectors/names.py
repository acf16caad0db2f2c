"""What the name of a detector stands for: one network, or a person detector and a pose estimator as `PERSON+POSE`."""

from __future__ import annotations

from typing import Final

from detectors import weights
from detectors.weights import ModelFiles

ALONE: Final = {
    "mini-pose": "mini-pose",
    "ae-hrnet-w32": "ae-hrnet-w32-coco",
    "higherhrnet-w48": "higherhrnet-w48-humanart",
}
"""Detectors of one network, and their checkpoints."""
PAIRS: Final = {"mini-mm": ("mini-mm-person", "mini-mm-pose")}
"""Short names of a person and a pose checkpoint."""
SUFFIX: Final = "-humanart"
"""Ending of the checkpoints that go by their name without it."""
CUSTOM: Final = "custom"
"""In place of a part's name: the user's own config and checkpoint."""


def parts(task: str) -> tuple[str, ...]:
    """Names that can stand before ("person") or after ("pose") the plus."""
    return tuple(
        one.name.removesuffix(SUFFIX)
        for one in weights.CHECKPOINTS
        if one.task == task and one.name.endswith(SUFFIX) and one.config is not None
    )


def check(name: str, person: ModelFiles | None = None, pose: ModelFiles | None = None) -> None:
    """Raise ValueError, in one line, unless the name is a detector's and files are given for what it calls custom."""
    if name in ALONE or name in PAIRS:
        _refuse(name, person, pose)
        return
    before, plus, after = name.partition("+")
    if not plus or before not in (*parts("person"), CUSTOM) or after not in (*parts("pose"), CUSTOM):
        people, poses = (", ".join((*parts(task), CUSTOM)) for task in ("person", "pose"))
        raise ValueError(
            f"unknown detector {name!r}; known: {', '.join((*ALONE, *PAIRS))}, or PERSON+POSE with "
            f"PERSON one of {people} and POSE one of {poses}"
        )
    for task, part, files in (("person", before, person), ("pose", after, pose)):
        if part == CUSTOM and files is None:
            raise ValueError(f"detector {name!r}: {CUSTOM} needs {task}_config and {task}_checkpoint")
        if part != CUSTOM:
            _refuse(name, **{task: files})


def _refuse(name: str, person: ModelFiles | None = None, pose: ModelFiles | None = None) -> None:
    for task, files in (("person", person), ("pose", pose)):
        if files is not None:
            raise ValueError(
                f"detector {name!r}: {task}_config is for the part called {CUSTOM}, as in {CUSTOM}+rtmpose-m"
            )


def files_of(
    name: str, person: ModelFiles | None = None, pose: ModelFiles | None = None
) -> tuple[ModelFiles, ModelFiles] | None:
    """Return the files of a person detector and a pose estimator; None where the name stands for one network.

    Raises ValueError for a name that is none, and WeightsError where a file is missing, damaged or another.
    """
    check(name, person, pose)
    if name in ALONE:
        return None
    before, after = PAIRS.get(name) or (part if part == CUSTOM else part + SUFFIX for part in name.split("+"))
    return person or _files(before), pose or _files(after)


def _files(checkpoint: str) -> ModelFiles:
    config = weights.get(checkpoint).config
    assert config is not None, checkpoint
    return ModelFiles(config, weights.find(checkpoint))


def digests(name: str, person: ModelFiles | None = None, pose: ModelFiles | None = None) -> dict[str, str]:
    """SHA-256 of everything that decides what a detector finds: its checkpoints, and what its configs say.

    Raises as `files_of` does.
    """
    files = files_of(name, person, pose)
    if files is None:
        return {"sha256": weights.digest(weights.find(ALONE[name]))}
    from detectors.mm import config_digest

    found = {}
    for task, own in zip(("person", "pose"), files, strict=True):
        if not own.checkpoint.is_file():
            raise weights.WeightsError(f"{own.checkpoint}: no such checkpoint")
        found[f"{task}_config.sha256"] = config_digest(own.config)
        found[f"{task}_checkpoint.sha256"] = weights.digest(own.checkpoint)
    return found
