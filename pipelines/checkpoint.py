"""Which diffusion checkpoint is meant, where it lies, what it is and how it samples; nothing here loads torch.

`resolve` turns the `[model]` table into a `Checkpoint`: a name and a pinned revision, no path of a machine.
`Checkpoint.folder` finds or downloads it on whatever machine it is called. Weights are safetensors only, never pickles.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pipelines.config import UserError, key

Family = Literal["sd1", "sd2", "sdxl"]

MINI: Final = "mini"
MINI_FOLDER: Final = Path(__file__).parent / "mini" / "sd"
COMPONENTS: Final = ("unet", "vae", "text_encoder", "text_encoder_2")
"""The parts of a pipeline that have weights we use; `text_encoder_2` is SDXL's alone."""
HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT: Final = re.compile(r"[0-9a-f]{40}")
PICKLES: Final = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The `[model]` table."""

    id: str = key(MINI, "runtime", "'mini', a hub id such as 'owner/name', or a diffusers folder; recorded by name")
    revision: str | None = key(None, "runtime", "hub branch, tag or commit; none is 'main' at its newest commit")
    variant: str | None = key(None, "identity", "weight files to take where a hub model has several, such as 'fp16'")


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    """The `[sampler]` table: how images are drawn from a checkpoint. All of it decides bytes."""

    scheduler: Literal["dpmsolver++", "unipc", "ddim", "euler", "checkpoint"] = key(
        "dpmsolver++", "identity", "noise scheduler; 'checkpoint' keeps the model's own"
    )
    steps: int = key(25, "identity", "denoising steps")
    guidance: float = key(7.5, "identity", "classifier-free guidance scale; 1 turns guidance off")
    guidance_rescale: float = key(
        0.0, "identity", "guidance rescale of arXiv 2305.08891; helps zero terminal SNR models"
    )
    width: int = key(0, "identity", "pixels; 0 is the size the model was trained at")
    height: int = key(0, "identity", "pixels; 0 is the size the model was trained at")
    dtype: Literal["float32", "float16", "bfloat16"] = key(
        "float32", "identity", "number format of the models: float16 or bfloat16 on a GPU"
    )
    batch_size: int = key(8, "identity", "images a batch; batches are always full")
    threads: int = key(1, "identity", "CPU threads a worker computes with")
    channels_last: bool = key(False, "identity", "memory layout of convolutions: which is faster depends on the GPU")
    compile: bool = key(False, "identity", "torch.compile the UNet: minutes at start, faster afterwards")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"sampler.{name} must be at least 1")
        for name in ("width", "height"):
            if getattr(self, name) < 0 or getattr(self, name) % 8:
                raise ValueError(f"sampler.{name} must be a multiple of 8, or 0 for the model's own")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint, pinned.

    name: 'mini', the hub id or the folder's own name.
    source: where a worker finds it: 'mini', the hub id or the folder's absolute path.
    revision: the hub commit, or `sha256:` and the digest of a folder.
    """

    name: str
    source: str
    revision: str
    variant: str | None = None

    def folder(self) -> Path:
        """Return the diffusers folder on this machine, downloaded into the hub's cache if need be.

        Raises UserError when the hub cannot be reached, and when a folder has changed since it was pinned.
        """
        if not self.revision.startswith("sha256:"):
            return _download(self)
        folder = MINI_FOLDER if self.source == MINI else Path(self.source)
        if not folder.is_dir():
            raise UserError(f"model folder {folder} is not on this machine; every node needs it at the same path")
        found = f"sha256:{folder_digest(folder)}"
        if found != self.revision:
            raise UserError(f"model folder {folder} changed: it was {self.revision[:19]}…, it is {found[:19]}…")
        return folder


def resolve(config: ModelConfig) -> Checkpoint:
    """Pin the checkpoint that a config names; no weights are downloaded.

    Raises UserError for a folder that is not there or not diffusers, and for a hub model that cannot be had.
    """
    if config.id == MINI:
        if not MINI_FOLDER.is_dir():
            raise UserError(f"the miniature model is missing from this installation ({MINI_FOLDER}): install again")
        return Checkpoint(MINI, MINI, f"sha256:{folder_digest(MINI_FOLDER)}")
    folder = Path(config.id).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        check_folder(folder)
        return Checkpoint(folder.name, str(folder), f"sha256:{folder_digest(folder)}", config.variant)
    if not HUB_ID.fullmatch(config.id) or folder.is_file():
        hint = " (a single-file checkpoint must first be converted to a diffusers folder)" if folder.is_file() else ""
        raise UserError(
            f"model.id={config.id}: no such folder{hint}, and not a hub id 'owner/name'; "
            "the embedded default is --set model.id=mini"
        )
    return Checkpoint(config.id, config.id, _commit(config.id, config.revision), config.variant)


