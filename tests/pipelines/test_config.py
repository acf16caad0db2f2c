from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config import UserError, bundled, difference, identity, key, load_config, of_kind, plain


@dataclasses.dataclass(frozen=True)
class Oven:
    degrees: float = key(7.0, "identity", "how hot")
    minutes: int = key(20, "identity", "how long")
    fan: bool = key(False, "identity", "turn the fan on")
    rack: Literal["top", "middle"] = key("middle", "identity", "which rack")
    size: tuple[int, int] = key((64, 96), "identity", "width and height")


@dataclasses.dataclass(frozen=True)
class Filling:
    names: tuple[str, ...] = key((), "identity", "what goes in")
    recipe: Path | None = key(None, "runtime", "where it is written down")  # noqa: RUF009
    brand: str = key("none in particular", "identity", "whose")
    spoon: float | None = key(None, "identity", "of salt")


@dataclasses.dataclass(frozen=True)
class Pie:
    n: int = key(10, "extendable", "how many")
    crust: str | tuple[str, ...] = key("plain", "identity", "one, or one a layer")
    cooks: int = key(1, "runtime", "who bakes")
    oven: Oven = dataclasses.field(default_factory=Oven)
    filling: Filling = dataclasses.field(default_factory=Filling)

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError(f"n is {self.n}; it cannot be negative")


def write(folder: Path, text: str) -> Path:
    path = folder / "pie.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_and_overrides_on_top_of_the_defaults(tmp_path: Path) -> None:
    path = write(
        tmp_path, 'n = 3\n[oven]\ndegrees = 180\nsize = [1, 2]\n[filling]\nnames = ["plum"]\nrecipe = "a/b.txt"\n'
    )
    pie = load_config(Pie, path, ["oven.fan=true", "oven.rack=top", 'filling.names=["fig", "nut"]', "filling.spoon=2"])
    assert pie == Pie(
        n=3,
        oven=Oven(degrees=180.0, fan=True, rack="top", size=(1, 2)),
        filling=Filling(names=("fig", "nut"), recipe=tmp_path / "a/b.txt", spoon=2.0),
    )
    assert type(pie.oven.degrees) is float  # 180 and 180.0 are the same dataset


