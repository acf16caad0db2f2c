"""Memory of the plan stage as the metadata grows: a made-up table of so many rows, filtered, counted, frozen.

    python -m tests.bench.test_laion_plan [--rows 1000000 3000000 10000000] [--memory-mb 500]

Each measurement runs in a process of its own, whose highest resident memory is what the kernel says (`ru_maxrss`).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import pytest

from tests.bench.report import table, write

FILES: Final = 10
ROOT: Final = Path(__file__).resolve().parents[2]
ROWS: Final = """
SELECT 'https://host-' || (i * 7919 % 100003) || '.example.org/images/' || md5(i::VARCHAR) || '.jpg' AS url,
       'a photo of ' || (i % 9) || ' people, ' || md5((i + 1)::VARCHAR) || ' ' || md5((i + 2)::VARCHAR) AS caption,
       (200 + hash(i) % 1400)::INTEGER AS width, (200 + hash(i + 1) % 1400)::INTEGER AS height,
       0.2 + (hash(i + 2) % 2000) / 10000.0 AS similarity, (hash(i + 3) % 1000) / 1000.0 AS punsafe,
       (hash(i + 4) % 1000) / 1000.0 AS pwatermark, 3 + (hash(i + 5) % 5000) / 1000.0 AS aesthetic
FROM (SELECT unnest(range({start}, {stop})) AS n), LATERAL (SELECT n - n % 20 * (n % 2) AS i)
"""
"""Every fortieth row or so has an address that is there already."""


@pytest.mark.bench
def test_memory_stays_flat_as_the_metadata_grows() -> None:
    peaks = main([1_000_000, 3_000_000, 10_000_000], 500)
    assert max(peaks[-2:]) <= 1.25 * max(peaks[:2])


def make(folder: Path, rows: int) -> None:
    """Write so many rows as Parquet."""
    import duckdb

    each = rows // FILES
    for number in range(FILES):
        query = ROWS.format(start=number * each, stop=(number + 1) * each)
        duckdb.connect().execute(f"COPY ({query}) TO '{folder}/{number}.parquet' (FORMAT parquet)")


def measure(what: str, folder: str, out: str, memory_mb: int) -> dict[str, float]:
    """Run the dry run or the plan stage in this process: seconds, megabytes, candidates."""
    from pipelines.config import load_config
    from pipelines.laion.config import LaionConfig
    from pipelines.laion.job import plan_laion
    from pipelines.laion.plan import make_plan, metadata_files
    from pipelines.store import Store

    overrides = [f"metadata.files=['{folder}']", f"metadata.memory_mb={memory_mb}", f"metadata.scratch={out}"]
    overrides += [f"filter.{name}=none" for name in ("max_punsafe", "max_pwatermark", "max_aspect")]
    config = load_config(LaionConfig, "relaion2b", [*overrides, "filter.min_size=256"], "laion")
    began = time.perf_counter()
    if what == "dry run":
        candidates = plan_laion(config)["candidates"]
    else:
        candidates = make_plan(config, Store(out), metadata_files(config.metadata.files)).candidates
    return {"seconds": time.perf_counter() - began, "megabytes": peak(), "candidates": candidates}


def peak() -> float:
    """The highest resident memory of this process so far, megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main(sizes: list[int], memory_mb: int) -> list[float]:
    """Run and write the results; returns the megabytes of each size's dry run and plan, in turn."""
    lines, peaks = [], []
    with tempfile.TemporaryDirectory() as root:
        for rows in sizes:
            folder = Path(root, str(rows))
            folder.mkdir()
            make(folder, rows)
            size = sum(path.stat().st_size for path in folder.iterdir())
            for what in ("dry run", "plan"):
                out = Path(root, f"out-{rows}-{what[:3]}")
                out.mkdir()
                command = [
                    sys.executable,
                    "-m",
                    "tests.bench.test_laion_plan",
                    "--measure",
                    what,
                    str(folder),
                    str(out),
                ]
                done = subprocess.run(
                    [*command, "--memory-mb", str(memory_mb)], cwd=ROOT, check=True, capture_output=True, text=True
                )
                found = json.loads(done.stdout.splitlines()[-1])
                lines.append(
                    (f"{rows:,}", f"{size / 1e6:,.0f}", what, f"{found['candidates']:,}", f"{found['seconds']:.1f}",
                     f"{found['megabytes']:,.0f}")
                )  # fmt: skip
                peaks.append(found["megabytes"])
    write(
        "laion_plan",
        "LAION-Human: memory of the plan stage",
        f"A made-up table in {FILES} Parquet files, with the columns of Re-LAION; DuckDB may take {memory_mb} MB "
        "(`metadata.memory_mb`) and uses the disk beyond that. Each line is a process of its own; its highest resident "
        "memory includes Python and its libraries. `dry run` counts the funnel, `plan` also sorts the candidates and "
        "freezes them.",
        table(("rows", "MB on disk", "what", "candidates", "seconds", "peak memory, MB"), lines),
    )
    return peaks


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--memory-mb", type=int, default=500)
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "FOLDER", "OUT"), help="for the processes it starts")
    given = parser.parse_args()
    if given.measure:
        what, folder, out = given.measure
        print(json.dumps(measure(what, folder, out, given.memory_mb)))
    else:
        main(given.rows, given.memory_mb)
