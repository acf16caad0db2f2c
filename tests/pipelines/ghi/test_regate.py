"""A shard under another detector or other gates: equal to one made so from the start, and nothing is sampled twice."""

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from detectors.types import Person
from pipelines import shards
from pipelines.checkpoint import ModelConfig, SamplerConfig, resolve
from pipelines.clip import ClipScorer
from pipelines.gates import GatesConfig, Rejection
from pipelines.ghi.candidates import CandidateMaker
from pipelines.ghi.config import GhiConfig, OutputConfig, ScoreConfig
from pipelines.ghi.regate import RegateWork
from pipelines.ghi.stage import GhiWork
from pipelines.judging import NO_IMAGE, Unchanged, judge_without_image
from pipelines.record import KILLED_WORKER, LedgerRow, samples_to_table
from pipelines.safety import SafetyScorer
from pipelines.sampling import Sampler
from pipelines.store import Store
from pipelines.work import ShardContext, ShardResult, ShardTask
from prompts.grammar import Grammar, load_grammar
from tests.pipelines.tiny_models import build_tiny

OLD, NEW = "0123456789abcdef" * 4, "fedcba9876543210" * 4
BATCH = 4
TASK = ShardTask(3, 100, 112, 4)


class Counter:
    """Finds one to three people, or nobody, as the pixels and its seed say; keeps count of what it saw."""

    name = "counter"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.seen = 0

    def detect(self, images: list[NDArray[np.uint8]]) -> list[tuple[Person, ...]]:
        self.seen += len(images)
        return [self._people(zlib.crc32(image.tobytes(), self.seed)) for image in images]

    def _people(self, number: int) -> tuple[Person, ...]:
        sure = number % 100 / 100
        keypoints = np.tile(np.array([10.0, 12.0, sure], np.float32), (17, 1))
        box = (4.0, 2.0 + sure / 3, 16.0, 20.0)
        return (Person(box, sure, 160.0, keypoints),) * (1, 1, 1, 2, 0, 3)[number % 6]


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return load_grammar()


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    torch.set_num_threads(1)
    folder = build_tiny(tmp_path_factory.mktemp("models") / "tiny", "sd1")
    return Sampler(resolve(ModelConfig(id=str(folder))), SamplerConfig(steps=1, guidance=1.0, batch_size=BATCH))


@dataclasses.dataclass
class Lab:
    """Makes the same shard in several ways."""

    grammar: Grammar
    sampler: Sampler
    folder: Path

    def config(self, **options: object) -> GhiConfig:
        settings = {"gates": GatesConfig(max_nsfw=None), "output": OutputConfig("jpeg", 80), "max_attempts": 4}
        return GhiConfig(sampler=self.sampler.config, **(settings | options))  # type: ignore[arg-type]

    def make(
        self, config: GhiConfig, hashed: str, seed: int = 0, previous: ShardResult | None = None, task: ShardTask = TASK
    ) -> ShardResult:
        """Sample a shard, or what its rows on disk do not tell."""
        clip = None if config.score.clip_model is None else ClipScorer()
        maker = CandidateMaker(config, self.grammar, self.sampler, Counter(seed), hashed, clip)
        task = dataclasses.replace(task, extend=previous is not None, max_attempts=config.max_attempts)
        return GhiWork(maker)(ShardContext(task, previous))

    def regate(
        self, source: ShardResult, config: GhiConfig, still: Unchanged, detector: Counter, task: ShardTask = TASK
    ) -> ShardResult:
        store = Store(str(self.folder))
        shards.commit(store, dataclasses.replace(task, quarantined=frozenset()), source, OLD, "run")
        safety = SafetyScorer() if config.gates.max_nsfw is not None else None
        return RegateWork(store, config, NEW, still, detector, safety)(ShardContext(task))


@pytest.fixture
def lab(grammar: Grammar, sampler: Sampler, tmp_path: Path) -> Lab:
    return Lab(grammar, sampler, tmp_path)


