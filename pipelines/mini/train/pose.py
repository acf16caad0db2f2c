"""Train `mini-pose` on drawn figures: `python -m pipelines.mini.train pose --run DIR`.

Continues from DIR/state.pt where it exists (optimizer included), appends to results/pose_curve.tsv, writes
DIR/mini_pose.safetensors (averaged weights, float16); copy that beside detectors/mini.py to ship it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from detectors.heatmap import find_peaks, gaussian_heatmaps, to_pixels
from detectors.mini import MiniPose
from detectors.mini_net import STRIDE, Maps, MiniPoseNet, Poses, torso_centers
from detectors.types import NUM_KEYPOINTS, OKS_SIGMAS, Person
from pipelines.evaluate.keypoints import KeypointScores, evaluate_people
from pipelines.mini.render import draw
from pipelines.mini.train.common import (
    RESULTS,
    Average,
    Log,
    average_gradients,
    cosine,
    launch,
    load_state,
    parser,
    save_state,
    start,
)
from pipelines.mini.train.pose_data import Batch, Drawings, Image
from pipelines.mini.world import random_world

HELD_OUT_SEED: Final = 987_654_321
"""Seed of the pictures that judge the detector; trainings use their own --seed plus the process number."""
SAVE_EVERY: Final = 250
"""Steps between two savings of the state, with a small measurement."""
PEAKS: Final = 3
"""Maxima of the net's own centre map that are learnt from besides the true centres."""
NEAR: Final = 4.0
"""Pixels within which such a maximum stands for the person whose centre is there."""
JITTER: Final = 0.8
"""Pixels (standard deviation) by which true centres are moved, as found ones are."""
STAGES: Final = (0.15, 0.35, 0.5)
"""Weights of the coarse guess and of the two refinements."""


def main(argv: list[str]) -> None:
    """Train, or with --evaluate N only measure the weights in --run on N held-out pictures."""
    options = parser("Train mini-pose on drawn figures.", samples=130_000, batch=32, rate=2e-3)
    options.add_argument("--fresh", type=float, default=0.45, help="share of each batch that is newly drawn")
    options.add_argument("--kept", type=int, default=60_000, help="drawn pictures kept for re-use (12 KB each)")
    options.add_argument("--evaluate", type=int, default=0, help="only measure on so many held-out pictures")
    args = options.parse_args(argv)
    if args.evaluate:
        torch.set_num_threads(1)
        for name, wide in (("as-prompts-ask", False), ("any-way", True)):
            print(name, report(evaluate_weights(_weights(args.run), args.evaluate, wide)))
        return
    launch(train, args)


