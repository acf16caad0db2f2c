"""Commands that measure: models against each other, datasets, the miniature models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from pipelines import options
from pipelines.config import UserError, load_config
from pipelines.options import examples

app = typer.Typer(invoke_without_command=True)

Outs = Annotated[list[str], typer.Argument(metavar="OUT...", help="Datasets: folders or URLs.")]


@app.callback(
    epilog=examples(
        "humansd evaluate --models mini run/ --data ghi --out report",
        "humansd evaluate --models controlnet:cn/ --data ghi --out report --limit 500",
        "humansd evaluate --preset paper --models sd15/ --data art --out report",
    )
)
def evaluate(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL...", help="mini, hub ids, folders, controlnet:DIR, t2i:DIR, trained models."),
    ] = None,
    data: options.Data = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Folder for images, figures and report.")] = None,
    preset: Annotated[str, typer.Option(help="mini, paper, release, or the path of a TOML file.")] = "mini",
    limit: Annotated[int | None, typer.Option(min=1, help="Samples, spread evenly; all by default.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance scale; 1 turns it off.")] = None,
    detector: Annotated[str | None, typer.Option(help="The pose detector that judges.")] = None,
    seed: options.Seed = None,
    workers: options.Workers = None,
    address: options.Address = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> int | None:
    """Compare models as HumanSD's paper does: FID, KID, AP, AP(m), CAP, PCE, CLIPSIM, seconds an image.

    Every model draws the captions and poses of the same samples with the same noise. The same command again resumes.
    """
    if context.invoked_subcommand is not None:
        return None
    if not models or not data or out is None:
        raise UserError("give --models MODEL..., --data OUT... and --out DIR, or a command (see humansd evaluate -h)")
    from pipelines.evaluate import models as runner
    from pipelines.evaluate.config import EvaluateConfig

    flags = {"limit": limit, "seed": seed, "workers": workers, "sampler.steps": steps, "sampler.guidance": guidance}
    named = [f"detector.name={detector}"] if detector else []
    config = load_config(EvaluateConfig, preset, [*options.overrides(set_, **flags), *named], "evaluate")
    found = runner.evaluate_models(models, data, out, config, address, options.say)
    if not found.lines:
        options.say(found.text)
        return found.exit_code
    if json:
        for line in found.lines:
            options.print_json(dataclasses.asdict(line))
    else:
        print(found.text)
    options.say(f"report in {out}")
    return found.exit_code


@app.command("mini", epilog=examples("humansd evaluate mini", "humansd evaluate mini --n 100 --out report"))
def evaluate_mini(
    n: Annotated[int, typer.Option("--n", min=1, help="Grammar prompts to sample.")] = 500,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("out/mini"),
    json: options.Json = False,
) -> None:
    """Measure the miniature models: people and scenes of first attempts, pose AP, seconds an image."""
    from pipelines.mini import evaluate

    figures = evaluate.run(out, prompts=n, progress=options.say)
    if json:
        options.print_json(figures)
    else:
        print(evaluate.markdown(figures))
        options.say(f"report in {out}")


@app.command("dataset", epilog=examples("humansd evaluate dataset ghi", "humansd evaluate dataset ghi laion --json"))
def evaluate_dataset(outs: Outs, json: options.Json = False) -> None:
    """What is in datasets, side by side: yield, people, coverage, diversity, duplicates, scores, what gates shift."""
    from pipelines.evaluate import dataset_text, datasets
    from pipelines.evaluate.contents import read_contents

    summaries = datasets.summarize([read_contents(out) for out in outs])
    if json:
        for one in summaries:
            options.print_json(one)
    else:
        print(dataset_text.as_text(summaries))
