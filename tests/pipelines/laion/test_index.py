"""Candidates by text: an index that clip-retrieval builds from mini-CLIP's embeddings, asked for words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.clip import ClipScorer
from pipelines.config import UserError, load_config
from pipelines.images import decode_image
from pipelines.laion import index, job
from pipelines.laion.config import IndexConfig, LaionConfig
from pipelines.mini import web


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("index")
    pictures = web.Pictures()
    listed = [page for page in web.pages() if page.path.startswith(("people/", "empty/"))]
    images = [decode_image(pictures.get(page.path) or b"") for page in listed]
    (root / "emb/img_emb").mkdir(parents=True)
    (root / "emb/metadata").mkdir()
    np.save(root / "emb/img_emb/img_emb_0.npy", ClipScorer().images(images).astype(np.float16))
    urls = [f"http://{web.HOST}/{page.path}" for page in listed]
    table = pd.DataFrame({"url": urls, "caption": [page.caption for page in listed]})
    table.to_parquet(root / "emb/metadata/metadata_0.parquet")
    index.build(root / "emb", root / "index")
    return root / "index"


def test_the_most_similar_pictures_are_found(folder: Path) -> None:
    config = IndexConfig(queries=("a stained glass window of a man",), per_query=8, min_similarity=0.0)
    found = index.search(folder, ClipScorer(), config).to_pydict()
    assert 0 < len(found["url"]) <= 8
    assert found["text_similarity"] == sorted(found["text_similarity"], reverse=True)
    captions = {f"http://{web.HOST}/{page.path}": page.caption for page in web.pages()}
    glass = sum("stained glass" in captions[url] for url in found["url"])
    assert glass >= len(found["url"]) - 2  # of 144 pictures, 11 are


def test_only_what_is_found_becomes_a_candidate(folder: Path) -> None:
    overrides = [
        f"index.folder={folder}",
        "index.per_query=5",
        "index.min_similarity=0.1",
        "index.queries=['a sketch']",
    ]
    found = job.plan_laion(load_config(LaionConfig, "mini", overrides, "laion"))
    assert 0 < found["candidates"] <= 5
    assert found["funnel"]["index"] <= 5


def test_mistakes_say_what_to_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds an index already"):
        index.build(folder.parent / "emb", folder)
    with pytest.raises(UserError, match="no embeddings in img_emb"):
        index.build(tmp_path, tmp_path / "index")
    with pytest.raises(UserError, match="humansd laion index"):
        index.search(tmp_path, ClipScorer(), IndexConfig())
