"""What is in a dataset: funnel, people, coverage, diversity, near-duplicates, scores, and what each gate shifts.

Reads columns and never an image. Counts are exact; pose diversity is of at most `POSES` people, evenly spread.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines import dataset, shards
from pipelines.duplicates import near_duplicates
from pipelines.evaluate.diversity import normalised_poses, spread_out
from pipelines.store import Store

COLUMNS: Final = [
    *("scene", "action", "caption", "num_people", "min_keypoint_score", "people", "prompt", "phash"),
    *("clip_score", "aesthetic", "nsfw", "watermark"),
]
LEDGER: Final = ["stage", "reason", "scene", "asked_people", "caption", "measured"]
SCORES: Final = ("min_keypoint_score", "clip_score", "aesthetic", "nsfw", "watermark")
SURPLUS: Final = "surplus"
"""Ledger reason of a candidate that passed every gate, but whose slot a lower attempt fills."""
POSES: Final = 20_000
NEAR: Final = 3
"""Bits of 64 in which the perceptual hashes of near-duplicates differ at most."""
BINS: Final = 10

Counts = Counter[Any]


@dataclass(slots=True)
class Candidates:
    """Candidates of one fate, counted. scores: name → (sum, number) of what was measured; words: of their captions."""

    number: int = 0
    scenes: Counts = field(default_factory=Counter)
    people: Counts = field(default_factory=Counter)
    words: int = 0
    captions: int = 0
    scores: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add(self, scene: str | None, people: int | None, caption: str | None, scores: Mapping[str, Any]) -> None:
        """Count one candidate. people: asked for, else found."""
        self.number += 1
        self.scenes[scene] += scene is not None
        self.people[people] += people is not None
        self.captions += caption is not None
        self.words += len((caption or "").split())
        for name, value in scores.items():
            if isinstance(value, int | float):
                total, number = self.scores.get(name, (0.0, 0))
                self.scores[name] = (total + value, number + 1)

    def merged(self, other: Candidates) -> Candidates:
        """Return both together."""
        scores = dict(self.scores)
        for name, (total, number) in other.scores.items():
            before = scores.get(name, (0.0, 0))
            scores[name] = (before[0] + total, before[1] + number)
        return Candidates(
            self.number + other.number,
            self.scenes + other.scenes,
            self.people + other.people,
            self.words + other.words,
            self.captions + other.captions,
            scores,
        )

    def mean(self, name: str) -> float | None:
        """Return the mean of a score, None where nobody has it."""
        total, number = self.scores.get(name, (0.0, 0))
        return total / number if number else None


@dataclass(slots=True)
class Contents:
    """What was read of a dataset.

    reasons: (stage, reason) → candidates turned down, surplus ones left out. gates: stage → those it turned down.
    values: score → all that were measured. poses: (P, 34) as `normalised_poses` has them.
    """

    out: str
    slots: int
    accepted: Candidates = field(default_factory=Candidates)
    surplus: Candidates = field(default_factory=Candidates)
    gates: dict[str, Candidates] = field(default_factory=dict)
    reasons: Counts = field(default_factory=Counter)
    short: int = 0
    scenes: Counts = field(default_factory=Counter)
    actions: Counts = field(default_factory=Counter)
    found_people: Counts = field(default_factory=Counter)
    caption_words: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    hashes: list[int] = field(default_factory=list)
    poses: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 34), np.float32))


def read_contents(out: str) -> Contents:
    """Read the columns of all committed shards. Raises UserError where `out` is no dataset."""
    store = Store(out)
    manifest = dataset.read_manifest(store)
    found = Contents(out, manifest.n)
    markers = list(shards.read_markers(store))
    found.short = sum(len(done.short) for done in markers)
    rows = sum(done.accepted for done in markers)
    poses: list[NDArray[np.float32]] = []
    every = max(1, rows // POSES)
    number = 0
    for done in markers:
        table = shards.read_table(store, "shards", done.shard, COLUMNS)
        asked = pc.struct_field(table["prompt"], "num_people").to_pylist()
        sampled = [row for row in range(table.num_rows) if (number + row) % every == 0]
        poses += [
            normalised_poses(people) for people in table["people"].take(pa.array(sampled, pa.int64())).to_pylist()
        ]
        number += table.num_rows
        for row, people in zip(table.drop_columns(["people", "prompt"]).to_pylist(), asked, strict=True):
            _count_accepted(found, row, people)
        for row in shards.read_table(store, "ledger", done.shard, LEDGER).to_pylist():
            _count_ledger(found, row)
    found.poses = np.concatenate(poses)[:POSES] if poses else found.poses
    return found


def _count_accepted(found: Contents, row: dict[str, Any], asked: int | None) -> None:
    people = row["num_people"] if asked is None else asked
    found.accepted.add(row["scene"], people, row["caption"], {name: row[name] for name in SCORES})
    found.scenes[row["scene"]] += row["scene"] is not None
    found.actions[row["action"]] += row["action"] is not None
    found.found_people[row["num_people"]] += 1
    found.caption_words.append(len((row["caption"] or "").split()))
    for name in SCORES:
        if row[name] is not None:
            found.values.setdefault(name, []).append(row[name])
    if row["phash"] is not None:
        found.hashes.append(row["phash"])


def _count_ledger(found: Contents, row: dict[str, Any]) -> None:

    measured = json.loads(row["measured"]) if row["measured"] else {}
    scores = {name: measured.get(name) for name in SCORES}
    scores["min_keypoint_score"] = measured.get("keypoint_score", scores["min_keypoint_score"])
    group = found.surplus
    if row["reason"] != SURPLUS:
        found.reasons[row["stage"], row["reason"]] += 1
        group = found.gates.setdefault(row["stage"], Candidates())
    people = row["asked_people"] if row["asked_people"] is not None else measured.get("people")
    group.add(row["scene"], None if people is None else int(people), row["caption"], scores)


def total_variation(one: Mapping[Any, int], other: Mapping[Any, int]) -> float | None:
    """Return half the L1 distance of two distributions given as counts, 0-1; None where one has no count."""
    a, b = (sum(counts.values()) for counts in (one, other))
    if not a or not b:
        return None
    return sum(abs(one.get(key, 0) / a - other.get(key, 0) / b) for key in {*one, *other}) / 2


def evenness(counts: Mapping[Any, int]) -> float | None:
    """Return the entropy of a distribution over its own values, 1 where all are as frequent; None for none."""
    values = np.array([count for count in counts.values() if count], float)
    if not len(values):
        return None
    share = values / values.sum()
    return 1.0 if len(values) == 1 else float(-(share * np.log(share)).sum() / np.log(len(values)))


def near_duplicate_rate(hashes: Sequence[int]) -> float | None:
    """Return the share of images that look like an earlier one: perceptual hashes within `NEAR` bits."""
    if not hashes:
        return None
    return sum(other is not None for other in near_duplicates(hashes, NEAR)) / len(hashes)


def histogram(values: Sequence[float], low: float, high: float) -> list[int]:
    """Return the counts of `BINS` equal bins from `low` to `high`, both ends included."""
    counts, _ = np.histogram(np.asarray(values, float), BINS, (low, high if high > low else low + 1))
    return [int(count) for count in counts]


def shift(before: Candidates, after: Candidates) -> dict[str, float | None]:
    """Return how a distribution moves from all candidates to those that stay: what a gate does besides selecting.

    scenes, people: total variation distance, 0-1 (people as asked for, else found). caption_words and the scores: the
    difference of means.
    """
    found = {
        "scenes": total_variation(before.scenes, after.scenes),
        "people": total_variation(before.people, after.people),
        "caption_words": _difference(_words(before), _words(after)),
    }
    for name in SCORES:
        if name in before.scores or name in after.scores:
            found[name] = _difference(before.mean(name), after.mean(name))
    return found


def _words(group: Candidates) -> float | None:
    return group.words / group.captions if group.captions else None


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def shifts(found: Contents) -> dict[str, dict[str, Any]]:
    """Return gate → how many it turned down and the `shift` from all candidates to all but those; `all gates` last."""
    passed = found.accepted.merged(found.surplus)
    everybody = passed
    for group in found.gates.values():
        everybody = everybody.merged(group)
    lines: dict[str, dict[str, Any]] = {}
    for stage, own in sorted(found.gates.items()):
        rest = passed
        for other, group in found.gates.items():
            if other != stage:
                rest = rest.merged(group)
        lines[stage] = {"turned_down": own.number, **shift(everybody, rest)}
    lines["all gates"] = {"turned_down": everybody.number - passed.number, **shift(everybody, found.accepted)}
    return lines


def summarize(contents: Sequence[Contents]) -> list[dict[str, Any]]:
    """Return what each dataset is, as JSON values; what depends on a scale (bins, clusters) has one scale for all."""
    names = [name for name in SCORES if any(one.values.get(name) for one in contents)]
    ranges = {
        name: (
            min(min(one.values[name]) for one in contents if one.values.get(name)),
            max(max(one.values[name]) for one in contents if one.values.get(name)),
        )
        for name in names
    }
    diversity = spread_out([one.poses for one in contents])
    return [_summary(one, ranges, spread) for one, spread in zip(contents, diversity, strict=True)]


def _summary(
    one: Contents, ranges: Mapping[str, tuple[float, float]], diversity: dict[str, float | None]
) -> dict[str, Any]:
    words = np.array(one.caption_words or [0])
    turned_down = sum(one.reasons.values())
    candidates = one.accepted.number + one.surplus.number + turned_down
    scores = {}
    for name, (low, high) in ranges.items():
        values = one.values.get(name, [])
        mean = float(np.mean(values)) if values else None
        scores[name] = {"mean": mean, "low": low, "high": high, "counts": histogram(values, low, high)}
    return {
        "out": one.out,
        "funnel": {
            "slots": one.slots,
            "candidates": candidates,
            "accepted": one.accepted.number,
            "surplus": one.surplus.number,
            "turned_down": turned_down,
            "short": one.short,
            "accept_rate": one.accepted.number / candidates if candidates else None,
            "reasons": {f"{stage}: {reason}": count for (stage, reason), count in one.reasons.most_common()},
        },
        "people": {str(number): count for number, count in sorted(one.found_people.items())},
        "scenes": _coverage(one.scenes),
        "actions": _coverage(one.actions),
        "pose_diversity": diversity,
        "near_duplicates": near_duplicate_rate(one.hashes),
        "caption_words": {
            "mean": float(words.mean()),
            **{f"p{q}": float(np.percentile(words, q)) for q in (5, 50, 95)},
        },
        "scores": scores,
        "shifts": shifts(one),
    }


def _coverage(counts: Counts) -> dict[str, Any]:
    present = {name: count for name, count in counts.items() if count}
    named = sorted(present.items(), key=lambda item: (-item[1], item[0]))
    return {"different": len(present), "evenness": evenness(present), "counts": dict(named)}
