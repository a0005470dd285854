"""``job.star`` of RELION: options of a job as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaussianem_core.errors import InputError
from gaussianem_core.options import JobOptions
from gaussianem_gui.project.graph import Table, parse, render

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
            values[name] = json.loads(word) if word.startswith("[") else ([word] if word else [])
        elif word == "" and field.annotation is not str:
            continue
        else:
            values[name] = word
    return values


def read_job_star(path: Path) -> tuple[str, dict[str, str]]:
    """Type label and options of a job.star. Raises InputError if it cannot be understood."""
    try:
        blocks = parse(path.read_text(errors="surrogateescape"))
        table = blocks["joboptions_values"]
        pairs = dict(zip(table.column("rlnJobOptionVariable"), table.column("rlnJobOptionValue")))
        return blocks["job"].get("rlnJobTypeLabel"), pairs
    except (OSError, ValueError, KeyError) as error:
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
