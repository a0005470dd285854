"""Volumes and Gaussians in 3D with their controls in plain sight, slices where 3D cannot be.

napari is loaded when a volume is first shown. If it or OpenGL fails, the reason and the remedy are said in words and
slices take its place; nothing else of the window is touched.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from PySide6.QtCore import QPointF, Qt, Signal
from PySide6.QtGui import QImage, QKeyEvent, QKeySequence, QShortcut
from PySide6.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QStackedWidget, QToolTip, QWidget

from gaussianem_core.errors import InputError
from gaussianem_gui.explorer.painting import Paint
from gaussianem_gui.explorer.volumes import (
    DEFAULT_CONTOUR,
    GaussianPoints,
    Look,
    Picture,
    distances,
    load_gaussians,
    load_volume,
    paint_by_map,
)
from gaussianem_gui.views.plots.canvas3d import Canvas3D
from gaussianem_gui.views.plots.canvas_starter import LONGEST_SLICES, CanvasStarter
from gaussianem_gui.views.plots.colour_bar import ColourBar
from gaussianem_gui.views.plots.cut_control import CutControl
from gaussianem_gui.views.plots.lasso_3d import on_screen, point_under
from gaussianem_gui.views.plots.level_bar import LevelBar
from gaussianem_gui.views.plots.map_list import MAPS, MapList
from gaussianem_gui.views.plots.maps_drawn import MOST_IN_GRID, MapsDrawn
from gaussianem_gui.views.plots.recent import Recent
from gaussianem_gui.views.plots.series_bar import SeriesBar
from gaussianem_gui.views.plots.series_movie import SeriesMovie
from gaussianem_gui.views.plots.slices import Slices
from gaussianem_gui.views.plots.surface_maker import SurfaceMaker
from gaussianem_gui.views.plots.surfaces import Prepared, shade
from gaussianem_gui.views.toolkit.controls import Switch, together, wrapping
from gaussianem_gui.views.toolkit.full_window import FullWindow
from gaussianem_gui.views.toolkit.notices import Banner, EmptyState
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, clear, column, icon_button, label, plain, row

MOST_BYTES = 512 * 2**20  # of volumes kept in memory

UNKNOWN_HALF = 50.0  # A, for Gaussians without a map and without their configuration


class Viewer(QWidget):
    """One volume of a series at a time, with a common contour level; other maps over it; Gaussians as points."""

    frameChanged = Signal(int)
    drawn = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("viewer")
        self._background = Background(self)
        self._paths: list[Path] = []
        self._names: list[str] = []
        self._gaussians_path: Path | None = None
        self._gaussians: GaussianPoints | None = None
        self._cache: Recent[Path, Picture] = Recent(MOST_BYTES, lambda picture: picture.values.nbytes)
        self.surfaces = SurfaceMaker(self)
        self.picture: Picture | None = None
        self.paint: Paint | None = None
        self._fresh = True
        self._levels: dict[object, float] = {}  # of what was looked at, until the user chooses another for it
        self._group: object = None  # what is looked at: pictures of one group have one level
        self.canvas = Canvas3D()
        self.starter = CanvasStarter(self, self.canvas)
        self.starter.warned.connect(self._warn)
        self.starter.settled.connect(self._settled)
        self.map_list = MapList()
        self.maps = MapsDrawn(self, self.canvas, self.map_list)
        self._build_controls()
        self._build_pages()
        self.mode.currentIndexChanged.connect(self._mode_changed)
        self.level.levelChanged.connect(self._level_changed)
        self.cuts.changed.connect(self._cut_changed)
        self.surfaces.made.connect(self._take_ready)
        self.surfaces.failed.connect(self._failed)
        self.colour_by.activated.connect(lambda _i: self._colour_chosen())
        self.points.toggled.connect(self._draw_points)
        self.canvas.hovered.connect(self._hovered)
        self.series.changed.connect(lambda _i: self._frame_changed())
        self.maps.told.connect(self._say)
        self.maps.failed.connect(self._map_failed)
        self.maps.drawn.connect(self._maps_drawn)
        self.movie = SeriesMovie(self)
        self.movie.written.connect(lambda path: self._say(f"Saved: {path}"))
        self.movie.failed.connect(self._map_failed)
        self.series.movieWanted.connect(self.save_movie)
        theme.changed.connect(self._restyle)

    # --- building --------------------------------------------------------------------------------------------------

    def _build_controls(self) -> None:
        self.mode = QComboBox()
        self.mode.setAccessibleName("How to draw")
        for text, key in (("Surface", "surface"), ("Projection", "mip"), ("Slices", "slices")):
            self.mode.addItem(text, key)
        self.level = LevelBar()
        self.cuts = CutControl(self.canvas.towards)
        self.colour_by = QComboBox()
        self.colour_by.setAccessibleName("Colour of the surface")
        self.colour_by.addItem("One colour", "")
        self.colour_by.addItem("By a map …", "map")
        self.colour_by.setToolTip("Colour the surface by the values of another map, such as one of local resolution")
        self.points = Switch("Show Gaussians")
        self.points.setToolTip("Show the Gaussians as points")
        self._points_label = label("Gaussians", "muted")
        self.gaussians = together(self._points_label, self.points, spacing=8)
        self.colours = together(label("Colour", "muted"), self.colour_by, spacing=8)
        self.full = FullWindow(self)
        tip = "All volumes of the series side by side, under one camera"
        self.grid_button = icon_button("plots-4", tip, checkable=True, name="mapGrid")
        self.grid_button.toggled.connect(self._grid_toggled)
        self.grid_button.hide()
        self.maps_button = icon_button("compare", "Lay other maps over it, or show a difference", checkable=True)
        self.maps_button.setObjectName("mapsButton")
        self.maps_button.toggled.connect(self.map_list.setVisible)
        tip = "The whole window for this view (F11; Esc to go back)"
        self.full_button = icon_button("external", tip, self.full.toggle, name="fullWindow")
        for keys, run in (("F11", self.full.toggle), ("Esc", lambda: self.full.toggle() if self.full.on else None)):
            shortcut = QShortcut(QKeySequence(keys), self)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(run)
        self.buttons = together(
            self.grid_button,
            self.maps_button,
            icon_button("fit", "Show all of it (reset the view)", self.reset_view, name="resetView"),
            self.full_button,
            icon_button("camera", "Save a picture", self.save_picture, name="savePicture"),
        )
        self.bar = wrapping(
            self.mode,
            self.level,
            self.colours,
            self.gaussians,
            self.cuts,
            self.buttons,
            spacing=8,
            margins=(12, 6, 8, 6),
        )
        self.bar.setProperty("role", "header")
        self.bar.setEnabled(False)

    def _build_pages(self) -> None:
        self.remark = Elided("", "hint")
        self.remark.setContentsMargins(12, 2, 12, 2)
        self.remark.hide()
        self.colour_bar = ColourBar()
        self.series = SeriesBar(lambda: self._background.busy("volume") or self.surfaces.busy())
        self.stack = QStackedWidget()
        self.stack.setMinimumSize(160, 110)
        self.empty = EmptyState("cube", "No volume chosen", "Choose one at the left and it appears here.")
        self.loading = EmptyState("clock", "Loading the 3D view", "This takes a moment the first time.")
        for page in (self.empty, self.loading, self.canvas):
            self.stack.addWidget(page)
        self._notice = column(spacing=0)
        self._middle: QHBoxLayout = row(spacing=0)
        self._middle.addWidget(self.stack, 1)
        self._middle.addWidget(self.map_list)
        layout = column(spacing=0)
        layout.addWidget(self.bar)
        layout.addLayout(self._notice)
        layout.addLayout(self._middle, 1)
        for part in (self.colour_bar, self.remark, self.series):
            layout.addWidget(part)
        self.setLayout(layout)

    # --- what to show ----------------------------------------------------------------------------------------------

    @cached_property
    def slices(self) -> Slices:
        """The page of slices, made when it is first looked at."""
        page = Slices()
        self.stack.addWidget(page)
        return page

    def show_volumes(self, paths: list[Path], names: list[str] | None = None, *, start: int = 0) -> None:
        """Show one volume, or a series with a slider and a play button."""
        self._leave_grid()
        self._paths, self._names = paths, names or [path.stem for path in paths]
        self._fresh, self._group = True, tuple(paths)
        self.series.set_count(len(paths), start)
        self.grid_button.setVisible(1 < len(paths) <= MOST_IN_GRID)
        self.bar.setEnabled(bool(paths))
        self._load_current()

    def offer_maps(self, maps: list[tuple[str, Path]]) -> None:
        """Maps (name, file) that can be laid over with a click."""
        self.map_list.offer(maps)

    def show_gaussians(self, path: Path | None, *, alone: bool = False) -> None:
        """Offer Gaussians as points; ``alone`` shows them without a volume."""
        self._gaussians_path, self._gaussians = path, None
        if alone:
            self._leave_grid()
            self.series.set_count(0)
            self._paths, self.picture, self._fresh = [], None, True
            self.bar.setEnabled(True)
        for part in (self.points, self._points_label):
            part.setVisible(path is not None)
        if path is None:
            self._draw_points()
            return
        if alone:
            self.canvas.hide_layers("surface", "projection")
            self.points.setChecked(True)
        self._background.run("gaussians", lambda: load_gaussians(path), self._take_gaussians, self._failed)

    def clear(self) -> None:
        """Show nothing."""
        self._leave_grid()
        self.series.set_count(0)
        self._paths, self.picture, self._gaussians, self._gaussians_path = [], None, None, None
        self.maps.clear()
        self.set_paint(None)
        self.colour_by.setCurrentIndex(0)
        self.canvas.hide_layers()
        self.bar.setEnabled(False)
        self.stack.setCurrentWidget(self.empty)

    def set_frame(self, index: int) -> None:
        """Show volume ``index`` of the series."""
        self.series.frame.setValue(index)

    def is_3d(self) -> bool:
        """True if the napari canvas is what is shown."""
        return self.stack.currentWidget() is self.canvas

    def contour(self) -> float:
        """Contour level in the map's units."""
        return self.level.level

    def sigmas(self) -> float:
        """Contour level in sigma above the mean."""
        return self.picture.sigmas(self.contour()) if self.picture is not None else DEFAULT_CONTOUR

    def set_contour(self, level: float) -> None:
        """Contour what is looked at there."""
        self._levels[self._group] = level
        self.level.set_level(level)
        self._place_cut()
        self._draw()

    def look(self) -> Look:
        """How surfaces are made now."""
        return Look(self.contour(), self.cuts.plane, self.paint)

    def layers(self) -> list[str]:
        """Names of the visible layers in 3D."""
        return self.canvas.names()

    def set_paint(self, paint: Paint | None) -> None:
        """Colour the surface by a quantity, None by none."""
        self.paint = paint
        self.colour_bar.set_paint(paint)

    # --- loading ---------------------------------------------------------------------------------------------------

    def longest(self) -> int:
        """Voxels a side that a picture can have here."""
        return self.starter.longest()

    def _start_3d(self) -> bool:
        """True if the canvas is there or never will be; else it is being made, and what waits is shown then."""
        if self.starter.start():
            return True
        self.stack.setCurrentWidget(self.loading)
        return False

    def _settled(self) -> None:
        """The canvas is there, or never will be: show what waits for it."""
        self._load_current()
        if not self._paths and self._gaussians is not None:
            self._draw_points()

    def _load_current(self) -> None:
        if not self._paths or not self._start_3d():
            return
        path, longest = self._paths[self.series.frame.value()], self.longest()
        if (known := self._cache.get(path)) is not None:
            self._take_picture(known)
        else:
            self._background.run("volume", lambda: load_volume(path, longest), self._take_picture, self._failed)

    def _warn(self, text: str, more: str = "") -> None:
        clear(self._notice)
        holder = QWidget()
        banner = Banner("warning", text, "Hide", lambda: clear(self._notice))
        banner.setToolTip(plain(more))
        holder.setLayout(column(banner, margins=(12, 8, 12, 4)))
        self._notice.addWidget(holder)

    def _take_picture(self, picture: Picture) -> None:
        self._cache.keep(picture.path, picture)
        self.picture = picture
        self.level.set_picture(picture, self._levels.setdefault(self._group, picture.default_level))
        if self._fresh:
            self._place_cut()
        index = self.series.frame.value()
        self.series.text.setText(f"{self._names[index]}   {index + 1} of {len(self._paths)}")
        self._draw()
        self.frameChanged.emit(index)

    def _take_gaussians(self, found: GaussianPoints) -> None:
        self._gaussians = found
        if self._paths or self._start_3d():
            self._draw_points()

    def _failed(self, error: Exception) -> None:
        text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        self.empty.set_text("This could not be shown", text)
        self.stack.setCurrentWidget(self.empty)

    def _map_failed(self, error: Exception) -> None:
        """A map that was to be laid over, or to colour by, could not be read: what is shown stays."""
        self.remark.setText(str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}")
        self.remark.show()

    # --- drawing ---------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        picture = self.picture
        if picture is None or self.grid_button.isChecked():
            return
        if self.canvas.model is None or self.mode.currentData() == "slices":
            self.slices.set_picture(picture)
            self.stack.setCurrentWidget(self.slices)
            self.drawn.emit()
            return
        if self.mode.currentData() == "mip":
            self._show_projection(picture)
            return
        self.maps.follow(picture, self.contour(), self.longest(), frozenset(self._paths))
        self.surfaces.ask(picture, self.look())

    def _take_ready(self, ready: Prepared, look: Look, newer: bool) -> None:
        # while one drags, each that is there is shown, though a newer one waits for its surface
        if self.mode.currentData() == "surface" and (look == self.look() or newer):
            self._show_ready(ready)

    def _show_ready(self, ready: Prepared) -> None:
        if self.picture is None or self.canvas.model is None or self.grid_button.isChecked():
            return
        self._say_nothing(empty=ready.data is None)
        self.canvas.show_surface(ready, self.paint)
        self._shown()

    def _say_nothing(self, *, empty: bool) -> None:
        """Say why there is nothing to see."""
        picture = self.picture
        if empty and picture is not None:
            high, sigmas = picture.greatest, picture.top
            self.remark.setText(f"Nothing is above this level: the greatest value is {high:.4g} ({sigmas:.1f} σ)")
        if empty or not self.maps.differing():
            self.remark.setVisible(empty)

    def _say(self, text: str) -> None:
        self.remark.setText(text)
        self.remark.setVisible(bool(text))

    def _show_projection(self, picture: Picture) -> None:
        self.remark.hide()
        values = picture.values
        if self.cuts.plane is not None:
            values = np.where(distances(picture, self.cuts.plane) > 0, np.float32(values.min()), values)
        top = picture.mean + max(picture.top, 1e-3) * picture.sigma
        limits = (min(0.5 * (picture.mean + self.contour()), top - 1e-6 * abs(top) - 1e-9), top)
        self.canvas.show_projection(values, picture.voxel_angstrom, picture.offset_angstrom, limits)
        self._shown()

    def _draw_points(self) -> None:
        if self.canvas.model is None:
            starter = self.starter
            if not self._paths and self._gaussians is not None and starter.no_3d():
                remedy = starter.opengl.remedy if starter.opengl is not None else ""
                self.empty.set_text("Gaussians need 3D", remedy or starter.failure)
                self.stack.setCurrentWidget(self.empty)
            return
        if self._gaussians is None or not self.points.isChecked():
            self.canvas.hide_layers("gaussians")
            self.canvas.let_see(inside=self._something_inside())
            return
        known, half = self._gaussians, self.half_angstrom()
        widths = known.widths(half)  # all one where they are not known
        self.canvas.show_points(known.positions * half, half / 40 if widths is None else widths, shade(known.densities))
        self._shown()

    def half_angstrom(self) -> float:
        """Length of the Gaussians' unit: half the box of the map that is shown, or of the one they were made for."""
        if self.picture is not None:
            return self.picture.half_angstrom
        known = self._gaussians.half_angstrom if self._gaussians is not None else None
        return known if known is not None else UNKNOWN_HALF

    def _hovered(self, place: QPointF) -> None:
        text = self.describe(place.x(), place.y())
        native = self.canvas.view.canvas.native
        QToolTip.showText(native.mapToGlobal(place.toPoint()), plain(text), native)

    def gaussian_at(self, x: float, y: float) -> int | None:
        """The Gaussian at a place of the canvas (pixels), if there is one."""
        layer, known = self.canvas.layer("gaussians"), self._gaussians
        if layer is None or not layer.visible or known is None:
            return None
        number = point_under(on_screen(self.canvas.view, layer), x, y)
        return number if number is not None and number < len(known.positions) else None

    def describe(self, x: float, y: float) -> str:
        """What the Gaussian at a place of the canvas (pixels) is; nothing where there is none."""
        number, known, half = self.gaussian_at(x, y), self._gaussians, self.half_angstrom()
        if number is None or known is None:
            return ""
        place = " ".join(f"{part * half:.0f}" for part in known.positions[number, ::-1])
        widths = known.widths(half)
        wide = "" if widths is None else f", {widths[number]:.1f} Å wide"
        return f"Gaussian {number + 1} of {len(known.positions)}\nat x y z {place} Å from the centre{wide}"

    def _shown(self) -> None:
        self.canvas.let_see(inside=self._something_inside())
        self.stack.setCurrentWidget(self.canvas)
        if self._fresh:
            self._fresh = False
            self.reset_view()
        self.drawn.emit()

    def _something_inside(self) -> bool:
        """True if something is drawn that lies inside the surface."""
        return self.maps.differing() or "gaussians" in self.canvas.names()

    def _maps_drawn(self) -> None:
        self.canvas.let_see(inside=self._something_inside())
        self.stack.setCurrentWidget(self.canvas)
        self.drawn.emit()

    def reset_view(self) -> None:
        """Centre and fit what is shown."""
        self.canvas.reset_view()

    def picture_of_view(self) -> QImage:
        """What is on the screen, with what its colours mean."""
        return (
            self.colour_bar.below(self.canvas.image()) if self.is_3d() else self.stack.currentWidget().grab().toImage()
        )

    def save_picture(self) -> None:
        """Ask for a file name and save what is shown."""
        path, _ = QFileDialog.getSaveFileName(self, "Save a picture", "view.png", "PNG (*.png)")
        if path:
            self.picture_of_view().save(path)

    def save_movie(self) -> None:
        """Ask for a file name and write the series as a movie."""
        path, _ = QFileDialog.getSaveFileName(self, "Save a movie", "series.mp4", "Movie (*.mp4 *.gif)")
        if path:
            self.movie.record(Path(path))

    def _restyle(self) -> None:
        self.canvas.restyle()
        if self.picture is not None:
            self._draw()

    def choose_colour(self, place: int) -> None:
        """Choose an entry of the menu of colours, as the user would."""
        self.colour_by.setCurrentIndex(place)
        self.colour_by.activated.emit(place)

    # --- controls --------------------------------------------------------------------------------------------------

    def _level_changed(self, level: float) -> None:
        self._levels[self._group] = level
        self._place_cut()
        if self.grid_button.isChecked():
            self._grid_toggled(on=True)
        elif self.picture is not None and self.mode.currentData() != "slices":
            self._draw()

    def _place_cut(self) -> None:
        self.cuts.place(self.picture, self.contour())

    def _cut_changed(self) -> None:
        self._place_cut()
        if self.picture is not None and self.mode.currentData() != "slices":
            self._draw()

    def _colour_chosen(self) -> None:
        """One colour, or by the values of a map that is asked for."""
        if self.colour_by.currentData() == "map":
            chosen, _ = QFileDialog.getOpenFileName(self, "A map to colour by", "", MAPS)
            if chosen:
                self.colour_by_map(Path(chosen))
                return
            self.colour_by.setCurrentIndex(0)
        self.set_paint(None)
        self._draw()

    def colour_by_map(self, path: Path) -> None:
        """Colour the surface by the values of a map, such as one of local resolution."""
        picture, level = self.picture, self.contour()
        if picture is None:
            return

        def take(paint: Paint) -> None:
            self.colour_by.setCurrentIndex(self.colour_by.findData("map"))
            self.set_paint(paint)
            self._draw()

        def failed(error: Exception) -> None:
            self.colour_by.setCurrentIndex(0)
            self._map_failed(error)

        longest = LONGEST_SLICES
        self._background.run("paint", lambda: paint_by_map(load_volume(path, longest), picture, level), take, failed)

    def _grid_toggled(self, on: bool) -> None:
        """The series side by side, or one of it."""
        if self.canvas.model is None:
            return
        if on:
            self.series.hide()
            self.maps.show_grid(self._paths, self._names, self.contour(), self.longest())
        else:
            self.maps.leave_grid()
            self.series.setVisible(self.series.count > 1)
            self._fresh = True
            self._draw()
            self._draw_points()

    def _leave_grid(self) -> None:
        if self.grid_button.isChecked():
            self.grid_button.blockSignals(True)
            self.grid_button.setChecked(False)
            self.grid_button.blockSignals(False)
            self.maps.leave_grid()

    def _mode_changed(self) -> None:
        slices = self.mode.currentData() == "slices"
        for part in (self.level, self.cuts, self.colours):
            part.setVisible(not slices)
        self.remark.hide()
        self._draw()

    def _frame_changed(self) -> None:
        self._load_current()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Space and self.series.count > 1:
            self.series.toggle()
        else:
            super().keyPressEvent(event)

    def shut_down(self) -> None:
        """Let go of the canvas before the window goes: some drivers crash otherwise."""
        self.series.stop()
        self._background.cancel_all()
        self.surfaces.forget()
        self.canvas.shut_down()
