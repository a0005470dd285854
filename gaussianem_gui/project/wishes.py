"""Requests of this user to run a job ("wishes"), kept in the user's own folder: nothing else starts a job.

A project's files say that a run was asked for, but they may come from anyone: from a colleague, from the internet. So a
request is stored here, outside of the project, with everything that decides what is run: the engine's command, the
queue's template and the command that submits. The job's record holds the wish's token; a run whose token is not here
was asked for by someone else, or elsewhere, and is not started.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gaussianem_core.errors import InputError
from gaussianem_gui.project.small_files import JobRecord, read_object
from gaussianem_gui.project.user_folders import state_folder

_TOKEN = re.compile(r"[0-9a-f]{32}")


class Wish(BaseModel):
    """One run that this user asked for.

    ``host`` is the machine that starts a local run; ``after`` are the jobs that must have succeeded before;
    ``engine`` replaces the program, ``visible`` are the GPUs that the session may use; ``cluster`` are the settings of
    a submission and ``template`` is the text of its script. ``scheduler_id`` is what the scheduler answered to us.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: str
    job: str
    run: int
    where: Literal["local", "cluster"]
    token: str = Field(default_factory=lambda: secrets.token_hex(16), pattern=_TOKEN.pattern)
    requested: float = Field(default_factory=time.time)
    host: str = ""
    after: tuple[str, ...] = ()
    engine: str = ""
    visible: str | None = None
    gpus_wanted: int | None = None
    cluster: dict[str, Any] | None = None
    template: str = ""
    scheduler: str = ""
    scheduler_id: str = ""

    def matches(self, record: JobRecord) -> bool:
        """True if a job's record is of this run."""
        return record.get("token") == self.token and record.get("run") == self.run


def _folder(root: Path) -> Path:
    return state_folder() / "wishes" / hashlib.sha256(os.fsencode(root)).hexdigest()[:32]


def keep(wish: Wish) -> None:
    """Write a wish, new or changed, atomically. Raises InputError where nothing can be written."""
    folder = _folder(Path(wish.project))
    path = folder / f"{wish.token}.json"
    temporary = folder / f".{wish.token}.{os.getpid()}.tmp"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(wish.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        remedy = "Free some space, or set GAUSSIANEM_STATE_DIR to another folder."
        raise InputError("state directory", "must be writable", f"{folder}: {error.strerror}", remedy) from error


def find(root: Path, job: str, record: JobRecord) -> Wish | None:
    """The wish for the run that ``record`` of ``job`` names; None if this user did not ask for it from here."""
    token = record.get("token")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        return None
    with contextlib.suppress(InputError):
        wish = _read(_folder(root) / f"{token}.json")
        if wish is not None and (wish.project, wish.job) == (str(root), job) and wish.matches(record):
            return wish
    return None


def of_project(root: Path) -> list[Wish]:
    """This user's wishes for jobs of a project, oldest first."""
    found = []
    with contextlib.suppress(OSError, InputError):
        found = [_read(path) for path in _folder(root).glob("*.json")]
    return sorted((wish for wish in found if wish and wish.project == str(root)), key=lambda w: (w.requested, w.job))


def forget(wish: Wish) -> None:
    """Remove a wish; nothing happens if it is gone."""
    with contextlib.suppress(OSError, InputError):
        (_folder(Path(wish.project)) / f"{wish.token}.json").unlink()


def _read(path: Path) -> Wish | None:
    try:
        found = os.lstat(path)
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            return None
        return Wish(**read_object(path))
    except (OSError, ValueError, ValidationError, json.JSONDecodeError):
        return None
