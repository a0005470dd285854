"""A user's day in the real window, by mouse and keyboard, with a picture of each step and the seconds that it took.

    gaussianem demo demo
    xvfb-run -a -s "-screen 0 1700x1100x24 +extension GLX" python tests/gui/tour.py demo pictures --size 1600x1000

The project is a finished demo; what the tour makes (a Select, a Mask, a Train job) stays in it. The part ``jobs`` runs
a training: started, aborted and continued. Prints a table of seconds, and fails at the first step that does not come.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ.setdefault("QT_QPA_PLATFORM", "xcb")

from gaussianem_gui.explorer.path_kinds import BY_COMPONENT  # isort: skip
from gaussianem_gui.views.plots.lasso_3d import Lasso3D, on_screen  # isort: skip
from PySide6.QtCore import QEvent, QEventLoop, QPoint, QPointF, QSettings, Qt, QTimer
from PySide6.QtGui import QMouseEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication, QWidget

LEFT, NONE = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
PATIENCE = 240  # seconds that a step may take on a busy machine


class Tour:
    """The window, the pictures taken of it, and how long each step took."""

    def __init__(self, out: Path, size: tuple[int, int], theme: str) -> None:
        from gaussianem_gui.views.window.main_window import MainWindow

        self.out, self.theme, self.seconds = out, theme, {}
        began = time.perf_counter()
        self.window = MainWindow()
        self.window.resize(*size)
        self.window.show()
        self.until(lambda: self.window.pages.welcome.isVisible())
        self.seconds["first window"] = time.perf_counter() - began

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step and take a picture of what it shows."""
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began
        self.picture(name)

    def picture(self, name: str) -> None:
        """Save the window as it is."""
        self.pause(0.4)
        file = self.out / f"{len(list(self.out.glob('*.png'))) + 1:02d}-{name.replace(' ', '-')}.png"
        screen = self.window.screen().grabWindow(0)
        ratio = screen.devicePixelRatio()
        frame = self.window.geometry()
        corner = frame.topLeft() * ratio
        screen.copy(corner.x(), corner.y(), round(frame.width() * ratio), round(frame.height() * ratio)).save(str(file))
        print(f"{file.name:<44}{self.seconds.get(name, 0.0):8.2f} s", flush=True)

    def until(self, there: Callable[[], bool], what: str = "") -> None:
        """Let the window live until something is there."""
        end = time.monotonic() + PATIENCE
        while not there():
            if time.monotonic() > end:
                raise SystemExit(f"the tour ends here: {what or 'a step'} did not come within {PATIENCE} s")
            self.pause(0.02)

    @staticmethod
    def pause(seconds: float) -> None:
        """Let the window live for a while, in an event loop of its own: without one, what is deleted later stays."""
        loop = QEventLoop()
        QTimer.singleShot(round(1000 * seconds), loop.quit)
        loop.exec()

    def find(self, name: str, inside: QWidget | None = None) -> QWidget:
        """A visible widget by its name."""

        def seen() -> list[QWidget]:
            return [w for w in (inside or self.window).findChildren(QWidget, name) if w.isVisible()]

        self.until(lambda: bool(seen()), name)
        return seen()[0]

    def click(self, target: str | QWidget, inside: QWidget | None = None) -> None:
        """Click a widget, or the one of a name."""
        widget = self.find(target, inside) if isinstance(target, str) else target
        self.until(widget.isEnabled, f"{widget.objectName()} that can be clicked")
        QTest.mouseClick(widget, LEFT)

    def confirm(self) -> None:
        """Say yes to the question that the next click raises, as soon as it stands there."""
        question = QApplication.activeModalWidget()
        answer = question.findChild(QAbstractButton, "confirm") if question is not None else None
        if answer is None:
            QTimer.singleShot(200, self.confirm)
        else:
            QTest.mouseClick(answer, LEFT)

    def drag(self, canvas: QWidget, places: np.ndarray) -> None:
        """Drag the left button over places of a plot, in its units."""
        kinds = (
            (QEvent.Type.MouseButtonPress, LEFT, LEFT),
            (QEvent.Type.MouseMove, NONE, LEFT),
            (QEvent.Type.MouseButtonRelease, LEFT, NONE),
        )
        viewport = canvas.viewport()
        for number, place in enumerate(places):
            kind = 0 if number == 0 else 2 if number == len(places) - 1 else 1
            where = canvas.position(*map(float, place))
            everywhere = QPointF(viewport.mapToGlobal(where.toPoint()))
            type_, button, held = kinds[kind]
            event = QMouseEvent(type_, where, everywhere, button, held, Qt.KeyboardModifier.NoModifier)
            QApplication.sendEvent(viewport, event)


