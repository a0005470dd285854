"""What can be done in the 3D view, for the command palette."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gaussianem_gui.views.toolkit.palette_entry import PaletteEntry

if TYPE_CHECKING:
    from gaussianem_gui.views.plots.viewer import Viewer


def viewer_actions(viewer: Viewer) -> list[PaletteEntry]:
    """The controls of a view that need no value, in the words of their menus or tooltips."""
    where = "3D view"
    found = [
        PaletteEntry("Show all of the molecule", "Reset the view in 3D", "fit", viewer.reset_view),
        PaletteEntry("The whole window for the 3D view", "Esc goes back", "external", viewer.full.toggle, "F11"),
        PaletteEntry("Save a picture of the 3D view", "As PNG", "camera", viewer.save_picture),
        PaletteEntry("Show or hide Gaussians", where, "points", viewer.points.toggle),
    ]
    for place in range(viewer.mode.count()):
        text = f"Draw as {viewer.mode.itemText(place).lower()}"
        found.append(PaletteEntry(text, where, "cube", partial(viewer.mode.setCurrentIndex, place)))
    for place in range(viewer.colour_by.count()):
        text = f"Colour the surface: {viewer.colour_by.itemText(place).lower()}"
        found.append(PaletteEntry(text, where, "palette", partial(viewer.choose_colour, place)))
    if not viewer.maps_button.isHidden():
        found.append(PaletteEntry("Lay maps over the volume", where, "compare", viewer.maps_button.toggle))
    if not viewer.grid_button.isHidden():
        title = "All volumes of the series side by side"
        found.append(PaletteEntry(title, "Under one camera", "plots-4", viewer.grid_button.toggle))
    return found
