"""`HumanSDPipeline`: text and poses in, pictures out; loads what a training saved.

pipe = HumanSDPipeline.from_pretrained("run/model")
picture = pipe("a dancer in an oil painting", poses=keypoints).images[0]  # keypoints: (P, 17, 3)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from numpy.typing import NDArray
from torch import Tensor

from detectors.skeleton import draw_keypoints
from detectors.types import NUM_KEYPOINTS, Float32, Person
from pipelines.train.augment import VISIBLE
from pipelines.train.data import SKELETON_WIDTH

Pixels = NDArray[np.uint8]
Poses = Sequence[Person] | NDArray[Any]
"""The people of one picture: `Person`s, or an array (P, 17, 3) of x px, y px, confidence, in COCO order."""


def to_keypoints(poses: Poses) -> Float32:
    """Keypoints (P, 17, 3) of people or arrays. Raises ValueError for arrays of another shape."""
    found = [one.keypoints if isinstance(one, Person) else np.asarray(one, np.float32) for one in cast(Any, poses)]
    for one in found:
        if one.shape != (NUM_KEYPOINTS, 3):
            raise ValueError(f"poses must be people or an array (P, 17, 3); one person here is {one.shape}")
    return np.asarray(found, np.float32).reshape(-1, NUM_KEYPOINTS, 3)


def draw_poses(poses: Poses, height: int, width: int) -> Pixels:
    """The skeleton picture (height, width, 3) that the model reads: the one it was trained with."""
    return draw_keypoints(to_keypoints(poses), height, width, SKELETON_WIDTH, VISIBLE)


class HumanSDPipeline(StableDiffusionPipeline):  # type: ignore[misc]
    """Stable Diffusion 1.x or 2.x whose UNet also takes the latent of a drawn skeleton (HumanSD, arXiv 2304.04269).

    All parts but the UNet are its base's; `from_pretrained`, `save_pretrained`, `to` and the rest are diffusers' own.
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        poses: Poses | Sequence[Poses],
        *,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 7.5,
        guidance_rescale: float = 0.0,
        negative_prompt: str | Sequence[str] | None = None,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
    ) -> Any:
        """Draw one picture for each prompt; `.images` holds them.

        prompt: one, or B of them. poses: the people of the picture; for B prompts, B of such. Keypoints are in pixels
            of the picture, which is height x width (by default the size the model was trained at).
        guidance_scale: of the text; the skeleton is given with and without it. 1 turns guidance off.
        generator: one, or one a picture. latents: noise (B, C, h, w) in place of what the generator draws.
        output_type: 'pil', 'np', 'pt', or 'latent' for what is not decoded. Raises ValueError for what does not fit.
        """
        prompts, keypoints = _pair(prompt, poses)
        channels = self.vae.config.latent_channels
        if self.unet.config.in_channels != 2 * channels:
            raise ValueError(
                f"this UNet takes {self.unet.config.in_channels} channels, a skeleton needs {2 * channels}"
            )
        height, width = height or self._native(), width or self._native()
        self.check_inputs(prompts, height, width, None)
        guided = guidance_scale > 1
        device = self._execution_device
        negative = None if negative_prompt is None or isinstance(negative_prompt, str) else list(negative_prompt)
        if isinstance(negative_prompt, str):
            negative = [negative_prompt] * len(prompts)
        text, without = self.encode_prompt(prompts, device, 1, guided, negative)
        skeleton = self.encode_skeletons([draw_poses(one, height, width) for one in keypoints])
        if guided:
            text, skeleton = torch.cat([without, text]), torch.cat([skeleton, skeleton])
        text = text.to(self.unet.dtype)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = self.prepare_latents(len(prompts), channels, height, width, text.dtype, device, generator, latents)
        extra = self.prepare_extra_step_kwargs(generator, eta)
        for time in self.progress_bar(self.scheduler.timesteps):
            noisy = self.scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, time)
            output = self.unet(torch.cat([noisy, skeleton], 1), time, encoder_hidden_states=text).sample
            if guided:
                output_without, output_with = output.chunk(2)
                output = output_without + guidance_scale * (output_with - output_without)
                if guidance_rescale > 0:
                    output = rescale_noise_cfg(output, output_with, guidance_rescale)
            latents = self.scheduler.step(output, time, latents, **extra).prev_sample
        return self._finish(latents, output_type)

    def encode_skeletons(self, skeletons: Sequence[Pixels]) -> Tensor:
        """Latents (B, C, h, w) of the drawn skeletons of B pictures, as training encodes them."""
        pixels = torch.from_numpy(np.stack(skeletons)).permute(0, 3, 1, 2)
        scaled = pixels.to(self._execution_device, self.vae.dtype) / 127.5 - 1
        latents = self.vae.encode(scaled).latent_dist.mean * self.vae.config.scaling_factor
        return torch.as_tensor(latents).to(self.unet.dtype)

    def _native(self) -> int:
        return int(self.unet.config.sample_size) * int(self.vae_scale_factor)

    def _finish(self, latents: Tensor, output_type: str) -> Any:
        images: Any = latents
        if output_type != "latent":
            images = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample.float()
            images = self.image_processor.postprocess(images, output_type=output_type)
        self.maybe_free_model_hooks()
        return StableDiffusionPipelineOutput(images=images, nsfw_content_detected=None)


def _pair(prompt: str | Sequence[str], poses: Poses | Sequence[Poses]) -> tuple[list[str], list[Float32]]:
    """Prompts, and the keypoints (P, 17, 3) for each."""
    if isinstance(prompt, str):
        return [prompt], [to_keypoints(cast(Poses, poses))]
    keypoints = [to_keypoints(cast(Poses, one)) for one in poses]
    if len(keypoints) != len(prompt):
        raise ValueError(f"{len(prompt)} prompts, but poses for {len(keypoints)} pictures")
    return list(prompt), keypoints