def open_project(tour: Tour, root: Path) -> None:
    """From the first window to the project's overview."""
    window = tour.window
    tour.picture("welcome")
    with tour.step("project open"):
        window.open_project(root)
        tour.until(lambda: window.model is not None and window.model.loaded)
        window.pages.show_home()
    tour.pause(2.0)


def results(tour: Tour) -> None:
    """Look at the jobs and at what Analyze made."""
    window = tour.window
    jobs = {info.job_type: info for info in window.model.jobs}
    listed = window.jobs.list
    for job_type, tab in (("train", "Progress"), ("analyze", "Results")):
        name = jobs[job_type].name
        with tour.step(f"{job_type} opened"):
            row = listed.filter.mapFromSource(listed.tree.find(name))
            listed.scrollTo(row)
            place = listed.visualRect(row).center()
            QTest.mouseClick(listed.viewport(), LEFT, pos=place)
            tour.until(lambda name=name: window.pane.name == name)
            window.pane.show_tab(tab)
    viewer = window.pane.results.viewer
    with tour.step("first volume"):
        window.pane.results.choose(lambda item: "class" in item.title.lower() or item.kind == "volume_series")
        tour.until(lambda: viewer.is_3d() and "surface" in viewer.layers(), "the first volume")
    with tour.step("another volume"):
        viewer.set_frame(1)
        tour.until(lambda: viewer.series.text.text().find("2 of") >= 0 and not viewer.surfaces.busy())
    with tour.step("classes side by side"):
        tour.click("mapGrid")
        tour.until(lambda: viewer.canvas.in_grid(), "the grid")
    tour.click("mapGrid")
    with tour.step("difference of two classes"):
        tour.click("mapsButton")
        viewer.map_list.add(viewer._paths[0], viewer._names[0])
        tour.click("mapDifference")
        tour.until(lambda: bool({"gain", "loss"} & set(viewer.layers())), "the difference")
    viewer.map_list.clear()
    tour.click("mapsButton")
    with tour.step("slices"):
        viewer.mode.setCurrentIndex(viewer.mode.findData("slices"))
        tour.until(lambda: viewer.slices.shown(0) is not None)
    viewer.mode.setCurrentIndex(0)
    with tour.step("report"):
        window.pane.results.choose(lambda item: item.paths[0].name == "report.md")
        tour.until(lambda: bool(window.pane.results.report.toPlainText()))
    with tour.step("particle images"):
        tour.until(lambda: window.model.info(jobs["preprocess"].name) is not None)
        window.pages.open_job(jobs["preprocess"].name, "Results")
        window.pane.results.choose(lambda item: item.kind == "stack")
        tour.until(lambda: window.pane.results.images.list.count() > 0, "images")
    with tour.step("form"):
        window.pages.new_job("train")
        tour.until(lambda: window.pane.draft == "train")