def test_text_needs_no_quotes_and_none_unsets() -> None:
    pie = load_config(Pie, None, ["filling.brand=7e12", "filling.spoon=1.5", "filling.spoon=none"])
    assert pie.filling.brand == "7e12"
    assert pie.filling.spoon is None
    assert load_config(Pie, None, ["crust=short"]).crust == "short"
    assert load_config(Pie, None, ['crust=["short", "puff"]']).crust == ("short", "puff")
    assert load_config(Pie, None, ["crust=12"]).crust == "12"
    assert load_config(Pie, None, ["filling.brand=a b = c"]).filling.brand == "a b = c"
    assert load_config(Pie, None, ['filling.brand="quoted"']).filling.brand == "quoted"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("oven.minuets=3", "--set oven.minuets=3: unknown key 'oven.minuets'; did you mean 'oven.minutes'?"),
        ("minutes=3", "--set minutes=3: unknown key 'minutes'; did you mean 'oven.minutes'?"),
        ("degress=3", "--set degress=3: unknown key 'degress'; did you mean 'oven.degrees'?"),
        ("stove.fan=true", "--set stove.fan=true: unknown key 'stove'"),
        ("oven.minutes=2.5", "'oven.minutes' must be a whole number, not '2.5'"),
        ("oven.minutes=true", "'oven.minutes' must be a whole number, not 'true'"),
        ("oven.degrees=hot", "'oven.degrees' must be a number, not 'hot'"),
        ("oven.fan=1", "'oven.fan' must be true or false, not '1'"),
        ("oven.rack=bottom", "'oven.rack' must be one of 'top', 'middle', not 'bottom'"),
        ("oven.size=[1]", "'oven.size' must be a list of 2: a whole number, a whole number, not '[1]'"),
        ("filling.names=fig", "'filling.names' must be a list, each item text, not 'fig'"),
        ("filling.spoon=much", "'filling.spoon' must be a number (or none), not 'much'"),
        ("oven=3", "'oven' is a table of keys (degrees, minutes, fan, rack, size), not a value"),
        ("n", "--set n: must look like key=value"),
        ("n=-1", "n is -1; it cannot be negative"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_key(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(Pie, None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cokes = 2", "pie.toml: unknown key 'cokes'; did you mean 'cooks'?"),
        ("zzzz = 2", "pie.toml: unknown key 'zzzz'; known keys: n, crust, cooks, oven, filling"),
        ('[oven]\nfan = "true"', "pie.toml: 'oven.fan' must be true or false, not 'true'"),
        ("n = 2.0", "pie.toml: 'n' must be a whole number, not 2.0"),
        ("n = ", "pie.toml: not valid TOML: "),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(Pie, write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such config file"):
        load_config(Pie, tmp_path / "absent.toml")
    with pytest.raises(UserError, match=r"no bundled config 'mimi'.*path of a \.toml file"):
        load_config(Pie, "mimi")


def test_every_bundled_config_is_named() -> None:
    assert list(bundled()) == sorted(bundled())


def test_the_identity_is_the_identity_keys_and_nothing_else() -> None:
    base = load_config(Pie, None, ["oven.degrees=180"])
    named, digest = identity(base, {"model": "abc"})
    assert named["oven.degrees"] == 180.0
    assert named["model"] == "abc"
    assert named["oven.size"] == [64, 96]
    assert not {"n", "cooks", "filling.recipe"} & named.keys()
    for same in ("n=99", "cooks=7", "filling.recipe=x", "oven.degrees=180.0"):
        assert identity(load_config(Pie, None, ["oven.degrees=180", same]), {"model": "abc"})[1] == digest
    for other in ("oven.degrees=181", "filling.names=['x']", "oven.fan=true"):
        assert identity(load_config(Pie, None, ["oven.degrees=180", other]), {"model": "abc"})[1] != digest
    assert identity(base, {"model": "abd"})[1] != digest


def test_the_digest_is_of_sorted_compact_json() -> None:
    text = '{"degrees":7.0,"fan":false,"grammar":"x","minutes":20,"rack":"middle","size":[64,96]}'
    assert identity(Oven(), {"grammar": "x"})[1] == hashlib.sha256(text.encode()).hexdigest()


def test_kinds_part_the_keys() -> None:
    assert of_kind(Pie(), "extendable") == {"n": 10}
    assert of_kind(Pie(), "runtime") == {"cooks": 1, "filling.recipe": None}


def test_the_difference_names_each_key_that_changed() -> None:
    old, _ = identity(load_config(Pie, None, []), {"model": "a" * 64})
    new, _ = identity(load_config(Pie, None, ["oven.minutes=25", "oven.rack=top"]), {"model": "b" * 64, "more": 1})
    assert difference(old, new) == [
        f"model: {'a' * 37}... -> {'b' * 37}...",
        "more: (none) -> 1",
        "oven.minutes: 20 -> 25",
        "oven.rack: middle -> top",
    ]
    assert difference(old, old) == []
    assert difference({"a": None}, {}) == ["a: null -> (none)"]


@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_what_is_typed_is_what_is_read(minutes: int, degrees: float, fan: bool) -> None:
    typed = [f"oven.minutes={minutes}", f"oven.degrees={degrees}", f"oven.fan={str(fan).lower()}"]
    oven = load_config(Pie, None, typed).oven
    assert (oven.minutes, oven.degrees, oven.fan) == (minutes, degrees, fan)


def test_the_resolved_config_is_plain_json() -> None:
    assert plain(load_config(Pie, None, ["filling.recipe=a.txt"])) == {
        "n": 10,
        "crust": "plain",
        "cooks": 1,
        "oven": {"degrees": 7.0, "minutes": 20, "fan": False, "rack": "middle", "size": [64, 96]},
        "filling": {"names": [], "recipe": "a.txt", "brand": "none in particular", "spoon": None},
    }
