"""Label files of BABEL and HuMMan, read from a user's own copy and turned into action phrases.

BABEL (babel.is.tue.mpg.de): JSON objects by sequence id; a record holds `seq_ann` and `frame_ann`, or in the extra
splits lists of them under `seq_anns` and `frame_anns`; each has `labels` with `proc_label` (the annotator's words) and
`act_cat` (categories, or null). HuMMan: the names of its actions, as text (one a line, an id may stand in front) or as
JSON (a list of names, or an object that has them as values).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prompts.tables import ActionError

KINDS: Final = ("babel", "humman")

_BLOCKS: Final = ("seq_ann", "seq_anns", "frame_ann", "frame_anns")
_NOUN_FIRST: Final = re.compile(
    r"(?:hand|head|water|face|iron|saddle|bat|spring|back|dress|dust|color|paint|wire|tile|comb)\b"
    r"(?! (?:the|an?|one|both|some)\b)"
)
"""Verbs that at the beginning of a label are more often nouns: taken as verbs only before an article."""
_THING: Final = re.compile(
    r"([a-z-]+ing|.* (?:on|in|with|at|over|into|onto|from|against|around|under|off|behind|beside|up|down)) ([a-z]+)"
)
"""A phrase whose last word follows its verb or a preposition at once, where a thing lacks its article."""
_SUBJECT: Final = re.compile(
    r"^(?:(?:the|a) )?(?:person|man|woman|human|subject|someone|somebody|he|she|they|to|is|are) "
)
_SIDED: Final = re.compile(
    r"(?<!the )\b(left|right) (hand|arm|leg|foot|knee|elbow|shoulder|side|hip|ear|eye|wrist|ankle|heel|fist)\b"
)


@dataclass(frozen=True, slots=True)
class Label:
    """A label as a user's file has it; `where` names the file and the record."""

    text: str
    where: str


def read_labels(path: Path, kind: str) -> Iterator[Label]:
    """Labels of a file, or of all JSON and text files of a folder in the order of their names.

    Raises ActionError for an unknown kind, a missing or empty path, and a record that is not of the published form.
    """
    if kind not in KINDS:
        raise ActionError(f"{path}: labels are of {' or '.join(KINDS)}, not {kind!r}")
    endings = (".json",) if kind == "babel" else (".json", ".txt", ".csv", ".tsv")
    files = sorted(p for p in path.iterdir() if p.suffix in endings) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise ActionError(f"{path}: no such file, or a folder without {' '.join(endings)} files")
    for file in files:
        yield from (_read_babel if kind == "babel" else _read_humman)(file)


