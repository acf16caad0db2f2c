"""How good the miniature models are: what `humansd evaluate mini` measures.

Samples are first attempts before any gate. The judges, mini-pose and mini-CLIP, were trained on drawn pictures only,
and the seeds here are none that any training used. mini-mm is measured too where mmdet and mmpose are installed.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detectors import load_detector
from detectors.types import Person
from pipelines.checkpoint import resolve
from pipelines.clip import ClipScorer, unit
from pipelines.config import load_config
from pipelines.evaluate.keypoints import KeypointScores, evaluate_people
from pipelines.ghi.config import GhiConfig
from pipelines.mini.render import draw
from pipelines.mini.train.captions import Captions
from pipelines.mini.world import SCENES, random_world, world_from_prompt
from pipelines.sampling import Sampler, noise_seed
from prompts.grammar import load_grammar
from prompts.sampling import Prompt, prompt_at

PROMPT_SEED: Final = 90_001
PROTOTYPE_SEED: Final = 90_002
DRAWING_SEED: Final = 90_003
PROTOTYPES: Final = 24
"""Grammar sentences a scene whose mean text embedding stands for the scene."""

Images = list[NDArray[np.uint8]]
Progress = Callable[[str], None]


def run(out: Path, prompts: int = 500, drawings: int = 1000, progress: Progress = lambda _: None) -> dict[str, Any]:
    """Measure all miniature models, write `mini.json`, `mini.md` and `mini.png` under `out`, return the figures.

    prompts: grammar prompts that are sampled once each; drawings: held-out drawn pictures for mini-pose and mini-mm.
    """
    out.mkdir(parents=True, exist_ok=True)
    scorer = ClipScorer()
    scenes = scene_prototypes(scorer)
    progress(f"pose detectors on {drawings} drawn pictures")
    poses = {
        f"{name.replace('-', '_')}{'_wide' if wide else ''}": asdict(judge_pose(name, drawings, wide=wide))
        for name in pose_detectors()
        for wide in (False, True)
    }
    progress("mini-CLIP on drawn pictures")
    drawn = judge_clip(scorer, scenes)
    asked = [prompt_at(load_grammar(), PROMPT_SEED, index) for index in range(prompts)]
    progress(f"sampling {prompts} prompts")
    images, seconds = sample(asked)
    progress("counting people and telling scenes")
    found = {name: load_detector(name).detect(images) for name in pose_detectors()}
    counts = np.array([len(people) for people in found["mini-pose"]])
    wanted = np.array([prompt.num_people for prompt in asked])
    told = np.array([SCENES[i] for i in (scorer.images(images) @ scenes.T).argmax(1)])
    figures: dict[str, Any] = {
        "prompts": prompts,
        "right_number": float((counts == wanted).mean()),
        "right_number_by_people": {int(n): float((counts == wanted)[wanted == n].mean()) for n in np.unique(wanted)},
        **second_opinion(found, wanted),
        "right_scene": float(np.mean([told[i] == prompt.scene for i, prompt in enumerate(asked)])),
        "clip_score": float(scorer.score(images, [prompt.text for prompt in asked]).mean()),
        "seconds_per_image": seconds,
        **poses,
        "mini_clip_drawn": drawn,
    }
    (out / "mini.json").write_text(json.dumps(figures, indent=2) + "\n")
    (out / "mini.md").write_text(markdown(figures))
    write_grid(out / "mini.png", asked, images)
    return figures


def sample(asked: list[Prompt]) -> tuple[Images, float]:
    """Sample each prompt's first attempt under the bundled `mini` config; images and seconds an image."""
    config = load_config(GhiConfig, "mini", [])
    sampler = Sampler(resolve(config.model), config.sampler)
    size = config.sampler.batch_size
    images: Images = []
    sampler.sample(["a warm-up"], [""], [0])
    started = time.perf_counter()
    for batch in batches(asked, size):
        seeds = [noise_seed(prompt.seed, prompt.index, prompt.attempt) for prompt in batch]
        images += sampler.sample([p.text for p in batch], [p.negative for p in batch], seeds)
    return images, (time.perf_counter() - started) / len(asked)


