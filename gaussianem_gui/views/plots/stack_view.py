"""Images of a stack as a montage that wraps, each with its number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QIcon, QPixmap
from PySide6.QtWidgets import QListView, QListWidget, QListWidgetItem, QSlider, QWidget

from gaussianem_core.errors import InputError
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.io.particle_table import read_particles
from gaussianem_gui.views.plots.montage import grey_image
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.widgets import button, column, label, row

SHOWN = 40  # images at a time
SIDE = 104  # pixels of an image


def read_some(path: Path, first: int, smooth: int) -> tuple[np.ndarray, int]:
    """Up to SHOWN images (n, D, D) float32 from number ``first``, counted from 0, averaged over ``smooth`` pixels a
    side, and how many there are: of a stack, or of the particles that a .star or .cs file names. Raises InputError."""
    if path.suffix.lower() in (".star", ".cs"):
        stack = ImageStack.from_table(read_particles(path, require_pose=False, require_ctf=False))
    else:
        stack = ImageStack.from_file(path)
    with stack:
        rows = np.arange(first, min(first + SHOWN, len(stack)))
        images = np.asarray(stack.read(rows), np.float32)
    if smooth > 1:
        from scipy.ndimage import uniform_filter

        images = uniform_filter(images, (0, smooth, smooth))
    return images, len(stack)


class StackView(QWidget):
    """A page of images, with buttons for the next and the one before, and a slider that smooths them."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("stackView")
        self._background = Background(self)
        self._path: Path | None = None
        self.first, self.count = 0, 0
        self.list = QListWidget()
        self.list.setAccessibleName("Images")
        self.list.setViewMode(QListView.ViewMode.IconMode)
        self.list.setResizeMode(QListView.ResizeMode.Adjust)
        self.list.setMovement(QListView.Movement.Static)
        self.list.setIconSize(QSize(SIDE, SIDE))
        self.list.setSpacing(4)
        self.list.setSelectionMode(QListWidget.SelectionMode.NoSelection)
        self.text = label("", "muted")
        self.smooth = QSlider(Qt.Orientation.Horizontal)
        self.smooth.setRange(1, 9)
        self.smooth.setFixedWidth(90)
        self.smooth.setAccessibleName("Smooth the images")
        self.smooth.setToolTip("Average over more pixels: particles stand out of the noise")
        self.smooth.valueChanged.connect(lambda _v: self._read())
        self.before = button("Before", "", "chevron-left", lambda: self._turn(-SHOWN), name="imagesBefore")
        self.next = button("Next", "", "chevron-right", lambda: self._turn(SHOWN), name="imagesNext")
        layout = column(spacing=8, margins=(14, 10, 14, 10))
        layout.addLayout(row(self.text, None, label("Smooth", "muted"), self.smooth, self.before, self.next))
        layout.addWidget(self.list, 1)
        self.setLayout(layout)

    def show_stack(self, path: Path) -> None:
        """Show the first images of a stack, or of a particle file."""
        self._path, self.first = path, 0
        self.list.clear()
        self.text.setText("Reading …")
        self._read()

    def _turn(self, by: int) -> None:
        self.first = min(max(self.first + by, 0), max(self.count - 1, 0))
        self._read()

    def _read(self) -> None:
        path, first, smooth = self._path, self.first, self.smooth.value()
        if path is not None:
            self._background.run("images", lambda: read_some(path, first, smooth), self._take, self._failed)

    def _take(self, found: tuple[np.ndarray, int]) -> None:
        images, self.count = found
        self.list.clear()
        for number, image in enumerate(images, start=self.first + 1):
            pixmap = QPixmap.fromImage(grey_image(image)).scaled(
                SIDE, SIDE, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
            )
            self.list.addItem(QListWidgetItem(QIcon(pixmap), f"{number:,}"))
        box = f", {images.shape[-1]} px" if len(images) else ""
        self.text.setText(f"{self.first + 1:,} to {self.first + len(images):,} of {self.count:,} images{box}")
        self.before.setEnabled(self.first > 0)
        self.next.setEnabled(self.first + len(images) < self.count)

    def _failed(self, error: Exception) -> None:
        self.list.clear()
        self.text.setText(str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}")
