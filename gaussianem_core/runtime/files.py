"""Files that appear whole or not at all, and disk space checked before it is used. No torch here.

Every file that a job or the application leaves is written in one way (:func:`replacing`): under a hidden name beside
the target, brought to the disk, renamed, and the directory brought to the disk. A reader sees the old file or the new
one, also after a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

import psutil

from gaussianem_core.errors import InputError, ResourceError, ResultError
from gaussianem_core.runtime.sources import refuse_source

Json: TypeAlias = str | int | float | bool | Sequence["Json"] | Mapping[str, "Json"] | None
"""What a JSON file holds; tuples are written as lists."""

_TEMPORARY = re.compile(r"\.([^.].*)\.(\d+)\.\d+\.tmp")


def temporary_name(target: str | os.PathLike[str]) -> Path:
    """A hidden name beside ``target``, unique to this process and thread, for a file to be renamed to ``target``.

    Raises InputError if ``target`` is a file that the run reads (``sources_kept``).
    """
    target = Path(target)
    refuse_source(target)
    return target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden name to write to; what lies there is synced and takes the place of ``target`` when the block ends well.

    After an error nothing is left of it and ``target`` is as it was. Raises OSError (see :func:`disk_errors`).
    """
    temporary = temporary_name(target)
    try:
        yield temporary
        publish(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def publish(temporary: Path, target: str | os.PathLike[str]) -> None:
    """Bring ``temporary`` to the disk and give it the name ``target``, for good. Raises OSError."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, target)
    sync_directory(Path(target).parent)


def sync_directory(directory: str | os.PathLike[str]) -> None:
    """Bring the names in ``directory`` to the disk, where its file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def atomic_write(target: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the place of ``target`` when the block ends without an error.

    Raises
    ------
    ResourceError : the disk is full (nothing is left of the temporary file, the old target is untouched).
    InputError : the directory is missing or cannot be written.
    """
    with disk_errors(target), replacing(target) as temporary, open(temporary, "wb") as file:
        yield file
        file.flush()


def write_atomically(path: Path | str, content: bytes | str) -> None:
    """Replace ``path`` by ``content``: readers see the old or the new whole. Raises OSError."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)


def write_json(path: Path | str, content: Json) -> None:
    """Replace ``path`` by JSON. Raises ResultError for NaN and infinite numbers, which are no JSON; OSError."""
    try:
        text = json.dumps(content, indent=1, allow_nan=False)
    except ValueError as error:
        raise ResultError(
            f"{path}: the figures to be written hold NaN or infinite values. Nothing was written; check the data."
        ) from error
    write_atomically(path, text + "\n")


def null_for_nan(content: Json, where: str = "") -> tuple[Json, list[str]]:
    """JSON content with None in place of NaN and infinite numbers, and where those stood (``poses.before``)."""
    if isinstance(content, Mapping):
        parts = {key: null_for_nan(value, f"{where}.{key}" if where else str(key)) for key, value in content.items()}
        return {key: new for key, (new, _) in parts.items()}, [name for _, names in parts.values() for name in names]
    if isinstance(content, list | tuple):
        items = [null_for_nan(value, where) for value in content]
        return [new for new, _ in items], list(dict.fromkeys(name for _, names in items for name in names))
    return (None, [where]) if isinstance(content, float) and not math.isfinite(content) else (content, [])


def remove_left_overs(directory: str | os.PathLike[str]) -> None:
    """Remove temporary files in ``directory`` whose process has ended (killed, or the power failed).

    Those of hidden targets stay: they are the application's, which may run on another machine.
    """
    for path in Path(directory).glob(".*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and not psutil.pid_exists(int(match[2])):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def remove_replaced(directory: str | os.PathLike[str], *patterns: str) -> None:
    """Remove the files of an earlier run that match ``patterns``: they would pass for results of the one that replaces
    it.

    Raises InputError, before anything is removed, if the run reads one of them (``sources_kept``).
    """
    found = [path for pattern in patterns for path in Path(directory).glob(pattern)]
    for path in found:
        refuse_source(path)
    for path in found:
        path.unlink()


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
    """Bytes free for this user on the disk of ``directory``, or of its nearest parent that exists."""
    place = Path(directory).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def check_free_space(directory: str | os.PathLike[str], needed_bytes: int) -> None:
    """Check that the disk has room for ``needed_bytes``.

    Raises
    ------
    ResourceError : it has not; names the bytes needed and free.
    """
    free = free_bytes(directory)
    if needed_bytes > free:
        raise ResourceError(
            f"{directory}: {needed_bytes:,} bytes are needed but only {free:,} are free. "
            "Free some space, choose another output directory, a smaller box, or half precision."
        )
