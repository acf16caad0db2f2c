import tomllib
from pathlib import Path

import pytest

from pipelines.checkpoint import COMMIT, HUB_ID
from pipelines.config import UserError, bundled, keys, load_config, of_kind
from pipelines.ghi.config import GhiConfig

CONFIGS = ("mini", "sd15", "sd21", "sdxl")


@pytest.mark.parametrize("name", CONFIGS)
def test_bundled_configs_load(name: str) -> None:
    config = load_config(GhiConfig, name)
    assert name in bundled()
    assert config.detector.batch_size == config.sampler.batch_size


@pytest.mark.parametrize("name", CONFIGS[1:])
def test_hub_models_are_pinned_to_a_commit_and_to_gpus(name: str) -> None:
    config = load_config(GhiConfig, name)
    assert HUB_ID.fullmatch(config.model.id)
    assert COMMIT.fullmatch(config.model.revision or "")
    assert config.gpus_per_worker == 1
    assert config.n == 1_000_000
    assert config.sampler.width == config.sampler.height == (1024 if name == "sdxl" else 512)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_of_a_bundled_config_is_explained(name: str) -> None:
    import pipelines.config

    lines = (pipelines.config.CONFIGS / f"{name}.toml").read_text().splitlines()
    bare = [line for line in lines if " = " in line and "#" not in line]
    allowed = {"id", "height", "batch_size", "dtype", "name", "channels_last", "compile"}
    assert {line.split(" = ")[0].strip() for line in bare} <= allowed


def test_mini_names_every_key() -> None:
    """The file doubles as the reference: keys without a value appear as comments."""
    import pipelines.config

    text = (pipelines.config.CONFIGS / "mini.toml").read_text()
    set_here = {
        f"{table}.{key}" if isinstance(value, dict) else table
        for table, value in tomllib.loads(text).items()
        for key in (value if isinstance(value, dict) else [table])
    }
    for name, _ in keys(GhiConfig):
        last = name.rpartition(".")[2]
        assert name in set_here or f"# {last} = " in text, name


def test_what_decides_bytes_is_identity() -> None:
    config = load_config(GhiConfig, "mini")
    identity = of_kind(config, "identity").keys()
    assert {
        "seed",
        "shard_size",
        "sampler.batch_size",
        "sampler.threads",
        "sampler.dtype",
        "gates.max_nsfw",
    } <= identity
    assert of_kind(config, "extendable").keys() == {"n", "max_attempts"}
    assert {"workers", "keep_rejected", "model.id", "grammar.dir"} <= of_kind(config, "runtime").keys()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampler.stepz=3", "did you mean 'sampler.steps'"),
        ("n=0", "n must be at least 1"),
        ("output.format=gif", "one of 'png', 'jpeg', 'webp'"),
        ("output.quality=0", r"output\.quality must be 1-100"),
        ("detector.batch_size=0", r"detector\.batch_size must be at least 1"),
        ("gates.people_count=1", "true or false"),
        ("score.clip_model=none --set gates.min_clip_score=20", r"min_clip_score needs a CLIP"),
    ],
)
def test_mistakes_are_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_config(GhiConfig, "mini", override.split(" --set "))
    assert "\n" not in str(error.value)


def test_gates_are_turned_off_with_none() -> None:
    config = load_config(GhiConfig, "mini", ["gates.max_nsfw=none", "gates.min_clip_score=0.3"])
    assert config.gates.max_nsfw is None
    assert config.gates.min_clip_score == 0.3


def test_grammar_folder_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('[grammar]\ndir = "words"\nscenes = ["sketch", "mural"]\n')
    config = load_config(GhiConfig, tmp_path / "own.toml")
    assert config.grammar.dir == tmp_path / "words"
    assert config.grammar.scenes == ("sketch", "mural")
