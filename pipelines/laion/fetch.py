"""The fetch stage: candidates → OUT/raw/GENERATION/, by img2dataset's own Downloader, shard by shard.

img2dataset does what it is good at (threads, resizing, hashes, EXIF); the function it calls for one address is ours
(`pipelines.laion.web`), and so is the look at a file before it is decoded. A raw shard holds every downloaded image as
a row of the one record, without people, and every failure as a ledger row.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pipelines import shards
from pipelines.laion.blocklist import BLOCKED, Hashes, Judge
from pipelines.laion.config import FetchConfig
from pipelines.laion.optout import OptOut
from pipelines.laion.plan import read_candidates
from pipelines.laion.stages import raw_folder
from pipelines.record import KILLED_WORKER, WORKER_STAGE, LedgerRow, Origin, Sample
from pipelines.store import Store
from pipelines.taken import Takedowns, removed
from pipelines.work import ShardContext, ShardResult, ShardTask

STAGE: Final = "fetch"
UNKNOWN: Final = "fetch_error"
"""Reason of a row that made img2dataset's own code raise."""

log = logging.getLogger(__name__)

Candidate = Mapping[str, Any]
"""A row of `plan.CANDIDATES`."""


@dataclass(frozen=True)
class MakeFetchWork:
    """Builds the work on a worker. out: the dataset; hosts: `host:port` → `address:port` in place of a look-up."""

    config: FetchConfig
    out: str
    generation: int
    opt_out: OptOut
    hashes: Hashes
    hosts: Mapping[str, str] = field(default_factory=dict)

    def __call__(self) -> FetchWork:
        return FetchWork(self)


class FetchWork:
    """Makes raw shards (`pipelines.work.Work`)."""

    def __init__(self, make: MakeFetchWork) -> None:
        self._make = make
        self._store = Store(make.out)
        self._downloads = Downloads(make.config, make.opt_out, make.hashes, make.hosts)

    def __call__(self, context: ShardContext) -> ShardResult:
        task, generation = context.task, self._make.generation
        candidates = {row["key"]: row for row in wanted(self._store, task, generation)}
        before = context.previous or ShardResult()
        images = {sample.key: sample for sample in before.accepted}
        failures = {row.key: row for row in before.ledger}
        taken = Takedowns.read(self._store)
        failures |= {key: removed(key, task.index) for key in candidates if taken.names(key, candidates[key]["url"])}
        todo = [key for key in candidates if key not in images and key not in failures]
        began = time.perf_counter()
        for live in context.rounds(todo):
            for key, found in self._downloads.get([candidates[key] for key in live]).items():
                if isinstance(found, Sample):
                    images[key] = found
                else:
                    failures[key] = ledger_row(candidates[key], task, generation, STAGE, found)
        for key in task.quarantined & candidates.keys():
            failures[key] = ledger_row(candidates[key], task, generation, WORKER_STAGE, KILLED_WORKER)
        from pipelines.laion.web import is_transient

        return ShardResult(
            accepted=[images[key] for key in candidates if key in images],
            ledger=[failures[key] for key in candidates if key in failures],
            seconds={"fetch": time.perf_counter() - began},
            counts={"fetched": len(todo)},
            short=[key for key in candidates if key in failures and is_transient(failures[key].reason)],
        )


def wanted(store: Store, task: ShardTask, generation: int) -> list[Candidate]:
    """The candidates that a generation tries in a shard: all of them, later those that failed in passing before."""
    rows: Sequence[Candidate] = read_candidates(store, task.index)[: task.stop - task.start]
    if not generation:
        return list(rows)
    earlier = f"{raw_folder(generation - 1)}/{shards.done_name(task.index)}"
    failed = set(shards.parse_done(store.read(earlier)).short)
    return [row for row in rows if row["key"] in failed]


def ledger_row(candidate: Candidate, task: ShardTask, generation: int, stage: str, reason: str) -> LedgerRow:
    """The ledger row of a candidate that has no image."""
    return LedgerRow(
        key=candidate["key"],
        shard=task.index,
        attempt=generation + 1,
        stage=stage,
        reason=reason,
        measured={},
        caption=candidate["caption"],
        url=candidate["url"],
    )


