"""``job.star`` of RELION: options of a job as text."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gaussianem_core.errors import InputError
from gaussianem_core.options import JobOptions
from gaussianem_core.runtime.plain_files import open_regular
from gaussianem_gui.project.graph import Table, parse, render

LARGEST_BYTES = 1 << 22
RELION_OPTIONS = {"fn_exe": "gaussianem job exec", "do_queue": "No", "min_dedicated": "1", "nr_threads": "1"}


def star_value(value: Any) -> str:
    """An option's value as job.star has it: Yes/No, "" for nothing, JSON for a list."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def values_from_star(model: type[JobOptions], pairs: Mapping[str, str]) -> dict[str, Any]:
    """Options of ``model`` in a job.star; empty words of numbers mean the default, other names are left out."""
    values: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name not in pairs:
            continue
        word = pairs[name]
        kind = str(field.annotation)
        if field.annotation is bool:
            values[name] = word.lower() in ("yes", "true", "1")
        elif kind.startswith("list"):
            values[name] = _list(word)
        elif word == "" and field.annotation is not str:
            continue
        else:
            values[name] = word
    return values


def _list(word: str) -> list[Any]:
    if word.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            return list(json.loads(word))
    return [word] if word else []


@functools.cache
def _kinds(model: type[JobOptions]) -> dict[str, TypeAdapter[Any]]:
    return {name: TypeAdapter(field.annotation or Any) for name, field in model.model_fields.items()}


def wrong_type(model: type[JobOptions], name: str, value: Any) -> str:
    """The rule that ``value`` breaks by the option's type alone, "" if none; empty is allowed, as in a draft."""
    if value in (None, ""):
        return ""
    try:
        _kinds(model)[name].validate_python(value)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"]
        return said[:1].lower() + said[1:]
    return ""


def read_job_star(path: Path) -> tuple[str, dict[str, str]]:
    """Type label and options of a job.star. Raises InputError if it cannot be read or is none of RELION 4 or newer."""
    try:
        with open_regular(path) as file:
            blocks = parse(file.read(LARGEST_BYTES).decode(errors="surrogateescape"))
        table = blocks["joboptions_values"]
        pairs = dict(zip(table.column("rlnJobOptionVariable"), table.column("rlnJobOptionValue")))
        return blocks["job"].get("rlnJobTypeLabel"), pairs
    except (OSError, ValueError, LookupError) as error:
        raise InputError("job.star", "must be a job file of RELION 4 or newer", path, f"{error}.") from error


def job_star_text(type_label: str, values: Mapping[str, Any], is_continue: bool = False, tomo: str = "0") -> str:
    """The text of a job.star: RELION's own options first, then ours."""
    pairs = {**RELION_OPTIONS, **{name: star_value(value) for name, value in values.items()}}
    return render(
        {
            "job": Table(
                ["rlnJobTypeLabel", "rlnJobIsContinue", "rlnJobIsTomo"],
                [[type_label, str(int(is_continue)), tomo]],
                True,
            ),
            "joboptions_values": Table(
                ["rlnJobOptionVariable", "rlnJobOptionValue"], [[k, v] for k, v in pairs.items()]
            ),
        }
    )
