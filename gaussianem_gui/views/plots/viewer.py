"""Volumes and Gaussians in 3D: an embedded napari canvas with its controls in plain sight, slices where 3D cannot be.

napari is loaded when a volume is first shown. If it or OpenGL fails, the reason and the remedy are said in words and
slices take its place; nothing else of the window is touched.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QImage, QKeyEvent
from PySide6.QtWidgets import QComboBox, QFileDialog, QFrame, QSlider, QStackedWidget, QWidget

from gaussianem_core.errors import InputError
from gaussianem_gui.explorer.volumes import (
    DEFAULT_CONTOUR,
    Cut,
    Look,
    Picture,
    cut_at,
    distances,
    load_gaussians,
    load_volume,
    surface,
)
from gaussianem_gui.project.settings import program_file
from gaussianem_gui.views.plots.level_bar import LevelBar
from gaussianem_gui.views.plots.opengl_probe import OpenGL, probe
from gaussianem_gui.views.plots.slices import Slices
from gaussianem_gui.views.toolkit.controls import Switch, together, wrapping
from gaussianem_gui.views.toolkit.notices import Banner, EmptyState
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, clear, column, icon_button, keep_icon, label, plain, row

LONGEST = {"hardware": 256, "software": 80}  # voxels a side in 3D
LONGEST_SLICES = 400
PLAY_MILLISECONDS = 120
CUTS = {"front": "from the front", "z": "along z", "y": "along y", "x": "along x"}
AXES = {"z": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "x": (0.0, 0.0, 1.0)}
SHADED = (2, 98)  # percentiles that get the darkest and the brightest colour of points
_FOUND: list[OpenGL] = []  # the answer of the probe, once per program run


class Viewer(QWidget):
    """One volume of a series at a time, with a common contour level, and Gaussians as points."""

    frameChanged = Signal(int)
    drawn = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("viewer")
        self._background = Background(self)
        self.opengl: OpenGL | None = _FOUND[0] if _FOUND else None
        self.failure = ""
        self._paths: list[Path] = []
        self._names: list[str] = []
        self._gaussians_path: Path | None = None
        self._gaussians: tuple[np.ndarray, np.ndarray] | None = None
        self._cache: dict[Path, Picture] = {}
        self._meshes: dict[tuple[Path, Look], tuple[np.ndarray, np.ndarray]] = {}
        self.picture: Picture | None = None
        self._viewer: Any = None
        self._canvas: Any = None
        self._fresh = True
        self._said = False

        self.mode = QComboBox()
        self.mode.setAccessibleName("How to draw")
        self.mode.addItem("Surface", "surface")
        self.mode.addItem("Projection", "mip")
        self.mode.addItem("Slices", "slices")
        self.level = LevelBar()
        self._levels: dict[object, float] = {}  # of what was looked at, until the user chooses another for it
        self._group: object = None  # what is looked at: pictures of one group have one level
        self.cut_from = QComboBox()
        self.cut_from.setAccessibleName("Where the cut comes from")
        for key, text in CUTS.items():
            self.cut_from.addItem(text, key)
        self.cut = QSlider(Qt.Orientation.Horizontal)
        self.cut.setRange(0, 100)
        self.cut.setFixedWidth(80)
        self.cut.setAccessibleName("Depth of the cut")
        self.cut.setToolTip("Cut the molecule open")
        self._normal = (0.0, 0.0, 1.0)
        self._plane: Cut | None = None  # it stands still in the molecule, whichever picture of a group is shown
        self.remark = Elided("", "hint")
        self.remark.setContentsMargins(12, 2, 12, 2)
        self.remark.hide()
        self.points = Switch("Show Gaussians")
        self.points.setToolTip("Show the Gaussians as points")
        self._points_label = label("Gaussians", "muted")
        self.gaussians = together(self._points_label, self.points, spacing=8)
        self.cuts = together(label("Cut", "muted"), self.cut_from, self.cut, spacing=8)
        self.buttons = together(
            icon_button("fit", "Show all of it (reset the view)", self.reset_view, name="resetView"),
            icon_button("camera", "Save a picture", self.save_picture, name="savePicture"),
        )
        self.bar = wrapping(
            self.mode,
            self.level,
            self.gaussians,
            self.cuts,
            self.buttons,
            spacing=8,
            margins=(12, 6, 8, 6),
        )
        self.bar.setProperty("role", "header")

        self.play = icon_button("play", "Play the series (Space)", self._toggle_play, name="playSeries")
        self.frame = QSlider(Qt.Orientation.Horizontal)
        self.frame.setAccessibleName("Volume of the series")
        self.frame_text = label("", "muted")
        self.frame_text.setMinimumWidth(150)
        self.series_bar = QFrame()
        self.series_bar.setProperty("role", "footer")
        self.series_bar.setLayout(row(self.play, self.frame, self.frame_text, spacing=10, margins=(8, 6, 14, 6)))
        self.series_bar.hide()

        self.stack = QStackedWidget()
        self.stack.setMinimumSize(160, 110)
        self.empty = EmptyState("cube", "No volume chosen", "Choose one at the left and it appears here.")
        self.loading = EmptyState("clock", "Loading the 3D view", "This takes a moment the first time.")
        self.slices = Slices()
        self.canvas_page = QWidget()
        self.canvas_page.setLayout(column(spacing=0))
        for page in (self.empty, self.loading, self.slices, self.canvas_page):
            self.stack.addWidget(page)
        self._notice = column(spacing=0)
        layout = column(spacing=0)
        layout.addWidget(self.bar)
        layout.addLayout(self._notice)
        layout.addWidget(self.stack, 1)
        layout.addWidget(self.remark)
        layout.addWidget(self.series_bar)
        self.setLayout(layout)
        self.bar.setEnabled(False)

        self._timer = QTimer(self)
        self._timer.setInterval(PLAY_MILLISECONDS)
        self._timer.timeout.connect(self._next)
        self.mode.currentIndexChanged.connect(self._mode_changed)
        self.level.levelChanged.connect(self._level_changed)
        self.cut.valueChanged.connect(self._cut_changed)
        self.cut_from.currentIndexChanged.connect(self._cut_changed)
        self.points.toggled.connect(self._draw_points)
        self.frame.valueChanged.connect(self._frame_changed)
        theme.changed.connect(self._restyle)

    # --- what to show ----------------------------------------------------------------------------------------------

    def show_volumes(self, paths: list[Path], names: list[str] | None = None, *, start: int = 0) -> None:
        """Show one volume, or a series with a slider and a play button."""
        self._stop()
        self._paths, self._names = paths, names or [path.stem for path in paths]
        self._fresh, self._group = True, tuple(paths)
        self.frame.blockSignals(True)
        self.frame.setRange(0, max(len(paths) - 1, 0))
        self.frame.setValue(start)
        self.frame.blockSignals(False)
        self.series_bar.setVisible(len(paths) > 1)
        self.bar.setEnabled(bool(paths))
        self._load_current()

    def show_gaussians(self, path: Path | None, *, alone: bool = False) -> None:
        """Offer Gaussians as points; ``alone`` shows them without a volume."""
        self._gaussians_path, self._gaussians = path, None
        if alone:
            self._stop()
            self._paths, self.picture, self._fresh = [], None, True
            self.series_bar.hide()
            self.bar.setEnabled(True)
        for part in (self.points, self._points_label):
            part.setVisible(path is not None)
        if path is None:
            self._draw_points()
            return
        if alone:
            for name in ("surface", "projection"):
                if self._viewer is not None and (layer := self._layer(name)) is not None:
                    layer.visible = False
            self.points.setChecked(True)
        self._background.run("gaussians", lambda: load_gaussians(path), self._take_gaussians, self._failed)

    def clear(self) -> None:
        """Show nothing."""
        self._stop()
        self._paths, self.picture, self._gaussians, self._gaussians_path = [], None, None, None
        if self._viewer is not None:
            for layer in self._viewer.layers:
                layer.visible = False
        self.bar.setEnabled(False)
        self.series_bar.hide()
        self.stack.setCurrentWidget(self.empty)

    def set_frame(self, index: int) -> None:
        """Show volume ``index`` of the series."""
        self.frame.setValue(index)

    def is_3d(self) -> bool:
        """True if the napari canvas is what is shown."""
        return self.stack.currentWidget() is self.canvas_page

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
        return Look(self.contour(), self._plane)

    def layers(self) -> list[str]:
        """Names of the visible layers in 3D."""
        return [] if self._viewer is None else [layer.name for layer in self._viewer.layers if layer.visible]

    # --- loading ---------------------------------------------------------------------------------------------------

    def _longest(self) -> int:
        if self.opengl is None or not self.opengl.available or self.failure:
            return LONGEST_SLICES
        return LONGEST["software" if self.opengl.software else "hardware"]

    def _load_current(self) -> None:
        if not self._paths:
            return
        if self.opengl is None:
            self.stack.setCurrentWidget(self.loading)
            if not self._background.busy("probe"):
                self._background.run("probe", probe, self._take_opengl)
            return
        self._say(self.opengl)
        if self._viewer is None and self.opengl.available and not self.failure:
            self._load_napari()
            return
        path = self._paths[self.frame.value()]
        longest = self._longest()
        if path in self._cache:
            self._take_picture(self._cache[path])
        else:
            self._background.run("volume", lambda: load_volume(path, longest), self._take_picture, self._failed)

    def _take_opengl(self, found: OpenGL) -> None:
        _FOUND[:] = [found]
        self.opengl = found
        self._load_current()
        if self._gaussians is not None and not self._paths:
            self._take_gaussians(self._gaussians)

    def _load_napari(self) -> None:
        self.stack.setCurrentWidget(self.loading)
        if not self._background.busy("napari"):
            self._background.run("napari", _import_napari, lambda _r: self._make_canvas(), self._napari_failed)

    def _say(self, found: OpenGL) -> None:
        """Tell once what the driver cannot do."""
        if self._said:
            return
        self._said = True
        if not found.available:
            self._warn(f"No 3D: {found.reason}. {found.remedy}")
        elif found.software:
            name = found.renderer.split("(")[0].strip()
            self._warn(f"3D is drawn by the processor ({name}): volumes are shown coarser.", found.remedy)

    def _warn(self, text: str, more: str = "") -> None:
        clear(self._notice)
        holder = QWidget()
        banner = Banner("warning", text, "Hide", lambda: clear(self._notice))
        banner.setToolTip(plain(more))
        holder.setLayout(column(banner, margins=(12, 8, 12, 4)))
        self._notice.addWidget(holder)

    def _make_canvas(self) -> None:
        try:
            from napari.components import ViewerModel
            from napari.qt import QtViewer

            self._viewer = ViewerModel(ndisplay=3)
            self._canvas = QtViewer(self._viewer)
            self._canvas.dims.hide()
            self.canvas_page.layout().addWidget(self._canvas)
            self._canvas.setAccessibleName("3D view")
            self._restyle()
        except Exception as error:  # napari may fail in ways of its own; the rest of the window must live on
            self._napari_failed(error)
            return
        self._load_current()
        if not self._paths and self._gaussians is not None:
            self._draw_points()

    def _napari_failed(self, error: Exception) -> None:
        self.failure = f"{type(error).__name__}: {error}"
        self._viewer = self._canvas = None
        text = (
            f"The 3D view could not start ({self.failure}). Slices take its place. "
            "Reinstall it with: pip install 'napari==0.9.*' PySide6"
        )
        self._warn(text)
        self._load_current()

    def _take_picture(self, picture: Picture) -> None:
        if len(self._cache) > 60:
            self._cache.clear()
            self._meshes.clear()
        self._cache[picture.path] = picture
        self.picture = picture
        self.level.set_picture(picture, self._levels.setdefault(self._group, picture.default_level))
        if self._fresh:
            self._place_cut()
        index = self.frame.value()
        self.frame_text.setText(f"{self._names[index]}   {index + 1} of {len(self._paths)}")
        self._draw()
        self.frameChanged.emit(index)

    def _take_gaussians(self, found: tuple[np.ndarray, np.ndarray]) -> None:
        self._gaussians = found
        if not self._paths:
            if self.opengl is None:
                self.stack.setCurrentWidget(self.loading)
                if not self._background.busy("probe"):
                    self._background.run("probe", probe, self._take_opengl)
                return
            if self._viewer is None and self.opengl.available and not self.failure:
                self._load_napari()
                return
        self._draw_points()

    def _failed(self, error: Exception) -> None:
        text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        self.empty.set_text("This could not be shown", text)
        self.stack.setCurrentWidget(self.empty)

    # --- drawing ---------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        if self.picture is None:
            return
        if self._viewer is None or self.mode.currentData() == "slices":
            self.slices.set_picture(self.picture)
            self.stack.setCurrentWidget(self.slices)
            self.drawn.emit()
            return
        if self.mode.currentData() == "mip":
            self._show_image(self.picture)
            return
        picture, look = self.picture, self.look()
        mesh = self._meshes.get((picture.path, look))
        if mesh is not None:
            self._show_mesh(mesh)
        else:
            self._background.run(
                "mesh",
                lambda: surface(picture, look.level, look.cut),
                lambda m: self._take_mesh(picture, look, m),
                self._failed,
            )

    def _take_mesh(self, picture: Picture, look: Look, mesh: tuple[np.ndarray, np.ndarray]) -> None:
        if len(self._meshes) > 200:
            self._meshes.clear()
        self._meshes[picture.path, look] = mesh
        if picture is self.picture and self.mode.currentData() == "surface":
            self._show_mesh(mesh)

    def _layer(self, name: str) -> Any:
        return next((layer for layer in self._viewer.layers if layer.name == name), None)

    def _show_mesh(self, mesh: tuple[np.ndarray, np.ndarray]) -> None:
        vertices, faces = mesh
        if (image := self._layer("projection")) is not None:
            image.visible = False
        layer = self._layer("surface")
        self._say_nothing(empty=not len(faces))
        if not len(faces):
            if layer is not None:
                layer.visible = False
        else:
            values = np.zeros(len(vertices), np.float32)
            if layer is None:
                layer = self._viewer.add_surface(
                    (vertices, faces, values),
                    name="surface",
                    shading="smooth",
                    contrast_limits=(0, 1),
                    colormap=surface_colours(),
                )
                self._brighten(layer)
            else:
                layer.data = (vertices, faces, values)
                layer.visible = True
        self._shown()

    def _say_nothing(self, *, empty: bool) -> None:
        """Say why there is nothing to see."""
        picture = self.picture
        if empty and picture is not None:
            high, sigmas = picture.greatest, picture.top
            text = f"Nothing is above this level: the greatest value is {high:.4g} ({sigmas:.1f} σ)"
            self.remark.setText(text)
        self.remark.setVisible(empty)

    def _brighten(self, layer: Any) -> None:
        """More light from all sides: the parts in shade stay readable."""
        with contextlib.suppress(AttributeError, KeyError):  # only looks depend on it
            light = self._canvas.canvas.layer_to_visual[layer].node.shading_filter
            light.ambient_light = (1.0, 1.0, 1.0, 0.5)
            light.diffuse_light = (1.0, 1.0, 1.0, 0.6)

    def _show_image(self, picture: Picture) -> None:
        self.remark.hide()
        if (mesh := self._layer("surface")) is not None:
            mesh.visible = False
        values = picture.values
        cut = self.look().cut
        if cut is not None:
            values = np.where(distances(picture, cut) > 0, np.float32(values.min()), values)
        scale, start = [picture.voxel_angstrom] * 3, [picture.offset_angstrom] * 3
        top = picture.mean + max(picture.top, 1e-3) * picture.sigma
        limits = (min(0.5 * (picture.mean + self.contour()), top - 1e-6 * abs(top) - 1e-9), top)
        layer = self._layer("projection")
        if layer is None:
            layer = self._viewer.add_image(
                values,
                name="projection",
                rendering="mip",
                colormap="magma" if theme.name == "dark" else "gray_r",
                scale=scale,
                translate=start,
                contrast_limits=limits,
                blending="translucent",
            )
        else:
            layer.data, layer.scale, layer.translate, layer.visible = values, scale, start, True
            layer.contrast_limits = limits
        self._shown()

    def _draw_points(self) -> None:
        if self._viewer is None:
            if (
                not self._paths
                and self._gaussians is not None
                and (self.failure or (self.opengl and not self.opengl.available))
            ):
                self.empty.set_text("Gaussians need 3D", (self.opengl.remedy if self.opengl else "") or self.failure)
                self.stack.setCurrentWidget(self.empty)
            return
        layer = self._layer("gaussians")
        wanted = self._gaussians is not None and self.points.isChecked()
        if not wanted:
            if layer is not None:
                layer.visible = False
            return
        assert self._gaussians is not None
        positions, density = self._gaussians
        half = self.picture.box * self._pixel() / 2 if self.picture is not None else 50.0
        colours = _shade(density)
        size = half / 40
        if layer is None or len(layer.data) != len(positions):
            if layer is not None:
                self._viewer.layers.remove(layer)
            layer = self._viewer.add_points(
                positions * half,
                name="gaussians",
                size=size,
                border_width=0,
                face_color=colours,
                shading="spherical",
                antialiasing=0,
            )
        else:
            layer.data, layer.size, layer.visible = positions * half, size, True
            layer.face_color = colours
        self._shown()

    def _pixel(self) -> float:
        assert self.picture is not None
        return self.picture.voxel_angstrom * self.picture.values.shape[0] / self.picture.box

    def _shown(self) -> None:
        self._let_see()
        self.stack.setCurrentWidget(self.canvas_page)
        if self._fresh:
            self._fresh = False
            self.reset_view()
        self.drawn.emit()

    def _something_inside(self) -> bool:
        """True if something is drawn that lies inside the surface."""
        layer = self._layer("gaussians")
        return layer is not None and layer.visible

    def _let_see(self) -> None:
        """What lies inside a surface shows through it: it writes no depth while something is inside."""
        mesh = self._layer("surface") if self._viewer is not None else None
        if mesh is not None:
            inside = self._something_inside()
            mesh.opacity = 0.35 if inside else 1.0
            mesh.blending = "translucent_no_depth" if inside else "opaque"

    def reset_view(self) -> None:
        """Centre and fit what is shown."""
        if self._viewer is not None and len(self._viewer.layers):
            self._viewer.reset_view()
            self._viewer.scene.camera.angles = (0, 25, 65)
            self._viewer.scene.camera.zoom *= 0.72

    def picture_of_view(self) -> QImage:
        """What is on the screen."""
        if self.is_3d():
            shot = np.ascontiguousarray(self._canvas.screenshot(flash=False))
            return QImage(
                shot.data, shot.shape[1], shot.shape[0], 4 * shot.shape[1], QImage.Format.Format_RGBA8888
            ).copy()
        return self.stack.currentWidget().grab().toImage()

    def save_picture(self) -> None:
        """Ask for a file name and save what is shown."""
        path, _ = QFileDialog.getSaveFileName(self, "Save a picture", "view.png", "PNG (*.png)")
        if path:
            self.picture_of_view().save(path)

    def _restyle(self) -> None:
        if self._canvas is None:
            return
        self._viewer.theme = theme.name
        self._viewer.canvas.background_color_override = theme.colour("plot")
        for name in ("surface", "projection"):
            if (layer := self._layer(name)) is not None:
                self._viewer.layers.remove(layer)
        if self.picture is not None:
            self._draw()

    # --- controls --------------------------------------------------------------------------------------------------

    def _level_changed(self, level: float) -> None:
        self._levels[self._group] = level
        self._place_cut()
        if self.picture is not None and self.mode.currentData() != "slices":
            self._draw()

    def _place_cut(self) -> None:
        share = self.cut.value() / 100
        self._plane = cut_at(self.picture, self.contour(), self._normal, share) if self.picture is not None else None

    def _cut_changed(self) -> None:
        kind = self.cut_from.currentData()
        if kind == "front" and self._viewer is not None:
            towards = -np.asarray(self._viewer.scene.camera.view_direction, float)
            z, y, x = (float(part) for part in towards / max(float(np.linalg.norm(towards)), 1e-9))
            self._normal = (z, y, x)
        elif kind in AXES:
            self._normal = AXES[kind]
        self._place_cut()
        if self.picture is not None and self.mode.currentData() != "slices":
            self._draw()

    def _mode_changed(self) -> None:
        slices = self.mode.currentData() == "slices"
        for part in (self.level, self.cuts):
            part.setVisible(not slices)
        self.remark.hide()
        self._draw()

    def _frame_changed(self) -> None:
        self._load_current()

    def _toggle_play(self) -> None:
        if self._timer.isActive():
            self._stop()
        else:
            self._timer.start()
            keep_icon(self.play, "stop", "accent")

    def _stop(self) -> None:
        self._timer.stop()
        keep_icon(self.play, "play", "muted")

    def _next(self) -> None:
        if self._background.busy("volume") or self._background.busy("mesh"):
            return  # the picture before is not there yet: skip rather than pile up
        self.frame.setValue((self.frame.value() + 1) % max(len(self._paths), 1))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Space and len(self._paths) > 1:
            self._toggle_play()
        else:
            super().keyPressEvent(event)

    def shut_down(self) -> None:
        """Let go of the canvas before the window goes: some drivers crash otherwise."""
        self._stop()
        self._background.cancel_all()
        if self._canvas is not None:
            self._viewer.layers.clear()
            self._canvas.close()
            self._canvas.deleteLater()
            self._canvas = self._viewer = None


def _import_napari() -> None:
    """The slow part of loading napari, in a worker; widgets are made on the window's thread afterwards."""
    os.environ.setdefault("NAPARI_CONFIG", str(program_file().with_name("napari.yaml")))
    for name in ("numpy", "skimage.measure", "vispy.scene", "napari.components", "napari.layers"):
        importlib.import_module(name)


