"""Volumes and Gaussians in 3D with their controls in plain sight, slices where 3D cannot be.

napari is loaded when a volume is first shown. If it or OpenGL fails, the reason and the remedy are said in words and
slices take its place; nothing else of the window is touched.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QFileDialog

from gaussianem_gui.explorer.painting import Paint
from gaussianem_gui.explorer.volumes import (
    DEFAULT_CONTOUR,
    Look,
    Picture,
    distances,
    load_gaussians,
    load_volume,
    paint_by_map,
)
from gaussianem_gui.views.plots.canvas_starter import LONGEST_SLICES
from gaussianem_gui.views.plots.gaussian_view import GaussianView
from gaussianem_gui.views.plots.map_list import MAPS
from gaussianem_gui.views.plots.maps_drawn import MOST_IN_GRID
from gaussianem_gui.views.plots.recent import Recent
from gaussianem_gui.views.plots.series_movie import SeriesMovie
from gaussianem_gui.views.plots.surfaces import Prepared
from gaussianem_gui.views.toolkit.theme import theme

MOST_BYTES = 512 * 2**20  # of volumes kept in memory


class Viewer(GaussianView):
    """One volume of a series at a time, with a common contour level; other maps over it; Gaussians as points."""

    frameChanged = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._names: list[str] = []
        self._gaussians_path: Path | None = None
        self._cache: Recent[Path, Picture] = Recent(MOST_BYTES, lambda picture: picture.values.nbytes)
        self.paint: Paint | None = None
        self._levels: dict[object, float] = {}  # of what was looked at, until the user chooses another for it
        self._group: object = None  # what is looked at: pictures of one group have one level
        self.movie = SeriesMovie(self)
        self.starter.settled.connect(self._settled)
        self.mode.currentIndexChanged.connect(self._mode_changed)
        self.level.levelChanged.connect(self._level_changed)
        self.cuts.changed.connect(self._cut_changed)
        self.grid_button.toggled.connect(self._grid_toggled)
        self.surfaces.made.connect(self._take_ready)
        self.surfaces.failed.connect(self._failed)
        self.colour_by.activated.connect(lambda _i: self._colour_chosen())
        self.series.changed.connect(lambda _i: self._frame_changed())
        self.series.movieWanted.connect(self.save_movie)
        self.movie.written.connect(lambda path: self._say(f"Saved: {path}"))
        for part in (self.movie, self.maps):
            part.failed.connect(self._map_failed)
        self.maps.told.connect(self._say)
        self.maps.drawn.connect(self._maps_drawn)
        theme.changed.connect(self._restyle)

    # --- what to show ----------------------------------------------------------------------------------------------

    def show_volumes(self, paths: list[Path], names: list[str] | None = None, *, start: int = 0) -> None:
        """Show one volume, or a series with a slider and a play button, number ``start`` (from 0) first. ``names``:
        what the volumes are called, their files' names without ending if None."""
        self._leave_grid()
        self._paths, self._names = paths, names or [path.stem for path in paths]
        self._fresh, self._group = True, tuple(paths)
        self.series.set_count(len(paths), start)
        self.grid_button.setVisible(1 < len(paths) <= MOST_IN_GRID)
        self.bar.setEnabled(bool(paths))
        self._load_current()

    def offer_maps(self, maps: list[tuple[str, Path]]) -> None:
        """Set the maps (name, file) that can be laid over with a click."""
        self.map_list.offer(maps)

    def show_gaussians(self, path: Path | None, *, alone: bool = False) -> None:
        """Offer the Gaussians of a .ply file as points, None for none; ``alone`` shows them without a volume."""
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

    def contour(self) -> float:
        """Contour level in the map's units."""
        return self.level.level

    def sigmas(self) -> float:
        """Contour level in sigma above the mean; DEFAULT_CONTOUR without a map."""
        return self.picture.sigmas(self.contour()) if self.picture is not None else DEFAULT_CONTOUR

    def set_contour(self, level: float) -> None:
        """Contour what is looked at, and all of its series, at ``level`` in the map's units."""
        self._levels[self._group] = level
        self.level.set_level(level)
        self._place_cut()
        self._draw()

    def look(self) -> Look:
        """How surfaces are to be made now: level, cut and colouring."""
        return Look(self.contour(), self.cuts.plane, self.paint)

    def set_paint(self, paint: Paint | None) -> None:
        """Colour the surface by a quantity, None for one colour; seen when it is drawn next."""
        self.paint = paint
        self.colour_bar.set_paint(paint)

    # --- loading ---------------------------------------------------------------------------------------------------

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

    def _show_projection(self, picture: Picture) -> None:
        self.remark.hide()
        values = picture.values
        if self.cuts.plane is not None:
            values = np.where(distances(picture, self.cuts.plane) > 0, np.float32(values.min()), values)
        top = picture.mean + max(picture.top, 1e-3) * picture.sigma
        limits = (min(0.5 * (picture.mean + self.contour()), top - 1e-6 * abs(top) - 1e-9), top)
        self.canvas.show_projection(values, picture.voxel_angstrom, picture.offset_angstrom, limits)
        self._shown()

    def _maps_drawn(self) -> None:
        self.canvas.let_see(inside=self._something_inside())
        self.stack.setCurrentWidget(self.canvas)
        self.drawn.emit()

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
        """Choose entry ``place`` of the menu of colours, as the user would."""
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
        """Colour the surface by the values of an MRC map, such as one of local resolution, read in a worker."""
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
