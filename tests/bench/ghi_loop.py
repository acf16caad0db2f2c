"""The bare loop that the job is compared with: diffusers, the detector and a Parquet file, in one process.

`python -m tests.bench.ghi_loop OUT.parquet CONFIG START STOP [--set …]` fills the slots START … STOP-1 with the
same prompts, noise, gates and retries as the job, without engine, markers, ledger or resume. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from numpy.typing import NDArray

from detectors import load_detector
from pipelines.checkpoint import resolve
from pipelines.clip import ClipScorer
from pipelines.config import load_config
from pipelines.gates import judge, measure
from pipelines.ghi.config import GhiConfig
from pipelines.images import encode_image
from pipelines.safety import SafetyScorer
from pipelines.sampling import noise_seed
from prompts.grammar import load_grammar
from prompts.sampling import Prompt, prompt_at


def main(arguments: list[str]) -> None:
    """Fill the slots, write them, print what it took."""
    out, name, start, stop, *overrides = arguments
    config = load_config(GhiConfig, name, overrides)
    torch.set_num_threads(config.sampler.threads)
    pipe = StableDiffusionPipeline.from_pretrained(
        resolve(config.model).folder(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    if config.sampler.channels_last:
        pipe.unet.to(memory_format=torch.channels_last)
    detector = load_detector(config.detector.name, batch_size=config.detector.batch_size)
    safety = SafetyScorer(config.sampler.threads) if config.gates.max_nsfw is not None else None
    clip = ClipScorer() if config.score.clip_model == "mini" else None
    grammar = load_grammar(config.grammar.dir, config.grammar.scenes)
    began = time.perf_counter()
    queue = deque((slot, 1) for slot in range(int(start), int(stop)))
    rows, sampled = [], 0
    while queue:
        batch = [queue.popleft() for _ in range(min(len(queue), config.sampler.batch_size))]
        prompts = [prompt_at(grammar, config.seed, slot, attempt) for slot, attempt in batch]
        images = _draw(pipe, config, prompts)
        sampled += len(batch)
        scores = safety.scores(images) if safety else [0.0] * len(images)
        clip_scores = clip.score(images, [prompt.text for prompt in prompts]) if clip else [None] * len(images)
        for (slot, attempt), prompt, image, people, nsfw, clip_score in zip(
            batch, prompts, images, detector.detect(images), scores, clip_scores, strict=True
        ):
            measured = measure(image, people, config.gates) | {"nsfw": nsfw, "clip_score": clip_score}
            if judge(measured, prompt.num_people, config.gates) is None:
                poses = [person.keypoints.ravel() for person in people]
                data = encode_image(image, config.output.format, config.output.quality)
                rows.append({"key": str(slot), "image": data, "caption": prompt.text, "poses": poses})
            elif attempt < config.max_attempts:
                queue.append((slot, attempt + 1))
    pq.write_table(pa.Table.from_pylist(rows), out)
    print(json.dumps({"accepted": len(rows), "sampled": sampled, "seconds": time.perf_counter() - began}))


def _draw(pipe: StableDiffusionPipeline, config: GhiConfig, prompts: list[Prompt]) -> list[NDArray[np.uint8]]:
    images = pipe(
        prompt=[prompt.text for prompt in prompts],
        negative_prompt=[prompt.negative for prompt in prompts],
        generator=[torch.Generator().manual_seed(noise_seed(p.seed, p.index, p.attempt)) for p in prompts],
        num_inference_steps=config.sampler.steps,
        guidance_scale=config.sampler.guidance,
        output_type="np",
    ).images
    return list((images * 255).round().astype(np.uint8))


if __name__ == "__main__":
    main(sys.argv[1:])
