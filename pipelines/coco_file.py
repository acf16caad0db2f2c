"""A COCO annotation file of any size: read once, held as text, and only what is asked for becomes objects.

The file is walked record by record with the standard library's decoder (which, unlike streaming parsers, reads the NaN
that some tools write). What stays in memory is the text and, for each image, where its records lie in it: about the
size of the file, where its objects would take ten times as much.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from pipelines.config import UserError
from pipelines.store import Store

Json = dict[str, Any]
Span = tuple[int, int]
"""Where a record lies in the file's text: text[start:stop]."""

DUPLICATE_ID: Final = "duplicate_id"
UNKNOWN_IMAGE: Final = "unknown_image"
BAD_RECORD: Final = "bad_record"

_LISTS: Final = {"images": "id", "annotations": "image_id"}
"""The lists that are walked, and what their records name an image by."""

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Record:
    """An image of an annotation file with its annotations, as text; or what refers to an image that is not in it.

    name: unique within the file: the image's id, `<id>#2` for a second image of this id; `image-<n>` or
        `annotation-<n>` (n its place in the file) for a record without a usable id.
    image: None where the file has no such image. annotations: in the order of the file.
    trouble: None, or why the record cannot be used: `duplicate_id` (another image has the id: whose the annotations are
        cannot be told; of images that are equal in everything the first is good), `unknown_image` (annotations alone),
        `bad_record` (no JSON object, or its id is no whole number).
    """

    name: str
    image: str | None
    annotations: tuple[str, ...]
    trouble: str | None

    def parse(self) -> tuple[Json, list[Json]]:
        """Return the image ({} where there is none) and its annotations; what is no object is left out."""
        parsed = [json.loads(text) for text in self.annotations]
        image = json.loads(self.image) if self.image is not None else {}
        return image if isinstance(image, dict) else {}, [one for one in parsed if isinstance(one, dict)]


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    order: tuple[int, int, int]
    image: Span | None
    annotations: Sequence[Span]
    trouble: str | None


@dataclass(slots=True)
class _Found:
    """What a walk over the file collects: (id, place in the text), the id None where a record has no whole number."""

    images: list[tuple[int | None, Span]]
    annotations: list[tuple[int | None, Span]]
    head: Json


class AnnotationFile:
    """A COCO annotation file: its images in the order of their ids, and what else it says.

    head: everything but `images` and `annotations` (`info`, `licenses`, `categories`). sha256: of the file's bytes.
    """

    def __init__(self, data: bytes, where: str) -> None:
        """Walk the file. Raises UserError, which names `where`, for what is not a COCO annotation file."""
        self.sha256 = hashlib.sha256(data).hexdigest()
        try:
            self._text = data.decode("utf-8-sig")
            found = _walk(self._text)
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: not UTF-8 text: {error.reason} at byte {error.start}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not a COCO annotation file: {error}") from None
        self.head = found.head
        self._found = found

    @classmethod
    def open(cls, path: str) -> AnnotationFile:
        """Read a file or URL. Raises UserError where it cannot be read or is no COCO annotation file."""
        folder, _, name = path.rpartition("/")
        store = Store(folder or ("/" if path.startswith("/") else "."))
        try:
            return cls(store.read(name), path)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None

    def __len__(self) -> int:
        return len(self._entries)

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """Yield the records start … stop - 1 in the order of their ids; those without one come last."""
        for entry in self._entries[start:stop]:
            image = None if entry.image is None else self._text[slice(*entry.image)]
            annotations = tuple(self._text[slice(*span)] for span in entry.annotations)
            yield Record(entry.name, image, annotations, entry.trouble)

    @cached_property
    def _entries(self) -> list[_Entry]:
        """Every image, and what belongs to none, by id and place in the file."""
        entries: list[_Entry] = []
        by_id: dict[int, list[Span]] = {}
        for place, (image_id, span) in enumerate(self._found.images):
            if image_id is None:
                entries.append(_Entry(f"image-{place}", (1, 0, place), span, (), BAD_RECORD))
            else:
                by_id.setdefault(image_id, []).append(span)
        annotations: dict[int, list[Span]] = {}
        for place, (image_id, span) in enumerate(self._found.annotations):
            if image_id is None:
                entries.append(_Entry(f"annotation-{place}", (2, 0, place), None, (span,), UNKNOWN_IMAGE))
            else:
                annotations.setdefault(image_id, []).append(span)
        for image_id, spans in by_id.items():
            entries += self._images_of_one_id(image_id, spans, annotations.pop(image_id, []))
        for image_id, rest in annotations.items():
            entries.append(_Entry(str(image_id), (0, image_id, 1), None, rest, UNKNOWN_IMAGE))
        return sorted(entries, key=lambda entry: entry.order)

    def _images_of_one_id(self, image_id: int, spans: list[Span], annotations: list[Span]) -> Iterator[_Entry]:
        same = len(spans) == 1 or all(self._load(span) == self._load(spans[0]) for span in spans)
        for number, span in enumerate(spans, 1):
            first = number == 1
            name = str(image_id) if first else f"{image_id}#{number}"
            trouble = None if first and same else DUPLICATE_ID
            yield _Entry(name, (0, image_id, number), span, annotations if first else (), trouble)

    def _load(self, span: Span) -> Any:
        return json.loads(self._text[slice(*span)])


def _walk(text: str) -> _Found:
    """Go through the top level of the file. Raises ValueError where it is no object with a list of images."""
    at = _expect(text, 0, "{", "its top level is no object")
    head: Json = {}
    lists: dict[str, list[tuple[int | None, Span]]] = {}
    while text[at : at + 1] != "}":
        key, at = _DECODER.raw_decode(text, at)
        if not isinstance(key, str) or key in head or key in lists:
            raise ValueError(f"the key {key!r} is there twice" if isinstance(key, str) else f"{key!r} is no key")
        at = _expect(text, at, ":")
        if key in _LISTS:
            lists[key], at = _list(text, at, key)
        else:
            head[key], at = _DECODER.raw_decode(text, at)
        at = _next(text, at, "}")
    if _skip(text, at + 1) != len(text):
        raise ValueError(f"more text after its end, at character {at + 1}")
    if "images" not in lists:
        raise ValueError("it has no list of images")
    return _Found(lists["images"], lists.get("annotations", []), head)


def _list(text: str, at: int, key: str) -> tuple[list[tuple[int | None, Span]], int]:
    """Return the id and place of each item of the list at `at`, and where the list ends."""
    at = _expect(text, at, "[", f"{key!r} is no list")
    found: list[tuple[int | None, Span]] = []
    while text[at : at + 1] != "]":
        record, stop = _DECODER.raw_decode(text, at)
        value = record.get(_LISTS[key]) if isinstance(record, dict) else None
        image_id = value if isinstance(value, int) and not isinstance(value, bool) else None
        found.append((image_id, (at, stop)))
        at = _next(text, stop, "]")
    return found, at + 1


def _next(text: str, at: int, end: str) -> int:
    """Where the next item starts, or where the closing bracket is."""
    at = _skip(text, at)
    return at if text[at : at + 1] == end else _expect(text, at, ",")


def _expect(text: str, at: int, sign: str, otherwise: str = "") -> int:
    """Where to go on after this sign."""
    at = _skip(text, at)
    if text[at : at + 1] != sign:
        raise ValueError(otherwise or f"not JSON at character {at}")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None
    return space.end()
