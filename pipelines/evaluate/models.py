"""`humansd evaluate --models A B … --data OUT --out DIR`: the same samples from every model, measured alike.

    DIR/reference/       the samples of --data that are used: captions, poses and real images
    DIR/models/NAME/     each model's images of them, a dataset like any other; columns/judged-…: what was measured
    DIR/report.md  report.json  grid.png

The same command again goes on where it stopped: nothing is drawn or measured twice.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from pipelines import columns, dataset, lease, record, shards
from pipelines.config import plain
from pipelines.evaluate import reference
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.generate import MakeGenerateWork, job_of, runtime_of
from pipelines.evaluate.generators import Model, resolve_model
from pipelines.evaluate.grid import draw_grid
from pipelines.evaluate.judge import Judges, find_judges
from pipelines.evaluate.table import REAL, Scores, as_text, cost_of, read_measured, score_model
from pipelines.record import Sample
from pipelines.store import Store

if TYPE_CHECKING:
    from pipelines.job import Job, JobReport

SHOWN: Final = 8
"""Samples of the grid."""
REFERENCE: Final = "reference"


@dataclass(slots=True)
class Evaluation:
    """What came of an evaluation. lines: the table; absent: what could not be measured, and why, a line each.

    lost: model → keys of images that could not be drawn. exit_code: 0 all there; 1 something is short, failed or
    missing; 130 interrupted.
    """

    lines: list[Scores] = field(default_factory=list)
    absent: tuple[str, ...] = ()
    lost: dict[str, list[str]] = field(default_factory=dict)
    text: str = ""
    exit_code: int = 0


def evaluate_models(
    models: Sequence[str],
    data: Sequence[str],
    out: str,
    config: EvaluateConfig,
    address: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Draw the samples of `data` from every model, measure them, and write the report into `out`.

    Raises UserError where the user must act first: a model or detector is not there, `out` holds other samples.
    """
    pinned = [resolve_model(given, config.base, config.skeleton) for given in dict.fromkeys(models)]
    judges = find_judges(config)
    root = Store(out)
    real = Store(f"{root.url.rstrip('/')}/{REFERENCE}")
    manifest = reference.freeze(data, real.url, config.limit, config.shard_size)
    jobs = [job_of(config, model, real, manifest, _place(root, model)) for model in pinned]
    found = Evaluation(absent=judges.absent)
    with _session(config, [job.out for job in jobs], real, judges, address):
        for model, job in zip(pinned, jobs, strict=True):
            note(f"{model.given}: {manifest.n:,} images")
            report = _draw(config, model, job, real, address)
            if report.short:
                found.lost[model.given] = report.short
            if _ended(found, report):
                return found
        for store in [real, *(Store(job.out) for job in jobs)]:
            if _ended(found, _measure(config, judges, store, address)):
                return found
    names = {model.given: Store(job.out) for model, job in zip(pinned, jobs, strict=True)}
    _report(found, config, pinned, names, real, judges, root)
    return found


def _place(root: Store, model: Model) -> str:
    """Where a model's images lie: two models of one name differ in what they are."""
    digest = model.digest or (model.base.revision.removeprefix("sha256:") if model.base else "")
    return f"{root.url.rstrip('/')}/models/{model.kind}-{model.name}-{digest[:8]}"


def _draw(config: EvaluateConfig, model: Model, job: Job, real: Store, address: str | None) -> JobReport:
    from pipelines.engine import run_job

    work = MakeGenerateWork(config, model, real.url, job.identity_hash)
    return run_job(job, work, runtime_of(config, address))


def _measure(config: EvaluateConfig, judges: Judges, store: Store, address: str | None) -> JobReport:
    from pipelines.annotate import run_annotate

    return run_annotate(store.url, judges.annotation, replace(runtime_of(config, address), threads=1))


def _ended(found: Evaluation, report: JobReport) -> bool:
    """Note how a job ended; True where what comes next has nothing to work on."""
    found.exit_code = max(found.exit_code, report.exit_code)
    if report.missing or report.failed:
        why = report.stopped or next(iter(report.failed.values()), "shards are missing")
        found.text = f"not measured: {why}; the same command again goes on"
        return True
    return report.exit_code == 130


