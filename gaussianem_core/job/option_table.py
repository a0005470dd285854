"""The option tables of the guide, in Markdown, from the option models: ``python -m gaussianem_core.job.option_table``.

With a file's name, the tables between its lines ``<!-- options -->`` and ``<!-- /options -->`` are renewed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from gaussianem_core.errors import InputError
from gaussianem_core.options import JOB_OPTIONS, JobOptions, hints, own_options_first
from gaussianem_core.runtime.files import write_atomically

BEGIN, END = "<!-- options -->", "<!-- /options -->"


def tables() -> str:
    """The tables of all jobs, each under its job's name."""
    return "\n".join(job_table(model) for model in JOB_OPTIONS.values())


def job_table(model: type[JobOptions]) -> str:
    """A Markdown table of one job's options: name, meaning, default, allowed values; its own options first."""
    lines = [
        f"## gaussianem {model.job_type}",
        "",
        _escape((model.__doc__ or "").strip()),
        "",
        "| Option | What it does | Default | Values |",
        "|---|---|---|---|",
    ]
    for name in own_options_first(model):
        field, extra = model.model_fields[name], hints(model, name)
        flag = f"`--{name}`" + (f", `{extra['alias']}`" if extra["alias"] else "")
        cells = (flag, field.description or "", default_text(field), _values(field, extra["unit"]))
        lines.append("| " + " | ".join(map(_escape, cells)) + " |")
    return "\n".join([*lines, ""])


def renew(path: Path) -> None:
    """Replace the tables in a Markdown file, atomically. Raises InputError if the lines BEGIN and END are missing."""
    head, begin, rest = path.read_text().partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise InputError(str(path), f"must hold the lines {BEGIN} and {END}", "neither or one", "Add them.")
    write_atomically(path, f"{head}{BEGIN}\n\n{tables()}\n{END}{tail}")


def default_text(field: FieldInfo) -> str:
    """What an option is if it is not given: "required", a value in backquotes, or "" for nothing."""
    if field.is_required():
        return "required"
    value = field.get_default()
    if value is None or value == "" or value == []:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{value}`"


def _values(field: FieldInfo, unit: str | None) -> str:
    """Kind, bounds and unit of a value."""
    kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in kinds)
    if field.annotation is bool:
        return "flag"
    if get_origin(field.annotation) is list:
        return "several"
    names: dict[object, str] = {int: "whole number", float: "number", str: "text"}
    words = [names[kinds[0]]]
    for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
        words += [f"{sign} {getattr(m, attribute):g}" for m in field.metadata if hasattr(m, attribute)]
    return " ".join(words) + (f" ({unit})" if unit else "")


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("->", "→").replace("<", "&lt;")


def main(arguments: Sequence[str]) -> int:
    """Print the tables, or renew those of the files named."""
    for name in arguments:
        renew(Path(name))
    if not arguments:
        print(tables())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