def explore(tour: Tour) -> None:
    """The explorer: click, colour, lasso, mean, export, path, movie, mask."""
    window = tour.window
    name = next(info.name for info in window.model.jobs if info.job_type == "analyze")
    window.pages.open_job(name)
    with tour.step("explorer opened"):
        tour.click("step-explore")
        tour.until(lambda: window.pages.explorer is not None and window.pages.explorer.session.table is not None)
    explorer = window.pages.explorer
    session, scene, plot = explorer.session, explorer.scene, explorer.grid.plots[0]
    with tour.step("consensus in 3D"):
        tour.until(lambda: session.consensus is not None and "surface" in scene.viewer.layers(), "the decoder")
    clicks = []
    for row in np.linspace(0, len(session.table) - 1, 5).astype(int):
        before = len(scene.latency)
        tour.drag(plot.canvas, plot.points[[row, row]])
        tour.until(lambda n=before: len(scene.latency) > n, "a decoded volume")
        clicks.append(scene.latency[-1])
    tour.seconds["click to volume (median)"] = float(np.median(clicks))
    tour.picture("clicked particle")
    with tour.step("surface by displacement"):
        tour.click("viewMore")
        scene.viewer.colour_by.setCurrentIndex(scene.viewer.colour_by.findData("displacement"))
        tour.until(lambda: scene.viewer.canvas.drawn.values.any(), "the colours")
    with tour.step("lasso and mean"):
        tour.click("tool-lasso")
        middle, spread = np.median(plot.points, axis=0), plot.points.std(axis=0)
        turn = np.linspace(0, 2 * np.pi, 40)
        shape = middle + spread * [0.9, 0.0] + np.stack([np.cos(turn), 1.6 * np.sin(turn)], axis=1) * spread * 0.8
        tour.drag(plot.canvas, shape)
        tour.until(lambda: "varies by" in scene.status.full_text(), "the mean of the selection")
    with tour.step("export"):
        tour.click("exportSelection")
        tour.until(lambda: explorer.selections._dialog.isVisible())
    tour.click(explorer.selections._dialog.findChild(QAbstractButton, "confirmExport"))
    tour.until(lambda: session.exported is not None, "the Select job")
    with tour.step("path played"):
        explorer.show_panel(explorer.trajectory)
        player = explorer.trajectory.player
        explorer.trajectory.kind.setCurrentIndex(explorer.trajectory.kind.findData(BY_COMPONENT[0]))
        tour.click("decodePath")
        tour.until(lambda: len(player.meshes) == 30, "the frames")
        tour.click(player.play)
        tour.pause(1.5)
        tour.click(player.play)
    with tour.step("domains"):
        explorer.show_panel(explorer.panels["Domains"])
        tour.click("domainsGo")
        tour.until(lambda: explorer.panels["Domains"].found is not None, "the domains")
    with tour.step("mask"):
        explorer.show_panel(explorer.panels["Mask"])
        tour.until(lambda: explorer.panels["Mask"].volume is not None, "the map")
        tour.pause(1.0)
    tour.click("saveMask")
    tour.until(lambda: any(info.job_type == "mask" for info in window.model.jobs), "the Mask job")
    with tour.step("lasso in 3D"):
        tour.click("lasso3d", explorer.panels["Mask"])
        lasso = scene.viewer.canvas.view.canvas.native.findChild(Lasso3D)
        places = on_screen(scene.viewer.canvas.view, scene.viewer.canvas.layer("gaussians"))
        middle, spread = np.median(places, axis=0), places.std(axis=0)
        turn = np.linspace(0, 2 * np.pi, 40)
        outline = middle + spread * [0.9, -0.6] + np.stack([np.cos(turn), np.sin(turn)], axis=1) * spread
        corners = [QPoint(round(x), round(y)) for x, y in outline]
        QTest.mousePress(lasso, LEFT, pos=corners[0])
        for corner in corners[1:]:
            QTest.mouseMove(lasso, corner)
        QTest.mouseRelease(lasso, LEFT, pos=corners[-1])
        tour.until(lambda: "Gaussians: " in explorer.panels["Mask"].text.full_text(), "the part of the mask")
        tour.pause(0.5)
    tour.click("lasso3d", explorer.panels["Mask"])
    QTest.keyClick(scene.viewer.canvas.view.canvas.native.findChild(Lasso3D), Qt.Key.Key_Escape)
    explorer.panels["Mask"]._take_lasso(None)
    scene.viewer.points.setChecked(False)
    with tour.step("state kept beside"):
        tour.click("keepState")
        tour.drag(plot.canvas, plot.points[[3, 3]])
        tour.until(lambda: scene.second.is_3d(), "the second view")
        tour.pause(1.0)
    with tour.step("palette"):
        tour.click("searchButton")
        tour.pause(0.3)
        QTest.keyClicks(window._palette.search, "colour")
    window._palette.close()


