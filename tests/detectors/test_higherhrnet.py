"""HigherHRNet-w48 loads checkpoints of mmpose 0.29 key for key and aggregates its two stages as that does."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("mmpose")

from detectors import load_detector, weights
from detectors.bottomup import BottomUp, fused
from detectors.higherhrnet import HigherHRNet
from detectors.weights import CHECKPOINTS, Checkpoint, WeightsError

NAME = "higherhrnet-w48-humanart"
Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def norm(name: str, channels: int) -> Shapes:
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{kind}": (channels,) for kind in kinds}, f"{name}.num_batches_tracked": ()}


def conv_norm(conv: str, bn: str, outputs: int, inputs: int, kernel: int) -> Shapes:
    return {f"{conv}.weight": (outputs, inputs, kernel, kernel), **norm(bn, outputs)}


def basic_block(name: str, channels: int) -> Shapes:
    first = conv_norm(f"{name}.conv1", f"{name}.bn1", channels, channels, 3)
    return {**first, **conv_norm(f"{name}.conv2", f"{name}.bn2", channels, channels, 3)}


def bottleneck(name: str, inputs: int) -> Shapes:
    shapes = conv_norm(f"{name}.conv1", f"{name}.bn1", 64, inputs, 1)
    shapes |= conv_norm(f"{name}.conv2", f"{name}.bn2", 64, 64, 3)
    shapes |= conv_norm(f"{name}.conv3", f"{name}.bn3", 256, 64, 1)
    if inputs == 64:
        shapes |= conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", 256, 64, 1)
    return shapes


def fusion(name: str, to: int, since: int, width: int) -> Shapes:
    """The path from branch `since` to branch `to` of an HRNet module; branch b has width * 2 ** b channels."""
    target, source = width * 2**to, width * 2**since
    if since > to:
        return conv_norm(f"{name}.0", f"{name}.1", target, source, 1)
    shapes: Shapes = {}
    for step in range(to - since):
        outputs = target if step == to - since - 1 else source
        shapes |= conv_norm(f"{name}.{step}.0", f"{name}.{step}.1", outputs, source, 3)
    return shapes


def published(width: int) -> Shapes:
    """Names and shapes of a checkpoint of mmpose 0.29's `higherhrnet_w48_…_512x512_udp`, written down from the paper's
    description of the network and mmpose's names for its parts."""
    shapes = conv_norm("conv1", "bn1", 64, 3, 3) | conv_norm("conv2", "bn2", 64, 64, 3)
    for block in range(4):
        shapes |= bottleneck(f"layer1.{block}", 64 if block == 0 else 256)
    shapes |= conv_norm("transition1.0.0", "transition1.0.1", width, 256, 3)
    for stage, inputs in ((2, 256), (3, 2 * width), (4, 4 * width)):
        new = stage - 1
        shapes |= conv_norm(f"transition{new}.{new}.0.0", f"transition{new}.{new}.0.1", width * 2**new, inputs, 3)
    for stage, modules in ((2, 1), (3, 4), (4, 3)):
        for module in range(modules):
            for branch in range(stage):
                for block in range(4):
                    shapes |= basic_block(f"stage{stage}.{module}.branches.{branch}.{block}", width * 2**branch)
            outputs = 1 if (stage, module) == (4, 2) else stage
            for to in range(outputs):
                for since in range(stage):
                    if since != to:
                        shapes |= fusion(f"stage{stage}.{module}.fuse_layers.{to}.{since}", to, since, width)
    shapes = {f"backbone.{name}": shape for name, shape in shapes.items()}
    deconv = "keypoint_head.deconv_layers.0"
    shapes |= {f"{deconv}.0.0.weight": (width + 34, width, 4, 4), **norm(f"{deconv}.0.1", width)}
    for block in range(1, 5):
        shapes |= basic_block(f"{deconv}.{block}.0", width)
    for stage, outputs in ((0, 34), (1, 17)):
        shapes |= {f"keypoint_head.final_layers.{stage}.weight": (outputs, width, 1, 1)}
        shapes |= {f"keypoint_head.final_layers.{stage}.bias": (outputs,)}
    return shapes


