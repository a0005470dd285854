"""Draws the maps laid over a volume, the difference to one of them, and a series as a grid under one camera."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, Signal

from gaussianem_gui.explorer.volumes import Picture, difference, load_volume, surface
from gaussianem_gui.views.plots.canvas3d import MAIN, Canvas3D
from gaussianem_gui.views.plots.map_list import LaidOver, MapList
from gaussianem_gui.views.plots.surfaces import Mesh
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import theme

MOST_IN_GRID = 16
GRID_MILLISECONDS = (120, 600)
DIFFERENCE_SIGMAS = 1.5  # of the map that is shown; smaller differences are no surface
DIFFERENCE_SHARE = 0.25  # of the greatest difference
DIFFERENCES = ("gain", "loss")
DIFFERENCE_OPACITY = 0.75


def difference_meshes(before: Picture, now: Picture) -> tuple[list[Mesh], float]:
    """Where ``now`` is more, and where it is less, than ``before``; and the level in sigma of ``now``: the greater of
    DIFFERENCE_SIGMAS and DIFFERENCE_SHARE of the greatest difference.

    Raises InputError where the two are not of one box.
    """
    change = difference(before, now)
    sigmas = max(DIFFERENCE_SIGMAS, DIFFERENCE_SHARE * change.top)
    return [surface(part, sigmas * change.sigma) for part in (change, replace(change, values=-change.values))], sigmas


class MapsDrawn(QObject):
    """Draws what the list ``maps`` holds. ``told`` says what the colours of a difference mean; ``failed`` comes with
    the error of a map not shown, ``drawn`` whenever the canvas shows something new."""

    told = Signal(str)
    failed = Signal(object)
    drawn = Signal()

    def __init__(self, parent: QObject, canvas: Canvas3D, maps: MapList) -> None:
        super().__init__(parent)
        self._canvas, self._maps = canvas, maps
        self._background = Background(self)
        self._pictures: dict[Path, Picture] = {}
        self._names: dict[int, str] = {}  # layer of each map, by its id
        self._grid: list[str] = []  # layers of the grid
        self._meshes: dict[str, Mesh] = {}  # of the grid, until all are there
        self._shown: Picture | None = None
        self._level, self._longest = 0.0, 0
        self._family: frozenset[Path] = frozenset()
        maps.added.connect(self._draw)
        maps.changed.connect(self._draw)
        maps.removed.connect(self._remove)

    def in_grid(self) -> bool:
        """True while a series is shown as a grid."""
        return bool(self._grid)

    def differing(self) -> bool:
        """True while a difference is shown."""
        return any(laid.difference for laid in self._maps.maps)

    def follow(self, shown: Picture, level: float, longest: int, family: frozenset[Path]) -> None:
        """Draw the maps beside ``shown``, contoured at ``level``: those of the ``family`` at the same level in the
        map's units, others at the same in sigma. ``longest``: voxels a side."""
        if (shown, level, longest) == (self._shown, self._level, self._longest):
            return
        self._shown, self._level, self._longest, self._family = shown, level, longest, family
        for laid in self._maps.maps:
            self._draw(laid)

    def clear(self) -> None:
        """Forget all maps, and leave the grid."""
        self._background.cancel_all()
        self._maps.clear()
        self._pictures.clear()
        self.leave_grid()

    def _name_of(self, laid: LaidOver) -> str:
        if id(laid) not in self._names:
            used, name, number = {*self._names.values(), *MAIN}, laid.name, 2
            while name in used:
                name, number = f"{laid.name} {number}", number + 1
            self._names[id(laid)] = name
        return self._names[id(laid)]

    def _remove(self, laid: LaidOver) -> None:
        name = self._name_of(laid)
        self._background.cancel(name)
        del self._names[id(laid)]
        self._let_go()
        if self._canvas.model is not None:
            self._canvas.show_extra(name, None)
        if laid.difference:
            self._hide_difference()

    def _hide_difference(self) -> None:
        for name in DIFFERENCES:
            self._canvas.show_extra(name, None)
        self.told.emit("")
        self.drawn.emit()

    def _picture(self, path: Path, longest: int) -> Picture:
        """For a worker."""
        if path not in self._pictures:
            self._pictures[path] = load_volume(path, longest)
        return self._pictures[path]

    def _let_go(self) -> None:
        """Drop what was read for maps that are no longer there."""
        used = {laid.path for laid in self._maps.maps}
        self._pictures = {path: picture for path, picture in self._pictures.items() if path in used}

    def _draw(self, laid: LaidOver) -> None:
        shown, level, longest = self._shown, self._level, self._longest
        if shown is None or self._canvas.model is None or self._grid:
            return
        name, same = self._name_of(laid), laid.path in self._family
        sigmas = shown.sigmas(level)

        def work() -> tuple[Mesh | None, list[Mesh], float]:
            picture = self._picture(laid.path, longest)
            seen = laid.visible and not laid.difference  # it would hide the difference
            mesh = surface(picture, level if same else picture.level(sigmas)) if seen else None
            return (mesh, *difference_meshes(picture, shown)) if laid.difference else (mesh, [], 0.0)

        self._background.run(name, work, lambda found: self._take(laid, *found), self.failed.emit)

    def _take(self, laid: LaidOver, mesh: Mesh | None, meshes: list[Mesh], sigmas: float) -> None:
        if laid not in self._maps.maps or self._grid:
            return
        self._canvas.show_extra(self._name_of(laid), mesh, laid.colour, laid.opacity)
        if laid.difference:
            for name, colour, part in zip(DIFFERENCES, ("info", "danger"), meshes):
                self._canvas.show_extra(name, part, theme.colour(colour), DIFFERENCE_OPACITY)
            self.told.emit(f"Blue: more than in {laid.name}; red: less (from {sigmas:.1f} σ)")
        elif not self.differing():
            self._hide_difference()
        self.drawn.emit()

    # --- grid ------------------------------------------------------------------------------------------------------

    def show_grid(self, paths: list[Path], names: list[str], level: float, longest: int) -> None:
        """Show a series, each volume in a view of its own, all contoured at ``level`` (map's units), ``longest`` voxels
        a side."""
        self._canvas.hide_layers()
        self._grid = [f"{name} " for name in names]  # a space keeps them apart from the maps laid over
        self._meshes = {}
        for layer, path in zip(self._grid, paths):
            self._background.run(
                layer,
                lambda path=path: surface(self._picture(path, longest), level),
                lambda mesh, layer=layer: self._take_in_grid(layer, mesh),
                self.failed.emit,
            )

    def _take_in_grid(self, layer: str, mesh: Mesh) -> None:
        self._meshes[layer] = mesh
        if set(self._meshes) != set(self._grid):
            return
        for number, name in enumerate(self._grid):  # in their order: so they stand in the grid
            self._canvas.show_extra(name, self._meshes[name], theme.series(number % 10))
        fresh = not self._canvas.in_grid()
        self._canvas.set_grid(True)
        if fresh:
            self._canvas.reset_view()
            # napari makes the views of the grid when it draws next, and takes the camera from them at each draw: until
            # all have their size, one of them may set it to what fits nothing.
            for milliseconds in GRID_MILLISECONDS:
                QTimer.singleShot(milliseconds, self, self._fit_grid)
        self.drawn.emit()

    def _fit_grid(self) -> None:
        if self._canvas.in_grid():
            self._canvas.reset_view()

    def leave_grid(self) -> None:
        """Take the series of the grid away and go back to one view."""
        for layer in self._grid:
            self._background.cancel(layer)
        if self._canvas.model is not None and self._grid:
            self._canvas.hide_layers()
            self._canvas.set_grid(False)
        self._grid, self._meshes = [], {}
        self._shown = None
        self._let_go()
