"""The curves of a training: one point every few steps, in RUN/curve.tsv and in TensorBoard."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

FILE: Final = "curve.tsv"
TENSORBOARD: Final = "tensorboard"


@dataclass(frozen=True, slots=True)
class Point:
    """Means over the steps since the last point.

    loss: mean squared error of the prediction, unweighted. weighted_loss: what is minimised. grad_norm: before it is
    cut. data_wait: percent of the time that the first worker waited for its next batch. skipped: steps left out
    because a gradient was not finite.
    """

    step: int
    loss: float
    weighted_loss: float
    grad_norm: float
    learning_rate: float
    images_per_second: float
    data_wait: float
    skipped: int


NAMES: Final = tuple(field.name for field in dataclasses.fields(Point))


def read(run: Path) -> list[Point]:
    """The points of a run so far; a line that a killed writer left half is not one."""
    file = run / FILE
    points = []
    for line in file.read_text(encoding="utf-8").splitlines()[1:] if file.is_file() else ():
        values = line.split("\t")
        try:
            step, *means, skipped = values
            found = dict(zip(NAMES[1:-1], map(float, means), strict=True))
            points.append(Point(step=int(step), skipped=int(skipped), **found))
        except ValueError:
            continue
    return points


class Curves:
    """Writes the points of a run from `step` on; later ones, of a run that was killed, are dropped."""

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        run.mkdir(parents=True, exist_ok=True)
        self._file = run / FILE
        lines = ["\t".join(NAMES), *(_line(point) for point in read(run) if point.step <= step)]
        temporary = self._file.with_name(f".{FILE}.{os.getpid()}")
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        temporary.replace(self._file)
        new_writer: Any = SummaryWriter
        self._writer = new_writer(run / TENSORBOARD, purge_step=step + 1)

    def add(self, point: Point) -> None:
        """Write one point."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(_line(point) + "\n")
        for name in NAMES[1:]:
            self._writer.add_scalar(f"train/{name}", getattr(point, name), point.step)
        self._writer.flush()

    def add_grid(self, grid: NDArray[np.uint8], step: int) -> None:
        """Show a picture (H, W, 3) in TensorBoard."""
        self._writer.add_image("samples", grid, step, dataformats="HWC")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def _line(point: Point) -> str:
    return "\t".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in dataclasses.astuple(point))
