"""Views one by one: job files in, widgets out."""

from __future__ import annotations

import gc
import shutil
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pyqtgraph as pg
import pytest
from conftest import LONG
from PySide6.QtCore import QObject, QPoint, Qt, QThreadPool, Signal
from PySide6.QtGui import QColor, QImage
from PySide6.QtWidgets import QApplication

from gaussianem_core.analysis.figures import figure
from gaussianem_core.io.mrc import write_map
from gaussianem_core.job.events import WITH_IMAGES, JobLog
from gaussianem_core.model import gaussians
from gaussianem_core.model.configuration import load_configuration
from gaussianem_gui.execution.history import History
from gaussianem_gui.execution.logfile import LogFile
from gaussianem_gui.explorer.volumes import cut_at, load_gaussians, load_volume, series, surface
from gaussianem_gui.views.explorer.dense_plot import bars
from gaussianem_gui.views.job import results
from gaussianem_gui.views.job.compare import differences
from gaussianem_gui.views.job.flow_graph import direct, layers
from gaussianem_gui.views.job.log_view import LogView
from gaussianem_gui.views.job.probe_panel import principal_axes
from gaussianem_gui.views.job.results import Item, Results, items, latent_columns
from gaussianem_gui.views.plots.canvas3d import import_napari
from gaussianem_gui.views.plots.image_view import on_dark, read_image
from gaussianem_gui.views.plots.level_bar import LevelBar
from gaussianem_gui.views.plots.loss_plot import LossPlot
from gaussianem_gui.views.plots.plot_style import ValueAxis, quantity_name
from gaussianem_gui.views.plots.scatter import DENSITY_FROM, Scatter, density_image
from gaussianem_gui.views.plots.slices import Slices
from gaussianem_gui.views.toolkit.palette_entry import PaletteEntry
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import DARK, LIGHT, STATES, theme
from gaussianem_gui.views.toolkit.widgets import Elided
from gaussianem_gui.views.window.palette import Palette, score


def test_signals_do_not_eat_references(themed) -> None:
    class Sender(QObject):
        fired = Signal(bool)
        bare = Signal()

    sender = Sender()
    sender.fired.connect(lambda _on: None)
    for _ in range(10):
        sender.fired.emit(True)
    if sys.version_info >= (3, 12):
        return  # True has no count that could run out there (PEP 683)
    before = sys.getrefcount(True)
    for _ in range(100):
        sender.fired.emit(True)
        sender.bare.emit()
    assert abs(sys.getrefcount(True) - before) < 20


