"""Images that must never be stored: known hashes from a file, and a program of the user's own that judges bytes."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.config import UserError

BLOCKED = "blocked_hash"
"""The ledger's reason, for all kinds of match: which list an image was on is nobody's business."""


@dataclass(frozen=True)
class Hashes:
    """SHA-256 of files (hex, 64 digits) and perceptual hashes (uint64), in which `distance` bits may differ."""

    files: frozenset[str] = frozenset()
    images: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    distance: int = 0

    @classmethod
    def read(cls, path: Path | None, distance: int) -> Hashes:
        """Read a file of one hash a line: 64 hex digits SHA-256, 16 perceptual; `#` begins a note.

        Raises UserError that names the line that is neither.
        """
        if path is None:
            return cls()
        files, images = set(), set()
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"fetch.blocklist: {path}: {error}") from None
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip().lower()
            if not text:
                continue
            try:
                value = int(text, 16)
            except ValueError:
                value = -1
            if value < 0 or len(text) not in (16, 64):
                raise UserError(f"fetch.blocklist: {path}:{number}: not 64 hex digits (SHA-256) nor 16 (perceptual)")
            if len(text) == 64:
                files.add(text)
            else:
                images.add(value)
        return cls(frozenset(files), np.array(sorted(images), np.uint64), distance)

    def match_file(self, sha256: str) -> bool:
        """Whether a file of this SHA-256 (hex) is listed."""
        return sha256 in self.files

    def match_image(self, phash: int) -> bool:
        """Whether an image of this perceptual hash is near a listed one."""
        if not len(self.images):
            return False
        differing = np.bitwise_xor(self.images, np.uint64(phash)).view(np.uint8).reshape(-1, 8)
        return bool((np.unpackbits(differing, axis=1).sum(1) <= self.distance).any())


class Judge:
    """A program that sees every image before it is stored.

    It is started once a worker and speaks by lines: for each image it reads `<sha256> <number of bytes>\\n` and the
    bytes, and answers `ok` or `block`. Any other answer, or its end, fails the shard: an image that nobody has judged
    is not stored.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Start the program. Raises UserError where it cannot be."""
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise UserError(f"fetch.blocklist_command: {command[0]}: {error.strerror}") from None

    def blocks(self, sha256: str, data: bytes) -> bool:
        """Whether an image must not be stored. Raises RuntimeError where the program does not answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{sha256} {len(data)}\n".encode() + data)
            self._process.stdin.flush()
            answer = self._process.stdout.readline().decode(errors="replace").strip()
        except OSError as error:
            raise RuntimeError(f"fetch.blocklist_command ended: {error}") from None
        if answer not in ("ok", "block"):
            raise RuntimeError(f"fetch.blocklist_command answered {answer!r}, not ok or block")
        return answer == "block"
