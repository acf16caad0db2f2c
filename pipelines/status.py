"""Where a dataset stands, read from its folder alone: from any machine, while it grows or years later."""

from __future__ import annotations

import datetime
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from pipelines import dataset, lease, shards
from pipelines.shards import Done
from pipelines.store import Store

LEDGERS: Final = 200
"""Reasons are counted in so many shards' ledgers at most, spread evenly."""

PROGRESS: Final = "progress.json"
NOTES: Final = {"slot: surplus": " (passed, but another attempt fills the slot)"}
NAMED: Final = 10
"""Short and failed shards that are named one by one."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where a dataset stands.

    n: samples asked for. shards: all of them; shards_done: committed ones, of which `growing` hold fewer slots than
        asked now. bytes: of all committed files.
    reasons: "stage: reason" → rejected candidates, counted in `reasons_of_shards` ledgers.
    images_per_second: sampled images a wall-clock second, over the shards committed last; None where that cannot be
        told. worker_images_per_second: the same by one worker's own clock.
    eta_seconds: to the end at that speed; None while nobody works on it. drivers: who works on it now.
    gpu_seconds_per_1000, cost_per_1000: of 1,000 accepted samples, as the last driver reported them.
    short: shard → slots not filled; failed: shard → one line.
    stages: shards that each earlier stage has committed, by its folder, where there are such stages; `closed` are those
        that need them no longer.
    """

    out: str
    source: str
    identity: str
    n: int
    shards: int
    shards_done: int
    growing: int
    accepted: int
    rejected: int
    bytes: int
    reasons: dict[str, int]
    reasons_of_shards: int
    images_per_second: float | None
    worker_images_per_second: float | None
    eta_seconds: float | None
    drivers: tuple[str, ...]
    gpu_seconds_per_1000: float | None
    cost_per_1000: float | None
    short: dict[int, int]
    failed: dict[int, str]
    stages: dict[str, int]

    @property
    def accept_rate(self) -> float | None:
        """Accepted share of the candidates that were judged."""
        judged = self.accepted + self.rejected
        return self.accepted / judged if judged else None

    @property
    def complete(self) -> bool:
        """Whether every slot of every shard is filled."""
        return self.shards_done == self.shards and not (self.growing or self.short or self.failed)

    @property
    def over(self) -> bool:
        """Whether nothing more comes of itself: complete, or all is made or has failed and nobody works on it."""
        made = self.shards_done + len(self.failed) == self.shards and not self.growing
        return self.complete or (made and not self.drivers)


def read_status(out: str) -> Status:
    """Read a dataset's state. Raises UserError where `out` is no dataset."""
    store = Store(out)
    manifest = dataset.read_manifest(store)
    markers = {done.shard: done for done in shards.read_markers(store) if done.shard in manifest.shards}
    done = list(markers.values())
    missing = dataset.pending(manifest, manifest.shards, markers)
    folders = _folders(store, manifest)
    held = [*lease.live(store), *(holder for folder in folders for holder in lease.live(store.below(folder)))]
    drivers = tuple(dict.fromkeys(holder.owner for holder in held))
    progress = _read_json(store, PROGRESS)
    wall, worker = speed(done), worker_speed(done)
    if manifest.source == "laion-human":  # its time went into the stages before: those of OUT/raw and OUT/annotated
        wall = worker = None
    accepted, rejected = sum(d.accepted for d in done), sum(d.rejected for d in done)
    ledgers = _spread([d.shard for d in done if d.rejected], LEDGERS)
    left = sum(task.stop - task.start - (markers[task.index].accepted if task.extend else 0) for task in missing)
    eta = None
    if drivers and wall and accepted:
        eta = left * (accepted + rejected) / accepted / wall
    return Status(
        out=out,
        source=manifest.source,
        identity=manifest.identity_hash,
        n=manifest.n,
        shards=len(manifest.shards),
        shards_done=len(done),
        growing=sum(task.extend for task in missing),
        accepted=accepted,
        rejected=rejected,
        bytes=sum(file.bytes for d in done for file in d.files.values()),
        reasons=_reasons(store, ledgers),
        reasons_of_shards=len(ledgers),
        images_per_second=wall,
        worker_images_per_second=worker,
        eta_seconds=eta,
        drivers=drivers,
        gpu_seconds_per_1000=progress.get("gpu_seconds_per_1000"),
        cost_per_1000=progress.get("cost_per_1000"),
        short={d.shard: len(d.short) for d in done if d.short},
        failed=_failed(store, set(markers)),
        stages=_stages(store, folders, done),
    )


def _folders(store: Store, manifest: dataset.Manifest) -> list[str]:
    """The folders of stages that come before a dataset's shards."""
    if manifest.source != "laion-human":
        return []
    from pipelines.laion import stages

    return stages.folders(store)


def _stages(store: Store, folders: Sequence[str], done: Sequence[Done]) -> dict[str, int]:
    if not folders:
        return {}
    from pipelines.laion.stages import is_closed

    found = {folder: len(shards.done_indices(store.below(folder))) for folder in folders}
    return {**found, "closed": sum(map(is_closed, done))}