@pytest.mark.parametrize("name", ["dark", "light"])
def test_text_is_readable_on_every_ground(name: str) -> None:
    """Contrast of at least 4.5 for text and 3 for faint text (WCAG 2.1, AA)."""
    colours = {"dark": DARK, "light": LIGHT}[name]

    def luminance(colour: str) -> float:
        parts = [QColor(colour).redF(), QColor(colour).greenF(), QColor(colour).blueF()]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: str, b: str) -> float:
        light, dark = sorted((luminance(colours[a]), luminance(colours[b])), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    for ground in ("window", "surface", "raised", "field"):
        assert contrast("text", ground) > 7 and contrast("muted", ground) > 4.5 and contrast("faint", ground) > 3
        for tone in ("danger", "warning", "success", "accent"):
            assert contrast(tone, ground) > 4.5, (tone, ground)
    assert contrast("on_accent", "accent_fill") > 4.5


def test_every_icon_can_be_drawn(themed) -> None:
    for name, colour, _ in STATES.values():
        assert not theme.icon(name, colour).isNull()
    from importlib import resources

    names = [
        f.name[:-4] for f in (resources.files("gaussianem_resources") / "icons").iterdir() if f.name.endswith(".svg")
    ]
    for name in names:
        image = theme.pixmap(name, "text", 24).toImage()
        drawn = any(image.pixelColor(x, y).alpha() for x in range(image.width()) for y in range(image.height()))
        assert drawn, name


def write_metrics(directory: Path, steps: int, scale: float = 1.0) -> History:
    with JobLog(directory, ["x"]) as log:
        for step in range(steps):
            log.metric("train", step, step / 100, loss=scale / (1 + step), kl=-0.5, lr=1e-4)
    history = History(directory)
    history.poll()
    return history


def test_curves_show_the_numbers_of_the_file(themed, qtbot, tmp_path: Path) -> None:
    plot = LossPlot()
    qtbot.addWidget(plot)
    plot.smoothing.setValue(0)
    history = write_metrics(tmp_path, 300)
    plot.set_jobs([("a", history)])
    shown = plot.shown()
    np.testing.assert_allclose(shown["loss"][:, 1], 1 / (1 + np.arange(300)), rtol=1e-9)
    plot._chips["kl"].setChecked(True)
    assert "kl" not in plot.shown(), "a negative term has no logarithm"
    plot.log.setChecked(False)
    np.testing.assert_allclose(plot.shown()["kl"][:, 1], -0.5)
    plot.axis.setCurrentIndex(plot.axis.findData("step"))
    assert plot.shown()["loss"][-1, 0] == 299
    assert len(plot._marks) == 2, "epochs 1 and 2"
    with JobLog(tmp_path, ["x"]) as log:
        log.metric("train", 300, 3.0, loss=5.0)
    history.poll()
    assert plot.refresh() and not plot.refresh()
    assert plot.shown()["loss"][-1].tolist() == [300, 5.0]


def test_terms_are_switched_and_jobs_laid_over(themed, qtbot, tmp_path: Path) -> None:
    plot = LossPlot()
    qtbot.addWidget(plot)
    plot.show()
    first, second = write_metrics(tmp_path / "1", 50), write_metrics(tmp_path / "2", 50, 3.0)
    plot.set_jobs([("a", first)])
    plot.log.setChecked(False)
    assert set(plot.shown()) == {"loss"}, "small terms and the learning rate are off at first"
    qtbot.mouseClick(plot._chips["kl"], Qt.MouseButton.LeftButton)
    assert set(plot.shown()) == {"loss", "kl"}
    qtbot.mouseClick(plot._chips["loss"], Qt.MouseButton.LeftButton)
    assert set(plot.shown()) == {"kl"}
    plot.set_jobs([("a", first), ("b", second)])
    assert plot.jobs() == ["a", "b"]
    drawn = {job for job, _, _, _ in plot._curves}
    assert drawn == {0, 1}


def test_many_quantities_leave_the_room_to_the_curves(themed, qtbot, tmp_path: Path) -> None:
    """Three rows of names left 70 pixels to a curve in a small window."""
    terms = {f"term_{number}": 1.0 + number for number in range(15)}
    with JobLog(tmp_path, ["x"]) as log:
        for step in range(20):
            log.metric("train", step, step / 10, unexplained=0.8, **terms)
    history = History(tmp_path)
    history.poll()
    plot = LossPlot()
    qtbot.addWidget(plot)
    plot.resize(480, 290)
    plot.show()
    plot.set_jobs([("a", history)])
    qtbot.waitUntil(lambda: plot.plot.height() > 200)
    assert [name for name, chip in plot._chips.items() if chip.isVisible()] == ["unexplained"]
    assert plot.more.text() == "15 more"
    plot.more.menu().aboutToShow.emit()
    next(action for action in plot.more.menu().actions() if action.text() == "Term 3").trigger()
    assert set(plot.shown()) == {"unexplained", "term_3"} and plot._chips["term_3"].isVisible()
    assert plot.more.text() == "14 more"
    qtbot.mouseClick(plot._chips["term_3"], Qt.MouseButton.LeftButton)
    assert set(plot.shown()) == {"unexplained"} and plot.more.text() == "15 more"


def test_a_log_follows_is_searched_and_copied(themed, qtbot, tmp_path: Path, qapp) -> None:
    path = tmp_path / "run.out"
    path.write_text("".join(f"line {n}\n" for n in range(1000)))
    logs = {name: LogFile(tmp_path / name) for name in ("run.out", "run.err")}
    for log in logs.values():
        log.poll()
    view = LogView()
    qtbot.addWidget(view)
    view.resize(700, 400)
    view.show()
    view.set_logs(logs)
    assert view.text.visible_lines()[-1] == "line 999", "it follows the end"
    with path.open("a") as file:
        file.write("the last\n")
    logs["run.out"].poll()
    view.refresh()
    assert view.text.visible_lines()[-1] == "the last"
    qtbot.keyClicks(view.search, "line 5")
    qtbot.waitUntil(lambda: view.found.text() == "1 of 111", timeout=LONG)
    assert "line 5" in view.text.visible_lines()
    qtbot.keyClick(view.search, Qt.Key.Key_Return)
    assert view.found.text() == "2 of 111" and not view.end.isChecked()
    view.text.copy()
    assert qapp.clipboard().text() == "line 50"
    view.which.setCurrentIndex(1)
    assert view.text.visible_lines() == [] and "empty" in view.which.itemText(1)
    assert view.length.text() == ""
    other = {name: LogFile(tmp_path / "other" / name) for name in ("run.out", "run.err")}
    view.set_logs(other)
    assert view.which.currentData() == "run.out" and view.length.text() == "", "another job begins with its output"
    view.set_logs(logs)
    assert view.length.text().startswith("1,001 lines")
    view.show_errors()
    assert view.which.currentData() == "run.out", "there are none yet"
    (tmp_path / "run.err").write_text("CUDA out of memory\n")
    logs["run.err"].poll()
    view.refresh()
    assert view.text.visible_lines() == ["CUDA out of memory"], "errors read after they were asked for appear"


def test_results_are_sorted_by_kind_and_a_folder_is_one_series(tmp_path: Path) -> None:
    artifacts = [{"kind": "volume", "path": f"kmeans/class_{n}.mrc", "label": f"class {n}"} for n in (10, 2, 1)] + [
        {"kind": "plot", "path": "pca.png"},
        {"kind": "volume", "path": "consensus.mrc", "label": "consensus"},
        {"kind": "checkpoint", "path": "w.pkl"},
        {"kind": "volume_series", "path": "pc1", "label": "PC 1"},
    ]
    found = items(artifacts, tmp_path)
    assert list(found) == ["Volumes", "Series", "Plots"]
    folder = next(i for i in found["Volumes"] if i.kind == "volume_series")
    assert folder.names == ("class 1", "class 2", "class 10")
    assert Item("volume", "consensus", (tmp_path / "consensus.mrc",)) in found["Volumes"]


def test_the_result_chosen_last_is_the_one_shown(themed, qtbot, tmp_path: Path, monkeypatch) -> None:
    view, gate = Results(), threading.Event()
    qtbot.addWidget(view)
    np.savez(tmp_path / "z.npz", z=np.random.default_rng(0).normal(size=(20, 3)))
    image = QImage(40, 30, QImage.Format.Format_RGB32)
    image.fill(0x3366CC)
    assert image.save(str(tmp_path / "plot.png"))
    (tmp_path / "none.png").write_text("no picture")
    slow = results.latent_columns
    monkeypatch.setattr(results, "latent_columns", lambda path: gate.wait(60) and slow(path))
    view.show_item(Item("latents", "latents", (tmp_path / "z.npz",)))
    view.show_item(Item("plot", "plot", (tmp_path / "plot.png",)))
    qtbot.waitUntil(lambda: view.stack.currentWidget() is view.picture, timeout=LONG)
    gate.set()
    QThreadPool.globalInstance().waitForDone(LONG)
    qtbot.wait(50)
    assert view.stack.currentWidget() is view.picture, "the latents came too late"
    view.show_item(Item("plot", "plot", (tmp_path / "none.png",)))
    qtbot.waitUntil(lambda: view.stack.currentWidget() is view.problem, timeout=LONG)
    view.viewer.shut_down()


def test_latents_become_components(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 3)) * [5, 1, 0.1]
    np.savez(tmp_path / "z.npz", z=z, labels=np.arange(200) % 4)
    columns, classes = latent_columns(tmp_path / "z.npz")
    assert list(columns) == ["PC 1", "PC 2", "PC 3", "z 1", "z 2", "z 3"]
    assert abs(np.corrcoef(columns["PC 1"], z[:, 0])[0, 1]) > 0.99
    assert set(classes.tolist()) == {0, 1, 2, 3}
    np.testing.assert_allclose(np.abs(principal_axes(z)[:, 0]), np.abs(columns["PC 1"]), rtol=1e-6)


