"""Jobs that make, read and use datasets of humans. Importing this loads nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.reading import Dataset


def open_dataset(outs: str | Sequence[str], columns: Sequence[str] = (), poses: str | None = None) -> Dataset:
    """Open one or several datasets to read: `pipelines.reading.open_dataset`."""
    from pipelines import reading

    return reading.open_dataset(outs, columns, poses)
