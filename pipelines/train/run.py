"""A training from the command line: checked, planned, started or gone on with, and told of.

RUN/run.json            what is trained, on what: the same command goes on, another one is refused
RUN/listing.json        the shards that are read: those that are committed later are for other trainings
RUN/checkpoints/        the last few, see `checkpoints`
RUN/curve.tsv           loss, gradient, speed; the same in RUN/tensorboard
RUN/grids/00001000.png  skeleton, data and sample, side by side
RUN/model/              the trained model, a diffusers folder for `HumanSDPipeline`
RUN/left_out.txt        samples and shards that could not be read, and why
RUN/report.html         curves and grids on one page
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipelines.checkpoint import Checkpoint, resolve
from pipelines.config import UserError, difference, of_kind, plain
from pipelines.dataset import read_manifest
from pipelines.detector import DetectorConfig, detector_digests
from pipelines.store import Store
from pipelines.train import checkpoints, curves
from pipelines.train.config import LEFT_OUT, TrainConfig
from pipelines.train.listing import Part, from_json, list_shards, parse_weight, to_json

MANIFEST: Final = "run.json"
LISTING: Final = "listing.json"
MODEL: Final = "model"
FAILED: Final = "failed.txt"
GIB: Final = 2**30
LINE_SECONDS: Final = 10.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training would do.

    step: where it would begin. samples: rows of all datasets. parameters: of each part, the UNet grown. memory_gib: on
    each worker's device at least; activations come on top and depend on batch, size and dtype.
    """

    out: str
    base: str
    data: tuple[str, ...]
    step: int
    steps: int
    batch_size: int
    workers: int
    samples: int
    epochs: float
    parameters: dict[str, int]
    memory_gib: dict[str, float]
    warnings: tuple[str, ...]


def plan_train(config: TrainConfig, data: Sequence[str], out: str) -> Plan:
    """Check everything that can be checked without training, and say what would run.

    Raises UserError for the user's mistakes. No weights are downloaded.
    """
    base, listed, run = _check(config, data, out)
    found = checkpoints.steps(run)
    samples = sum(part.rows for part in listed)
    parameters = count_parameters(base)
    return Plan(
        out=out,
        base=f"{base.name} ({base.revision})",
        data=tuple(data),
        step=found[-1] if found else 0,
        steps=config.steps,
        batch_size=config.batch_size,
        workers=config.compute.workers,
        samples=samples,
        epochs=round(config.steps * config.batch_size / samples, 2),
        parameters=parameters,
        memory_gib=memory(config, parameters),
        warnings=tuple(_warnings(config, listed, base)),
    )


def as_text(plan: Plan) -> str:
    """A plan for people."""
    counts = ", ".join(f"{name} {count / 1e6:.1f}M" for name, count in plan.parameters.items())
    sizes = ", ".join(f"{name} {size:.2f}" for name, size in plan.memory_gib.items())
    lines = [
        f"base        {plan.base}",
        f"data        {', '.join(plan.data)}: {plan.samples:,} samples",
        f"steps       {plan.step:,} … {plan.steps:,} of {plan.batch_size} samples: {plan.epochs:g} times the data",
        f"workers     {plan.workers}",
        f"parameters  {counts}; the UNet is trained",
        f"memory      at least {plan.memory_gib['total']:.2f} GiB a worker ({sizes}); activations come on top",
    ]
    return "\n".join([*lines, *(f"warning     {line}" for line in plan.warnings)])