OTHER_DETECTOR = Unchanged(people=False, keypoints=False, safety=False)
SAME_DETECTOR = Unchanged(people=True, keypoints=True, safety=False)


def rows(result: ShardResult) -> list[dict[str, list[object]]]:
    return [table.to_pydict() for table in result.tables().values()]


def through_disk(result: ShardResult, folder: Path) -> ShardResult:
    store = Store(str(folder))
    back = shards.read_back(store, shards.commit(store, TASK, result, NEW, "run"))
    assert back is not None
    return back


def assert_in_order(result: ShardResult) -> None:
    """Every accepted slot has all its lower attempts in the ledger; every slot is filled or short."""
    for sample in result.accepted:
        assert sample.generation is not None
        tried = {row.attempt for row in result.ledger if row.key == sample.key and row.stage != "slot"}
        assert set(range(1, sample.generation.attempt)) <= tried
    keys = {sample.key for sample in result.accepted} | set(result.short)
    assert keys == {f"ghi-{NEW[:8]}-{slot}" for slot in range(TASK.start, TASK.stop)}


STRICTER = GatesConfig(max_nsfw=None, min_keypoint_score=0.5)
LOOSER = GatesConfig(max_nsfw=None, people_count=False)
PLAIN = GatesConfig(max_nsfw=None)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize(
    ("before", "after"), [(LOOSER, STRICTER), (STRICTER, LOOSER), (STRICTER, PLAIN), (LOOSER, LOOSER)]
)
def test_topped_up_it_equals_one_made_so_from_the_start(
    lab: Lab, seed: int, before: GatesConfig, after: GatesConfig
) -> None:
    source = lab.make(lab.config(gates=before), OLD)
    wanted = lab.config(gates=after)
    detector = Counter(seed)
    result = lab.regate(source, wanted, OTHER_DETECTOR if seed else SAME_DETECTOR, detector)
    assert detector.seen == len(source.accepted) + len(source.rejected)
    assert_in_order(result)
    fresh = lab.make(wanted, NEW, seed)
    accepted = {sample.key: sample for sample in fresh.accepted}
    assert all(
        samples_to_table([sample]).equals(samples_to_table([accepted[sample.key]])) for sample in result.accepted
    )
    topped_up = lab.make(wanted, NEW, seed, through_disk(result, lab.folder / "new"))
    assert rows(topped_up) == rows(fresh)
    assert topped_up.counts["sampled"] == fresh.counts["sampled"] - topped_up.counts["reused"]
    if not result.short:
        assert samples_to_table(result.accepted).equals(samples_to_table(fresh.accepted))


def test_a_shard_of_which_all_is_known_comes_out_whole(lab: Lab) -> None:
    """Where everything that sampling would ask for is there, so are the ledger and the rejected rows."""
    never = GatesConfig(max_nsfw=None, min_keypoint_score=2.0)
    source = lab.make(lab.config(gates=never), OLD)
    assert len(source.short) == 12
    for gates in (STRICTER, LOOSER):
        wanted = lab.config(gates=gates)
        result = lab.regate(source, wanted, SAME_DETECTOR, Counter())
        assert rows(result) == rows(lab.make(wanted, NEW))
        assert result.max_attempts == 4


def test_without_rejected_images_gates_alone_can_change(lab: Lab) -> None:
    """What was measured still says that a rejected candidate fails stricter gates: its image is not needed."""
    source = lab.make(lab.config(gates=GatesConfig(max_nsfw=None), keep_rejected=False), OLD)
    assert source.ledger
    assert not source.rejected
    stricter = lab.config(gates=STRICTER, keep_rejected=False)
    result = lab.regate(source, stricter, SAME_DETECTOR, Counter())
    assert_in_order(result)
    topped_up = lab.make(stricter, NEW, previous=through_disk(result, lab.folder / "new"))
    assert rows(topped_up) == rows(lab.make(stricter, NEW))
    assert result.counts["judged_without_image"] > 0


