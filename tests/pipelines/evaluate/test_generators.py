"""Every kind of model behind one function: the same noise for all, poses where they count, mistakes told plainly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel

from pipelines.checkpoint import Checkpoint, ModelConfig, SamplerConfig, resolve
from pipelines.config import UserError
from pipelines.evaluate.generators import Generator, Skeleton, resolve_model
from pipelines.evaluate.poses import scaled
from pipelines.sampling import Sampler
from pipelines.train.model import grow_conv_in
from pipelines.train.pipeline import HumanSDPipeline
from tests.pipelines.evaluate.test_keypoints import somebody
from tests.pipelines.tiny_models import SIZE, build_tiny

CONFIG = SamplerConfig(steps=2, batch_size=2, guidance=3.0)
PROMPTS, NEGATIVES, SEEDS = ["ab", "c"], ["", "x"], [7, 8]
POSES = [(scaled(somebody(1, x=16, size=24), 1, 0, -84),), ()]
OTHER_POSES = [(scaled(somebody(2, x=16, size=24), 1, 0, -84),), ()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny SD 1.x, and a ControlNet, a T2I-Adapter and a HumanSD on it that have learnt something."""
    root = tmp_path_factory.mktemp("models")
    base = build_tiny(root / "base", "sd1")
    torch.manual_seed(1)
    layout = {  # an adapter's features fit where attention comes first, as in the real ones
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    unet: Any = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(base / "unet"), **layout)
    unet.save_pretrained(base / "unet")
    control: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8))
    for parameter in control.parameters():
        if not parameter.any():  # what training starts from zero
            torch.nn.init.normal_(parameter, std=0.1)
    control.save_pretrained(root / "control")
    adapter: Any = T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    adapter.save_pretrained(root / "adapter")
    pipe: Any = HumanSDPipeline.from_pretrained(base, safety_checker=None, requires_safety_checker=False)
    grow_conv_in(pipe.unet, 4)
    torch.nn.init.normal_(pipe.unet.conv_in.weight, std=0.3)
    pipe.save_pretrained(root / "run" / "model")
    names = {"base": "base", "control": "control", "adapter": "adapter", "run": "run", "model": "run/model"}
    return {name: str(root / folder) for name, folder in names.items()}


def draw(folders: dict[str, str], given: str, poses: Any = POSES, config: SamplerConfig = CONFIG) -> Any:
    generator = Generator(resolve_model(given, folders["base"]), config)
    assert (generator.width, generator.height) == (SIZE, SIZE)
    return generator.generate(PROMPTS[: len(poses)], NEGATIVES[: len(poses)], poses, SEEDS[: len(poses)])


def test_stable_diffusion_draws_what_the_sampler_of_ghi_draws(folders: dict[str, str]) -> None:
    images = draw(folders, folders["base"])
    expected = Sampler(resolve(ModelConfig(id=folders["base"])), CONFIG).sample(PROMPTS, NEGATIVES, SEEDS)
    assert [image.shape for image in images] == [(SIZE, SIZE, 3)] * 2
    assert images[0].dtype == np.uint8
    for image, other in zip(images, expected, strict=True):
        np.testing.assert_allclose(image.astype(int), other.astype(int), atol=1)
    assert (draw(folders, folders["base"], [(), ()])[0] == images[0]).all(), "it cannot see poses"


@pytest.mark.parametrize("kind", ["controlnet:{control}", "t2i:{adapter}", "{model}"])
def test_pose_models_follow_the_pose_and_repeat_themselves(folders: dict[str, str], kind: str) -> None:
    given = kind.format(**folders)
    images = draw(folders, given)
    again = draw(folders, given)
    other = draw(folders, given, OTHER_POSES)
    assert (images[0] == again[0]).all()
    assert (images[0] != other[0]).any()
    assert (images[1] == other[1]).all(), "an image depends on its own pose alone"


def test_the_picture_can_be_openposes(folders: dict[str, str]) -> None:
    given = f"controlnet:{folders['control']}"
    ours, theirs = (resolve_model(given, folders["base"], kind) for kind in get_args(Skeleton))
    assert ours.identity != theirs.identity
    one, other = (Generator(m, CONFIG).generate(PROMPTS, NEGATIVES, POSES, SEEDS) for m in (ours, theirs))
    assert (one[0] != other[0]).any()
    assert (one[1] == other[1]).all(), "nobody looks alike"


def test_a_trainings_run_is_the_model_in_it(folders: dict[str, str]) -> None:
    run, model = (resolve_model(folders[name], "mini") for name in ("run", "model"))
    assert (run.kind, run.folder, run.digest) == ("humansd", model.folder, model.digest)


def test_a_short_batch_is_padded_and_draws_the_same(folders: dict[str, str]) -> None:
    whole, alone = draw(folders, folders["base"]), draw(folders, folders["base"], POSES[:1])
    assert len(alone) == 1
    assert (alone[0] == whole[0]).all()
    with pytest.raises(ValueError, match="a batch is 2"):
        Generator(resolve_model(folders["base"], "mini"), CONFIG).generate(["a"] * 3, [""] * 3, [()] * 3, [1, 2, 3])


def test_models_are_pinned_by_content(folders: dict[str, str], tmp_path: Path) -> None:
    first = resolve_model(f"controlnet:{folders['control']}", folders["base"])
    other: Any = ControlNetModel.from_pretrained(folders["control"])
    other.conv_in.bias.data += 1
    other.save_pretrained(tmp_path / "control")
    second = resolve_model(f"controlnet:{tmp_path / 'control'}", folders["base"])
    assert (first.name, second.name) == ("control", "control")
    assert first.identity != second.identity
    assert isinstance(first.base, Checkpoint)
    (tmp_path / "control" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="changed since"):
        Generator(second, CONFIG)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("absent/model/folder", "no such folder"),
        ("controlnet:absent", "no diffusers folder of a ControlNetModel"),
        ("t2i:{control}", "no diffusers folder of a T2IAdapter"),
    ],
)
def test_mistakes_are_told_in_one_line(folders: dict[str, str], given: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve_model(given.format(**folders), folders["base"])
    assert "\n" not in str(caught.value)


def test_what_a_control_network_cannot_do_is_said(folders: dict[str, str]) -> None:
    with pytest.raises(UserError, match="guidance_rescale"):
        draw(folders, f"controlnet:{folders['control']}", config=SamplerConfig(steps=1, guidance_rescale=0.5))
    with pytest.raises(UserError, match="float16 needs a GPU"):
        draw(folders, folders["base"], config=SamplerConfig(dtype="float16"))
