"""Weights out of checkpoint files of others, without running anything that is in them.

mmengine and mmcv write pickles: a `state_dict` beside whatever the training kept (logs, numpy numbers, an optimizer).
Tensors and plain data are rebuilt; whatever else a file asks for becomes an empty placeholder.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from detectors.weights import WeightsError

MOST_PLACEHOLDERS: Final = 100
"""Kinds of objects that are ignored in one file; one that has more is no checkpoint."""
NAMED: Final = 3
"""Keys that an error names of each kind."""


class _Placeholder:
    """Stands for an object of any class, takes whatever that would have been given, and keeps none of it."""

    def __new__(cls, *_: object) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the weights in a checkpoint, on the CPU, name → tensor.

    path: safetensors, or a pickle of mmengine, mmcv or plain torch: its `state_dict`, or itself where it is one. Raises
    WeightsError where the file is none or holds no weights.
    """
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a checkpoint that can be read safely ({_reason(error)})") from error
    state = found.get("state_dict", found) if isinstance(found, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: holds no weights (no state_dict of tensors)")
    return dict(state)


def _unpickle(path: Path) -> Any:
    """Read with torch's weights-only loader; each class that it refuses is a placeholder in the next reading.

    Tensors stay in the file until they are used: an optimizer's state beside them costs no memory.
    """
    ignored: list[str] = []
    while True:
        placeholders: list[Any] = [(_Placeholder, name) for name in ignored]
        try:
            with torch.serialization.safe_globals(placeholders):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError as error:
            asked = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
            if asked is None or asked[1] in ignored or len(ignored) >= MOST_PLACEHOLDERS:
                raise
            ignored += [asked[1], f"builtins.{asked[1]}"]


def _reason(error: BaseException) -> str:
    """What torch's loader did not like, without its advice to load unsafely."""
    text = str(error)
    if "weights_only" in text or not text:
        return "no pickle of tensors and plain data"
    return text.splitlines()[0]


def load_strictly(net: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Load weights into a network, key for key. Raises WeightsError naming the first keys that do not fit."""
    try:
        result = net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        mismatch = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{name}: the weights are another network's: {mismatch}") from error
    wrong = [
        f"{len(keys)} keys {kind} ({', '.join(keys[:NAMED])}{', …' if len(keys) > NAMED else ''})"
        for kind, keys in (("missing", result.missing_keys), ("too many", result.unexpected_keys))
        if keys
    ]
    if wrong:
        raise WeightsError(f"{name}: the weights are another network's: {'; '.join(wrong)}")
