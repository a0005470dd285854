"""A picture file, scaled to the room there is."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QImage, QImageReader, QPixmap, QResizeEvent
from PySide6.QtWidgets import QLabel


class ImageView(QLabel):
    """An image file scaled to the room there is."""

    def __init__(self) -> None:
        super().__init__(alignment=Qt.AlignmentFlag.AlignCenter)
        self._pixmap = QPixmap()
        self.setMinimumSize(QSize(120, 100))
        self.setAccessibleName("Plot")

    def set_image(self, image: QImage) -> None:
        """Show another image."""
        self._pixmap = QPixmap.fromImage(image)
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


def read_image(path: Path) -> QImage:
    """An image file; a null image if it is none. For a worker thread."""
    reader = QImageReader(str(path))
    reader.setAutoTransform(True)
    return reader.read()
