"""Paths in a job's options resolved: below its source directory first, then the working directory. No torch here."""

from __future__ import annotations

from pathlib import Path

from gaussianem_core.errors import InputError
from gaussianem_core.options import JobOptions, hints
from gaussianem_core.runtime.readers import exists, is_file


def resolve_input(options: JobOptions, field: str, endings: tuple[str, ...] = ()) -> Path:
    """The file or directory that option ``field`` names.

    A relative path is looked for below ``source_dir`` (where the job has one), then below the working directory;
    in each place as given, then with one of ``endings`` added (".mrcs").

    Raises
    ------
    InputError : the option is empty, ``source_dir`` is no directory, or nothing is found; names the places that were
        tried.
    """
    return _find(options, field, str(getattr(options, field)), endings)


def resolve_inputs(options: JobOptions, field: str) -> list[Path]:
    """As :func:`resolve_input`, errors too, for an option that names several files."""
    return [_find(options, field, str(value), ()) for value in getattr(options, field)]


def _find(options: JobOptions, field: str, value: str, endings: tuple[str, ...]) -> Path:
    if not value:
        raise InputError(f"option {field}", "must be given", "nothing", f"Give --{field}.")
    given = Path(value).expanduser()
    source = Path(getattr(options, "source_dir", "") or ".").expanduser()
    if not (exists(source) and source.is_dir()):
        raise InputError("option source_dir", "must be a directory that exists", source, "Correct --source_dir.")
    places = dict.fromkeys([source / given, given])
    for place in places:
        for ending in ("", *endings):
            candidate = place.with_name(place.name + ending) if ending else place
            if is_file(candidate) if endings else exists(candidate):
                return candidate
    where = " nor ".join(str(place.absolute()) for place in places)
    raise InputError(
        f"option {field}",
        "must name something that exists",
        value,
        f"Found neither {where}." if len(places) > 1 else f"There is no {where}.",
    )


def optional_input(options: JobOptions, field: str) -> Path | None:
    """As :func:`resolve_input`, or None where the option is empty."""
    return resolve_input(options, field) if getattr(options, field) else None


def input_files(options: JobOptions) -> list[Path]:
    """The input files that the options name and that exist, without the files that these name in turn."""
    found = []
    for name in type(options).model_fields:
        hint = hints(type(options), name)
        if not hint.get("produces") and hint.get("widget") not in ("file", "mask"):
            continue
        value = getattr(options, name)
        for word in value if isinstance(value, list | tuple) else [value]:
            given = Path(str(word or ".")).expanduser()
            for place in (Path(getattr(options, "source_dir", "") or ".").expanduser() / given, given):
                found += [path for path in (place, Path(f"{place}.mrcs")) if is_file(path)]
    return list(dict.fromkeys(found))
