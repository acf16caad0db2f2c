"""RUN/report.html: the curves and grids of a training on one page that needs nothing else."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipelines.page import page, picture, write_page
from pipelines.train import curves
from pipelines.train.output import GRIDS

REPORT: Final = "report.html"
WIDTH: Final = 460
HEIGHT: Final = 180
LEFT: Final = 64
BOTTOM: Final = 24
CURVES: Final = {
    "loss": "Loss: mean squared error of the prediction",
    "weighted_loss": "Weighted loss: what is minimised",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "images_per_second": "Images per second",
    "data_wait": "Time waiting for data, %",
}
STYLE: Final = """
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(440px, 1fr)); gap: 1em }
img { image-rendering: pixelated; min-width: 390px; max-width: 100%; border: 1px solid #e2dfd8 }
pre { background: #fff; border: 1px solid #e2dfd8; padding: 1em; overflow: auto; font-size: .85em }
"""


def write_report(run: Path) -> Path:
    """Write the report from what lies in a run's folder; return its path."""
    points = curves.read(run)
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    figures = "".join(
        f"<figure>{curve([point.step for point in points], [getattr(point, name) for point in points])}"
        f"<figcaption>{html.escape(title)}</figcaption></figure>"
        for name, title in CURVES.items()
    )
    grids = sorted((run / GRIDS).glob("*.png"), reverse=True)
    last = points[-1] if points else None
    summary = f"{last.step:,} steps, loss {last.loss:.4f}" if last else "no steps yet"
    body = f"""<h1>Training {html.escape(run.name)}</h1><p>{summary}</p>
<h2>Curves</h2><div class="curves">{figures}</div>
<h2>Samples</h2><p>Skeleton, the data's own picture, and a sample from the same caption and pose.</p>
{"".join(map(_grid, grids)) or "<p>None were drawn.</p>"}
<h2>Config</h2><pre>{html.escape(json.dumps(about, indent=1))}</pre>
"""
    return write_page(run / REPORT, page(run.name, STYLE, body))


def _grid(path: Path) -> str:
    step = f"step {int(path.stem):,}"
    return f"<figure>{picture(path.read_bytes(), 'png', f'samples at {step}')}<figcaption>{step}</figcaption></figure>"


def curve(steps: Sequence[int], values: Sequence[float]) -> str:
    """A line as inline SVG, with its first and last step, its lowest and highest value; gaps where not finite."""
    points = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    if not points:
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}"></svg>'
    x0, x1 = points[0][0], points[-1][0]
    y0, y1 = min(value for _, value in points), max(value for _, value in points)
    right, top = WIDTH - 10, 10

    def at(step: float, value: float) -> str:
        x = LEFT + (step - x0) / ((x1 - x0) or 1) * (right - LEFT)
        y = HEIGHT - BOTTOM - (value - y0) / ((y1 - y0) or 1) * (HEIGHT - BOTTOM - top)
        return f"{x:.1f},{y:.1f}"

    path = " ".join(at(step, value) for step, value in points)
    text = 'font-size="11" fill="#7c7a74"'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<polyline points="{path}" fill="none" stroke="#18764a" stroke-width="1.5"/>'
        f'<text x="{LEFT - 6}" y="{top + 8}" text-anchor="end" {text}>{y1:.4g}</text>'
        f'<text x="{LEFT - 6}" y="{HEIGHT - BOTTOM}" text-anchor="end" {text}>{y0:.4g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 8}" {text}>step {x0:,}</text>'
        f'<text x="{right}" y="{HEIGHT - 8}" text-anchor="end" {text}>{x1:,}</text></svg>'
    )
