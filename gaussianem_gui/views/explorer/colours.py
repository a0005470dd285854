"""What the colours of the explorer's points mean: values or classes of a column, the ramp, and the legend below."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QLinearGradient, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from gaussianem_gui.explorer.particle_columns import Column
from gaussianem_gui.views.toolkit.theme import theme

SHADES = 256


@dataclass
class Colouring:
    """How points are coloured: by ``column``, or with None all alike, and by their number where a plot counts them;
    ``low`` and ``high``, in the column's unit, are the ends of the ramp of a continuous one."""

    column: Column | None = None
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def of(cls, column: Column | None) -> Colouring:
        """The colouring by a column; the ramp of a continuous one spans the middle 98 % of its values."""
        if column is None or column.classes:
            return cls(column)
        values = column.values[np.isfinite(column.values)]
        step = max(1, len(values) // 100_000)  # the range of colours alone is taken from a part
        low, high = np.percentile(values[::step], [1, 99]) if len(values) else (0.0, 1.0)
        return cls(column, float(low), float(high) if high > low else float(low) + 1.0)


class ColourLegend(QWidget):
    """What the colours mean: a ramp with its ends, or a swatch and name a class; a click on a class chooses it."""

    classPicked = Signal(int)
    MOST = 12

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("colourLegend")
        self.setFixedHeight(22)
        self._colouring = Colouring()
        self._places: list[QRectF] = []
        self.hide()
        theme.changed.connect(self.update)

    def set_colouring(self, colouring: Colouring) -> None:
        """Show what another colouring means; hidden where it has no column."""
        self._colouring = colouring
        column = colouring.column
        self.setVisible(column is not None)
        if column is not None:
            ends = f"{_short(colouring.low)} to {_short(colouring.high)}"
            meaning = ", ".join(column.names[: self.MOST]) if column.classes else ends
            self.setAccessibleName(f"Colours: {column.name}, {meaning}")
            self.setToolTip(
                "Click a class to select its particles"
                if column.classes
                else "Colours span the middle 98 % of the values"
            )
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        column = self._colouring.column
        if column is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = painter.font()
        font.setPointSizeF(8)
        painter.setFont(font)
        painter.setPen(QColor(theme.colour("muted")))
        self._places = self._paint_classes(painter, column) if column.classes else self._paint_ramp(painter, column)

    def _paint_ramp(self, painter: QPainter, column: Column) -> list[QRectF]:
        metrics, middle = painter.fontMetrics(), self.height() / 2
        low, high = _short(self._colouring.low), _short(self._colouring.high)
        left = 8.0
        for text in (column.name, low):
            painter.drawText(QPointF(left, middle + 4), text)
            left += metrics.horizontalAdvance(text) + 8
        long = max(40.0, min(160.0, self.width() - left - metrics.horizontalAdvance(high) - 16))
        ramp = QLinearGradient(left, 0, left + long, 0)
        for place in np.linspace(0, 1, 17):
            ramp.setColorAt(float(place), QColor(*map(int, value_colours()[int(place * (SHADES - 1))])))
        painter.fillRect(QRectF(left, middle - 4, long, 8), ramp)
        painter.drawText(QPointF(left + long + 8, middle + 4), high)
        return []

    def _paint_classes(self, painter: QPainter, column: Column) -> list[QRectF]:
        metrics, middle, left = painter.fontMetrics(), self.height() / 2, 8.0
        places = []
        for code, name in enumerate(column.names[: self.MOST]):
            long = metrics.horizontalAdvance(name)
            if left + long + 60 > self.width() and code + 1 < len(column.names):
                break
            painter.setBrush(QColor(theme.series(code % 10)))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.drawEllipse(QPointF(left + 4, middle), 4, 4)
            painter.setPen(QColor(theme.colour("muted")))
            painter.drawText(QPointF(left + 12, middle + 4), name)
            places.append(QRectF(left - 2, 0, long + 18, self.height()))
            left += long + 24
        if len(places) < len(column.names):
            painter.drawText(QPointF(left, middle + 4), f"+ {len(column.names) - len(places)}")
        return places

    def place(self, code: int) -> QPointF:
        """Centre of a class's entry (pixels of the widget), as it was painted last. IndexError for a class without
        room."""
        return self._places[code].center()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        for code, box in enumerate(self._places):
            if box.contains(event.position()):
                self.classPicked.emit(code)


def _short(value: float) -> str:
    """Four digits, without an exponent where it reads well so."""
    text = f"{value:.4g}"
    return f"{float(text):,.0f}" if "e+0" in text and abs(value) < 1e7 else text


def value_colours() -> np.ndarray:  # (SHADES, 3) uint8
    """The ramp of continuous quantities in the present theme, from low to high."""
    name = "viridis" if theme.name == "dark" else "cividis"
    return np.asarray(pg.colormap.get(name).getLookupTable(0.0, 1.0, SHADES))[:, :3]
