"""The work of a shard, with a tiny random diffusion model and a detector that finds people by the pixels' sum."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from detectors.types import Person
from pipelines.checkpoint import ModelConfig, SamplerConfig, resolve
from pipelines.clip import ClipScorer
from pipelines.gates import GatesConfig
from pipelines.ghi.candidates import CandidateMaker
from pipelines.ghi.config import GhiConfig, OutputConfig, ScoreConfig
from pipelines.ghi.stage import GhiWork
from pipelines.images import decode_image, perceptual_hash
from pipelines.record import KILLED_WORKER, WORKER_STAGE, ledger_to_table, rejected_to_table, samples_to_table
from pipelines.sampling import Sampler
from pipelines.taken import Entry, Takedowns, unsettled
from pipelines.work import ShardCancelledError, ShardContext, ShardResult, ShardTask
from prompts.grammar import Grammar, load_grammar
from prompts.sampling import prompt_at
from tests.pipelines.tiny_models import SIZE, build_tiny

HASH = "0123456789abcdef" * 4
BATCH = 4


class PixelDetector:
    """Finds one to three people, or nobody, as the pixels say: deterministic, and knows nothing of batches."""

    name = "pixels"

    def __init__(self) -> None:
        self.seen: list[NDArray[np.uint8]] = []

    def detect(self, images: list[NDArray[np.uint8]]) -> list[tuple[Person, ...]]:
        self.seen += images
        return [self._people((1, 1, 1, 2, 0, 3)[zlib.crc32(image.tobytes()) % 6]) for image in images]

    def _people(self, count: int) -> tuple[Person, ...]:
        keypoints = np.tile(np.array([10.0, 12.0, 0.75], np.float32), (17, 1))
        return tuple(Person((4.0, 2.0 + i, 16.0, 20.0), 0.9, 160.0, keypoints) for i in range(count))


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return load_grammar()


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    torch.set_num_threads(1)
    folder = build_tiny(tmp_path_factory.mktemp("models") / "tiny", "sd1")
    return load(folder)


def load(folder: Path) -> Sampler:
    return Sampler(resolve(ModelConfig(id=str(folder))), SamplerConfig(steps=1, guidance=1.0, batch_size=BATCH))


Build = Callable[..., GhiWork]


@pytest.fixture(scope="module")
def build(grammar: Grammar, sampler: Sampler) -> Build:
    def make(
        overlap: bool = False, detector: PixelDetector | None = None, clip: ClipScorer | None = None, **options: object
    ) -> GhiWork:
        settings = {"gates": GatesConfig(max_nsfw=None), "output": OutputConfig("png")} | options
        config = GhiConfig(sampler=sampler.config, **settings)  # type: ignore[arg-type]
        maker = CandidateMaker(config, grammar, sampler, detector or PixelDetector(), HASH, clip)
        return GhiWork(maker, overlap)

    return make


@pytest.fixture(scope="module")
def fresh(build: Build) -> ShardResult:
    """The shard of `task()`, made at once and undisturbed."""
    return build()(ShardContext(task()))


def task(stop: int = 12, max_attempts: int = 4, **options: object) -> ShardTask:
    return ShardTask(3, 100, 100 + stop, max_attempts, **options)  # type: ignore[arg-type]


def key(slot: int) -> str:
    return f"ghi-01234567-{slot}"


def assert_same(left: ShardResult, right: ShardResult) -> None:
    assert samples_to_table(left.accepted).equals(samples_to_table(right.accepted))
    assert rejected_to_table(left.rejected).equals(rejected_to_table(right.rejected))
    assert ledger_to_table(left.ledger).equals(ledger_to_table(right.ledger))
    assert left.short == right.short


def test_slots_are_filled_or_named(fresh: ShardResult, grammar: Grammar) -> None:
    result = fresh
    filled = [sample.key for sample in result.accepted]
    assert set(filled) | set(result.short) == {key(slot) for slot in range(100, 112)}
    assert not set(filled) & set(result.short)
    assert filled == sorted(filled)
    for sample in result.accepted:
        assert sample.prompt is not None
        assert sample.generation is not None
        slot, attempt = int(sample.key.rpartition("-")[2]), sample.generation.attempt
        assert sample.caption == prompt_at(grammar, 0, slot, attempt).text
        assert len(sample.people) == sample.prompt["num_people"]
        assert (sample.width, sample.height) == (SIZE, SIZE)
        before = [row.attempt for row in result.ledger if row.key == sample.key and row.attempt < attempt]
        assert before == list(range(1, attempt))
    for name in result.short:
        assert [row.attempt for row in result.ledger if row.key == name] == [1, 2, 3, 4]
    assert {row.shard for row in result.ledger} == {3}
    assert [(row.key, row.attempt) for row in result.ledger] == [(r.sample.key, r.attempt) for r in result.rejected]
    assert result.counts["sampled"] == len(result.accepted) + len(result.ledger)


def test_ledger_names_the_gate_and_what_it_saw(fresh: ShardResult) -> None:
    ledger = fresh.ledger
    rejected = [row for row in ledger if row.stage == "people_count"]
    assert {row.reason for row in rejected} <= {"nobody", "too_few", "too_many"}
    assert all(row.found_people != row.asked_people for row in rejected)
    assert all(row.measured["people"] == row.found_people for row in rejected)


def test_passed_attempts_beyond_the_first_are_surplus(build: Build) -> None:
    result = build(gates=GatesConfig(max_nsfw=None, people_count=False))(ShardContext(task(3)))
    assert [sample.key for sample in result.accepted] == [key(100), key(101), key(102)]
    assert [(row.key, row.attempt, row.stage, row.reason) for row in result.ledger] == [
        (key(100), 2, "slot", "surplus")
    ]
    assert [(row.attempt, row.stage) for row in result.rejected] == [(2, "slot")]


def test_two_workers_and_overlapping_threads_give_the_same_bytes(build: Build, fresh: ShardResult) -> None:
    assert_same(fresh, build()(ShardContext(task())))
    assert_same(fresh, build(overlap=True)(ShardContext(task())))


def test_a_worker_carries_nothing_from_shard_to_shard(build: Build, fresh: ShardResult) -> None:
    work = build()
    work(ShardContext(ShardTask(0, 0, 5, 4)))
    assert_same(work(ShardContext(task())), fresh)


@pytest.mark.parametrize(
    ("before", "after"), [((5, 4), (12, 4)), ((12, 2), (12, 5)), ((1, 1), (12, 6)), ((11, 4), (12, 4))]
)
def test_a_grown_shard_equals_one_made_at_once(build: Build, before: tuple[int, int], after: tuple[int, int]) -> None:
    short = build()(ShardContext(task(*before)))
    grown = build()(ShardContext(task(*after, extend=True), previous=through_disk(short)))
    fresh = build()(ShardContext(task(*after)))
    assert_same(grown, fresh)
    assert grown.counts["reused"] > 0
    assert grown.counts["reused"] + grown.counts["sampled"] == fresh.counts["sampled"]


def through_disk(result: ShardResult) -> ShardResult:
    from pipelines.record import table_to_ledger, table_to_rejected, table_to_samples

    return ShardResult(
        accepted=table_to_samples(samples_to_table(result.accepted)),
        rejected=table_to_rejected(rejected_to_table(result.rejected)),
        ledger=table_to_ledger(ledger_to_table(result.ledger)),
        short=result.short,
    )


@pytest.mark.parametrize("slot", [100, 103, 105])
def test_a_shard_grown_after_a_takedown_equals_one_made_at_once(build: Build, fresh: ShardResult, slot: int) -> None:
    taken = Takedowns((Entry("key", key(slot)),))
    short = taken.apply(build()(ShardContext(task(6, 1))), 3)
    grown = build()(ShardContext(task(extend=True), previous=unsettled(through_disk(short))))
    assert_same(taken.apply(grown, 3), taken.apply(fresh, 3))


def test_growing_samples_nothing_again(build: Build) -> None:
    short = build()(ShardContext(task(5)))
    detector = PixelDetector()
    grown = build(detector=detector)(ShardContext(task(12, extend=True), previous=short))
    assert len(detector.seen) == grown.counts["sampled"]
    old = {perceptual_hash(decode_image(sample.image or b"")) for sample in short.accepted}
    assert not old & {perceptual_hash(image) for image in detector.seen}


def test_growing_without_anything_to_do_samples_nothing(build: Build, fresh: ShardResult) -> None:
    again = build()(ShardContext(task(extend=True), previous=fresh))
    assert_same(fresh, again)
    assert again.counts["sampled"] == 0


def test_a_quarantined_attempt_is_lost_and_nothing_else(build: Build, fresh: ShardResult) -> None:
    victim = fresh.accepted[2]
    assert victim.generation is not None
    name = f"{victim.key}#{victim.generation.attempt}"
    result = build()(ShardContext(task(quarantined=frozenset({name}))))
    lost = [row for row in result.ledger if row.stage == WORKER_STAGE]
    assert [(row.key, row.attempt, row.reason) for row in lost] == [
        (victim.key, victim.generation.attempt, KILLED_WORKER)
    ]
    assert lost[0].caption == victim.caption
    others = [sample for sample in result.accepted if sample.key != victim.key]
    expected = [sample for sample in fresh.accepted if sample.key != victim.key]
    assert samples_to_table(others).equals(samples_to_table(expected))


def test_looking_for_a_killer_changes_no_byte(build: Build, fresh: ShardResult) -> None:
    notes: list[list[str]] = []
    names = frozenset(f"{key(slot)}#1" for slot in (101, 104, 107))
    context = ShardContext(task(isolate=names), leave_breadcrumb=lambda keys, rounds: notes.append(list(keys)))
    assert_same(build(overlap=True)(context), fresh)
    assert all([name] in notes for name in names)


def test_breadcrumbs_name_the_attempts_before_they_run(build: Build) -> None:
    notes: list[list[str]] = []
    detector = PixelDetector()
    seen: list[int] = []

    def leave(keys: Sequence[str], rounds: int) -> None:
        notes.append(list(keys))
        seen.append(len(detector.seen))

    build(detector=detector)(ShardContext(task(), leave_breadcrumb=leave))
    assert notes[0] == [f"{key(slot)}#1" for slot in range(100, 104)]
    assert seen[:2] == [0, 4]


def test_a_lost_lease_stops_the_shard(build: Build) -> None:
    def check() -> None:
        raise ShardCancelledError("somebody else has the shard")

    with pytest.raises(ShardCancelledError):
        build(overlap=True)(ShardContext(task(), check_lease=check))


class FailingDetector(PixelDetector):
    """Raises when it sees one particular image, or any."""

    def __init__(self, fatal: NDArray[np.uint8] | None) -> None:
        super().__init__()
        self.fatal = fatal

    def detect(self, images: list[NDArray[np.uint8]]) -> list[tuple[Person, ...]]:
        if self.fatal is None or any(np.array_equal(image, self.fatal) for image in images):
            raise RuntimeError("cannot look at this")
        return super().detect(images)


def test_a_row_that_raises_is_a_ledger_row(build: Build, fresh: ShardResult) -> None:
    victim = fresh.accepted[1]
    assert victim.image is not None
    assert victim.generation is not None
    result = build(detector=FailingDetector(decode_image(victim.image)))(ShardContext(task()))
    failed = [row for row in result.ledger if row.stage == "detect"]
    assert [(row.key, row.attempt, row.reason) for row in failed] == [
        (victim.key, victim.generation.attempt, "RuntimeError")
    ]
    assert failed[0].caption == victim.caption
    others = [sample for sample in result.accepted if sample.key != victim.key]
    expected = [sample for sample in fresh.accepted if sample.key != victim.key]
    assert samples_to_table(others).equals(samples_to_table(expected))


def test_what_fails_every_row_fails_the_shard(build: Build) -> None:
    with pytest.raises(RuntimeError, match="cannot look at this"):
        build(detector=FailingDetector(None))(ShardContext(task()))
    with pytest.raises(RuntimeError, match="cannot look at this"):
        build(overlap=True, detector=FailingDetector(None))(ShardContext(task()))


def test_clip_scores_are_measured_alone_or_in_a_batch_and_gated_where_asked(build: Build, fresh: ShardResult) -> None:
    clip = ClipScorer()
    result = build(clip=clip)(ShardContext(task()))
    scores = {sample.key: sample.clip_score for sample in result.accepted}
    assert [sample.key for sample in result.accepted] == [sample.key for sample in fresh.accepted]
    assert all(score is not None and 0 <= score <= 100 for score in scores.values())
    assert {sample.clip_score for sample in fresh.accepted} == {None}
    assert all("clip_score" in row.measured for row in result.ledger)
    one = result.accepted[0]
    assert one.image is not None
    again = clip.score([decode_image(one.image)], [one.caption])[0]
    assert one.clip_score == pytest.approx(float(again), abs=1e-3)
    strict = GatesConfig(max_nsfw=None, min_clip_score=100.0)
    rejected = build(clip=clip, gates=strict, score=ScoreConfig("mini"))(ShardContext(task(max_attempts=1)))
    assert ("clip_score", "off_caption") in {(row.stage, row.reason) for row in rejected.ledger}
    assert rejected.accepted == []


def test_unsafe_images_leave_no_bytes(build: Build) -> None:
    result = build(gates=GatesConfig(max_nsfw=-1.0))(ShardContext(task(2, 2)))
    assert not result.accepted
    assert not result.rejected
    assert {(row.stage, row.reason) for row in result.ledger} == {("safety", "nsfw")}
    assert all(row.measured["nsfw"] is not None for row in result.ledger)
    assert result.short == [key(100), key(101)]


def test_rejected_images_can_be_left_out(build: Build, fresh: ShardResult) -> None:
    dropped = build(keep_rejected=False)(ShardContext(task()))
    assert fresh.rejected
    assert not dropped.rejected
    assert ledger_to_table(fresh.ledger).equals(ledger_to_table(dropped.ledger))


def test_broken_images_are_named(build: Build, sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = sampler._pipe.unet.conv_out.bias
    with torch.no_grad():
        before = weights.clone()
        weights.fill_(float("nan"))
    result = build()(ShardContext(task(2, 2)))
    with torch.no_grad():
        weights.copy_(before)
    assert {(row.stage, row.reason) for row in result.ledger} == {("broken_image", "nan")}


@pytest.mark.parametrize("output", [OutputConfig("jpeg", 90), OutputConfig("webp", 90), OutputConfig("png")])
def test_everything_is_measured_on_the_image_as_stored(build: Build, output: OutputConfig) -> None:
    detector = PixelDetector()
    result = build(detector=detector, output=output)(ShardContext(task(6)))
    seen = {image.tobytes() for image in detector.seen}
    for sample in result.accepted:
        assert sample.image is not None
        pixels = decode_image(sample.image)
        assert pixels.tobytes() in seen
        assert sample.phash == perceptual_hash(pixels)
        assert sample.image_path == f"{sample.key}.{ {'jpeg': 'jpg'}.get(output.format, output.format) }"


def test_people_of_little_confidence_are_left_out(build: Build) -> None:
    work = build()
    work.maker.config = dataclasses.replace(
        work.maker.config, detector=dataclasses.replace(work.maker.config.detector, min_score=0.95)
    )
    result = work(ShardContext(task(2, 1)))
    assert {(row.stage, row.reason) for row in result.ledger} == {("people_count", "nobody")}


def test_time_is_told_by_step(build: Build) -> None:
    seconds = build()(ShardContext(task(4))).seconds
    assert set(seconds) == {"prompt", "sample", "decode", "encode", "detect", "safety", "clip"}
