"""The contour level: a mark on the map's own histogram, and as a number, in the map's units and in sigma."""

from __future__ import annotations

import re

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPainterPath, QPaintEvent, QPen
from PySide6.QtWidgets import QLineEdit, QWidget

from gaussianem_gui.explorer.volumes import Picture
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import row

BINS = 120
SAMPLED = 200_000  # voxels that the histogram is made of
STEP = 0.01  # of the range, for a key
LEAST_RANGE = 1e-3  # of the sigma or the mean
MARGIN = 5  # pixels at the ends of the histogram


class LevelHistogram(QWidget):
    """How many voxels have each value, on a logarithmic scale, from the map's mean to its greatest; a mark at the
    level, which is dragged. ``moved`` comes with the level in the map's units."""

    moved = Signal(float)

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.level = 0.0, 1.0, 0.0
        self.heights = np.zeros(0)
        self.setMinimumSize(84, 26)
        self.setFixedHeight(28)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.SplitHCursor)
        self.setAccessibleName("Contour level")
        theme.changed.connect(self.update)

    def set_picture(self, picture: Picture) -> None:
        """Show another map's histogram."""
        values = picture.values.reshape(-1)[:: max(1, picture.values.size // SAMPLED)]
        # A map of one value, or one that is nowhere above the mean of its model, has no range of its own.
        self.low = float(picture.mean)
        least = LEAST_RANGE * max(picture.sigma, abs(self.low), 1e-12)  # of a volume with nothing in it
        self.high = max(float(picture.greatest), self.low + least)
        counts = np.histogram(values, BINS, (self.low, self.high))[0]
        heights = np.log1p(counts)
        self.heights = heights / max(float(heights.max()), 1e-9)
        self.update()

    def set_level(self, level: float) -> None:
        """Move the mark to a level in the map's units."""
        self.level = level
        self.setAccessibleDescription(f"{level:.4g} between {self.low:.4g} and {self.high:.4g}")
        self.update()

    def _place(self, level: float) -> float:
        share = (level - self.low) / (self.high - self.low)
        return MARGIN + float(np.clip(share, 0, 1)) * (self.width() - 2 * MARGIN)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        foot, inner = self.height() - 3.0, self.width() - 2 * MARGIN
        if len(self.heights):
            path = QPainterPath(QPointF(MARGIN, foot))
            for place, high in enumerate(self.heights):
                path.lineTo(QPointF(MARGIN + (place + 0.5) / BINS * inner, foot - high * (foot - 4)))
            path.lineTo(QPointF(MARGIN + inner, foot))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(theme.colour("strong")))
            painter.drawPath(path)
            painter.setClipRect(QRectF(self._place(self.level), 0, self.width(), self.height()))
            painter.setBrush(QColor(theme.colour("accent")))
            painter.drawPath(path)
            painter.setClipping(False)
        painter.setPen(QPen(QColor(theme.colour("border")), 1))
        painter.drawLine(QPointF(MARGIN, foot), QPointF(MARGIN + inner, foot))
        x = self._place(self.level)
        mark = theme.colour("accent" if self.hasFocus() else "text") if self.isEnabled() else theme.colour("faint")
        painter.setPen(QPen(QColor(mark), 2))
        painter.drawLine(QPointF(x, 2), QPointF(x, foot))
        painter.setBrush(QColor(mark))
        painter.drawEllipse(QPointF(x, 5), 3, 3)

    def _move(self, x: float) -> None:
        share = (x - MARGIN) / max(self.width() - 2 * MARGIN, 1)
        self.moved.emit(self.low + float(np.clip(share, 0, 1)) * (self.high - self.low))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            self._move(event.position().x())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._move(event.position().x())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        step = {
            Qt.Key.Key_Left: -STEP,
            Qt.Key.Key_Down: -STEP,
            Qt.Key.Key_Right: STEP,
            Qt.Key.Key_Up: STEP,
            Qt.Key.Key_PageDown: -10 * STEP,
            Qt.Key.Key_PageUp: 10 * STEP,
        }.get(Qt.Key(event.key()))
        if step is None:
            super().keyPressEvent(event)
        else:
            span = self.high - self.low
            self.moved.emit(float(np.clip(self.level + step * span, self.low, self.high)))


class LevelBar(QWidget):
    """The histogram and two fields for the same level. ``levelChanged`` comes, in the map's units, when the user
    changes it."""

    levelChanged = Signal(float)

    def __init__(self) -> None:
        super().__init__()
        self.picture: Picture | None = None
        self.level = 0.0
        self.histogram = LevelHistogram()
        self.absolute, self.sigma = QLineEdit(), QLineEdit()
        self.absolute.setAccessibleName("Contour level in the map's units")
        self.absolute.setToolTip("Contour level in the map's units")
        self.sigma.setAccessibleName("Contour level in sigma")
        self.sigma.setToolTip("Contour level in standard deviations above the mean of the map")
        for field, width in ((self.absolute, 66), (self.sigma, 62)):
            field.setFixedWidth(width)
            field.setStyleSheet("padding: 4px 5px;")
        self.absolute.editingFinished.connect(lambda: self._typed(self.absolute, sigma=False))
        self.sigma.editingFinished.connect(lambda: self._typed(self.sigma, sigma=True))
        self.histogram.moved.connect(self._user)
        layout = row(spacing=5)
        layout.addWidget(self.histogram, 1)
        layout.addWidget(self.absolute)
        layout.addWidget(self.sigma)
        self.setLayout(layout)
        self.setMinimumWidth(238)

    def set_picture(self, picture: Picture, level: float) -> None:
        """Show another map, contoured at ``level`` (map's units)."""
        self.picture = picture
        self.histogram.set_picture(picture)
        self.set_level(level)

    def set_level(self, level: float) -> None:
        """Show another level (map's units); ``levelChanged`` does not come."""
        self.level = level
        self.histogram.set_level(level)
        if self.picture is not None:
            self.absolute.setText(f"{level:.4g}")
            self.sigma.setText(f"{self.picture.sigmas(level):.2f} σ")

    def _typed(self, field: QLineEdit, *, sigma: bool) -> None:
        number = re.match(r"\s*([-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)", field.text())
        if number is None or self.picture is None:
            self.set_level(self.level)
            return
        shown = f"{self.picture.sigmas(self.level):.2f} σ" if sigma else f"{self.level:.4g}"
        if field.text() != shown:  # a field that is only left does not round the level
            self._user(self.picture.level(float(number[1])) if sigma else float(number[1]))

    def _user(self, level: float) -> None:
        self.set_level(level)
        self.levelChanged.emit(level)
