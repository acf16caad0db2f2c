"""What the page about one sample says of it, as plain values for its template: nothing here is HTML yet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from detectors.types import LIMB_COLORS, LIMBS, Person
from pipelines import record, shards
from pipelines.evaluate.contents import SCORES
from pipelines.inspect.catalog import Kind
from pipelines.inspect.lookup import FOLDERS
from pipelines.record import LedgerRow, Rejected, Sample
from pipelines.store import Store

Facts = list[tuple[str, str]]
"""(name, value), both to be shown as text."""

SHORT: Final = {"min_keypoint_score": "pose", "clip_score": "clip"}
"""Scores whose names are too long for a line under a picture."""

FOUND: Final = 0.3
"""Keypoints of at least this confidence are drawn and counted, as in skeleton pictures."""


@dataclass(frozen=True, slots=True)
class Limb:
    """One line of a skeleton, measured from the image's corner in pixels; color: CSS."""

    x1: float
    y1: float
    x2: float
    y2: float
    color: str


def limbs(people: Sequence[Person]) -> list[Limb]:
    """Return the skeletons of all people as lines. A keypoint's whole numbers are pixel centres: half a pixel more."""
    found = []
    for person in people:
        points = person.keypoints
        for (start, end), (red, green, blue) in zip(LIMBS, LIMB_COLORS, strict=True):
            if min(points[start, 2], points[end, 2]) >= FOUND:
                x1, y1, x2, y2 = (float(value) + 0.5 for value in (*points[start, :2], *points[end, :2]))
                found.append(Limb(x1, y1, x2, y2, f"rgb({red}, {green}, {blue})"))
    return found


def people_rows(people: Sequence[Person]) -> list[Facts]:
    """Return what is known of each person."""
    return [
        [
            ("score", number(person.score)),
            ("box x, y, w, h", ", ".join(f"{value:.1f}" for value in person.bbox)),
            ("area", f"{person.area:,.0f}"),
            ("keypoints found", f"{int((person.keypoints[:, 2] >= FOUND).sum())} of {len(person.keypoints)}"),
            ("mean confidence", number(float(person.keypoints[:, 2].mean()))),
            ("", "crowd" if person.iscrowd else ""),
        ]
        for person in people
    ]


def prompt_parts(sample: Sample) -> Facts:
    """Return the prompt's parts, as chosen; those that were dropped are named with an empty value."""
    if sample.prompt is None:
        return []
    names = [*record.PROMPT_PARTS, "num_people", "negative"]
    return [(words(name), _text(sample.prompt.get(name))) for name in names]


def provenance(sample: Sample, shard: int) -> Facts:
    """Return how a sample was made or where it was found: generation, origin, hashes, place in the dataset."""
    found = [("source", sample.source), ("shard", str(shard)), ("file", sample.image_path)]
    found.append(("size", f"{sample.width} × {sample.height} px"))
    for part in (sample.generation, sample.origin):
        if part is not None:
            found += [(words(field.name), _text(getattr(part, field.name))) for field in fields(part)]
    if sample.phash is not None:
        found.append(("perceptual hash", f"{sample.phash:016x}"))
    return [(name, value) for name, value in found if value]


def summary(row: Mapping[str, Any]) -> str:
    """Return a line about a catalogue's row, under its picture; it breaks between its parts only."""
    found = [row["scene"] or "", f"{row['people']} found" if row["people"] is not None else ""]
    found.append(f"attempt {row['attempt']}" if row["attempt"] is not None else "")
    found += [f"{SHORT.get(name, name)} {number(row[name])}" for name in SCORES if row[name] is not None]
    return " · ".join(text.replace(" ", "\N{NO-BREAK SPACE}") for text in found if text)


def scores(sample: Sample) -> Facts:
    """Return the scores; those not measured are named with an empty value."""
    values = {name: getattr(sample, name, None) for name in SCORES}
    values["min_keypoint_score"] = record.min_keypoint_score(sample.people)
    return [(words(name), number(value)) for name, value in values.items()]


def verdict(row: LedgerRow) -> Facts:
    """Return why a candidate was rejected: the ledger's row with all that was measured."""
    facts: dict[str, Any] = {"stage": row.stage, "reason": row.reason, "attempt": row.attempt}
    facts |= {"people asked for": row.asked_people, "people found": row.found_people, "seed": row.seed, "url": row.url}
    return [(name, _text(value)) for name, value in facts.items() if value is not None]


def measured(row: LedgerRow) -> Facts:
    """Return what the gates looked at."""
    return [(words(name), number(value)) for name, value in row.measured.items()]


def of_ledger(row: LedgerRow) -> Sample:
    """Return as much of a sample as the ledger alone knows."""
    return Sample(row.key, "", None, "", 0, 0, row.caption or "", (), scene=row.scene, action=row.action)


def annotation(sample: Sample) -> str:
    """Return what an imported record carried, laid out if it is JSON."""
    if sample.annotation is None:
        return ""
    try:
        return json.dumps(json.loads(sample.annotation), indent=1, ensure_ascii=False)
    except (ValueError, RecursionError):
        return sample.annotation


def snippet(store: Store, kind: Kind, shard: int, row: Sample | Rejected | LedgerRow) -> str:
    """Return Python that opens a row with pandas, and its image if it has one."""
    folder = "ledger" if isinstance(row, LedgerRow) else FOLDERS[kind]
    key = row.sample.key if isinstance(row, Rejected) else row.key
    filters: list[tuple[str, str, Any]] = [("key", "==", key)]
    if not isinstance(row, Sample):
        filters.append(("attempt", "==", row.attempt))
    url = f"{store.url}/{shards.table_name(folder, shard)}"
    lines = ["import pandas as pd", "", f"rows = pd.read_parquet({url!r}, filters={filters!r})", "row = rows.iloc[0]"]
    sample = row.sample if isinstance(row, Rejected) else row
    if isinstance(sample, Sample) and sample.image is not None:
        lines[:1] = ["import io", "", "import pandas as pd", "from PIL import Image"]
        lines.append('image = Image.open(io.BytesIO(row["image"]["bytes"]))')
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Return a measured value as text, "" for one that was not measured."""
    return "" if value is None else f"{value:.3g}"


def words(name: str) -> str:
    """Return a column's name as people write it."""
    return name.replace("_", " ")


def _text(value: str | float | None) -> str:
    return "" if value is None else str(value)
