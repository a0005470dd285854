"""Protection of the files that a run reads from being replaced by its output."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

from gaussianem_core.errors import InputError

StrPath = str | os.PathLike[str]
_kept: list[frozenset[str]] = []  # of this process: writers in any room ask here


def place(path: StrPath) -> str:
    """The absolute path of a directory entry with links in the folders above it resolved: what a rename replaces."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def places(paths: Iterable[StrPath]) -> frozenset[str]:
    """Absolute paths of files and, for links, of the files behind them."""
    paths = list(paths)
    return frozenset(map(place, paths)) | frozenset(map(os.path.realpath, paths))


@contextlib.contextmanager
def sources_kept(paths: Iterable[StrPath]) -> Iterator[None]:
    """While the block runs, ``refuse_source`` refuses these files, and so does every writer of ``runtime.files``."""
    _kept.append(places(paths))
    try:
        yield
    finally:
        _kept.pop()


def refuse_source(target: StrPath, sources: Iterable[StrPath] = ()) -> None:
    """Raise InputError if ``target`` is one of ``sources``, or of the files that are kept now."""
    there = place(target)
    if any(there in kept for kept in [*_kept, places(sources)]):
        raise InputError(
            f"output {target}", "must not be a file that is read for it", there, "Choose another output directory."
        )