def run_train(config: TrainConfig, data: Sequence[str], out: str, address: str | None, say: Say) -> int:
    """Train, or go on with what was begun in `out`. Returns the exit code: 0 done, 1 the workers failed.

    Raises UserError for the user's mistakes, KeyboardInterrupt where it was interrupted.
    """
    from pipelines.train.loop import Task
    from pipelines.train.ray import TrainingError, run_workers
    from pipelines.train.report import write_report

    base, listed, run = _check(config, data, out)
    run.mkdir(parents=True, exist_ok=True)
    with _alone(run):
        done = (_read_manifest(run) or {}).get("trained", 0)
        _write_manifest(run, config, _identity(config, base, data), listed, done)
        checkpoints.clean(run)
        for warning in _warnings(config, listed, base):
            say(f"warning: {warning}")
        found = checkpoints.steps(run)
        if done == config.steps and (run / MODEL).is_dir():
            say(f"trained already: {run / MODEL}")
            return 0
        say(f"training from step {found[-1] if found else 0:,} to {config.steps:,} in {run}")
        progress = _Progress(run, config, say)
        task = Task(config, base, listed, str(run.absolute()))
        try:
            run_workers(task, address, progress.look)
        except TrainingError as error:
            (run / FAILED).write_text(error.details, encoding="utf-8")
            say(f"failed: {error} ({run / FAILED} tells all); the same command goes on from the last checkpoint")
            return 1
        progress.look()
        (run / FAILED).unlink(missing_ok=True)
        report = write_report(run)
        _write_manifest(run, config, _identity(config, base, data), listed, config.steps)
        say(f"done: {run / MODEL}, {report}")
    return 0


def _check(config: TrainConfig, data: Sequence[str], out: str) -> tuple[Checkpoint, tuple[Part, ...], Path]:
    """The base, the datasets and the run's folder. Raises UserError where any of them cannot be used."""
    if "://" in out:
        raise UserError(f"--out {out}: a training needs a folder that all its workers can write, not a URL")
    base, run = resolve(config.model), Path(out)
    old = _read_manifest(run)
    if old is not None:
        _compare(run, old, _identity(config, base, data), config)
        return base, from_json((run / LISTING).read_text(encoding="utf-8")), run
    _detector(config)
    listed = list_shards(data)
    if run.is_dir() and any(not _is_beginning(path) for path in run.iterdir()):
        raise UserError(f"--out {out}: holds something else than a training; take another folder")
    return base, listed, run


def _is_beginning(path: Path) -> bool:
    """Whether a file is what a training killed at its very beginning leaves."""
    return path.name in (".lock", LISTING) or (path.name.startswith(".") and path.suffix == ".new")


def _identity(config: TrainConfig, base: Checkpoint, data: Sequence[str]) -> dict[str, Any]:
    named = {**of_kind(config, "identity"), **_detector(config)}
    weighted = [f"{Store(out).url}@{weight:g}" for out, weight in map(parse_weight, data)]
    return {**named, "base": base.name, "revision": base.revision, "data": weighted}


def _detector(config: TrainConfig) -> dict[str, str]:
    """Digests of the loss's detector; none where it is not asked. Raises UserError where it cannot be had."""
    if config.loss.heat != "detector" or config.loss.weight == 0:
        return {}
    return detector_digests(DetectorConfig(name=config.loss.detector))


def _compare(run: Path, old: dict[str, Any], identity: dict[str, Any], config: TrainConfig) -> None:
    changed = difference(old["identity"], identity)
    steps = old["steps"]
    if config.steps < steps or (config.steps > steps and config.optimizer.schedule != "constant"):
        changed.append(f"steps: {steps} -> {config.steps}")
    if changed:
        raise UserError(
            f"{run} holds another training ({'; '.join(changed[:5])}): take the old values, or another --out"
        )