@contextlib.contextmanager
def _session(config: EvaluateConfig, outs: Sequence[str], real: Store, judges: Judges, address: str | None) -> Any:
    """One Ray for all jobs; none where everything is there already."""
    wanted = set(shards.done_indices(real))
    name = judges.annotation.name
    stores = [Store(out) for out in outs]
    whole = all(wanted == set(shards.done_indices(store)) for store in stores) and all(
        wanted == set(shards.done_indices(columns.folder(store, name))) for store in [real, *stores]
    )
    if whole:
        yield
        return
    from pipelines.cluster.session import ray_session

    with contextlib.redirect_stdout(sys.stderr), ray_session(runtime_of(config, address)):
        yield


def _report(
    found: Evaluation,
    config: EvaluateConfig,
    models: Sequence[Model],
    stores: dict[str, Store],
    real: Store,
    judges: Judges,
    root: Store,
) -> None:
    name = judges.annotation.name
    truth = read_measured(real, name)
    found.lines = score_model(REAL, truth, truth, (None, None))
    for given, store in stores.items():
        found.lines += score_model(given, truth, read_measured(store, name), cost_of(store))
    found.text = _text(found, config, judges)
    run = lease.new_run()
    asked = {
        "config": plain(config),
        "models": [{"model": one.given, "kind": one.kind, "revision": one.revision} for one in models],
        "features": judges.features,
        "absent": list(found.absent),
        "lost": found.lost,
        "scores": [asdict(line) for line in found.lines],
    }
    root.write("report.json", json.dumps(asked, indent=1, default=str).encode() + b"\n", run)
    root.write("report.md", found.text.encode(), run)
    root.write("grid.png", _grid(real, stores), run)


def _text(found: Evaluation, config: EvaluateConfig, judges: Judges) -> str:
    sampler, detector = config.sampler, config.detector
    overall = [line for line in found.lines if line.scene == "all"]
    scenes = [line for line in found.lines if line.scene != "all"]
    parts = ["# Evaluation", "", as_text(overall, judges.features), ""]
    parts += [f"Not measured: {line}." for line in found.absent]
    parts += [f"{model}: {len(keys)} images could not be drawn." for model, keys in found.lost.items()]
    parts += [
        f"{sampler.scheduler}, {sampler.steps} steps, guidance {sampler.guidance:g}, seed {config.seed}, batches of "
        f"{sampler.batch_size} in {sampler.dtype}; poses by {detector.name}; CLIPSIM by {config.judge.clip_model}; "
        f"distances over {judges.features or 'nothing'}. AP, AP(m), CAP in per cent. "
        f"`{REAL}` are the data's own: what the judges make of them bounds what a model can reach.",
    ]
    if scenes:
        parts += ["", "## By scene", "", as_text(scenes, judges.features)]
    return "\n".join(parts) + "\n"


def _grid(real: Store, stores: dict[str, Store]) -> bytes:
    """The picture of some samples, spread over all, as PNG."""
    total = dataset.read_manifest(real).n
    count = min(SHOWN, total)
    places = [index * total // count for index in range(count)]
    size = dataset.read_manifest(real).shard_size
    originals = [_sample_at(real, place // size, place % size, None) for place in places]
    asked = [sample for sample in originals if sample is not None]
    rows: list[tuple[str, Sequence[Sample | None]]] = [(REAL, asked)]
    for given, store in stores.items():
        rows.append((given, [_sample_at(store, place // size, None, place) for place in places]))
    file = io.BytesIO()
    draw_grid(rows, asked).save(file, "PNG")
    return file.getvalue()


def _sample_at(store: Store, shard: int, row: int | None, index: int | None) -> Sample | None:
    """The sample in a row of a shard, or the one whose key ends in `index`."""
    table = shards.read_table(store, "shards", shard)
    if row is None:
        keys = [key.rpartition("-")[2] for key in table["key"].to_pylist()]
        row = keys.index(str(index)) if str(index) in keys else None
    return None if row is None else record.table_to_samples(table.slice(row, 1))[0]
