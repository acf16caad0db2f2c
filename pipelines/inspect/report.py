"""A dataset on one HTML page: samples with skeletons, the funnel, histograms, coverage, and examples of each reason.

Captions and urls come from strangers: every text goes through `html.escape`, and no url becomes a link.
"""

from __future__ import annotations

import html
import io
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pyarrow as pa
from PIL import Image

from pipelines import record, shards
from pipelines.config import UserError
from pipelines.evaluate.contents import READERS, Contents, Counts, read_contents
from pipelines.evaluate.datasets import histogram
from pipelines.inspect import rows
from pipelines.inspect.details import words
from pipelines.inspect.sheet import card_of, pictures
from pipelines.page import page, picture, write_page
from pipelines.record import Rejected, Sample
from pipelines.store import Store

EXAMPLES: Final = 3
"""Pictures of each reason."""
AHEAD: Final = 64
"""Shards whose reasons are read at once, in search of examples."""
FAMILIES: Final = 14
"""Action families that have a column; the rest share one."""
OTHERS: Final = "others"
NO_SCENE: Final = "no scene"
NO_ACTION: Final = "no action"
WIDTH: Final = 300
HEIGHT: Final = 150
STYLE: Final = """
body { max-width: 1240px } bdi, figcaption { overflow-wrap: anywhere } h3 { font-size: 1em; margin: 1.5em 0 .5em }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(390px, 1fr)); gap: 1em }
.cards figure { background: #fff; border: 1px solid #e2dfd8; border-radius: 8px; padding: 8px; margin: 0 }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 8px } .pair img { width: 100% }
.cards p { color: #202124; margin: .3em 0; max-height: 9em; overflow: auto }
.good { color: #18764a } .bad { color: #b22e2e }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 1em }
table { border-collapse: collapse; font-size: .85em } td, th { padding: 2px 8px; text-align: left }
.funnel { width: 100% } .funnel td:last-child { width: 50% } .number { text-align: right; white-space: nowrap }
.bar { display: block; height: 12px; background: #18764a } .down .bar { background: #b22e2e } .of td:first-child {
  padding-left: 2em }
.heat { display: block; overflow-x: auto } .heat td { text-align: right; border: 1px solid #fff }
"""


def write_report(out: str, file: Path, count: int, seed: int = 0, poses: str | None = None) -> int:
    """Write the page of a dataset; return how many samples it shows.

    count, seed, poses: of the samples, as in `pipelines.inspect.rows.pick`.
    Raises UserError where `out` is no dataset or the file cannot be written.
    """
    picked, total = rows.pick(out, "shards", count, seed, poses)
    contents = read_contents(out)
    body = f"<h1>{html.escape(out)}</h1><p>{_summary(contents)}</p>"
    body += f"<h2>Samples</h2><p>{len(picked):,} of {total:,}, drawn at random: the picture, and its skeletons.</p>"
    body += _cards(picked)
    body += f"<h2>Funnel</h2>{_funnel(contents)}<h2>Histograms</h2>{_histograms(contents)}"
    body += f"<h2>Coverage</h2>{_heatmap(families_of(contents.coverage))}"
    body += f"<h2>Reasons</h2>{_reasons(contents, read_examples(Store(out), contents, seed))}"
    try:
        write_page(file, page(out, STYLE, body))
    except OSError as error:
        raise UserError(f"--html {file}: cannot be written: {error.strerror}") from None
    return len(picked)


def _summary(contents: Contents) -> str:
    candidates = _candidates(contents)
    if not candidates:
        return "Nothing in it yet: no shard is committed, or none of them had candidates."
    accepted = contents.accepted.number
    return f"{accepted:,} samples accepted of {candidates:,} candidates ({accepted / candidates:.1%})."


def _candidates(contents: Contents) -> int:
    return contents.accepted.number + contents.surplus.number + sum(contents.reasons.values())