def test_the_layout_is_that_of_mmpose_0_29() -> None:
    with torch.device("meta"):
        net = HigherHRNet()
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == published(48)
    millions = sum(parameter.numel() for parameter in net.parameters()) / 1e6
    assert round(millions, 1) == 63.8  # Cheng et al. 2020, table 1


@pytest.fixture
def random_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The published file's name and layout, random numbers, in an otherwise empty cache."""
    monkeypatch.setenv("HUMANSD_CACHE", str(tmp_path))
    changed = [
        Checkpoint(one.name, one.task, one.url, None, None, one.licence, one.ap, one.measured)
        if one.name == NAME
        else one
        for one in CHECKPOINTS
    ]
    monkeypatch.setattr(weights, "CHECKPOINTS", tuple(changed))
    state = {name: torch.full(shape, 0.01) if shape else torch.tensor(7) for name, shape in published(48).items()}
    state["keypoint_head.final_layers.1.bias"] = torch.arange(17.0)
    path = weights.path_of(weights.get(NAME))
    torch.save({"meta": {"epoch": 300, "mmpose_version": "0.29.0"}, "state_dict": state}, path)
    yield path
    path.unlink()


def test_a_checkpoint_saved_in_that_layout_loads_by_name(random_checkpoint: Path) -> None:
    detector = load_detector("higherhrnet-w48", batch_size=1)
    assert isinstance(detector, BottomUp)
    state = detector.net.state_dict()
    assert state["keypoint_head.final_layers.1.bias"].tolist() == list(range(17))
    weight = state["backbone.stage4.2.fuse_layers.0.3.0.weight"]
    torch.testing.assert_close(weight, torch.full_like(weight, 0.01 * 0.01 / (0.01 + 1e-5) ** 0.5))  # by its variance
    assert not any(parameter.requires_grad for parameter in detector.net.parameters())
    assert not detector.net.training


def test_a_fused_network_computes_the_same() -> None:
    torch.manual_seed(0)
    plain = HigherHRNet(8).eval()
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.running_mean, module.bias):
                assert values is not None
                values.data.normal_(0, 0.1)
            for values in (module.running_var, module.weight):
                assert values is not None
                values.data.uniform_(0.5, 2)
    ours = fused(copy.deepcopy(plain))
    left = sum(isinstance(module, torch.nn.BatchNorm2d) for module in ours.modules())
    assert left == 1  # the one after the transposed convolution
    images = torch.rand(2, 3, 128, 64)
    with torch.no_grad():
        for found, expected in zip(ours(images), plain(images), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_of_another_network_is_refused(random_checkpoint: Path) -> None:
    state = {name: torch.zeros(shape) for name, shape in published(8).items()}
    torch.save({"state_dict": state}, random_checkpoint)
    with pytest.raises(WeightsError, match=r"_udp\.pth: the weights are another network's: size mismatch"):
        load_detector("higherhrnet-w48")
    torch.save(
        {"state_dict": {name.replace("keypoint_head", "head"): value for name, value in state.items()}},
        random_checkpoint,
    )
    with pytest.raises(WeightsError, match="another network's"):
        load_detector("higherhrnet-w48")


def test_without_weights_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUMANSD_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="humansd models fetch higherhrnet-w48-humanart"):
        load_detector("higherhrnet-w48")


def test_both_stages_are_averaged_at_half_the_pictures_size() -> None:
    torch.manual_seed(0)
    net = HigherHRNet(8).eval()
    images = torch.randn(2, 3, 128, 192)
    with torch.no_grad():
        coarse, fine = net.stages(images)
        heat, tags = net(images)
    assert coarse.shape == (2, 34, 32, 48)
    assert fine.shape == (2, 17, 64, 96)
    larger = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=True)
    assert torch.allclose(heat, (larger[:, :17] + fine) / 2, atol=1e-6)
    assert torch.allclose(tags, larger[:, 17:], atol=1e-6)
    assert torch.equal(tags[..., 0, 0], coarse[:, 17:, 0, 0])  # corners aligned


def test_the_finer_heatmaps_see_the_coarser_ones() -> None:
    torch.manual_seed(0)
    net = HigherHRNet(8).eval()
    features = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        _, before = net.keypoint_head(features)
        for parameter in net.keypoint_head.final_layers[0].parameters():
            parameter.add_(1.0)
        _, after = net.keypoint_head(features)
    assert not torch.allclose(before, after)
