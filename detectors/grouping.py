"""Associative embedding: whose keypoint is whose.

A bottom-up network gives, for each keypoint, a heatmap and a map of tags: keypoints of one person have tags close to
each other's and far from other people's (Newell et al., *Associative Embedding*, NIPS 2017). Keypoint after keypoint,
the maxima of its heatmap are matched to the people found so far, by the distance of tags; what fits nobody is a new
person. Keypoints that a person still lacks are then looked for where heat and tag fit best.

The same answers as mmpose's codec `AssociativeEmbedding`, but batched, on the maps' own device, and bounded in time
whatever the maps hold.

Shape legend: B pictures, K keypoints, M candidates a keypoint, L tags a keypoint (2 with a flip test, else 1), P
people, maps of h x w cells; a cell's index is y * w + x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

HEAD_TO_LIMBS: Final = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)
"""Keypoints in the order they are grouped in: those that tell people apart best come first."""
TAG_STEP: Final = 100.0
"""Cost of one unit of tag distance, in units of heat: tags decide first, then heat."""
FILLED_AT_ONCE: Final = 8
"""People whose missing keypoints are looked for together: bounds memory, keeps a CPU's caches warm."""
TIE: Final = 1e-6
"""Weight of the exact distance, which is otherwise rounded to whole units: it decides between equals only."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """How maps are read; the defaults are those of mmpose's configs.

    min_heat: a maximum below is no candidate. max_tag_distance: a keypoint further from a person than this is another
    person's. window: side of the square, in cells, in which a candidate is the highest. candidates: of each keypoint.
    udp: coordinates are unbiased (Huang et al. 2020), refined on the logarithm of the heat smoothed by a Gaussian of
    `blur` cells; else by a quarter cell towards the higher neighbour, and moved by `shift` cells.
    """

    udp: bool
    order: tuple[int, ...] = HEAD_TO_LIMBS
    min_heat: float = 0.1
    max_tag_distance: float = 1.0
    window: int = 5
    candidates: int = 30
    most_people: int = 30
    blur: int = 3
    shift: float = 0.0


class Candidates(NamedTuple):
    """Highest local maxima of each heatmap, best first: heat (…, K, M), tags (…, K, M, L), cell indices (…, K, M)."""

    heat: Floats
    tags: Floats
    cells: Integers


class People(NamedTuple):
    """People of one picture: cells (P, K, 2) as x, y; heat (P, K); score (P,), the mean heat of the 17 where found.

    found: bool (P, K), whether a keypoint is a candidate of its own; the others are best guesses.
    """

    places: NDArray[np.float32]
    heat: NDArray[np.float32]
    score: NDArray[np.float32]
    found: NDArray[np.bool_]


def decode(heat: Tensor, tags: Tensor, grouping: Grouping) -> list[People]:
    """Return the people of each picture, in the order they were found.

    heat: (B, K, h, w). tags: (B, L * K, h, w), all keypoints' first tags, then their second.
    """
    keypoints = heat.shape[1]
    tags = tags.unflatten(1, (-1, keypoints))
    candidates = find_candidates(heat, tags, grouping)
    return [
        _people(heat[row], tags[row], Candidates(*(part[row] for part in candidates)), grouping)
        for row in range(heat.shape[0])
    ]


def find_candidates(heat: Tensor, tags: Tensor, grouping: Grouping) -> Candidates:
    """Return the candidates of a batch. heat: (B, K, h, w). tags: (B, L, K, h, w)."""
    local = F.max_pool2d(heat, grouping.window, stride=1, padding=grouping.window // 2)
    best, cells = torch.where(heat == local, heat, 0.0).flatten(2).topk(min(grouping.candidates, local[0, 0].numel()))
    index = cells[:, None].expand(-1, tags.shape[1], -1, -1)
    own = tags.flatten(3).gather(3, index).permute(0, 2, 3, 1)
    return Candidates(best.cpu().numpy(), own.cpu().numpy(), cells.cpu().numpy())


def group(candidates: Candidates, grouping: Grouping) -> Integers:
    """Return which candidate (P, K) each person's keypoint is, -1 where they have none. One picture's candidates."""
    keypoints = candidates.heat.shape[0]
    chosen: list[Integers] = []
    tags: list[list[Floats]] = []
    for keypoint in grouping.order:
        rows = np.flatnonzero(candidates.heat[keypoint] > grouping.min_heat)
        matched = _match(candidates, keypoint, rows, tags, grouping)
        for row in rows:
            person = matched.get(int(row))
            if person is None:
                if len(chosen) == grouping.most_people:
                    continue
                person = len(chosen)
                chosen.append(np.full(keypoints, -1, np.int64))
                tags.append([])
            chosen[person][keypoint] = row
            tags[person].append(candidates.tags[keypoint, row])
    return np.array(chosen, np.int64).reshape(-1, keypoints)


def _match(
    candidates: Candidates, keypoint: int, rows: Integers, tags: list[list[Floats]], grouping: Grouping
) -> dict[int, int]:
    """Candidate → person, by the assignment of least cost; pairs too far apart are left out."""
    if not tags or not rows.size:
        return {}
    people = np.stack([np.mean(own, axis=0) for own in tags])
    offsets = candidates.tags[keypoint, rows][:, None] - people[None]
    distance = np.linalg.norm(offsets, axis=2).astype(np.float64)
    cost = np.round(distance) * TAG_STEP - candidates.heat[keypoint, rows][:, None] + TIE * distance
    pairs = zip(*linear_sum_assignment(cost), strict=True)
    return {int(rows[row]): int(person) for row, person in pairs if distance[row, person] < grouping.max_tag_distance}


def _people(heat: Tensor, tags: Tensor, candidates: Candidates, grouping: Grouping) -> People:
    """People of one picture. heat: (K, h, w). tags: (L, K, h, w)."""
    chosen = group(candidates, grouping)
    found = chosen >= 0
    every = np.arange(chosen.shape[1])
    score = np.where(found, candidates.heat[every, chosen], 0).mean(1).astype(np.float32)
    own = np.where(found[..., None], candidates.tags[every, chosen], 0).sum(1) / found.sum(1, keepdims=True)
    cells = np.where(found, candidates.cells[every, chosen], 0)
    index = _fill(heat, tags, torch.from_numpy(cells), torch.from_numpy(found), torch.from_numpy(own))
    confidence = heat.flatten(1).gather(1, index.T).T
    places = _refine(heat, index, torch.from_numpy(found).to(heat.device), grouping)
    return People(places.cpu().numpy(), confidence.cpu().numpy(), score, found)


def _fill(heat: Tensor, tags: Tensor, cells: Tensor, found: Tensor, own: Tensor) -> Tensor:
    """Cell indices (P, K) with those not found set to where heat and the person's own tags (P, L) fit best."""
    cells, own = cells.to(heat.device), own.to(heat)
    flat_heat, flat_tags = heat.flatten(1), tags.flatten(2)
    for keypoint in torch.nonzero(~found.all(0)).flatten().tolist():
        lacking = torch.nonzero(~found[:, keypoint]).flatten().to(heat.device)
        for some in lacking.split(FILLED_AT_ONCE):
            distance = _distance(flat_tags[:, keypoint], own[some])
            cells[some, keypoint] = distance.round_().mul_(TAG_STEP).sub_(flat_heat[keypoint]).argmin(1)
    return cells


