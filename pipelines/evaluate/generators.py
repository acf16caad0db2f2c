"""The models that are compared, behind one function: prompts, poses and seeds in, images out.

A model is named as
- `mini`, a hub id or a diffusers folder: Stable Diffusion, which sees the prompt alone;
- `controlnet:FOLDER`, `t2i:FOLDER`: a ControlNet or T2I-Adapter on the config's `base`, given a skeleton picture;
- what `humansd train` left (its run or the model's folder in it): HumanSD, given the poses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from detectors.types import Person
from pipelines.checkpoint import Checkpoint, ModelConfig, SamplerConfig, family, resolve
from pipelines.config import UserError

if TYPE_CHECKING:
    import torch

    from pipelines.images import Pixels

Kind = Literal["sd", "controlnet", "t2i", "humansd"]
Skeleton = Literal["humansd", "openpose"]
People = tuple[Person, ...]

PREFIXES: Final[dict[str, Kind]] = {"controlnet": "controlnet", "t2i": "t2i"}
CLASSES: Final = {"controlnet": "ControlNetModel", "t2i": "T2IAdapter"}
HUMANSD: Final = "HumanSDPipeline"
TRAINED: Final = "model"
"""Where a training's run folder keeps its model."""
DECISIVE: Final = (".json", ".txt", ".safetensors")


@dataclass(frozen=True, slots=True)
class Model:
    """A model, pinned by content.

    given: as the user named it. base: Stable Diffusion itself, or what a ControlNet or adapter works on; None for
    HumanSD. folder, digest: of the ControlNet, adapter or HumanSD; "" for Stable Diffusion. skeleton: the picture
    that a ControlNet or adapter is given.
    """

    given: str
    kind: Kind
    base: Checkpoint | None
    folder: str = ""
    digest: str = ""
    skeleton: Skeleton | None = None

    @property
    def identity(self) -> dict[str, str | None]:
        """What of it decides images; not where it lies."""
        base = None if self.base is None else f"{self.base.name} {self.base.revision} {self.base.variant}"
        named = {"model.kind": self.kind, "model.base": base, "model.digest": self.digest}
        return {**named, "model.skeleton": self.skeleton}

    @property
    def revision(self) -> str:
        """The hub commit, or `sha256:` and a digest."""
        return f"sha256:{self.digest}" if self.digest or self.base is None else self.base.revision

    @property
    def name(self) -> str:
        """The last part of what the user gave."""
        return Path(self.given.partition(":")[2] or self.given).name or self.kind


def resolve_model(given: str, base: str, skeleton: Skeleton = "humansd") -> Model:
    """Pin the model that the user names. Raises UserError where it is not there or none of those that are known."""
    prefix, colon, rest = given.partition(":")
    if colon and prefix in PREFIXES:
        folder = Path(rest).expanduser().resolve()
        found = _class_name(folder / "config.json")
        if found != CLASSES[prefix]:
            raise UserError(f"{given}: {folder} is no diffusers folder of a {CLASSES[prefix]} (hf download gets them)")
        return Model(given, PREFIXES[prefix], resolve(ModelConfig(id=base)), str(folder), _digest(folder), skeleton)
    for folder in (Path(given).expanduser(), Path(given).expanduser() / TRAINED):
        if _class_name(folder / "model_index.json") == HUMANSD:
            return Model(given, "humansd", None, str(folder.resolve()), _digest(folder))
    return Model(given, "sd", resolve(ModelConfig(id=given)))


def _class_name(config: Path) -> str | None:
    try:
        named: str | None = json.loads(config.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError):
        return None
    return named


def _digest(folder: Path) -> str:
    """The sha256 (hex) over the files of a diffusers folder that decide what it draws."""
    total = hashlib.sha256()
    paths = sorted(path for path in folder.rglob("*") if path.suffix in DECISIVE)
    if not any(path.suffix == ".safetensors" for path in paths):
        raise UserError(f"{folder}: no weights in safetensors; save the model again with safe_serialization=True")
    for path in paths:
        with path.open("rb") as file:
            name = path.relative_to(folder).as_posix()
            total.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