def train(rank: int, args: argparse.Namespace) -> None:
    """One process of the training; process 0 logs and saves."""
    torch.manual_seed(args.seed)
    net = MiniPoseNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    start(net, args.start)
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.rate, betas=(0.9, 0.99), weight_decay=0.02)
    average = Average(net, 0.998)
    step, samples = 0, 0
    state = load_state(args.run / "state.pt")
    if state is not None:
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        average.shadow = state["average"]
        step, samples = state["step"], state["samples"]
    steps = max(1, args.samples // args.batch)
    drawings = Drawings(args.seed * 1000 + rank + 17 * samples, args.kept // args.processes, args.fresh)
    log = Log(RESULTS / "pose_curve.tsv")
    begin = time.monotonic()
    torch.manual_seed(args.seed * 1000 + rank + samples)
    while step < steps and time.monotonic() - begin < 60 * args.minutes:
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, args.rate)
        losses = train_step(net, drawings.batch(args.batch // args.processes))
        optimizer.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        average_gradients(net.parameters(), args.processes)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        average.update(step)
        samples += args.batch
        if rank == 0:
            log.add(step, args.seen + samples, **{name: float(value.detach()) for name, value in losses.items()})
        step += 1
        if rank == 0 and (step % SAVE_EVERY == 0 or step == steps):
            keep(args.run, net, optimizer, average, step, samples)
            print(
                f"{samples} {time.monotonic() - begin:.0f}s",
                report(evaluate_weights(_weights(args.run), 200)),
                flush=True,
            )
    if rank == 0:
        keep(args.run, net, optimizer, average, step, samples)


def _weights(run: Path) -> Path:
    return run / "mini_pose.safetensors"


def keep(
    run: Path, net: MiniPoseNet, optimizer: torch.optim.Optimizer, average: Average, step: int, samples: int
) -> None:
    """Save what continues the training, and the averaged weights as they ship."""
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "average": average.shadow}
    save_state(run / "state.pt", state | {"step": step, "samples": samples})
    shipped = {name: value.half().contiguous() for name, value in average.shadow.items() if value.is_floating_point()}
    save_file(shipped, str(_weights(run)))
    _weights(run).chmod(0o644)


def train_step(net: MiniPoseNet, batch: Batch) -> dict[str, Tensor]:
    """Forward a batch and return its weighted losses by name."""
    images = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    keypoints, areas = torch.from_numpy(batch.keypoints), torch.from_numpy(batch.areas)
    height, width = images.shape[-2:]
    centers = torso_centers(keypoints, height, width)
    with torch.autocast("cpu", torch.bfloat16):
        maps = net.maps(images.contiguous(memory_format=torch.channels_last))
        queries, owner, weight = choose_queries(maps, centers, areas > 0)
        poses = net.poses(maps, queries)
    return map_losses(maps, keypoints, centers, areas) | pose_losses(poses, keypoints, areas, owner, weight)


def choose_queries(maps: Maps, centers: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where to ask for people: true centres, a little moved, and the net's own best maxima.

    Returns places (B, Q, 2) px, owner (B, Q): index of the person meant or -1 for nobody, weight (B, Q): 0 where the
    question is void.
    """
    heat, cells = find_peaks(maps.centers.detach().sigmoid(), PEAKS)
    peaks = to_pixels(cells[:, 0], STRIDE)
    distance = torch.cdist(peaks, centers).masked_fill(~present[:, None], 1e6)
    nearest, person = distance.min(-1)
    owner = torch.where(nearest < NEAR, person, -1)
    moved = centers + JITTER * torch.randn_like(centers)
    own = torch.arange(centers.shape[1]).expand(len(centers), -1)
    places = torch.cat((moved, peaks), dim=1)
    weight = torch.cat((present.float(), (heat[:, 0] > 0.02).float()), dim=1)
    return places, torch.cat((own, owner), dim=1), weight


def map_losses(maps: Maps, keypoints: Tensor, centers: Tensor, areas: Tensor) -> dict[str, Tensor]:
    """Centre and keypoint heatmaps: cross-entropy weighted by the squared error (quality focal loss, Li 2020)."""
    height, width = maps.centers.shape[-2:]
    points = torch.cat((centers, (areas > 0).float()[..., None]), dim=-1)[:, :, None]
    wanted_centers = torch.stack([gaussian_heatmaps(p, height, width, STRIDE, 0.9) for p in points])
    wanted_joints = torch.stack([gaussian_heatmaps(p, height, width, STRIDE, 0.9) for p in keypoints])
    people = (areas > 0).sum().clamp_min(1)
    return {
        "centers": quality_focal(maps.centers, wanted_centers).sum() / people,
        "joints": 0.5 * quality_focal(maps.joints, wanted_joints).sum() / (people * NUM_KEYPOINTS),
    }


def quality_focal(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy with targets in [0, 1], times the squared error of the probability; same shape."""
    focus = (logits.sigmoid() - target) ** 2
    return 4 * focus * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def pose_losses(poses: Poses, keypoints: Tensor, areas: Tensor, owner: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Keypoints in units of the OKS spread, who is seen, who is a person, and how good the pose will be.

    The first guess pays for distance; the refinements pay a logarithm of its square, which near the truth is OKS's own
    exponent and far from it hardly grows: where left and right are in doubt, it is better to choose than to go between.
    """
    real = weight * (owner >= 0)
    index = owner.clamp_min(0)
    wanted = keypoints.gather(1, index[..., None, None].expand(-1, -1, NUM_KEYPOINTS, 3))
    area = areas.gather(1, index).clamp_min(30.0)
    spread = area.sqrt()[..., None] * 2 * torch.tensor(OKS_SIGMAS)
    known = (wanted[..., 2] > 0).float() * real[..., None]
    total = known.sum().clamp_min(1)
    losses = {}
    for name, share, places in zip(("coarse", "refined", "final"), STAGES, poses.stages, strict=True):
        error = ((places - wanted[..., :2]) ** 2).sum(-1) / spread**2
        cost = (1 + error).sqrt() - 1 if name == "coarse" else torch.log1p(error / 2)
        losses[name] = share * (cost * known).sum() / total
    oks = (torch.exp(-error.detach() / 2) * known).sum(-1) / known.sum(-1).clamp_min(1)
    confidence = F.binary_cross_entropy_with_logits(poses.confidence, wanted[..., 2].clamp(0, 1), reduction="none")
    losses["confidence"] = 0.5 * (confidence * real[..., None]).sum() / (real.sum() * NUM_KEYPOINTS).clamp_min(1)
    person = F.binary_cross_entropy_with_logits(poses.person, (owner >= 0).float(), reduction="none")
    losses["person"] = 0.5 * (person * weight).sum() / weight.sum().clamp_min(1)
    quality = F.binary_cross_entropy_with_logits(poses.quality, oks, reduction="none")
    losses["quality"] = 0.2 * (quality * real).sum() / real.sum().clamp_min(1)
    return losses


def evaluate_weights(weights: Path, pictures: int, wide: bool | None = None) -> KeypointScores:
    """Measure weights on pictures no training has drawn; wide: see `held_out`."""
    images, truth = held_out(pictures, wide)
    return evaluate_people(truth, MiniPose(weights).detect(images), images[0].shape[0])


def held_out(pictures: int, wide: bool | None = None) -> tuple[list[Image], list[tuple[Person, ...]]]:
    """Pictures with 0-3 people, and who is in them; picture i is the same whatever the number.

    wide: True for figures bent, turned, sized and overlapping in any way, False for those that prompts ask for, None
    for a mixture.
    """
    drawings = []
    for index in range(pictures):
        rng = np.random.default_rng((HELD_OUT_SEED, index))
        world = random_world(rng)
        drawings.append(draw(world if wide is None else replace(world, wide=wide), rng))
    return [drawing.image for drawing in drawings], [drawing.people for drawing in drawings]


def report(scores: KeypointScores) -> str:
    """Scores on one line."""
    return " ".join(
        f"{name}={value:.3f}" if isinstance(value, float) else f"{name}={value}"
        for name, value in asdict(scores).items()
    )
