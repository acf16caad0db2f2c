"""Samples that somebody flagged while looking: OUT/flagged.txt, a list of keys that `humansd takedown --keys` reads."""

from __future__ import annotations

import shlex
import threading
from typing import Final

from pipelines import lease, taken
from pipelines.config import UserError
from pipelines.store import Store

LIST: Final = "flagged.txt"


class Flags:
    """The flags of one dataset. The file is read each time: it may be edited by hand, or by another server."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()

    @property
    def command(self) -> str:
        """What takes the flagged samples out of the dataset."""
        out, file = self._store.root, f"{self._store.root.rstrip('/')}/{LIST}"
        return f"humansd takedown {shlex.quote(out)} --keys {shlex.quote(file)}"

    def keys(self) -> list[str]:
        """Return the flagged keys, in the order in which they were flagged. Raises UserError for a file of no text."""
        return list(dict.fromkeys(taken.listed_keys(self._read())))

    def flag(self, key: str) -> None:
        """Add a key to the end of the list. Raises UserError for one that a line of text cannot hold."""
        if taken.listed_keys(key) != [key]:
            raise UserError(f"the key {key!r} cannot be listed: humansd takedown {self._store.root} --key takes it")
        with self._lock:
            text = self._read() or f"# Flagged while looking. {self.command} removes them.\n"
            if key not in taken.listed_keys(text):
                self._write(text + ("" if text.endswith("\n") else "\n") + key + "\n")

    def unflag(self, key: str) -> None:
        """Take a key off the list; other lines stay as they are."""
        with self._lock:
            lines = self._read().splitlines(keepends=True)
            kept = [line for line in lines if taken.listed_keys(line) != [key]]
            if kept != lines:
                self._write("".join(kept))

    def _read(self) -> str:
        try:
            return self._store.read(LIST).decode("utf-8")
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError as error:
            raise UserError(f"{self._store.path(LIST)}: not a text file: {error}") from None

    def _write(self, text: str) -> None:
        self._store.write(LIST, text.encode(), lease.new_run())
