"""Pictures of the volumes of jobs, made one after the other in the background and kept."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QColor, QImage, QPixmap

from gaussianem_gui.explorer.thumbnails import thumbnail, volume_of
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import JobInfo, Project
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import theme

SIDE = 36  # pixels


class Thumbnails(QObject):
    """``of`` a job is its picture, None while there is none; ``ready`` comes when there is another."""

    ready = Signal()

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._background = Background(self)
        self._project: Project | None = None
        self._found: dict[tuple[str, float], np.ndarray | None] = {}
        self._drawn: dict[tuple[str, float, str], QPixmap] = {}
        self._waiting: list[tuple[str, float]] = []

    def set_project(self, project: Project | None) -> None:
        """Forget the pictures of another project."""
        if project is not self._project:
            self._background.cancel_all()
            self._project = project
            self._found.clear()
            self._drawn.clear()
            self._waiting.clear()

    def of(self, info: JobInfo, ratio: float = 1.0) -> QPixmap | None:
        """The picture of a job that succeeded in the theme's colours, SIDE pixels a side on a screen of device pixel
        ratio ``ratio``; None while there is none, and then it is made."""
        if self._project is None or info.status.state is not State.SUCCEEDED or info.missing:
            return None
        key = (info.name, info.status.ended or 0.0)
        if key not in self._found:
            if key not in self._waiting:
                self._waiting.append(key)
                self._next()
            return None
        found = self._found[key]
        if found is None:
            return None
        kept = (*key, f"{theme.name}{ratio}")
        if kept not in self._drawn:
            self._drawn[kept] = _pixmap(found, ratio)
        return self._drawn[kept]

    def _next(self) -> None:
        if self._background.busy("thumbnail") or not self._waiting or self._project is None:
            return
        project, key = self._project, self._waiting[0]

        def work() -> np.ndarray | None:
            path = volume_of(project, key[0])
            return thumbnail(path) if path is not None else None

        self._background.run("thumbnail", work, lambda found: self._take(key, found), lambda _e: self._take(key, None))

    def _take(self, key: tuple[str, float], found: np.ndarray | None) -> None:
        self._found[key] = found
        if key in self._waiting:
            self._waiting.remove(key)
        if found is not None:
            self.ready.emit()
        self._next()


def _pixmap(found: np.ndarray, ratio: float) -> QPixmap:
    tint = QColor(theme.colour("accent"))
    if theme.name == "dark":
        tint = tint.lighter(125)
    colours = np.array([tint.blue(), tint.green(), tint.red()]) * found[..., :1]
    pixels = np.ascontiguousarray(np.concatenate([colours, 255 * found[..., 1:]], axis=2), np.uint8)
    high, wide = pixels.shape[:2]
    image = QImage(pixels.data, wide, high, 4 * wide, QImage.Format.Format_ARGB32).copy()
    side = round(SIDE * ratio)
    pixmap = QPixmap.fromImage(image).scaled(
        side, side, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    )
    pixmap.setDevicePixelRatio(ratio)
    return pixmap
