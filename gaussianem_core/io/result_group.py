"""cryoSPARC's result groups (.csg): short YAML files that say which .cs files hold the fields of one set of particles.

cryoSPARC's Import Result Group wants one beside the .cs files. ``metafile: '>name.cs'`` is relative to the group.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from gaussianem_core.errors import InputError
from gaussianem_core.io.cryosparc import load_cs
from gaussianem_core.runtime.files import write_atomically
from gaussianem_core.runtime.readers import is_file, read_text, refusing

LARGEST = 1 << 20  # bytes; a group of some hundred results has 50,000


def particle_files(
    path: str | os.PathLike[str], passthrough: Sequence[str | os.PathLike[str]] = ()
) -> tuple[Path, tuple[Path, ...]]:
    """The particle file and its passthrough files: those that a result group names, or what was given.

    Raises
    ------
    InputError : the group cannot be read, is none of particles, or names files that are not there.
    """
    path, more = Path(path), tuple(Path(p) for p in passthrough)
    if path.suffix.lower() != ".csg":
        return path, more
    results = _read(path).get("results")
    named = {
        str(name): result["metafile"]
        for name, result in (results if isinstance(results, dict) else {}).items()
        if isinstance(result, dict) and isinstance(result.get("metafile"), str)
    }
    if "blob" not in named:
        found = ", ".join(sorted(named)) or "no results"
        raise InputError(str(path), "must be a result group of particles with images", found, "Give the particles'.")
    main = _find(path, named["blob"])
    others = tuple(dict.fromkeys(p for p in (_find(path, name) for name in named.values()) if p != main))
    return main, (*others, *more)


def write_result_group(path: str | os.PathLike[str], files: Sequence[Path]) -> None:
    """Write the group of .cs ``files`` of the same particles that lie beside it; a field's first file counts.

    Raises
    ------
    InputError : a file that is no cryoSPARC dataset.
    """
    results: dict[str, Any] = {}
    for file in files:
        data = load_cs(file, mmap=True)
        for prefix in dict.fromkeys(name.partition("/")[0] for name in data.dtype.names or () if "/" in name):
            kind = "alignments3D" if re.fullmatch(r"alignments_class\w*", prefix) else prefix
            results.setdefault(
                prefix, {"metafile": f">{file.name}", "num_items": len(data), "type": f"particle.{kind}"}
            )
    group = {"description": "Selected particles", "name": "particles", "title": "Particles", "type": "particle"}
    content: Mapping[str, Any] = {"created": f"{datetime.now():%Y-%m-%d %H:%M:%S}", "group": group, "results": results}
    write_atomically(Path(path), yaml.safe_dump(content))


def _read(path: Path) -> dict[str, Any]:
    remedy = "Give the particles .cs file beside it."
    what = "cryoSPARC's result group (YAML)"
    text = read_text(path, str(path), remedy, what)
    if len(text) > LARGEST:
        raise InputError(str(path), f"must be shorter than {LARGEST:,} bytes", f"{len(text):,}", remedy)
    with refusing(path, str(path), what, remedy):
        content = yaml.safe_load(text)
    if not isinstance(content, dict):
        raise InputError(str(path), "must be cryoSPARC's result group", type(content).__name__, remedy)
    return content


def _find(group: Path, name: str) -> Path:
    """The .cs file that a group names: beside it, or in its project's directory where the name has no ``>``."""
    relative = name.lstrip(">")
    for folder in (group.parent, group.resolve().parent, group.resolve().parent.parent):
        if is_file(folder / relative):
            return folder / relative
    raise InputError(str(group), "must name .cs files that exist", name, "Copy the files that it names along with it.")