def _cards(picked: Sequence[Sample] | Sequence[Rejected]) -> str:
    return f'<div class="cards">{"".join(map(_card, picked))}</div>' if picked else "<p>None.</p>"


def _card(row: Sample | Rejected) -> str:
    card = card_of(row)
    sample = row.sample if isinstance(row, Rejected) else row
    details = [*card.details, *([sample.origin.url] if sample.origin and sample.origin.url else [])]
    names = ("picture", "skeletons")
    images = "".join(picture(_jpeg(one), "jpeg", name) for one, name in zip(pictures(card), names, strict=True))
    small = "<br>".join(f"<bdi>{html.escape(line)}</bdi>" for line in details)
    verdict = f'<b class="{"good" if card.good else "bad"}">{html.escape(card.verdict)}</b>'
    caption = f"<p><bdi>{html.escape(card.caption or '')}</bdi></p>"
    text = f"<figcaption>{verdict}{caption}{small}</figcaption>"
    return f'<figure><div class="pair">{images}</div>{text}</figure>'


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _funnel(contents: Contents) -> str:
    whole = _candidates(contents)

    def line(label: str, number: int, kind: str = "") -> str:
        share = number / whole if whole else 0.0
        bar = f'<span class="bar" style="width: {100 * share:.2f}%"></span>'
        cells = f'<td class="number">{number:,}</td><td class="number">{share:.1%}</td><td>{bar}</td>'
        return f'<tr class="{kind}"><td>{html.escape(label)}</td>{cells}</tr>'

    lines = [line("candidates", whole)]
    for stage, group in sorted(contents.gates.items(), key=lambda item: (-item[1].number, item[0])):
        lines.append(line(f"turned down by {words(stage)}", group.number, "down"))
        own = [(reason, count) for (at, reason), count in contents.reasons.most_common() if at == stage]
        lines += [line(words(reason), count, "down of") for reason, count in own]
    lines.append(line("surplus: good, but not needed", contents.surplus.number))
    lines.append(line("accepted", contents.accepted.number))
    note = f"<p>Places that could not be filled: {contents.short:,}.</p>" if contents.short else ""
    return f'<table class="funnel">{"".join(lines)}</table>{note}'


def _histograms(contents: Contents) -> str:
    people = [contents.found_people[number] for number in range(max(contents.found_people, default=-1) + 1)]
    charts = [("people", bars([str(number) for number in range(len(people))], people))] if people else []
    for name, values in {"words of the caption": contents.caption_words, **contents.values}.items():
        if len(values):
            low, high = float(values.min()), float(values.max())
            counts = histogram(values, low, high)
            title = f"{words(name)}, {low:.3g} to {high:.3g}: mean {values.mean(dtype=float):.3g}"
            charts.append((title, bars([""] * len(counts), counts)))
    figures = [f"<figure>{chart}<figcaption>{html.escape(title)}</figcaption></figure>" for title, chart in charts]
    return f'<div class="charts">{"".join(figures)}</div>' if figures else "<p>No samples to count.</p>"


def bars(labels: Sequence[str], counts: Sequence[int]) -> str:
    """Return a bar chart as inline SVG: each bar with its count as a tooltip, and the highest count at the top."""
    step = WIDTH / len(counts)
    most = max(counts) or 1
    foot, text = HEIGHT - 20, 'font-size="11" fill="#7c7a74"'
    parts = [f'<text x="4" y="14" {text}>{max(counts):,}</text>']
    for number, (label, count) in enumerate(zip(labels, counts, strict=True)):
        height = (foot - 20) * count / most
        place = f'x="{number * step + 1:.1f}" y="{foot - height:.1f}" width="{step - 2:.1f}" height="{height:.1f}"'
        parts.append(f'<rect {place} fill="#18764a"><title>{count:,}</title></rect>')
        middle = (number + 0.5) * step
        parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle" {text}>{html.escape(label)}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'


