"""Points as a scatter: one by one up to 50,000, a density picture above; the nearest point to a click is found at once.

Results show latents with it, Progress those of fixed particles; the explorer has a plot of its own.
"""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import pyqtgraph as pg
from pyqtgraph.GraphicsScene.mouseEvents import MouseClickEvent
from PySide6.QtCore import QRectF, Qt, Signal
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QFrame, QWidget

from gaussianem_gui.views.plots.plot_style import style_plot
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import column

DENSITY_FROM = 50_000  # points from which a density picture is drawn instead
BINS = 320
SHADES = 256


def colour_map() -> pg.ColorMap:
    """Colours of a continuous quantity, even to the eye."""
    return pg.colormap.get("viridis" if theme.name == "dark" else "cividis")


def density_image(points: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, QRectF]:
    """Counts n of (N, 2) points on a grid as log(1 + n), (bins, bins) by x, y, and the rectangle that it covers, in the
    points' units."""
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.maximum(high - low, 1e-9)
    cells = np.minimum(((points - low) / span * bins).astype(np.int64), bins - 1)
    counts = np.bincount(cells[:, 0] * bins + cells[:, 1], minlength=bins * bins).reshape(bins, bins)
    return np.log1p(counts), QRectF(low[0], low[1], span[0], span[1])


class Scatter(QWidget):
    """A scatter plot of (N, 2) points, coloured by class or value. ``pointPicked`` comes with the row of a point
    clicked."""

    pointPicked = Signal(int)

    def __init__(self, x_label: str = "", y_label: str = "") -> None:
        super().__init__()
        self.setObjectName("scatter")
        self.plot = pg.PlotWidget()
        self.plot.setFrameShape(QFrame.Shape.NoFrame)
        self.plot.setMenuEnabled(False)
        self.plot.setMinimumSize(160, 100)
        self.plot.setAccessibleName("Latent scatter")
        self._points = np.empty((0, 2))
        self._colours: np.ndarray | None = None
        self._classes = False
        self._tree: Any = None
        self._dots = pg.ScatterPlotItem(pxMode=True, size=6, pen=None)
        self._image = pg.ImageItem()
        self._marker = pg.ScatterPlotItem(size=15, symbol="o")
        for item in (self._image, self._dots, self._marker):
            self.plot.addItem(item)
        layout = column(spacing=0)
        layout.addWidget(self.plot)
        self.setLayout(layout)
        self._labels = (x_label, y_label)
        self.plot.scene().sigMouseClicked.connect(self._clicked)
        theme.changed.connect(self._restyle)
        self._restyle()

    def set_labels(self, x_label: str, y_label: str) -> None:
        """Name the axes."""
        self._labels = (x_label, y_label)
        self._restyle()

    def set_points(self, points: np.ndarray, values: np.ndarray | None = None, *, classes: bool = False) -> None:
        """Show (N, 2) points; ``values`` (N,) colour them, as class numbers or as a continuous quantity."""
        self._points = np.asarray(points, dtype=float).reshape(-1, 2)
        self._colours, self._classes, self._tree = values, classes, None
        self._marker.setData([])
        self._draw()

    def count(self) -> int:
        """Number of points."""
        return len(self._points)

    def dense(self) -> bool:
        """True if a density picture stands for the points."""
        return len(self._points) > DENSITY_FROM

    def set_marker(self, index: int) -> None:
        """Ring one point; -1 removes the ring."""
        if 0 <= index < len(self._points):
            self._marker.setData([self._points[index, 0]], [self._points[index, 1]])
        else:
            self._marker.setData([])

    def nearest(self, x: float, y: float) -> int:
        """Row of the point nearest to a place in the plot's units, distances in units of the points' ranges; -1 without
        points."""
        good = np.flatnonzero(np.isfinite(self._points).all(axis=1))
        if not len(good):
            return -1
        if self._tree is None:
            from scipy.spatial import cKDTree

            self._scale = np.maximum(np.ptp(self._points[good], axis=0), 1e-9)
            self._tree = cKDTree(self._points[good] / self._scale)
        return int(good[self._tree.query(np.array([x, y]) / self._scale)[1]])

    def _draw(self) -> None:
        good = np.isfinite(self._points).all(axis=1)
        points = self._points[good]
        self._image.setVisible(self.dense())
        self._dots.setVisible(not self.dense())
        if not len(points):
            self._dots.setData([])
            return
        if self.dense():
            counts, box = density_image(points)
            self._image.setImage(counts, autoLevels=False, levels=(0.0, max(float(counts.max()), 1e-9)))
            lookup = colour_map().getLookupTable(0.15, 1.0, SHADES, alpha=True)
            lookup[0, 3] = 0
            self._image.setLookupTable(lookup)
            self._image.setRect(box)
        else:
            size = 7 if len(points) < 3000 else (5 if len(points) < 15_000 else 3.5)
            self._dots.setData(points[:, 0], points[:, 1], brush=self._brushes(good), size=size, pen=None)
        self.plot.getPlotItem().enableAutoRange()

    def _brushes(self, good: Any) -> object:
        if self._colours is None:
            colour = QColor(theme.colour("accent"))
            colour.setAlphaF(0.75)
            return pg.mkBrush(colour)
        values = np.asarray(self._colours)[good]
        if self._classes:
            shades = [pg.mkBrush(theme.series(n)) for n in range(10)]
            return [shades[int(v) % 10] for v in values]
        low, high = np.nanmin(values), np.nanmax(values)
        table = colour_map().getLookupTable(0.0, 1.0, SHADES)
        shades = [pg.mkBrush(*map(int, c[:3]), 200) for c in table]
        index = np.nan_to_num((values - low) / max(high - low, 1e-12) * (SHADES - 1)).astype(int)
        return [shades[i] for i in index]

    def _clicked(self, event: MouseClickEvent) -> None:
        if event.button() != Qt.MouseButton.LeftButton or not len(self._points):
            return
        place = self.plot.getPlotItem().vb.mapSceneToView(event.scenePos())
        index = self.nearest(place.x(), place.y())
        self.set_marker(index)
        self.pointPicked.emit(index)

    def _restyle(self) -> None:
        style_plot(self.plot)
        for side, text in zip(("bottom", "left"), self._labels):
            self.plot.setLabel(side, html.escape(text), color=theme.colour("muted"))
        self._marker.setPen(pg.mkPen(theme.colour("text"), width=2))
        self._marker.setBrush(pg.mkBrush(None))
        self._draw()
