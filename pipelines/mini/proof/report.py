"""The comparison as a table: each kind of model's mean over its seeds, with the spread between them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from pipelines.mini.train.common import RESULTS
from pipelines.train import curves

BAR: Final = 0.20
"""By how much AP must be above the model that never saw a skeleton."""
TITLES: Final = {
    "mini": "mini, as shipped",
    "plain": "mini, trained on without the skeleton",
    "none": "HumanSD, unweighted loss",
    "keypoints": "HumanSD, loss weighted by the stored poses",
    "detector": "HumanSD, loss weighted by a detector's heatmaps (the paper's)",
    "controlnet": "ControlNet",
    "t2i": "T2I-Adapter",
}
MEASURES: Final = {"ap": ("AP ↑", 100, 1), "pce": ("PCE ↓", 1, 2), "clipsim": ("CLIPSIM ↑", 1, 2)}
"""Of the evaluation: title, factor, decimals."""


def write_report(evaluation: Path, names: Mapping[str, str]) -> Path:
    """Write results/proof.md and proof.png. names: what each training is called, by the model as evaluated."""
    told = json.loads((evaluation / "report.json").read_text())
    overall = {line["model"]: line for line in told["scores"] if line["scene"] == "all"}
    groups: dict[str, list[dict[str, Any]]] = {}
    for given, line in overall.items():
        name = names.get(given, given)
        group = name.rpartition("-")[0] or name
        groups.setdefault(group, []).append({**line, "minutes": minutes(Path(name))})
    rows = 1 + len(overall)  # the poses, then a row a model; other seeds come last and look much the same
    shown = rows - sum(not name.endswith("-0") for name in names.values() if "-" in name)
    with Image.open(evaluation / "grid.png") as grid:
        grid.crop((0, 0, grid.width, grid.height * shown // rows)).reduce(2).save(RESULTS / "proof.png", optimize=True)
    (RESULTS / "proof.md").write_text(as_text(groups, told["scores"][0]["images"]), encoding="utf-8")
    return RESULTS / "proof.md"


def minutes(run: Path) -> float | None:
    """What a training took beside its neighbour on the other core; None for what was not trained here."""
    if points := curves.read(run):
        batch = json.loads((run / "run.json").read_text())["config"]["batch_size"]
        gaps = np.diff([0, *(point.step for point in points)])
        rates = [point.images_per_second for point in points]
        return float(sum(batch * gap / rate for gap, rate in zip(gaps, rates, strict=True))) / 60
    log = run.with_name(f"{run.name}.log")
    found = re.search(r": ([\d.]+) minutes", log.read_text()) if log.exists() else None
    return float(found[1]) if found else None


def as_text(groups: Mapping[str, list[dict[str, Any]]], images: int) -> str:
    """The table and what it says, in Markdown."""
    titles = [title for title, _, _ in MEASURES.values()]
    lines = [
        "# HumanSD and what it is compared with, on the drawn world",
        "",
        f"Written by `python -m pipelines.mini.proof`: {images} held-out poses and captions, the same noise for every "
        "model. Means over seeds, lowest and highest in brackets.",
        "",
        f"| model | runs | {' | '.join(titles)} | s/image | minutes of training |",
        "|---" * (len(titles) + 4) + "|",
    ]
    for name in ("real images", *TITLES):
        if name in groups:
            cells = [spread(groups[name], key, factor, digits) for key, (_, factor, digits) in MEASURES.items()]
            cost = [spread(groups[name], "seconds", 1, 2), spread(groups[name], "minutes", 1, 1)]
            lines.append(f"| {' | '.join([TITLES.get(name, name), str(len(groups[name])), *cells, *cost])} |")
    return "\n".join([*lines, "", *_differences(groups)]) + "\n"


def spread(runs: list[dict[str, Any]], key: str, factor: float, digits: int) -> str:
    """Mean of a measure, and lowest and highest where there are several."""
    values = [factor * run[key] for run in runs if run.get(key) is not None]
    if not values:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def _differences(groups: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """How far each loss is from no skeleton and from the rivals, and from the unweighted loss seed by seed."""
    lines = []
    for heat in ("none", "keypoints", "detector"):
        if heat not in groups or "plain" not in groups:
            continue
        gain = np.mean([run["ap"] for run in groups[heat]]) - groups["plain"][0]["ap"]
        verdict = "reached" if gain >= BAR else "missed"
        lines.append(f"- {TITLES[heat]}: AP {100 * gain:+.1f} against no skeleton (bar +{100 * BAR:.0f}: {verdict}).")
        for other, title in (("plain", "no skeleton"), ("controlnet", "ControlNet"), ("t2i", "T2I-Adapter")):
            if other in groups:
                gaps = (_gaps(groups[heat], groups[other] * len(groups[heat]), measure) for measure in MEASURES)
                lines.append(f"  Seed by seed against {title}: {'; '.join(gaps)}.")
        if heat != "none" and len(groups[heat]) == len(groups["none"]):
            gaps = (_gaps(groups[heat], groups["none"], measure) for measure in MEASURES)
            lines.append(f"  Seed by seed against the unweighted loss: {'; '.join(gaps)}.")
    return lines


def _gaps(runs: list[dict[str, Any]], others: list[dict[str, Any]], measure: str) -> str:
    """A measure's title and its differences, run by run."""
    title, factor, digits = MEASURES[measure]
    pairs = [(a[measure], b[measure]) for a, b in zip(runs, others, strict=True)]
    told = [f"{factor * (a - b):+.{digits}f}" for a, b in pairs if a is not None and b is not None]
    return f"{title} {', '.join(told) or '-'}"