def families_of(coverage: Counts) -> Counter[tuple[str, str]]:
    """Return (scene, action family) → accepted samples, of those that have either.

    coverage: of `Contents`. The family is the action's first word, its verb: actions are too many for a table.
    """
    found: Counter[tuple[str, str]] = Counter()
    for (scene, action), count in coverage.items():
        if scene or action:
            found[scene or NO_SCENE, next(iter((action or "").split()), NO_ACTION)] += count
    return found


def _heatmap(coverage: Counter[tuple[str, str]]) -> str:
    if not coverage:
        return "<p>No sample has a scene or an action.</p>"
    sizes: Counter[str] = Counter()
    for (_, family), count in coverage.items():
        sizes[family] += count
    named = sorted(sizes, key=lambda family: (-sizes[family], family))[:FAMILIES]
    cells: Counter[tuple[str, str]] = Counter()
    for (scene, family), count in coverage.items():
        cells[scene, family if family in named else OTHERS] += count
    columns = [*named, *([OTHERS] if len(sizes) > len(named) else [])]
    most = max([count for (_, family), count in cells.items() if family != OTHERS], default=1)

    def cell(count: int) -> str:
        shade = 0.7 * min(1.0, count / most)
        return f'<td style="background: rgba(24, 118, 74, {shade:.3f})">{f"{count:,}" if count else ""}</td>'

    head = "".join(f"<th>{html.escape(family)}</th>" for family in columns)
    body = "".join(
        f"<tr><th>{html.escape(scene)}</th>{''.join(cell(cells[scene, family]) for family in columns)}</tr>"
        for scene in sorted({scene for scene, _ in cells})
    )
    note = f"Scenes by the first word of the action: {len(sizes):,} different, the most frequent have a column."
    return f'<p>{note}</p><table class="heat"><tr><th></th>{head}</tr>{body}</table>'


def read_examples(store: Store, contents: Contents, seed: int) -> dict[tuple[str, str], list[Rejected]]:
    """Return (stage, reason) → up to `EXAMPLES` rejected candidates that were kept, from as few shards as have them."""
    found: dict[tuple[str, str], list[Rejected]] = {reason: [] for reason in contents.reasons}
    order = shards.done_indices(store)
    random.Random(seed).shuffle(order)
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(order), AHEAD):
            indices = order[start : start + AHEAD]
            for index, reasons in zip(indices, pool.map(lambda i: _kept_reasons(store, i), indices), strict=True):
                wanted = {reason: EXAMPLES - len(examples) for reason, examples in found.items()}
                if not any(wanted.values()):
                    return found
                for one in _examples(store, index, reasons, wanted):
                    found[one.stage, one.reason].append(one)
    return found


def _kept_reasons(store: Store, index: int) -> list[tuple[str, str]]:
    """Return stage and reason of each rejected candidate of a shard that was kept."""
    try:
        table = shards.read_table(store, "rejected", index, ["stage", "reason"])
    except FileNotFoundError:
        return []
    return list(zip(table["stage"].to_pylist(), table["reason"].to_pylist(), strict=True))


def _examples(
    store: Store, index: int, reasons: Sequence[tuple[str, str]], wanted: dict[tuple[str, str], int]
) -> list[Rejected]:
    """Return a shard's first rejected candidates, up to so many of each reason as are wanted."""
    here: list[int] = []
    for row, reason in enumerate(reasons):
        if wanted.get(reason, 0) > 0:
            wanted[reason] -= 1
            here.append(row)
    if not here:
        return []
    return record.table_to_rejected(shards.read_table(store, "rejected", index).take(pa.array(here, pa.int64())))


def _reasons(contents: Contents, examples: dict[tuple[str, str], list[Rejected]]) -> str:
    parts = []
    for (stage, reason), count in contents.reasons.most_common():
        parts.append(f"<h3>{html.escape(words(f'{stage}: {reason}'))} ({count:,})</h3>")
        kept = examples[stage, reason]
        parts.append(_cards(kept) if kept else "<p>No candidate of this reason was kept with its picture.</p>")
    return "".join(parts) or "<p>Nothing was rejected.</p>"