def test_without_rejected_images_another_detector_leaves_slots_short(lab: Lab) -> None:
    source = lab.make(lab.config(keep_rejected=False), OLD)
    late = {s.key.rpartition("-")[2] for s in source.accepted if s.generation and s.generation.attempt > 1}
    assert late
    wanted = lab.config(gates=LOOSER, keep_rejected=True)
    result = lab.regate(source, wanted, OTHER_DETECTOR, Counter(7))
    assert late <= {key.rpartition("-")[2] for key in result.short}
    assert result.max_attempts == 0
    topped_up = lab.make(wanted, NEW, 7, through_disk(result, lab.folder / "new"))
    fresh = lab.make(wanted, NEW, 7)
    assert rows(topped_up) == rows(fresh)
    assert topped_up.counts["reused"] > 0


def test_unsafe_candidates_stay_rejected_and_are_named_where_the_gate_was_opened(lab: Lab) -> None:
    source = lab.make(lab.config(gates=GatesConfig(max_nsfw=-1.0)), OLD)
    assert not source.rejected
    same_gate = lab.config(gates=GatesConfig(max_nsfw=-1.0, people_count=False))
    still = Unchanged(people=False, keypoints=False, safety=True)
    result = lab.regate(source, same_gate, still, Counter(7))
    assert {(row.stage, row.reason) for row in result.ledger} == {("safety", "nsfw")}
    assert {row.measured["people"] for row in result.ledger} == {None}  # the other detector saw none of them
    opened = lab.config(gates=GatesConfig(max_nsfw=0.9))
    result = lab.regate(source, opened, still, Counter(7))
    assert len(result.short) == 12
    assert NO_IMAGE in {(row.stage, row.reason) for row in result.ledger}
    assert {row.found_people for row in result.ledger} == {None}


def test_the_safety_score_is_taken_from_the_row_or_measured(lab: Lab) -> None:
    scored = GatesConfig(max_nsfw=0.999999, people_count=False, min_usable_keypoints=None)
    unscored = dataclasses.replace(scored, max_nsfw=None)
    with_scores = lab.make(lab.config(gates=scored), OLD)
    assert all(sample.nsfw is not None for sample in with_scores.accepted)
    fresh = lab.make(lab.config(gates=scored), NEW, 7)
    for source, still in (
        (with_scores, Unchanged(False, False, safety=True)),
        (lab.make(lab.config(gates=unscored), OLD), Unchanged(False, False, safety=False)),
    ):
        result = lab.regate(source, lab.config(gates=scored), still, Counter(7))
        assert rows(result) == rows(fresh)
    dropped = lab.regate(with_scores, lab.config(gates=unscored), Unchanged(False, False, safety=False), Counter(7))
    assert rows(dropped) == rows(lab.make(lab.config(gates=unscored), NEW, 7))


