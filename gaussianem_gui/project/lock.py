"""The project's lock: an atomic ``mkdir .relion_lock``, as RELION and ccpem-pipeliner take it.

A message file inside says who holds it. Where the file system can, the directory is created and removed in one step
with its message, so that a lock left by a killed process names that process. Such a lock is reported, and broken only
on request.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import json
import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gaussianem_core.errors import InputError, printable
from gaussianem_core.runtime.plain_files import open_regular
from gaussianem_core.runtime.processes import alive, identity
from gaussianem_gui.project.small_files import LARGEST_BYTES, PROCESS, ProcessName, fit

LOCK = ".relion_lock"
MESSAGE = "lock_default_pipeline.star"
WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Holder:
    """Holder of a lock: a clause (``text``), host and pid where known, since when (Unix seconds), whether it ended."""

    text: str
    host: str = ""
    pid: int = 0
    since: float = 0.0
    dead: bool | None = None  # None: cannot be told from here


class LockHeld(InputError):
    """The project stayed locked, by ``holder``."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.holder, self.path = holder, path
        remedy = (
            "That process is gone: break the lock (gaussianem project repair --break_lock)."
            if holder.dead
            else "Wait until that program is done; if it is gone for sure, break the lock "
            "(gaussianem project repair --break_lock)."
        )
        super().__init__("project", "must not be locked by another program", holder.text, remedy)

    def __reduce__(self) -> tuple[type[LockHeld], tuple[Path, Holder]]:  # type: ignore[override]
        return LockHeld, (self.path, self.holder)


def holder(root: Path) -> Holder | None:
    """Who holds the lock of the project in ``root``; None if it is free."""
    path = root / LOCK
    try:
        since = path.lstat().st_mtime
    except OSError:
        return None
    text = _message(path).strip()
    who: ProcessName = {}
    with contextlib.suppress(ValueError, RecursionError):
        loaded = json.loads(text.splitlines()[-1]) if text else {}
        if isinstance(loaded, dict):
            who = fit(loaded, PROCESS)[0]
    dead = {True: False, False: True, None: None}[alive(who)] if who else None
    name = printable(text.splitlines()[0] if text else "an unknown program")[:200]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))
    return Holder(
        f"held by {name}, since {when}" + (", a process that is gone" if dead else ""),
        who.get("host", ""),
        who.get("pid", 0),
        since,
        dead,
    )


@contextlib.contextmanager
def locked(root: Path, doing: str, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the project's lock. Raises LockHeld after ``wait_seconds``, InputError where nothing can be written."""
    path = root / LOCK
    deadline = time.monotonic() + wait_seconds
    pause = 0.02
    who = identity()
    text = f"GaussianEM on {who['host']} (pid {who['pid']}), {doing}\n{json.dumps(who)}\n"
    while True:
        try:
            _take(path, text)
            break
        except FileExistsError:
            now = holder(root)
            if time.monotonic() > deadline or (now is not None and now.dead):
                # A dead holder never lets go: say so at once, after one look more that it is still the same.
                if now is not None and (again := holder(root)) is not None and again.since == now.since:
                    raise LockHeld(path, again) from None
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 1.3, 1.0)
        except OSError as error:
            raise InputError("project", "must be writable", root, f"{error.strerror}.") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if _message(path) in (text, ""):  # not broken meanwhile, and taken by another
                _remove(path)


def _message(path: Path) -> str:
    with contextlib.suppress(OSError), open_regular(path / MESSAGE) as file:
        return file.read(LARGEST_BYTES).decode(errors="replace")
    return ""


def _take(path: Path, text: str) -> None:
    """Make the lock's directory with its message. Raises FileExistsError if it is there, OSError if it cannot be."""
    if os.path.lexists(path):
        raise FileExistsError(path)
    own = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}")
    try:
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        with contextlib.suppress(OSError):  # a full disk is told by what is to be written
            (own / MESSAGE).write_text(text)
        _rename_to_new(own, path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
        path.mkdir()  # RELION's way, which leaves a moment without a name
        with contextlib.suppress(OSError):
            (path / MESSAGE).write_text(text)
    finally:
        shutil.rmtree(own, ignore_errors=True)


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """The C library's function of that name; None where there is none (a plain rename replaces an empty directory)."""
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _rename_to_new(source: Path, target: Path) -> None:
    """Rename in one step, or raise FileExistsError; OSError with EINVAL or ENOSYS where the file system cannot."""
    function, here, no_replace = _renameat2(), -100, 1  # AT_FDCWD, RENAME_NOREPLACE
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if function(here, os.fsencode(source), here, os.fsencode(target), no_replace):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))  # EEXIST becomes FileExistsError


def break_lock(root: Path) -> str:
    """Remove the lock, whoever holds it; returns a clause on the holder, or "" if it was free.

    Of two programs that break it at once only one succeeds. Raises InputError where nothing can be written.
    """
    before = holder(root)
    if before is None:
        return ""
    try:
        _remove(root / LOCK)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError("project", "must be writable", root, f"{error.strerror}.") from error
    return before.text


def _remove(path: Path) -> None:
    """Remove the lock's directory with its message in one step: renamed away first, so that it is never half gone."""
    aside = path.with_name(f"{path.name}.gone.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}")
    os.rename(path, aside)
    if aside.is_symlink():  # what it leads to is not ours
        aside.unlink()
    shutil.rmtree(aside, ignore_errors=True)
