"""The explorer's 3D view on a real display: run under xvfb-run with GLX."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PySide6.QtCore import QPoint
from PySide6.QtGui import QGuiApplication
from test_explorer import LEFT, explored  # noqa: F401 - a fixture

from gaussianem_core.io.mrc import read_map
from gaussianem_gui.explorer.volumes import Look
from gaussianem_gui.views.plots.lasso_3d import Lasso3D, on_screen
from gaussianem_gui.views.plots.surfaces import prepare
from gaussianem_gui.views.toolkit.theme import theme

# napari's plugin manifests (npe2) are declared as pydantic 1 did; that is its authors' to change.
pytestmark = [
    pytest.mark.display,
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]


@pytest.fixture(autouse=True)
def on_a_display(qapp) -> None:
    if QGuiApplication.platformName() != "xcb":
        pytest.skip("needs an X display: QT_QPA_PLATFORM=xcb xvfb-run pytest -m display")


@pytest.fixture
def seen(explored, qtbot):  # noqa: F811
    """The explorer with its molecule drawn."""
    _, explorer, second = explored
    qtbot.waitUntil(lambda: explorer.session.consensus is not None and explorer.scene.viewer.is_3d(), timeout=120_000)
    qtbot.waitUntil(lambda: "surface" in explorer.scene.viewer.layers(), timeout=60_000)
    return explorer, second


def click(explorer, qtbot, row: int) -> None:
    """Show a particle and wait until it is drawn."""
    with qtbot.waitSignal(explorer.scene.decodedShown, timeout=60_000):
        explorer.session.show_latent(explorer.session.table.z[row].astype(float))
    qtbot.waitUntil(lambda: not explorer.scene.viewer.surfaces.busy(), timeout=60_000)
    qtbot.wait(100)


def shot(explorer) -> np.ndarray:
    """What the view shows, on white."""
    return explorer.scene.viewer.pixels_on_white()[0].astype(int)


def test_what_is_drawn_is_what_was_clicked(seen, qtbot, tmp_path: Path):
    explorer, second = seen
    first, other = int(np.flatnonzero(~second)[0]), int(np.flatnonzero(second)[0])
    click(explorer, qtbot, first)
    one = shot(explorer)
    click(explorer, qtbot, other)
    two = shot(explorer)
    click(explorer, qtbot, first)
    again = shot(explorer)
    changed = np.abs(two - one).sum()
    assert changed > 0 and np.abs(again - one).sum() < 0.1 * changed
    assert (one[2, 2, :3] > 250).all() and (one[..., :3].min(axis=-1) < 200).any()  # white, with something on it

    explorer.scene.viewer.points.setChecked(True)
    explorer.scene.viewer.arrows.setCurrentIndex(3)
    click(explorer, qtbot, other)
    layers = {layer.name: layer for layer in explorer.scene.viewer.canvas.model.layers}
    assert {"surface", "gaussians", "arrows"} <= set(explorer.scene.viewer.layers())
    half = explorer.session.consensus.half_angstrom
    assert np.allclose(layers["gaussians"].data, explorer.session.picture.positions[:, ::-1] * half, atol=1e-4)
    start, along = layers["arrows"].data[:, 0], layers["arrows"].data[:, 1]
    moved = (explorer.session.picture.positions - explorer.session.consensus.positions)[:, ::-1] * half
    rest = explorer.session.consensus.positions[:, ::-1] * half
    place = np.abs(rest[:, None] - start[None]).sum(axis=-1).argmin(axis=0)
    assert np.allclose(along, 10 * moved[place], atol=1e-3)
    explorer.scene.viewer.show_domains(np.arange(len(rest)) % 3)
    assert len(np.unique(layers["gaussians"].face_color, axis=0)) == 3
    assert explorer.scene.viewer.colour_bar.text() == "Domain 1 to 3"
    qtbot.wait(200)  # the colour bar takes its room

    dark = shot(explorer)
    theme.apply("light")
    qtbot.wait(200)
    assert np.abs(shot(explorer) - dark).sum() > 0
    theme.apply("dark")
    qtbot.wait(200)

    for ending in ("png", "pdf", "svg"):
        path = tmp_path / f"view.{ending}"
        explorer.scene.write_view(path)
        qtbot.waitUntil(path.exists, timeout=60_000)
    with Image.open(tmp_path / "view.png") as image:
        assert image.getpixel((1, 1))[:3] == (255, 255, 255)


def drawn(explorer) -> np.ndarray:
    """Vertices that the canvas was handed for the surface, whatever the layer thinks."""
    viewer = explorer.scene.viewer
    return viewer.canvas.surface_node().mesh_data.get_vertices()


def test_what_was_clicked_stays_on_the_screen_whatever_napari_draws_again(seen, qtbot):
    explorer, second = seen
    click(explorer, qtbot, int(np.flatnonzero(~second)[0]))
    click(explorer, qtbot, int(np.flatnonzero(second)[0]))
    wanted = drawn(explorer).copy()
    viewer = explorer.scene.viewer
    layer = viewer.canvas.layer("surface")
    layer.refresh()
    assert np.array_equal(drawn(explorer), wanted)
    viewer.show_surface(
        "mask", prepare(viewer.picture, Look(viewer.picture.level(2.0))).mesh, "#3399ff", 0.3
    )  # another layer comes
    viewer.show_surface("mask", None)
    assert np.array_equal(drawn(explorer), wanted)
    layer.visible = False
    layer.visible = True
    viewer.canvas.model.dims.ndisplay = 2
    viewer.canvas.model.dims.ndisplay = 3
    assert np.array_equal(drawn(explorer), wanted)
    viewer.set_contour(viewer.picture.level(viewer.sigmas() + 0.5))
    qtbot.waitUntil(lambda: not np.array_equal(drawn(explorer), wanted), timeout=60_000)


def displacements(explorer, viewer) -> tuple[np.ndarray, np.ndarray]:
    """How far each Gaussian of a view has moved, in A, and which one is nearest to each vertex of its surface."""
    model = explorer.session.consensus
    moved = np.linalg.norm(viewer.positions - model.positions, axis=1) * model.half_angstrom
    places = viewer.positions[:, ::-1] * model.half_angstrom
    return moved, np.linalg.norm(viewer.canvas.drawn.mesh[0][:, None] - places[None], axis=2).argmin(axis=1)


def test_the_surface_is_coloured_by_what_the_gaussians_do(seen, qtbot):
    explorer, second = seen
    viewer = explorer.scene.viewer
    click(explorer, qtbot, int(np.flatnonzero(second)[0]))
    assert not viewer.canvas.drawn.values.any() and not viewer.colour_bar.isVisible()
    viewer.colour_by.setCurrentIndex(viewer.colour_by.findData("displacement"))
    qtbot.waitUntil(lambda: viewer.canvas.drawn.values.any(), timeout=60_000)
    # each place of the surface has the colour of how far the Gaussians there have moved
    moved, nearest = displacements(explorer, viewer)
    values = viewer.canvas.drawn.values
    assert np.corrcoef(values, moved[nearest])[0, 1] > 0.8
    assert viewer.colour_bar.text() == f"Displacement 0 to {np.percentile(moved, 98):.3g} Å"
    viewer.colour_by.setCurrentIndex(viewer.colour_by.findData("occupancy"))
    qtbot.waitUntil(lambda: viewer.paint is not None and viewer.paint.name == "Occupancy", timeout=60_000)
    assert viewer.colour_bar.text() == "Occupancy 0 to 1.25 of the consensus"
    viewer.colour_by.setCurrentIndex(0)
    qtbot.waitUntil(lambda: not viewer.canvas.drawn.values.any(), timeout=60_000)


def test_a_written_view_says_what_its_colours_mean(seen, qtbot):
    explorer, _ = seen
    viewer = explorer.scene.viewer
    plain = shot(explorer).shape
    viewer.colour_by.setCurrentIndex(viewer.colour_by.findData("displacement"))
    qtbot.waitUntil(lambda: viewer.colour_bar.isVisible() and not viewer.surfaces.busy(), timeout=60_000)
    pixels = shot(explorer)
    bar = pixels[-round(viewer.colour_bar.height() * pixels.shape[1] / viewer.colour_bar.width()) :]
    assert pixels.shape[1] == plain[1] and len(bar) > 10
    assert len(np.unique(bar[..., :3].reshape(-1, 3), axis=0)) > 50  # a ramp and its words on white
    assert (np.abs(bar[0, 0, :3] - 255) < 3).all()
    assert viewer.picture_of_view().height() > viewer.canvas.image().height()


def test_gaussians_are_as_wide_as_they_are_and_a_lasso_round_some_makes_a_mask(seen, qtbot):
    explorer, _ = seen
    viewer, panel = explorer.scene.viewer, explorer.panels["Mask"]
    model = explorer.session.consensus
    explorer.show_panel(panel)
    panel.source.setCurrentIndex(panel.source.findData("shown"))
    panel._source_changed()
    qtbot.waitUntil(lambda: panel.volume is not None and viewer.canvas.layer("mask") is not None, timeout=60_000)
    whole = panel.text.text()
    qtbot.mouseClick(panel.lasso, LEFT)
    layer, native = viewer.canvas.layer("gaussians"), viewer.canvas.view.canvas.native
    width = 2 * np.sqrt(2 * np.log(2)) * model.sigmas * model.half_angstrom
    np.testing.assert_allclose(layer.size, width, rtol=1e-3)
    places = on_screen(viewer.canvas.view, layer)
    assert ((0 <= places) & (places <= [native.width(), native.height()])).all()
    assert "wide" in viewer.describe(*places[0]) and not viewer.describe(-50.0, -50.0)
    # round the half that is seen at the right
    middle, low, high = float(np.median(places[:, 0])), *(places.min(axis=0) - 5, places.max(axis=0) + 5)
    outline = [(middle, low[1]), (high[0], low[1]), (high[0], high[1]), (middle, high[1])]
    lasso = native.findChild(Lasso3D)
    corners = [QPoint(round(x), round(y)) for x, y in outline]
    qtbot.mousePress(lasso, LEFT, pos=corners[0])
    for corner in corners[1:]:
        qtbot.mouseMove(lasso, corner)
    qtbot.mouseRelease(lasso, LEFT, pos=corners[-1])
    clear = np.abs(places[:, 0] - middle) > 1.5  # the outline is in whole pixels
    np.testing.assert_array_equal(panel.chosen[clear], (places[:, 0] > middle)[clear])
    qtbot.waitUntil(lambda: "Gaussians: " in panel.text.text(), timeout=60_000)
    assert panel.text.text().split(": ")[1] != whole
    qtbot.mouseClick(panel.save, LEFT)
    folder = explorer.session.root / "Mask"
    qtbot.waitUntil(lambda: bool(list(folder.glob("job*/RELION_JOB_EXIT_SUCCESS"))), timeout=60_000)
    mask = read_map(next(folder.glob("job*/mask.mrc"))).values
    recipe = json.loads(next(folder.glob("job*/recipe.json")).read_text())
    assert recipe["gaussians"] == np.flatnonzero(panel.chosen).tolist()
    # most of what lies at the chosen Gaussians is inside, and nothing at those far from them
    index = np.rint((model.positions[:, ::-1] + 1) * mask.shape[0] / 2).astype(int).clip(0, mask.shape[0] - 1)
    inside = mask[tuple(index.T)] > 0.5
    assert inside[panel.chosen].mean() > inside[~panel.chosen].mean() + 0.3
    qtbot.mouseClick(panel.everything, LEFT)
    assert panel.chosen is None and not panel.recipe().gaussians


def test_a_model_and_a_map_are_laid_over_and_taken_away(seen, qtbot, tmp_path: Path):
    explorer, _ = seen
    window = explorer.window()
    lines = [
        f"ATOM  {i + 1:5d}  CA  ALA A{i + 1:4d}    {3.8 * i - 20:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00           C"
        for i in range(10)
    ]
    (tmp_path / "m.pdb").write_text("\n".join([*lines, "END", ""]))
    explorer.scene.show_reference(tmp_path / "m.pdb")
    qtbot.waitUntil(lambda: "model" in explorer.scene.viewer.layers(), timeout=60_000)
    data = explorer.scene.viewer.canvas.layer("model").data
    assert data.shape == (9, 2, 3) and np.allclose(data[:, 1], [0, 0, 3.8], atol=1e-3)
    assert explorer.scene.viewer.canvas.layer("surface").opacity < 1  # it is seen through the surface
    assert explorer.scene.reference.isChecked()
    qtbot.mouseClick(explorer.scene.reference, LEFT)
    assert "model" not in explorer.scene.viewer.layers() and not explorer.scene.reference.isChecked()
    explorer.scene.show_reference(window.model.root / "consensus.mrc")
    qtbot.waitUntil(lambda: "reference" in explorer.scene.viewer.layers(), timeout=60_000)
    qtbot.mouseClick(explorer.scene.reference, LEFT)
    assert "reference" not in explorer.scene.viewer.layers()


def test_a_written_view_is_sharper_than_the_screen_and_to_scale(seen, qtbot):
    explorer, _ = seen
    viewer = explorer.scene.viewer
    once, length = viewer.pixels_on_white()
    zoom = viewer.camera().zoom
    thrice, shorter = viewer.pixels_on_white(3.0)
    assert thrice.shape[1] == pytest.approx(3 * once.shape[1], abs=3)
    assert shorter == pytest.approx(length / 3, rel=0.02) and viewer.camera().zoom == pytest.approx(zoom)

    def share(pixels: np.ndarray) -> float:
        return float((pixels[..., :3].min(axis=-1) < 240).mean())

    assert share(thrice) == pytest.approx(share(once), rel=0.1)  # the molecule fills as much of the picture
    viewer.mode.setCurrentIndex(viewer.mode.findData("mip"))
    qtbot.waitUntil(lambda: "projection" in viewer.layers(), timeout=60_000)
    projection = viewer.pixels_on_white()[0]
    assert (projection[2, 2, :3] > 250).all() and share(projection) > 0


def test_the_molecule_is_cut_open_in_every_picture(seen, qtbot):
    explorer, second = seen
    viewer = explorer.scene.viewer
    whole = np.ptp(drawn(explorer), axis=0)
    viewer.cuts.kind.setCurrentIndex(viewer.cuts.kind.findData("x"))
    viewer.cuts.slider.setValue(50)
    qtbot.waitUntil(lambda: np.ptp(drawn(explorer), axis=0)[0] < 0.8 * whole[0], timeout=60_000)
    click(explorer, qtbot, int(np.flatnonzero(second)[0]))
    assert np.ptp(drawn(explorer), axis=0)[0] < 0.8 * whole[0]
    viewer.cuts.slider.setValue(0)
    qtbot.waitUntil(lambda: np.ptp(drawn(explorer), axis=0)[0] > 0.9 * whole[0], timeout=60_000)


def test_two_states_side_by_side_share_the_camera_and_show_their_difference(seen, qtbot):
    explorer, second = seen
    click(explorer, qtbot, int(np.flatnonzero(~second)[0]))
    qtbot.mouseClick(explorer.scene.keep_button, LEFT)
    qtbot.waitUntil(lambda: explorer.scene.second.is_3d() and explorer.scene.second.property("linked"), timeout=60_000)
    explorer.scene.viewer.camera().angles = (10, 40, 70)
    assert explorer.scene.second.camera().angles == pytest.approx((10, 40, 70))
    explorer.scene.second.camera().zoom = 2.5
    assert explorer.scene.viewer.camera().zoom == pytest.approx(2.5)
    # the controls stand above both: neither view is squeezed
    left, right = explorer.scene.viewer, explorer.scene.second
    assert abs(left.width() - right.width()) < 12 and left.height() == right.height()
    assert explorer.scene.viewer.bar.width() > left.width() + right.width() - 20
    explorer.scene.difference.setChecked(True)
    click(explorer, qtbot, int(np.flatnonzero(second)[0]))
    qtbot.waitUntil(lambda: bool({"gain", "loss"} & set(explorer.scene.viewer.layers())), timeout=60_000)
    qtbot.waitUntil(lambda: "than in the kept state" in explorer.scene.status.full_text(), timeout=60_000)
    plot = explorer.grid.plots[0]
    assert plot._other.data["x"][0] == pytest.approx(plot.points[np.flatnonzero(~second)[0], 0])
    explorer.scene.difference.setChecked(False)
    # both have the same colours by the same scale, each by what its own Gaussians do
    left.colour_by.setCurrentIndex(left.colour_by.findData("displacement"))
    qtbot.waitUntil(lambda: right.canvas.drawn is not None and right.canvas.drawn.values.any(), timeout=60_000)
    assert right.paint.name == left.paint.name and right.paint.high == left.paint.high
    moved, nearest = displacements(explorer, right)
    assert np.corrcoef(right.canvas.drawn.values, moved[nearest])[0, 1] > 0.8
    assert left.colour_bar.isVisible() and not right.colour_bar.height()
    left.colour_by.setCurrentIndex(0)
    qtbot.waitUntil(lambda: not right.canvas.drawn.values.any(), timeout=60_000)
    assert not {"gain", "loss"} & set(explorer.scene.viewer.layers())
    qtbot.mouseClick(explorer.scene.keep_button, LEFT)
    assert explorer.scene.second.width() == 0 and explorer.session.kept is None
    qtbot.mouseClick(explorer.scene.keep_button, LEFT)
    qtbot.waitUntil(lambda: explorer.scene.second.width() > 100, timeout=60_000)
    qtbot.wait(300)


def test_a_trajectory_plays_and_every_frame_is_drawn(seen, qtbot):
    explorer, _ = seen
    panel = explorer.panels["Trajectory"]
    explorer.show_panel(panel)
    panel.kind.setCurrentIndex(panel.kind.findData("component"))
    panel.count.setValue(8)
    qtbot.mouseClick(panel.make, LEFT)
    qtbot.waitUntil(lambda: len(panel.player.meshes) == 8, timeout=60_000)
    pictures = []
    for frame in range(8):
        panel.player.slider.setValue(frame)
        qtbot.wait(30)
        pictures.append(shot(explorer))
    assert all(np.abs(a - b).sum() > 0 for a, b in pairwise(pictures))
    panel.player.slider.setValue(0)
    qtbot.mouseClick(panel.player.play, LEFT)
    qtbot.waitUntil(lambda: len(panel.player.shown_at) > 20, timeout=60_000)
    qtbot.mouseClick(panel.player.play, LEFT)
    assert not panel.player.playing()
