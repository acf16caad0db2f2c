"""Batched, seeded diffusion sampling: the same (prompt, negative, seed) gives the same picture, whatever its batch.

Bits depend on batch size, dtype and thread count, so batches are always full: short ones are padded, and the padding is
thrown away. On a CPU an image's place in the batch and its neighbours change no bit. On a GPU the same batch gives the
same bits, but at another place a pixel may be rounded otherwise (seen on an H100 in half precision): who wants the same
bytes fills batches the same way, as shards do. Noise comes from one CPU generator an image. `denoise` and `decode` may
run in two threads, so that one batch's decoding overlaps the next UNet.

Shapes: B images a batch, b <= B of them asked for, H x W pixels, C latent channels, h x w latent pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.checkpoint import Checkpoint, Family, SamplerConfig, family
from pipelines.config import UserError

Pixels = NDArray[np.uint8]

DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SCHEDULERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
}
"""Deterministic schedulers only: one that draws noise between steps would tie an image to its batch."""


def noise_seed(seed: int, index: int, attempt: int) -> int:
    """Return the 63-bit seed of one image's noise: blake2b of the three numbers."""
    digest = hashlib.blake2b(f"{seed}/{index}/{attempt}".encode(), digest_size=8, person=b"humansd-noise").digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True, slots=True)
class Decoded:
    """Decoded images: RGB pixels uint8 (b, H, W, 3), and for each image whether all its numbers were finite."""

    pixels: Pixels
    finite: tuple[bool, ...]


