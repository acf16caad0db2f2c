"""What a job will take, before it runs: images, hours, money and storage, each as an interval.

The accept rate of each scene and number of people decides how many images a slot costs. It comes from a probe or from
a dataset that exists already; the intervals are 5-95% of 2,000 draws of what those counts leave open.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.config import UserError, bundled
from pipelines.ghi.config import GhiConfig
from pipelines.measured import Cell, Measured, from_dataset, from_file
from pipelines.measured import as_json as measured_json
from pipelines.scale import Scale, as_table, scale
from pipelines.status import duration, size

PEOPLE_SHARES: Final = {1: 0.7, 2: 0.2, 3: 0.1}
"""1, 2 or 3 people at 7:2:1."""

DRAWS: Final = 2000
POOLING: Final = 2.0
"""Pseudo-counts with which a cell's accept rate leans on that of all scenes with as many people."""

SHARD_SECONDS: Final = 300.0
"""How long a shard should keep a worker busy: little is lost with it, and there are not too many."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 90% interval and its median."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, draws: NDArray[np.float64]) -> Interval:
        """Return the 5th, 50th and 95th percentile of some draws."""
        low, median, high = np.percentile(draws, [5, 50, 95])
        return cls(float(low), float(median), float(high))


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a job will take. images: to sample; short: slots that stay empty after max_attempts; bytes: on disk.

    hours: of wall-clock time with all workers. seconds_per_1000: of workers, for 1,000 accepted. cost, cost_per_1000:
    in the currency of the price; None without a price.
    """

    accept_rate: Interval
    images: Interval
    short: Interval
    hours: Interval
    bytes: Interval
    seconds_per_1000: Interval
    cost: Interval | None
    cost_per_1000: Interval | None


def predict(
    measured: Measured, n: int, max_attempts: int, workers: int, keep_rejected: bool, price: float | None
) -> Prediction:
    """Predict a job of n slots on `workers` workers; price: of one worker for an hour."""
    rng = np.random.default_rng(0)
    rates, weights = _rates(measured.cells, rng)
    missed = (1 - rates) ** max_attempts
    attempts = (1 - missed) / rates  # expected attempts a slot: a geometric law that ends at max_attempts
    images = n * attempts @ weights
    short = n * missed @ weights
    hours = images * _seconds_an_image(measured, rng) / workers / 3600 + measured.load_seconds / 3600
    stored = (n - short) * measured.bytes_accepted
    if keep_rejected:
        stored = stored + (images - (n - short)) * measured.bytes_rejected
    per_1000 = 3600 * hours * workers * 1000 / np.maximum(n - short, 1)
    return Prediction(
        accept_rate=Interval.of((n - short) / images),
        images=Interval.of(images),
        short=Interval.of(short),
        hours=Interval.of(hours),
        bytes=Interval.of(stored),
        seconds_per_1000=Interval.of(per_1000),
        cost=None if price is None else Interval.of(hours * workers * price),
        cost_per_1000=None if price is None else Interval.of(per_1000 * price / 3600),
    )


