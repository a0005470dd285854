"""An image file, scaled to the room there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QColor, QImage, QImageReader, QPixmap, QResizeEvent
from PySide6.QtWidgets import QLabel

from gaussianem_gui.views.toolkit.theme import theme


class ImageView(QLabel):
    """An image file scaled to the room there is."""

    def __init__(self) -> None:
        super().__init__(alignment=Qt.AlignmentFlag.AlignCenter)
        self._pixmap = QPixmap()
        self.setMinimumSize(QSize(120, 100))
        self.setAccessibleName("Plot")

        self._image, self._figure = QImage(), False
        theme.changed.connect(self._retheme)

    def set_image(self, image: QImage, *, figure: bool = False) -> None:
        """Show another image; a ``figure``, drawn dark on white, is turned bright on dark in the dark theme."""
        self._image, self._figure = image, figure
        self._retheme()

    def _retheme(self) -> None:
        dark = self._figure and theme.name == "dark"
        self._pixmap = QPixmap.fromImage(on_dark(self._image, theme.colour("surface")) if dark else self._image)
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._fit()

    def _fit(self) -> None:
        if not self._pixmap.isNull():
            ratio = self.devicePixelRatioF()
            size = (self.size() - QSize(24, 24)) * ratio
            shown = self._pixmap.scaled(
                size.boundedTo(self._pixmap.size() * 2),
                Qt.AspectRatioMode.KeepAspectRatio,
                Qt.TransformationMode.SmoothTransformation,
            )
            shown.setDevicePixelRatio(ratio)
            self.setPixmap(shown)


def on_dark(image: QImage, ground: str) -> QImage:
    """A figure drawn on white, for a dark page: bright is dark and dark is bright, the hues stay. White becomes
    ``ground``."""
    if image.isNull():
        return image
    source = image.convertToFormat(QImage.Format.Format_RGB32)
    high, wide = source.height(), source.width()
    pixels = np.frombuffer(source.constBits(), np.uint8).reshape(high, wide, 4)[..., :3].astype(np.float32)  # b, g, r
    turned = pixels + 255 - pixels.max(axis=2, keepdims=True) - pixels.min(axis=2, keepdims=True)
    colour = QColor(ground)
    base = np.array([colour.blue(), colour.green(), colour.red()], np.float32)
    result = np.full((high, wide, 4), 255, np.uint8)
    result[..., :3] = np.rint(base + turned * (255 - base) / 255)
    return QImage(result.data, wide, high, 4 * wide, QImage.Format.Format_RGB32).copy()


def read_image(path: Path) -> QImage:
    """Read an image file, turned as it says; a null image if it cannot be read. For a worker thread."""
    reader = QImageReader(str(path))
    reader.setAutoTransform(True)
    return reader.read()
