"""Jobs on the small web, all of one size, and what they leave."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipelines import shards
from pipelines.config import load_config
from pipelines.laion.config import LaionConfig

N = 100
SIZE = 50


def config(*overrides: str) -> LaionConfig:
    return load_config(LaionConfig, "mini", [f"n={N}", f"shard_size={SIZE}", *overrides], "laion")


def tables(out: Path, *folders: str) -> dict[str, bytes]:
    """Every Parquet file of a dataset, or those of some folders, by its path."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("**/*.parquet"))}
    return {name: data for name, data in found.items() if not folders or name.partition("/")[0] in folders}


def shard_tables(out: Path) -> dict[str, bytes]:
    return tables(out, *shards.FOLDERS)


def ledger(out: Path) -> pd.DataFrame:
    return pd.concat(pd.read_parquet(path) for path in sorted((out / "ledger").glob("*.parquet")))
