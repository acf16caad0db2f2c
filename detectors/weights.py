"""Every checkpoint a detector can be loaded from: where it comes from, its checksum and licence, where it is kept.

Files live in `$HUMANSD_CACHE` (default `~/.cache/humansd`). `find` never downloads; `fetch` does, unless
`HUMANSD_OFFLINE` is set. Nothing is used whose SHA-256 does not match.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from detectors.download import WeightsError as WeightsError
from detectors.download import download

Status = Literal["bundled", "cached", "missing", "damaged"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file of weights.

    task: "person" boxes, "pose" inside a given box, or "bottom-up" people and poses at once.
    sha256: the whole checksum, or its first hex digits where only those are published (mmpose names its files with the
    first eight). bytes: size of the file, None where it is not published. ap: as published, 0-100; on what is in
    `measured`. bundled: lies beside this module. config: mmengine's, of the network that the weights belong to.
    """

    name: str
    task: Literal["person", "pose", "bottom-up"]
    url: str | None
    sha256: str | None
    bytes: int | None
    licence: str
    ap: float | None
    measured: str
    bundled: bool = False
    config: str | None = None

    @property
    def file_name(self) -> str:
        """Name of the file in the cache or beside this module."""
        if self.url is None:
            return f"{self.name.replace('-', '_')}.safetensors"
        return Path(urllib.parse.urlsplit(self.url).path).name


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A network as mmengine knows it.

    config: path of a config; `mmdet::…` and `mmpose::…` lie inside the installed package, `detectors::…` beside this
    module. A config is Python and is run: take it from where you would take code. checkpoint: path of its weights,
    which are only ever read as data.
    """

    config: str
    checkpoint: Path


_MMPOSE: Final = "https://download.openmmlab.com/mmpose/"
_HUMAN_ART: Final = "weights Apache-2.0 (mmpose); trained on Human-Art, non-commercial research data"
_COCO: Final = "weights Apache-2.0 (mmpose); trained on COCO"


_RTM: Final = "v1/projects/rtmposev1/"
_TOP_DOWN: Final = "v1/body_2d_keypoint/topdown_heatmap/human_art/"


def _published(
    name: str,
    task: Literal["person", "pose", "bottom-up"],
    path: str,
    ap: float,
    measured: str,
    licence: str,
    config: str | None = None,
) -> Checkpoint:
    """A file of mmpose's model zoo; the checksum's first digits are part of its name."""
    digits = re.search(r"-([0-9a-f]{8})(_\d{8})?\.pth$", path)
    assert digits is not None, path
    return Checkpoint(name, task, _MMPOSE + path, digits[1], None, licence, ap, measured, config=config)


def _boxes(name: str, file: str, ap: float, config: str) -> Checkpoint:
    path = f"v1/projects/rtmposev1/{file}"
    return _published(name, "person", path, ap, "Human-Art validation, box AP", _HUMAN_ART, config)


def _pose(name: str, folder: str, file: str, ap: float) -> Checkpoint:
    """A network of `folder` in mmpose's configs; the file's name begins with that of its config."""
    measured = "Human-Art validation, keypoint AP in ground-truth boxes"
    config = f"mmpose::body_2d_keypoint/{folder}/humanart/{file.partition('256x192')[0]}256x192.py"
    path = (_RTM if folder == "rtmpose" else _TOP_DOWN) + file
    return _published(name, "pose", path, ap, measured, _HUMAN_ART, config)


CHECKPOINTS: Final[tuple[Checkpoint, ...]] = (
    Checkpoint(
        name="mini-pose",
        task="bottom-up",
        url=None,
        sha256="d97bbc4e3254207b291df1e05be3869dc4cf02895239dcb530e3f7682ff05ce6",
        bytes=2_962_270,
        licence="Apache-2.0; trained on figures this project draws",
        ap=80.6,
        measured="1,000 drawn pictures such as prompts ask for, keypoint AP",
        bundled=True,
    ),
    Checkpoint(
        name="mini-mm-person",
        task="person",
        url=None,
        sha256="13fc42411f674247b1ec54c1578a30d74efa1878b9d27cb539a5e8f4575e77eb",
        bytes=5_015_374,
        licence="Apache-2.0; trained on figures this project draws",
        ap=62.6,
        measured="400 drawn pictures, two fifths of them bent, turned and overlapping in any way, box AP",
        bundled=True,
        config="detectors::mini_mm_person.py",
    ),
    Checkpoint(
        name="mini-mm-pose",
        task="pose",
        url=None,
        sha256="ad27b04e7ede3ff32b6b5626754fc3ea5b6ea3e15c97de3e948e1cb08084091d",
        bytes=1_667_710,
        licence="Apache-2.0; trained on figures this project draws",
        ap=74.9,
        measured="1,000 drawn pictures such as prompts ask for, keypoint AP in mini-mm-person's boxes",
        bundled=True,
        config="detectors::mini_mm_pose.py",
    ),
    _boxes(
        "rtmdet-tiny-humanart",
        "rtmdet_tiny_8xb32-300e_humanart-7da5554e.pth",
        46.6,
        "detectors::rtmdet_tiny_humanart.py",
    ),
    _boxes("rtmdet-s-humanart", "rtmdet_s_8xb32-300e_humanart-af5bd52d.pth", 50.6, "detectors::rtmdet_s_humanart.py"),
    _boxes(
        "yolox-nano-humanart",
        "yolox_nano_8xb8-300e_humanart-40f6f0d0.pth",
        38.9,
        "mmdet::yolox/yolox_nano_8xb8-300e_coco.py",
    ),
    _boxes(
        "yolox-tiny-humanart",
        "yolox_tiny_8xb8-300e_humanart-6f3252f9.pth",
        47.7,
        "mmdet::yolox/yolox_tiny_8xb8-300e_coco.py",
    ),
    _boxes(
        "yolox-s-humanart", "yolox_s_8xb8-300e_humanart-3ef259a7.pth", 54.6, "mmdet::yolox/yolox_s_8xb8-300e_coco.py"
    ),
    _boxes(
        "yolox-m-humanart", "yolox_m_8xb8-300e_humanart-c2c7a14a.pth", 59.1, "mmdet::yolox/yolox_m_8xb8-300e_coco.py"
    ),
    _boxes(
        "yolox-l-humanart", "yolox_l_8xb8-300e_humanart-ce1d7a62.pth", 60.2, "mmdet::yolox/yolox_l_8xb8-300e_coco.py"
    ),
    _boxes(
        "yolox-x-humanart", "yolox_x_8xb8-300e_humanart-a39d44ed.pth", 61.3, "mmdet::yolox/yolox_x_8xb8-300e_coco.py"
    ),
    _pose("rtmpose-t-humanart", "rtmpose", "rtmpose-t_8xb256-420e_humanart-256x192-60b68c98_20230612.pth", 65.5),
    _pose("rtmpose-s-humanart", "rtmpose", "rtmpose-s_8xb256-420e_humanart-256x192-5a3ac943_20230611.pth", 69.8),
    _pose("rtmpose-m-humanart", "rtmpose", "rtmpose-m_8xb256-420e_humanart-256x192-8430627b_20230611.pth", 72.8),
    _pose("rtmpose-l-humanart", "rtmpose", "rtmpose-l_8xb256-420e_humanart-256x192-389f2cb0_20230611.pth", 75.3),
    _pose(
        "hrnet-w32-humanart",
        "topdown_heatmap",
        "td-hm_hrnet-w32_8xb64-210e_humanart-256x192-0773ef0b_20230614.pth",
        75.4,
    ),
    _pose(
        "hrnet-w48-humanart",
        "topdown_heatmap",
        "td-hm_hrnet-w48_8xb32-210e_humanart-256x192-05178983_20230614.pth",
        76.9,
    ),
    _pose(
        "vitpose-s-humanart",
        "topdown_heatmap",
        "td-hm_ViTPose-small_8xb64-210e_humanart-256x192-5cbe2bfc_20230611.pth",
        73.8,
    ),
    _pose(
        "vitpose-b-humanart",
        "topdown_heatmap",
        "td-hm_ViTPose-base_8xb64-210e_humanart-256x192-b417f546_20230611.pth",
        75.9,
    ),
    _pose(
        "vitpose-l-humanart",
        "topdown_heatmap",
        "td-hm_ViTPose-large_8xb64-210e_humanart-256x192-9aba9345_20230614.pth",
        78.9,
    ),
    _pose(
        "vitpose-h-humanart",
        "topdown_heatmap",
        "td-hm_ViTPose-huge_8xb64-210e_humanart-256x192-603bb573_20230612.pth",
        80.0,
    ),
    _published(
        "ae-hrnet-w32-coco",
        "bottom-up",
        "bottom_up/hrnet_w32_coco_512x512-bcb8c247_20200816.pth",
        65.6,
        "COCO val2017, keypoint AP, single scale",
        _COCO,
    ),
    Checkpoint(
        name="higherhrnet-w48-humanart",
        task="bottom-up",
        url="https://huggingface.co/suxi123/GRPose/resolve/main/models/higherhrnet_w48_humanart_512x512_udp.pth",
        sha256="7f35fdff3a92e4cf7a2bf8fc89ac4095e448345933de1d0836ef88e5dede755e",
        bytes=767_705_894,
        licence="a copy, published by others, of the file HumanSD's release used; trained on Human-Art, non-commercial",
        ap=66.4,
        measured="Human-Art validation, keypoint AP, single scale",
    ),
)


def get(name: str) -> Checkpoint:
    """Return a checkpoint by name. Raises WeightsError naming those known."""
    for checkpoint in CHECKPOINTS:
        if checkpoint.name == name:
            return checkpoint
    raise WeightsError(f"unknown checkpoint {name!r}; known: {', '.join(one.name for one in CHECKPOINTS)}")


def cache_dir() -> Path:
    """Folder of downloaded weights: $HUMANSD_CACHE, else ~/.cache/humansd."""
    return Path(os.environ.get("HUMANSD_CACHE") or "~/.cache/humansd").expanduser()


def offline() -> bool:
    """Whether $HUMANSD_OFFLINE forbids downloads (set, and neither empty, 0, false nor no)."""
    return os.environ.get("HUMANSD_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")


def path_of(checkpoint: Checkpoint) -> Path:
    """Where a checkpoint's file lies, or would lie."""
    return (Path(__file__).parent if checkpoint.bundled else cache_dir()) / checkpoint.file_name


