"""What the colours of a surface or of points mean: a ramp with its ends and unit, or a swatch for each class."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QImage, QLinearGradient, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from gaussianem_gui.explorer.painting import Paint
from gaussianem_gui.views.plots.surfaces import class_colours, ramp_colours
from gaussianem_gui.views.toolkit.theme import theme


class ColourBar(QWidget):
    """A strip below the 3D view; hidden while everything has one colour."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("colourBar")
        self.setFixedHeight(24)
        self.paint: Paint | None = None
        self.hide()
        theme.changed.connect(self.update)

    def set_paint(self, paint: Paint | None) -> None:
        """Show what another colouring means; None hides the bar."""
        self.paint = paint
        self.setVisible(paint is not None)
        self.setAccessibleName(f"Colours: {self.text()}")
        self.update()

    def text(self) -> str:
        """The quantity with its range and unit, or the numbers of its classes; "" without a colouring."""
        paint = self.paint
        if paint is None:
            return ""
        if paint.classes:
            return f"{paint.name} 1 to {paint.classes}"
        return f"{paint.name} {paint.low:.3g} to {paint.high:.3g} {paint.unit}".strip()

    def below(self, picture: QImage, *, on_white: bool = False) -> QImage:
        """``picture`` of the view with the bar below it, at the picture's width; ``picture`` itself where nothing is
        coloured."""
        if self.paint is None or not self.width():
            return picture
        ratio = picture.width() / self.width()
        whole = QImage(picture.width(), picture.height() + round(self.height() * ratio), picture.format())
        whole.fill(QColor("white" if on_white else theme.colour("plot")))
        painter = QPainter(whole)
        painter.drawImage(0, 0, picture)
        painter.translate(0, picture.height())
        painter.scale(ratio, ratio)
        self._draw(painter, QColor("black" if on_white else theme.colour("muted")))
        painter.end()
        return whole

    def paintEvent(self, event: QPaintEvent) -> None:
        if self.paint is not None:
            self._draw(QPainter(self), QColor(theme.colour("muted")))

    def _draw(self, painter: QPainter, ink: QColor) -> None:
        assert self.paint is not None
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = painter.font()
        font.setPointSizeF(8.5)
        painter.setFont(font)
        painter.setPen(ink)
        metrics, middle, left = painter.fontMetrics(), self.height() / 2, 12.0
        painter.drawText(QPointF(left, middle + 4), self.paint.name)
        left += metrics.horizontalAdvance(self.paint.name) + 10
        if self.paint.classes:
            self._swatches(painter, left, ink)
            return
        low, high = f"{self.paint.low:.3g}", f"{self.paint.high:.3g} {self.paint.unit}".strip()
        painter.drawText(QPointF(left, middle + 4), low)
        left += metrics.horizontalAdvance(low) + 8
        long = max(60.0, min(220.0, self.width() - left - metrics.horizontalAdvance(high) - 20))
        ramp, colours = QLinearGradient(left, 0, left + long, 0), ramp_colours()
        for place in np.linspace(0, 1, 17):
            ramp.setColorAt(float(place), QColor.fromRgbF(*map(float, colours[int(place * (len(colours) - 1))])))
        painter.fillRect(QRectF(left, middle - 5, long, 10), ramp)
        painter.drawText(QPointF(left + long + 8, middle + 4), high)

    def _swatches(self, painter: QPainter, left: float, ink: QColor) -> None:
        assert self.paint is not None
        middle = self.height() / 2
        for code, colour in enumerate(class_colours(self.paint.classes)[:-1]):
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor.fromRgbF(*map(float, colour)))
            painter.drawEllipse(QPointF(left + 4, middle), 5, 5)
            painter.setPen(ink)
            painter.drawText(QPointF(left + 14, middle + 4), str(code + 1))
            left += 36
