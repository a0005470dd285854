"""The kinds of path that a trajectory can take through the latent space, and what each requires. No Qt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gaussianem_core.analysis import latent_paths
from gaussianem_core.errors import InputError
from gaussianem_gui.explorer.particle_columns import ParticleColumns
from gaussianem_gui.explorer.selections import Selection

KINDS = {
    "anchors": "Through my points",
    "geodesic": "Points, populated",
    "component": "Along a component",
    "populated": "Component, populated",
    "classes": "Through the classes",
    "selections": "Between selections",
}
TIPS = {
    "anchors": "Take the tool “Path” and click places in a plot.",
    "geodesic": "Take the tool “Path” and click places: the way keeps to where particles are.",
    "component": "From the 5th to the 95th percentile, straight through the mean.",
    "populated": "From the 5th to the 95th percentile, through the dense middle.",
    "classes": "Through the middles of the classes in their shortest order.",
    "selections": "Through the middles of the named selections, in their order.",
}
BY_HAND = ("anchors", "geodesic")  # through places that are clicked
BY_COMPONENT = ("component", "populated")


def missing(kind: str, table: ParticleColumns, named: Sequence[Selection]) -> str:
    """What must be done before a path of that kind is possible, as a sentence; "" if nothing."""
    if kind == "classes" and table.centres is None:
        return "There are no classes yet: run Analyze, then explore its job."
    if kind == "selections" and sum(s.count > 0 for s in named) < 2:
        return "Save two selections first, in the tab Selections."
    return ""


def make_path(
    kind: str,
    table: ParticleColumns,
    count: int,
    *,
    component: int = 0,
    anchors: Sequence[np.ndarray] = (),
    named: Sequence[Selection] = (),
) -> np.ndarray:  # -> (count, zdim)
    """A path of ``count`` latents of that kind. Raises InputError if classes, places or selections are missing.

    ``component`` from 0; ``anchors``: latents (zdim,) of the clicked places; ``named``: selections in their order.
    """
    if kind == "component":
        return latent_paths.along_component(table.z, component, count)
    if kind == "populated":
        return latent_paths.along_populated(table.z, component, count)
    if kind == "anchors":
        return latent_paths.through(np.array(anchors), count)
    if kind == "geodesic":
        return latent_paths.geodesic(table.z, np.array(anchors), count)
    if kind == "selections":
        middles = [table.z[s.mask].mean(axis=0) for s in named if s.count]
        return latent_paths.through(np.array(middles), count)
    if table.centres is None:
        raise InputError("classes", "must be there", "none", "Run Analyze first, then explore again.")
    return latent_paths.through(table.centres[latent_paths.class_order(table.centres)], count)
