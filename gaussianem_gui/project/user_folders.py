"""Folders of this user outside of any project: settings, requested runs, locks of this machine. No Qt here.

Owner and mode are checked, so that a folder that another user could have made or changed is not used.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gaussianem_core.errors import InputError

STATE = "GAUSSIANEM_STATE_DIR"


def config_folder() -> Path:
    """Folder of the user's settings; it may not exist yet."""
    return _base("XDG_CONFIG_HOME", ".config") / "gaussianem"


def state_folder() -> Path:
    """Folder of the runs that this user asked for; created if absent, readable by this user alone.

    In the home directory, so that it survives a restart; GAUSSIANEM_STATE_DIR names another place. Raises InputError
    if no place can be used.
    """
    return _first_private(_state_places())


def machine_folder() -> Path:
    """Folder for locks and reservations among this user's programs on this machine (not on a network disk).

    It must be the same for all sessions and outlast the last logout while jobs run: therefore it is in /tmp, whatever
    TMPDIR and XDG_RUNTIME_DIR are. Where that name is taken by another user, a folder in :func:`state_folder` is used.
    Raises InputError if no place can be used.
    """
    return _first_private(_machine_places())


def _base(variable: str, below_home: str) -> Path:
    given = os.environ.get(variable, "")
    return Path(given) if os.path.isabs(given) else Path(os.path.expanduser("~")) / below_home


def _own() -> str:
    return f"gaussianem-{os.getuid()}"  # not the name: LOGNAME may say anything


def _temporary() -> Path:
    shared = Path("/tmp")
    return (shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())) / _own()


def _state_places() -> Iterator[Path]:
    if given := os.environ.get(STATE):
        yield Path(given) / _own()
    yield _base("XDG_STATE_HOME", ".local/state") / "gaussianem"
    yield _temporary()  # a home directory that cannot be written


def _machine_places() -> Iterator[Path]:
    yield Path(os.environ[STATE]) / _own() if os.environ.get(STATE) else _temporary()
    yield state_folder() / f"machine-{socket.gethostname()}"


def _first_private(places: Iterator[Path]) -> Path:
    why = ""
    for place in places:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if why := _foreign(place):
                continue
        except OSError as error:
            why = f"{place}: {error.strerror}"
            continue
        return place
    raise InputError("state directory", "must be this user's own and writable", why, f"Set {STATE} to another.")


def _foreign(place: Path) -> str:
    """Why a folder is not for this user alone, "" if it is; one of the user's own that is open to others is closed."""
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return f"{place}, which is no directory"
    if found.st_uid != os.getuid():
        return f"{place}, which belongs to user {found.st_uid}"
    if found.st_mode & 0o077:
        place.chmod(0o700)
    return "" if os.access(place, os.W_OK | os.X_OK) else f"{place}, which cannot be written"
