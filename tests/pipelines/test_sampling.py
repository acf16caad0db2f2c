import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pipelines.checkpoint import ModelConfig, SamplerConfig, resolve
from pipelines.config import UserError
from pipelines.sampling import SCHEDULERS, Sampler, noise_seed
from tests.pipelines.tiny_models import SIZE, build_tiny

FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    return {name: build_tiny(folder / name, name) for name in FAMILIES}


def load(folder: Path, **options: object) -> Sampler:
    settings: dict[str, object] = {"steps": 3, "batch_size": 4} | options
    return Sampler(resolve(ModelConfig(id=str(folder))), SamplerConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FAMILIES)
def test_place_and_neighbours_in_a_batch_change_no_bit(models: dict[str, Path], name: str) -> None:
    sampler = load(models[name])
    prompts, negatives, seeds = ["a", "bb", "c c", "d", "e"], ["x", "y", "", "x", "z"], [1, 2, 3, 4, 5]
    images = sampler.sample(prompts, negatives, seeds)
    assert [image.shape for image in images] == [(SIZE, SIZE, 3)] * 5
    assert images[0].dtype == np.uint8
    backwards = sampler.sample(prompts[::-1], negatives[::-1], seeds[::-1])[::-1]
    for i in range(5):
        np.testing.assert_array_equal(images[i], backwards[i])
        np.testing.assert_array_equal(images[i], sampler.sample([prompts[i]], [negatives[i]], [seeds[i]])[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_negative_and_seed_all_matter(models: dict[str, Path], name: str) -> None:
    sampler = load(models[name])
    base, prompt, negative, seed = sampler.sample(["a", "b", "a", "a"], ["x", "x", "y", "x"], [1, 1, 1, 2])
    assert all((base != other).any() for other in (prompt, negative, seed))
    again = load(models[name]).sample(["a"], ["x"], [1])[0]
    np.testing.assert_array_equal(base, again)


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, "checkpoint"])
@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_every_scheduler_keeps_the_checkpoints_noise_schedule(
    models: dict[str, Path], name: str, scheduler: str
) -> None:
    sampler = load(models[name], scheduler=scheduler, steps=5)
    own, used = sampler._pipe.scheduler.config, load(models[name], scheduler="checkpoint")._pipe.scheduler.config
    assert own.prediction_type == used.prediction_type == ("epsilon" if name == "sd1" else "v_prediction")
    assert own.get("timestep_spacing") == used.get("timestep_spacing")
    assert bool(own.get("rescale_betas_zero_snr")) == bool(used.get("rescale_betas_zero_snr"))
    decoded = sampler.decode(sampler.denoise(["a"], ["b"], [7]))
    assert decoded.finite == (True,)
    assert decoded.pixels.std() > 1


def test_same_picture_as_the_plain_diffusers_call(models: dict[str, Path]) -> None:
    """The sampler adds seeding, padding and caching to the pipeline; it does not sample otherwise."""
    sampler = load(models["sdxl"], batch_size=2, guidance=5.0)
    plain = sampler._pipe(
        prompt=["a", "b"],
        negative_prompt=["x", "y"],
        latents=sampler._noise([1, 2]),
        num_inference_steps=3,
        guidance_scale=5.0,
        output_type="np",
    ).images
    images = np.stack(sampler.sample(["a", "b"], ["x", "y"], [1, 2]))
    # The plain call encodes negatives as one batch: other shapes may differ in the last bit.
    assert np.abs(plain * 255 - images).max() < 1


def test_without_guidance_the_negative_prompt_does_nothing(models: dict[str, Path]) -> None:
    sampler = load(models["sd1"], guidance=1.0)
    first, second = sampler.sample(["a", "a"], ["x", "y"], [1, 1])
    np.testing.assert_array_equal(first, second)


