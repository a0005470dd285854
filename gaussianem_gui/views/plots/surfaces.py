"""Surfaces with all that drawing needs, worked out off the window's thread, and their colours. No widgets here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gaussianem_gui.explorer.painting import MIDDLE, RAMP_END, Paint
from gaussianem_gui.explorer.volumes import Cut, Look, Picture, binned, surface
from gaussianem_gui.views.plots.scatter import SHADES, colour_map
from gaussianem_gui.views.toolkit.theme import theme

Mesh = tuple[np.ndarray, np.ndarray]  # vertices (V, 3) z, y, x in A from the box's centre; faces (F, 3)
NO_CLASS = (0.5, 0.5, 0.5, 1.0)
STEPS = 64  # of a ramp in napari's colours


@dataclass(frozen=True)
class Prepared:
    """A surface, the place of each of its V vertices in the range of colours, ``values`` (V,) from 0 to 1, and what the
    canvas is handed."""

    mesh: Mesh
    values: np.ndarray
    data: Any  # vispy's MeshData, None of an empty surface

    def bytes(self) -> int:
        """What it takes in memory; most of it are the vertices and normals of each corner of each face."""
        arrays = [*self.mesh, self.values, *(vars(self.data).values() if self.data is not None else ())]
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def prepare(picture: Picture, look: Look, most_faces: int = 0) -> Prepared:
    """The surface of a picture, ready to draw; for a worker. Where it has more than ``most_faces`` (0: any number), it
    is made of the volume averaged by two, if that has 32 voxels a side or more."""
    vertices, faces = surface(picture, look.level, look.cut)
    if most_faces and len(faces) > most_faces and picture.values.shape[0] >= 32:
        values = binned(picture.values, 2)
        coarse = replace(picture, values=values, voxel_angstrom=2 * picture.voxel_angstrom)
        vertices, faces = surface(coarse, look.level, look.cut)
    shades = np.zeros(len(vertices), np.float32) if look.paint is None else look.paint.shades(vertices)
    if look.cut is not None:
        shades[_caps(vertices, look.cut, picture)] = 1.0
    return ready_made((vertices, faces), shades)


def ready_made(mesh: Mesh, shades: np.ndarray) -> Prepared:
    """A mesh with colours (V,) from 0 to 1 and its normals: the canvas only has to draw it."""
    from vispy.geometry import MeshData

    vertices, faces = mesh
    if not len(faces):
        return Prepared(mesh, shades, None)
    # napari hands x, y, z to vispy
    data = MeshData(
        vertices=np.ascontiguousarray(vertices[:, ::-1]),
        faces=np.ascontiguousarray(faces[:, ::-1]),
        vertex_values=shades,
    )
    for read in (data.get_vertices, data.get_vertex_normals, data.get_vertex_values):
        read(indexed="faces")
    data.get_bounds()
    return Prepared(mesh, shades, data)


def _caps(vertices: np.ndarray, cut: Cut, picture: Picture) -> np.ndarray:  # (V, 3) -> (V,) bool
    """True on the plane of the cut: caps have a colour of their own."""
    away = np.abs(vertices @ np.asarray(cut.normal, np.float32) - cut.offset_angstrom)
    return away < 0.3 * picture.voxel_angstrom


# --- colours --------------------------------------------------------------------------------------------------------


def rgb(colour: str) -> list[float]:
    """ "#rrggbb" as three numbers from 0 to 1."""
    return [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]


def class_colours(classes: int) -> np.ndarray:  # -> (classes + 1, 4)
    """The theme's colours of classes from 0, and last grey for none; RGBA from 0 to 1."""
    return np.array([*([*rgb(theme.series(code % 10)), 1.0] for code in range(classes)), NO_CLASS])


def ramp_colours() -> np.ndarray:  # (SHADES, 4)
    """The ramp of a quantity in 3D, RGBA from 0 to 1, without the end that looks like the background."""
    ends = (0.25, 1.0) if theme.name == "dark" else (0.0, 0.85)
    table = np.asarray(colour_map().getLookupTable(*ends, SHADES))[:, :3] / 255.0
    return np.column_stack([table, np.ones(SHADES)])


def surface_colours(paint: Paint | None = None) -> Any:
    """napari's colours of a surface in the present theme: 0 to RAMP_END what it is painted by, 1 the caps of a cut."""
    from napari.utils import Colormap

    accent = rgb(theme.colour("accent"))
    dark = theme.name == "dark"
    light = 0.3 if dark else 0.0  # dark grounds want a lighter tone
    cap = [*(0.5 + 0.5 * part for part in accent), 1.0] if dark else [*(0.6 * part for part in accent), 1.0]
    if paint is None:
        return Colormap([[*(light + (1 - light) * part for part in accent), 1.0], cap], name=f"surface-{theme.name}")
    if paint.classes:
        colours = class_colours(paint.classes)
        ends = [*np.linspace(0, RAMP_END, len(colours) + 1), 1.0]
        return Colormap(
            [*colours, cap], controls=ends, interpolation="zero", name=f"classes-{theme.name}-{len(colours)}"
        )
    ramp = ramp_colours()[np.linspace(0, SHADES - 1, STEPS).astype(int)]
    controls = [*np.linspace(0, RAMP_END, STEPS), 1.0]
    return Colormap([*ramp, cap], controls=controls, name=f"ramp-{theme.name}")


def shade(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:  # (N,) -> (N, 4)
    """A colour, RGBA from 0 to 1, for each value; the ramp spans the percentiles MIDDLE of them unless ``low`` and
    ``high`` are told."""
    if low is None or high is None:
        low, high = np.percentile(values, MIDDLE) if len(values) else (0.0, 1.0)
    index = np.clip((values - low) / max(high - low, 1e-9) * (SHADES - 1), 0, SHADES - 1).astype(int)
    return ramp_colours()[index]
