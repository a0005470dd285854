"""Files that appear whole or not at all, and disk space checked before it is used. No torch here."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gaussianem_core.errors import InputError, ResourceError
from gaussianem_core.runtime.sources import refuse_source


def temporary_name(target: str | os.PathLike[str]) -> Path:
    """Hidden name beside ``target``, of this process and thread, to be renamed onto it.

    Raises InputError if ``target`` is a file that the run reads (``sources_kept``).
    """
    target = Path(target)
    refuse_source(target)
    return target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")


@contextmanager
def atomic_write(target: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``target`` for writing, renamed onto it when the block ends without an error.

    Raises
    ------
    ResourceError : the disk is full (nothing is left of the temporary file, the old target is untouched).
    InputError : the directory is missing or cannot be written.
    """
    target = Path(target)
    temporary = temporary_name(target)
    try:
        with disk_errors(target):
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def disk_errors(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a full disk into ResourceError and a target that cannot be written into InputError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"{target}: the disk is full ({free_bytes(Path(target).parent):,} bytes free). "
                "Free some space or choose another output directory; nothing was left half-written."
            ) from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR):
            raise InputError(
                f"output {target}", "must be writable", error.strerror, "Choose a directory that you may write to."
            ) from error
        raise


def free_bytes(directory: str | os.PathLike[str]) -> int:
    """Bytes free for this user where ``directory`` is (or will be: the nearest parent that exists counts)."""
    place = Path(directory).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def check_free_space(directory: str | os.PathLike[str], needed_bytes: int) -> None:
    """Refuse ahead what the disk cannot hold.

    Raises
    ------
    ResourceError : names the bytes needed and free.
    """
    free = free_bytes(directory)
    if needed_bytes > free:
        raise ResourceError(
            f"{directory}: {needed_bytes:,} bytes are needed but only {free:,} are free. "
            "Free some space, choose another output directory, a smaller box, or half precision."
        )


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, by name; nothing in it is run. Raises ValueError, whatever is wrong with the file."""
    try:
        with open(path, "rb") as opened:  # np.load leaves a damaged file open
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            return {name: file[name] for name in file.files}
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(error) from error


def write_atomically(path: Path | str, content: bytes | str) -> None:
    """Write ``content`` under a temporary name beside ``path``, then rename: readers see the old or the new whole."""
    path = Path(path)
    temporary = temporary_name(path)
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