def _load(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ActionError(f"{file.name}:{error.lineno}: not JSON: {error.msg}") from None
    except UnicodeDecodeError:
        raise ActionError(f"{file.name}:1: not text in UTF-8") from None


def _read_babel(file: Path) -> Iterator[Label]:
    records = _load(file)
    if not isinstance(records, dict):
        raise ActionError(f"{file.name}:1: BABEL's files are objects with a record for each sequence id")
    for number, record in records.items():
        where = f"{file.name}: record {number}"
        if not isinstance(record, dict) or not any(block in record for block in _BLOCKS):
            raise ActionError(f"{where}: none of {', '.join(_BLOCKS)}")
        for block in _BLOCKS:
            given = record.get(block)
            for annotation in given if isinstance(given, list) else [given] if given is not None else []:
                yield from _babel_labels(annotation, f"{where}: {block}")


def _babel_labels(annotation: Any, where: str) -> Iterator[Label]:
    labels = annotation.get("labels") if isinstance(annotation, dict) else None
    if not isinstance(labels, list):
        raise ActionError(f"{where}: labels is not a list")
    for label in labels:
        words = label.get("proc_label") if isinstance(label, dict) else None
        categories = label.get("act_cat") or [] if isinstance(label, dict) else None
        if not (isinstance(words, str | None) and isinstance(categories, list)) or not isinstance(label, dict):
            raise ActionError(f"{where}: a label has proc_label, a text, and act_cat, a list or null")
        yield from (Label(text, where) for text in (words, *categories) if isinstance(text, str) and text.strip())


def _read_humman(file: Path) -> Iterator[Label]:
    if file.suffix != ".json":
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            name = re.sub(r"^\s*(?:[ap]?\d+)\s*[\t,;: ]\s*", "", line).strip().strip('"')
            if name and not name.startswith("#"):
                yield Label(name, f"{file.name}:{number}")
        return
    names = _load(file)
    items = names.items() if isinstance(names, dict) else enumerate(names) if isinstance(names, list) else None
    if items is None:
        raise ActionError(f"{file.name}:1: a list of names, or an object with names as values")
    for key, name in items:
        if not isinstance(name, str):
            raise ActionError(f"{file.name}: record {key}: a name is a text, not {json.dumps(name)[:40]}")
        yield Label(name, f"{file.name}: record {key}")


# ------------------------------------------------------------------------------------------------ from label to phrase


def gerund(verb: str) -> str:
    """Present participle of a verb's base form: walk → walking, hop → hopping, wave → waving, lie → lying."""
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return verb[:-1] + "ing"
    if re.fullmatch(r"(?:[^aeiou]*|[a-z]*qu)[aeiou][^aeiouwxy]", verb):
        return verb + verb[-1] + "ing"
    return verb + "ing"


def verb_forms(participles: Collection[str]) -> dict[str, str]:
    """Base form and third person of each known participle → the participle."""
    forms: dict[str, str] = {}
    for known in participles:
        stem = known.removesuffix("ing")
        for base in (stem, stem + "e", stem[:-1], stem[:-1] + "ie"):
            if len(base) > 1 and gerund(base) == known:
                ending = "es" if base.endswith(("s", "x", "z", "ch", "sh", "o")) else "s"
                third = base[:-1] + "ies" if re.search(r"[^aeiou]y$", base) else base + ending
                forms.update({base: known, third: known})
    return forms | {known: known for known in participles}


def to_phrase(text: str, kind: str, forms: Mapping[str, str], things: Collection[str] = ()) -> str | None:
    """A label as an action phrase, None where it has no verb that we know. Names of exercises become "doing …".

    forms: as from `verb_forms`. things: nouns that get their article back ("sit on chair" → "sitting on a chair").
    """
    text = re.sub(r"\([^)]*\)", " ", text.lower()).split("/")[0]
    text = " ".join(re.sub(r"[^a-z0-9' -]", " ", text.replace("_", " ")).split())
    text = re.sub(r"\b(?:his|her|their|its|one's)\b", "the", _SUBJECT.sub("", text))
    if kind == "humman":
        text = re.sub(r" ([lr])$", lambda side: " on the " + {"l": "left", "r": "right"}[side[1]], _halved(text))
    first, _, rest = text.partition(" ")
    verb = forms.get(first)
    if verb and not _NOUN_FIRST.match(text):
        return _with_article(_SIDED.sub(r"the \1 \2", f"{verb} {rest}".strip()), things)
    if kind == "babel" or not text or first.endswith("ing"):
        return None
    plural = re.search(r"[^s]s(?: on the \w+)?$", text)
    return "doing " + ("" if plural else "an " if text[0] in "aeiou" else "a ") + text


def _with_article(phrase: str, things: Collection[str]) -> str:
    match = _THING.fullmatch(phrase)
    if match and match[2] in things:
        return f"{match[1]} {'an' if match[2][0] in 'aeiou' else 'a'} {match[2]}"
    return phrase


def _halved(text: str) -> str:
    """HuMMan's names often say the same twice ("side step side steps"): the second half is kept."""
    words = text.split(" ")
    half = len(words) // 2
    if half and all(b.startswith(a.rstrip("s")) for a, b in zip(words[:half], words[-half:], strict=True)):
        return " ".join(words[-half:])
    return text