def test_latents_of_a_published_model_are_shown(shared_data: Path) -> None:
    columns, _ = latent_columns(shared_data / "legacy_model" / "weights.0.output.pkl")
    assert "PC 1" in columns and len({len(c) for c in columns.values()}) == 1


def test_many_points_become_a_density_and_a_click_finds_the_nearest(themed, qtbot) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(DENSITY_FROM + 1, 2)) * [100, 1]
    scatter = Scatter()
    qtbot.addWidget(scatter)
    scatter.set_points(points)
    assert scatter.dense() and scatter._image.isVisible()
    scaled = points / np.ptp(points, axis=0)
    wanted = np.argmin(((scaled - np.array([10.0, 0.2]) / np.ptp(points, axis=0)) ** 2).sum(axis=1))
    assert scatter.nearest(10.0, 0.2) == wanted
    scatter.set_points(np.concatenate([[[np.nan, 0.0]], points]))
    assert scatter.nearest(10.0, 0.2) == wanted + 1, "a point that has no place is not clicked"
    scatter.set_points(np.full((3, 2), np.nan))
    assert scatter.nearest(10.0, 0.2) == -1
    scatter.set_points(points)
    counts, box = density_image(points)
    assert np.expm1(counts).sum() == pytest.approx(len(points))
    assert box.width() == pytest.approx(np.ptp(points[:, 0]))
    scatter.set_points(points[:100], np.arange(100) % 3, classes=True)
    assert not scatter.dense() and len(scatter._dots.points()) == 100