def _distance(tags: Tensor, own: Tensor) -> Tensor:
    """Distance (P, h * w) of every cell's tags (L, h * w) to each person's (P, L)."""
    squares: list[Tensor] = [
        (of_cells - of_people[:, None]).square_() for of_cells, of_people in zip(tags, own.T, strict=True)
    ]
    for more in squares[1:]:
        squares[0] += more
    return squares[0].sqrt_()


def _refine(heat: Tensor, index: Tensor, found: Tensor, grouping: Grouping) -> Tensor:
    """Places (P, K, 2) between cells; where nothing was found only unbiased maps are refined, as in mmpose."""
    height, width = heat.shape[-2:]
    columns, rows = index % width, index // width
    places = torch.stack((columns, rows), dim=-1).float()
    if grouping.udp:
        return places - _newton_step(heat, columns, rows, grouping.blur)
    at = _reader(heat, columns, rows)
    inside_x = (columns > 1) & (columns < width - 1) & (rows > 0)
    inside_y = (rows > 1) & (rows < height - 1) & (columns > 0)
    dx = torch.where(inside_x, at(1, 0) - at(-1, 0), 0.0)
    dy = torch.where(inside_y, at(0, 1) - at(0, -1), 0.0)
    step = torch.stack((dx, dy), dim=-1).sign() * 0.25 + grouping.shift
    return places + step * found[..., None]


def _reader(maps: Tensor, columns: Tensor, rows: Tensor) -> Callable[[int, int], Tensor]:
    """Return a function that reads maps (K, h, w) a step (x, y) beside cells (P, K), the maps' edges held: (P, K)."""
    height, width = maps.shape[-2:]

    def at(x: int, y: int) -> Tensor:
        index = (rows + y).clamp(0, height - 1) * width + (columns + x).clamp(0, width - 1)
        return maps.flatten(1).gather(1, index.T).T

    return at


def _newton_step(heat: Tensor, columns: Tensor, rows: Tensor, blur: int) -> Tensor:
    """Step (P, K, 2), at most a cell each way, from a cell back to the top of the logarithm of the smoothed heat.

    DARK for unbiased data (Zhang et al. 2020, Huang et al. 2020), smoothed as mmpose 0.x does.
    """
    at = _reader(_smooth(heat, blur).clamp(1e-3, 50.0).log().double(), columns, rows)
    here, left, right, above, below = at(0, 0), at(-1, 0), at(1, 0), at(0, -1), at(0, 1)
    slope = torch.stack((right - left, below - above), dim=-1) / 2
    dxx, dyy = right - 2 * here + left, below - 2 * here + above
    dxy = (at(1, 1) - right - below + 2 * here - left - above + at(-1, -1)) / 2
    hessian = torch.stack((dxx, dxy, dxy, dyy), dim=-1).unflatten(-1, (2, 2))
    hessian = hessian + torch.finfo(torch.float32).eps * torch.eye(2, dtype=hessian.dtype, device=heat.device)
    step: Tensor = torch.linalg.solve(hessian, slope)
    return step.float().clamp(-1, 1)


def _smooth(heat: Tensor, size: int) -> Tensor:
    """Gaussian blur of maps (K, h, w), mirrored at the edges."""
    kernel = torch.from_numpy(cv2.getGaussianKernel(size, 0)).to(heat).flatten()
    padded = F.pad(heat[:, None], (size // 2,) * 4, mode="reflect")
    return F.conv2d(padded, torch.outer(kernel, kernel)[None, None])[:, 0]
