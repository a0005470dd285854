"""A selection becomes a Select job: the original rows of the original particle file, and the rest if wanted. No Qt.

STAR rows are copied byte by byte (columns, order, optics tables, number formats, unbinned image paths), .cs rows with
all fields and uids, so that RELION and cryoSPARC take them as their own.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.io.image_rows import first_rows, load_images, load_particles, rows_of_particles
from gaussianem_core.io.particle_rows import write_cs_rows
from gaussianem_core.io.particle_table import (
    column_names,
    copy_optimisation_set,
    read_particle_column,
    row_count,
    write_cs_subset,
    write_star_subset,
)
from gaussianem_core.io.result_group import write_result_group
from gaussianem_core.io.stack_paths import resolve_stacks
from gaussianem_core.runtime.files import write_atomically
from gaussianem_gui.explorer.selections import describe
from gaussianem_gui.explorer.sources import Sources
from gaussianem_gui.project.job import Job
from gaussianem_gui.project.project import Project


@dataclass(frozen=True)
class Exported:
    """A Select job and its particle files with their numbers of rows, as read back from the disk."""

    job: Job
    files: tuple[tuple[Path, int], ...]


def export_selection(
    project: Project,
    sources: Sources,
    mask: np.ndarray,
    *,
    name: str = "",
    steps: Sequence[dict[str, Any]] = (),
    complement: bool = False,
    alias: str = "",
) -> Exported:  # mask (N,) bool
    """Write the selected particles (and the others, with ``complement``) as a Select job of the project.

    Of symmetry-expanded particles the selected copies are written, and beside them, as ``..._unique``, each image that
    has one of them, once.

    Raises InputError if nothing is selected, there is no particle file, or its rows are not the mask's.
    """
    original = sources.original
    if original is None:
        raise InputError("particle file", "must be known", "none", "Restore the Preprocess job or its particle file.")
    if not mask.any():
        raise InputError("selection", "must hold at least one particle", "none", "Select particles first.")
    rows = row_count(original)
    chosen = mask
    particle = load_particles(sources.particles.parent) if sources.particles is not None else None
    mask = np.asarray(rows_of_particles(mask, particle, rows, original))  # all images of a chosen particle
    parts = [("selected", mask)]
    if complement and not mask.all():
        parts.append(("rest", ~mask))
    written: list[tuple[str, int]] = []

    image = load_images(sources.images.parent, rows) if sources.images is not None else None

    def put(directory: Path, source: Path, extras: Sequence[Path], part: np.ndarray, word: str) -> None:
        target = f"particles_{word}{source.suffix.lower()}"
        if source.suffix.lower() == ".cs":
            write_cs_subset(source, part, directory / target)
            uids = np.asarray(read_particle_column(directory / target, "uid"))
            files = [directory / target]
            for number, extra in enumerate(extras, start=1):
                files.append(directory / f"passthrough{number}_{word}.cs")
                write_cs_rows(extra, files[-1], uids=uids)
            write_result_group(directory / f"particles_{word}.csg", files)
        else:
            write_star_subset(source, part, directory / target)
            copy_optimisation_set(source, directory / target)
        count = row_count(directory / target)  # read back: what is on disk is what is reported
        if count != int(np.count_nonzero(part)):
            raise InputError(target, f"must hold {np.count_nonzero(part)} particles", count, "Export it again.")
        written.append((target, count))

    def write(directory: Path) -> list[tuple[str, str]]:
        for word, part in parts:
            put(directory, original, () if sources.unexpanded else sources.passthrough, part, word)
            if image is not None:
                source = sources.unexpanded or original
                seen = np.zeros(row_count(source), bool)
                seen[np.unique(image[part]) if sources.unexpanded else first_of(image, part)] = True
                put(directory, source, sources.passthrough, seen, f"{word}_unique")
        _link_images(project.root, original, str(sources.preprocess_options.get("data_dir") or ""), directory)
        np.save(directory / "selected_rows.npy", np.flatnonzero(chosen), allow_pickle=False)
        note = {
            "name": name,
            "particles": int(np.count_nonzero(chosen)),
            "of": len(chosen),
            "source": str(original),
            "job": sources.job,
            "latents": str(sources.latents),
            "made": time.time(),
            "steps": list(steps),
        }
        write_atomically(directory / "selection.json", json.dumps(note, indent=1) + "\n")
        return [(target, "particles") for target, _ in written]

    inputs = [node for path in (original, sources.latents) if (node := _node(project, path))]
    text = f"{name or 'Selection'}: {int(mask.sum())} of {len(mask)} particles of {original} ({describe(steps)})"
    job = project.record("Select", write, inputs=inputs, note=text, alias=alias)
    return Exported(job, tuple((job.directory / target, count) for target, count in written))


def first_of(image: np.ndarray, part: np.ndarray) -> np.ndarray:  # (N,), (N,) bool -> (m,)
    """The first row in ``part`` of each image ``image`` that has a row there."""
    rows = np.flatnonzero(part)
    return np.asarray(rows[first_rows(image[rows])])


def _link_images(root: Path, original: Path, data_dir: str, directory: Path) -> None:
    """Images that are named relative to another place than the project are found from the copy too.

    The rows stay as they are; where a name leads nowhere from the project (a program run in the project's directory
    looks there), the first part of it becomes a link beside the copy, into the place where the original's images lie.
    """
    column = "rlnImageName" if original.suffix.lower() == ".star" else "blob/path"
    if column not in column_names(original):
        return
    written = np.asarray(read_particle_column(original, column)).astype(str)
    names = sorted({text.rsplit("@", 1)[-1].lstrip(">") for text in written})
    try:
        found = resolve_stacks(names, original, root / data_dir if data_dir else None, root)
    except InputError:
        return  # the images have gone: there is nothing to link to
    for name, path in zip(names, found, strict=True):
        parts = Path(name).parts
        if not parts or Path(name).is_absolute() or ".." in parts or (root / name).exists():
            continue
        beside = directory / parts[0]
        if path.parts[-len(parts) :] == parts and not beside.is_symlink() and not beside.exists():
            place = (path.absolute().parents[len(parts) - 1] / parts[0]).resolve()
            inside = place.is_relative_to(root.resolve())
            beside.symlink_to(os.path.relpath(place, directory.resolve()) if inside else place)


def _node(project: Project, path: Path) -> str:
    """Path in the project, "" if it lies elsewhere."""
    relative = os.path.relpath(path, project.root)
    return "" if relative.startswith("..") else relative
