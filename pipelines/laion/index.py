"""Candidates by text, through a clip-retrieval index: build one from embeddings, or ask one that is there.

An index folder is clip-retrieval's own: `image.index` (faiss) beside `metadata/` (Parquet, one row an embedding) or
`metadata.hdf5`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from pipelines.config import UserError
from pipelines.laion.config import IndexConfig

if TYPE_CHECKING:
    from pipelines.laion.score import Clip

SCENES: Final = (
    "acrobatics",
    "cosplay",
    "dance",
    "drama",
    "movie",
    "cartoon",
    "digital art",
    "ink painting",
    "kids drawing",
    "mural",
    "oil painting",
    "shadow play",
    "sketch",
    "stained glass",
    "ukiyo-e",
    "watercolor",
    "garage kit",
    "relief",
    "sculpture",
    "photograph",
)
FOUND: Final = pa.schema([("url", pa.string()), ("text_similarity", pa.float32())])
"""What a search returns: one row a url, with its best similarity (cosine) to any of the texts."""


def queries(config: IndexConfig) -> tuple[str, ...]:
    """The texts to look for: those given, or people in each scene."""
    return config.queries or tuple(f"{scene} of {who}" for scene in SCENES for who in ("a person", "people"))


def build(embeddings: Path, folder: Path, memory_gb: int = 4) -> None:
    """Build an index folder from clip-retrieval's embeddings (`img_emb/`, `metadata/`), by clip-retrieval itself.

    memory_gb: what the finished index may take in memory; making it may take four times as much. Raises UserError where
    there are no embeddings or that is not enough.
    """
    if not list((embeddings / "img_emb").glob("*.npy")):
        raise UserError(f"{embeddings}: no embeddings in img_emb/; make them with clip-retrieval inference")
    if not list((embeddings / "metadata").glob("*.parquet")):
        raise UserError(f"{embeddings}: no metadata/*.parquet beside the embeddings")
    if (folder / "image.index").exists():
        raise UserError(f"{folder}: holds an index already; take another folder")
    from clip_retrieval.clip_index import clip_index

    folder.mkdir(parents=True, exist_ok=True)
    clip_index(
        str(embeddings),
        str(folder),
        max_index_memory_usage=f"{memory_gb}G",
        current_memory_available=f"{4 * memory_gb}G",
        copy_metadata=False,
    )
    if not (folder / "image.index").exists():  # autofaiss says why on stderr and goes on
        raise UserError(f"{folder}: no index came out of it; give it more with --memory-gb")
    shutil.copytree(embeddings / "metadata", folder / "metadata", dirs_exist_ok=True)


def search(folder: Path, clip: Clip, config: IndexConfig) -> pa.Table:
    """Look for every text in an index: a table of `FOUND`, most similar first, ties by url.

    Raises UserError where the folder holds no index, no url, or one of another CLIP.
    """
    from clip_retrieval.clip_back import load_index

    if not (folder / "image.index").exists():
        raise UserError(f"index.folder = {str(folder)!r}: no image.index in it; `humansd laion index` builds one")
    index = load_index(str(folder / "image.index"), enable_faiss_memory_mapping=True)
    texts = clip.texts(queries(config))
    if texts.shape[1] != index.d:
        raise UserError(
            f"index.folder = {str(folder)!r} holds vectors of {index.d} values, index.clip_model gives {texts.shape[1]}"
        )
    similarities, numbers = index.search(np.ascontiguousarray(texts), min(config.per_query, index.ntotal))
    best: dict[int, float] = {}
    for similarity, number in zip(similarities.reshape(-1), numbers.reshape(-1), strict=True):
        if number >= 0 and similarity >= config.min_similarity:
            best[int(number)] = max(best.get(int(number), -1.0), float(similarity))
    urls = _urls(folder, sorted(best))
    by_url: dict[str, float] = {}
    for number, url in urls.items():
        by_url[url] = max(by_url.get(url, -1.0), best[number])
    ranked = sorted(by_url.items(), key=lambda item: (-item[1], item[0]))
    return pa.table({"url": [url for url, _ in ranked], "text_similarity": [s for _, s in ranked]}, schema=FOUND)


def _urls(folder: Path, numbers: Sequence[int]) -> dict[int, str]:
    """The url of each embedding that has one, in whatever case the metadata writes the column."""
    from clip_retrieval.clip_back import Hdf5MetadataProvider, ParquetMetadataProvider

    hdf5 = folder / "metadata.hdf5"
    provider = Hdf5MetadataProvider(str(hdf5)) if hdf5.exists() else ParquetMetadataProvider(str(folder / "metadata"))
    found: dict[int, str] = {}
    for number, row in zip(numbers, provider.get(numbers), strict=True):
        url = _url(row)
        if url is not None:
            found[number] = url
    if numbers and not found:
        raise UserError(f"index.folder = {str(folder)!r}: its metadata has no url")
    return found


def _url(row: dict[str, Any]) -> str | None:
    value = next((value for name, value in row.items() if name.lower() == "url"), None)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) and value else None
