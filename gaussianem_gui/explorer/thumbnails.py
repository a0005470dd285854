"""A small shaded picture of a volume, drawn without OpenGL: for lists of jobs. No Qt, no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gaussianem_core.job.events import EVENTS, read_events
from gaussianem_gui.explorer.volumes import load_volume, natural_key
from gaussianem_gui.project.project import Project

LONGEST = 56  # voxels a side that it is drawn from
MOST_BYTES = 150_000_000  # larger maps are not read for a thumbnail
LIGHT = (-0.75, -0.45, -0.5)  # z, y, x, from the one who looks
AMBIENT = 0.3
PARTIAL = ("half", "resolution")  # in names of maps that say little of how the molecule looks
MARGIN = 2  # voxels around the molecule


def volume_of(project: Project, name: str) -> Path | None:
    """The volume that represents a job: its first map, else its mask; None if there is none of at most MOST_BYTES.

    Taken from the artifacts of the job's events, or from the project's graph if there are none.
    """
    folder = project.root / name
    events = read_events(folder / EVENTS)[0] if (folder / EVENTS).is_file() else []
    made = [(str(e["kind"]), folder / str(e["path"])) for e in events if e["type"] == "artifact"]
    made = made or [(choice.kind, project.root / choice.path) for choice in project.outputs(name)]
    for kinds in (("map", "volume"), ("mask",)):
        found = sorted((path for kind, path in made if kind in kinds), key=lambda path: natural_key(str(path)))
        whole = [path for path in found if not any(word in path.name for word in PARTIAL)]
        for path in whole or found:
            try:
                if 0 < path.stat().st_size <= MOST_BYTES:
                    return path
            except OSError:
                continue
    return None


def thumbnail(path: Path) -> np.ndarray:  # -> (S, S, 2) float32
    """Brightness and opacity, 0 to 1, of a volume's surface seen along z. Raises InputError as ``load_volume``."""
    picture = load_volume(path, LONGEST)
    values, level = picture.values, picture.default_level
    inside = np.asarray(values > level)
    seen = np.any(inside, axis=0)
    if not seen.any():
        return np.zeros((1, 1, 2), np.float32)
    depth = inside.argmax(axis=0)
    y, x = np.indices(seen.shape)
    slope = np.stack([part[depth, y, x] for part in np.gradient(values)])  # towards the inside
    light = np.array(LIGHT) / np.linalg.norm(LIGHT)
    lit = np.einsum("iyx,i->yx", slope, -light) / np.maximum(np.linalg.norm(slope, axis=0), 1e-12)
    bright = AMBIENT + (1 - AMBIENT) * np.clip(lit, 0, 1)
    rows, columns = np.flatnonzero(np.any(seen, axis=1)), np.flatnonzero(np.any(seen, axis=0))
    side = max(np.ptp(rows), np.ptp(columns)) + 1 + 2 * MARGIN
    found = np.zeros((side, side, 2), np.float32)
    top, left = (side - np.ptp(rows) - 1) // 2, (side - np.ptp(columns) - 1) // 2
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    high, wide = seen[part].shape
    found[top : top + high, left : left + wide] = np.stack([bright, seen], axis=2)[part]
    return found
