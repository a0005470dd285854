"""A log file of any size as lines: an index of line starts that grows, and lines read when shown. No Qt here."""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gaussianem_core.errors import printable
from gaussianem_core.runtime.plain_files import open_regular

CHUNK_BYTES = 1 << 22
LONGEST_LINE = 4000  # characters shown of one line
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)")  # colours and cursor; titles


class LogFile:
    """Lines of ``path``; ``poll`` from one thread, everything else from another.

    A carriage return starts its line anew, as on a terminal, so a progress bar shows its last state only.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.version = 0
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._starts = np.zeros(1024, dtype=np.int64)
        self._count = 0  # complete lines
        self._size = 0  # bytes seen

    def poll(self) -> bool:
        """Index what was appended since the last call; True if there was anything. Raises OSError."""
        try:
            size = os.stat(self.path).st_size
        except OSError:
            return False
        if size < self._size:
            with self._lock:
                self._reset()
        if size == self._size:
            return False
        with open_regular(self.path) as file:
            file.seek(self._size)
            while data := file.read(CHUNK_BYTES):
                ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == 10) + self._size + 1
                with self._lock:
                    needed = self._count + len(ends) + 2
                    if needed > len(self._starts):
                        larger = np.zeros(max(needed, 2 * len(self._starts)), dtype=np.int64)
                        larger[: self._count + 1] = self._starts[: self._count + 1]
                        self._starts = larger
                    self._starts[self._count + 1 : self._count + 1 + len(ends)] = ends
                    self._count += len(ends)
                    self._size += len(data)
                    self.version += 1
                time.sleep(0)
        return True

    @property
    def size(self) -> int:
        """Bytes indexed so far."""
        return self._size

    def __len__(self) -> int:
        """Lines, an unfinished last one included."""
        with self._lock:
            return self._count + (1 if self._size > self._starts[self._count] else 0)

    def lines(self, first: int, count: int) -> list[str]:
        """Lines ``first`` to ``first + count - 1`` (from 0) as shown, or fewer at the end."""
        with self._lock:
            total = self._count + (1 if self._size > self._starts[self._count] else 0)
            last = min(first + count, total)
            if first >= last:
                return []
            bounds = self._starts[first : last + 1].tolist()
            if last > self._count:
                bounds = [*self._starts[first : self._count + 1].tolist(), self._size]
        try:
            with open_regular(self.path) as file:
                file.seek(bounds[0])
                data = file.read(min(bounds[-1] - bounds[0], 1 << 24))
        except OSError:
            return []
        return [shown(data[a - bounds[0] : b - bounds[0]]) for a, b in itertools.pairwise(bounds)]

    def line_at(self, offset: int) -> int:
        """Number (from 0) of the line that holds byte ``offset``."""
        with self._lock:
            return int(np.searchsorted(self._starts[: self._count + 1], offset, side="right")) - 1

    def find(self, text: str, limit: int = 20_000) -> list[int]:
        """Numbers of the first ``limit`` lines that contain ``text``, regardless of case; call in a worker thread."""
        if not text:
            return []
        found: list[int] = []
        for offset in self._matches(text.lower().encode()):
            number = self.line_at(offset)
            if not found or found[-1] != number:
                found.append(number)
                if len(found) >= limit:
                    break
        return found

    def _matches(self, needle: bytes) -> Iterator[int]:
        try:
            with open_regular(self.path) as file:
                base, kept = 0, b""
                while data := file.read(CHUNK_BYTES):
                    block = kept + data.lower()
                    at = block.find(needle)
                    while at >= 0:
                        yield base - len(kept) + at
                        at = block.find(needle, at + len(needle))
                    base += len(data)
                    kept = block[-(len(needle) - 1) :] if len(needle) > 1 else b""
                    time.sleep(0)
        except OSError:
            return


def shown(raw: bytes) -> str:
    """One line as text: what follows the last carriage return, without escape sequences, cut at LONGEST_LINE."""
    text = raw.rstrip(b"\r\n")
    text = text[text.rfind(b"\r") + 1 :]
    line = printable(ESCAPES.sub("", text.decode("utf-8", "replace"))).replace("\t", "    ")
    return line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + " …"
