"""The explorer's 3D view: volumes straight from the decoder, Gaussians by density, displacement or domain, arrows,
a second volume over the first (difference, reference, mask), a clipping plane."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import QTimer
from PySide6.QtGui import QImage, QResizeEvent
from PySide6.QtWidgets import QComboBox

from gaussianem_gui.explorer.decoder_client import Consensus
from gaussianem_gui.explorer.volumes import Look, Picture
from gaussianem_gui.views.explorer.surfaces import Mesh, Prepared, binned, picture_of, prepare
from gaussianem_gui.views.plots.viewer import SHADED, Viewer, _rgb, _shade, surface_colours
from gaussianem_gui.views.toolkit.controls import together, wrapping
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, icon_button, label, plain

MAX_ARROWS = 1500
LEAST_ROOM = 40  # pixels; below it the view is folded away
COLOURINGS = {"density": "Density", "displacement": "Displacement", "domain": "Domain"}


class LiveViewer(Viewer):
    """Shows what it is handed; reads no files of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Consensus | None = None
        self.positions: np.ndarray | None = None  # (N, 3) x, y, z
        self._densities: np.ndarray | None = None
        self.domains: np.ndarray | None = None  # (N,) from 0
        self.segments: np.ndarray | None = None  # (S, 2, 3) of an atomic model laid over the picture
        self._extra: dict[str, tuple[np.ndarray, np.ndarray, str, float]] = {}
        self._ready: dict[tuple[Path, Look], Prepared] = {}
        self._drawn: Prepared | None = None  # the surface that the canvas was handed, None if the layer's own is shown
        self._count = 0
        self._awaited: tuple[Picture, Look] | None = None  # the newest that still needs its surface
        self._room = 0  # shorter side of the canvas that the camera's zoom is made for
        self._silent = False
        self.colour_by = QComboBox()
        self.colour_by.setAccessibleName("Colour of the Gaussians")
        for key, text in COLOURINGS.items():
            self.colour_by.addItem(text, key)
        self.colour_by.currentIndexChanged.connect(self._draw_points)
        self.arrows = QComboBox()
        self.arrows.setAccessibleName("Displacement arrows")
        self.arrows.addItem("No arrows", 0)
        for factor in (1, 3, 10):
            self.arrows.addItem(f"Arrows ×{factor}", factor)
        self.arrows.currentIndexChanged.connect(self._draw_arrows)
        self.shades = label("", "faint")
        self.shades.setToolTip("What the darkest and the brightest colour of the Gaussians mean")
        self.tools = wrapping(
            self.gaussians,
            together(label("Colour", "muted"), self.colour_by, self.shades, spacing=8),
            self.arrows,
            self.cuts,
            spacing=8,
            margins=(12, 4, 12, 4),
        )
        self.layout().insertWidget(1, self.tools)
        self.tools.hide()
        tip = "Gaussians, their colours, arrows, clipping"
        self.fold = icon_button("settings", tip, checkable=True, name="viewMore")
        self.fold.toggled.connect(self.tools.setVisible)
        self.buttons.layout().addWidget(self.fold)
        self.mode.setMinimumWidth(114)
        self.level.sigma.setToolTip("Contour level in sigma of the consensus map: the same for every picture")
        self.note = Elided("", "hint")
        self.note.setContentsMargins(12, 0, 12, 2)
        self.note.hide()
        self.layout().insertWidget(2, self.note)
        self.drawn.connect(self._after_drawing)
        self.empty.set_text("Click in a plot", "The molecule at that place appears here.")

    def _warn(self, text: str, more: str = "") -> None:
        """One line in place of a banner: here the room is for the molecule."""
        self.note.setText(f"⚠ {text}")
        self.note.setToolTip(plain(f"{text}\n{more}"))
        self.note.setVisible(not self._silent)

    def hide_controls(self) -> None:
        """A second view obeys the controls of the first."""
        for part in (self.bar, self.tools, self.note):
            part.hide()
        self._silent = True

    # --- what to show ----------------------------------------------------------------------------------------------

    def set_model(self, model: Consensus) -> None:
        """The model whose pictures come; shows its consensus."""
        self.model = model
        self._group = "decoded"  # every picture of one model has one level
        self.show_decoded(model.volume, model.positions, model.densities, "consensus")

    def forget(self) -> None:
        """Nothing of the model that was shown."""
        self._background.cancel_all()
        self.model = self.positions = self._densities = self.domains = self.segments = None
        self._awaited = self._drawn = None
        self._ready.clear()
        self._cache.clear()
        for key in list(self._extra):
            self.show_surface(key, None)
        self._levels.clear()
        for switch in (self.points, self.fold):
            switch.setChecked(False)
        for box in (self.colour_by, self.arrows):
            box.setCurrentIndex(0)
        self.cut.setValue(0)
        self.cut_from.setCurrentIndex(0)
        self.shades.setText("")
        self.clear()

    def longest(self) -> int:
        """Voxels a side that the picture can have here."""
        return self._longest()

    def show_decoded(
        self, values: np.ndarray | None, positions: np.ndarray | None, densities: np.ndarray | None, name: str
    ) -> None:
        """Show a volume and its Gaussians."""
        assert self.model is not None
        if positions is not None and densities is not None:
            self.set_gaussians(positions, densities)
        if values is not None:
            longest = self._longest()
            if values.shape[0] > longest:
                values = binned(values, -(-values.shape[0] // longest))
            self._count += 1
            self.show_picture(picture_of(values, self.model, f"decoded/{self._count}"), name)

    def show_picture(self, picture: Picture, name: str, ready: Prepared | None = None) -> None:
        """Show a volume that is in memory, with its surface if that was prepared before."""
        self._paths, self._names = [picture.path], [name]
        self._cache[picture.path] = picture
        if ready is not None:
            self._ready[picture.path, self.look()] = ready
        self.frame.blockSignals(True)
        self.frame.setRange(0, 0)
        self.frame.blockSignals(False)
        self.bar.setEnabled(True)
        self._load_current()

    def set_gaussians(self, positions: np.ndarray, densities: np.ndarray) -> None:  # (N, 3) x, y, z; (N,)
        """Gaussians to draw with the next picture."""
        self.positions, self._densities = positions, densities
        self._gaussians = (np.ascontiguousarray(positions[:, ::-1]), densities)  # the parent draws z, y, x

    def show_surface(self, key: str, mesh: Mesh | None, colour: str = "", opacity: float = 0.0) -> None:
        """Lay a second surface over the picture; None removes it. ``key``: gain, loss, reference, mask."""
        if mesh is not None:
            self._extra[key] = (*mesh, colour, opacity)
        elif self._extra.pop(key, None) is None:
            return
        self._draw_extra(key)

    def has_surface(self, key: str) -> bool:
        """True while a second surface of that name is laid over the picture."""
        return key in self._extra

    def show_model(self, segments: np.ndarray | None) -> None:  # (S, 2, 3) x, y, z in A from the box's centre
        """Lay the trace of an atomic model over the picture; None takes it away."""
        self.segments = segments
        self._draw_model()

    def _draw_model(self) -> None:
        layer = self._layer("model") if self._viewer is not None else None
        if self.segments is None or self._viewer is None or self.model is None:
            if layer is not None:
                layer.visible = False
        else:
            start, end = self.segments[:, 0, ::-1], self.segments[:, 1, ::-1]
            data = np.stack([start, end - start], axis=1)
            if layer is None:
                self._viewer.add_vectors(
                    data,
                    name="model",
                    vector_style="line",
                    edge_color=theme.colour("success"),
                    length=1.0,
                    edge_width=self.model.half_angstrom / 70,
                )
            else:
                layer.data, layer.visible = data, True
        self._let_see()

    def show_domains(self, domains: np.ndarray | None) -> None:
        """Colour the Gaussians by rigid domain."""
        self.domains = domains
        self.colour_by.setCurrentIndex(self.colour_by.findData("domain" if domains is not None else "density"))
        if domains is not None:
            self.points.setChecked(True)
        self._draw_points()

    def pixels_on_white(self, scale: float = 1.0) -> tuple[np.ndarray, float | None]:  # (H, W, 4) uint8
        """The view as it is, on white, and the length of a pixel in A where it is 3D; ``scale`` times the screen's
        pixels a side there."""
        if not self.is_3d() or self._viewer is None:
            image = self.picture_of_view().convertToFormat(QImage.Format.Format_RGBA8888)
            data = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine() // 4, 4)
            return data[:, : image.width()].copy(), None
        colour = self._viewer.canvas.background_color_override
        projection = self._layer("projection")
        ramp = projection.colormap if projection is not None else None
        camera = self._viewer.scene.camera
        self._viewer.canvas.background_color_override = "white"
        if projection is not None:
            projection.colormap = "gray_r"
        camera.zoom *= scale
        try:
            pixels = np.array(self._canvas.screenshot(flash=False, scale=scale))
        finally:
            camera.zoom /= scale
            self._viewer.canvas.background_color_override = colour
            if projection is not None:
                projection.colormap = ramp
        # napari's zoom is screen pixels a world unit
        ratio = pixels.shape[1] / max(self._canvas.width(), 1)
        return pixels, 1.0 / (self._viewer.scene.camera.zoom * max(ratio, 1e-9))

    def _restyle(self) -> None:
        """The theme's colours, without removing layers."""
        if self._canvas is None:
            return
        self._viewer.theme = theme.name
        self._viewer.canvas.background_color_override = theme.colour("plot")
        if (layer := self._layer("surface")) is not None:
            layer.colormap = surface_colours()
        if (layer := self._layer("projection")) is not None:
            layer.colormap = "magma" if theme.name == "dark" else "gray_r"
        if self.picture is not None:
            self._draw()

    def reset_view(self) -> None:
        super().reset_view()
        self._room = self._shorter_side()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        QTimer.singleShot(0, self, self._fit_room)

    def _shorter_side(self) -> int:
        return min(self._canvas.width(), self._canvas.height()) if self._canvas is not None and self.is_3d() else 0

    def _fit_room(self) -> None:
        """The molecule fills as much of its view as before, now that the view has another size."""
        now, camera = self._shorter_side(), self.camera()
        if self._silent or now < LEAST_ROOM or camera is None:  # a second view's camera follows the first's
            return
        if self._room >= LEAST_ROOM:
            camera.zoom *= now / self._room
        self._room = now

    def camera(self) -> Any:
        """napari's camera, None before the canvas is there."""
        return self._viewer.scene.camera if self._viewer is not None else None

    def follow(self, other: LiveViewer) -> None:
        """Link the cameras of two views."""
        mine, theirs = self.camera(), other.camera()
        if mine is None or theirs is None:
            return
        for source, target in ((mine, theirs), (theirs, mine)):
            for name in ("angles", "zoom", "center"):
                event = getattr(source.events, name)
                event.connect(lambda _e, s=source, t=target, n=name: _copy(s, t, n))
        for name in ("center", "zoom", "angles"):
            _copy(theirs, mine, name)

    # --- drawing: surfaces are handed to the canvas ready made ---
    def _draw(self) -> None:
        if self.picture is None or self._viewer is None or self.mode.currentData() != "surface":
            super()._draw()
            return
        picture, look = self.picture, self.look()
        if len(self._ready) > 250:
            self._ready.clear()
        ready = self._ready.get((picture.path, look))
        self._awaited = None
        if ready is not None:
            self._show_ready(ready)
        elif self._background.busy("mesh"):
            self._awaited = (picture, look)
        else:
            self._prepare(picture, look)

    def _prepare(self, picture: Picture, look: Look) -> None:
        """Work out a surface; one at a time, so that a drag neither piles them up nor waits for the last."""
        self._background.run(
            "mesh", lambda: prepare(picture, look), lambda r: self._take_ready(picture, look, r), self._failed
        )

    def _take_ready(self, picture: Picture, look: Look, ready: Prepared) -> None:
        self._ready[picture.path, look] = ready
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            self._prepare(*awaited)
        # while one drags, each that is there is shown, though a newer one waits for its surface
        if self.mode.currentData() == "surface" and (look == self.look() or awaited is not None):
            self._show_ready(ready)

    def _show_ready(self, ready: Prepared) -> None:
        layer = self._layer("surface")
        if layer is None or not layer.visible or ready.data is None:
            self._show_mesh(ready.mesh)
            return
        if self._drawn is None:
            # the layer keeps its first surface: whenever napari draws that again, ours must follow
            layer.events.set_data.disconnect(self._draw_ready_made)
            layer.events.set_data.connect(self._draw_ready_made, position="last")
        self._say_nothing(empty=False)
        self._drawn = ready
        _keep_shader(self._surface_node(layer))
        self._draw_ready_made()
        self._shown()

    def _surface_node(self, layer: Any) -> Any:
        return self._canvas.canvas.layer_to_visual[layer].node

    def _draw_ready_made(self, _event: object = None) -> None:
        """Give the canvas the surface that is shown, past the layer."""
        layer = self._layer("surface") if self._viewer is not None else None
        if self._drawn is None or layer is None or not layer.visible:
            return
        node = self._surface_node(layer)
        node.set_data(meshdata=self._drawn.data)
        node.update()

    def _show_mesh(self, mesh: tuple[np.ndarray, np.ndarray]) -> None:
        self._drawn = None
        super()._show_mesh(mesh)

    # --- drawing ---------------------------------------------------------------------------------------------------

    def _draw_points(self) -> None:
        super()._draw_points()
        layer = self._layer("gaussians") if self._viewer is not None else None
        if layer is not None and layer.visible and self.positions is not None:
            colours = self._colours()
            if colours is not None and len(colours) == len(layer.data):
                layer.face_color = colours
        self._draw_arrows()
        self._let_see()

    def _something_inside(self) -> bool:
        return (
            super()._something_inside()
            or bool({"gain", "loss"} & set(self._extra))
            or bool(self.arrows.currentData())
            or self.segments is not None
        )

    def _colours(self) -> np.ndarray | None:  # (N, 4)
        assert self.positions is not None
        kind = self.colour_by.currentData()
        self.shades.setText("")
        if kind == "domain" and self.domains is not None and len(self.domains) == len(self.positions):
            table = np.array([[*_rgb(theme.series(i)), 1.0] for i in range(10)])
            grey = np.array([0.5, 0.5, 0.5, 0.6])
            return np.where((self.domains >= 0)[:, None], table[self.domains % 10], grey)
        if kind == "displacement" and self.model is not None and len(self.model.positions) == len(self.positions):
            moved = np.linalg.norm(self.positions - self.model.positions, axis=1)
            low, high = np.percentile(moved, SHADED) * self.model.half_angstrom
            self.shades.setText(f"{low:.1f}–{high:.1f} Å")
            return _shade(moved)
        return None

    def _draw_arrows(self) -> None:
        if self._viewer is None or self.model is None:
            return
        layer = self._layer("arrows")
        factor = self.arrows.currentData()
        if not factor or self.positions is None or len(self.positions) != len(self.model.positions):
            if layer is not None:
                layer.visible = False
            return
        start = self.model.positions
        moved = (self.positions - start) * factor
        heavy = np.argsort(-np.linalg.norm(moved, axis=1) * self.model.densities)[:MAX_ARROWS]
        data = np.stack([start[heavy], moved[heavy]], axis=1)[:, :, ::-1] * self.model.half_angstrom
        if layer is not None:
            layer.data, layer.visible = data, True
            return
        self._viewer.add_vectors(
            data,
            name="arrows",
            edge_color=theme.colour("warning"),
            edge_width=self.model.half_angstrom / 90,
            vector_style="arrow",
            length=1.0,
        )

    def _draw_extra(self, key: str) -> None:
        """Draw or hide a second surface. Layers stay once they are there: some drivers crash where one is removed."""
        if self._viewer is None:
            return
        layer = self._layer(key)
        self._let_see()
        vertices, faces, colour, opacity = self._extra.get(key, (np.zeros((0, 3)), np.zeros((0, 3)), "", 0.0))
        if not len(faces):
            if layer is not None:
                layer.visible = False
        elif layer is not None:
            layer.data = (vertices, faces, np.full(len(vertices), 0.5, np.float32))
            layer.opacity, layer.visible = opacity, True
        else:
            from napari.utils import Colormap

            tint = [*_rgb(colour), 1.0]
            self._viewer.add_surface(
                (vertices, faces, np.full(len(vertices), 0.5, np.float32)),
                name=key,
                shading="smooth",
                contrast_limits=(0, 1),
                colormap=Colormap([tint, tint], name=key),
                opacity=opacity,
                blending="translucent_no_depth" if key in ("mask", "reference") else "translucent",
            )

    def _after_drawing(self) -> None:
        for key in list(self._extra):
            if self._viewer is not None and self._layer(key) is None:
                self._draw_extra(key)
        if self.segments is not None and self._viewer is not None and self._layer("model") is None:
            self._draw_model()
        self._let_see()
        if self.points.isChecked():
            layer = self._layer("gaussians") if self._viewer is not None else None
            if layer is None or self._gaussians is None or layer.data.shape != self._gaussians[0].shape:
                self._draw_points()
            elif self.model is not None and self._gaussians is not None:
                self._move_points(layer)
        elif self.arrows.currentData():
            self._draw_arrows()

    def _move_points(self, layer: Any) -> None:
        assert self._gaussians is not None and self.model is not None
        wanted = self._gaussians[0] * self.model.half_angstrom
        if np.array_equal(layer.data, wanted):
            return
        layer.data = wanted
        colours = self._colours()
        layer.face_color = colours if colours is not None else _shade(self._gaussians[1])
        if self.arrows.currentData():
            self._draw_arrows()


def _keep_shader(node: Any) -> None:
    """Let a mesh keep its colour function: vispy makes an equal one at every change, and compiles the shaders anew."""
    if "_build_color_transform" not in vars(node) and hasattr(node, "_build_color_transform"):
        build = node._build_color_transform
        kept: dict[Any, Any] = {}

        def transform(colours: np.ndarray) -> Any:
            key = (colours.ndim, colours.shape[-1], *map(float, node._clim_values), id(node.cmap))
            if key not in kept:
                kept.clear()
                kept[key] = build(colours)
            return kept[key]

        with contextlib.suppress(AttributeError):  # visuals are frozen in some versions: slower, and right
            node.unfreeze()
            node._build_color_transform = transform
            node.freeze()


def _copy(source: Any, target: Any, name: str) -> None:
    value = getattr(source, name)
    if getattr(target, name) != value:
        setattr(target, name, value)
