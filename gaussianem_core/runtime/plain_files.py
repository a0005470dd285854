"""Opening files that must be plain ones: no link that leads elsewhere, no pipe that blocks.

Standard library alone, as the process that supervises a job loads nothing else.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from gaussianem_core.errors import InputError


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading. Raises OSError, also for what is no plain file: reading from a pipe would block."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a plain file", os.fspath(path))
    return open(handle, "rb")


def append_regular(path: str | os.PathLike[str]) -> int:
    """Open a file for appending, created if absent; returns its descriptor. Links are not followed.

    Raises InputError for a link and for what is no plain file, OSError if the file cannot be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = None
    try:
        handle = os.open(path, flags, 0o666)
        plain = stat.S_ISREG(os.fstat(handle).st_mode)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # a link; a pipe that nobody reads
            raise
        plain = False
    if handle is None or not plain:
        if handle is not None:
            os.close(handle)
        raise InputError("file", "must be a plain file to be written to", path, "Remove what is there in its place.")
    return handle
