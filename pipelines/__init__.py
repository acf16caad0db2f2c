"""Jobs that make, read and use datasets of humans. Importing this loads nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.reading import Dataset

# Arrow's usual pool of memory gives large pages back to the system as soon as it is done with them, and has them mapped
# and cleared anew: half of the time of committing a shard, and two thirds of that of reading one (measured). This must
# be said before Arrow is loaded, and in no other way.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "mimalloc")


def open_dataset(outs: str | Sequence[str], columns: Sequence[str] = (), poses: str | None = None) -> Dataset:
    """Open one or several datasets to read: `pipelines.reading.open_dataset`."""
    from pipelines import reading

    return reading.open_dataset(outs, columns, poses)
