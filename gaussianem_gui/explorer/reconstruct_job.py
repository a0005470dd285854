"""Options of a Reconstruct job for the particles selected, or the states shown, in the explorer. No Qt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.io.particle_table import row_count
from gaussianem_gui.explorer.movies import export_series
from gaussianem_gui.explorer.select_job import export_selection
from gaussianem_gui.explorer.sources import STAR, Sources
from gaussianem_gui.project.project import Project


def selection_values(
    project: Project, sources: Sources, mask: np.ndarray, *, name: str = "", steps: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:  # mask (N,) bool
    """Options for a map of the selected particles, which are written as a Select job.

    Raises InputError as :func:`export_selection` and :func:`particle_values`.
    """
    values = particle_values(project, sources, len(mask))
    made = export_selection(project, sources, mask, name=name, steps=steps)
    return values | {"select": named(project, values, made.job.directory / "selected_rows.npy")}


def state_values(project: Project, sources: Sources, points: np.ndarray, count: int) -> dict[str, Any]:
    """Options for maps of the particles around ``points`` (P, zdim), which are written as a Trajectory job.

    ``count`` : number of latents. Raises InputError without a particle file.
    """
    values = particle_values(project, sources, count)
    made = export_series(project, sources, points, 0.0, "For a reconstruction", volumes=False)
    values |= {
        "around": named(project, values, made.directory / "z.txt"),
        "latent": named(project, values, sources.latents),
    }
    if sources.weights is not None and sources.cfg is not None:
        values |= {
            "model_weight": named(project, values, sources.weights),
            "cfg": named(project, values, sources.cfg),
        }
    return values | ({"gaussians": named(project, values, sources.gaussians)} if sources.gaussians else {})


def particle_values(project: Project, sources: Sources, count: int) -> dict[str, Any]:
    """Options that name the ``count`` particles: those of the Preprocess job, or of its particle file, with the poses
    that the training corrected, where it did. Raises InputError where neither is there."""
    folder = sources.cfg.parent if sources.cfg is not None else None
    values: dict[str, Any] = {}
    if folder is not None and (folder / STAR).is_file() and row_count(folder / STAR) == count:
        values["source_dir"] = named(project, {}, folder)
    elif sources.original is not None:
        values["star_file"] = named(project, {}, sources.original)
        if data_dir := sources.preprocess_options.get("data_dir"):
            values["data_dir"] = str(data_dir)
        if sources.passthrough:
            values["passthrough"] = [named(project, {}, path) for path in sources.passthrough]
        if sources.preprocess_options.get("no_invert"):
            values["no_invert"] = True
    else:
        raise InputError("particle file", "must be known", "none", "Restore the Preprocess job or its particle file.")
    corrected = sources.weights.parent / STAR if sources.weights is not None else None
    if corrected is not None and corrected.is_file() and row_count(corrected) == count:
        values["poses"] = named(project, values, corrected)
    return values


def named(project: Project, values: Mapping[str, Any], path: Path) -> str:
    """Path of a file for a job of the project with the options ``values``: relative to its ``source_dir``, or absolute
    for a file outside of the project."""
    if os.path.relpath(path, project.root).startswith(".."):
        return str(path)
    return os.path.relpath(path, project.root / str(values.get("source_dir", "")))
