"""The explorer's 3D view: volumes straight from the decoder, surfaces and Gaussians by displacement, occupancy or
domain, arrows, other surfaces over them (difference, reference, mask)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PySide6.QtCore import QTimer
from PySide6.QtGui import QImage, QResizeEvent
from PySide6.QtWidgets import QComboBox

from gaussianem_gui.explorer.decoder_client import Consensus
from gaussianem_gui.explorer.painting import Paint, paint_by_domains, paint_by_gaussians
from gaussianem_gui.explorer.volumes import GaussianPoints, Picture, binned
from gaussianem_gui.views.explorer.surfaces import picture_of
from gaussianem_gui.views.plots.lasso_3d import Lasso3D, encircled
from gaussianem_gui.views.plots.surfaces import Mesh, Prepared, class_colours, rgb, shade
from gaussianem_gui.views.plots.viewer import Viewer
from gaussianem_gui.views.toolkit.controls import wrapping
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, icon_button, plain

MAX_ARROWS = 1500
LEAST_ROOM = 40  # pixels; below it the view is folded away
COLOURINGS = {"displacement": "Displacement", "occupancy": "Occupancy", "domain": "Domain"}
MOVED = 98  # percentile of the displacements that gets the brightest colour
LEAST_DENSITY = 1e-3  # of the greatest: what is hardly there at rest has no occupancy that says anything

CLICK = ("Click in a plot", "The molecule at that place appears here.")


class LiveViewer(Viewer):
    """The explorer's 3D view of the decoded volumes and Gaussians that it is handed; it reads no files of the job.

    Positions of Gaussians are (N, 3) x, y, z in world units, [-1, 1] across the box, as the decoder gives them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model: Consensus | None = None
        self.positions: np.ndarray | None = None  # (N, 3) x, y, z
        self.densities: np.ndarray | None = None  # (N,)
        self.domains: np.ndarray | None = None  # (N,) from 0
        self.segments: np.ndarray | None = None  # (S, 2, 3) of an atomic model laid over the picture
        self.marked: np.ndarray | None = None  # (N,) Gaussians that were encircled
        self._extra: dict[str, tuple[Mesh, str, float]] = {}
        self._count = 0
        self._room = 0  # shorter side of the canvas that the camera's zoom is made for
        self._silent = False
        self._farthest = 0.0  # displacement in A that gets the brightest colour: one ramp for all pictures of a model
        for place, (key, text) in enumerate(COLOURINGS.items(), start=1):
            self.colour_by.insertItem(place, text, key)
        self.colour_by.setToolTip("What surface and Gaussians are coloured by")
        self.colour_by.currentIndexChanged.connect(lambda _i: self._repaint())
        self.arrows = QComboBox()
        self.arrows.setAccessibleName("Displacement arrows")
        for box, letters in (
            (self.arrows, 6),
            (self.colour_by, 9),
            (self.cuts.kind, 10),
        ):  # two rows where it is narrow
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setMinimumContentsLength(letters)
        self.arrows.addItem("No arrows", 0)
        for factor in (1, 3, 10):
            self.arrows.addItem(f"Arrows ×{factor}", factor)
        self.arrows.currentIndexChanged.connect(self._draw_arrows)
        self.tools = wrapping(self.gaussians, self.colours, self.arrows, self.cuts, spacing=8, margins=(12, 4, 12, 4))
        self.layout().insertWidget(1, self.tools)
        self.tools.hide()
        tip = "Gaussians, colours, arrows, clipping"
        self.fold = icon_button("settings", tip, checkable=True, name="viewMore")
        self.fold.toggled.connect(self.tools.setVisible)
        self.buttons.layout().addWidget(self.fold)
        self.maps_button.hide()  # a map or model is laid over by the button below the view
        self.mode.setMinimumWidth(114)
        self.level.sigma.setToolTip("Contour level in sigma of the consensus map: the same for every picture")
        self.note = Elided("", "hint")
        self.note.setContentsMargins(12, 0, 12, 2)
        self.note.hide()
        self.layout().insertWidget(2, self.note)
        self.drawn.connect(self._after_drawing)
        self.points.setToolTip("Show the Gaussians as spheres as wide as they are at half of their height")
        self.empty.set_text(*CLICK)

    def _warn(self, text: str, more: str = "") -> None:
        """One line in place of a banner: here the room is for the molecule."""
        self.note.setText(f"⚠ {text}")
        self.note.setToolTip(plain(f"{text}\n{more}"))
        self.note.setVisible(not self._silent)

    def hide_controls(self) -> None:
        """Hide the controls and silence the warnings: for a second view, which obeys the controls of the first."""
        for part in (self.bar, self.tools, self.note):
            part.hide()
        self.colour_bar.setFixedHeight(0)  # the bar of the first explains both
        self._silent = True

    def colour_like(self, other: LiveViewer) -> None:
        """Take over the colours of another view, on the same scale."""
        by_map, kind = other.colour_by.currentData() == "map", other.colour_by.currentIndex()
        if (
            kind == self.colour_by.currentIndex()
            and self.domains is other.domains
            and self._farthest == other._farthest
            and (not by_map or self.paint is other.paint)
        ):
            return
        self.domains, self._farthest = other.domains, other._farthest
        self.colour_by.blockSignals(True)
        self.colour_by.setCurrentIndex(kind)
        self.colour_by.blockSignals(False)
        if by_map:
            self.set_paint(other.paint)
            self._draw()
        else:
            self._repaint()

    # --- what to show ----------------------------------------------------------------------------------------------

    def set_model(self, model: Consensus) -> None:
        """Take up the model whose pictures come, and show its consensus."""
        self.model = model
        self._group = "decoded"  # every picture of one model has one level
        self.show_decoded(model.volume, model.positions, model.densities, "consensus")

    def forget(self) -> None:
        """Let go of the model and of everything that is drawn of it."""
        self._background.cancel_all()
        self.model = self.positions = self.densities = self.domains = self.segments = self.marked = None
        self._farthest = 0.0
        self.surfaces.forget()
        self._cache.clear()
        for key in list(self._extra):
            self.show_surface(key, None)
        self._levels.clear()
        for switch in (self.points, self.fold):
            switch.setChecked(False)
        for box in (self.colour_by, self.arrows):
            box.setCurrentIndex(0)
        self.cuts.reset()
        self.clear()

    def show_decoded(
        self, values: np.ndarray | None, positions: np.ndarray | None, densities: np.ndarray | None, name: str
    ) -> None:
        """Show a volume (d, d, d) and its Gaussians, positions (N, 3) in world units and densities (N,); what is None
        stays as it is. A volume larger than ``longest`` is averaged down."""
        assert self.model is not None
        if positions is not None and densities is not None:
            self.set_gaussians(positions, densities)
        if values is not None:
            longest = self.longest()
            if values.shape[0] > longest:
                values = binned(values, -(-values.shape[0] // longest))
            self._count += 1
            self.show_picture(picture_of(values, self.model, f"decoded/{self._count}"), name)

    def show_picture(self, picture: Picture, name: str, ready: Prepared | None = None) -> None:
        """Show a volume that is in memory; ``ready`` is its surface if that was worked out before."""
        self._paths, self._names = [picture.path], [name]
        for kept in (self._cache, self.surfaces.kept):  # each has a name of its own and is not asked for again
            kept.clear()
        self._cache.keep(picture.path, picture)
        if ready is not None:
            self.surfaces.keep(picture, self.look(), ready)
        self.series.set_count(1)
        self.bar.setEnabled(True)
        self._load_current()

    def set_gaussians(self, positions: np.ndarray, densities: np.ndarray) -> None:  # (N, 3) x, y, z; (N,)
        """Take up Gaussians, positions in world units: they are drawn, and colour the surface, with the next
        picture."""
        self.positions, self.densities = positions, densities
        sigmas = self.model.sigmas if self.model is not None and len(self.model.sigmas) == len(positions) else None
        self._gaussians = GaussianPoints(np.ascontiguousarray(positions[:, ::-1]), densities, sigmas)
        if self.colour_by.currentData() in COLOURINGS:
            self.set_paint(self.paint_of(positions, densities))

    def show_surface(self, key: str, mesh: Mesh | None, colour: str = "", opacity: float = 0.0) -> None:
        """Lay a second surface over the picture, with ``colour`` as "#rrggbb" and ``opacity`` from 0 to 1; None removes
        it. ``key``: gain, loss, reference or mask."""
        if mesh is not None:
            self._extra[key] = (mesh, colour, opacity)
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

    def show_domains(self, domains: np.ndarray | None) -> None:
        """Colour surface and Gaussians by rigid domain, (N,) from 0 on; None colours all alike again."""
        self.domains = domains
        if domains is not None:
            self.points.setChecked(True)
        self.colour_by.setCurrentIndex(self.colour_by.findData("domain") if domains is not None else 0)
        self._repaint()

    # --- Gaussians: their width, the one under the pointer, and those inside an outline ------------------------------

    def lasso(self, done: Callable[[np.ndarray], None], given_up: Callable[[], None]) -> None:
        """Let the user draw around Gaussians; ``done`` gets which of them (N,) are inside, at any depth."""
        self.points.setChecked(True)
        layer = self.canvas.layer("gaussians")
        if layer is None:
            given_up()
            return
        view = self.canvas.view
        lasso = Lasso3D(view.canvas.native)
        lasso.drawn.connect(lambda outline: done(encircled(view, layer, outline)))
        for signal in (lasso.drawn, lasso.given_up):
            signal.connect(lasso.deleteLater)
        lasso.given_up.connect(given_up)
        lasso.begin()

    def mark_gaussians(self, chosen: np.ndarray | None) -> None:  # (N,) bool
        """Colour some Gaussians; None colours all as before."""
        self.marked = chosen
        self._draw_points()

    def describe(self, x: float, y: float) -> str:
        """What the Gaussian at a place of the canvas (pixels) is, and how it differs from the one at rest."""
        text, number, model = super().describe(x, y), self.gaussian_at(x, y), self.model
        if number is None or model is None or self.positions is None or self.densities is None:
            return text
        moved = np.linalg.norm(self.positions[number] - model.positions[number]) * model.half_angstrom
        share = self.densities[number] / max(float(model.densities[number]), 1e-9)
        return f"{text}\nmoved by {moved:.1f} Å, {100 * share:.0f} % of its density at rest"

    # --- colours ---------------------------------------------------------------------------------------------------

    def paint_of(self, positions: np.ndarray, densities: np.ndarray) -> Paint | None:  # (N, 3) x, y, z; (N,)
        """The colouring by what the menu says, of these Gaussians, positions in world units; None for one colour."""
        kind, values = self.colour_by.currentData(), self._quantity(positions, densities)
        if values is None or self.model is None:
            return None
        places = np.ascontiguousarray(positions[:, ::-1]) * self.model.half_angstrom
        if kind == "domain":
            return paint_by_domains(places, values)
        if kind == "displacement":
            if not self._silent:  # a second view takes the scale of the first
                self._farthest = max(self._farthest, float(np.percentile(values, MOVED)))
            return paint_by_gaussians("Displacement", "Å", places, values, high=max(self._farthest, 0.1))
        there = self.model.densities > LEAST_DENSITY * self.model.densities.max()
        return paint_by_gaussians("Occupancy", "of the consensus", places[there], values[there], high=1.25)

    def _quantity(self, positions: np.ndarray, densities: np.ndarray) -> np.ndarray | None:  # (N,)
        """The value of each Gaussian that the menu asks for; None where there is none."""
        kind, model = self.colour_by.currentData(), self.model
        if model is None or len(model.positions) != len(positions):
            return None
        if kind == "displacement":
            return np.linalg.norm(positions - model.positions, axis=1) * model.half_angstrom
        if kind == "occupancy":
            return densities / np.maximum(model.densities, 1e-9)
        if kind == "domain" and self.domains is not None and len(self.domains) == len(positions):
            return self.domains
        return None

    def _colour_chosen(self) -> None:
        if self.colour_by.currentData() not in COLOURINGS:
            super()._colour_chosen()

    def _repaint(self) -> None:
        """The menu of colours has changed."""
        if self.colour_by.currentData() == "map":
            return  # a file is asked for first
        if self.positions is None or self.densities is None:
            self.set_paint(None)
        else:
            self.set_paint(self.paint_of(self.positions, self.densities))
        self._draw()
        self._draw_points()

    def _colours(self) -> np.ndarray | None:  # (N, 4)
        """Colours of the Gaussians, None for those by density."""
        if self.marked is not None and self.densities is not None and len(self.marked) == len(self.densities):
            return np.where(
                self.marked[:, None], (*rgb(theme.colour("warning")), 1.0), (*rgb(theme.colour("faint")), 1.0)
            )
        if self.positions is None or self.densities is None or self.paint is None:
            return None
        values = self._quantity(self.positions, self.densities)
        if values is None:
            return None
        if self.paint.classes:
            return class_colours(self.paint.classes)[np.where(values < 0, self.paint.classes, values)]
        return shade(values, self.paint.low, self.paint.high)

    # --- pictures and the camera -----------------------------------------------------------------------------------

    def pixels_on_white(self, scale: float = 1.0) -> tuple[np.ndarray, float | None]:  # (H, W, 4) uint8
        """The view as it is, on white, and the length of a pixel in A where it is 3D; ``scale`` times the screen's
        pixels a side there."""
        if self.is_3d():
            pixels, length = self.canvas.on_white(scale)
            high, wide = pixels.shape[:2]
            drawn = QImage(np.ascontiguousarray(pixels).data, wide, high, 4 * wide, QImage.Format.Format_RGBA8888)
            return _pixels(self.colour_bar.below(drawn, on_white=True)), length
        image = self.picture_of_view().convertToFormat(QImage.Format.Format_RGBA8888)
        return _pixels(image), None

    def reset_view(self) -> None:
        """Centre and fit what is shown, and take the view's size as the one that this zoom fits."""
        super().reset_view()
        self._room = self._shorter_side()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        QTimer.singleShot(0, self, self._fit_room)

    def _shorter_side(self) -> int:
        return min(self.canvas.width(), self.canvas.height()) if self.canvas.model is not None and self.is_3d() else 0

    def _fit_room(self) -> None:
        """The molecule fills as much of its view as before, now that the view has another size."""
        now, camera = self._shorter_side(), self.camera()
        if self._silent or now < LEAST_ROOM or camera is None:  # a second view's camera follows the first's
            return
        if self._room >= LEAST_ROOM:
            camera.zoom *= now / self._room
        self._room = now

    def camera(self) -> Any:
        """napari's camera; None before the canvas is there."""
        return self.canvas.model.scene.camera if self.canvas.model is not None else None

    # --- drawing ---------------------------------------------------------------------------------------------------

    def _draw_points(self) -> None:
        super()._draw_points()
        layer = self.canvas.layer("gaussians")
        if layer is not None and layer.visible:
            colours = self._colours()
            if colours is not None and len(colours) == len(layer.data):
                layer.face_color = colours
        self._draw_arrows()
        self.canvas.let_see(inside=self._something_inside())

    def _something_inside(self) -> bool:
        return (
            super()._something_inside()
            or bool({"gain", "loss"} & set(self._extra))
            or bool(self.arrows.currentData())
            or self.segments is not None
        )

    def _draw_arrows(self) -> None:
        if self.canvas.model is None or self.model is None:
            return
        factor, data = self.arrows.currentData(), None
        if factor and self.positions is not None and len(self.positions) == len(self.model.positions):
            start = self.model.positions
            moved = (self.positions - start) * factor
            heavy = np.argsort(-np.linalg.norm(moved, axis=1) * self.model.densities)[:MAX_ARROWS]
            data = np.stack([start[heavy], moved[heavy]], axis=1)[:, :, ::-1] * self.model.half_angstrom
        self.canvas.show_vectors("arrows", data, "arrow", theme.colour("warning"), self.model.half_angstrom / 90)

    def _draw_model(self) -> None:
        if self.canvas.model is None or self.model is None:
            return
        data = None
        if self.segments is not None:
            start, end = self.segments[:, 0, ::-1], self.segments[:, 1, ::-1]
            data = np.stack([start, end - start], axis=1)
        self.canvas.show_vectors("model", data, "line", theme.colour("success"), self.model.half_angstrom / 70)
        self.canvas.let_see(inside=self._something_inside())

    def _draw_extra(self, key: str) -> None:
        """Draw or hide a second surface."""
        if self.canvas.model is None:
            return
        mesh, colour, opacity = self._extra.get(key, (None, "", 0.0))
        self.canvas.show_extra(key, mesh, colour, opacity)
        self.canvas.let_see(inside=self._something_inside())

    def _after_drawing(self) -> None:
        for key in list(self._extra):
            if self.canvas.layer(key) is None:
                self._draw_extra(key)
        if self.segments is not None and self.canvas.layer("model") is None:
            self._draw_model()
        self.canvas.let_see(inside=self._something_inside())
        if self.points.isChecked():
            layer = self.canvas.layer("gaussians")
            if layer is None or self._gaussians is None or layer.data.shape != self._gaussians.positions.shape:
                self._draw_points()
            elif self.model is not None and self._gaussians is not None:
                self._move_points(layer)
        elif self.arrows.currentData():
            self._draw_arrows()

    def _move_points(self, layer: Any) -> None:
        assert self._gaussians is not None and self.model is not None
        wanted = self._gaussians.positions * self.model.half_angstrom
        if np.array_equal(layer.data, wanted):
            return
        layer.data = wanted
        colours = self._colours()
        layer.face_color = colours if colours is not None else shade(self._gaussians.densities)
        if self.arrows.currentData():
            self._draw_arrows()


def _pixels(image: QImage) -> np.ndarray:  # (H, W, 4) uint8
    data = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine() // 4, 4)
    return data[:, : image.width()].copy()
