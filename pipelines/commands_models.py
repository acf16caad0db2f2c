"""`humansd models`: the checkpoints that can be used."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import options
from pipelines.config import UserError
from pipelines.options import examples

if TYPE_CHECKING:
    from pipelines.models import Model

models_app = typer.Typer(help="The checkpoints that can be used: what there is, fetch it, check it.")


def register(app: typer.Typer) -> None:
    """Add `models` and what is below it."""
    app.add_typer(models_app, name="models", epilog=examples("humansd models list"))


@models_app.command("list", epilog=examples("humansd models list", "humansd models list --json"))
def models_list(json: options.Json = False) -> None:
    """Every checkpoint that can be used, and whether it is on this machine.

    With --json also its url, place, SHA-256, and what its AP was measured on.
    """
    from pipelines.models import list_models

    _print_models(list_models(), json)


@models_app.command("fetch", epilog=examples("humansd models fetch rtmpose-m-humanart", "humansd models fetch sd21"))
def models_fetch(
    name: Annotated[list[str], typer.Argument(metavar="NAME...", help="As `models list` has it, or a hub id.")],
) -> None:
    """Download checkpoints into this machine's cache and check them; HUMANSD_OFFLINE=1 forbids it."""
    from pipelines.models import fetch

    for one in name:
        print(fetch(one))


@models_app.command("check", epilog=examples("humansd models check", "humansd models check mini-pose"))
def models_check(
    name: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Which ones; by default all that are here.")
    ] = None,
    json: options.Json = False,
) -> int:
    """Read checkpoints and compare their checksums; those named must be there."""
    from pipelines.models import list_models

    found = list_models(whole=True)
    unknown = set(name or ()) - {model.name for model in found}
    if unknown:
        raise UserError(f"unknown model {min(unknown)!r}; see humansd models list")
    shown = [model for model in found if (model.name in name if name else model.state != "missing")]
    _print_models(shown, json)
    return 1 if any(model.state in ("missing", "damaged") for model in shown) else 0


@models_app.command(
    "train",
    epilog=examples(
        "humansd models train mini-mm --run mini-mm",
        "humansd models train rtmdet-tiny-humanart --root HumanArt --run rtmdet",
        "humansd models train rtmpose-m-humanart --root HumanArt --run rtmpose",
    ),
)
def models_train(
    name: Annotated[str, typer.Argument(help="mini-mm, or an RTMDet, RTMPose or HRNet of `models list`.")],
    run: Annotated[Path, typer.Option(metavar="DIR", help="Checkpoints, logs and results; the same folder goes on.")],
    root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Your copy of Human-Art, or a set laid out like it.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Start from this checkpoint, not a pretrained backbone.")
    ] = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    """Train a detector with mmdet or mmpose: mini-mm on figures drawn here, others on your own copy of Human-Art.

    RTMDet finds people, RTMPose and HRNet their poses, by mmengine's Runner. The same command again goes on from the
    last checkpoint. Keys for --set are those of the mmengine config, such as train_cfg.max_epochs. Prints the weights,
    as safetensors, and their SHA-256. One process a GPU: start it with torchrun.
    """
    from pipelines.train_detector import train_detector

    for done in train_detector(name, run, root, weights, set_ or []):
        if json:
            options.print_json(dataclasses.asdict(done))
        else:
            print(f"{done.sha256}  {done.path}")


def _print_models(models: list[Model], json: bool) -> None:
    for model in models:
        if json:
            options.print_json(dataclasses.asdict(model))
        else:
            size = "" if model.bytes is None else f"{model.bytes / 1e6:.0f} MB"
            ap = "" if model.ap is None else f"AP {model.ap:.1f}"
            print(f"{model.name:26s} {model.kind:10s} {model.state:8s} {size:>7s} {ap:>7s}  {model.licence}")
