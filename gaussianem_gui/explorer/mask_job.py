"""Masks made by eye: threshold, dilation, soft edge, shapes, union and difference; written as a Mask job. No Qt.

A mask is a volume (D, D, D) [z, y, x] with values from 0 to 1 on the grid of the map it was made from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from gaussianem_core.analysis.masks import MaskRecipe
from gaussianem_core.errors import InputError
from gaussianem_core.io.mrc import Volume, write_map
from gaussianem_core.runtime.files import write_atomically
from gaussianem_gui.project.job import Job
from gaussianem_gui.project.project import Project


def save_mask(
    project: Project,
    mask: np.ndarray,
    like: Volume,
    source: Path,
    recipe: MaskRecipe | None = None,
    *,
    name: str = "mask",
    note: str = "",
    more: Sequence[tuple[str, np.ndarray]] = (),
) -> Job:
    """Write a mask (D, D, D) (and ``more`` named ones) as a Mask job on the grid, origin and pixel size of ``like``.

    ``source``: the map it was made from. Raises InputError for values outside 0 to 1, an empty mask, or a name with a
    slash or leading dot.
    """
    if not np.isfinite(mask).all() or mask.min() < 0 or mask.max() > 1 or not mask.any():
        raise InputError("mask", "must have values from 0 to 1, not all 0", (mask.min(), mask.max()), "Make it anew.")

    for title in (name, *(title for title, _ in more)):
        if not title or "/" in title or title.startswith("."):
            raise InputError("mask name", "must be a plain name", title, "Leave out slashes and a dot in front.")

    def write(directory: Path) -> list[tuple[str, str]]:
        made = []
        for title, values in ((name, mask), *more):
            write_map(
                directory / f"{title}.mrc", values, like.pixel_size_angstrom, like.origin_angstrom, like.start_voxels
            )
            made.append((f"{title}.mrc", "mask"))
        if recipe is not None:
            content = {"source": str(source), **asdict(recipe)}
            write_atomically(directory / "recipe.json", json.dumps(content, indent=1) + "\n")
        return made

    relative = os.path.relpath(source, project.root)
    inputs = [] if relative.startswith("..") else [relative]
    return project.record("Mask", write, inputs=inputs, note=note or f"A mask from {source}")
