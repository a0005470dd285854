"""The check that nothing is written, moved or deleted outside of the project.

A project may hold links, and a graph may name jobs, that lead anywhere. A file that is replaced as a whole (a temporary
file, renamed) never goes through a link of that name; one that is appended to or touched is opened without following
links.
"""

from __future__ import annotations

import os
from pathlib import Path

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.plain_files import append_regular


def leads_out(root: Path, path: Path) -> bool:
    """True if the folder that holds ``path`` lies outside of ``root`` once links are followed."""
    try:
        return not Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(root))
    except (OSError, ValueError):  # a name that no file can have
        return True


def inside(root: Path, path: Path) -> Path:
    """``path``, an entry of a folder of the project ``root``. Raises InputError if it leads out of it."""
    if leads_out(root, path):
        raise InputError("path", f"must lie inside the project {root}", path, "Remove the link that leads out of it.")
    return path


def made_folder(root: Path, path: Path) -> Path:
    """The folder ``path`` of the project, created with those above it if absent. Raises InputError if it leads out of
    the project, OSError if it cannot be made."""
    if not path.is_dir():
        # The nearest folder that is there decides where the others are made.
        there = next(parent for parent in path.parents if parent.exists() or parent == root)
        inside(root, there / "x")
        path.mkdir(parents=True, exist_ok=True)
    inside(root, path / "x")
    return path


def touch(path: Path) -> None:
    """Create an empty file, or update its time. Raises InputError for a link or no plain file, OSError."""
    handle = append_regular(path)
    try:
        os.utime(handle)
    finally:
        os.close(handle)
