"""A volume as three orthogonal slices or projections: works without OpenGL."""

from __future__ import annotations

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QFrame, QSlider, QWidget

from gaussianem_gui.explorer.volumes import Picture
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import column, label, row

PLANES = (("XY", 0), ("XZ", 1), ("YZ", 2))


class Slices(QWidget):
    """Three planes through a volume, a slider for each."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("slices")
        self._picture: Picture | None = None
        self.kind = QComboBox()
        self.kind.addItems(["Slices", "Projections", "Maximum"])
        self.kind.setAccessibleName("Slices or projections")
        self.kind.currentIndexChanged.connect(self._draw)
        self._plots, self._images, self.sliders = [], [], []
        panes = row(spacing=8)
        for name, _ in PLANES:
            plot = pg.PlotWidget()
            plot.setFrameShape(QFrame.Shape.NoFrame)
            plot.setAspectLocked(True)
            plot.setMenuEnabled(False)
            plot.setMinimumSize(90, 90)
            plot.setAccessibleName(f"{name} plane")
            for side in ("left", "bottom"):
                plot.getPlotItem().hideAxis(side)
            plot.getPlotItem().hideButtons()
            image = pg.ImageItem(axisOrder="row-major")
            plot.addItem(image)
            slider = QSlider(Qt.Orientation.Horizontal)
            slider.setAccessibleName(f"Place of the {name} plane")
            slider.valueChanged.connect(self._draw)
            pane = column(label(name, "faint"), spacing=4)
            pane.addWidget(plot, 1)
            pane.addWidget(slider)
            panes.addLayout(pane, 1)
            self._plots.append(plot)
            self._images.append(image)
            self.sliders.append(slider)
        layout = column(spacing=8, margins=(12, 8, 12, 8))
        layout.addLayout(row(self.kind, None))
        layout.addLayout(panes, 1)
        self.setLayout(layout)
        theme.changed.connect(self._restyle)
        self._restyle()

    def set_picture(self, picture: Picture | None) -> None:
        """Show another volume; the planes stay where they are if the box is the same."""
        same = picture is not None and self._picture is not None and picture.values.shape == self._picture.values.shape
        self._picture = picture
        if picture is not None and not same:
            for (_, axis), slider in zip(PLANES, self.sliders):
                slider.blockSignals(True)
                slider.setRange(0, picture.values.shape[axis] - 1)
                slider.setValue(picture.values.shape[axis] // 2)
                slider.blockSignals(False)
        self._draw()
        if not same:
            for plot in self._plots:
                plot.getPlotItem().autoRange()

    def shown(self, plane: int) -> np.ndarray | None:
        """The picture of plane 0 (XY), 1 (XZ) or 2 (YZ)."""
        return self._images[plane].image

    def _draw(self) -> None:
        kind = self.kind.currentText()
        for slider in self.sliders:
            slider.setVisible(kind == "Slices")
        if self._picture is None:
            for image in self._images:
                image.clear()
            return
        values = self._picture.values
        for (_, axis), slider, image in zip(PLANES, self.sliders, self._images):
            if kind == "Slices":
                picture = values.take(slider.value(), axis=axis)
            else:
                picture = values.mean(axis=axis) if kind == "Projections" else values.max(axis=axis)
            low, high = float(picture.min()), float(picture.max())
            image.setImage(picture, autoLevels=False, levels=(low, high if high > low else low + 1))

    def _restyle(self) -> None:
        for plot in self._plots:
            plot.setBackground(theme.colour("plot"))