def test_a_volume_is_shown_in_slices_without_opengl(themed, qtbot, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(12, 10, 8)).astype(np.float32)
    write_map(tmp_path / "v.mrc", values, 2.0)
    slices = Slices()
    qtbot.addWidget(slices)
    slices.set_picture(load_volume(tmp_path / "v.mrc", 100))
    np.testing.assert_array_equal(slices.shown(0), values[6])
    slices.sliders[2].setValue(3)
    np.testing.assert_array_equal(slices.shown(2), values[:, :, 3])
    slices.kind.setCurrentIndex(1)
    np.testing.assert_allclose(slices.shown(1), values.mean(axis=1), rtol=1e-5)


def test_a_surface_lies_where_the_density_is(tmp_path: Path) -> None:
    box, radius, pixel = 48, 9.0, 1.5
    z, y, x = np.mgrid[:box, :box, :box] - box // 2
    ball = (np.sqrt(z**2 + y**2 + (x - 5) ** 2) < radius).astype(np.float32)
    write_map(tmp_path / "v.mrc", ball, pixel)
    for longest in (48, 24):
        picture = load_volume(tmp_path / "v.mrc", longest)
        vertices, faces = surface(picture, 0.5)
        centre = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
        np.testing.assert_allclose(centre, [0, 0, 5 * pixel], atol=pixel)  # binned voxels are 3 A wide
        distance = np.linalg.norm(vertices - [0, 0, 5 * pixel], axis=1)
        assert abs(distance.mean() - radius * pixel) < pixel and len(faces) > 100
    assert len(surface(picture, 1e6)[1]) == 0


def test_a_cut_takes_away_one_side_and_closes_it(tmp_path: Path) -> None:
    box, radius, pixel = 48, 15.0, 1.5
    z, y, x = np.mgrid[:box, :box, :box] - box // 2
    write_map(tmp_path / "v.mrc", np.clip(radius + 0.5 - np.sqrt(z**2 + y**2 + x**2), 0, 1).astype(np.float32), pixel)
    picture = load_volume(tmp_path / "v.mrc", 48)
    normal = (0.0, 0.6, 0.8)
    cut = cut_at(picture, 0.5, normal, 0.5)
    assert cut is not None and abs(cut.offset_angstrom) < pixel  # half the depth: through the middle
    vertices, faces = surface(picture, 0.5, cut)
    depth = vertices @ np.array(normal)
    assert depth.max() < cut.offset_angstrom + 0.2 * pixel
    cap = np.abs(depth - cut.offset_angstrom) < 0.1 * pixel
    assert np.linalg.norm(vertices[cap], axis=1).min() < 2 * pixel  # the cap reaches the middle: it is closed
    # the solid is half a ball: divergence theorem over the triangles
    a, b, c = vertices[faces].transpose(1, 0, 2).astype(float)
    volume = abs(np.einsum("fi,fi->f", a, np.cross(b, c)).sum()) / 6
    assert volume == pytest.approx(2 / 3 * np.pi * (radius * pixel) ** 3, rel=0.05)
    # wherever it comes from and however deep, something stays
    for share in (0.01, 1.0):
        deep = cut_at(picture, 0.5, normal, share)
        assert len(surface(picture, 0.5, deep)[1]) > 20
    assert cut_at(picture, 0.5, normal, 0.0) is None


