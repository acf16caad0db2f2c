"""Downloading against stock img2dataset at equal output, and the whole LAION job against its stages one by one.

    python -m tests.bench.test_laion_speed [--images 300] [--rounds 5] [--candidates 400]

Needs the extra `laion`. Servers run in a process of their own: CPU seconds are those of the downloading side alone.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from PIL import Image

from pipelines.config import load_config
from pipelines.laion import job
from pipelines.laion.blocklist import Hashes
from pipelines.laion.config import LaionConfig
from pipelines.laion.optout import OptOut
from pipelines.mini import web
from tests.bench.apart import Side, apart, in_turns
from tests.bench.fetch_sides import SIDE
from tests.bench.report import Seconds, median, table, write

DELAY: Final = 0.05


@pytest.mark.bench
def test_fetching_is_as_cheap_as_img2dataset_and_stages_overlap() -> None:
    fetch, overlap = main(images=300, rounds=5, candidates=400)
    assert fetch >= 0.95
    assert overlap >= 1.3


def pictures(count: int) -> list[bytes]:
    """JPEG files of 800 x 600 px and about 100 KB: smooth ground with grain."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        ground = np.asarray(Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8)).resize((800, 600)), np.int16)
        grain = rng.normal(0, 8, (600, 800, 1)).astype(np.int16)
        file = io.BytesIO()
        Image.fromarray((ground + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        found.append(file.getvalue())
    return found


def _serve_pictures(files: list[bytes], pipe: Connection) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = files[int(self.path.strip("/").split(".")[0]) % len(files)]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(f"127.0.0.1:{server.server_address[1]}")
    pipe.recv()


def _serve_web(delay: float, pipe: Connection) -> None:
    with web.serve(delay) as address:
        pipe.send(address)
        pipe.recv()


@contextmanager
def elsewhere(target: Any, argument: Any) -> Iterator[str]:
    """Run a server in its own process; yields its address."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(argument, theirs), daemon=True)
    process.start()
    yield ours.recv()
    ours.send(None)
    process.join()


def compare_fetch(images: int, rounds: int) -> tuple[float, str]:
    """Our downloads and stock img2dataset, turn by turn: the same files, the same size, written as Parquet."""
    module = "tests.bench.fetch_sides"
    with (
        elsewhere(_serve_pictures, pictures(50)) as address,
        tempfile.TemporaryDirectory() as root,
        apart(module, "ours", address, str(images)) as ours,
        apart(module, "img2dataset", address, str(images)) as theirs,
    ):

        def fetch(side: Side, turn: int) -> Seconds:
            with tempfile.TemporaryDirectory(dir=root) as folder:
                return side(folder)

        sides = {"ours": partial(fetch, ours), "img2dataset 1.47": partial(fetch, theirs)}
        used = {name: [one.cpu for one in seconds] for name, seconds in in_turns(sides, rounds).items()}
    per_second = {name: images / median(seconds) for name, seconds in used.items()}
    ratio = median([b / a for a, b in zip(used["ours"], used["img2dataset 1.47"], strict=True)])
    lines = [(name, f"{speed:.1f}") for name, speed in per_second.items()]
    return ratio, (
        f"{images} JPEG files of 800 x 600 px from a server on this machine, resized to {SIDE} px, with SHA-256 and "
        "EXIF, written as Parquet (ours checksummed and synced to disk); each in a process of its own, memory kept "
        f"by malloc; their CPU seconds, median of {rounds} interleaved rounds. Ours over img2dataset: **{ratio:.2f}** "
        "(median of the rounds' ratios).\n\n" + table(("", "images a CPU second"), lines)
    )


def compare_stages(candidates: int) -> tuple[float, str]:
    """The whole job with its stages side by side, and one after the other."""
    from pipelines.cluster.session import ray_session
    from pipelines.engine import Runtime, run_job
    from pipelines.laion.fetch import MakeFetchWork

    seconds = {"one after the other": 0.0, "side by side": 0.0}
    overrides = ["fetch.threads=1", "fetch.retries=0", "shard_size=50", "workers=1"]
    config = load_config(LaionConfig, "mini", overrides, "laion")
    listed = [page for page in web.pages(people=candidates, empty=0, copies=0) if page.path.startswith("people/")]
    with (
        elsewhere(_serve_web, DELAY) as address,
        tempfile.TemporaryDirectory() as root,
        ray_session(Runtime(workers=2)),
    ):
        metadata = Path(root, "meta.parquet")
        web.write_metadata(metadata, listed)
        source = job.Source((str(metadata),), {f"{web.HOST}:80": address})
        whole = job.open_source

        @contextmanager
        def fixed(config: LaionConfig) -> Iterator[job.Source]:
            yield source

        job.open_source = fixed
        try:
            for turn, name in enumerate(["warm-up", *seconds]):
                out = f"{root}/{turn}"
                began = time.perf_counter()
                if name == "one after the other":
                    stages, _ = job.prepare(config, out, source)
                    make = MakeFetchWork(config.fetch, out, 0, OptOut(), Hashes(), source.hosts)
                    run_job(stages.fetch(0), make, Runtime())
                report = job.run_laion(config, out)
                assert report.exit_code == 0
                if name in seconds:
                    seconds[name] = time.perf_counter() - began
        finally:
            job.open_source = whole
    ratio = seconds["one after the other"] / seconds["side by side"]
    lines = [(name, f"{value:.1f}") for name, value in seconds.items()]
    return ratio, (
        f"{len(listed)} candidates from the small web, {1000 * DELAY:.0f} ms a request, one download at a time, one "
        f"worker for downloads and one for scores and poses. Side by side is **{ratio:.2f}** times as fast.\n\n"
        + table(("stages", "seconds"), lines)
    )


def main(images: int, rounds: int, candidates: int) -> tuple[float, float]:
    """Run and write the results; returns our speed over img2dataset's, and the overlapped stages' over the others'."""
    fetch, downloads = compare_fetch(images, rounds)
    overlap, stages = compare_stages(candidates)
    write("laion", "LAION-Human: downloads and stages", "## Download", downloads, "## Stages", stages)
    return fetch, overlap


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--candidates", type=int, default=400)
    main(**vars(parser.parse_args()))
