"""What `humansd evaluate dataset` prints: one column a dataset, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

BARS: Final = " ▁▂▃▄▅▆▇█"
REASONS: Final = 12
ENDS: Final = 3
"""Scenes and actions that are named: so many of the most and of the least frequent."""

Summary = dict[str, Any]


def as_text(summaries: Sequence[Summary]) -> str:
    """Return the summaries of `pipelines.evaluate.datasets` as a Markdown table, and one of the gates a dataset."""
    lines = [f"| | {' | '.join(one['out'] for one in summaries)} |", "|---" * (len(summaries) + 1) + "|"]
    for label, cells in _lines(summaries):
        lines.append(f"| {label} | {' | '.join(cells)} |")
    for one in summaries:
        lines += ["", f"What each gate shifts in {one['out']} (from all candidates to those it lets pass):", ""]
        lines += _shifts(one["shifts"])
    return "\n".join(lines)


def _lines(summaries: Sequence[Summary]) -> Iterator[tuple[str, list[str]]]:
    def line(label: str, cell: Callable[[Summary], str]) -> tuple[str, list[str]]:
        return label, [cell(one) for one in summaries]

    for name in ("slots", "candidates", "accepted", "turned_down", "surplus", "short"):
        yield line(name.replace("_", " "), lambda one, name=name: f"{one['funnel'][name]:,}")  # type: ignore[misc]
    yield line("accept rate", lambda one: _share(one["funnel"]["accept_rate"]))
    reasons = dict.fromkeys(reason for one in summaries for reason in one["funnel"]["reasons"])
    for reason in list(reasons)[:REASONS]:
        yield line(f"– {reason}", lambda one, r=reason: f"{one['funnel']['reasons'].get(r, 0):,}")  # type: ignore[misc]
    yield line("people found", _ratio)
    for name in ("scenes", "actions"):
        yield line(f"different {name}", lambda one, name=name: f"{one[name]['different']:,}")  # type: ignore[misc]
        yield line(
            f"evenness of {name} (0-1)",
            lambda one, name=name: _number(one[name]["evenness"]),  # type: ignore[misc]
        )
    yield line("most frequent scenes", lambda one: _named(one["scenes"]["counts"], most=True))
    yield line("least frequent scenes", lambda one: _named(one["scenes"]["counts"], most=False))
    yield line("diversity of poses (0-1)", _diversity)
    yield line("near-duplicates", lambda one: _share(one["near_duplicates"]))
    yield line("words a caption: mean, 5, 50, 95%", _words)
    for name in dict.fromkeys(name for one in summaries for name in one["scores"]):
        yield line(f"{name.replace('_', ' ')}: mean", lambda one, name=name: _score(one["scores"][name]))  # type: ignore[misc]


def _ratio(one: Summary) -> str:
    total = sum(one["people"].values())
    return ", ".join(f"{number}: {count / total:.1%}" for number, count in one["people"].items()) or "-"


def _named(counts: dict[str, int], most: bool) -> str:
    chosen = list(counts.items())[:ENDS] if most else list(counts.items())[-ENDS:]
    return ", ".join(f"{name} {count:,}" for name, count in chosen) or "-"


def _diversity(one: Summary) -> str:
    found = one["pose_diversity"]
    return f"{_number(found['entropy'])} ({found['clusters']:.0f} clusters, {found['people']:,.0f} people)"


def _words(one: Summary) -> str:
    words = one["caption_words"]
    return f"{words['mean']:.1f}, {words['p5']:.0f}, {words['p50']:.0f}, {words['p95']:.0f}"


def _score(found: dict[str, Any]) -> str:
    if found["mean"] is None:
        return "-"
    most = max(found["counts"])
    bars = "".join(BARS[-(-count * (len(BARS) - 1) // most)] for count in found["counts"])
    return f"{found['mean']:.3g} [{found['low']:.3g} {bars} {found['high']:.3g}]"


def _shifts(shifts: dict[str, dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for line in shifts.values() for name in line if name != "turned_down"))
    titles = [*("distance of " + name if name in ("scenes", "people") else "Δ " + name for name in names)]
    lines = [f"| gate | turned down | {' | '.join(titles).replace('_', ' ')} |", "|---" * (len(names) + 2) + "|"]
    for gate, line in shifts.items():
        values = " | ".join(_number(line.get(name)) for name in names)
        lines.append(f"| {gate} | {line['turned_down']:,} | {values} |")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
