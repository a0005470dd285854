"""Masks by eye: level, dilation, soft edge and shapes with a live preview in 3D; saved as a Mask job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QComboBox, QFileDialog, QGridLayout, QSlider

from gaussianem_core.analysis.masks import COMBINE, Recipe, Shape, make_mask, shrunk
from gaussianem_core.io.mrc import Volume, read_map
from gaussianem_gui.explorer.mask_job import save_mask
from gaussianem_gui.explorer.volumes import Picture, surface
from gaussianem_gui.views.explorer.panel import Number, Panel
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, Switch, button, column, label, row

PREVIEW_VOXELS = 72
PREVIEW_MILLISECONDS = 60
LEVEL_STEPS = 200
MASK_SURFACE = 0.5


class MaskPanel(Panel):
    """Sliders at the left, shapes at the right; the preview follows."""

    def __init__(self, explorer) -> None:  # type: ignore[no-untyped-def]
        super().__init__(explorer)
        self.source = QComboBox()
        self.source.setAccessibleName("Map to make the mask from")
        self.source.setMinimumWidth(150)
        self.source.activated.connect(self._source_changed)
        self.preview = Switch("Preview in 3D")
        self.preview.setChecked(True)
        self.preview.toggled.connect(self._later)
        self.level = self._slider("Level", 0, LEVEL_STEPS, 60)
        self.dilate = self._slider("Dilation", -20, 60, 12)
        self.edge = self._slider("Soft edge", 0, 60, 16)
        self.values = {name: label("", "muted") for name in ("level", "dilate", "edge")}
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(2)
        for place, (name, text) in enumerate((("level", "Level"), ("dilate", "Dilate"), ("edge", "Soft edge"))):
            grid.addWidget(label(text, "muted"), place, 0)
            grid.addWidget(getattr(self, name), place, 1)
            self.values[name].setMinimumWidth(64)
            grid.addWidget(self.values[name], place, 2)
        grid.setColumnStretch(1, 1)
        self.shape = QComboBox()
        self.shape.setAccessibleName("Shape")
        for key, text in (("", "No shape"), ("sphere", "Sphere"), ("box", "Box")):
            self.shape.addItem(text, key)
        self.action = QComboBox()
        self.action.setAccessibleName("What the shape does")
        for key, text in (("keep", "keep inside"), ("cut", "cut away"), ("add", "add")):
            self.action.addItem(text, key)
        self.centre = [self._number(axis, -2000, 2000) for axis in "xyz"]
        self.extent = [self._number(text, 1, 2000, 40) for text in ("size x", "size y", "size z")]
        for box in (self.shape, self.action):
            box.currentIndexChanged.connect(self._shape_changed)
        self._words = [label("at", "muted"), label("size", "muted")]
        self.shape.setMinimumWidth(106)
        self.action.setMinimumWidth(118)
        shape = row(self.shape, self.action, None, spacing=4)
        places = row(self._words[0], *self.centre, 4, self._words[1], *self.extent, None, spacing=4)
        self.combine = QComboBox()
        self.combine.setAccessibleName("Combine with another mask")
        self.combine.addItem("Alone", "")
        for key, text in (("union", "Union with …"), ("difference", "Without …"), ("intersection", "Only within …")):
            self.combine.addItem(text, key)
        self.combine.activated.connect(self._combine_chosen)
        self.text = Elided("", "hint")
        self.save = button("Save as a Mask job", "primary", "job-mask", self.save_job, name="saveMask")
        first = row(label("Map", "muted"), self.source, None, label("Preview", "muted"), self.preview, spacing=8)
        last = row(self.combine, spacing=8)
        last.addWidget(self.text, 1)
        last.addWidget(self.save)
        layout = column(spacing=6, margins=(6, 8, 6, 4))
        layout.addLayout(first)
        layout.addLayout(grid)
        layout.addLayout(shape)
        layout.addLayout(places)
        layout.addStretch(1)
        layout.addLayout(last)
        self.setLayout(layout)
        self.volume: Volume | None = None
        self.path = Path()
        self._small: Volume | None = None
        self._other: tuple[str, Path, np.ndarray] | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(PREVIEW_MILLISECONDS)
        self._timer.timeout.connect(self._preview)
        self._shape_changed()

    def _slider(self, name: str, low: int, high: int, value: int) -> QSlider:
        slider = QSlider(Qt.Orientation.Horizontal)
        slider.setRange(low, high)
        slider.setValue(value)
        slider.setAccessibleName(name)
        slider.valueChanged.connect(self._later)
        return slider

    def _number(self, name: str, low: float, high: float, value: float = 0) -> Number:
        field = Number(f"{name} of the shape", low, high, value, "Å", 62)
        field.valueChanged.connect(self._later)
        return field

    # --- the map ---------------------------------------------------------------------------------------------------

    def opened(self) -> None:
        self.volume, self._small = None, None
        self.source.clear()
        explorer = self.explorer
        values = explorer.sources.preprocess_options
        consensus = str(values.get("consensus_map") or "")
        if consensus:
            self.source.addItem("Consensus map of the refinement", str(explorer.model.root / consensus))
        self.source.addItem("What is shown in 3D", "shown")
        if explorer.sources.analysis is not None:
            for path in sorted((explorer.sources.analysis / "kmeans").glob("vol_*.mrc")):
                self.source.addItem(f"Class {int(path.stem[4:])}", str(path))
        self.source.addItem("Another map …", "ask")

    def closed(self) -> None:
        self._timer.stop()
        if self.explorer.viewer.model is not None:
            self.explorer.viewer.show_surface("mask", None, "", 0)

    def shown(self) -> None:
        if self.volume is None and self.explorer.consensus is not None:
            self._source_changed()

    def model_ready(self) -> None:
        if self.isVisible():
            self.shown()

    def hideEvent(self, event) -> None:  # type: ignore[no-untyped-def]
        super().hideEvent(event)
        if self.explorer.viewer.model is not None:
            self.explorer.viewer.show_surface("mask", None, "", 0)

    def showEvent(self, event) -> None:  # type: ignore[no-untyped-def]
        super().showEvent(event)
        self._later()

    def _source_changed(self) -> None:
        kind = self.source.currentData()
        explorer = self.explorer
        if kind == "ask":
            chosen, _ = QFileDialog.getOpenFileName(self, "A map", str(explorer.model.root), "Maps (*.mrc *.map)")
            if not chosen:
                return
            self.source.insertItem(0, Path(chosen).name, chosen)
            self.source.setCurrentIndex(0)
            kind = chosen
        if kind == "shown":
            model, last = explorer.consensus, explorer._last
            values = model.volume if last is None or last.volume is None else last.volume
            pixel = model.pixel_size_angstrom * (model.box // values.shape[0])
            self._take_map((explorer.sources.weights, Volume(values, pixel, model.origin_angstrom)))
        elif kind:
            self.background.run("map", lambda: (Path(kind), read_map(kind)), self._take_map, self.say_error)

    def _take_map(self, found: tuple[Path, Volume]) -> None:
        self.path, self.volume = found
        self._small = shrunk(self.volume, PREVIEW_VOXELS)
        self._other = None
        self.combine.setCurrentIndex(0)
        self._later()

    def recipe(self) -> Recipe:
        """What the controls say."""
        assert self.volume is not None
        top = float(self.volume.values.max())
        shapes: tuple[Shape, ...] = ()
        if self.shape.currentData():
            x, y, z = (field.value() for field in self.centre)
            a, b, c = (field.value() for field in self.extent)
            shapes = (Shape(str(self.shape.currentData()), (x, y, z), (a, b, c), str(self.action.currentData())),)
        return Recipe(
            top * self.level.value() / LEVEL_STEPS * 0.6, self.dilate.value() / 2, self.edge.value() / 2, shapes=shapes
        )

    def _shape_changed(self) -> None:
        kind = self.shape.currentData()
        self.action.setVisible(bool(kind))
        for field in (*self.centre, *self.extent, *self._words):
            field.setVisible(bool(kind))
        for field in self.extent[1:]:
            field.setVisible(kind == "box")
        self._later()

    def _later(self) -> None:
        if not hasattr(self, "_timer") or self.volume is None:
            return
        recipe = self.recipe()
        self.values["level"].setText(f"{recipe.level:.3g}")
        self.values["dilate"].setText(f"{recipe.dilate_angstrom:.1f} Å")
        self.values["edge"].setText(f"{recipe.edge_angstrom:.1f} Å")
        self._timer.start()

    def _preview(self) -> None:
        small, explorer = self._small, self.explorer
        if small is None or not self.isVisible() or explorer.consensus is None:
            return
        if not self.preview.isChecked():
            explorer.viewer.show_surface("mask", None, "", 0)
            return
        recipe, other = self.recipe(), self._other

        def work() -> tuple[tuple[np.ndarray, np.ndarray], float]:
            mask = make_mask(small, recipe)
            if other is not None:
                second = shrunk(Volume(other[2], small.pixel_size_angstrom), PREVIEW_VOXELS).values
                mask = COMBINE[other[0]](mask, second)
            picture = Picture(Path("mask"), mask, small.pixel_size_angstrom, self._box(), 0.0, 1.0, 1.0)
            litres = float(mask.sum()) * small.pixel_size_angstrom**3
            return surface(picture, MASK_SURFACE), litres

        self.background.run("preview", work, self._show_preview, lambda e: self.text.setText(str(e)))

    def _box(self) -> int:
        assert self.volume is not None
        return int(self.volume.values.shape[0])

    def _show_preview(self, found: tuple[tuple[np.ndarray, np.ndarray], float]) -> None:
        mesh, cubic = found
        self.text.setText(f"{cubic / 1000:,.0f} nm³ inside (about {cubic / 1.21 / 1000:,.0f} kDa of protein)")
        if self.isVisible():
            self.explorer.viewer.show_surface("mask", mesh, theme.colour("info"), 0.35)

    def _combine_chosen(self) -> None:
        kind = self.combine.currentData()
        if not kind:
            self._other = None
            self._later()
            return
        chosen, _ = QFileDialog.getOpenFileName(self, "Another mask", str(self.explorer.model.root), "Masks (*.mrc)")
        if not chosen:
            self.combine.setCurrentIndex(0)
            return
        self.background.run(
            "other", lambda: (str(kind), Path(chosen), read_map(chosen).values), self._take_other, self.say_error
        )

    def _take_other(self, found: tuple[str, Path, np.ndarray]) -> None:
        self._other = found
        self._later()

    def save_job(self) -> None:
        """Make the mask at full size and save it."""
        volume, explorer, path, other = self.volume, self.explorer, self.path, self._other
        if volume is None or explorer.model is None:
            return
        recipe = self.recipe()
        self.text.setText("Making the mask …")

        def work(project: Any) -> Any:
            mask = make_mask(volume, recipe)
            if other is not None:
                mask = np.asarray(COMBINE[other[0]](mask, other[2]), np.float32)
            return save_mask(project, mask, volume, path, recipe, note=f"{recipe}")

        explorer.model.do("Save the mask", work, self._saved)

    def _saved(self, job: Any) -> None:
        self.text.setText(f"Saved: {job.name}mask.mrc")
        self.explorer.noted.emit("success", f"{job.name} written", f"{job.name}mask.mrc can be chosen as a mask now.")