def test_steps_and_guidance_can_be_chosen_for_a_call(models: dict[str, Path]) -> None:
    sampler, other = load(models["sd1"]), load(models["sd1"], steps=2, guidance=1.0)
    ours = sampler.sample(["a"], ["x"], [1], steps=2, guidance=1.0)[0]
    np.testing.assert_array_equal(ours, other.sample(["a"], ["x"], [1])[0])
    assert (ours != sampler.sample(["a"], ["x"], [1])[0]).any()


def test_size_can_be_chosen(models: dict[str, Path]) -> None:
    sampler = load(models["sd1"], width=48, height=16)
    assert sampler.sample(["a"], [""], [1])[0].shape == (16, 48, 3)


def test_bfloat16_and_channels_last(models: dict[str, Path]) -> None:
    sampler = load(models["sdxl"], dtype="bfloat16", channels_last=True)
    assert sampler.sample(["a"], [""], [1])[0].std() > 1


def test_float16_on_a_cpu_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"sampler\.dtype=float32"):
        load(models["sd1"], dtype="float16")


def test_decoding_in_another_thread_changes_no_bit(models: dict[str, Path]) -> None:
    sampler = load(models["sd1"])
    batches = [([text] * 4, [""] * 4, list(range(4))) for text in "abcd"]
    inline = [sampler.decode(sampler.denoise(*batch)).pixels for batch in batches]
    with ThreadPoolExecutor(1) as pool:
        overlapped = [pool.submit(sampler.decode, sampler.denoise(*batch)) for batch in batches]
    for pixels, future in zip(inline, overlapped, strict=True):
        np.testing.assert_array_equal(pixels, future.result().pixels)


def test_non_finite_images_are_reported_and_leave_their_neighbours_alone(models: dict[str, Path]) -> None:
    sampler = load(models["sd1"])
    latents = sampler.denoise(["a", "b"], ["", ""], [1, 2])
    whole = sampler.decode(latents)
    latents = latents.clone()
    latents[1, 0, 0, 0] = float("nan")
    decoded = sampler.decode(latents)
    assert whole.finite == (True, True)
    assert decoded.finite == (True, False)
    np.testing.assert_array_equal(decoded.pixels[0], whole.pixels[0])


def test_broken_weights_give_named_non_finite_images(models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models["sd1"], tmp_path / "sd1"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"].fill_(float("inf"))
    save_file(weights, file, {"format": "pt"})
    sampler = load(folder)
    decoded = sampler.decode(sampler.denoise(["a"], [""], [1]))
    assert not any(decoded.finite)
    assert decoded.pixels.max() == 0


def test_weights_that_do_not_fit_are_one_line(models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models["sd1"], tmp_path / "sd1"))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(UserError, match="cannot be loaded") as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_too_many_prompts_for_a_batch(models: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="a batch is 4"):
        load(models["sd1"]).denoise(["a"] * 5, [""] * 5, [1] * 5)


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 1000))
def test_noise_seed_is_63_bits_and_depends_on_each_number(seed: int, index: int, attempt: int) -> None:
    value = noise_seed(seed, index, attempt)
    assert 0 <= value < 2**63
    others = {noise_seed(seed + 1, index, attempt), noise_seed(seed, index + 1, attempt)}
    assert value not in others | {noise_seed(seed, index, attempt + 1)}


def test_noise_seed_is_the_same_in_every_version() -> None:
    assert noise_seed(0, 0, 1) == 2258777782783887010


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_on_a_gpu(models: dict[str, Path], name: str) -> None:
    config = SamplerConfig(steps=3, batch_size=4, dtype="float16", channels_last=True)
    sampler = Sampler(resolve(ModelConfig(id=str(models[name]))), config, "cuda")
    assert sampler._pipe.vae.dtype == (torch.float32 if name == "sdxl" else torch.float16)
    images = sampler.sample(["a", "b", "c"], ["", "", ""], [1, 2, 3])
    np.testing.assert_array_equal(images[2], sampler.sample(["c"], [""], [3])[0])