def family(folder: Path) -> Family:
    """Tell SD 1.x, SD 2.x and SDXL apart by the folder's `model_index.json` and UNet config."""
    if _read_json(folder / "model_index.json").get("_class_name") == "StableDiffusionXLPipeline":
        return "sdxl"
    unet = _read_json(folder / "unet" / "config.json")
    # SD 2.x came with linear projections around its attention blocks; SD 1.x has 1x1 convolutions there.
    return "sd2" if unet.get("use_linear_projection") else "sd1"


def native_size(checkpoint: Checkpoint) -> tuple[int, int] | None:
    """Return the pixels (width, height) a checkpoint was trained at; None where it is not on this machine yet."""
    if not checkpoint.revision.startswith("sha256:"):
        return None
    folder = checkpoint.folder()
    size = _read_json(folder / "unet" / "config.json")["sample_size"]
    scale = 2 ** (len(_read_json(folder / "vae" / "config.json")["block_out_channels"]) - 1)
    height, width = (size, size) if isinstance(size, int) else size
    return width * scale, height * scale


def check_folder(folder: Path) -> None:
    """Raise UserError unless `folder` is a text-to-image diffusers folder of a family we sample, in safetensors."""
    index = _read_json(folder / "model_index.json")
    if index.get("_class_name") not in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        raise UserError(f"{folder}: {index.get('_class_name')} cannot be sampled here; SD 1.x, SD 2.x and SDXL can")
    for component in _components(folder):
        files = [path.name for path in (folder / component).glob("*")]
        if not any(name.endswith(".safetensors") for name in files):
            pickles = [name for name in files if name.endswith(PICKLES)]
            why = f"only {pickles[0]}, a pickle, which is never loaded" if pickles else "no weights"
            raise UserError(f"{folder / component}: {why}; save the model again with safe_serialization=True")
    channels = _read_json(folder / "unet" / "config.json").get("in_channels", 4)
    latent = _read_json(folder / "vae" / "config.json").get("latent_channels", 4)
    if channels != latent:
        raise UserError(f"{folder}: its UNet takes {channels} channels, so it needs more than a prompt")


def folder_digest(folder: Path) -> str:
    """Return the sha256 (hex) over every file of a diffusers folder that decides its samples.

    These are the configs, tokenizers and safetensors of the components; READMEs and safety checkers are not.
    """
    check_folder(folder)
    names = ["model_index.json"]
    for part in (*_components(folder), "scheduler", "tokenizer", "tokenizer_2"):
        names += [
            path.relative_to(folder).as_posix()
            for path in (folder / part).glob("*")
            if path.suffix in (".json", ".txt", ".safetensors")
        ]
    total = hashlib.sha256()
    for name in sorted(names):
        with (folder / name).open("rb") as file:
            total.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _components(folder: Path) -> list[str]:
    named = _read_json(folder / "model_index.json")
    return [component for component in COMPONENTS if named.get(component, [None])[0] is not None]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent}: not a diffusers folder ({path.name} is missing)") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object")
    return value


def _commit(hub_id: str, revision: str | None) -> str:
    """Return the commit that a hub revision stands for now; from the local cache where the hub cannot be asked."""
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, hf_hub_download

    try:
        sha = HfApi().model_info(hub_id, revision=revision, timeout=20).sha
    except (OSError, ValueError) as error:
        try:
            cached = hf_hub_download(hub_id, "model_index.json", revision=revision, local_files_only=True)
        except (OSError, ValueError):
            raise _unavailable(hub_id, error) from error
        sha = Path(cached).parent.name
    if not sha:
        raise UserError(f"model {hub_id}: the hub names no commit for revision {revision or 'main'}")
    return sha


def _download(checkpoint: Checkpoint) -> Path:
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()  # what goes wrong is told in one line below
    try:
        folder = DiffusionPipeline.download(
            checkpoint.source,
            revision=checkpoint.revision,
            variant=checkpoint.variant,
            use_safetensors=True,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
        )
    except (OSError, ValueError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error  # diffusers wraps what happened
        raise _unavailable(checkpoint.source, cause) from error
    check_folder(Path(folder))
    return Path(folder)


def _unavailable(hub_id: str, error: Exception) -> UserError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        why = "it is gated: accept its licence on huggingface.co and set HF_TOKEN"
    elif isinstance(error, RevisionNotFoundError):
        why = "it has no such revision"
    elif isinstance(error, RepositoryNotFoundError):
        why = "no such model, or a private one (HF_TOKEN)"
    else:
        why = f"not cached here and the hub cannot be reached ({type(error).__name__})"
    return UserError(
        f"model {hub_id}: {why}. Take the embedded default with --set model.id=mini, or copy the model "
        "(hf download ID --local-dir DIR) to this machine and give --set model.id=DIR"
    )