def _rates(
    cells: Mapping[Cell, tuple[int, int]], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw accept rates, (DRAWS, cells), and return each cell's share of the slots, (cells,)."""
    shares = {people: PEOPLE_SHARES.get(people, 0.0) for _, people in cells}
    pooled = {}
    for people in shares:
        accepted = sum(a for (_, p), (a, _) in cells.items() if p == people)
        judged = sum(j for (_, p), (_, j) in cells.items() if p == people)
        drawn = rng.beta(accepted + 0.5, judged - accepted + 0.5, DRAWS)
        pooled[people] = np.clip(drawn, 1e-6, 1 - 1e-6)  # beta's parameters must stay above zero
    rates, weights = [], []
    for (_, people), (accepted, judged) in sorted(cells.items()):
        lean = POOLING * pooled[people]
        rates.append(rng.beta(lean + accepted, POOLING - lean + judged - accepted))
        weights.append(shares[people])
    weight = np.array(weights)
    return np.clip(np.stack(rates, axis=1), 1e-6, 1.0), weight / weight.sum()


def _seconds_an_image(measured: Measured, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a worker's seconds an image by resampling the parts that were timed."""
    seconds, images = np.array(measured.seconds), np.array(measured.images)
    chosen = rng.integers(0, len(seconds), (DRAWS, len(seconds)))
    drawn: NDArray[np.float64] = seconds[chosen].sum(axis=1) / images[chosen].sum(axis=1)
    return drawn


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of a job before it runs; measured and predicted are None where nothing was measured.

    scales: the job on other numbers of GPUs, where several were asked for.
    """

    name: str
    config: GhiConfig
    workers: int
    measured: Measured | None
    predicted: Prediction | None
    scales: tuple[Scale, ...] = ()


def make_plan(name: str, config: GhiConfig, gpus: Sequence[int] = (), *, probe: bool, out: str | None) -> Plan:
    """Plan a job: with a probe on this machine, with what `out` measured, or from the config alone.

    gpus: the first sets the workers, by the config's `gpus_per_worker`; several are compared. out: a dataset, or a file
    that `plan --json` wrote. Raises UserError where `out` has nothing to tell.
    """
    if probe and out is not None:
        raise UserError("--probe measures anew, --from takes what was measured: give one of them")
    workers = max(1, math.floor(gpus[0] / (config.gpus_per_worker or 1))) if gpus else config.workers
    measured = None
    if probe:
        from pipelines.probe import run_probe

        measured = run_probe(config)
    elif out is not None:
        measured = from_file(out) if out.endswith(".json") else from_dataset(out)
    if measured is None:
        return Plan(name, config, workers, None, None)
    price = config.price_per_gpu_hour
    per_worker = None if price is None else price * (config.gpus_per_worker or 1)
    predicted = predict(measured, config.n, config.max_attempts, workers, config.keep_rejected, per_worker)
    compared = gpus if len(gpus) > 1 else ()
    size_ = shard_size(config, measured, predicted)
    scales = tuple(scale(config, measured, predicted, size_, number) for number in compared)
    return Plan(name, config, workers, measured, predicted, scales)


def names_config(name: str) -> bool:
    """Whether a model is named by a config of its own (bundled, or a TOML file) and not by hub id or folder."""
    return name in bundled() or name.endswith(".toml")


def shard_size(config: GhiConfig, measured: Measured, predicted: Prediction) -> int:
    """Return how many samples keep a worker busy for five minutes, in two digits; never below ten batches."""
    samples = SHARD_SECONDS * measured.images_per_second * predicted.accept_rate.median
    digits = max(0, len(str(int(samples))) - 2)
    return max(10 * config.sampler.batch_size, int(round(samples, -digits)))


def as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as one JSON object."""
    config, measured = plan.config, plan.measured
    found: dict[str, Any] = {
        "config": plan.name,
        "model": config.model.id,
        "n": config.n,
        "shards": _shards(config),
        "workers": plan.workers,
    }
    if measured is not None and plan.predicted is not None:
        found |= {
            "device": measured.device,
            "images_per_second": measured.images_per_second,
            "bytes_accepted": measured.bytes_accepted,
            "bytes_rejected": measured.bytes_rejected,
            "memory": {str(batch): peak for batch, peak in measured.memory.items()},
            "accept_rate_by_scene": accept_rates(measured.cells),
            "shard_size_of_5_min": shard_size(config, measured, plan.predicted),
            "predicted": dataclasses.asdict(plan.predicted),
            "scales": [dataclasses.asdict(one) for one in plan.scales],
            "measured": measured_json(measured),
        }
    return found


def as_text(plan: Plan) -> str:
    """Return a plan as lines for people."""
    config, measured, predicted = plan.config, plan.measured, plan.predicted
    sampler = config.sampler
    lines = [
        f"{plan.name}: {config.model.id}, {sampler.steps} steps of {sampler.scheduler}, batch {sampler.batch_size}",
        f"slots      {config.n:,} in {_shards(config):,} shards of {config.shard_size}; 1, 2, 3 people at 7:2:1",
        f"workers    {plan.workers}"
        + (f", {config.gpus_per_worker:g} GPU each" if config.gpus_per_worker else ", on CPUs"),
    ]
    if measured is None or predicted is None:
        return "\n".join(
            [*lines, "time       not known: measure with --probe, or give --from a dataset of this config"]
        )
    lines += [
        f"measured   {measured.images_per_second:.2f} images/s a worker on {measured.device}",
        *(f"memory     {size(peak)} at batches of {batch}" for batch, peak in measured.memory.items()),
        f"stages     {_stage_shares(measured.stages)}",
        f"a sample   {size(measured.bytes_accepted)} accepted, {size(measured.bytes_rejected)} rejected",
        f"a shard    shard_size={shard_size(config, measured, predicted)} would last about five minutes; "
        f"{config.shard_size} are set",
        "",
        *_rate_lines(measured.cells),
        "",
        f"accepted   {_percent(predicted.accept_rate)} of the images",
        f"images     {_span(predicted.images, _count)}",
        f"left empty {_span(predicted.short, _count)} slots after {config.max_attempts} attempts",
        f"time       {_span(predicted.hours, lambda hours: duration(3600 * hours))}",
        f"storage    {_span(predicted.bytes, size)}",
    ]
    if predicted.cost is not None:
        lines.append(f"cost       {_span(predicted.cost, _money)} at your price")
    lines.append(f"per 1,000  {_span(predicted.seconds_per_1000, duration)} of one worker for 1,000 accepted")
    if predicted.cost_per_1000 is not None:
        lines.append(f"           {_span(predicted.cost_per_1000, _money)} at your price")
    if plan.scales:
        lines += ["", *as_table(plan.scales, duration, size)]
    return "\n".join(lines)


def _stage_shares(stages: Mapping[str, float]) -> str:
    if not stages:
        return "not told apart"
    shares = sorted(((seconds / sum(stages.values()), name) for name, seconds in stages.items()), reverse=True)
    return ", ".join(f"{name} {100 * share:.0f}%" for share, name in shares if share >= 0.005)


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.4f}"


def side_by_side(plans: Sequence[Plan]) -> str:
    """Return several plans as a table, medians only; what was not measured is a dash."""
    rows: list[tuple[str, Callable[[Plan, Measured, Prediction], str]]] = [
        ("images/s a worker", lambda plan, measured, made: f"{measured.images_per_second:.2f}"),
        ("accepted", lambda plan, measured, made: f"{100 * made.accept_rate.median:.0f}%"),
        ("images", lambda plan, measured, made: _count(made.images.median)),
        ("workers", lambda plan, measured, made: f"{plan.workers}"),
        ("time", lambda plan, measured, made: duration(3600 * made.hours.median)),
        ("cost", lambda plan, measured, made: "-" if made.cost is None else _money(made.cost.median)),
        ("s per 1,000", lambda plan, measured, made: f"{made.seconds_per_1000.median:,.0f}"),
        (
            "cost per 1,000",
            lambda plan, measured, made: _money(made.cost_per_1000.median) if made.cost_per_1000 else "-",
        ),
        ("storage", lambda plan, measured, made: size(made.bytes.median)),
    ]
    lines = [f"{'':20s}" + "".join(f"{plan.name:>16s}" for plan in plans)]
    for title, text in rows:
        cells = [text(p, p.measured, p.predicted) if p.measured and p.predicted else "-" for p in plans]
        lines.append(f"{title:20s}" + "".join(f"{cell:>16s}" for cell in cells))
    return "\n".join(lines)


def accept_rates(cells: Mapping[Cell, tuple[int, int]]) -> dict[str, dict[str, float | None]]:
    """Return scene → number of people → accepted share; None where nothing was judged."""
    people = sorted({number for _, number in cells})
    found: dict[str, dict[str, float | None]] = {}
    for scene in sorted({scene for scene, _ in cells}):
        judged = {number: cells.get((scene, number), (0, 0)) for number in people}
        found[scene] = {str(number): a / j if j else None for number, (a, j) in judged.items()}
    return found


def _rate_lines(cells: Mapping[Cell, tuple[int, int]]) -> list[str]:
    rates = accept_rates(cells)
    people = sorted({number for _, number in cells})
    lines = ["accepted   " + "".join(f"{'1 person' if number == 1 else f'{number} people':>10s}" for number in people)]
    for scene, by_people in rates.items():
        values = (by_people[str(number)] for number in people)
        lines.append(f"  {scene:15s}" + "".join(f"{'-' if v is None else f'{100 * v:.0f}%':>9s} " for v in values))
    return lines


def _shards(config: GhiConfig) -> int:
    return -(-config.n // config.shard_size)


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _percent(interval: Interval) -> str:
    return f"{100 * interval.median:.1f}% ({100 * interval.low:.1f}-{100 * interval.high:.1f}%)"


def _span(interval: Interval, text: Callable[[float], str]) -> str:
    return f"{text(interval.median)} ({text(interval.low)} to {text(interval.high)})"
