"""Addresses whose owners do not want to be in data sets: a text file of urls and hosts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import UserError


@dataclass(frozen=True)
class OptOut:
    """Urls, compared whole, and hosts with all hosts below them (`example.org` covers `img.example.org`)."""

    urls: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def read(cls, path: Path | None) -> OptOut:
        """Read a file: a line is a url or a host; `#` begins a note. Raises UserError where it cannot be read."""
        if path is None:
            return cls()
        try:
            return cls.of(path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"filter.opt_out: {path}: {error}") from None

    @classmethod
    def of(cls, lines: Iterable[str]) -> OptOut:
        """From the lines of such a file."""
        entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        urls = frozenset(entry for entry in entries if "://" in entry)
        return cls(urls, frozenset(entry.lower().strip(".") for entry in entries if "://" not in entry))

    def refuses(self, url: str, host: str) -> bool:
        """Whether a url, or its host (lower case), is named."""
        if url in self.urls:
            return True
        labels = host.split(".")
        return any(".".join(labels[start:]) in self.hosts for start in range(len(labels)))
