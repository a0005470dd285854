"""What the plots share: names of quantities with their units, axes, and the colours of the theme."""

from __future__ import annotations

import math

import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QIcon, QPainter, QPixmap

from gaussianem_gui.views.toolkit.theme import theme

NAMES = {
    "loss": "Total loss",
    "total": "Total loss",
    "lr": "Learning rate",
    "kl": "KL",
    "images_per_second": "Images/s",
    "lr_latent": "Latent learning rate",
    "held_out": "Held-out images",
}
LABELLED = 2  # levels of ticks that have labels, where there is room
UNITS = {"angstrom": "Å", "degrees": "°", "pixels": "px", "seconds": "s"}  # by the last word of a quantity's name


def quantity_name(name: str) -> str:
    """Name of a reported quantity as a form would write it, with the unit that its last word names: "Resolution
    (Å)"."""
    words, _, last = name.rpartition("_")
    if words and last in UNITS:
        return f"{words.replace('_', ' ').capitalize()} ({UNITS[last]})"
    return NAMES.get(name, name.replace("_", " ").capitalize())


def style_plot(plot: pg.PlotWidget) -> None:
    """Give a plot the theme's colours; call again after a change of theme."""
    plot.setBackground(theme.colour("plot"))
    # Nothing shows through: what lies behind need not be painted again with every frame.
    plot.viewport().setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
    item = plot.getPlotItem()
    for side in ("left", "bottom"):
        axis = item.getAxis(side)
        axis.setPen(pg.mkPen(theme.colour("border")))
        axis.setTextPen(pg.mkPen(theme.colour("muted")))
        axis.setStyle(tickLength=0)
        axis.enableAutoSIPrefix(False)
    item.showGrid(x=True, y=True, alpha=0.22 if theme.name == "dark" else 0.14)
    item.hideButtons()


def dot(colour: str, hollow: bool = False) -> QIcon:
    """A round icon of one colour, filled or as a ring."""
    pixmap = QPixmap(20, 20)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(pg.mkPen(colour, width=3))
    painter.setBrush(Qt.BrushStyle.NoBrush if hollow else QColor(colour))
    painter.drawEllipse(4, 4, 12, 12)
    painter.end()
    return QIcon(pixmap)


class ValueAxis(pg.AxisItem):
    """An axis whose labels have as many decimals each. With ``log`` on it shows powers of ten of its values, with ticks
    in narrow ranges too."""

    log = False
    _finest = 0.0  # spacing of the finest ticks that have labels: pyqtgraph asks for the labels of each spacing apart

    def tickValues(self, low: float, high: float, size: float) -> list[tuple[float, list[float]]]:
        levels = super().tickValues(low, high, size)
        self._finest = min((spacing for spacing, _ in levels[:LABELLED]), default=0.0)
        return levels

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        spacing = min(spacing, self._finest or spacing)
        if not self.log:
            return super().tickStrings(values, scale, spacing)
        step = 10.0**spacing - 1  # between neighbours, as a part of their value
        shown = [10.0**value for value in values]
        if shown and step < 1 and 1e-3 < min(shown) and max(shown) < 1e4:  # as many decimals as tell them apart
            lowest = 10.0 ** min(self.range[0], min(values))
            decimals = max(0, math.ceil(-math.log10(max(step * lowest, 1e-12))))
            return [f"{value:.{decimals}f}" for value in shown]
        digits = max(2, math.ceil(-math.log10(max(step, 1e-12))) + 1)
        return [f"{value:.{digits}g}" for value in shown]