def speed(done: Sequence[Done]) -> float | None:
    """Candidates a wall-clock second: the 200 shards of the newest run that finished last, from start to end."""
    if not done:
        return None
    newest = max(done, key=lambda d: (d.finished, d.run)).run
    last = sorted((d for d in done if d.run == newest), key=lambda d: d.finished)[-LEDGERS:]
    began = min(_time(d) - d.seconds.get("total", 0.0) for d in last)
    span = _time(last[-1]) - began
    return sum(d.accepted + d.rejected for d in last) / span if span > 0 else None


def worker_speed(done: Sequence[Done]) -> float | None:
    """Candidates a second by one worker's own clock, over all shards."""
    seconds = sum(d.seconds.get("total", 0.0) for d in done)
    return sum(d.accepted + d.rejected for d in done) / seconds if seconds > 0 else None


def _time(done: Done) -> float:
    return datetime.datetime.fromisoformat(done.finished).timestamp()


def _spread(items: list[int], most: int) -> list[int]:
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else items


def _reasons(store: Store, indices: list[int]) -> dict[str, int]:
    def of_one(index: int) -> list[tuple[str, str]]:
        try:
            table = shards.read_table(store, "ledger", index, ["stage", "reason"])
        except FileNotFoundError:
            return []
        return list(zip(table["stage"].to_pylist(), table["reason"].to_pylist(), strict=True))

    with ThreadPoolExecutor(8) as pool:
        pairs = Counter(itertools.chain.from_iterable(pool.map(of_one, indices)))
    return {f"{stage}: {reason}": number for (stage, reason), number in pairs.most_common()}


def _failed(store: Store, committed: set[int]) -> dict[int, str]:
    found = {}
    for name in store.names("failed"):
        if name[:8].isdigit() and int(name[:8]) not in committed:
            report = _read_json(store, f"failed/{name}")
            lines = str(report.get("error") or report.get("traceback") or "no report").strip().splitlines()
            found[int(name[:8])] = lines[-1]
    return found


def _read_json(store: Store, name: str) -> dict[str, Any]:
    try:
        value = json.loads(store.read(name))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def as_json(status: Status) -> dict[str, Any]:
    """Return a status as one JSON object."""
    values = {name: getattr(status, name) for name in Status.__slots__}
    return values | {"accept_rate": status.accept_rate, "complete": status.complete}


def as_text(status: Status) -> str:
    """Return a status as lines for people."""
    percent = 100 * status.shards_done / status.shards if status.shards else 100
    lines = [
        f"{status.out}: {status.source}, identity {status.identity[:8]}",
        f"shards     {status.shards_done:,} of {status.shards:,} ({percent:.0f}%)"
        + (f", {status.growing:,} of them still to grow" if status.growing else ""),
        f"accepted   {status.accepted:,} of {status.n:,} asked for; {size(status.bytes)} on disk",
    ]
    if status.accept_rate is not None:
        lines.append(f"rejected   {status.rejected:,}: accept rate {100 * status.accept_rate:.1f}%")
    if status.stages:
        told = (f"{name} {number:,}" for name, number in status.stages.items())
        lines.insert(2, f"stages     {', '.join(told)} of {status.shards:,} shards")
    counted = sum(status.reasons.values())
    lines += [
        f"           {100 * number / counted:5.1f}%  {reason}" for reason, number in list(status.reasons.items())[:8]
    ]
    speeds = []
    if status.images_per_second:
        speeds.append(f"{status.images_per_second:.2f} images/s")
    if status.worker_images_per_second:
        speeds.append(f"{status.worker_images_per_second:.2f} images/s a worker")
    if speeds:
        lines.append("speed      " + ", ".join(speeds))
    if status.gpu_seconds_per_1000:
        cost = f", {status.cost_per_1000:,.2f} in money" if status.cost_per_1000 is not None else ""
        lines.append(f"cost       {status.gpu_seconds_per_1000:,.0f} GPU-seconds{cost} per 1,000 accepted")
    lines.append("now        " + _now(status))
    lines += _named("short", status.short, lambda slots: f"{slots} slots not filled")
    lines += _named("failed", status.failed, str)
    return "\n".join(lines)


def _now(status: Status) -> str:
    if status.drivers:
        eta = f"; ends in {duration(status.eta_seconds)}" if status.eta_seconds is not None else ""
        return "at work: " + "; ".join(status.drivers) + eta
    if status.complete:
        return "complete"
    return "nobody works on it; run the same command again to go on"


def _named(title: str, found: dict[int, Any], text: Any) -> list[str]:
    lines = [f"{title:10s} shard {shard}: {text(value)}" for shard, value in sorted(found.items())[:NAMED]]
    if len(found) > NAMED:
        lines.append(f"{title:10s} and {len(found) - NAMED:,} more shards")
    return lines


def size(count: float) -> str:
    """Return a number of bytes as text: 1.5 GB (1 GB = 10^9 bytes)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def duration(seconds: float) -> str:
    """Return a time span as text: 45 s, 12 min, 3.5 h, 4.2 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
