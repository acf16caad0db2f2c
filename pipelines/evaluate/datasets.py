"""What is in a dataset: funnel, people, coverage, diversity, near-duplicates, scores, and what each gate shifts.

Counts are exact; pose diversity is of at most `contents.POSES` people, in rows spread evenly: the same ones each time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from pipelines.duplicates import Hashes, near_duplicates
from pipelines.evaluate.contents import SCORES, Candidates, Contents, Counts
from pipelines.evaluate.diversity import spread_out

NEAR: Final = 3
"""Bits of 64 in which the perceptual hashes of near-duplicates differ at most."""
BINS: Final = 10


def total_variation(one: Mapping[Any, int], other: Mapping[Any, int]) -> float | None:
    """Return half the L1 distance of two distributions given as counts, 0-1; None where one has no count."""
    a, b = (sum(counts.values()) for counts in (one, other))
    if not a or not b:
        return None
    return sum(abs(one.get(key, 0) / a - other.get(key, 0) / b) for key in dict.fromkeys([*one, *other])) / 2


def evenness(counts: Mapping[Any, int]) -> float | None:
    """Return the entropy of a distribution over its own values, 1 where all are as frequent; None for none."""
    values = np.array([count for count in counts.values() if count], float)
    if not len(values):
        return None
    share = values / values.sum()
    return 1.0 if len(values) == 1 else float(-(share * np.log(share)).sum() / np.log(len(values)))


def near_duplicate_rate(hashes: Sequence[int] | Hashes) -> float | None:
    """Return the share of images that look like an earlier one: perceptual hashes within `NEAR` bits."""
    near = near_duplicates(hashes, NEAR)
    return sum(other is not None for other in near) / len(near) if near else None


def histogram(values: ArrayLike, low: float, high: float) -> list[int]:
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
    measured = {name: [one.values[name] for one in contents if name in one.values] for name in SCORES}
    ranges = {
        name: (float(min(map(np.min, values))), float(max(map(np.max, values))))
        for name, values in measured.items()
        if values
    }
    diversity = spread_out([one.poses for one in contents])
    return [_summary(one, ranges, spread) for one, spread in zip(contents, diversity, strict=True)]


def _summary(
    one: Contents, ranges: Mapping[str, tuple[float, float]], diversity: dict[str, float | None]
) -> dict[str, Any]:
    words = one.caption_words if len(one.caption_words) else np.zeros(1)
    turned_down = sum(one.reasons.values())
    candidates = one.accepted.number + one.surplus.number + turned_down
    scores = {}
    for name, (low, high) in ranges.items():
        values = one.values.get(name, np.empty(0))
        mean = float(np.mean(values, dtype=float)) if len(values) else None
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
        "scenes": _coverage(one.coverage, 0),
        "actions": _coverage(one.coverage, 1),
        "pose_diversity": diversity,
        "near_duplicates": near_duplicate_rate(one.hashes),
        "caption_words": {
            "mean": float(words.mean()),
            **{f"p{q}": float(np.percentile(words, q)) for q in (5, 50, 95)},
        },
        "scores": scores,
        "shifts": shifts(one),
    }


def _coverage(pairs: Counts, which: int) -> dict[str, Any]:
    """Sum up the scenes (0) or actions (1) of (scene, action) pairs, most frequent first."""
    counts: Counts = Counter()
    for pair, count in pairs.items():
        if pair[which] is not None:
            counts[pair[which]] += count
    named = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {"different": len(counts), "evenness": evenness(counts), "counts": dict(named)}