class Sampler:
    """A Stable Diffusion 1.x, 2.x or XL checkpoint on one device, ready to draw.

    width, height: pixels of an image. batch_size: images a batch.
    scheduler: class name of the scheduler in use. name, revision: of the checkpoint, as recorded.
    """

    def __init__(self, checkpoint: Checkpoint, config: SamplerConfig, device: str = "cpu") -> None:
        """Load the checkpoint. Raises UserError where it cannot be had or cannot run on `device`."""
        if device == "cpu" and config.dtype == "float16":
            raise UserError("float16 needs a GPU (--num-gpus 1); on a CPU take --set sampler.dtype=float32")
        folder = checkpoint.folder()
        self.name, self.revision = checkpoint.name, checkpoint.revision
        self.family: Family = family(folder)
        self.config = config
        self.batch_size = config.batch_size
        self.device = torch.device(device)
        if self.device.type == "cuda":
            fix_cuda()
        self._pipe = load_pipeline(folder, self.family, checkpoint.variant, DTYPES[config.dtype])
        self._pipe.scheduler = make_scheduler(self._pipe.scheduler, config.scheduler)
        self.scheduler = type(self._pipe.scheduler).__name__
        native = native_size(self._pipe)
        self.width, self.height = config.width or native[0], config.height or native[1]
        self._place()
        self._negatives: dict[str, tuple[torch.Tensor, ...]] = {}
        self._side_stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            new_stream: Any = torch.cuda.Stream
            self._side_stream = new_stream(self.device)

    def _place(self) -> None:
        pipe, vae = self._pipe, self._pipe.vae
        pipe.to(self.device)
        # SDXL's VAE overflows in half precision: its config asks for float32 there. Those of SD 1.x and 2.x do not, and
        # have no such key, which diffusers takes for a yes.
        if self.family == "sdxl" and vae.dtype == torch.float16 and vae.config.force_upcast:
            vae.to(torch.float32)
        if self.family == "sdxl":
            vae.enable_slicing()  # 1024 px images one at a time: a batch would need tens of GB
        if self.config.channels_last:
            pipe.unet.to(memory_format=torch.channels_last)
            vae.to(memory_format=torch.channels_last)
        if self.config.compile:
            # Not max-autotune: it picks kernels by timing them, so two workers could draw different bits.
            pipe.unet = torch.compile(pipe.unet, dynamic=False)

    def sample(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> list[Pixels]:
        """Draw one image for each prompt: RGB uint8 (H, W, 3). Any number of prompts; batches are padded.

        steps, guidance: for this call; the config's by default.
        """
        images: list[Pixels] = []
        for start in range(0, len(prompts), self.batch_size):
            part = slice(start, start + self.batch_size)
            latents = self.denoise(prompts[part], negatives[part], seeds[part], steps=steps, guidance=guidance)
            images.extend(self.decode(latents).pixels)
        return images

    @torch.inference_mode()
    def denoise(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> torch.Tensor:
        """Return the clean latents (b, C, h, w) of b <= B prompts, finished on the device. The batch is padded to B."""
        scale = self.config.guidance if guidance is None else guidance
        size = self.batch_size
        if not len(prompts) == len(negatives) == len(seeds) <= size:
            raise ValueError(
                f"{len(prompts)} prompts, {len(negatives)} negatives, {len(seeds)} seeds; a batch is {size}"
            )
        padding = size - len(prompts)
        latents = self._pipe(
            **self._encode([*prompts, *[""] * padding], [*negatives, *[""] * padding] if scale > 1 else None),
            latents=self._noise([*seeds, *[0] * padding]),
            num_inference_steps=steps or self.config.steps,
            guidance_scale=scale,
            guidance_rescale=self.config.guidance_rescale,
            width=self.width,
            height=self.height,
            output_type="latent",
        ).images
        if self._side_stream is not None:
            torch.cuda.current_stream(self.device).synchronize()  # `decode` may read them on another stream
        assert isinstance(latents, torch.Tensor)
        return latents[: len(prompts)]

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> Decoded:
        """Decode the latents (b, C, h, w) of b <= B images to pixels on the CPU, again as a batch padded to B.

        Non-finite numbers become black and are reported.
        """
        count, vae = len(latents), self._pipe.vae
        padding = latents.new_zeros(self.batch_size - count, *latents.shape[1:])
        z = _unscale(torch.cat([latents, padding]).to(vae.dtype), vae.config)
        x = vae.decode(z, return_dict=False)[0].float()
        finite = torch.isfinite(x).flatten(1).all(1)
        x = torch.nan_to_num(x, nan=-1.0, posinf=-1.0, neginf=-1.0)
        x = (x / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        return Decoded(x[:count].cpu().numpy(), tuple(finite[:count].tolist()))

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Run what is inside beside the next `denoise`: on a GPU its kernels do not queue behind the UNet's."""
        if self._side_stream is None:
            yield
            return
        with torch.cuda.stream(self._side_stream):
            yield

    def empty_latents(self) -> torch.Tensor:
        """Return the latents (C, h, w) of one image, all zero."""
        scale = self._pipe.vae_scale_factor
        shape = (self._pipe.unet.config.in_channels, self.height // scale, self.width // scale)
        return torch.zeros(shape, device=self.device, dtype=DTYPES[self.config.dtype])

    def _noise(self, seeds: Sequence[int]) -> torch.Tensor:
        shape = self.empty_latents().shape
        noise = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
        return torch.stack(noise).to(self.device, DTYPES[self.config.dtype])

    def _encode(self, prompts: list[str], negatives: list[str] | None) -> dict[str, torch.Tensor]:
        """Return the text embeddings as keyword arguments of the pipeline; `negatives` None where none are used."""
        names = ("prompt_embeds", "pooled_prompt_embeds")  # SD has the first only
        given = dict(zip(names, self._embed(prompts), strict=False))
        if negatives is not None:
            for negative in sorted(set(negatives) - self._negatives.keys()):
                self._negatives[negative] = self._embed([negative])
            rows = zip(*(self._negatives[negative] for negative in negatives), strict=True)
            given |= {f"negative_{name}": torch.cat(row) for name, row in zip(names, rows, strict=False)}
        return given

    def _embed(self, texts: list[str]) -> tuple[torch.Tensor, ...]:
        found = self._pipe.encode_prompt(
            texts, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return (found[0], found[2]) if self.family == "sdxl" else (found[0],)


def load_pipeline(folder: Path, kind: Family, variant: str | None, dtype: torch.dtype) -> Any:
    """Return the diffusers pipeline of a checkpoint's folder. Raises UserError where it cannot be loaded."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()
    options: dict[str, Any] = {"torch_dtype": dtype, "variant": variant, "use_safetensors": True}
    options |= {"local_files_only": True, "feature_extractor": None, "image_encoder": None}
    try:
        if kind == "sdxl":
            pipe = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False, **options)
        else:
            # The built-in checker blacks images out; our own safety gate rejects them by name instead.
            pipe = StableDiffusionPipeline.from_pretrained(
                folder, safety_checker=None, requires_safety_checker=False, **options
            )
    except (OSError, ValueError) as error:
        raise UserError(f"model folder {folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    missing = [name for name, weight in [*pipe.unet.named_parameters(), *pipe.vae.named_parameters()] if weight.is_meta]
    if missing:
        raise UserError(f"model folder {folder} cannot be loaded: {len(missing)} weights are missing, as {missing[0]}")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_scheduler(own: Any, wanted: str) -> Any:
    """Return the wanted scheduler with the checkpoint's noise schedule, prediction type and spacing."""
    if wanted == "checkpoint":
        return own
    import diffusers

    name, options = SCHEDULERS[wanted]
    return getattr(diffusers, name).from_config(own.config, **options)


def _unscale(latents: torch.Tensor, config: Any) -> torch.Tensor:
    """Undo the scaling that brought the VAE's latents (B, C, h, w) to unit variance."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    scale = float(config.scaling_factor)
    if mean is None or std is None:
        return latents / scale
    shape = (1, -1, 1, 1)
    return latents * latents.new_tensor(std).view(shape) / scale + latents.new_tensor(mean).view(shape)


def native_size(pipe: Any) -> tuple[int, int]:
    """Return the pixels (width, height) that the UNet was trained at."""
    size = pipe.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return width * pipe.vae_scale_factor, height * pipe.vae_scale_factor


def fix_cuda() -> None:
    """Have CUDA pick the same kernels every time; takes effect before the device's first matrix product."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
