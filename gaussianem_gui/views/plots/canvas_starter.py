"""Starts the 3D canvas when it is needed: asks the graphics driver, loads napari, and says what cannot be done."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from gaussianem_gui.views.plots.canvas3d import Canvas3D, import_napari
from gaussianem_gui.views.plots.opengl_probe import OpenGL, probe
from gaussianem_gui.views.toolkit.tasks import Background

LONGEST = {"hardware": 256, "software": 80}  # voxels a side in 3D
LONGEST_SLICES = 400
_FOUND: list[OpenGL] = []  # the answer of the probe, once per program run


def know_opengl() -> None:
    """Ask the graphics driver who draws 3D, unless it was asked before; for a worker. Views that start later know the
    answer."""
    if not _FOUND:
        _FOUND[:] = [probe()]


class CanvasStarter(QObject):
    """``settled`` comes when the canvas is there, or when it is known that it will never be; ``warned`` with what the
    driver or napari cannot do, and the remedy."""

    settled = Signal()
    warned = Signal(str, str)

    def __init__(self, parent: QObject, canvas: Canvas3D) -> None:
        super().__init__(parent)
        self._canvas = canvas
        self._background = Background(self)
        self._said = False
        self.opengl: OpenGL | None = None
        self.failure = ""

    def no_3d(self) -> bool:
        """True if it is known that there will never be a canvas."""
        return bool(self.failure) or (self.opengl is not None and not self.opengl.available)

    def longest(self) -> int:
        """Voxels a side that a picture may have: LONGEST in 3D, by who draws; LONGEST_SLICES where there is no 3D or
        nobody knows yet."""
        if self.opengl is None or self.no_3d():
            return LONGEST_SLICES
        return LONGEST["software" if self.opengl.software else "hardware"]

    def start(self) -> bool:
        """Start what the canvas still needs. True if it is there or never will be; else it is being made, and
        ``settled`` comes."""
        if self.opengl is None and _FOUND:
            self.opengl = _FOUND[0]
        if self.opengl is None:
            if not self._background.busy("probe"):
                self._background.run("probe", probe, self._take_opengl)
            return False
        self._say(self.opengl)
        if self._canvas.model is None and not self.no_3d():
            if not self._background.busy("napari"):
                self._background.run("napari", import_napari, lambda _r: self._make(), self._failed)
            return False
        return True

    def _take_opengl(self, found: OpenGL) -> None:
        _FOUND[:] = [found]
        if self.start():
            self.settled.emit()

    def _make(self) -> None:
        try:
            self._canvas.start()
        except Exception as error:  # napari may fail in ways of its own; the rest of the window must live on
            self._failed(error)
            return
        self.settled.emit()

    def _failed(self, error: Exception) -> None:
        self.failure = f"{type(error).__name__}: {error}"
        self._canvas.shut_down()
        text = f"The 3D view could not start ({self.failure}). Slices take its place."
        self.warned.emit(f"{text} Reinstall it with: pip install 'napari==0.9.*' PySide6", "")
        self.settled.emit()

    def _say(self, found: OpenGL) -> None:
        """Tell once what the driver cannot do."""
        if self._said:
            return
        self._said = True
        if not found.available:
            self.warned.emit(f"No 3D: {found.reason}. {found.remedy}", "")
        elif found.software:
            name = found.renderer.split("(")[0].strip()
            text = f"3D is drawn by the processor ({name}): volumes are shown coarser."
            self.warned.emit(text, found.remedy)