def test_the_level_is_a_number_in_both_units_and_a_mark_on_the_histogram(themed, qtbot, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0.2, 0.05, (24, 24, 24)).astype(np.float32)
    write_map(tmp_path / "v.mrc", values, 2.0)
    picture = load_volume(tmp_path / "v.mrc", 24)
    bar = LevelBar()
    qtbot.addWidget(bar)
    bar.show()
    told: list[float] = []
    bar.levelChanged.connect(told.append)
    bar.set_picture(picture, picture.level(2.0))
    assert bar.sigma.text() == "2.00 σ" and float(bar.absolute.text()) == pytest.approx(0.3, abs=0.01) and not told
    bar.sigma.setText("3.5")
    qtbot.keyClick(bar.sigma, Qt.Key.Key_Return)
    assert told == [pytest.approx(values.mean() + 3.5 * values.std(), rel=1e-4)]
    bar.absolute.setText("0.25")
    qtbot.keyClick(bar.absolute, Qt.Key.Key_Return)
    assert told[-1] == 0.25 and bar.sigma.text() == f"{(0.25 - values.mean()) / values.std():.2f} σ"
    bar.absolute.setText("high")
    qtbot.keyClick(bar.absolute, Qt.Key.Key_Return)
    assert told[-1] == 0.25 and bar.absolute.text() == "0.25"
    place = QPoint(bar.histogram.width() // 2, 10)
    qtbot.mouseClick(bar.histogram, Qt.MouseButton.LeftButton, pos=place)
    assert told[-1] == pytest.approx((values.mean() + values.max()) / 2, rel=0.02)
    counts = np.histogram(values, 120, (float(values.mean()), float(values.max())))[0]
    assert np.array_equal(bar.histogram.heights.argsort()[-5:], np.log1p(counts).argsort()[-5:])


def test_series_and_gaussians_are_read(tmp_path: Path, shared_data: Path) -> None:
    for name in ("v_10.mrc", "v_2.mrc", "notes.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in series(tmp_path)] == ["v_2.mrc", "v_10.mrc"]
    folder = shared_data / "igg1d"
    found = load_gaussians(folder / "point_cloud.ply")
    assert found.positions.shape == (5965, 3) and (found.densities > 0).all() and np.abs(found.positions).max() <= 1
    configuration = load_configuration(folder / "cfg.json")
    engine = gaussians.load_gaussians(folder / "point_cloud.ply", configuration.scale_min, configuration.scale_max)
    assert np.allclose(found.sigmas, engine.sigmas.numpy(), rtol=1e-4), "as wide as the engine has them"
    shutil.copy(folder / "point_cloud.ply", tmp_path)
    alone = load_gaussians(tmp_path / "point_cloud.ply")
    assert alone.sigmas is None and alone.widths(100.0) is None, "no bounds of sigma beside it"


def test_jobs_lie_below_what_they_read_from() -> None:
    links = {"P/1": [], "T/2": ["P/1"], "T/3": ["P/1"], "A/4": ["T/2", "P/1"], "X/5": ["gone"]}
    places = layers(links, {name: n for n, name in enumerate(links)})
    assert places["A/4"][0] == 2 and places["T/2"][0] == places["T/3"][0] == 1 and places["X/5"][0] == 0
    assert len(set(places.values())) == len(places)


def test_the_graph_draws_no_link_that_a_longer_way_says_too() -> None:
    links = {"P/1": [], "T/2": ["P/1"], "A/3": ["T/2", "P/1"], "D/4": ["A/3", "T/2", "P/1", "X/9"], "L/5": ["L/5"]}
    assert direct(links) == {"P/1": [], "T/2": ["P/1"], "A/3": ["T/2"], "D/4": ["A/3", "X/9"], "L/5": ["L/5"]}


def test_the_palette_finds_by_letters_and_tells_why_not(themed, qtbot) -> None:
    done = []
    entries = [
        PaletteEntry("Train job003", "Train", "cube", lambda: done.append(3)),
        PaletteEntry("Trash…", "", "trash", lambda: None),
        PaletteEntry("Abort", "Stop the job", "stop", lambda: done.append("no"), reason="it does not run"),
    ]
    assert score("tj3", "Train job003") > 0 == score("xyz", "Train job003")
    assert score("train", "Train job003") > score("train", "A constraint in")
    from PySide6.QtWidgets import QWidget

    host = QWidget()
    qtbot.addWidget(host)
    palette = Palette(host, entries)
    palette.show()
    qtbot.keyClicks(palette.search, "abort")
    qtbot.keyClick(palette.search, Qt.Key.Key_Return)
    assert done == []
    palette.search.setText("003")
    assert palette.titles() == ["Train job003"]
    qtbot.keyClick(palette.search, Qt.Key.Key_Return)
    assert done == [3]


def test_options_that_differ_are_listed() -> None:
    values = {"a": {"lr": 1, "batch": 8, "job_dir": "x"}, "b": {"lr": 2, "batch": 8, "job_dir": "y"}}
    assert differences(values) == {"lr": [1, 2]}


@pytest.mark.slow
def test_twenty_thousand_plot_updates_leave_memory_flat(themed, qtbot, tmp_path: Path) -> None:
    import psutil

    plot = LossPlot()
    qtbot.addWidget(plot)
    plot.resize(500, 300)
    plot.show()
    history = write_metrics(tmp_path, 100)
    plot.set_jobs([("a", history)])
    me = psutil.Process()

    def update(count: int) -> None:
        for number in range(count):
            history.version += 1
            assert plot.refresh()
            if number % 20 == 0:
                plot.plot.viewport().repaint()

    update(2000)
    before = me.memory_info().rss
    update(20_000)
    assert me.memory_info().rss - before < 20e6  # bytes; a leak of one object an update would be far more


def test_the_level_of_a_volume_with_nothing_in_it(themed, qtbot):
    from gaussianem_gui.explorer.volumes import Picture
    from gaussianem_gui.views.plots.level_bar import LevelBar

    bar = LevelBar()
    qtbot.addWidget(bar)
    for mean, sigma, value in (
        (0.0, 1.0, 0.0),
        (2.0, 0.5, 0.0),
        (1e-8, 1e-9, 1e-8),
    ):
        values = np.full((8, 8, 8), value, np.float32)
        bar.set_picture(Picture(Path("empty"), values, 1.0, 8, mean, sigma, (value - mean) / sigma), mean + 3 * sigma)
        assert bar.histogram.high > bar.histogram.low and np.isfinite(bar.histogram.heights).all()


def test_figures_take_the_brightness_of_a_dark_page_but_measured_greys_stay(themed, qtbot, tmp_path: Path) -> None:
    with figure(tmp_path / "curve.png") as axes:
        axes[0].plot([0, 1], color="#0000c0")
    with figure(tmp_path / "slices.png") as axes:
        axes[0].imshow(np.eye(4), cmap="gray")
    curve, slices = read_image(tmp_path / "curve.png"), read_image(tmp_path / "slices.png")
    assert not curve.text(WITH_IMAGES) and slices.text(WITH_IMAGES)
    turned = on_dark(curve, DARK["surface"])
    assert turned.size() == curve.size() and turned.pixelColor(1, 1) == QColor(DARK["surface"]), "the ground"
    inside = [(x, y) for x in range(0, curve.width(), 3) for y in range(0, curve.height(), 3)]
    blue = [place for place in inside if curve.pixelColor(*place) == QColor("#0000c0")]
    assert blue and all(turned.pixelColor(*place).blue() > turned.pixelColor(*place).red() for place in blue)
    assert min(turned.pixelColor(*place).lightness() for place in blue) > 80, "and it can be read"


def test_labels_of_a_narrow_range_differ(qapp) -> None:
    axis = ValueAxis("left")
    axis.log = True
    for low, high in ((0.4270, 0.4284), (0.1, 90.0), (1e-6, 1.001e-6)):
        ticks = np.linspace(np.log10(low), np.log10(high), 6)
        words = axis.tickStrings(list(ticks), 1.0, float(ticks[1] - ticks[0]))
        assert len(set(words)) == 6, words
        if high < 2 * low and low > 1e-3:
            assert len({len(word) for word in words}) == 1, words  # and all have as many decimals


def test_labels_of_all_ticks_have_as_many_decimals(qapp) -> None:
    """0.43381 stood over 0.4337 and 0.43361: pyqtgraph asks for the labels of coarse and of fine ticks apart."""
    axis = ValueAxis("left")
    for axis.log in (False, True):
        low, high = np.log10([0.43308, 0.43383]).tolist() if axis.log else (0.0, 2.1)
        axis.setRange(low, high)
        words = [axis.tickStrings(values, 1.0, step) for step, values in axis.tickValues(low, high, 400.0)[:2]]
        assert len(words) == 2 and all(words)
        assert len({len(word.partition(".")[2]) for level in words for word in level if word != "0"}) == 1, words


def test_a_shortened_line_ends_inside_of_its_margins(themed, qtbot) -> None:
    line = Elided("3D is drawn by the processor: volumes are shown coarser than they are")
    line.setContentsMargins(12, 2, 12, 2)
    qtbot.addWidget(line)
    line.resize(220, 24)
    line.show()
    assert line.text().endswith("…")
    assert line.fontMetrics().horizontalAdvance(line.text()) <= line.contentsRect().width() == 196


def test_quantities_have_their_units() -> None:
    names = ("resolution_angstrom", "rotation_prior_degrees", "shift_pixels", "held_out", "lr")
    words = ["Resolution (Å)", "Rotation prior (°)", "Shift (px)", "Held-out images", "Learning rate"]
    assert [quantity_name(name) for name in names] == words


def test_work_that_is_done_keeps_nothing_of_what_it_held(qtbot) -> None:
    held: list[weakref.ref] = []
    done: list[int] = []
    parent = QObject()
    background = Background(parent)
    for number in range(20):
        volume = np.zeros(3)
        held.append(weakref.ref(volume))
        background.run("work", lambda volume=volume: len(volume), done.append)
        qtbot.waitUntil(lambda n=number: len(done) == n + 1, timeout=LONG)
    del volume
    qtbot.waitUntil(lambda: gc.collect() >= 0 and all(ref() is None for ref in held), timeout=LONG)


@pytest.mark.filterwarnings("ignore")  # napari's own libraries warn when they are loaded
def test_the_3d_view_waits_for_another_worker_that_loads_its_units() -> None:
    """A volume opened while napari was loaded in the background found a registry half filled: 3D was given up."""
    pint = pytest.importorskip("pint")
    registry = pint.get_application_registry()
    before = registry.get()
    registry.set(pint.registry.LazyRegistry())
    try:
        first = threading.Thread(target=import_napari)
        first.start()
        while first.is_alive() and not isinstance(registry.get(), pint.UnitRegistry):
            time.sleep(0)
        import_napari()
        assert registry.parse_units("angstrom") == registry.angstrom
        first.join()
    finally:
        registry.set(before)


@pytest.mark.parametrize("upright", [True, False])
def test_a_flat_histogram_has_neither_gaps_nor_seams(themed, qtbot, upright: bool) -> None:
    values = np.random.default_rng(0).uniform(0.8, 2.5, 200_000).astype(np.float32)
    edges = np.linspace(float(values.min()), float(values.max()), 81)
    plot = pg.PlotWidget()
    qtbot.addWidget(plot)
    plot.setBackground("#000000")
    for axis in ("left", "bottom"):
        plot.hideAxis(axis)
    plot.addItem(bars(values, edges, QColor(255, 255, 255, 150), upright=upright))
    plot.show()
    for length in range(401, 601, 17):
        plot.resize(*((length, 38) if upright else (38, length)))
        QApplication.processEvents()
        image = plot.grab().toImage()
        place = 8 if not upright else image.height() - 8
        line = [image.pixelColor(*((n, place) if upright else (place, n))).red() for n in range(length)]
        shown = np.flatnonzero(line)
        assert len(shown) > 0.8 * length and set(np.asarray(line)[shown[0] + 1 : shown[-1]].tolist()) == {150}, length