def _read_manifest(run: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((run / MANIFEST).read_text(encoding="utf-8"))
        assert {"identity", "steps"} <= found.keys()
    except FileNotFoundError:
        return None
    except (ValueError, AssertionError, AttributeError):
        raise UserError(f"{run / MANIFEST}: not readable as a training's; take another --out") from None
    return found


def _write_manifest(
    run: Path, config: TrainConfig, identity: dict[str, Any], listed: Sequence[Part], trained: int
) -> None:
    """trained: the steps of the model and the report that lie there; 0 where there are none."""
    said = {"identity": identity, "steps": config.steps, "trained": trained, "config": plain(config)}
    about = json.dumps(said, indent=1)
    for name, text in ((LISTING, to_json(listed)), (MANIFEST, about)):
        temporary = run / f".{name}.{os.getpid()}.new"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(run / name)


@contextlib.contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Hold RUN for this process; the system lets go of it however the process ends."""
    with (run / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{run}: another process trains there") from None
        yield


def _warnings(config: TrainConfig, listed: Sequence[Part], base: Checkpoint) -> Iterator[str]:
    """GHI brings in no new distribution only where the model that drew it is the one that is trained."""
    if config.optimizer.eight_bit and importlib.util.find_spec("bitsandbytes") is None:
        yield "optimizer.eight_bit: bitsandbytes is not installed, AdamW keeps its state in 32 bits"
    for part in listed:
        manifest = read_manifest(Store(part.out))
        if manifest.source != "ghi":
            continue
        model = manifest.identity.get("model.name", manifest.config["model"]["id"])
        revision = manifest.identity.get("model.revision", base.revision)
        if (model, revision) != (base.name, base.revision):
            yield f"{part.out} was drawn by {model} ({revision}), the training's base is {base.name} ({base.revision})"


def count_parameters(base: Checkpoint) -> dict[str, int]:
    """Parameters of the grown UNet, the VAE and the text encoder, from their configs alone."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from pipelines.train.model import grow_conv_in

    pinned = base.revision.startswith("sha256:")
    source, revision = (str(base.folder()), None) if pinned else (base.source, base.revision)
    try:
        unet_config, vae_config = (
            cls.load_config(source, subfolder=name, revision=revision)
            for cls, name in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))
        )
        text_config = CLIPTextConfig.from_pretrained(source, subfolder="text_encoder", revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model {base.name}: its configs cannot be read: {' '.join(str(error).split())[:200]}"
        ) from None
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(vae_config)
        unet = UNet2DConditionModel.from_config(unet_config)
        grow_conv_in(unet, vae.config.latent_channels)
        parts = {"unet": unet, "vae": vae, "text_encoder": CLIPTextModel(text_config)}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def memory(config: TrainConfig, parameters: dict[str, int]) -> dict[str, float]:
    """GiB that weights, gradients, optimizer, average and frozen parts take on a worker's device."""
    gpu = config.compute.gpus_per_worker > 0
    frozen = 2 if gpu and config.compute.dtype == "bfloat16" else 4
    moments = 2 if config.optimizer.eight_bit and gpu and importlib.util.find_spec("bitsandbytes") else 8
    bytes_each = {"weights": 4, "gradients": 4, "optimizer": moments, "average": 4 * bool(config.optimizer.ema_decay)}
    found = {name: parameters["unet"] * each / GIB for name, each in bytes_each.items()}
    found["frozen"] = (parameters["vae"] + parameters["text_encoder"]) * frozen / GIB
    found = {name: round(size, 3) for name, size in found.items() if size}
    return {**found, "total": round(sum(found.values()), 3)}


class _Progress:
    """Tells the newest point of the curves, once and not too often."""

    def __init__(self, run: Path, config: TrainConfig, say: Say) -> None:
        self._run, self._steps, self._batch, self._say = run, config.steps, config.batch_size, say
        points = curves.read(run)
        self._told = points[-1].step if points else 0
        self._when = 0.0
        self._left_out = len(self._read_left_out())

    def look(self) -> None:
        """Say where the training stands and what could not be read, if that is news."""
        left_out = self._read_left_out()
        if len(left_out) > self._left_out:
            more = len(left_out) - self._left_out
            self._left_out = len(left_out)
            self._say(
                f"cannot be read, other samples take their place: {left_out[-1]}"
                + (f" ({more - 1:,} more in {self._run / LEFT_OUT})" if more > 1 else "")
            )
        points = curves.read(self._run)
        if not points or points[-1].step == self._told:
            return
        point = points[-1]
        if time.monotonic() - self._when < LINE_SECONDS and point.step < self._steps:
            return
        self._told, self._when = point.step, time.monotonic()
        left = (self._steps - point.step) * self._batch / max(point.images_per_second, 1e-9)
        self._say(
            f"step {point.step:,} of {self._steps:,}: loss {point.loss:.4f}, gradient {point.grad_norm:.3f}, "
            f"{point.images_per_second:.1f} images/s, waited for data {point.data_wait:.0f}%, {left / 60:.0f} min left"
        )

    def _read_left_out(self) -> list[str]:
        try:
            return (self._run / LEFT_OUT).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []


def as_json(plan: Plan) -> dict[str, Any]:
    """A plan for machines."""
    return dataclasses.asdict(plan)
