"""Finding the stacks that a particle file names on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.readers import is_file

LONGEST_NAME = 4096  # characters; file systems take no more
_PARENTS_TRIED = 3  # a STAR file lies at most this deep in its project (Refine3D/job019/run_data.star)


def resolve_stacks(
    names: Sequence[str],
    source: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    project_dir: str | os.PathLike[str] | None = None,
) -> tuple[Path, ...]:
    """Find the files that a particle file names.

    Tried in this order: the path itself if absolute; the whole path in ``data_dir``, ``project_dir``, the folder of
    the particle file, the working directory and the parents of the particle file's folder (a project's root); the
    same folders of the file that a link leads to (an imported file names images of its own project); then, in
    ``data_dir``, ever shorter endings of the path down to the bare file name; then ``data_dir`` itself if it is the
    stack.

    Parameters
    ----------
    names : paths as written, one per stack (cryoSPARC's leading ``>`` is dropped).
    source : the particle file.

    Raises
    ------
    InputError : files that are nowhere (lists the places tried), or two names that would share one file.
    """
    source = Path(source)
    data = Path(data_dir) if data_dir else None
    if data is not None and not data.exists():
        raise InputError("data_dir", "must exist", data, "Give the directory of the particle stacks.")
    found: list[Path] = []
    lost: list[str] = []
    for name in names:
        path = next((p for p in _candidates(name, source, data, project_dir, len(names)) if is_file(p)), None)
        if path is None:
            lost.append(name)
        else:
            found.append(path)
    if lost:
        tried = "; ".join(dict.fromkeys(map(str, _candidates(lost[0], source, data, project_dir, len(names)))))
        raise InputError(
            f"{source}, rlnImageName or blob/path",
            "must name stacks that exist",
            f"{lost[0]!r}" + (f" and {len(lost) - 1} more" if len(lost) > 1 else "") + f"; tried {tried}",
            "Give --data_dir, the directory that holds the stacks, or --source_dir, the project's directory.",
        )
    _refuse_shared(names, found)
    return tuple(found)


def _candidates(
    name: str, source: Path, data: Path | None, project_dir: str | os.PathLike[str] | None, n_names: int
) -> Iterator[Path]:
    if len(name) > LONGEST_NAME:
        return
    relative = PurePosixPath(name.lstrip(">"))
    if relative.is_absolute():
        yield Path(relative)
    else:
        folder, real = source.absolute().parent, source.resolve().parent
        places = [data, Path(project_dir) if project_dir else None, folder, Path(), *folder.parents[:_PARENTS_TRIED]]
        if real != folder:
            places += [real, *real.parents[:_PARENTS_TRIED]]
        for place in places:
            if place is not None:
                yield place / relative
    if data is None:
        return
    if data.is_file():
        if data.name == relative.name or n_names == 1:
            yield data
        return
    parts = relative.parts[1:]
    for start in range(len(parts)):
        yield data.joinpath(*parts[start:])


def _refuse_shared(names: Sequence[str], found: Sequence[Path]) -> None:
    """Two names may mean one file only when one is the other written differently (``./a`` and ``a``, a link)."""
    owner: dict[Path, str] = {}
    for name, path in zip(names, found, strict=True):
        key = path.absolute()
        other = owner.setdefault(key, name)
        if other != name and os.path.normpath(other.lstrip(">")) != os.path.normpath(name.lstrip(">")):
            raise InputError(
                "data_dir",
                "must lead each stack of the particle file to a file of its own",
                f"{other!r} and {name!r} both lead to {path}",
                "Keep the stacks in folders named as in the particle file, and give their parent as --data_dir.",
            )
