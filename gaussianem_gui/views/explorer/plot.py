"""One linked plot of the explorer: points or a density picture, the selection on top, and markers.

Everything drawn or picked concerns all points; above ``DENSE_FROM`` they are drawn as counts per cell, and as single
points again where one zooms in.
"""

from __future__ import annotations

import html
from dataclasses import replace

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QRectF, QTimer, Signal
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QComboBox, QFrame, QGridLayout, QWidget

from gaussianem_gui.explorer.picking import Nearest, bin_points, count_cells, inside_polygon, inside_rectangle
from gaussianem_gui.views.explorer.canvas import Canvas
from gaussianem_gui.views.explorer.colours import Colouring, value_colours
from gaussianem_gui.views.explorer.dense_plot import bars, class_tints, ramp_index, shaded, stamp
from gaussianem_gui.views.plots.plot_style import style_plot
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, column, icon_button, label, row

DENSE_FROM = 50_000
CELL_PIXELS = 2.0


class ExplorerPlot(QWidget):
    """A canvas with its axes' menus, histograms at the sides, and the drawing of points, selection and markers."""

    axesChanged = Signal(object)  # self

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("explorerPlot")
        self.points = np.empty((0, 2), np.float32)
        self.x_name = self.y_name = ""
        self._mask: np.ndarray | None = None
        self._colouring = Colouring()
        self._nearest: Nearest | None = None
        self._background = Background(self)
        # corner, corner, bins, counts (None: single points), cell of each point
        self._cells: tuple[np.ndarray, np.ndarray, tuple[int, int], np.ndarray | None, np.ndarray] | None = None
        self.canvas = Canvas()
        self.x_menu, self.y_menu = QComboBox(), QComboBox()
        self.x_menu.setAccessibleName("Horizontal axis of the plot")
        self.y_menu.setAccessibleName("Vertical axis of the plot")
        for box in (self.x_menu, self.y_menu):
            box.setMinimumWidth(78)
            box.setMaximumWidth(170)
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setMinimumContentsLength(6)
            box.view().setMinimumWidth(220)  # the list shows whole names, however narrow the box is
            box.setStyleSheet("min-height: 14px; padding: 2px 12px 2px 6px;")
            box.activated.connect(lambda _i: self.axesChanged.emit(self))
        self.count_text = label("", "faint")
        self.fit = icon_button("fit", "Show all points", self.show_all, size=14)
        self.save = icon_button("download", "Save this plot as PNG, SVG or PDF", size=14, name="savePlot")
        head = QWidget()
        self._times = label("×", "faint")
        self._title = Elided("", "faint")
        self._title.hide()
        self._head = row(
            self.x_menu,
            self._times,
            self.y_menu,
            self._title,
            None,
            self.count_text,
            self.fit,
            self.save,
            spacing=4,
            margins=(8, 4, 6, 2),
        )
        head.setLayout(self._head)
        self.top, self.side = pg.PlotWidget(), pg.PlotWidget()
        self._plots = (self.canvas, self.top, self.side)
        for plot in (self.top, self.side):
            plot.setFrameShape(QFrame.Shape.NoFrame)
            plot.setMenuEnabled(False)
            plot.setMouseEnabled(False, False)
            plot.hideButtons()
            plot.getPlotItem().setContentsMargins(0, 0, 0, 0)
        self.top.setFixedHeight(38)
        self.side.setFixedWidth(38)
        self.top.hideAxis("bottom")
        self.side.hideAxis("left")
        for axis in (self.top.getAxis("left"), self.side.getAxis("bottom")):
            axis.setStyle(showValues=False, tickLength=0)
            axis.setTicks([])
        self.canvas.getAxis("left").setWidth(46)
        self.top.getAxis("left").setWidth(46)
        self.top.setXLink(self.canvas)
        self.side.setYLink(self.canvas)
        grid = QGridLayout()
        grid.setContentsMargins(4, 0, 4, 4)
        grid.setSpacing(0)
        grid.addWidget(self.top, 0, 0)
        grid.addWidget(self.canvas, 1, 0)
        grid.addWidget(self.side, 1, 1)
        body = QWidget()
        body.setLayout(grid)
        layout = column(head, spacing=0)
        layout.addWidget(body, 1)
        self.setLayout(layout)

        self._image, self._over = pg.ImageItem(), pg.ImageItem()
        self._dots = pg.ScatterPlotItem(pxMode=True, pen=None)
        self._chosen = pg.ScatterPlotItem(pxMode=True, pen=None)
        self._way = pg.PlotCurveItem()
        self._anchors = pg.ScatterPlotItem(symbol="d", size=13)
        self._other = pg.ScatterPlotItem(symbol="s", size=12)
        self._marker = pg.ScatterPlotItem(symbol="o", size=16)
        for item in (
            self._image,
            self._dots,
            self._over,
            self._chosen,
            self._way,
            self._anchors,
            self._other,
            self._marker,
        ):
            self.canvas.addItem(item, ignoreBounds=True)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(15)
        self._timer.timeout.connect(self.redraw_image)
        self._together = QTimer(self)
        self._together.setSingleShot(True)
        self._together.setInterval(0)
        self._together.timeout.connect(self._paint_together)
        self.canvas.getPlotItem().vb.sigRangeChanged.connect(lambda *_a: self._range_changed())
        self.canvas.resized.connect(self._range_changed)
        theme.changed.connect(self.restyle)
        self.restyle()

    # --- what is shown ---------------------------------------------------------------------------------------------

    def set_axes(self, names: dict[str, list[str]], x: str, y: str) -> None:
        """Fill the menus of the axes with column names by group, and choose ``x`` and ``y`` in them."""
        for box, chosen in ((self.x_menu, x), (self.y_menu, y)):
            box.blockSignals(True)
            box.clear()
            for place, items in enumerate(names.values()):
                if place:
                    box.insertSeparator(box.count())
                for name in items:
                    box.addItem(name)
            box.setCurrentText(chosen)
            box.blockSignals(False)

    def fix_axes(self, title: str) -> None:
        """Show a title in place of the menus."""
        for box in (self.x_menu, self.y_menu):
            box.hide()
        self._times.hide()
        self._title.setText(title)
        self._title.show()
        self._head.setStretch(self._head.indexOf(self._title), 1)

    def set_points(self, points: np.ndarray, x: str, y: str) -> None:  # (N, 2)
        """Show the values of columns ``x`` and ``y`` of all particles; one that is not finite has no place in the
        plot."""
        self.points, self.x_name, self.y_name = np.ascontiguousarray(points, np.float32), x, y
        self.x_menu.setCurrentText(x)
        self.y_menu.setCurrentText(y)
        self._cells = None
        nearest = Nearest(self.points)
        self._nearest = nearest
        if len(points) > DENSE_FROM:
            self._background.run("tree", nearest.build, lambda _r: None)
        self._restyle()
        self.show_all()

    def set_colouring(self, colouring: Colouring) -> None:
        """Colour the points by another column."""
        self._colouring = colouring
        self.redraw()

    def set_mask(self, mask: np.ndarray | None) -> None:  # (N,) bool
        """Show which particles are selected; None for no selection."""
        self._mask = mask if mask is not None and mask.any() else None
        self._draw_selection()
        self._draw_histograms()

    def set_marker(self, place: np.ndarray | None) -> None:  # (2,)
        """Ring the place of the latent that is shown in 3D; None removes the ring."""
        self._marker.setData(*_one(place))

    def set_other(self, place: np.ndarray | None) -> None:  # (2,)
        """Mark the place of the latent that is kept for comparison; None removes the mark."""
        self._other.setData(*_one(place))

    def set_way(self, way: np.ndarray | None, anchors: np.ndarray | None) -> None:  # (P, 2), (A, 2)
        """Draw a path and its anchors; None removes them."""
        self._way.setData(*(way.T if way is not None and len(way) else ([], [])))
        self._anchors.setData(*(anchors.T if anchors is not None and len(anchors) else ([], [])))

    def dense(self) -> bool:
        """True if counts per cell stand for the points."""
        return len(self.points) > DENSE_FROM

    def nearest(self, x: float, y: float) -> int:
        """Row of the particle nearest to a place in the plot's units, distances in units of the axes' ranges; -1 if
        there is none."""
        return self._nearest.find(x, y) if self._nearest is not None else -1

    def inside(self, kind: str, outline: np.ndarray) -> np.ndarray:  # -> (N,) bool
        """True for the particles in a shape, all of them looked at. ``outline`` (V, 2) in the plot's units: two corners
        of a "rectangle", else the corners of a polygon."""
        if kind == "rectangle":
            return inside_rectangle(self.points, outline[0], outline[1])
        return inside_polygon(self.points, outline)

    def show_all(self) -> None:
        """Zoom to all points."""
        good = self.points[np.isfinite(self.points).all(axis=1)]
        if not len(good):
            self.canvas.setRange(xRange=(0, 1), yRange=(0, 1))
        else:
            low, high = good.min(axis=0).astype(float), good.max(axis=0).astype(float)
            pad = 0.04 * np.maximum(high - low, 1e-6)
            self.canvas.setRange(
                xRange=(low[0] - pad[0], high[0] + pad[0]), yRange=(low[1] - pad[1], high[1] + pad[1]), padding=0
            )
        self.redraw()

    # --- drawing ---------------------------------------------------------------------------------------------------

    def _paint_together(self) -> None:
        for plot in self._plots:
            plot.scene().prepareForPaint()  # what pyqtgraph else works out while it paints, to paint again
        for plot in self._plots:
            plot.viewport().setUpdatesEnabled(True)

    def _range_changed(self) -> None:
        # The three plots are painted as one: each would have the whole window put together again, twice.
        for plot in self._plots:
            plot.viewport().setUpdatesEnabled(False)
        if not self._together.isActive():
            self._together.start()
        if self.dense() and not self._timer.isActive():
            self._timer.start()

    def redraw(self) -> None:
        """Draw everything anew."""
        dense = self.dense()
        for item in (self._image, self._over):
            item.setVisible(dense)
        for dots in (self._dots, self._chosen):
            dots.setVisible(not dense)
        if dense:
            self._cells = None
            self.redraw_image()
        else:
            good = np.asarray(np.isfinite(self.points).all(axis=1))
            self._dots.setData(
                self.points[good, 0], self.points[good, 1], brush=self._brushes(good), size=self._size(), pen=None
            )
            self._draw_selection()
        self._draw_histograms()
        missing = len(self.points) - int(np.isfinite(self.points).all(axis=1).sum())
        self.count_text.setText(f"{missing:,} without a place" if missing else "")

    def _size(self) -> float:
        count = len(self.points)
        return 7.0 if count < 3000 else 5.0 if count < 15_000 else 3.5

    def _grid(self) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        (x0, x1), (y0, y1) = self.canvas.getPlotItem().vb.viewRange()
        size = self.canvas.getPlotItem().vb.size()
        bins = (max(8, int(size.width() / CELL_PIXELS)), max(8, int(size.height() / CELL_PIXELS)))
        return np.array([x0, y0]), np.array([x1, y1]), bins

    def redraw_image(self) -> None:
        """Count the points in each cell of what is visible, and draw the counts (or the points, if few are visible).
        Nothing where the points are drawn one by one."""
        if not self.dense():
            return
        low, high, bins = self._grid()
        cells = bin_points(self.points, low, high, bins)
        counts: np.ndarray | None = count_cells(cells, bins)
        assert counts is not None
        visible = int(counts.sum())
        if visible <= DENSE_FROM:
            bins = (int(bins[0] * CELL_PIXELS), int(bins[1] * CELL_PIXELS))
            cells = bin_points(self.points, low, high, bins)
            picture = self._stamped(cells, bins)
            counts = None
        else:
            picture = shaded(cells, bins, counts, self._colouring.column, self._colouring)
        self._cells = (low, high, bins, counts, cells)
        self._image.setImage(picture, levels=(0, 255), autoLevels=False)
        self._image.setRect(QRectF(low[0], low[1], *(high - low)))
        self._draw_selection()

    def _stamped(self, cells: np.ndarray, bins: tuple[int, int]) -> np.ndarray:
        rows = np.flatnonzero(cells < bins[0] * bins[1])
        picture = np.zeros((*bins, 4), np.uint8)
        colours = self._colours(rows)
        stamp(picture, cells[rows], bins, colours)
        return picture

    def _draw_selection(self) -> None:
        mask, column = self._mask, self._colouring.column
        accent = QColor(theme.colour("warning"))
        faded = 0.45 if column is None else 0.15  # chosen particles keep the colours of a column, so the others fade
        if not self.dense():
            if mask is None:
                self._chosen.setData([], [])
                self._dots.setOpacity(1.0)
                return
            good = np.asarray(mask & np.isfinite(self.points).all(axis=1))
            brush = pg.mkBrush(accent) if column is None else self._brushes(good)
            self._chosen.setData(*self.points[good].T, brush=brush, size=self._size() + 1, pen=None)
            self._dots.setOpacity(faded)
            return
        if mask is None or self._cells is None:
            self._over.clear()
            self._image.setOpacity(1.0)
            return
        low, high, bins, counts, cells = self._cells
        tint = np.array([[accent.red(), accent.green(), accent.blue()]], np.uint8)
        picture = np.zeros((*bins, 4), np.uint8)
        picture[..., :3] = tint
        if counts is None:
            rows = np.flatnonzero(mask & (cells < bins[0] * bins[1]))
            stamp(picture, cells[rows], bins, tint if column is None else self._colours(rows))
        elif column is not None:
            own = replace(column, values=column.values[mask])
            picture = shaded(cells[mask], bins, count_cells(cells[mask], bins), own, self._colouring)
        else:
            inside = count_cells(cells[mask], bins)
            strength = np.log1p(inside) / max(float(np.log1p(counts.max())), 1e-9)
            picture[..., 3] = np.where(inside > 0, 90 + 165 * strength, 0)
        self._over.setImage(picture, levels=(0, 255), autoLevels=False)
        self._over.setRect(QRectF(low[0], low[1], *(high - low)))
        self._image.setOpacity(faded)

    def _draw_histograms(self) -> None:
        for plot, axis in ((self.top, 0), (self.side, 1)):
            plot.clear()
            if not plot.isVisibleTo(self) or not len(self.points):
                continue
            values = self.points[:, axis]
            values = values[np.isfinite(values)]
            if not len(values):
                continue
            low, high = float(values.min()), float(values.max())
            bins = np.linspace(low, high if high > low else low + 1, 81)
            shown = [(values, "faint")]
            if self._mask is not None:
                chosen = self.points[self._mask, axis]
                shown.append((chosen[np.isfinite(chosen)], "warning"))
            for data, colour in shown:
                tint = QColor(theme.colour(colour))
                tint.setAlpha(150)
                plot.addItem(bars(data, bins, tint, upright=axis == 0), ignoreBounds=False)
            if axis == 0:
                plot.enableAutoRange(axis="y")
            else:
                plot.enableAutoRange(axis="x")

    def set_histograms(self, shown: bool) -> None:
        """Show or hide the histograms at the sides."""
        self.top.setVisible(shown)
        self.side.setVisible(shown)
        self._draw_histograms()

    # --- colours ---------------------------------------------------------------------------------------------------

    def _colours(self, rows: np.ndarray) -> np.ndarray:  # -> (n, 3) or (1, 3) uint8
        column = self._colouring.column
        if column is None:
            tint = QColor(theme.colour("accent"))
            return np.array([[tint.red(), tint.green(), tint.blue()]], np.uint8)
        if column.classes:
            return class_tints(10)[column.values[rows] % 10]
        return value_colours()[ramp_index(column.values[rows], self._colouring)]

    def _brushes(self, good: np.ndarray) -> object:
        column = self._colouring.column
        if column is None:
            tint = QColor(theme.colour("accent"))
            tint.setAlpha(190)
            return pg.mkBrush(tint)
        if column.classes:
            table = [pg.mkBrush(theme.series(n)) for n in range(10)]
            return [table[int(v) % 10] for v in column.values[good]]
        table = [pg.mkBrush(int(r), int(g), int(b), 210) for r, g, b in value_colours()]
        return [table[i] for i in ramp_index(column.values[good], self._colouring)]

    def restyle(self) -> None:
        """Take the theme's colours and draw anew."""
        self._restyle()
        if len(self.points):
            self.redraw()

    def _restyle(self) -> None:
        for plot in self._plots:
            style_plot(plot)
        for plot in (self.top, self.side):
            plot.showGrid(x=False, y=False)
            for side in ("left", "bottom"):
                plot.getAxis(side).setPen(pg.mkPen(None))
        for side, text in (("bottom", self.x_name), ("left", self.y_name)):
            self.canvas.setLabel(side, html.escape(text), color=theme.colour("muted"))
        text, none = theme.colour("text"), pg.mkBrush(None)
        self._marker.setPen(pg.mkPen(text, width=2.5))
        self._marker.setBrush(none)
        self._other.setPen(pg.mkPen(theme.colour("info"), width=2.5))
        self._other.setBrush(none)
        self._anchors.setPen(pg.mkPen(theme.colour("window"), width=1))
        self._anchors.setBrush(pg.mkBrush(text))
        self._way.setPen(pg.mkPen(text, width=2))


def _one(place: np.ndarray | None) -> tuple[list[float], list[float]]:
    """x and y of one marker, or of none."""
    return ([float(place[0])], [float(place[1])]) if place is not None and np.isfinite(place).all() else ([], [])
