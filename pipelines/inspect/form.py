"""The filters as a page's address has them: `?scene=mural&clip_score_low=25&page=2`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pipelines.evaluate.contents import SCORES
from pipelines.inspect.catalog import Query


def read_query(values: Mapping[str, str]) -> Query:
    """Read the filters; empty ones are none. Raises ValueError that names the filter which is no number."""
    bounds = [(name, _number(values, f"{name}_low"), _number(values, f"{name}_high")) for name in SCORES]
    people, page = _whole(values, "people"), _whole(values, "page")
    return Query(
        **{name: values.get(name, "").strip() for name in ("scene", "action", "text", "why")},
        people=people,
        bounds=tuple(bound for bound in bounds if bound[1:] != (None, None)),
        flagged=bool(values.get("flagged")),
        page=1 if page is None else page,
    )


def as_parameters(query: Query, page: int | None = None) -> dict[str, str]:
    """Return the inverse of `read_query`, for a link; page: another page of the same rows."""
    found = {name: getattr(query, name) for name in ("scene", "action", "text", "why") if getattr(query, name)}
    if query.people is not None:
        found["people"] = str(query.people)
    for name, low, high in query.bounds:
        found |= {f"{name}_{end}": f"{value:.9g}" for end, value in (("low", low), ("high", high)) if value is not None}
    if query.flagged:
        found["flagged"] = "1"
    number = query.page if page is None else page
    return found if number == 1 else {**found, "page": str(number)}


def _number(values: Mapping[str, str], name: str) -> float | None:
    text = values.get(name, "").strip()
    try:
        value = float(text) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{name} must be a number, not {text!r}")
    return value


def _whole(values: Mapping[str, str], name: str) -> int | None:
    text = values.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"{name} must be a whole number, not {text!r}")
    return int(text)