def test_the_clip_score_is_taken_from_the_row_and_gated(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    score = ScoreConfig("mini")
    source = lab.make(lab.config(gates=LOOSER, score=score), OLD)
    scores = [sample.clip_score for sample in source.accepted if sample.clip_score is not None]
    assert len(scores) == len(source.accepted)
    strict = lab.config(gates=dataclasses.replace(LOOSER, min_clip_score=float(np.median(scores))), score=score)
    fresh = lab.make(strict, NEW)
    with monkeypatch.context() as patch:
        patch.setattr(ClipScorer, "__init__", lambda *_: pytest.fail("a CLIP was loaded"))
        result = lab.regate(source, strict, SAME_DETECTOR, Counter())
    assert 0 < len(result.accepted) < len(source.accepted)
    assert ("clip_score", "off_caption") in {(row.stage, row.reason) for row in result.ledger}
    assert rows(lab.make(strict, NEW, previous=through_disk(result, lab.folder / "new"))) == rows(fresh)


def test_a_row_that_raises_or_kills_is_lost_alone(lab: Lab) -> None:
    source = lab.make(lab.config(gates=LOOSER), OLD)
    whole = lab.regate(source, lab.config(gates=LOOSER), SAME_DETECTOR, Counter())
    victim = whole.accepted[2]

    class Choosy(Counter):
        def detect(self, images: list[NDArray[np.uint8]]) -> list[tuple[Person, ...]]:
            from pipelines.images import decode_image

            assert victim.image is not None
            if any(np.array_equal(image, decode_image(victim.image)) for image in images):
                raise RuntimeError("cannot look at this")
            return super().detect(images)

    raised = lab.regate(source, lab.config(gates=LOOSER), SAME_DETECTOR, Choosy())
    killed_task = dataclasses.replace(TASK, quarantined=frozenset({f"{victim.key}#1"}))
    killed = lab.regate(source, lab.config(gates=LOOSER), SAME_DETECTOR, Counter(), killed_task)
    for result, why in ((raised, ("detect", "RuntimeError")), (killed, ("worker", KILLED_WORKER))):
        assert [(row.key, row.attempt) for row in result.ledger if (row.stage, row.reason) == why] == [(victim.key, 1)]
        others = [sample for sample in result.accepted if sample.key != victim.key]
        expected = [sample for sample in whole.accepted if sample.key != victim.key]
        assert samples_to_table(others).equals(samples_to_table(expected))


def test_breadcrumbs_name_attempts_before_they_are_looked_at(lab: Lab) -> None:
    source = lab.make(lab.config(gates=LOOSER), OLD)
    store = Store(str(lab.folder))
    shards.commit(store, TASK, source, OLD, "run")
    detector, notes = Counter(), []

    def leave(keys: Sequence[str], rounds: int) -> None:
        notes.append((list(keys), detector.seen))

    RegateWork(store, lab.config(gates=LOOSER), NEW, SAME_DETECTOR, detector, None)(ShardContext(TASK, None, leave))
    size = lab.config().detector.batch_size
    attempts = [(sample.key, sample.generation.attempt) for sample in source.accepted if sample.generation]
    assert notes[0] == ([f"ghi-{NEW[:8]}-{key.rpartition('-')[2]}#{attempt}" for key, attempt in attempts[:size]], 0)
    assert notes[1][1] == size


def test_a_damaged_source_shard_is_not_judged(lab: Lab) -> None:
    source = lab.make(lab.config(), OLD)
    store = Store(str(lab.folder))
    shards.commit(store, TASK, source, OLD, "run")
    path = lab.folder / "rejected" / "00000003.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    work = RegateWork(store, lab.config(gates=LOOSER), NEW, SAME_DETECTOR, Counter(), None)
    with pytest.raises(ValueError, match="humansd repair"):
        work(ShardContext(TASK))


def test_failures_before_an_image_stand_and_failed_detections_do_not() -> None:
    gates, still = GatesConfig(), Unchanged(True, True, True)
    for stage, reason, expected in (
        ("sample", "ValueError", Rejection("sample", "ValueError")),
        ("worker", KILLED_WORKER, Rejection("worker", KILLED_WORKER)),
        ("detect", "RuntimeError", None),
    ):
        assert judge_without_image(LedgerRow("ghi-00000000-1", 0, 1, stage, reason, {}, 1), gates, still) == expected


def test_a_machine_looks_at_one_batch_first(lab: Lab) -> None:
    class Broken(Counter):
        def detect(self, images: list[NDArray[np.uint8]]) -> list[tuple[Person, ...]]:
            raise RuntimeError("no kernel image is available for execution on the device")

    detector, config, store = Counter(), lab.config(), Store(str(lab.folder))
    RegateWork(store, config, NEW, OTHER_DETECTOR, detector, None).try_one_batch()
    assert detector.seen == config.detector.batch_size
    with pytest.raises(RuntimeError, match="no kernel image"):
        RegateWork(store, config, NEW, OTHER_DETECTOR, Broken(), None).try_one_batch()