class Downloads:
    """img2dataset's Downloader in this process, with our function for one address."""

    def __init__(
        self, config: FetchConfig, opt_out: OptOut, hashes: Hashes, hosts: Mapping[str, str] | None = None
    ) -> None:
        os.environ.setdefault(
            "NO_ALBUMENTATIONS_UPDATE", "1"
        )  # read on import by what resizes; no one asked it to look
        import img2dataset.downloader
        from img2dataset.resizer import Resizer

        from pipelines.laion.decode import SafeResizer
        from pipelines.laion.web import Client

        self._config = config
        self._hashes = hashes
        self._client = Client(config, opt_out, hosts)
        self._judge = Judge(config.blocklist_command) if config.blocklist_command else None
        resizer = Resizer(
            image_size=config.image_size,
            resize_mode=config.resize_mode,
            resize_only_if_bigger=config.only_if_bigger,
            encode_quality=config.quality,
            encode_format=config.format,
            skip_reencode=config.keep_encoded,
            min_image_size=config.min_size,
            max_aspect_ratio=config.max_aspect,
        )
        self._resizer = SafeResizer(resizer, config.max_pixels)
        self._module = img2dataset.downloader
        img2dataset.downloader.download_image_with_retry = self._retrieve

    def get(self, candidates: Sequence[Candidate]) -> dict[str, Sample | str]:
        """Download candidates: an image, or the reason why there is none, by key."""
        if not candidates:
            return {}
        rows: dict[int, tuple[bytes | None, dict[str, Any]]] = {}
        digits = len(str(len(candidates) - 1)) + 1

        class Rows:
            """img2dataset's sample writer: keeps the rows, whose keys count the candidates."""

            def __init__(self, *_: object) -> None: ...

            def write(self, image: bytes | None, key: str, caption: object, meta: dict[str, Any]) -> None:
                rows[int(key)] = (image, meta)

            def close(self) -> None: ...

        with tempfile.TemporaryDirectory() as folder, _quiet():
            shard = Path(folder, "shard.feather")
            with pa.OSFile(str(shard), "wb") as sink:
                table = pa.table({"url": [candidate["url"] for candidate in candidates]})
                with pa.ipc.new_file(sink, table.schema) as writer:
                    writer.write_table(table)
            downloader = self._module.Downloader(
                sample_writer_class=Rows,
                resizer=self._resizer,
                thread_count=min(self._config.threads, len(candidates)),
                save_caption=False,
                extract_exif=True,
                output_folder=folder,
                column_list=["url"],
                timeout=self._config.timeout,
                number_sample_per_shard=10**digits,
                oom_shard_count=1,
                compute_hash="sha256",
                verify_hash_type=None,
                encode_format=self._config.format,
                retries=self._config.retries,
                user_agent_token=self._config.user_agent,
                disallowed_header_directives=self._config.directives,
            )
            downloader.download_shard((0, str(shard)))
        return {
            candidate["key"]: self._result(candidate, *rows.get(number, (None, {"error_message": UNKNOWN})))
            for number, candidate in enumerate(candidates)
        }

    def _retrieve(self, row: tuple[int, str], *_: object, **__: object) -> tuple[int, io.BytesIO | None, str | None]:
        """In place of img2dataset's function for one address: (key, file, error)."""
        from pipelines.laion.web import FailedError

        key, url = row
        try:
            found = self._client.fetch(url)
        except FailedError as error:
            return key, None, error.reason
        except Exception as error:
            log.warning("%s: %s: %s", url, type(error).__name__, error)
            return key, None, UNKNOWN
        if self._hashes.files and self._hashes.match_file(hashlib.sha256(found.data).hexdigest()):
            return key, None, BLOCKED
        return key, io.BytesIO(found.data), None

    def _result(self, candidate: Candidate, image: bytes | None, meta: Mapping[str, Any]) -> Sample | str:
        if image is None:
            return str(meta["error_message"] or UNKNOWN).partition(":")[0]
        if len(self._hashes.images):
            from pipelines.images import decode_image, perceptual_hash

            if self._hashes.match_image(perceptual_hash(decode_image(image))):
                return BLOCKED
        if self._judge is not None and self._judge.blocks(meta["sha256"], image):
            return BLOCKED
        return to_sample(candidate, image, meta, self._config.format)


def to_sample(candidate: Candidate, image: bytes, meta: Mapping[str, Any], suffix: str) -> Sample:
    """A downloaded image as a row; `annotation` keeps what the record has no column for."""
    kept = {name: candidate[name] for name in ("similarity", "punsafe", "language") if candidate[name] is not None}
    exif = json.loads(meta["exif"]) if meta.get("exif") else {}
    if exif:
        kept["exif"] = exif
    return Sample(
        key=candidate["key"],
        source="laion-human",
        image=image,
        image_path=f"{candidate['key']}.{suffix}",
        width=meta["width"],
        height=meta["height"],
        caption=candidate["caption"],
        people=(),
        annotation=json.dumps(kept, sort_keys=True) if kept else None,
        origin=Origin(
            url=candidate["url"],
            page=candidate["page"],
            width=meta["original_width"],
            height=meta["original_height"],
            sha256=meta["sha256"],
            licence=candidate["licence"],
            author=candidate["author"],
        ),
        aesthetic=candidate["aesthetic"],
        watermark=candidate["pwatermark"],
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """img2dataset prints what we keep in the ledger: off stdout, which is for data."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
