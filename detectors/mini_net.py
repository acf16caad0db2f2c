"""The network behind `mini-pose`: people as points, poses moved into place joint by joint.

A small convolutional net reads the picture at a half, a quarter and an eighth of its size and gives, at the half, a
heatmap of people's centres and one of each keypoint. At every centre a first guess of the 17 keypoints is read off;
then, twice, the features at each guessed keypoint are read, the 17 exchange what they saw (self-attention), and each
moves to those maxima of its heatmap that fit its person. So the heatmaps give the places, the whole body says whose
they are and which is left and right, and a hidden joint stays where the others put it.

Kin: CenterNet (Zhou 2019) for centres, DEKR (Geng 2021) and PETR (Shi 2022) for reading features at the joints.

Shape legend: B images, Q people asked about per image, K = 17 keypoints, C features, h x w half the picture's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.heatmap import find_peaks, sample_at, to_cells, to_pixels
from detectors.types import FLIP_SWAP, NUM_KEYPOINTS

STRIDE: Final = 2
MULTIPLE: Final = 8
"""Pictures' sides must be a multiple of this."""
REACH: Final = 16.0
"""Pixels that one unit of the network's coarse offsets stands for."""
CANDIDATES: Final = 4
"""Maxima of each keypoint's heatmap that a person's keypoint may be moved to."""
STEP: Final = 4.0
"""Pixels that one unit of a refinement stands for."""


@dataclass(frozen=True, slots=True)
class Maps:
    """fine, quarter, eighth: features (B, C, …) at a half, a quarter, an eighth of the size. centers: logits
    (B, 1, h, w). joints: logits (B, 17, h, w)."""

    fine: Tensor
    quarter: Tensor
    eighth: Tensor
    centers: Tensor
    joints: Tensor


@dataclass(frozen=True, slots=True)
class Poses:
    """Poses at Q centres. stages: keypoints (B, Q, 17, 2) in pixels, coarse first, the last is the answer.

    confidence: logits (B, Q, 17), seen 1, hidden 0.5, outside 0. person: logits (B, Q) of being a person at all.
    quality: logits (B, Q) of the expected OKS.
    """

    stages: tuple[Tensor, ...]
    confidence: Tensor
    person: Tensor
    quality: Tensor


def conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class Mixer(nn.Module):
    """One pre-norm transformer layer over the 17 keypoints of each person."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.inwards = nn.Linear(width, 3 * width)
        self.outwards = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (people, 17, C) → the same shape."""
        people, count, width = x.shape
        query, key, value = (
            self.inwards(self.before(x)).view(people, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        weights = (query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5).softmax(-1)
        x = x + self.outwards((weights @ value).transpose(1, 2).reshape(people, count, width))
        out: Tensor = x + self.mlp(self.between(x))
        return out


@dataclass(frozen=True, slots=True)
class Candidates:
    """The best maxima of each keypoint's heatmap, and of its mirror keypoint's: N places a keypoint may be moved to.

    places: (B, 17, N, 2) px. strength: (B, 17, N), logarithm of the heat. features: (B, 17, N, C).
    """

    places: Tensor
    strength: Tensor
    features: Tensor


class Refiner(nn.Module):
    """Reads the features under each guessed keypoint, lets a person's keypoints talk, and moves them.

    A keypoint moves to a mean of its candidates, weighted by how well each fits, and from there by a learnt step. A
    candidate fits by its features, its heat, its distance from the guess and by where its own features say the middle
    of its person is.
    """

    def __init__(self, features: int, width: int, layers: int) -> None:
        super().__init__()
        self.look = nn.Linear(features, width)
        self.place = nn.Linear(2, width)
        self.layers = nn.Sequential(*(Mixer(width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.move = nn.Linear(width, 2)
        self.ask = nn.Linear(width, width + 3)
        self.answer = nn.Linear(features, width + 2)
        self.mirror = nn.Linear(width, 1)

    def forward(
        self, fine: Tensor, centers: Tensor, candidates: Candidates, guess: Tensor, token: Tensor
    ) -> tuple[Tensor, Tensor]:
        """guess: (B, Q, 17, 2) px, token: (B, Q, 17, C) → both moved on. centers: (B, Q, 2) px."""
        batch, queries, count = guess.shape[:3]
        seen = sample_at(fine, to_cells(guess, STRIDE).reshape(batch, queries * count, 2))
        seen = seen.view(batch, queries, count, -1)
        where = (guess - centers[:, :, None]) / REACH
        token = token + self.look(seen) + self.place(where)
        token = self.layers(token.reshape(batch * queries, count, -1)).view(token.shape)
        out = self.norm(token)
        picked = self._pick(centers, candidates, guess, out)
        return picked + STEP * self.move(out).float(), token

    def _pick(self, centers: Tensor, candidates: Candidates, guess: Tensor, out: Tensor) -> Tensor:
        """Mean of the guess and the candidates, by fit: (B, Q, 17, 2)."""
        question, stay, near, home = self.ask(out).float().split((out.shape[-1], 1, 1, 1), dim=-1)
        answer, middle = self.answer(candidates.features).float().split((out.shape[-1], 2), dim=-1)
        fit = torch.einsum("bqkc,bknc->bqkn", question, answer) * out.shape[-1] ** -0.5
        places = candidates.places[:, None]
        from_guess = ((places - guess[:, :, :, None]) / STEP).square().sum(-1)
        from_home = ((places + REACH * middle[:, None] - centers[:, :, None, None]) / STEP).square().sum(-1)
        fit = fit + candidates.strength[:, None] - F.softplus(near) * from_guess - F.softplus(home) * from_home
        half = fit.shape[-1] // 2  # the second half are the mirror keypoint's
        fit = torch.cat((fit[..., :half], fit[..., half:] + self.mirror(out).float(), stay), dim=-1)
        weights = fit.softmax(-1)
        steps = torch.cat((places - guess[:, :, :, None], torch.zeros_like(guess)[:, :, :, None]), dim=3)
        return guess + (weights[..., None] * steps).sum(3)


class MiniPoseNet(nn.Module):
    """See the module's docstring. Pictures: (B, 3, H, W) float in [-1, 1], H and W multiples of `MULTIPLE`."""

    def __init__(self, widths: tuple[int, int, int] = (48, 96, 112), fine: int = 64, token: int = 64) -> None:
        super().__init__()
        half, quarter, eighth = widths
        self.to_half = nn.Sequential(conv(3 * STRIDE**2, half), Residual(half))
        self.to_quarter = nn.Sequential(conv(half, quarter, stride=2), Residual(quarter), Residual(quarter))
        self.to_eighth = nn.Sequential(conv(quarter, eighth, stride=2), Residual(eighth), Residual(eighth))
        self.from_eighth = conv(eighth, quarter, kernel=1)
        self.quarter_up = Residual(quarter)
        self.from_quarter = conv(quarter, fine, kernel=1)
        self.from_half = conv(half, fine, kernel=1)
        self.half_up = Residual(fine)
        self.heat = nn.Sequential(conv(fine, fine), nn.Conv2d(fine, 1 + NUM_KEYPOINTS, 1))
        self.summary = nn.Sequential(nn.Linear(fine + quarter + eighth, 3 * token), nn.GELU())
        self.first_guess = nn.Linear(3 * token, NUM_KEYPOINTS * 2)
        self.who = nn.Linear(3 * token, token)
        self.which = nn.Parameter(torch.randn(NUM_KEYPOINTS, token) * 0.5)
        self.refiners = nn.ModuleList([Refiner(fine, token, layers=2), Refiner(fine, token, layers=1)])
        self.token_norm = nn.LayerNorm(token)
        self.confidence = nn.Linear(token, 1)
        self.person = nn.Linear(token, 2)
        last = self.heat[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.constant_(last.bias, -4.0)  # heat is rare: start from "nothing here"

    def maps(self, images: Tensor) -> Maps:
        """Everything that is computed once a picture."""
        half = self.to_half(F.pixel_unshuffle(images, STRIDE))
        quarter = self.to_quarter(half)
        eighth = self.to_eighth(quarter)
        quarter = self.quarter_up(quarter + F.interpolate(self.from_eighth(eighth), scale_factor=2.0))
        up = F.interpolate(self.from_quarter(quarter), scale_factor=2.0)
        fine = self.half_up(self.from_half(half) + up)
        heat = self.heat(fine).float()
        return Maps(fine.float(), quarter.float(), eighth.float(), heat[:, :1], heat[:, 1:])

    def poses(self, maps: Maps, centers: Tensor) -> Poses:
        """Poses of the people at centers (B, Q, 2), pixels."""
        batch, queries = centers.shape[:2]
        levels = ((maps.fine, STRIDE), (maps.quarter, 2 * STRIDE), (maps.eighth, 4 * STRIDE))
        around = torch.cat([sample_at(level, to_cells(centers, stride)) for level, stride in levels], dim=-1)
        summary = self.summary(around)
        start = self.first_guess(summary).float().view(batch, queries, NUM_KEYPOINTS, 2)
        guess = centers[:, :, None] + REACH * start
        token = self.who(summary)[:, :, None] + self.which
        candidates = find_candidates(maps)
        stages = [guess]
        for refiner in self.refiners:
            guess, token = refiner(maps.fine, centers, candidates, guess.detach(), token)
            stages.append(guess)
        token = self.token_norm(token)
        person, quality = self.person(token.mean(2)).float().unbind(-1)
        return Poses(tuple(stages), self.confidence(token)[..., 0].float(), person, quality)


def find_candidates(maps: Maps) -> Candidates:
    """The maxima of every keypoint's heat, then those of its mirror keypoint."""
    heat, cells = find_peaks(maps.joints.detach().sigmoid(), CANDIDATES)
    batch, count, number = heat.shape
    features = sample_at(maps.fine, cells.reshape(batch, count * number, 2)).view(batch, count, number, -1)
    swap = list(FLIP_SWAP)
    places = to_pixels(cells, STRIDE)
    strength = heat.clamp_min(1e-4).log()
    return Candidates(
        torch.cat((places, places[:, swap]), dim=2),
        torch.cat((strength, strength[:, swap]), dim=2),
        torch.cat((features, features[:, swap]), dim=2),
    )


def torso_centers(keypoints: Tensor, height: int, width: int) -> Tensor:
    """Centres (..., 2) px of people (..., 17, 3): the mean of the shoulders and hips in the picture, held inside it.

    Where none of the four is in the picture, the mean of the keypoints that are.
    """
    torso = keypoints[..., (5, 6, 11, 12), :]
    known = (torso[..., 2:] > 0).float()
    everything = (keypoints[..., 2:] > 0).float()
    mean = (torso[..., :2] * known).sum(-2) / known.sum(-2).clamp_min(1)
    spare = (keypoints[..., :2] * everything).sum(-2) / everything.sum(-2).clamp_min(1)
    center = torch.where(known.sum(-2) > 0, mean, spare)
    limit = torch.tensor((width - 1.0, height - 1.0), dtype=center.dtype, device=center.device)
    return torch.minimum(center.clamp_min(0), limit)
