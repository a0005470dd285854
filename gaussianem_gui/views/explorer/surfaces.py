"""Decoded volumes as pictures, and the difference between two of them; for workers. No Qt here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_gui.explorer.decoder_client import Consensus
from gaussianem_gui.explorer.volumes import Picture
from gaussianem_gui.views.plots.maps_drawn import difference_meshes
from gaussianem_gui.views.plots.surfaces import Mesh


def picture_of(values: np.ndarray, model: Consensus, name: str) -> Picture:
    """A decoded volume (d, d, d) as the viewer takes it; its mean and sigma are the consensus map's, so that one
    contour level means the same in every picture."""
    binning = model.box // values.shape[0]
    return Picture(
        Path(name),
        np.ascontiguousarray(values, np.float32),
        model.pixel_size_angstrom * binning,
        model.box,
        model.mean,
        model.sigma,
        (float(values.max()) - model.mean) / model.sigma,
    )


def difference_surfaces(before: np.ndarray, now: np.ndarray, model: Consensus) -> tuple[list[Mesh], float]:
    """Where ``now`` is more, and where it is less, than ``before``, and the level in sigma of the consensus map;
    volumes (d, d, d).

    No surfaces and 0 where the grids do not divide: one may be the quick picture, the other the fine one that follows.
    """
    try:
        return difference_meshes(picture_of(before, model, "before"), picture_of(now, model, "now"))
    except InputError:
        return [], 0.0
