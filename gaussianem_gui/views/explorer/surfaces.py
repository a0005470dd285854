"""Surfaces of decoded volumes, ready to draw; for workers. No Qt here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gaussianem_gui.explorer.decoder_client import Consensus
from gaussianem_gui.explorer.volumes import Cut, Look, Picture, surface

Mesh = tuple[np.ndarray, np.ndarray]  # vertices (V, 3) z, y, x in A from the box's centre; faces (F, 3)
LEAST_DIFFERENCE_SIGMA = 1.5  # of the consensus map; smaller differences are no surface
DIFFERENCE_SHARE = 0.25  # of the greatest difference


def picture_of(values: np.ndarray, model: Consensus, name: str) -> Picture:
    """A decoded volume (d, d, d) as the viewer takes it; its sigma is the consensus map's, so that one contour level
    means the same in every picture."""
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


def surface_of(values: np.ndarray, level: float, model: Consensus) -> tuple[np.ndarray, np.ndarray]:
    """The surface of (d, d, d) values in the model's box at an absolute ``level``; for a worker."""
    pixel = model.pixel_size_angstrom * model.box / values.shape[0]
    return surface(Picture(Path(), values.astype(np.float32), pixel, model.box, 0.0, 1.0, float(values.max())), level)


@dataclass(frozen=True)
class Prepared:
    """A surface with all that drawing needs: normals are worked out beforehand, off the window's thread."""

    mesh: tuple[np.ndarray, np.ndarray]
    data: Any  # vispy's MeshData


def prepare(picture: Picture, look: Look, most_faces: int = 0) -> Prepared:
    """The surface of a picture, ready to draw; for a worker. Beyond ``most_faces`` (0: any number) a coarser one."""
    from vispy.geometry import MeshData

    vertices, faces = surface(picture, look.level, look.cut)
    if most_faces and len(faces) > most_faces and picture.values.shape[0] >= 32:
        values = binned(picture.values, 2)
        coarse = replace(picture, values=values, voxel_angstrom=2 * picture.voxel_angstrom)
        vertices, faces = surface(coarse, look.level, look.cut)
    if not len(faces):
        return Prepared((vertices, faces), None)
    # napari hands x, y, z to vispy
    data = MeshData(
        vertices=np.ascontiguousarray(vertices[:, ::-1]),
        faces=np.ascontiguousarray(faces[:, ::-1]),
        vertex_values=np.zeros(len(vertices), np.float32) if look.cut is None else _caps(vertices, look.cut, picture),
    )
    for read in (data.get_vertices, data.get_vertex_normals, data.get_vertex_values):
        read(indexed="faces")
    data.get_bounds()
    return Prepared((vertices, faces), data)


def _caps(vertices: np.ndarray, cut: Cut, picture: Picture) -> np.ndarray:  # (V, 3) -> (V,)
    """1 on the plane of the cut, else 0: caps have a colour of their own."""
    away = np.abs(vertices @ np.asarray(cut.normal, np.float32) - cut.offset_angstrom)
    return (away < 0.3 * picture.voxel_angstrom).astype(np.float32)


def difference_surfaces(before: np.ndarray, now: np.ndarray, model: Consensus) -> tuple[list[Mesh], float]:
    """Where ``now`` is more, and where it is less, than ``before``, and the level in sigma; volumes (d, d, d).

    No surfaces where the grids do not divide: one may be the quick picture, the other the fine one that follows.
    """
    coarse = min(before.shape[0], now.shape[0])
    first, second = (binned(values, values.shape[0] // coarse) for values in (before, now))
    if first.shape != second.shape:
        return [], 0.0
    change = second - first
    level = max(LEAST_DIFFERENCE_SIGMA * model.sigma, DIFFERENCE_SHARE * float(np.abs(change).max()))
    return [surface_of(sign * change, level, model) for sign in (1, -1)], level / model.sigma


def binned(values: np.ndarray, factor: int) -> np.ndarray:  # (D, D, D) -> (D // factor, ...)
    """A volume averaged over blocks of ``factor`` voxels a side."""
    if factor <= 1:
        return values
    n = values.shape[0] // factor
    values = values[: n * factor, : n * factor, : n * factor]
    return values.reshape(n, factor, n, factor, n, factor).mean(axis=(1, 3, 5))
