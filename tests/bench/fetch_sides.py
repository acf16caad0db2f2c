"""The two sides of the download benchmark: each downloads images into the folders it is told.

    python -m tests.bench.fetch_sides ours|img2dataset ADDRESS IMAGES

`img2dataset` loads nothing of ours: `pipelines` would choose Arrow's pool of memory for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.bench.apart import answer

SIDE: Final = 512
THREADS: Final = 16
Run = Callable[[Path], None]


def ours(address: str, images: int) -> Run:
    """Our downloads, committed as a shard."""
    from pipelines import shards
    from pipelines.config import load_config
    from pipelines.laion.blocklist import Hashes
    from pipelines.laion.config import LaionConfig
    from pipelines.laion.fetch import Downloads
    from pipelines.laion.optout import OptOut
    from pipelines.laion.plan import CANDIDATES
    from pipelines.record import Sample
    from pipelines.store import Store
    from pipelines.work import ShardResult, ShardTask
    from tests.pipelines.toy import HASH

    blank = dict.fromkeys(CANDIDATES.names)
    rows = [
        {**blank, "key": f"laion-{number:016x}", "url": url, "caption": "a man"}
        for number, url in enumerate(addresses(address, images))
    ]
    overrides = [f"fetch.allow_hosts=['{address}']", f"fetch.image_size={SIDE}", f"fetch.per_host={THREADS}"]
    overrides += [f"fetch.threads={THREADS}", "fetch.keep_encoded=false"]
    downloads = Downloads(load_config(LaionConfig, "mini", overrides, "laion").fetch, OptOut(), Hashes())

    def run(folder: Path) -> None:
        found = downloads.get(rows)
        samples = [sample for sample in found.values() if isinstance(sample, Sample)]
        assert len(samples) == images, found
        shards.commit(Store(str(folder)), ShardTask(0, 0, images, 1), ShardResult(accepted=samples), HASH, "bench")

    return run


def img2dataset(address: str, images: int) -> Run:
    """img2dataset as it comes, writing its own Parquet."""
    import pyarrow as pa
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import ParquetSampleWriter

    assert "pipelines" not in sys.modules
    resizer = Resizer(SIDE, "keep_ratio", True, encode_quality=95, encode_format="jpg")
    names: dict[str, Any] = {"save_caption": False, "extract_exif": True, "compute_hash": "sha256"}
    names |= {"verify_hash_type": None, "encode_format": "jpg", "retries": 1, "timeout": 5}
    names |= {"user_agent_token": "humansd", "disallowed_header_directives": ["noai"]}
    urls = pa.table({"url": addresses(address, images)})

    def run(folder: Path) -> None:
        feather = folder / "shard.feather"
        with pa.OSFile(str(feather), "wb") as sink, pa.ipc.new_file(sink, urls.schema) as out:
            out.write_table(urls)
        loader = Downloader(
            ParquetSampleWriter, resizer, THREADS, output_folder=str(folder), column_list=["url"],
            number_sample_per_shard=images, oom_shard_count=1, **names,
        )  # fmt: skip
        loader.download_shard((0, str(feather)))

    return run


def addresses(address: str, images: int) -> list[str]:
    """The images' URLs."""
    return [f"http://{address}/{number}.jpg" for number in range(images)]


if __name__ == "__main__":
    side: Run = {"ours": ours, "img2dataset": img2dataset}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
    answer(lambda folder: side(Path(folder)))
