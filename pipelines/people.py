"""The people of a dataset as a tidy table: one row a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from detectors.types import KEYPOINTS, NUM_KEYPOINTS

if TYPE_CHECKING:
    import pandas as pd

VISIBLE: Final = 0.3
"""Confidence from which a keypoint counts as visible: the one from which gates, by default, count it as found."""


def one_row_a_person(table: pa.Table) -> pd.DataFrame:
    """Return a row for each person of a table with the columns `key` and `people`, in their order.

    key, person (number within the sample, from 0); x, y, width, height (px), score (0-1), area (px²), iscrowd;
    visible_keypoints (of 17, confidence at least `VISIBLE`), min_keypoint_score, mean_keypoint_score (0-1, over all
    17); then NAME_x, NAME_y (px) and NAME_c (confidence, 0-1) of each of the 17 COCO keypoints.
    """
    import pandas as pd  # takes a second to load

    lists = table["people"]
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(int)
    people = pc.list_flatten(lists)
    keypoints = _numbers(people, "keypoints", 3 * NUM_KEYPOINTS)
    confidences = keypoints[:, 2::3]
    columns: dict[str, Any] = {
        "key": np.repeat(table["key"].to_numpy(), counts),
        "person": np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts),
        **dict(zip(("x", "y", "width", "height"), _numbers(people, "bbox", 4).T, strict=True)),
        "score": pc.struct_field(people, "score").to_numpy(),
        "area": pc.struct_field(people, "area").to_numpy(),
        "iscrowd": pc.fill_null(pc.struct_field(people, "iscrowd"), 0).to_numpy() != 0,
        "visible_keypoints": (confidences >= VISIBLE).sum(1),
        "min_keypoint_score": confidences.min(1, initial=np.inf),
        "mean_keypoint_score": confidences.mean(1),
    }
    names = [f"{name}_{part}" for name in KEYPOINTS for part in "xyc"]
    return pd.DataFrame({**columns, **dict(zip(names, keypoints.T, strict=True))})


def _numbers(people: pa.ChunkedArray, name: str, size: int) -> NDArray[np.float32]:
    """Return (people, size) float32: a list column of the people's struct, whose lists all have `size` numbers."""
    flat: NDArray[np.float32] = pc.list_flatten(pc.struct_field(people, name)).to_numpy()
    return flat.reshape(-1, size)
