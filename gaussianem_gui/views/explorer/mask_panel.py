"""Masks by eye: level, dilation, soft edge and shapes with a live preview in 3D; saved as a Mask job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QHideEvent, QShowEvent
from PySide6.QtWidgets import QComboBox, QFileDialog, QGridLayout, QSlider

from gaussianem_core.analysis.masks import COMBINE, MaskRecipe, Shape, make_mask, shrunk
from gaussianem_core.io.mrc import Volume, read_map
from gaussianem_gui.explorer.mask_job import save_mask
from gaussianem_gui.explorer.volumes import Picture, surface
from gaussianem_gui.project.job import Job
from gaussianem_gui.project.project import Project
from gaussianem_gui.views.explorer.live_viewer import LiveViewer
from gaussianem_gui.views.explorer.panel import Panel
from gaussianem_gui.views.explorer.session import ExplorerSession
from gaussianem_gui.views.plots.surfaces import Mesh
from gaussianem_gui.views.toolkit.controls import Switch, together, wrapping
from gaussianem_gui.views.toolkit.number_field import NumberField
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import button, column, label

PREVIEW_VOXELS = 72
PREVIEW_MILLISECONDS = 60
LEVEL_STEPS = 200
MASK_SURFACE = 0.5
PROTEIN_ANGSTROM3_PER_DALTON = 1.21  # Harpaz, Gerstein and Chothia, Structure 2, 1994


class MaskPanel(Panel):
    """Sliders of level, dilation and soft edge, a shape, and a choice of Gaussians; the mask that they make is
    previewed in 3D."""

    def __init__(self, session: ExplorerSession, viewer: LiveViewer) -> None:
        super().__init__(session)
        self.viewer = viewer
        self.source = QComboBox()
        self.source.setAccessibleName("Map to make the mask from")
        self.source.setFixedWidth(230)
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
        self.extent = [self._number(text, 1, 2000, 40) for text in ("half length x", "half length y", "half length z")]
        for box in (self.shape, self.action):
            box.currentIndexChanged.connect(self._shape_changed)
        self._words = [label("at", "muted"), label("size", "muted")]
        self.shape.setMinimumWidth(106)
        self.action.setMinimumWidth(118)
        places = wrapping(
            self.shape,
            self.action,
            together(self._words[0], *self.centre, spacing=4),
            together(self._words[1], *self.extent, spacing=4),
            spacing=4,
        )
        self.combine = QComboBox()
        self.combine.setAccessibleName("Combine with another mask")
        self.combine.addItem("Alone", "")
        for key, text in (("union", "Union with …"), ("difference", "Without …"), ("intersection", "Only within …")):
            self.combine.addItem(text, key)
        self.combine.activated.connect(self._combine_chosen)
        self.lasso = button(
            "Lasso Gaussians", "", "tool-lasso", self._lasso, "Draw around Gaussians in 3D", name="lasso3d"
        )
        self.everything = button("All of it", "ghost", "", lambda: self._take_lasso(None), "No choice of Gaussians")
        self.everything.hide()
        self.chosen: np.ndarray | None = None  # (N,) Gaussians whose part of the map is kept
        self.text = label("", "hint", wrap=True)
        self.save = button("Save as a Mask job", "primary", "job-mask", self.save_job, name="saveMask")
        first = wrapping(
            together(label("Map", "muted"), self.source, spacing=8),
            together(label("Preview", "muted"), self.preview, spacing=8),
            together(self.lasso, self.everything, spacing=4),
        )
        layout = column(spacing=6, margins=(6, 8, 6, 4))
        layout.addWidget(first)
        layout.addLayout(grid)
        layout.addWidget(places)
        layout.addStretch(1)
        layout.addWidget(self.text)
        layout.addWidget(wrapping(self.combine, self.save))
        self.setLayout(layout)
        self.volume: Volume | None = None
        self.path = Path()
        self._small: Volume | None = None
        self._other: tuple[str, Path, np.ndarray] | None = None
        self._told = ""
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(PREVIEW_MILLISECONDS)
        self._timer.timeout.connect(self._preview)
        session.modelReady.connect(self._model_ready)
        self._shape_changed()

    def _slider(self, name: str, low: int, high: int, value: int) -> QSlider:
        slider = QSlider(Qt.Orientation.Horizontal)
        slider.setRange(low, high)
        slider.setValue(value)
        slider.setAccessibleName(name)
        slider.valueChanged.connect(self._later)
        return slider

    def _number(self, name: str, low: float, high: float, value: float = 0) -> NumberField:
        field = NumberField(f"{name} of the shape", low, high, value, "Å", 62)
        field.valueChanged.connect(self._later)
        return field

    # --- a part, by its Gaussians ----------------------------------------------------------------------------------

    def _lasso(self) -> None:
        """Let the user draw around Gaussians in the 3D view."""
        if self.volume is None:
            return
        self.viewer.show_surface("mask", None)
        self.text.setText("Draw around Gaussians in the 3D view with the left button; Esc gives up.")
        self.viewer.lasso(self._take_lasso, self._later)

    def _take_lasso(self, chosen: np.ndarray | None) -> None:
        """Keep the part of the map that belongs to these Gaussians; all of it with None, or where none is encircled."""
        self.chosen = chosen if chosen is not None and chosen.any() else None
        self.everything.setVisible(self.chosen is not None)
        self.viewer.mark_gaussians(self.chosen)
        self._later()

    def _places(self) -> np.ndarray | None:  # (N, 3) A from the box's centre
        """Where the Gaussians of the map are."""
        model, shown = self.session.consensus, self.viewer.positions
        if model is None:
            return None
        positions = shown if self.source.currentData() == "shown" and shown is not None else model.positions
        return np.asarray(positions * model.half_angstrom)

    # --- the map ---------------------------------------------------------------------------------------------------

    def opened(self) -> None:
        sources = self.session.sources
        assert sources is not None
        consensus = str(sources.preprocess_options.get("consensus_map") or "")
        if consensus:
            self.source.addItem("Refined consensus map", str(self.session.root / consensus))
        self.source.addItem("What is shown in 3D", "shown")
        if sources.analysis is not None:
            for path in sorted((sources.analysis / "kmeans").glob("vol_*.mrc")):
                self.source.addItem(f"Class {int(path.stem[4:])}", str(path))
        self.source.addItem("Another map …", "ask")

    def closed(self) -> None:
        self._timer.stop()
        self.volume, self._small, self._other, self.chosen = None, None, None, None
        self.everything.hide()
        self.source.clear()
        self.combine.setCurrentIndex(0)
        self.text.setText("")
        for value in self.values.values():
            value.setText("")
        self.viewer.show_surface("mask", None)

    def shown(self) -> None:
        if self.volume is None and self.session.consensus is not None:
            self._source_changed()

    def _model_ready(self) -> None:
        if self.isVisible():
            self.shown()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self.viewer.show_surface("mask", None)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._later()

    def _source_changed(self) -> None:
        kind, session = self.source.currentData(), self.session
        if kind == "ask":
            chosen, _ = QFileDialog.getOpenFileName(self, "A map", str(session.root), "Maps (*.mrc *.map)")
            if not chosen:
                return
            self.source.insertItem(0, Path(chosen).name, chosen)
            self.source.setCurrentIndex(0)
            kind = chosen
        if kind == "shown":
            model, shown, sources = session.consensus, session.picture, session.sources
            if model is None or sources is None:
                return
            values = model.volume if shown is None or shown.volume is None else shown.volume
            pixel = model.pixel_size_angstrom * (model.box // values.shape[0])
            self._take_map((sources.model()[0], Volume(values, pixel, model.origin_angstrom)))
        elif kind:
            self.background.run("map", lambda: (Path(kind), read_map(kind)), self._take_map, session.say_error)

    def _take_map(self, found: tuple[Path, Volume]) -> None:
        self.path, self.volume = found
        self._small = shrunk(self.volume, PREVIEW_VOXELS)
        self._other = None
        self.combine.setCurrentIndex(0)
        self._later()

    def recipe(self) -> MaskRecipe:
        """The mask that the controls describe: level in the map's units, lengths in Angstrom. A map must have been
        read."""
        assert self.volume is not None
        top = float(self.volume.values.max())
        shapes: tuple[Shape, ...] = ()
        if self.shape.currentData():
            x, y, z = (field.value() for field in self.centre)
            a, b, c = (field.value() for field in self.extent)
            shapes = (Shape(str(self.shape.currentData()), (x, y, z), (a, b, c), str(self.action.currentData())),)
        return MaskRecipe(
            top * self.level.value() / LEVEL_STEPS * 0.6,
            self.dilate.value() / 2,
            self.edge.value() / 2,
            shapes=shapes,
            gaussians=() if self.chosen is None else tuple(np.flatnonzero(self.chosen).tolist()),
        )

    def _shape_changed(self) -> None:
        kind = self.shape.currentData()
        self.action.setVisible(bool(kind))
        for field in (*self.centre, *self.extent, *self._words):
            field.setVisible(bool(kind))
        for field in self.extent[1:]:
            field.setVisible(kind == "box")
        self._words[1].setText("half lengths" if kind == "box" else "radius")
        self.extent[0].setAccessibleName(f"{'half length x' if kind == 'box' else 'radius'} of the shape")
        self._later()

    def _later(self) -> None:
        if not hasattr(self, "_timer") or self.volume is None:
            return
        recipe, self._told = self.recipe(), ""
        self.values["level"].setText(f"{recipe.level:.3g}")
        self.values["dilate"].setText(f"{recipe.dilate_angstrom:.1f} Å")
        self.values["edge"].setText(f"{recipe.edge_angstrom:.1f} Å")
        self._timer.start()

    def _preview(self) -> None:
        small = self._small
        if small is None or not self.isVisible() or self.session.consensus is None:
            return
        if not self.preview.isChecked():
            self.viewer.show_surface("mask", None)
            return
        recipe, other, places = self.recipe(), self._other, self._places()

        def work() -> tuple[Mesh, float]:
            mask = make_mask(small, recipe, places)
            if other is not None:
                second = shrunk(Volume(other[2], small.pixel_size_angstrom), PREVIEW_VOXELS).values
                mask = COMBINE[other[0]](mask, second)
            picture = Picture(Path("mask"), mask, small.pixel_size_angstrom, self._box(), 0.0, 1.0, 1.0)
            cubic_angstrom = float(mask.sum()) * small.pixel_size_angstrom**3
            return surface(picture, MASK_SURFACE), cubic_angstrom

        self.background.run("preview", work, self._show_preview, lambda e: self.text.setText(self._told or str(e)))

    def _box(self) -> int:
        assert self.volume is not None
        return int(self.volume.values.shape[0])

    def _show_preview(self, found: tuple[Mesh, float]) -> None:
        mesh, cubic_angstrom = found
        mass = cubic_angstrom / PROTEIN_ANGSTROM3_PER_DALTON / 1000
        part = f"{self.chosen.sum():,} of {len(self.chosen):,} Gaussians: " if self.chosen is not None else ""
        inside = f"{part}{cubic_angstrom / 1000:,.0f} nm³ inside (about {mass:,.0f} kDa of protein)"
        self.text.setText(self._told or inside)
        if self.isVisible():
            self.viewer.show_surface("mask", mesh, theme.colour("info"), 0.35)

    def _combine_chosen(self) -> None:
        kind = self.combine.currentData()
        if not kind:
            self._other = None
            self._later()
            return
        chosen, _ = QFileDialog.getOpenFileName(self, "Another mask", str(self.session.root), "Masks (*.mrc)")
        if not chosen:
            self.combine.setCurrentIndex(0)
            return
        self.background.run(
            "other",
            lambda: (str(kind), Path(chosen), read_map(chosen).values),
            self._take_other,
            self.session.say_error,
        )

    def _take_other(self, found: tuple[str, Path, np.ndarray]) -> None:
        self._other = found
        self._later()

    def save_job(self) -> None:
        """Make the mask on the grid of the map and write it as a Mask job, in a worker."""
        volume, model, path, other = self.volume, self.session.model, self.path, self._other
        if volume is None or model is None:
            return
        recipe, places = self.recipe(), self._places()
        chosen = f", the part nearest to {len(recipe.gaussians)} Gaussians" if recipe.gaussians else ""
        words = f"{replace(recipe, gaussians=())}{chosen}"
        self._tell("Making the mask …")

        def work(project: Project) -> Job:
            mask = make_mask(volume, recipe, places)
            if other is not None:
                mask = np.asarray(COMBINE[other[0]](mask, other[2]), np.float32)
            return save_mask(project, mask, volume, path, recipe, note=words)

        model.do("Save the mask", work, self._saved, lambda _e: self._tell("Not saved"))

    def _tell(self, words: str) -> None:
        """Say how saving goes, until a control is moved: a preview that comes later does not take its place."""
        self._told = words
        self.text.setText(words)

    def _saved(self, job: Job) -> None:
        self._tell(f"Saved: {job.name}mask.mrc")
        self.session.noted.emit("success", f"{job.name} written", f"{job.name}mask.mrc can be chosen as a mask now.")