class Generator:
    """A model on one device.

    width, height: pixels of its images. scheduler: class name of the scheduler in use.
    """

    def __init__(self, model: Model, config: SamplerConfig, device: str = "cpu") -> None:
        """Load the model. Raises UserError where it cannot be had, has changed, or cannot run on `device`."""
        import torch

        from pipelines import sampling

        if device == "cpu" and config.dtype == "float16":
            raise UserError("float16 needs a GPU (--set gpus_per_worker=1); on a CPU take --set sampler.dtype=float32")
        if model.folder and _digest(Path(model.folder)) != model.digest:
            raise UserError(f"model folder {model.folder} changed since the evaluation began")
        if model.kind in CLASSES and config.guidance_rescale:
            raise UserError(f"{model.given}: knows no guidance rescale; --set sampler.guidance_rescale=0.0")
        self._options = {} if model.kind in CLASSES else {"guidance_rescale": config.guidance_rescale}
        self.model, self.config, self.device = model, config, torch.device(device)
        if self.device.type == "cuda":
            sampling.fix_cuda()
        self._dtype = sampling.DTYPES[config.dtype]
        self._pipe = _load(model, self._dtype).to(self.device)
        self._pipe.set_progress_bar_config(disable=True)
        self._pipe.scheduler = sampling.make_scheduler(self._pipe.scheduler, config.scheduler)
        self.scheduler = type(self._pipe.scheduler).__name__
        native = sampling.native_size(self._pipe)
        self.width, self.height = config.width or native[0], config.height or native[1]
        if config.channels_last:
            self._pipe.unet.to(memory_format=torch.channels_last)

    def generate(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str],
        poses: Sequence[People],
        seeds: Sequence[int],
        steps: int | None = None,
    ) -> list[Pixels]:
        """Draw at most a batch of images, RGB uint8 (H, W, 3): always a full batch, the padding thrown away.

        poses: keypoints in pixels of the image. steps: for this call; the config's by default.
        """
        size, count = self.config.batch_size, len(prompts)
        if not count == len(negatives) == len(poses) == len(seeds) <= size:
            raise ValueError(f"{count} prompts, {len(poses)} poses, {len(seeds)} seeds; a batch is {size}")
        padding = size - count
        found = self._pipe(
            [*prompts, *[""] * padding],
            negative_prompt=[*negatives, *[""] * padding],
            latents=self._noise([*seeds, *[0] * padding]),
            num_inference_steps=steps or self.config.steps,
            guidance_scale=self.config.guidance,
            width=self.width,
            height=self.height,
            output_type="np",
            **self._options,
            **_condition(self.model, [*poses, *[()] * padding], self.width, self.height),
        ).images
        images = np.nan_to_num(np.asarray(found[:count]), nan=0.0)
        return list(np.asarray((images.clip(0, 1) * 255).round(), np.uint8))

    def _noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """One CPU generator an image, so that a sample's noise is the same for every model with such latents."""
        import torch

        scale = self._pipe.vae_scale_factor
        shape = (self._pipe.vae.config.latent_channels, self.height // scale, self.width // scale)
        noise = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
        return torch.stack(noise).to(self.device, self._dtype)


def _condition(model: Model, poses: Sequence[People], width: int, height: int) -> dict[str, Any]:
    """Return how a model is told the poses, as arguments of its pipeline."""
    from PIL import Image

    from pipelines.evaluate.openpose import draw_openpose
    from pipelines.train.pipeline import draw_poses

    if model.kind == "humansd":
        return {"poses": list(poses)}
    if model.kind in CLASSES:
        draw = draw_openpose if model.skeleton == "openpose" else draw_poses
        return {"image": [Image.fromarray(draw(people, height, width)) for people in poses]}
    return {}


def _load(model: Model, dtype: torch.dtype) -> Any:
    load: Callable[[Path, Model, Any], Any] = {"humansd": _humansd, "controlnet": _controlnet, "t2i": _t2i}.get(
        model.kind, _plain
    )
    try:
        return load(Path(model.folder), model, dtype)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{model.given} cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def _plain(folder: Path, model: Model, dtype: torch.dtype) -> Any:
    from pipelines.sampling import load_pipeline

    assert model.base is not None
    found = model.base.folder()
    return load_pipeline(found, family(found), model.base.variant, dtype)


def _humansd(folder: Path, model: Model, dtype: torch.dtype) -> Any:
    from pipelines.train.pipeline import HumanSDPipeline

    return HumanSDPipeline.from_pretrained(
        folder,
        torch_dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        safety_checker=None,
        requires_safety_checker=False,
    )


def _controlnet(folder: Path, model: Model, dtype: torch.dtype) -> Any:
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    network = ControlNetModel.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True)
    return _beside(StableDiffusionControlNetPipeline, _plain(folder, model, dtype), controlnet=network)


def _t2i(folder: Path, model: Model, dtype: torch.dtype) -> Any:
    from diffusers import StableDiffusionAdapterPipeline, T2IAdapter

    network = T2IAdapter.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True)
    return _beside(StableDiffusionAdapterPipeline, _plain(folder, model, dtype), adapter=network)


def _beside(pipeline: Any, base: Any, **network: Any) -> Any:
    """The base's parts with another network beside them. Raises ValueError for a base that has others (SDXL)."""
    parts = dict(base.components)
    if "text_encoder_2" in parts:
        raise ValueError("its base must be an SD 1.x or 2.x checkpoint (--set base=…)")
    parts.pop("image_encoder", None)
    return pipeline(**parts, **network, requires_safety_checker=False)