def batches(items: list[Prompt], size: int) -> Iterator[list[Prompt]]:
    """Cut a list into runs of `size`, the last one shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def scene_prototypes(scorer: ClipScorer) -> NDArray[np.float32]:
    """One unit text embedding a scene, in the order of `SCENES`: (14, D)."""
    grammar = load_grammar()
    sentences: dict[str, list[str]] = {scene: [] for scene in SCENES}
    index = 0
    while any(len(texts) < PROTOTYPES for texts in sentences.values()):
        prompt = prompt_at(grammar, PROTOTYPE_SEED, index)
        sentences[prompt.scene].append(prompt.text)
        index += 1
    means = [scorer.texts(texts[:PROTOTYPES]).mean(0) for texts in sentences.values()]
    return unit(np.stack(means))


def pose_detectors() -> tuple[str, ...]:
    """The detectors that know the drawn world; mini-mm needs mmdet and mmpose."""
    installed = importlib.util.find_spec("mmdet") and importlib.util.find_spec("mmpose")
    return ("mini-pose", "mini-mm") if installed else ("mini-pose",)


def second_opinion(found: dict[str, list[tuple[Person, ...]]], wanted: NDArray[np.int64]) -> dict[str, Any]:
    """What mini-mm, trained apart from mini-pose, sees in the samples; nothing where it is not installed.

    right_number_mini_mm: samples with the asked number of people. joints_agree: AP (OKS .50:.95) of its poses against
    mini-pose's: how clear it is where joints are, which is low where limbs are rough.
    """
    if "mini-mm" not in found:
        return {}
    counts = np.array([len(people) for people in found["mini-mm"]])
    agreement = evaluate_people(found["mini-pose"], found["mini-mm"], 64)
    return {"right_number_mini_mm": float((counts == wanted).mean()), "joints_agree": agreement.ap}


def judge_pose(name: str, count: int, wide: bool) -> KeypointScores:
    """Compare a detector with what was drawn, on `count` held-out pictures of which one in twelve shows nobody.

    wide: figures bent and turned any way, half over the edge and one before the other, which no prompt asks for.
    """
    drawings = []
    for index in range(count):
        rng = np.random.default_rng((DRAWING_SEED, index))
        drawings.append(draw(replace(random_world(rng), wide=wide), rng))
    found = load_detector(name).detect([drawing.image for drawing in drawings])
    return evaluate_people([drawing.people for drawing in drawings], found, 64)


def judge_clip(scorer: ClipScorer, scenes: NDArray[np.float32], count: int = 500) -> dict[str, float]:
    """Scene accuracy, and top-1 retrieval of the own caption among 64, on held-out drawn pictures of prompts."""
    captions = Captions(load_grammar(), DRAWING_SEED)
    images, texts, names = [], [], []
    for index in range(count):
        prompt, _ = captions.at(index)
        world = world_from_prompt(prompt, captions.pose_of)
        images.append(draw(world, np.random.default_rng((DRAWING_SEED, count, index))).image)
        texts.append(prompt.text)
        names.append(prompt.scene)
    seen, read = scorer.images(images), scorer.texts(texts)
    told = [SCENES[i] for i in (seen @ scenes.T).argmax(1)]
    right = [
        (seen[s : s + 64] @ read[s : s + 64].T).argmax(1) == np.arange(len(seen[s : s + 64]))
        for s in range(0, count - 63, 64)
    ]
    return {
        "scene": float(np.mean([a == b for a, b in zip(told, names, strict=True)])),
        "caption_of_64": float(np.concatenate(right).mean()),
    }


def markdown(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    drawn = figures["mini_clip_drawn"]
    by_people = ", ".join(f"{n}: {share:.1%}" for n, share in figures["right_number_by_people"].items())
    rows = [
        (
            f"samples with the asked number of people (mini-pose, {figures['prompts']} prompts)",
            f"{figures['right_number']:.1%}",
        ),
        ("… by number asked", by_people),
        *opinion_rows(figures),
        ("samples in the asked scene (mini-CLIP)", f"{figures['right_scene']:.1%}"),
        ("CLIP score of samples", f"{figures['clip_score']:.1f}"),
        ("seconds an image", f"{figures['seconds_per_image']:.2f}"),
        *(row for name in ("mini-pose", "mini-mm") for row in pose_rows(name, figures)),
        ("mini-CLIP scene of drawn pictures", f"{drawn['scene']:.1%}"),
        ("mini-CLIP own caption among 64", f"{drawn['caption_of_64']:.1%}"),
    ]
    return "| measured | value |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def opinion_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """What mini-mm sees in the samples; nothing where it is not installed."""
    if "right_number_mini_mm" not in figures:
        return []
    return [
        ("… by mini-mm", f"{figures['right_number_mini_mm']:.1%}"),
        ("joints of samples, mini-mm against mini-pose, AP (OKS .50:.95)", f"{figures['joints_agree']:.3f}"),
    ]


def pose_rows(name: str, figures: dict[str, Any]) -> list[tuple[str, str]]:
    """What was measured of a pose detector; nothing where it was not."""
    key = name.replace("-", "_")
    if key not in figures:
        return []
    pose, wide = figures[key], figures[f"{key}_wide"]
    return [
        (f"{name} AP (OKS .50:.95) on {pose['pictures']} drawn pictures", f"{pose['ap']:.3f}"),
        (f"{name} false people", f"{pose['false_people']:.1%}"),
        (f"{name} right number of people", f"{pose['count_accuracy']:.1%}"),
        (f"{name} left/right exchanged", f"{pose['swap_rate']:.1%}"),
        (f"{name} AP on figures bent and turned any way, overlapping, cut off", f"{wide['ap']:.3f}"),
    ]


def write_grid(path: Path, asked: list[Prompt], images: Images, columns: int = 10) -> None:
    """Write a picture of the first samples of each scene, one scene a row, twice enlarged."""
    import cv2

    rows = []
    for scene in SCENES:
        own = [image for prompt, image in zip(asked, images, strict=True) if prompt.scene == scene][:columns]
        if not own:
            continue
        own += [np.full_like(own[0], 255)] * (columns - len(own))
        rows.append(np.hstack([cv2.resize(image, (128, 128), interpolation=cv2.INTER_CUBIC) for image in own]))
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])
