"""Networks of mmdet and mmpose are built from configs and checkpoints, without a download or mmcv's CUDA ops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmpose")

from detectors import names, weights
from detectors.mm import ModelFiles, build, config_digest, pipeline_of, read_config, step_of, torchvision_nms
from detectors.person import Canvas
from tests.detectors.small_mm import small_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return small_model("rtmdet", tmp_path_factory.mktemp("rtmdet"))


def boxes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping boxes (N, 4) xyxy and their scores."""
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 100
    sizes = torch.rand(count, 2, generator=generator) * 60 + 5
    return torch.cat((corners, corners + sizes), 1), torch.rand(count, generator=generator)


@pytest.mark.parametrize("limits", [{}, {"max_num": 7}, {"score_threshold": 0.6}])
@pytest.mark.parametrize("count", [1, 40, 1000, 12_000])
def test_torchvision_suppresses_what_mmcv_suppresses(count: int, limits: dict[str, float]) -> None:
    from mmcv.ops import batched_nms

    own, scores = boxes(count)
    labels = torch.arange(count) % 3
    expected = batched_nms(own, scores, labels, {"type": "nms", "iou_threshold": 0.5, **limits})
    found = batched_nms(own, scores, labels, {"type": torchvision_nms, "iou_threshold": 0.5, **limits})
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert count == 1 or len(found[1]) < count


def test_a_network_is_built_for_inference(files: ModelFiles) -> None:
    config, net = build(files, "mmdet", CPU)
    assert net.bbox_head.test_cfg.nms.type is torchvision_nms
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in net.modules())
    assert config.model.backbone.get("init_cfg") is None


def test_fused_networks_compute_the_same(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """RTMDet's head shares convolutions between levels that have each their normalisation: fused, they would not."""
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    _, fused = build(files, "mmdet", CPU)
    monkeypatch.setattr("detectors.mm._fuse", lambda net: None)
    _, plain = build(files, "mmdet", CPU)
    count = sum(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
    assert count < sum(isinstance(module, torch.nn.BatchNorm2d) for module in plain.modules())
    with torch.no_grad():
        for ours, theirs in zip(fused(images, mode="tensor"), plain(images, mode="tensor"), strict=True):
            for level, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(level, other, rtol=1e-4, atol=1e-4)


def test_the_classes_are_those_of_the_weights(files: ModelFiles, tmp_path: Path) -> None:
    """Human-Art's published RTMDet has COCO's 80 outputs, one's own training one."""
    (tmp_path / "eighty.py").write_text(Path(files.config).read_text().replace("num_classes=1", "num_classes=80"))
    _, net = build(ModelFiles(str(tmp_path / "eighty.py"), files.checkpoint), "mmdet", CPU)
    assert net.bbox_head.num_classes == 1


def test_weights_that_do_not_fit_are_refused_in_one_line(files: ModelFiles, tmp_path: Path) -> None:
    state = torch.load(files.checkpoint)["state_dict"]
    del state["backbone.stem.0.conv.weight"]
    state["backbone.extra"] = torch.zeros(1)
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    with pytest.raises(weights.WeightsError, match=r"1 keys missing \(backbone\.stem.*1 keys too many") as refused:
        build(ModelFiles(files.config, tmp_path / "other.pth"), "mmdet", CPU)
    assert "\n" not in str(refused.value)


def test_configs_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such config file"):
        read_config(str(tmp_path / "absent.py"))
    (tmp_path / "broken.py").write_text("model = dict(")
    with pytest.raises(ValueError, match=r"broken\.py: not a config that mmengine reads"):
        read_config(str(tmp_path / "broken.py"))


def test_the_digest_is_that_of_what_decides_the_answer(files: ModelFiles, tmp_path: Path) -> None:
    text = Path(files.config).read_text()
    (tmp_path / "same.py").write_text(text + "\nmax_epochs = 7\n")
    (tmp_path / "other.py").write_text(text.replace("(128, 128)", "(96, 96)"))
    assert config_digest(files.config) == config_digest(str(tmp_path / "same.py"))
    assert config_digest(files.config) != config_digest(str(tmp_path / "other.py"))


@pytest.mark.parametrize("part", names.parts("person"))
def test_every_person_detector_has_a_config_of_one_size(part: str) -> None:
    config = weights.get(part + names.SUFFIX).config
    assert config is not None
    side = 416 if part in ("yolox-nano", "yolox-tiny") else 640
    assert Canvas.of(read_config(config)).size == (side, side)


@pytest.mark.parametrize("part", names.parts("pose"))
def test_every_pose_network_has_a_top_down_config(part: str) -> None:
    config = weights.get(part + names.SUFFIX).config
    assert config is not None
    found = read_config(config)
    affine = step_of(pipeline_of(found), "TopdownAffine")
    assert affine is not None
    assert tuple(affine["input_size"]) == (192, 256)
    assert found.model.head.out_channels == 17