def look_again(tour: Tour, times: int) -> None:
    """Every job with its tabs, volumes, clicks in the explorer, over and over; the memory that each round takes."""
    import psutil

    window, process = tour.window, psutil.Process()
    names = [info.name for info in window.model.jobs if info.ours and not info.missing]
    analyze = next(info.name for info in window.model.jobs if info.job_type == "analyze")
    memory, began = [], time.perf_counter()
    for _ in range(times):
        for name in names:
            window.pages.open_job(name)
            for tab in ("Parameters", "Progress", "Results", "Files", "Log"):
                window.pane.show_tab(tab)
                tour.pause(0.05)
        window.pages.open_job(analyze, "Results")
        viewer = window.pane.results.viewer
        window.pane.results.choose(lambda item: item.kind == "volume_series")
        for frame in range(3):
            viewer.set_frame(frame)
            tour.until(lambda v=viewer: not v.surfaces.busy(), "a volume")
            tour.pause(0.1)
        window.pages.open_explorer(analyze)
        explorer = window.pages.explorer
        tour.until(lambda e=explorer: e.session.table is not None and e.session.consensus is not None, "the explorer")
        scene = explorer.scene
        for row in range(0, len(explorer.session.table), max(1, len(explorer.session.table) // 5)):
            before = len(scene.latency)
            explorer.session.show_latent(explorer.session.table.z[row].astype(float))
            tour.until(lambda n=before, s=scene: len(s.latency) > n, "a decoded volume")
        memory.append(process.memory_info().rss / 2**20)
        print(f"looked {len(memory)} times, {time.perf_counter() - began:.0f} s, {memory[-1]:.0f} MiB", flush=True)
    if len(memory) > 2:
        half = memory[len(memory) // 2 :]
        tour.seconds["MiB more each time (second half)"] = float(np.polyfit(np.arange(len(half)), half, 1)[0])


def run_jobs(tour: Tour) -> None:
    """Start a training, watch it, abort it, and go on."""
    window = tour.window
    first = next(info for info in window.model.jobs if info.job_type == "train")
    window.pages.open_job(first.name)
    tour.click("cloneButton")
    tour.until(lambda: window.pane.draft == "train" and window.pane.parameters is not None)
    known = {info.name for info in window.model.jobs}
    tour.pause(1.0)
    tour.click("runButton")
    tour.until(lambda: any(info.name not in known for info in window.model.jobs), "the new job")
    name = next(info.name for info in window.model.jobs if info.name not in known)
    with tour.step("training"):
        tour.until(lambda: window.model.info(name).status.state.value == "Running", "the training")
        window.pages.open_job(name, "Progress")
        tour.until(lambda: bool(window.pane.progress.stages.shown), "its stages")
        tour.pause(20)
    with tour.step("aborted"):
        tour.confirm()
        tour.click("stopButton")
        tour.until(lambda: window.model.info(name).status.state.value == "Aborted", "the end")
    tour.click("continueButton")
    tour.pause(1.0)
    tour.click("runButton")
    with tour.step("continued"):
        tour.until(lambda: window.model.info(name).status.state.value == "Running", "the training again")
        tour.pause(5)
    window.pages.open_job(name, "Progress")
    tour.confirm()
    tour.click("stopButton")
    tour.until(lambda: window.model.info(name).status.state.finished, "the end")


def main() -> int:
    """Take the tour."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--size", default="1600x1000")
    parser.add_argument("--theme", choices=["dark", "light"], default="dark")
    parser.add_argument("--parts", nargs="+", choices=["results", "explore", "jobs"], default=["results", "explore"])
    parser.add_argument("--again", type=int, default=0, help="how often to repeat the looking, for the memory")
    chosen = parser.parse_args()
    chosen.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:  # settings of its own
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "GAUSSIANEM_STATE_DIR"):
            os.environ[name] = folder
        os.environ["NAPARI_CONFIG"] = f"{folder}/napari.yaml"
        QSettings.setDefaultFormat(QSettings.Format.IniFormat)
        QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, folder)
        application = QApplication([])
        application.setOrganizationName("gaussianem-tour")
        from gaussianem_gui.views.toolkit.theme import theme

        theme.apply(chosen.theme)
        width, height = map(int, chosen.size.split("x"))
        tour = Tour(chosen.pictures, (width, height), chosen.theme)
        tour.window.pages.load_in_background()
        open_project(tour, chosen.project)
        for part in chosen.parts:
            {"results": results, "explore": explore, "jobs": run_jobs}[part](tour)
        look_again(tour, chosen.again)
        with tour.step("overview"):
            tour.window.pages.show_home()
        with tour.step("flow of jobs"):
            tour.click("flowButton")
            tour.click("flowPageButton")
        with tour.step("compared"):
            tour.click("closeFlow")
            tour.click("flowButton")
            listed = tour.window.jobs.list
            listed.selectAll()
            tour.window.trigger("compare")
            tour.pause(0.5)
            tour.until(lambda: tour.window.middle.currentWidget() is tour.window.pages.compare, "the comparison")
        with tour.step("closed and opened again"):
            tour.window.close_project()
            tour.window.open_project(chosen.project)
            tour.until(lambda: tour.window.model.loaded)
            tour.pause(1.0)
        import psutil

        memory = psutil.Process().memory_info().rss / 2**20
        tour.window.close()
    for name, value in tour.seconds.items():
        print(f"{name:<34}{value:8.2f} s")
    print(f"{'memory at the end':<34}{memory:8.0f} MiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
