"""What was measured of a config: by a probe, in a dataset that exists, or in a file that `plan --json` wrote."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipelines import dataset, shards
from pipelines.config import UserError
from pipelines.store import Store

PARTS: Final = 100
"""Timed parts that a file holds at most."""

SURPLUS: Final = "surplus"
"""Ledger reason of a candidate that passed every gate, but whose slot a lower attempt fills."""

Cell = tuple[str, int]
"""A scene and a number of people."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a config.

    cells: (scene, people) → (accepted, judged) candidates. seconds: of one worker, for each of several equal parts of
        the work. images: candidates in each part.
    bytes_accepted, bytes_rejected: on disk, a sample. memory: batch size → peak bytes. load_seconds: before the first
        image. device: where all this was measured. stages: seconds of a worker's time by stage, an image.
    """

    cells: Mapping[Cell, tuple[int, int]]
    seconds: tuple[float, ...]
    images: tuple[int, ...]
    bytes_accepted: float
    bytes_rejected: float
    memory: Mapping[int, int]
    load_seconds: float
    device: str
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        """Candidates a second of one worker."""
        return sum(self.images) / sum(self.seconds)


def from_dataset(out: str) -> Measured:
    """Read from a dataset what it took. Raises UserError where it is none or has no committed shard."""
    store = Store(out)
    dataset.read_manifest(store)
    # What `regate` made tells nothing of sampling.
    done = [
        d for d in shards.read_markers(store) if d.accepted + d.rejected and d.seconds.get("total") and not d.follows
    ]
    if not done:
        raise UserError(f"{out}: has no finished shard to learn from yet")
    cells: dict[Cell, tuple[int, int]] = {}
    for d in done:
        accepted = shards.read_table(store, "shards", d.shard, ["scene", "prompt"]).to_pylist()
        ledger = shards.read_table(store, "ledger", d.shard, ["scene", "asked_people", "reason"]).to_pylist()
        for row in accepted:
            _add(cells, (row["scene"], row["prompt"]["num_people"]), True)
        for row in ledger:
            if row["scene"] is not None:  # else it failed before it had a prompt
                _add(cells, (row["scene"], row["asked_people"]), row["reason"] == SURPLUS)
    return Measured(
        cells=cells,
        seconds=tuple(d.seconds["total"] for d in done),
        images=tuple(d.accepted + d.rejected for d in done),
        bytes_accepted=_bytes_a_row(done, "shards"),
        bytes_rejected=_bytes_a_row(done, "rejected"),
        memory={},
        load_seconds=0.0,
        device=", ".join(sorted({d.host for d in done})),
        stages=_stages(done),
    )


def _stages(done: list[shards.Done]) -> dict[str, float]:
    images = sum(d.accepted + d.rejected for d in done)
    names = dict.fromkeys(name for d in done for name in d.seconds if name != "total")
    return {name: sum(d.seconds.get(name, 0.0) for d in done) / images for name in names}


def from_file(path: str) -> Measured:
    """Read what `plan --json` measured elsewhere and printed. Raises UserError where the file does not hold that."""
    try:
        given: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8").splitlines()[0])["measured"]
        cells = {(str(scene), int(people)): (int(a), int(j)) for scene, people, a, j in given.pop("cells")}
        memory = {int(batch): int(peak) for batch, peak in given.pop("memory").items()}
        found = Measured(cells=cells, memory=memory, **given)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError):
        raise UserError(f"{path}: is not what humansd plan --probe --json (or --from OUT --json) prints") from None
    if not (found.cells and sum(found.seconds) > 0 and sum(found.images) > 0):
        raise UserError(f"{path}: measured nothing")
    return found


def as_json(measured: Measured) -> dict[str, Any]:
    """Everything that `from_file` reads; long lists of parts are joined into a hundred."""
    parts = list(zip(measured.seconds, measured.images, strict=True))
    groups = [parts[i::PARTS] for i in range(min(PARTS, len(parts)))]
    return {
        **dataclasses.asdict(measured),
        "cells": [[scene, people, a, j] for (scene, people), (a, j) in sorted(measured.cells.items())],
        "memory": {str(batch): peak for batch, peak in measured.memory.items()},
        "seconds": [round(sum(s for s, _ in group), 4) for group in groups],
        "images": [sum(i for _, i in group) for group in groups],
        "stages": {name: round(seconds, 6) for name, seconds in measured.stages.items()},
    }


def _bytes_a_row(done: list[shards.Done], folder: str) -> float:
    rows = sum(d.files[folder].rows for d in done)
    return sum(d.files[folder].bytes for d in done) / rows if rows else 0.0


def _add(cells: dict[Cell, tuple[int, int]], cell: Cell, accepted: bool) -> None:
    before = cells.get(cell, (0, 0))
    cells[cell] = (before[0] + accepted, before[1] + 1)