def surface_colours() -> Any:
    """napari's colours of a surface in the present theme: 0 the surface, 1 the caps of a cut."""
    from napari.utils import Colormap

    accent = _rgb(theme.colour("accent"))
    light = 0.3 if theme.name == "dark" else 0.0  # dark grounds want a lighter tone
    tint = [*(light + (1 - light) * part for part in accent), 1.0]
    cap = [*(0.5 + 0.5 * part for part in accent), 1.0] if theme.name == "dark" else [*(0.6 * p for p in accent), 1.0]
    return Colormap([tint, cap], name=f"surface-{theme.name}")


def _rgb(colour: str) -> list[float]:
    return [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]


def _shade(values: np.ndarray) -> np.ndarray:  # (N,) -> (N, 4)
    from gaussianem_gui.views.plots.scatter import SHADES, colour_map

    low, high = np.percentile(values, SHADED) if len(values) else (0.0, 1.0)
    index = np.clip((values - low) / max(high - low, 1e-9) * (SHADES - 1), 0, SHADES - 1).astype(int)
    ends = (0.25, 1.0) if theme.name == "dark" else (0.0, 0.85)  # never the background's colour
    table = colour_map().getLookupTable(*ends, SHADES) / 255.0
    return np.column_stack([table[index], np.ones(len(values))])
