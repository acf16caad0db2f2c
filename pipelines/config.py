"""TOML files into frozen dataclasses: one loader, one kind of error, one notion of identity.

A config is a frozen dataclass whose fields are keys (declared with `key`) or tables (other such dataclasses, declared
with `dataclasses.field(default_factory=Table)`). Every key says of what kind it is:

- *identity*: it decides the bytes of a dataset; another value is another dataset;
- *extendable*: it may only grow, and only new or short shards run again (`n`, `max_attempts`);
- *runtime*: it changes nothing in the result (`workers`, prices, progress).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

Kind = Literal["identity", "extendable", "runtime"]
KINDS: Final[tuple[str, ...]] = typing.get_args(Kind)
CONFIGS: Final = Path(__file__).parent / "configs"
"""Where the bundled configs lie; `--config mini` is `configs/mini.toml`."""

T = TypeVar("T")


class UserError(Exception):
    """The user's mistake, told in one line that says what to do next; the command line ends with exit code 2."""


@dataclasses.dataclass(frozen=True)
class _Given:
    """A value as typed after `--set a.b=`: what TOML makes of it, and the bare text for keys that hold text."""

    text: str
    value: object


def key(default: Any, kind: Kind, help: str) -> Any:
    """Declare a key of a config dataclass: its default, its kind and one line of help."""
    assert kind in KINDS, kind
    return dataclasses.field(default=default, metadata={"kind": kind, "help": help})


def bundled(folder: str = "") -> tuple[str, ...]:
    """Names of the configs that come with the package, sorted. folder: `laion` for those of that source."""
    return tuple(sorted(path.stem for path in (CONFIGS / folder).glob("*.toml")))


def load_config(cls: type[T], source: str | Path | None, overrides: Sequence[str] = (), folder: str = "") -> T:
    """Read a config: the defaults of `cls`, then the file, then the overrides.

    source: a bundled name, the path of a TOML file, or None for the defaults. A relative `Path` value in a file is
        relative to that file.
    folder: where the bundled ones lie below `CONFIGS`.
    overrides: `a.b=v`, v a TOML value; a bare word is text, and `none` unsets an optional key.
    Raises UserError for a file that is not there or not TOML, an unknown key and a value of the wrong type.
    """
    values: dict[str, Any] = {}
    where = "defaults"
    if source is not None:
        path = _find(source, folder)
        where = path.name
        values = _convert_table(cls, _read(path), where, path.parent)
    for override in overrides:
        _merge(values, _convert_override(cls, override))
    return _build(cls, values, where)


