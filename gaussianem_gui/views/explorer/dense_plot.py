"""Very many particles as a picture: counts in cells as brightness, discs where few are visible, histograms."""

from __future__ import annotations

import numpy as np
import pyqtgraph as pg
from PySide6.QtGui import QColor

from gaussianem_gui.explorer.particle_columns import Column
from gaussianem_gui.explorer.picking import count_cells
from gaussianem_gui.views.explorer.colours import SHADES, Colouring, value_colours
from gaussianem_gui.views.toolkit.theme import theme

STAMP = 2  # radius in pixels of points drawn one by one from a large table


def shaded(
    cells: np.ndarray, bins: tuple[int, int], counts: np.ndarray, column: Column | None, colouring: Colouring
) -> np.ndarray:  # (n,) -> (w, h, 4) uint8
    """A picture (w, h, 4) uint8, RGBA, of points counted in cells; w and h are the ``bins`` along x and y.

    ``cells`` (n,): the flat cell of each point, ``bin_points``; ``counts`` (w, h): points per cell, as brightness on a
    logarithmic scale. ``column`` holds the values of these n points: a cell gets the colour of its commonest class or
    of its mean value on the ramp. Without a column the ramp shows the counts.
    """
    strength = np.log1p(counts)
    strength /= max(float(strength.max()), 1e-9)
    picture = np.zeros((*bins, 4), np.uint8)
    if column is None:
        picture[..., :3] = value_colours()[(SHADES * (0.12 + 0.88 * strength)).astype(int).clip(0, SHADES - 1)]
        picture[..., 3] = np.where(counts > 0, 255, 0)
        return picture
    if column.classes:
        names = min(len(column.names), 64)
        flat = cells.astype(np.int64) * names + np.minimum(column.values, names - 1)
        each = np.bincount(flat, minlength=(bins[0] * bins[1] + 1) * names)[: bins[0] * bins[1] * names]
        picture[..., :3] = class_tints(names)[each.reshape(*bins, names).argmax(axis=-1)]
    else:
        values = np.nan_to_num(column.values.astype(np.float32))
        mean = count_cells(cells, bins, values) / np.maximum(counts, 1)
        picture[..., :3] = value_colours()[ramp_index(mean, colouring)]
    picture[..., 3] = np.where(counts > 0, 70 + 185 * strength, 0)
    return picture


def class_tints(count: int) -> np.ndarray:  # (count, 3) uint8
    """The theme's colours of classes 0 to ``count`` - 1; they repeat after the tenth."""
    tints = [QColor(theme.series(i)) for i in range(count)]
    return np.array([[c.red(), c.green(), c.blue()] for c in tints], np.uint8)


def ramp_index(values: np.ndarray, colouring: Colouring) -> np.ndarray:
    """Row of ``value_colours`` for each value, in the shape of ``values``; 0 for NaN."""
    share = (values - colouring.low) / (colouring.high - colouring.low)
    return np.clip(np.nan_to_num(share) * (SHADES - 1), 0, SHADES - 1).astype(np.int64)


def stamp(picture: np.ndarray, cells: np.ndarray, bins: tuple[int, int], colours: np.ndarray) -> None:
    """Draw discs at the flat cells (n,) into ``picture`` (w, h, 4), in place; colours (n, 3) or (1, 3) uint8. Their
    radius is STAMP pixels, 1 from 8,000 points on."""
    flat = picture.reshape(-1, 4)
    x, y = np.divmod(cells, bins[1])
    rgba = np.concatenate([colours, np.full((len(colours), 1), 235, np.uint8)], axis=1)
    reach = STAMP if len(cells) < 8000 else 1
    for dx in range(-reach, reach + 1):
        for dy in range(-reach, reach + 1):
            if dx * dx + dy * dy > reach * reach + (reach > 1):
                continue
            inside = (x + dx >= 0) & (x + dx < bins[0]) & (y + dy >= 0) & (y + dy < bins[1])
            flat[((x + dx) * bins[1] + y + dy)[inside]] = rgba[inside] if len(rgba) > 1 else rgba[0]


def histogram(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Counts (B,) of values (n,) between B + 1 evenly spaced edges; what lies beyond counts in the first or last bin.
    Several times faster than searching for each value."""
    cells = ((values - edges[0]) * ((len(edges) - 1) / (edges[-1] - edges[0]))).astype(np.int32)
    return np.bincount(np.clip(cells, 0, len(edges) - 2), minlength=len(edges) - 1)


def bars(values: np.ndarray, edges: np.ndarray, tint: QColor, *, upright: bool) -> pg.PlotCurveItem:
    """A histogram of values (n,) between evenly spaced edges, its bars upright or lying, in one colour.

    One outline: between bars that are drawn each by itself, rounding to pixels leaves gaps.
    """
    heights = np.concatenate([[0], np.repeat(histogram(values, edges), 2), [0]]).astype(float)
    places = np.repeat(edges.astype(float), 2)
    x, y = (places, heights) if upright else (heights, places)
    return pg.PlotCurveItem(x=x, y=y, fillLevel="enclosed", brush=tint, pen=None)
