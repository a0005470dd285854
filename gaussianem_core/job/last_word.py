"""Disk space for the last event of a run, reserved when it begins, so that a full disk cannot suppress it.

Standard library alone: the process that supervises a job for days loads nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

ROOM_BYTES = 4096
FULL_BYTES = 1 << 20  # less than this free, and a program that dies has most likely died of it
END = ".gaussianem_end.json"  # of the program itself: its last event, where the list of events cannot take it


class LastWord:
    """A small JSON file that is blank until :meth:`say` writes into the space that it holds.

    Nothing is raised here: where the space could not be reserved, :meth:`say` tries to write without it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # of an earlier run; a link of that name is not followed
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            written = os.write(self._handle, b" " * ROOM_BYTES)
            if written < ROOM_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._handle)
        except OSError:
            self.drop()

    def say(self, **content: Any) -> None:
        """Write the last event, as JSON, into the file; a ``reason`` that is too long is cut."""
        with contextlib.suppress(OSError):
            text = json.dumps(content, default=str)
            if len(text) >= ROOM_BYTES and isinstance(content.get("reason"), str):
                text = json.dumps({**content, "reason": content["reason"][: ROOM_BYTES // 12]}, default=str)
            if self._handle is None:
                self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            os.pwrite(self._handle, text.encode().ljust(ROOM_BYTES - 1) + b"\n", 0)
            os.fsync(self._handle)

    def drop(self) -> None:
        """Remove the file, as the event was written elsewhere. A file of that name that a later run has made stays."""
        if self._handle is None:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._handle), os.lstat(self.path)):
                self.path.unlink()
        os.close(self._handle)
        self._handle = None


def disk_full(directory: Path) -> str:
    """A clause for a message if less than FULL_BYTES are free where ``directory`` is; "" otherwise or if unknown."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return ""
    free = found.f_bavail * found.f_frsize
    return f"the disk is full ({free:,} bytes free)" if found.f_blocks and free < FULL_BYTES else ""
