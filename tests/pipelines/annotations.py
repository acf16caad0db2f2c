"""Functions that tests annotate with; workers import them by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.images import decode_image
from pipelines.record import Sample


def brightness(rows: list[Sample]) -> dict[str, Any]:
    """A number, a vector and a text of each image, null for one row in three."""
    pixels = [decode_image(row.image or b"") for row in rows]
    return {
        "mean": [float(image.mean()) for image in pixels],
        "colour": np.array([image.mean((0, 1)) for image in pixels], np.float32),
        "words": [row.caption.split() if number % 3 else None for number, row in enumerate(rows)],
    }


def sizes(rows: list[Sample]) -> pa.Table:
    return pa.table({"size": pa.array([len(row.image or b"") for row in rows], pa.int32())})


def wrong(rows: list[Sample]) -> dict[str, Any]:
    return {"mean": [1.0]}


class Suffix:
    """Notes each batch it is called with; fails on one key, or dies of it."""

    def __init__(self, suffix: str, log: str = "", fail: str = "", kill: str = "") -> None:
        self.suffix, self.log, self.fail, self.kill = suffix, log, fail, kill

    def __call__(self, rows: list[Sample]) -> dict[str, Any]:
        keys = [row.key for row in rows]
        if self.log:
            with Path(self.log).open("a") as log:
                log.write(" ".join(keys) + "\n")
        if self.fail and self.fail in keys:
            raise ValueError(f"cannot name {self.fail}")
        if self.kill and self.kill in keys:
            os._exit(1)
        return {"name": [key + self.suffix for key in keys]}
