"""What needs OpenGL: the 3D view, and a new user's way from the first window to a volume. Run under xvfb:

``QT_QPA_PLATFORM=xcb xvfb-run -s "-screen 0 1400x900x24 +extension GLX" pytest -m display tests/gui``
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import LONG, finish
from live_engine import GAUSSIANS, blob
from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication, QDialog, QLineEdit, QPushButton, QWidget

from gaussianem_core.io.mrc import write_map
from gaussianem_gui.demo.run import DEMO
from gaussianem_gui.views.plots import canvas_starter as starter_room
from gaussianem_gui.views.plots.lasso_3d import on_screen
from gaussianem_gui.views.plots.opengl_probe import OpenGL, probe
from gaussianem_gui.views.plots.viewer import Viewer
from gaussianem_gui.views.toolkit.theme import theme

# napari's plugin manifests (npe2) are declared as pydantic 1 did; that is its authors' to change.
pytestmark = [
    pytest.mark.display,
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
LOAD = 90_000  # milliseconds for napari's first import on a busy machine


@pytest.fixture(autouse=True)
def on_a_display(qapp) -> None:
    if QGuiApplication.platformName() != "xcb":
        pytest.skip("needs an X display: QT_QPA_PLATFORM=xcb xvfb-run pytest -m display")


@pytest.fixture
def volumes(tmp_path: Path) -> list[Path]:
    for number in range(5):
        write_map(tmp_path / f"v_{number}.mrc", blob(2.0 * (number - 2), 32), 3.0)
    points = np.random.default_rng(0).normal(size=(200, 4)).astype("<f4") / 4
    (tmp_path / "g.ply").write_bytes(GAUSSIANS.encode() + points.tobytes())
    return sorted(tmp_path.glob("v_*.mrc"))


@pytest.fixture
def viewer(themed, qtbot):
    view = Viewer()
    qtbot.addWidget(view)
    view.resize(420, 380)
    view.show()
    yield view
    view.shut_down()


def coloured(image) -> float:
    """Share of the picture that is not its background."""
    small = image.scaled(120, 90)
    ground = small.pixelColor(2, 60)
    other = sum(
        abs(small.pixelColor(x, y).lightness() - ground.lightness()) > 12 for x in range(120) for y in range(90)
    )
    return other / (120 * 90)


def test_the_driver_is_asked_in_another_process() -> None:
    found = probe()
    assert found.available and found.renderer and found.version
    assert OpenGL(True, "llvmpipe (LLVM 15)").software and not OpenGL(True, "NVIDIA A100").software


def test_a_series_is_shown_contoured_and_played(viewer, qtbot, volumes) -> None:
    viewer.show_volumes(volumes)
    qtbot.waitUntil(lambda: viewer.is_3d(), timeout=LOAD)
    assert viewer.layers() == ["surface"]
    before = viewer.picture_of_view()
    assert coloured(before) > 0.01
    vertices = [len(viewer.canvas.drawn.mesh[0])]
    viewer.set_contour(viewer.picture.level(viewer.sigmas() + 2))
    qtbot.waitUntil(lambda: len(viewer.canvas.drawn.mesh[0]) != vertices[0], timeout=LONG)
    seen: list[int] = []
    viewer.frameChanged.connect(seen.append)
    viewer.series.play.click()
    qtbot.waitUntil(lambda: len(set(seen)) == 5, timeout=LONG)
    viewer.series.play.click()
    centre = viewer.canvas.drawn.mesh[0].mean(axis=0)[2]
    viewer.set_frame(0)
    qtbot.waitUntil(lambda: viewer.series.text.text().startswith("v_0"), timeout=LONG)
    qtbot.waitUntil(lambda: viewer.canvas.drawn.mesh[0].mean(axis=0)[2] < -8, timeout=LONG)
    assert np.isfinite(centre)


def type_level(viewer, qtbot, sigmas: str) -> None:
    """The contour level as a user types it."""
    viewer.level.sigma.setText(sigmas)
    qtbot.keyClick(viewer.level.sigma, Qt.Key.Key_Return)


def test_each_map_has_its_own_level_and_says_when_nothing_is_above_it(viewer, qtbot, volumes) -> None:
    from gaussianem_core.io.mrc import read_map, write_map

    mask = volumes[0].with_name("mask.mrc")
    write_map(mask, (read_map(volumes[0]).values > 0.5).astype(np.float32), 3.0)
    viewer.show_volumes(volumes)
    qtbot.waitUntil(lambda: viewer.is_3d() and "surface" in viewer.layers(), timeout=LOAD)
    type_level(viewer, qtbot, "6")
    tuned = viewer.contour()
    viewer.set_frame(2)
    qtbot.waitUntil(lambda: viewer.series.text.text().startswith("v_2"), timeout=LONG)
    assert viewer.contour() == tuned  # one level in a series, so that its maps can be compared
    viewer.show_volumes([mask])
    qtbot.waitUntil(lambda: viewer.picture.path == mask and "surface" in viewer.layers(), timeout=LONG)
    assert viewer.contour() == viewer.picture.default_level != tuned
    viewer.show_volumes(volumes)
    qtbot.waitUntil(lambda: viewer.picture.path == volumes[0], timeout=LONG)
    assert viewer.contour() == tuned and viewer.remark.isHidden()
    type_level(viewer, qtbot, "1000 σ")
    qtbot.waitUntil(lambda: viewer.remark.isVisible() and "surface" not in viewer.layers(), timeout=LONG)
    assert "Nothing is above this level" in viewer.remark.full_text()
    assert f"{viewer.picture.greatest:.4g}" in viewer.remark.full_text()
    type_level(viewer, qtbot, "3")
    qtbot.waitUntil(lambda: viewer.remark.isHidden() and "surface" in viewer.layers(), timeout=LONG)


def test_a_cut_is_drawn_at_once_and_can_be_undone(viewer, qtbot, volumes) -> None:
    viewer.show_volumes(volumes[:1])
    qtbot.waitUntil(lambda: viewer.is_3d() and "surface" in viewer.layers(), timeout=LOAD)
    qtbot.wait(200)

    def reach() -> float:
        towards = -np.asarray(viewer.canvas.model.scene.camera.view_direction)
        return float((viewer.canvas.drawn.mesh[0] @ towards).max())

    whole, before = reach(), coloured(viewer.picture_of_view())
    for value in (50, 100):
        viewer.cuts.slider.setValue(value)
        qtbot.waitUntil(lambda w=whole: reach() < w - 3.0, timeout=LONG)
        assert coloured(viewer.picture_of_view()) > 0.2 * before  # never all of it
    viewer.cuts.slider.setValue(0)
    qtbot.waitUntil(lambda: abs(reach() - whole) < 0.1, timeout=LONG)
    viewer.cuts.kind.setCurrentIndex(viewer.cuts.kind.findData("x"))
    viewer.cuts.slider.setValue(50)
    widest = viewer.canvas.drawn.mesh[0][:, 2].max
    high = float(widest())
    qtbot.waitUntil(lambda: float(viewer.canvas.drawn.mesh[0][:, 2].max()) < high - 3.0, timeout=LONG)


def test_a_surface_is_solid_again_after_gaussians_were_shown(viewer, qtbot, volumes) -> None:
    viewer.show_gaussians(volumes[0].with_name("g.ply"), alone=True)
    qtbot.waitUntil(lambda: viewer.is_3d() and "gaussians" in viewer.layers(), timeout=LOAD)
    viewer.show_volumes(volumes[:1])
    viewer.show_gaussians(None)
    qtbot.waitUntil(lambda: viewer.layers() == ["surface"], timeout=LONG)
    layer = viewer.canvas.layer("surface")
    assert layer.opacity == 1.0 and str(layer.blending) == "opaque"


def test_more_or_fewer_gaussians_keep_their_layer(viewer, qtbot, volumes) -> None:
    viewer.show_gaussians(volumes[0].with_name("g.ply"), alone=True)
    qtbot.waitUntil(lambda: viewer.layers() == ["gaussians"], timeout=LOAD)
    canvas = viewer.canvas
    layer, random = canvas.layer("gaussians"), np.random.default_rng(1)
    layer.selected_data = set(range(150, 200))
    for count in (20, 300, 1, 200):
        places = random.normal(size=(count, 3)) * 20
        sizes, colours = random.uniform(1, 4, count), random.random((count, 4))
        canvas.show_points(places, sizes, colours)
        assert canvas.layer("gaussians") is layer and viewer.layers() == ["gaussians"]
        assert np.allclose(layer.data, places) and np.allclose(layer.size, sizes)
        assert np.allclose(layer.face_color, colours)
        assert len(on_screen(canvas.view, layer)) == count
        assert coloured(canvas.image()) > 0
        canvas.show_points(places, 3.0, colours)
        assert np.allclose(layer.size, 3.0)


def test_gaussians_projection_and_slices(viewer, qtbot, volumes) -> None:
    viewer.show_volumes(volumes[:1])
    viewer.show_gaussians(volumes[0].with_name("g.ply"))
    qtbot.waitUntil(lambda: viewer.is_3d(), timeout=LOAD)
    qtbot.mouseClick(viewer.points, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "gaussians" in viewer.layers(), timeout=LONG)
    layer = viewer.canvas.layer("gaussians")
    assert len(layer.data) == 200 and np.abs(layer.data).max() < 32 * 3.0
    viewer.mode.setCurrentIndex(viewer.mode.findData("mip"))
    qtbot.waitUntil(lambda: "projection" in viewer.layers() and "surface" not in viewer.layers(), timeout=LONG)
    viewer.mode.setCurrentIndex(viewer.mode.findData("slices"))
    assert not viewer.is_3d() and viewer.slices.shown(0) is not None
    viewer.mode.setCurrentIndex(viewer.mode.findData("surface"))
    qtbot.waitUntil(lambda: "surface" in viewer.layers(), timeout=LONG)
    theme.apply("light")
    qtbot.waitUntil(lambda: "surface" in viewer.layers(), timeout=LONG)
    viewer.show_gaussians(volumes[0].with_name("g.ply"), alone=True)
    qtbot.waitUntil(lambda: viewer.layers() == ["gaussians"], timeout=LONG)


def test_software_opengl_is_said_and_gets_smaller_volumes(viewer, qtbot, tmp_path: Path) -> None:
    write_map(tmp_path / "big.mrc", blob(0, 128), 1.0)
    viewer.show_volumes([tmp_path / "big.mrc"])
    qtbot.waitUntil(lambda: viewer.is_3d(), timeout=LOAD)
    if viewer.starter.opengl.software:
        assert max(viewer.picture.values.shape) <= starter_room.LONGEST["software"]
        assert viewer._notice.count() == 1
    assert viewer.picture.box == 128


def test_a_failure_of_napari_leaves_slices(viewer, qtbot, volumes, monkeypatch) -> None:
    def broken() -> None:
        raise ImportError("no napari here")

    monkeypatch.setattr(starter_room, "import_napari", broken)
    viewer.show_volumes(volumes)
    qtbot.waitUntil(lambda: viewer.stack.currentWidget() is viewer.slices, timeout=LOAD)
    assert "no napari here" in viewer.starter.failure and viewer._notice.count() == 1
    np.testing.assert_array_equal(viewer.slices.shown(0), blob(-4.0, 32)[16])


@pytest.mark.slow
def test_a_new_user_comes_from_the_first_window_to_a_volume(window, qtbot, tmp_path: Path, monkeypatch) -> None:
    """The demo with the real engine: clicks and keys alone, from an empty directory to a volume in 3D.

    Its molecule is seen in fewer and smaller images than the demo's, to be quick: test_demo runs the whole of it.

    The pictures of the README are made by it too, in the demo's size: GAUSSIANEM_SCREENSHOTS names a directory for
    them, GAUSSIANEM_DEMO_PROJECT one for the project, GAUSSIANEM_DEMO_EPOCHS and GAUSSIANEM_DEMO_POINTS the length of
    the training and of the curve in the picture.
    """
    monkeypatch.delenv("GAUSSIANEM_ENGINE", raising=False)
    shots = Path(os.environ.get("GAUSSIANEM_SCREENSHOTS", str(tmp_path / "screenshots")))
    shots.mkdir(exist_ok=True, parents=True)
    if "GAUSSIANEM_SCREENSHOTS" not in os.environ:
        for name, value in {"particles": 200, "box": 24, "apix": 17.0}.items():
            monkeypatch.setitem(DEMO.steps[0].values, name, value)
        monkeypatch.setitem(DEMO.steps[1].values, "qdim", 32)
    place = os.environ.get("GAUSSIANEM_DEMO_PROJECT", str(tmp_path / "demo"))
    points = int(os.environ.get("GAUSSIANEM_DEMO_POINTS", "3"))

    def shot(name: str) -> None:
        qtbot.wait(600)
        for toast in list(window.toasts._toasts):
            toast.close()
        qtbot.wait(50)
        window.screen().grabWindow(window.winId()).save(str(shots / f"{name}.png"))

    def click(name: str) -> None:
        widget = window.findChild(QWidget, name)
        assert widget is not None and widget.isVisible() and widget.isEnabled(), name
        qtbot.mouseClick(widget, Qt.MouseButton.LeftButton)

    def shown(name: str) -> bool:
        widget = window.findChild(QWidget, name)
        return widget is not None and widget.isVisible()

    def choose_directory() -> None:
        dialog = QApplication.activeModalWidget()
        assert isinstance(dialog, QDialog)
        edit = dialog.findChild(QLineEdit)
        edit.clear()
        qtbot.keyClicks(edit, place)
        qtbot.mouseClick(dialog.findChild(QPushButton, "confirm"), Qt.MouseButton.LeftButton)

    def run(step: str, job_type: str, **typed: str) -> str:
        qtbot.waitUntil(lambda: shown(f"step-{step}"), timeout=LONG)
        click(f"step-{step}")
        assert window.pane.draft == job_type
        parameters = window.pane.parameters
        for option, text in typed.items():
            edit = parameters.form.rows[option].editor.edit
            parameters.form.focus_field(option)
            edit.selectAll()
            qtbot.keyClicks(edit, text)
        qtbot.waitUntil(lambda: not parameters.form.errors(), timeout=LONG)
        qtbot.waitUntil(lambda: not (parameters._pause.isActive() or parameters.form._pause.isActive()), timeout=LONG)
        qtbot.waitUntil(
            lambda: bool(parameters.panel.checks) and not any(c.level == "error" for c in parameters.panel.checks),
            timeout=LONG,
        )
        shot(f"form-{job_type}")
        number = window.model.project.graph().counter
        click("runButton")
        name = f"{window.pane.parameters.options.title}/job{number:03d}/"
        qtbot.waitUntil(lambda: window.pane.name == name, timeout=LONG)
        return name

    shot("first-window")
    QTimer.singleShot(500, choose_directory)
    click("tileDemo")
    qtbot.waitUntil(lambda: window.model is not None and window.pane.name == "Simulate/job001/", timeout=LONG)
    try:
        finish(window, qtbot, "Simulate/job001/", timeout=600_000)
        name = run("preprocess", "preprocess")
        finish(window, qtbot, name, timeout=600_000)
        name = run("train", "train", epoch=os.environ.get("GAUSSIANEM_DEMO_EPOCHS", "4"))
        finish(window, qtbot, name, "Running", timeout=120_000)
        curves = window.pane.progress.plot.shown
        qtbot.waitUntil(lambda: any(len(curve) > points for curve in curves().values()), timeout=600_000)
        shot("training")
        finish(window, qtbot, name, timeout=1_800_000)
        shot("trained")
        name = run("analyze", "analyze")
        finish(window, qtbot, name, timeout=600_000)
        qtbot.waitUntil(lambda: shown("step-results"), timeout=LONG)
        click("step-results")
        viewer = window.pane.results.viewer
        qtbot.waitUntil(lambda: viewer.is_3d() and "surface" in viewer.layers(), timeout=LOAD)
        qtbot.waitUntil(lambda: coloured(viewer.picture_of_view()) > 0.01, timeout=LONG)
        shot("volume")
        window.trigger("flow")
        shot("flow")
    finally:
        window.close()
        for info in window.model.jobs if window.model is not None else ():
            assert info.status.state.value != "Running"
