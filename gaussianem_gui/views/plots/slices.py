"""A volume as three orthogonal slices or projections, with a crosshair and a contrast: works without OpenGL."""

from __future__ import annotations

import numpy as np
import pyqtgraph as pg
from pyqtgraph.GraphicsScene.mouseEvents import MouseClickEvent
from PySide6.QtCore import QSettings, Qt
from PySide6.QtWidgets import QComboBox, QFrame, QLabel, QSlider, QVBoxLayout, QWidget

from gaussianem_gui.explorer.volumes import Picture
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, column, label, row

PLANES = (("XY", 0), ("XZ", 1), ("YZ", 2))
ACROSS = ((2, 1), (2, 0), (1, 0))  # axes of the volume (z, y, x) along a plane's horizontal and vertical
CUT_OFF = (0.0, 12.0)  # percent of the voxels that are black and white alone, at the ends of the contrast slider
CONTRAST = 20  # of 100 at first


class Slices(QWidget):
    """Three planes through a volume, a slider for each; a click in one moves the other two there."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("slices")
        self._picture: Picture | None = None
        self.kind = QComboBox()
        self.kind.addItems(["Slices", "Projections", "Maximum"])
        self.kind.setAccessibleName("Slices or projections")
        self.kind.currentIndexChanged.connect(self._draw)
        self.contrast = QSlider(Qt.Orientation.Horizontal)
        self.contrast.setRange(0, 100)
        self.contrast.setFixedWidth(110)
        self.contrast.setAccessibleName("Contrast")
        self.contrast.setToolTip("More of the darkest and the brightest voxels in plain black and white")
        self.contrast.setValue(int(str(QSettings().value("slices/contrast", CONTRAST))))
        self.contrast.valueChanged.connect(self._contrast_changed)
        self.value = Elided("", "muted")
        self.value.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.value.setAccessibleName("Value at the crosshair")
        self._plots: list[pg.PlotWidget] = []
        self._images: list[pg.ImageItem] = []
        self._lines: list[tuple[pg.InfiniteLine, pg.InfiniteLine]] = []
        self.sliders: list[QSlider] = []
        self.places: list[QLabel] = []
        self._limits: dict[str, tuple[float, float]] = {}  # by kind, of the picture and contrast at hand
        panes = row(spacing=8)
        for plane, (name, _) in enumerate(PLANES):
            panes.addLayout(self._pane(plane, name), 1)
        layout = column(spacing=8, margins=(12, 8, 12, 8))
        head = row(self.kind, 6, label("Contrast", "muted"), self.contrast, self.value)
        head.setStretch(head.count() - 1, 1)
        layout.addLayout(head)
        layout.addLayout(panes, 1)
        self.setLayout(layout)
        theme.changed.connect(self._restyle)
        self._restyle()

    def _pane(self, plane: int, name: str) -> QVBoxLayout:
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
        lines = pg.InfiniteLine(angle=90), pg.InfiniteLine(angle=0)
        for line in lines:
            line.setZValue(10)
            plot.addItem(line, ignoreBounds=True)
        plot.scene().sigMouseClicked.connect(lambda event, p=plane: self._clicked(p, event))
        slider = QSlider(Qt.Orientation.Horizontal)
        slider.setAccessibleName(f"Place of the {name} plane")
        slider.valueChanged.connect(self._draw)
        place = label("", "muted")
        pane = column(spacing=4)
        pane.addLayout(row(label(name, "faint"), None, place))
        pane.addWidget(plot, 1)
        pane.addWidget(slider)
        self._plots.append(plot)
        self._images.append(image)
        self._lines.append(lines)
        self.sliders.append(slider)
        self.places.append(place)
        return pane

    def set_picture(self, picture: Picture | None) -> None:
        """Show another volume, None for nothing; the planes stay where they are if the box is the same."""
        same = picture is not None and self._picture is not None and picture.values.shape == self._picture.values.shape
        if picture is not self._picture:
            self._limits.clear()
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
        """The picture of plane 0 (XY), 1 (XZ) or 2 (YZ), two axes of the volume's (Z, Y, X); None if there is none."""
        return self._images[plane].image

    def crosshair(self) -> tuple[int, int, int]:
        """Voxel z, y, x, from 0, where the planes meet."""
        z, y, x = (slider.value() for slider in self.sliders)
        return z, y, x

    def levels(self) -> tuple[float, float]:
        """The values drawn black and white, the same in all planes, in the map's units."""
        kind = self.kind.currentText()
        if kind not in self._limits and self._picture is not None:
            values = self._picture.values
            if kind != "Slices":
                values = np.concatenate([self._plane(axis).reshape(-1) for _, axis in PLANES])
            sample = values.reshape(-1)[:: max(1, values.size // 200_000)]
            off = CUT_OFF[0] + (CUT_OFF[1] - CUT_OFF[0]) * self.contrast.value() / 100
            low, high = (float(end) for end in np.percentile(sample, [off, 100 - off / 10]))
            self._limits[kind] = (low, high if high > low else low + 1)
        return self._limits.get(kind, (0.0, 1.0))

    def _plane(self, axis: int) -> np.ndarray:
        assert self._picture is not None
        values, kind = self._picture.values, self.kind.currentText()
        if kind == "Slices":
            return values.take(self.sliders[axis].value(), axis=axis)
        return values.mean(axis=axis) if kind == "Projections" else values.max(axis=axis)

    def _draw(self) -> None:
        slices = self.kind.currentText() == "Slices"
        for part in (*self.sliders, *self.places, self.value):
            part.setVisible(slices)
        if self._picture is None:
            for image in self._images:
                image.clear()
            return
        cross = self.crosshair()
        for plane, (_, axis) in enumerate(PLANES):
            self._images[plane].setImage(self._plane(axis), autoLevels=False, levels=self.levels())
            count = self._picture.values.shape[axis]
            at = cross[axis] * self._picture.voxel_angstrom + self._picture.offset_angstrom
            self.places[plane].setText(f"{'zyx'[axis]} {cross[axis] + 1} of {count}  ({at:.1f} Å)")
            for line, along in zip(self._lines[plane], ACROSS[plane]):
                line.setPos(cross[along] + 0.5)
                line.setVisible(slices)
        self.value.setText(f"Value {self._picture.values[cross]:.4g}")

    def _clicked(self, plane: int, event: MouseClickEvent) -> None:
        if self._picture is None or self.kind.currentText() != "Slices" or event.button() != Qt.MouseButton.LeftButton:
            return
        place = self._plots[plane].getPlotItem().vb.mapSceneToView(event.scenePos())
        self.look_at(plane, place.x(), place.y())

    def look_at(self, plane: int, x: float, y: float) -> None:
        """Move the other two planes to a place of this one: ``x`` and ``y`` in voxels along its horizontal and
        vertical."""
        for axis, place in zip(ACROSS[plane], (x, y)):
            self.sliders[axis].setValue(int(np.floor(place)))

    def _contrast_changed(self, value: int) -> None:
        QSettings().setValue("slices/contrast", value)
        self._limits.clear()
        self._draw()

    def _restyle(self) -> None:
        for plot in self._plots:
            plot.setBackground(theme.colour("plot"))
        for line in (line for pair in self._lines for line in pair):
            line.setPen(pg.mkPen(theme.colour("accent"), width=1))
