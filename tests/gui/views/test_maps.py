"""Several maps in one view on a real display: laid over, side by side, their difference, and colours by another map."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import LONG
from live_engine import blob
from PIL import Image
from PySide6.QtCore import QEvent, QPoint, QPointF, Qt
from PySide6.QtGui import QMouseEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QMenu, QToolButton
from test_display import LOAD, coloured, on_a_display, pytestmark, viewer  # noqa: F401 - fixtures and marks

from gaussianem_core.io.mrc import write_map
from gaussianem_gui.explorer.painting import RAMP_END
from gaussianem_gui.explorer.volumes import difference, load_volume
from gaussianem_gui.views.plots import canvas_starter
from gaussianem_gui.views.plots.maps_drawn import difference_meshes

LEFT = Qt.MouseButton.LeftButton
VOXEL = 3.0


@pytest.fixture
def maps(tmp_path: Path) -> list[Path]:
    for number in range(4):
        write_map(tmp_path / f"class_{number + 1}.mrc", blob(2.0 * number, 32), VOXEL)
    return sorted(tmp_path.glob("class_*.mrc"))


@pytest.fixture
def shown(viewer, qtbot, maps):  # noqa: F811
    viewer.resize(760, 560)
    viewer.show_volumes(maps)
    qtbot.waitUntil(lambda: viewer.is_3d(), timeout=LOAD)
    return viewer


def button(viewer, name: str, kind=QToolButton):  # noqa: F811
    return viewer.findChild(kind, name)


def test_a_map_is_laid_over_with_eye_and_opacity_and_taken_away(shown, qtbot, maps):
    shown.offer_maps([("Class 3", maps[2])])
    qtbot.mouseClick(button(shown, "mapsButton"), LEFT)
    assert shown.map_list.isVisible()
    qtbot.mouseClick(shown.map_list.add_button, LEFT)
    menu = shown.map_list.findChild(QMenu)
    menu.actions()[0].trigger()
    qtbot.waitUntil(lambda: shown.layers() == ["surface", "Class 3"], timeout=LONG)
    layer = shown.canvas.layer("Class 3")
    # it lies where its own map has its blob: 4 voxels along x
    assert layer.data[0].mean(axis=0) == pytest.approx([0, 0, 4 * VOXEL], abs=0.3)
    (laid,) = shown.map_list.maps
    assert layer.opacity == laid.opacity < 1
    qtbot.mouseClick(button(shown.map_list, "mapEye"), LEFT)
    qtbot.waitUntil(lambda: shown.layers() == ["surface"], timeout=LONG)
    qtbot.mouseClick(button(shown.map_list, "mapEye"), LEFT)
    qtbot.waitUntil(lambda: "Class 3" in shown.layers(), timeout=LONG)
    # volumes of one series are contoured at one level
    widest = np.ptp(layer.data[0], axis=0)
    shown.set_contour(0.8)
    qtbot.waitUntil(lambda: (np.ptp(layer.data[0], axis=0) < widest - 1).all(), timeout=LONG)
    shown.map_list.remove(laid)
    qtbot.waitUntil(lambda: shown.layers() == ["surface"], timeout=LONG)


def test_the_difference_of_two_maps_is_where_they_differ(shown, qtbot, maps):
    laid = shown.map_list.add(maps[3])
    shown.maps_button.setChecked(True)
    qtbot.waitUntil(lambda: maps[3].stem in shown.layers(), timeout=LONG)
    qtbot.mouseClick(button(shown.map_list, "mapDifference"), LEFT)
    qtbot.waitUntil(lambda: {"gain", "loss"} <= set(shown.layers()), timeout=LONG)
    # the map shown has its blob at x = 0, the other one at 6 voxels
    more, less = (shown.canvas.layer(name).data[0][:, 2].mean() for name in ("gain", "loss"))
    assert more < 0 < 6 * VOXEL < less
    assert "red: less" in shown.remark.full_text() and "class_4" in shown.remark.full_text()
    assert shown.canvas.layer("surface").opacity < 1
    shown.map_list.remove(laid)
    qtbot.waitUntil(lambda: shown.layers() == ["surface"], timeout=LONG)
    assert shown.canvas.layer("surface").opacity == 1 and not shown.remark.isVisible()


def test_a_difference_is_exact_and_asks_for_one_box(maps, tmp_path: Path):
    one, other = load_volume(maps[0], 100), load_volume(maps[1], 100)
    found = difference(one, other)
    np.testing.assert_allclose(found.values, other.values - one.values, atol=1e-6)
    meshes, sigmas = difference_meshes(one, other)
    assert sigmas >= 1.5 and all(len(faces) for _, faces in meshes)
    write_map(tmp_path / "other.mrc", blob(0, 32), 2 * VOXEL)
    with pytest.raises(ValueError, match="must have the box"):
        difference(load_volume(tmp_path / "other.mrc", 100), one)


def test_all_volumes_of_a_series_side_by_side_under_one_camera(shown, qtbot, maps):
    canvas = shown.canvas
    qtbot.mouseClick(button(shown, "mapGrid"), LEFT)
    qtbot.waitUntil(lambda: canvas.model.canvas.grid.enabled and len(shown.layers()) == 4, timeout=LONG)
    assert [name.strip() for name in shown.layers()] == [path.stem for path in maps]
    qtbot.wait(200)
    before = shown.picture_of_view()
    assert coloured(before) > 0.02
    boxes = {
        canvas.model.canvas.grid.position(n, canvas.model.layers)
        for n, layer in enumerate(canvas.model.layers)
        if layer.visible
    }
    assert len(boxes) == 4
    before_x = np.ptp(canvas.layer(f"{maps[0].stem} ").data[0][:, 2])
    shown.level._user(0.8)
    qtbot.waitUntil(lambda: np.ptp(canvas.layer(f"{maps[0].stem} ").data[0][:, 2]) < before_x - 1, timeout=LONG)
    qtbot.mouseClick(button(shown, "mapGrid"), LEFT)
    qtbot.waitUntil(lambda: shown.layers() == ["surface"], timeout=LONG)
    assert not canvas.model.canvas.grid.enabled
    shown.set_frame(2)
    qtbot.waitUntil(lambda: abs(canvas.drawn.mesh[0].mean(axis=0)[2] - 4 * VOXEL) < 0.3, timeout=LONG)


def test_a_series_is_written_as_a_movie(shown, qtbot, tmp_path: Path):
    target = tmp_path / "series.gif"
    with qtbot.waitSignal(shown.movie.written, timeout=LOAD):
        shown.movie.record(target)
    with Image.open(target) as movie:
        assert movie.n_frames == 6  # four volumes, to and fro
        frames = []
        for number in range(movie.n_frames):
            movie.seek(number)
            frames.append(np.asarray(movie.convert("L"), int))
    dark = [np.nonzero(frame < 200)[1].mean() for frame in frames]  # the blob moves away, and back
    assert dark[:4] in (sorted(dark[:4]), sorted(dark[:4], reverse=True)) and len(set(dark[:4])) == 4
    assert f"Saved: {target}" in shown.remark.full_text()


def test_a_surface_shows_the_values_of_another_map_with_a_colour_bar(shown, qtbot, tmp_path: Path):
    ramp = np.broadcast_to(np.arange(32, dtype=np.float32), (32, 32, 32))  # like local resolution, 0 to 31 along x
    write_map(tmp_path / "resolution.mrc", np.ascontiguousarray(ramp), VOXEL)
    shown.colour_by_map(tmp_path / "resolution.mrc")
    qtbot.waitUntil(lambda: shown.paint is not None and shown.canvas.drawn.values.max() > 0.5, timeout=LONG)
    vertices, values = shown.canvas.drawn.mesh[0], shown.canvas.drawn.values
    x = vertices[:, 2] / VOXEL + 16
    paint = shown.paint
    wanted = RAMP_END * np.clip((x - paint.low) / (paint.high - paint.low), 0, 1)
    np.testing.assert_allclose(values, wanted, atol=1e-3)
    assert shown.colour_bar.isVisible() and shown.colour_bar.text().startswith("resolution ")
    shown.colour_by.setCurrentIndex(0)
    shown._colour_chosen()
    qtbot.waitUntil(lambda: not shown.canvas.drawn.values.any(), timeout=LONG)
    assert not shown.colour_bar.isVisible()


def test_the_middle_button_moves_and_the_scale_bar_is_to_scale(shown, qtbot):
    canvas = shown.canvas
    assert canvas.model.canvas.overlays.scale_bar.visible
    native = canvas.view.canvas.native

    def middle() -> np.ndarray:
        pixels = canvas.on_white()[0][..., :3].astype(int)
        rows, columns = np.nonzero(np.abs(pixels - 255).sum(axis=2) > 60)
        return np.array([columns.mean(), rows.mean()])

    before, (_, angstrom) = middle(), canvas.on_white()
    drag = QPoint(40, 25)
    start = native.rect().center()
    QTest.mousePress(native, Qt.MouseButton.MiddleButton, pos=start)
    for share in (0.5, 1.0):
        place = start + drag * share
        held = Qt.MouseButton.MiddleButton
        event = QMouseEvent(
            QEvent.Type.MouseMove,
            QPointF(place),
            QPointF(native.mapToGlobal(place)),
            Qt.MouseButton.NoButton,
            held,
            Qt.KeyboardModifier.NoModifier,
        )
        QApplication.sendEvent(native, event)
    QTest.mouseRelease(native, Qt.MouseButton.MiddleButton, pos=start + drag)
    np.testing.assert_allclose(middle() - before, [40, 25], atol=3)
    # a blob of known size has the size that the scale says
    pixels = canvas.on_white()[0][..., :3].astype(int)
    seen = np.nonzero((np.abs(pixels - 255).sum(axis=2) > 60).any(axis=0))[0]
    true = np.ptp(canvas.drawn.mesh[0], axis=0).max()
    assert (seen.max() - seen.min()) * angstrom == pytest.approx(true, rel=0.15)


def test_slices_have_a_crosshair_numbers_and_a_contrast(shown, qtbot):
    shown.mode.setCurrentIndex(shown.mode.findData("slices"))
    slices = shown.slices
    assert slices.crosshair() == (16, 16, 16)
    slices.look_at(0, 20.4, 10.2)  # in XY: x 20, y 10
    assert slices.crosshair() == (16, 10, 20)
    np.testing.assert_array_equal(slices.shown(1), shown.picture.values[:, 10])
    assert slices.places[1].text().startswith("y 11 of 32")
    assert f"{shown.picture.values[16, 10, 20]:.4g}" in slices.value.full_text()
    assert [line.value() for line in slices._lines[0]] == [20.5, 10.5]
    low, high = slices.levels()
    slices.contrast.setValue(100)
    assert slices.levels()[1] < high or slices.levels()[0] > low


def test_the_whole_window_for_the_view_and_back(opened, qtbot):
    window = opened
    job = window.model.project.new_job("analyze", {})
    window.model.refresh()
    qtbot.waitUntil(lambda: window.model.info(job.name) is not None, timeout=LONG)
    window.pages.open_job(job.name, "Results")
    results = window.pane.results
    results.split.show()
    results.viewer.bar.setEnabled(True)
    seen = [window.menuBar(), window.jobs_dock, window.statusBar(), window.pane.tabs.tabBar()]
    assert all(part.isVisible() for part in seen)
    qtbot.mouseClick(results.viewer.full_button, LEFT)
    assert not any(part.isVisible() for part in seen) and results.viewer.isVisible()
    qtbot.mouseClick(results.viewer.full_button, LEFT)
    assert all(part.isVisible() for part in seen)


def test_slow_libraries_are_loaded_while_the_user_looks_around(window, qtbot):
    window.pages.load_in_background()
    qtbot.waitUntil(lambda: not window.pages._background.busy("libraries"), timeout=LOAD)
    assert {"napari.components", "vispy.scene", "gaussianem_gui.explorer.particle_columns"} <= set(sys.modules)
    assert canvas_starter._FOUND
