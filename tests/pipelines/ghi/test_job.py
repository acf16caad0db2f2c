"""From config to dataset: what is pinned, what travels to workers, what a dry run says, and one run on the engine."""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import pytest

from pipelines.checkpoint import ModelConfig, SamplerConfig
from pipelines.clip import MINI_CLIP
from pipelines.config import UserError
from pipelines.detector import DetectorConfig
from pipelines.gates import GatesConfig
from pipelines.ghi.config import GhiConfig, GrammarConfig, ScoreConfig
from pipelines.ghi.job import MakeGhiWork, plan_ghi, prepare, read_grammar_files, run_ghi
from pipelines.record import ledger_to_table, samples_to_table
from pipelines.shards import read_table
from pipelines.store import Store
from pipelines.work import ShardContext, ShardTask
from prompts.grammar import load_grammar
from tests.pipelines.jobs import tables
from tests.pipelines.tiny_models import build_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("models") / "tiny", "sd1")


@pytest.fixture
def config(model: Path) -> GhiConfig:
    """Random images in which mini-pose finds whom it likes: everybody is accepted."""
    return GhiConfig(
        n=5,
        shard_size=3,
        max_attempts=2,
        model=ModelConfig(id=str(model)),
        sampler=SamplerConfig(steps=1, guidance=1.0, batch_size=2),
        detector=DetectorConfig(batch_size=2),
        score=ScoreConfig("mini"),
        gates=GatesConfig(people_count=False, min_usable_keypoints=None, max_nsfw=None),
    )


@pytest.fixture
def own_grammar(tmp_path: Path) -> Path:
    folder = tmp_path / "words"
    for name, data in read_grammar_files(None).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_identity_follows_content_not_places(config: GhiConfig, model: Path, tmp_path: Path) -> None:
    first = prepare(config)
    moved = shutil.copytree(model, tmp_path / model.name)
    same = prepare(dataclasses.replace(config, model=ModelConfig(id=str(moved)), workers=7, n=9, max_attempts=3))
    assert same.identity_hash == first.identity_hash
    other = prepare(dataclasses.replace(config, gates=GatesConfig(min_usable_keypoints=6)))
    assert other.identity_hash != first.identity_hash


def test_a_clip_is_identity_by_what_it_says(config: GhiConfig, tmp_path: Path) -> None:
    def hash_of(clip: str | None) -> str:
        return prepare(dataclasses.replace(config, score=ScoreConfig(clip))).identity_hash

    here, there = (str(shutil.copytree(MINI_CLIP, tmp_path / place / "mini")) for place in ("here", "there"))
    assert hash_of(here) == hash_of(there) == hash_of("mini") != hash_of(None)
    Path(there, "preprocessor_config.json").write_text("{}")
    assert hash_of(there) != hash_of(here)


def test_bundled_grammar_and_a_copy_of_it_are_one(config: GhiConfig, own_grammar: Path) -> None:
    copied = dataclasses.replace(config, grammar=GrammarConfig(dir=own_grammar))
    assert prepare(copied).identity_hash == prepare(config).identity_hash
    assert prepare(config).grammar_files == {}


@pytest.mark.usefixtures("in_process")
def test_an_edited_grammar_is_another_dataset(config: GhiConfig, own_grammar: Path, tmp_path: Path) -> None:
    copied = dataclasses.replace(config, n=2, grammar=GrammarConfig(dir=own_grammar))
    out = tmp_path / "out"
    assert run_ghi(copied, str(out)).exit_code == 0
    before = tables(out)
    words = own_grammar / "parts" / "praise.tsv"
    words.write_text(words.read_text().replace("masterpiece", "master work"))
    for again in (plan_ghi, run_ghi):
        with pytest.raises(UserError, match=r"grammar\.digest: .* -> .*another --out"):
            again(copied, str(out))
    assert tables(out) == before


def test_what_travels_is_small_and_builds_the_work_elsewhere(
    config: GhiConfig, own_grammar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = prepare(dataclasses.replace(config, grammar=GrammarConfig(dir=own_grammar)))
    packed = pickle.dumps(make)
    assert len(packed) < 2_000_000
    shutil.rmtree(own_grammar)  # another node has no such folder
    there: MakeGhiWork = pickle.loads(packed)
    assert there().maker.grammar.digest == load_grammar().digest
    changed = dataclasses.replace(there, grammar_digest="0" * 64)
    with pytest.raises(UserError, match="same version"):
        changed()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detector": DetectorConfig(name="mini-pos")}, "unknown detector 'mini-pos'; known: mini-pose"),
        ({"grammar": GrammarConfig(scenes=("mural", "sketches"))}, "no scene is called 'sketches'"),
        ({"grammar": GrammarConfig(dir=Path("/nowhere"))}, "nowhere"),
        ({"model": ModelConfig(id="nowhere")}, "no such folder"),
    ],
)
def test_what_is_not_there_is_said_before_anything_runs(
    config: GhiConfig, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        prepare(dataclasses.replace(config, **changes))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_gpu_that_is_not_there_is_said(config: GhiConfig) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match=r"gpus_per_worker is above 0, but .* NVIDIA driver"):
        prepare(dataclasses.replace(config, gpus_per_worker=1.0))()


def test_dry_run_says_what_would_run_and_makes_nothing(
    config: GhiConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    report = run_ghi(config, str(out), dry_run=True)
    printed = capsys.readouterr().out
    assert report.exit_code == 0
    assert not out.exists()
    assert "5 slots in 2 shards" in printed
    assert "to do     5 slots in 2 shards" in printed
    assert printed.count("\n  ") == 5
    found = plan_ghi(config, str(out), range(1, 2))
    assert (found["slots"], found["shards_to_do"], found["accepted"]) == (2, 1, 0)
    assert sum(found["prompts"]["people"].values()) == 5
    json.dumps(found)


def assert_on_disk(out: Path, config: GhiConfig) -> None:
    """Check every shard on disk against the same work done in this process."""
    work = prepare(config)()
    store = Store(str(out))
    for index, start in enumerate(range(0, config.n, config.shard_size)):
        task = ShardTask(index, start, min(start + config.shard_size, config.n), config.max_attempts)
        made = work(ShardContext(task))
        assert read_table(store, "shards", index).equals(samples_to_table(made.accepted))
        assert read_table(store, "ledger", index).equals(ledger_to_table(made.ledger))


def test_a_job_on_the_engine(config: GhiConfig, cluster: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_ghi(config, str(out)).exit_code == 0
    assert (out / "README.md").read_text().startswith('---\npretty_name: "Generated humans"')
    assert "5 rows." in json.loads((out / "croissant.json").read_text())["description"]
    assert (out / "grammar" / "actions.tsv").read_bytes() == read_grammar_files(None)["actions.tsv"]
    assert_on_disk(out, config)
    found = plan_ghi(dataclasses.replace(config, n=7), str(out))
    assert (found["accepted"], found["shards_complete"], found["shards_to_do"]) == (5, 1, 2)
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        plan_ghi(dataclasses.replace(config, seed=1), str(out))
    with pytest.raises(UserError, match="n can only grow"):
        run_ghi(dataclasses.replace(config, n=4), str(out))


@pytest.mark.usefixtures("in_process")
def test_a_grown_job_equals_one_made_at_once(config: GhiConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    picky = dataclasses.replace(config, gates=GatesConfig(max_nsfw=None, people_count=False, max_truncation=0.2))
    run_ghi(picky, str(out))
    grown = dataclasses.replace(picky, n=7)
    run_ghi(grown, str(out))
    assert_on_disk(out, grown)
