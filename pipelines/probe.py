"""A look before a long job: 200 prompts through the real models on this machine, in at most five minutes.

Prompts are spread evenly over scenes and numbers of people, first attempts only. What is timed is what a worker does
for a shard: sampling, decoding, encoding, detection and gates, overlapped where a worker overlaps them.
"""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from pipelines.config import UserError
from pipelines.ghi.candidates import CandidateMaker, Row
from pipelines.ghi.config import GhiConfig
from pipelines.ghi.job import prepare
from pipelines.ghi.outcomes import Outcome
from pipelines.ghi.slots import Candidate
from pipelines.ghi.stage import GhiWork
from pipelines.measured import Cell, Measured
from prompts.grammar import Grammar
from prompts.sampling import prompt_at

PROMPTS = 200
SECONDS = 240.0
"""No batch starts later than this; with loading and the last batch a probe stays below five minutes."""

SEARCHED = 20_000
"""Slots that are looked through for prompts of every scene and number of people."""


def run_probe(config: GhiConfig) -> Measured:
    """Measure a config on this machine. Raises UserError where its models cannot be had or run here."""
    start = time.perf_counter()
    print("probe: loading the models", file=sys.stderr, flush=True)
    work = prepare(config)()
    loaded = time.perf_counter() - start
    return probe(work, PROMPTS, max(SECONDS - loaded, SECONDS / 4), loaded)


def probe(work: GhiWork, prompts: int, seconds: float, load_seconds: float) -> Measured:
    """Measure loaded models on at least `prompts` prompts (whole batches), or as many as fit into `seconds`."""
    start = time.perf_counter()
    maker = work.maker
    memory = _memory(maker, stop=start + seconds / 4)
    run = _Probe(maker, work.overlap)
    size = maker.sampler.batch_size
    run.run(stratified(maker.grammar, maker.config.seed, -(-prompts // size) * size), start + seconds)
    return run.measured(memory, load_seconds)


def stratified(grammar: Grammar, seed: int, count: int) -> list[int]:
    """Return `count` slots that go round all scenes and numbers of people: any prefix is as even as it can be."""
    wanted = -(-count // (3 * len(grammar.scenes)))
    found: dict[Cell, list[int]] = defaultdict(list)
    for index in range(SEARCHED):
        prompt = prompt_at(grammar, seed, index)
        cell = found[prompt.scene, prompt.num_people]
        if len(cell) < wanted:
            cell.append(index)
        if len(found) == 3 * len(grammar.scenes) and all(len(slots) == wanted for slots in found.values()):
            break
    rounds = [[slots[i] for _, slots in sorted(found.items()) if i < len(slots)] for i in range(wanted)]
    return [index for one in rounds for index in one][:count]


class _Probe:
    """Runs full batches and counts what became of each candidate; the models are warm already."""

    def __init__(self, maker: CandidateMaker, overlap: bool) -> None:
        self.maker = maker
        self.overlap = overlap
        self.cells: dict[Cell, tuple[int, int]] = {}
        self.seconds: list[float] = []
        self.images: list[int] = []
        self.bytes: dict[bool, list[int]] = {True: [], False: []}

    def run(self, slots: list[int], stop: float) -> None:
        """Run the slots' first attempts; no batch starts after `stop` (by `time.perf_counter`)."""
        last = time.perf_counter()
        self.maker.steps.seconds = {}
        with ThreadPoolExecutor(1) as pool:
            waiting: tuple[list[Row], Future[list[Outcome]]] | None = None
            for batch in self._batches(slots):
                rows = self.maker.draw(batch)
                future = pool.submit(self.maker.finish, rows, 0)
                if not self.overlap:
                    future.result()
                if waiting is not None:
                    self._count(*waiting)
                waiting = rows, future
                now = time.perf_counter()
                self.seconds.append(now - last)
                self.images.append(len(batch))
                last = now
                if sys.stderr.isatty():
                    print(f"\rprobe: {sum(self.images)} of {len(slots)} images", end="", file=sys.stderr, flush=True)
                if now > stop:
                    break
            if waiting is not None:
                self._count(*waiting)
                self.seconds[-1] += time.perf_counter() - last
        end = "\r" if sys.stderr.isatty() else ""
        print(f"{end}probe: {sum(self.images)} images drawn in {sum(self.seconds):.0f} s", file=sys.stderr, flush=True)

    def _batches(self, slots: list[int]) -> Iterator[list[Candidate]]:
        size = self.maker.sampler.batch_size
        for start in range(0, len(slots), size):
            yield [Candidate(slot, 1) for slot in slots[start : start + size]]

    def _count(self, rows: list[Row], future: Future[list[Outcome]]) -> None:
        for row, outcome in zip(rows, future.result(), strict=True):
            cell = (row.prompt.scene, row.prompt.num_people)
            accepted, judged = self.cells.get(cell, (0, 0))
            self.cells[cell] = (accepted + outcome.passed, judged + 1)
            if row.failure is None:
                self.bytes[outcome.passed].append(len(row.image))

    def measured(self, memory: dict[int, int], loaded: float) -> Measured:
        """Return what was counted."""
        mean = {passed: sum(sizes) / len(sizes) if sizes else 0.0 for passed, sizes in self.bytes.items()}
        return Measured(
            cells=self.cells,
            seconds=tuple(self.seconds),
            images=tuple(self.images),
            bytes_accepted=mean[True],
            bytes_rejected=mean[False],
            memory=memory,
            load_seconds=loaded,
            device=device_name(self.maker.sampler.device),
            stages={name: seconds / sum(self.images) for name, seconds in self.maker.steps.seconds.items()},
        )


def _memory(maker: CandidateMaker, stop: float) -> dict[int, int]:
    """Return batch size → peak bytes: on a GPU for half, the whole and twice the batch, on a CPU the process's peak."""
    sampler = maker.sampler
    size = sampler.batch_size
    if sampler.device.type != "cuda":
        maker.finish(maker.draw([Candidate(0, 1)]), 0)
        return {size: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    found = {}
    try:
        for batch in sorted({max(1, size // 2), size, 2 * size}):
            sampler.batch_size = batch
            torch.cuda.reset_peak_memory_stats(sampler.device)
            maker.finish(maker.draw([Candidate(slot, 1) for slot in range(batch)]), 0)
            found[batch] = torch.cuda.max_memory_allocated(sampler.device)
            if batch >= size and time.perf_counter() > stop:
                break
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
    finally:
        sampler.batch_size = size
    if size not in found:
        raise UserError(f"a batch of {size} does not fit into this GPU: --set sampler.batch_size={max(1, size // 2)}")
    return found


def device_name(device: torch.device) -> str:
    """Return what the figures were measured on, in words."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as info:  # noqa: PTH123
        model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), model)
    return f"{torch.get_num_threads()} thread of {model}"
