"""Rows of particle images with a title each, such as images and their renderings."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import QRect, QSize, Qt
from PySide6.QtGui import QColor, QImage, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from gaussianem_gui.views.toolkit.theme import theme


def grey_image(values: np.ndarray, low: float | None = None, high: float | None = None) -> QImage:
    """A (D, D) array as a grey picture, black at the 1st and white at the 99th percentile unless told."""
    values = np.nan_to_num(np.asarray(values, dtype=np.float32))
    if low is None or high is None:
        low, high = (float(v) for v in np.percentile(values, [1, 99]))
    grey = np.clip((values - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
    grey = np.ascontiguousarray(grey)
    return QImage(grey.data, grey.shape[1], grey.shape[0], grey.shape[1], QImage.Format.Format_Grayscale8).copy()


class Montage(QWidget):
    """Rows of images, one below the other: observed above, rendered below."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("montage")
        self.setMinimumHeight(120)
        self._rows: list[list[QImage]] = []
        self._titles: list[str] = []
        theme.changed.connect(self.update)

    def set_images(self, rows: list[tuple[str, np.ndarray]]) -> None:
        """Show rows of (title, (M, D, D) images)."""
        self._titles = [title for title, _ in rows]
        self._rows = [[grey_image(image) for image in images] for _, images in rows]
        self.setAccessibleName("; ".join(f"{title}: {len(images)} images" for title, images in rows))
        self.update()

    def counts(self) -> list[int]:
        """Number of images in each row."""
        return [len(images) for images in self._rows]

    def sizeHint(self) -> QSize:
        return QSize(420, 180)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        if not self._rows or not self._rows[0]:
            return
        across = max(len(images) for images in self._rows)
        gap, head = 6, 18
        side = max(min((self.height() - head * len(self._rows) - gap) // len(self._rows), 110), 28)
        fit = max((self.width() + gap) // (side + gap), 1)
        font = painter.font()
        font.setPointSizeF(8.5)
        painter.setFont(font)
        for number, (title, images) in enumerate(zip(self._titles, self._rows)):
            y = number * (side + head)
            painter.setPen(QColor(theme.colour("faint")))
            painter.drawText(QRect(0, y, self.width(), head - 3), Qt.AlignmentFlag.AlignVCenter, title)
            for place, image in enumerate(images[: min(across, fit)]):
                painter.drawImage(QRect(place * (side + gap), y + head - 2, side, side), image)
