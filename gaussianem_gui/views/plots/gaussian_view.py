"""Gaussians as points in the view of a volume: drawn as wide as they are, and named where the pointer is."""

from __future__ import annotations

from PySide6.QtCore import QPointF
from PySide6.QtWidgets import QToolTip

from gaussianem_gui.explorer.volumes import GaussianPoints
from gaussianem_gui.views.plots.lasso_3d import on_screen, point_under
from gaussianem_gui.views.plots.surfaces import shade
from gaussianem_gui.views.plots.viewer_frame import ViewerFrame
from gaussianem_gui.views.toolkit.widgets import plain

UNKNOWN_HALF = 50.0  # A, for Gaussians without a map and without their configuration


class GaussianView(ViewerFrame):
    """A view that can show Gaussians, by themselves or inside the surface of a volume."""

    def __init__(self) -> None:
        super().__init__()
        self._gaussians: GaussianPoints | None = None
        self.points.toggled.connect(self._draw_points)
        self.canvas.hovered.connect(self._hovered)

    def _take_gaussians(self, found: GaussianPoints) -> None:
        self._gaussians = found
        if self._paths or self._start_3d():
            self._draw_points()

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
        """Length in Angstrom of the Gaussians' unit, half the box: of the map that is shown, else of the one they were
        made for, UNKNOWN_HALF where that is not known."""
        if self.picture is not None:
            return self.picture.half_angstrom
        known = self._gaussians.half_angstrom if self._gaussians is not None else None
        return known if known is not None else UNKNOWN_HALF

    def _hovered(self, place: QPointF) -> None:
        text = self.describe(place.x(), place.y())
        native = self.canvas.view.canvas.native
        QToolTip.showText(native.mapToGlobal(place.toPoint()), plain(text), native)

    def gaussian_at(self, x: float, y: float) -> int | None:
        """Row of the Gaussian at a place of the canvas (pixels), None if there is none."""
        layer, known = self.canvas.layer("gaussians"), self._gaussians
        if layer is None or not layer.visible or known is None:
            return None
        number = point_under(on_screen(self.canvas.view, layer), x, y)
        return number if number is not None and number < len(known.positions) else None

    def describe(self, x: float, y: float) -> str:
        """Number, place and width in Å of the Gaussian at a place of the canvas (pixels); "" where there is none."""
        number, known, half = self.gaussian_at(x, y), self._gaussians, self.half_angstrom()
        if number is None or known is None:
            return ""
        place = " ".join(f"{part * half:.0f}" for part in known.positions[number, ::-1])
        widths = known.widths(half)
        wide = "" if widths is None else f", {widths[number]:.1f} Å wide"
        return f"Gaussian {number + 1} of {len(known.positions)}\nat x y z {place} Å from the centre{wide}"
