from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from pipelines import cli
from pipelines.checkpoint import ModelConfig, SamplerConfig, resolve
from pipelines.config import UserError
from pipelines.gates import GatesConfig
from pipelines.ghi.candidates import CandidateMaker
from pipelines.ghi.config import GhiConfig, OutputConfig
from pipelines.ghi.stage import GhiWork
from pipelines.probe import probe, run_probe, stratified
from pipelines.sampling import Sampler
from prompts.grammar import load_grammar
from prompts.sampling import prompt_at
from tests.pipelines.ghi.test_stage import PixelDetector
from tests.pipelines.tiny_models import build_tiny

BATCH = 4


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> CandidateMaker:
    torch.set_num_threads(1)
    folder = build_tiny(tmp_path_factory.mktemp("models") / "tiny", "sd1")
    config = GhiConfig(
        model=ModelConfig(id=str(folder)),
        sampler=SamplerConfig(steps=1, guidance=1.0, batch_size=BATCH),
        gates=GatesConfig(max_nsfw=None),
        output=OutputConfig("png"),
    )
    sampler = Sampler(resolve(config.model), config.sampler)
    return CandidateMaker(config, load_grammar(), sampler, PixelDetector(), "0" * 64)


def test_any_prefix_of_the_prompts_is_even_over_scenes_and_people() -> None:
    grammar = load_grammar()
    slots = stratified(grammar, 0, 200)
    assert len(slots) == len(set(slots)) == 200
    for prefix in (42, 100, 200):
        prompts = [prompt_at(grammar, 0, slot) for slot in slots[:prefix]]
        cells = Counter((prompt.scene, prompt.num_people) for prompt in prompts)
        assert len(cells) == 42
        assert max(cells.values()) - min(cells.values()) <= 1


@pytest.mark.parametrize("overlap", [False, True])
def test_a_probe_measures_every_candidate(maker: CandidateMaker, overlap: bool) -> None:
    found = probe(GhiWork(maker, overlap), prompts=42, seconds=600, load_seconds=1.5)
    assert sum(judged for _, judged in found.cells.values()) == 44  # whole batches
    assert 0 < sum(accepted for accepted, _ in found.cells.values()) < 44
    assert found.images == (BATCH,) * 11
    assert len(found.seconds) == 11
    assert found.images_per_second > 0
    assert found.bytes_accepted > 0
    assert found.bytes_rejected > 0
    assert found.memory[BATCH] > 10**6
    assert found.load_seconds == 1.5
    assert "thread" in found.device
    assert maker.sampler.batch_size == BATCH


def test_a_probe_ends_when_its_time_is_up(maker: CandidateMaker) -> None:
    found = probe(GhiWork(maker), prompts=400, seconds=0.0, load_seconds=0.0)
    assert found.images == (BATCH,)


def test_a_probe_says_what_fails(maker: CandidateMaker, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        run_probe(GhiConfig(model=ModelConfig(id=str(tmp_path / "absent"))))


def test_models_are_measured_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipelines.probe.PROMPTS", BATCH)
    other = build_tiny(tmp_path / "other", "sd1")
    sets = ["sampler.steps=1", f"sampler.batch_size={BATCH}", "detector.batch_size=4", "gates.max_nsfw=none"]
    given = ["plan", "--models", "mini", str(other), "--n", "1000", "--gpus", "8", "--probe"]
    assert cli.main([*given, *(part for one in sets for part in ("--set", one))]) == 0
    printed = capsys.readouterr().out
    assert printed.count("measured   ") == 2
    table = printed[printed.rindex("\n\n") :]
    assert "mini" in table
    assert "other" in table
