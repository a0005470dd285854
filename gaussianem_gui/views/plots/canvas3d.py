"""The napari canvas: surfaces, a projection, points and vectors by name, the camera, a scale bar, a grid of maps.

Layers stay once they are there, hidden: some drivers crash where one is removed. Places are z, y, x in A from the box's
centre.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from typing import Any

import numpy as np
from PySide6.QtCore import QEvent, QObject, QPointF, Qt, Signal
from PySide6.QtGui import QImage, QMouseEvent
from PySide6.QtWidgets import QWidget

from gaussianem_gui.explorer.painting import Paint
from gaussianem_gui.project.settings import program_file
from gaussianem_gui.views.plots.surfaces import Mesh, Prepared, rgb, surface_colours
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import column

ANGSTROM = ("angstrom",) * 3
MAIN = ("surface", "projection", "gaussians")  # what a grid of maps takes the place of
LETTERS = 8  # points
ZOOM = 0.9  # of napari's own fit: some air around the molecule
ANGLES = (0, 25, 65)
_LOADING = threading.Lock()


def import_napari() -> None:
    """Load the slow part of napari, in a worker; widgets are made on the window's thread afterwards. One worker at a
    time: a registry of units that another is still filling knows no angstrom."""
    os.environ.setdefault("NAPARI_CONFIG", str(program_file().with_name("napari.yaml")))
    with _LOADING:
        for name in ("numpy", "skimage.measure", "vispy.scene", "napari.components", "napari.layers", "napari.qt"):
            importlib.import_module(name)
        with contextlib.suppress(ImportError):  # half of the canvas's time, were they read when it is made
            importlib.import_module("pint").get_application_registry().parse_units("angstrom")


class Canvas3D(QWidget):
    """napari's canvas, made by ``start``; until then nothing is drawn."""

    hovered = Signal(object)  # QPointF in pixels of the canvas, where the pointer is while no button is down

    def __init__(self) -> None:
        super().__init__()
        self.setLayout(column(spacing=0))
        self.model: Any = None  # napari's ViewerModel
        self.view: Any = None  # its QtViewer
        self.drawn: Prepared | None = None  # the surface that is shown
        self._past_layer = False  # the canvas was handed ``drawn`` past the layer, which keeps its first surface
        self._colours: object = None
        self._dragged: QPointF | None = None

    def start(self) -> None:
        """Make the canvas. What napari raises is not caught here."""
        from napari.components import ViewerModel
        from napari.qt import QtViewer

        self.model = ViewerModel(ndisplay=3)
        self.view = QtViewer(self.model)
        self.view.dims.hide()
        self.layout().addWidget(self.view)
        self.view.setAccessibleName("3D view")
        self.view.canvas.native.installEventFilter(self)
        bar = self.model.canvas.overlays.scale_bar
        bar.visible, bar.box, bar.font_size = True, False, LETTERS
        self.restyle()

    def shut_down(self) -> None:
        """Let go of the canvas before the window goes: some drivers crash otherwise."""
        if self.view is not None:
            self.view.canvas.native.removeEventFilter(self)
            self.model.layers.clear()
            self.view.close()
            self.view.deleteLater()
        self.model = self.view = None

    def restyle(self) -> None:
        """Take the theme's colours."""
        if self.model is None:
            return
        self.model.theme = theme.name
        self.model.canvas.background_color_override = theme.colour("plot")
        self._colours = None
        if (layer := self.layer("projection")) is not None:
            layer.colormap = "magma" if theme.name == "dark" else "gray_r"

    # --- layers ----------------------------------------------------------------------------------------------------

    def layer(self, name: str) -> Any:
        """napari's layer of that name, None if there is none."""
        if self.model is None:
            return None
        return next((layer for layer in self.model.layers if layer.name == name), None)

    def names(self) -> list[str]:
        """Names of the visible layers."""
        return [] if self.model is None else [layer.name for layer in self.model.layers if layer.visible]

    def hide_layers(self, *names: str) -> None:
        """Hide the layers of these names, or all of them where no name is given."""
        for layer in self.model.layers if self.model is not None else ():
            if not names or layer.name in names:
                layer.visible = False

    def show_surface(self, ready: Prepared, paint: Paint | None = None) -> None:
        """Draw the main surface. The layer is made with the first; later ones go past it, which is much quicker."""
        self.drawn = ready
        self.hide_layers("projection")
        layer = self.layer("surface")
        if ready.data is None:
            self.hide_layers("surface")
            return
        self._past_layer = layer is not None and layer.visible
        if layer is None:
            layer = self._add_surface("surface", ready.mesh, ready.values, surface_colours(paint))
            # whenever napari draws the layer's own surface again, ours must follow
            layer.events.set_data.connect(self.draw_ready_made, position="last")
        elif not layer.visible:
            layer.data = (*ready.mesh, ready.values)
            layer.visible = True
        key = (theme.name, paint is not None, paint.classes if paint is not None else 0)
        if self._colours != key:
            self._colours, layer.colormap = key, surface_colours(paint)
        keep_shader(self.surface_node())
        self.draw_ready_made()

    def surface_node(self) -> Any:
        """vispy's mesh of the main surface. KeyError before a surface was drawn."""
        return self.view.canvas.layer_to_visual[self.layer("surface")].node

    def draw_ready_made(self, _event: object = None) -> None:
        """Give the canvas the surface that is shown, past the layer."""
        layer = self.layer("surface")
        if not self._past_layer or self.drawn is None or layer is None or not layer.visible:
            return
        node = self.surface_node()
        node.set_data(meshdata=self.drawn.data)
        node.update()

    def _add_surface(self, name: str, mesh: Mesh, values: np.ndarray, colours: Any, **more: Any) -> Any:
        layer = self.model.add_surface(
            (*mesh, values),
            name=name,
            shading="smooth",
            contrast_limits=(0, 1),
            colormap=colours,
            units=ANGSTROM,
            **more,
        )
        with contextlib.suppress(AttributeError, KeyError):  # only looks depend on it
            # more light from all sides: the parts in shade stay readable
            light = self.view.canvas.layer_to_visual[layer].node.shading_filter
            light.ambient_light = (1.0, 1.0, 1.0, 0.5)
            light.diffuse_light = (1.0, 1.0, 1.0, 0.6)
        return layer

    def show_extra(self, name: str, mesh: Mesh | None, colour: str = "", opacity: float = 1.0) -> None:
        """Draw another surface in one colour ("#rrggbb"), ``opacity`` from 0 to 1; None or an empty one hides it."""
        layer = self.layer(name)
        if mesh is None or not len(mesh[1]):
            if layer is not None:
                layer.visible = False
            return
        from napari.utils import Colormap

        colours = Colormap([[*rgb(colour), 1.0]] * 2, name=f"{name}-{colour}")
        values = np.full(len(mesh[0]), 0.5, np.float32)
        if layer is None:
            layer = self._add_surface(name, mesh, values, colours)
        else:
            if layer.data[0] is not mesh[0]:
                layer.data = (*mesh, values)
            layer.colormap = colours
        layer.opacity, layer.visible = opacity, True
        through = name in ("mask", "reference")
        layer.blending = "translucent_no_depth" if through else "opaque" if opacity > 0.99 else "translucent"

    def show_projection(self, values: np.ndarray, voxel: float, offset: float, limits: tuple[float, float]) -> None:
        """Draw a volume (D, D, D) z, y, x as its greatest values along the view. ``voxel`` (A) and ``offset``, the
        place of the first voxel's centre (A from the box's centre), give its scale; ``limits`` are the values drawn
        darkest and brightest."""
        self.hide_layers("surface")
        layer = self.layer("projection")
        if layer is None:
            self.model.add_image(
                values,
                name="projection",
                rendering="mip",
                colormap="magma" if theme.name == "dark" else "gray_r",
                scale=[voxel] * 3,
                translate=[offset] * 3,
                contrast_limits=limits,
                blending="translucent",
                units=ANGSTROM,
            )
            return
        layer.data, layer.scale, layer.translate, layer.visible = values, [voxel] * 3, [offset] * 3, True
        layer.contrast_limits = limits

    def show_points(
        self, positions: np.ndarray, size: float | np.ndarray, colours: np.ndarray
    ) -> None:  # (N, 3) A, z, y, x; diameters in A; (N, 4)
        """Draw Gaussians as spheres in their colours (RGBA from 0 to 1)."""
        layer = self.layer("gaussians")
        if layer is None:
            self.model.add_points(
                positions,
                name="gaussians",
                size=size,
                border_width=0,
                face_color=colours,
                shading="spherical",
                antialiasing=0,
                units=ANGSTROM,
            )
            return
        layer.data, layer.visible = positions, True
        layer.size = size  # after the data, which keep the sizes and colours of as many points as there were
        layer.face_color = colours

    def show_vectors(self, name: str, data: np.ndarray | None, style: str, colour: str, width: float) -> None:
        """Draw lines or arrows (``style``: line or arrow), data (S, 2, 3): where they begin, and how far they go, z, y,
        x in A, ``width`` A wide; None hides them."""
        layer = self.layer(name)
        if data is None:
            if layer is not None:
                layer.visible = False
        elif layer is not None:
            layer.data, layer.visible = data, True
        else:
            self.model.add_vectors(
                data, name=name, vector_style=style, edge_color=colour, length=1.0, edge_width=width, units=ANGSTROM
            )

    def let_see(self, *, inside: bool) -> None:
        """Let what lies inside the surface show through it, or not: the surface writes no depth while something is
        ``inside``."""
        if (mesh := self.layer("surface")) is not None:
            mesh.opacity = 0.35 if inside else 1.0
            mesh.blending = "translucent_no_depth" if inside else "opaque"

    def set_grid(self, on: bool) -> None:
        """Show each visible layer in a view of its own, all under one camera, with its name; or all in one view."""
        self.model.canvas.grid.enabled = on
        for layer in self.model.layers:
            layer.name_overlay.visible = on
            layer.name_overlay.box, layer.name_overlay.font_size = False, LETTERS

    def in_grid(self) -> bool:
        """True while layers are shown side by side."""
        return self.model is not None and bool(self.model.canvas.grid.enabled)

    # --- the camera ------------------------------------------------------------------------------------------------

    def reset_view(self) -> None:
        """Centre and fit what is shown, seen from ANGLES."""
        if self.model is not None and len(self.model.layers):
            self.model.reset_view()
            self.model.scene.camera.angles = ANGLES
            self.model.scene.camera.zoom *= ZOOM

    def towards(self) -> tuple[float, float, float]:
        """Unit vector z, y, x from the molecule to the one who looks."""
        if self.model is None:
            return 0.0, 0.0, 1.0
        way = -np.asarray(self.model.scene.camera.view_direction, float)
        z, y, x = (float(part) for part in way / max(float(np.linalg.norm(way)), 1e-9))
        return z, y, x

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Move what is shown with the middle button, and tell in ``hovered`` where the pointer is over Gaussians."""
        if isinstance(event, QMouseEvent):
            kind, middle = event.type(), Qt.MouseButton.MiddleButton
            if kind == QEvent.Type.MouseMove and not event.buttons() and "gaussians" in self.names():
                self.hovered.emit(event.position())
            if kind == QEvent.Type.MouseButtonPress and event.button() == middle:
                self._dragged = event.position()
                return True
            if kind == QEvent.Type.MouseMove and self._dragged is not None and event.buttons() & middle:
                self.move_by(event.position() - self._dragged)
                self._dragged = event.position()
                return True
            if kind == QEvent.Type.MouseButtonRelease and event.button() == middle:
                self._dragged = None
                return True
        return super().eventFilter(watched, event)

    def move_by(self, pixels: QPointF) -> None:
        """Move what is shown by so many pixels of the screen."""
        camera = self.model.scene.camera
        up = np.asarray(camera.up_direction, float)
        right = np.cross(np.asarray(camera.view_direction, float), up)
        shift = (right * pixels.x() - up * pixels.y()) / max(camera.zoom, 1e-9)
        camera.center = tuple(np.asarray(camera.center, float) - shift)

    # --- pictures --------------------------------------------------------------------------------------------------

    def screenshot(self, scale: float = 1.0) -> np.ndarray:  # (H, W, 4) uint8
        """What is drawn, ``scale`` times the screen's pixels a side."""
        camera = self.model.scene.camera
        camera.zoom *= scale
        try:
            return np.ascontiguousarray(self.view.screenshot(flash=False, scale=scale))
        finally:
            camera.zoom /= scale

    def image(self) -> QImage:
        """What is on the screen, with the scale bar."""
        shot = np.ascontiguousarray(self.view.screenshot(flash=False))
        return QImage(shot.data, shot.shape[1], shot.shape[0], 4 * shot.shape[1], QImage.Format.Format_RGBA8888).copy()

    def on_white(self, scale: float = 1.0) -> tuple[np.ndarray, float]:  # (H, W, 4) uint8
        """What is drawn, on white without a scale bar, and the length of a pixel in A."""
        colour = self.model.canvas.background_color_override
        projection, bar = self.layer("projection"), self.model.canvas.overlays.scale_bar
        ramp = projection.colormap if projection is not None else None
        self.model.canvas.background_color_override, bar.visible = "white", False
        if projection is not None:
            projection.colormap = "gray_r"
        try:
            pixels = np.array(self.screenshot(scale))
        finally:
            self.model.canvas.background_color_override, bar.visible = colour, True
            if projection is not None:
                projection.colormap = ramp
        ratio = pixels.shape[1] / max(self.view.width(), 1)  # napari's zoom is screen pixels a world unit
        return pixels, 1.0 / (self.model.scene.camera.zoom * max(ratio, 1e-9))


def keep_shader(node: Any) -> None:
    """Let a mesh keep its colour function: vispy makes an equal one at every change, and compiles the shaders anew."""
    if "_build_color_transform" not in vars(node) and hasattr(node, "_build_color_transform"):
        build = node._build_color_transform
        kept: dict[Any, Any] = {}

        def transform(colours: np.ndarray) -> Any:
            key = (colours.ndim, colours.shape[-1], *map(float, node._clim_values), id(node.cmap))
            if key not in kept:
                kept.clear()
                kept[key] = build(colours), node.cmap  # whose id stays its own while it is kept
            return kept[key][0]

        with contextlib.suppress(AttributeError):  # visuals are frozen in some versions: slower, and right
            node.unfreeze()
            node._build_color_transform = transform
            node.freeze()