def status(name: str) -> Status:
    """Whether the file is there and whole; reads all of it."""
    checkpoint = get(name)
    path = path_of(checkpoint)
    if not path.is_file():
        return "missing"
    if not matches(path, checkpoint.sha256):
        return "damaged"
    return "bundled" if checkpoint.bundled else "cached"


def find(name: str) -> Path:
    """Return the file of a checkpoint that is on this machine and whole; nothing is downloaded.

    Raises WeightsError that says which file to put where.
    """
    checkpoint = get(name)
    path = path_of(checkpoint)
    if not path.is_file():
        raise WeightsError(f"{name}: no weights at {path}; {_how_to_get(checkpoint, path)}")
    if not matches(path, checkpoint.sha256):
        raise WeightsError(
            f"{name}: {path} is damaged or another file (SHA-256 {digest(path)[:16]}…, expected {checkpoint.sha256}); "
            f"delete it, then {_how_to_get(checkpoint, path)}"
        )
    return path


def _how_to_get(checkpoint: Checkpoint, path: Path) -> str:
    if checkpoint.url is None:
        return "it comes with the package: install again"
    if offline():
        return f"HUMANSD_OFFLINE is set: put {checkpoint.url} there yourself, or unset it and fetch"
    return f"run `humansd models fetch {checkpoint.name}`, or put {checkpoint.url} there yourself"


def fetch(name: str, url: str | None = None, progress: Callable[[int, int | None], None] | None = None) -> Path:
    """Return the file of a checkpoint, downloading it where it is not on this machine yet.

    url: take it from there instead (a mirror); the checksum stays the published one. progress: called with bytes so far
    and in all. Raises WeightsError where it cannot be had or does not match; then nothing is left behind.
    """
    checkpoint = get(name)
    path = path_of(checkpoint)
    if path.is_file() and matches(path, checkpoint.sha256):
        return path
    source = url or checkpoint.url
    if source is None:
        raise WeightsError(f"{name}: no weights at {path}; {_how_to_get(checkpoint, path)}")
    if offline():
        raise WeightsError(f"{name}: HUMANSD_OFFLINE is set; put {source} at {path} yourself, or unset it")
    download(source, path, checkpoint.sha256, progress)
    return path


def matches(path: Path, sha256: str | None) -> bool:
    """Whether a file has this SHA-256, or one that starts with these digits; None matches any file."""
    return sha256 is None or digest(path).startswith(sha256.lower())


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
