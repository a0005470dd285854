"""The small files of a job, read through a schema: values that do not fit it are left out and reported.

They may be cut by a crash, edited by hand or written by another program. A field of the wrong type, NaN, a folder or a
pipe in place of a file: each gives a clause for the job's row, and the rest is used.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from gaussianem_core.errors import printable
from gaussianem_core.job.events import LAST_SECOND
from gaussianem_core.runtime.plain_files import open_regular

Content = TypeVar("Content")
LARGEST_BYTES = 1 << 22  # of a small file

Number = Annotated[float, Field(allow_inf_nan=False)]
Time = Annotated[float, Field(allow_inf_nan=False, ge=0, lt=LAST_SECOND)]
Count = Annotated[int, Field(ge=0, le=2**62)]
Text = Annotated[str, AfterValidator(printable)]
_OPEN = ConfigDict(extra="allow")  # files of newer versions hold more


class JobRecord(TypedDict, total=False):
    """This program's notes on a job: the run asked for, by whom, and where it is (``.gaussianem_job.json``)."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    version: Count
    created: Time
    run: Annotated[int, Field(ge=0, le=10**9)]
    requested: Time
    token: str
    asked_by: Text
    where: Text
    host: Text
    after: list[str]
    inputs_from: list[str]
    given: list[str]
    gpus_wanted: Count
    gpus: list[Count]
    events_from: Count
    waiting: Text
    started_at: Time
    submitted_at: Time
    abort_at: Time
    grace_seconds: Number
    scheduler: Text
    scheduler_id: Text
    scheduler_state: Text
    scheduler_note: Text
    scheduler_gone_at: Time


class ProcessName(TypedDict, total=False):
    """A process: ``processes.identity``."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    host: Text
    boot: str
    pid: Annotated[int, Field(gt=0, le=2**31)]
    ticks: Count
    started: Time


class Heartbeat(ProcessName, total=False):
    """Sign of life of a program (``heartbeat.json``)."""

    t: Time
    scheduler_id: Text


class Claim(ProcessName, total=False):
    """The process that runs, submits or withdrew a run (``.gaussianem_run_N.json``)."""

    child: ProcessName
    submitting: ProcessName
    withdrawn: Time


class ExitNote(TypedDict, total=False):
    """How a run ended (``.gaussianem_exit.json``)."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    run: Count
    code: int
    signal: Count
    ended: Time
    max_memory_bytes: Count
    reason: Text


RECORD: TypeAdapter[JobRecord] = TypeAdapter(JobRecord)
PROCESS: TypeAdapter[ProcessName] = TypeAdapter(ProcessName)
HEARTBEAT: TypeAdapter[Heartbeat] = TypeAdapter(Heartbeat)
CLAIM: TypeAdapter[Claim] = TypeAdapter(Claim)
EXIT: TypeAdapter[ExitNote] = TypeAdapter(ExitNote)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a small file; {} if it is blank (space reserved by ``job.last_word``).

    Raises OSError if it cannot be read, ValueError if it is damaged.
    """
    with open_regular(path) as file:
        data = file.read(LARGEST_BYTES + 1)
    if data.isspace():
        return {}
    if len(data) > LARGEST_BYTES:
        raise ValueError(f"more than {LARGEST_BYTES >> 20} MiB")
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a small file; {} if it is absent or damaged."""
    with contextlib.suppress(OSError, ValueError):
        return read_object(path)
    return {}


def fit(values: Mapping[str, object], schema: TypeAdapter[Content]) -> tuple[Content, list[str]]:
    """The values that fit the schema (null means absent), and what is wrong with each of the others."""
    left = {name: value for name, value in values.items() if value is not None}
    wrong: list[str] = []
    empty = schema.validate_python({})
    while True:
        try:
            return schema.validate_python(left), wrong
        except ValidationError as error:
            problems = {str(p["loc"][0]) if p["loc"] else "": p["msg"] for p in error.errors(include_url=False)}
            wrong += [f"{printable(name)}: {said[:1].lower()}{said[1:]}" for name, said in problems.items()]
            if not left.keys() & problems.keys():
                return empty, wrong
            left = {name: value for name, value in left.items() if name not in problems}


def read(path: Path, schema: TypeAdapter[Content]) -> tuple[Content, str]:
    """The values of a small file that fit the schema, and a clause on those that do not ("" if all do).

    An absent file gives no values and no clause.
    """
    empty = schema.validate_python({})
    try:
        found, wrong = fit(read_object(path), schema)
    except (FileNotFoundError, NotADirectoryError):
        return empty, ""
    except OSError as error:
        return empty, f"{path.name} cannot be read ({error.strerror})"
    except ValueError as error:
        return empty, f"{path.name} is damaged ({printable(str(error))[:80]})"
    return found, f"{path.name} is damaged ({'; '.join(wrong)[:200]})" if wrong else ""