def restore(cls: type[T], values: Mapping[str, Any], where: str, overrides: Sequence[str] = ()) -> T:
    """Read back what `plain` made of a config, with overrides as in `load_config`; `where` names it in errors."""
    converted = _convert_table(cls, _without_none(values), where, Path())
    for override in overrides:
        _merge(converted, _convert_override(cls, override))
    return _build(cls, converted, where)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as TOML would have them, which has no null."""
    return {
        name: _without_none(value) if isinstance(value, Mapping) else "none" if value is None else value
        for name, value in values.items()
    }


def _find(source: str | Path, folder: str) -> Path:
    path = Path(source)
    if path.suffix == ".toml" or len(path.parts) > 1:
        if not path.is_file():
            raise UserError(f"{path}: no such config file")
        return path
    found = CONFIGS / folder / f"{source}.toml"
    if not found.is_file():
        names = bundled(folder)
        raise UserError(
            f"no bundled config {str(source)!r}{_nearest(str(source), names)}; bundled: {', '.join(names)}; "
            "your own is given as the path of a .toml file"
        )
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _convert_override(cls: type[Any], override: str) -> dict[str, Any]:
    name, equals, text = override.partition("=")
    name, text = name.strip(), text.strip()
    if not equals or not name:
        raise UserError(f"--set {override}: must look like key=value, for example --set seed=7")
    value: object = text
    try:
        parsed = tomllib.loads(f"value = {text}")
        if set(parsed) == {"value"}:
            value = parsed["value"]
    except tomllib.TOMLDecodeError:
        pass  # a bare word
    nested: dict[str, Any] = {}
    inner = nested
    *tables, last = name.split(".")
    for table in tables:
        inner = inner.setdefault(table, {})
    inner[last] = _Given(text, value)
    return _convert_table(cls, nested, f"--set {override}", Path())


def _convert_table(
    cls: type[Any],
    values: Mapping[str, Any],
    where: str,
    folder: Path,
    prefix: str = "",
    root: type[Any] | None = None,
) -> dict[str, Any]:
    """Check one table of raw values against a dataclass; what comes back has its types but is still plain dicts."""
    root = root or cls
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}
    result: dict[str, Any] = {}
    for name, value in values.items():
        full = prefix + name
        if name not in known:
            raise UserError(f"{where}: unknown key {full!r}{_nearest_key(root, full, prefix)}")
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            if not isinstance(value, Mapping):
                raise UserError(f"{where}: {full!r} is a table of keys ({_names(hint)}), not a value")
            result[name] = _convert_table(hint, value, where, folder, full + ".", root)
            continue
        try:
            result[name] = _convert(hint, value, folder)
        except ValueError:
            shown = value.text if isinstance(value, _Given) else value
            raise UserError(f"{where}: {full!r} must be {_describe(hint)}, not {shown!r}") from None
    return result


def _convert(hint: Any, value: object, folder: Path) -> Any:
    """Return `value` as the hinted type; ValueError where it is of another."""
    text = value.text if isinstance(value, _Given) else None
    given = value.value if isinstance(value, _Given) else value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, given, folder)
    if origin is Literal:
        if given in args and type(given) is not bool:
            return given
    elif origin is tuple:
        if isinstance(given, list):
            if len(args) == 2 and args[1] is Ellipsis:
                return tuple(_convert(args[0], item, folder) for item in given)
            if len(args) == len(given):
                return tuple(_convert(arg, item, folder) for arg, item in zip(args, given, strict=True))
    elif hint is bool or hint is int:
        if type(given) is hint:
            return given
    elif hint is float:
        if type(given) in (int, float):
            return float(typing.cast(float, given))
    elif hint is str:
        if isinstance(given, str):
            return given
        if text is not None:  # a revision such as 7e12 is text, whatever TOML makes of it
            return text
    elif hint is Path:
        if isinstance(given, str):
            return folder / Path(given).expanduser()
    else:
        raise TypeError(f"config keys cannot be of type {hint}")
    raise ValueError


def _convert_union(args: tuple[Any, ...], value: object, given: object, folder: Path) -> Any:
    if type(None) in args and given == "none":
        return None
    for candidate in (given, value):  # what TOML makes of it fits a list before its bare text fits a str
        for arg in args:
            if arg is not type(None):
                try:
                    return _convert(arg, candidate, folder)
                except ValueError:
                    continue
    raise ValueError


def _build(cls: type[T], values: Mapping[str, Any], where: str, prefix: str = "") -> T:
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast(Any, cls)):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            arguments[field.name] = _build(hint, values.get(field.name, {}), where, f"{prefix}{field.name}.")
        elif field.name in values:
            arguments[field.name] = values[field.name]
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}: key {prefix + field.name!r} is missing: {field.metadata.get('help', '')}")
    try:
        return cls(**arguments)
    except ValueError as error:  # a dataclass that checks its own values
        raise UserError(f"{where}: {error}") from None


def _merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict):
            _merge(values.setdefault(name, {}), value)
        else:
            values[name] = value


def _nearest(word: str, words: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _nearest_key(cls: type[Any], full: str, prefix: str) -> str:
    """Name the key that was most likely meant: the same word in another table counts as near."""
    names = [name for name, _ in keys(cls)]
    last = full.rpartition(".")[2]
    elsewhere = [name for name in names if name.rpartition(".")[2] == last]
    near = f"; did you mean {elsewhere[0]!r}?" if elsewhere else _nearest(full, names)
    if not near:
        by_last = {name.rpartition(".")[2]: name for name in names}
        close = difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.6)
        near = f"; did you mean {by_last[close[0]]!r}?" if close else ""
    if near:
        return near
    here = dict.fromkeys(name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix))
    return f"; known keys: {', '.join(prefix + name for name in here)}"


def _names(cls: type[Any]) -> str:
    return ", ".join(field.name for field in dataclasses.fields(cls))


_WORDS: Final = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(arg) for arg in args if arg is not type(None)) + (
            " (or none)" if type(None) in args else ""
        )
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"a list, each item {_describe(args[0])}"
        return f"a list of {len(args)}: {', '.join(_describe(arg) for arg in args)}"
    return _WORDS.get(hint, str(hint))


def keys(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Yield every key of a config class as its dotted name and its field, tables walked in order."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            yield from keys(hint, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field


def plain(config: Any) -> dict[str, Any]:
    """Return the resolved config as dicts, lists, text and numbers: what `dataset.json` records."""
    result: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str, allow_nan=False))
    return result


def of_kind(config: Any, kind: Kind) -> dict[str, Any]:
    """Return the keys of one kind as a flat dict of dotted names, values as in `plain`."""
    values = flatten(plain(config))
    result = {}
    for name, field in keys(type(config)):
        assert "kind" in field.metadata, f"{name} declares no kind"
        if field.metadata["kind"] == kind:
            result[name] = values[name]
    return result


def identity(config: Any, extra: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return what decides the bytes of a dataset, and its sha256 in hex.

    extra: what decides them and is no key, such as the digests of the grammar and of the models; JSON values.
    The first result is a flat dict: dotted identity keys of the config, and `extra` beside them.
    """
    named = of_kind(config, "identity")
    clash = named.keys() & extra.keys()
    assert not clash, f"named twice in an identity: {sorted(clash)}"
    named |= extra
    return named, identity_of_values(named)


def identity_of_values(named: Mapping[str, Any]) -> str:
    """Return the sha256, in hex, of JSON values by name, whatever their order."""
    text = json.dumps(named, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one line for each key whose value differs: `sampler.steps: 20 -> 25`; an absent one reads `(none)`."""
    before, after = flatten(old), flatten(new)
    absent = object()
    lines = []
    for name in sorted(before.keys() | after.keys()):
        left, right = before.get(name, absent), after.get(name, absent)
        if left != right:
            lines.append(f"{name}: {_shown(left, absent)} -> {_shown(right, absent)}")
    return lines


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one dict of dotted names."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flatten(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result


def _shown(value: object, absent: object) -> str:
    if value is absent:
        return "(none)"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
