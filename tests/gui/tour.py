"""A user's day in the real window, by mouse and keyboard, with a picture of each step and the seconds that it took.

    gaussianem demo demo
    xvfb-run -a -s "-screen 0 1700x1100x24 +extension GLX" python tests/gui/tour.py demo pictures --size 1600x1000

The project is a finished demo. With ``--relion NEW`` the tour is the whole day of somebody who comes from RELION: a
project as RELION leaves it is made in NEW from the demo's images, and everything else there by the forms: Preprocess,
Train (aborted and continued), Analyze. What the tour makes stays. Prints a table of seconds, and fails at the first
step that does not come.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import relion_project
from PySide6.QtCore import QPoint, QSettings, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication
from touring import LEFT, Tour

from gaussianem_gui.explorer.path_kinds import BY_COMPONENT
from gaussianem_gui.views.plots.lasso_3d import Lasso3D, on_screen


def open_project(tour: Tour, root: Path) -> None:
    """From the first window to the project's overview."""
    window = tour.window
    tour.picture("welcome")
    with tour.step("project open"):
        tour.pick(root)
        window.trigger("open_project")
        tour.until(lambda: window.model is not None and window.model.loaded)
        window.pages.show_home()
    tour.pause(2.0)


def results(tour: Tour) -> None:
    """Look at the jobs and at what Analyze made."""
    window = tour.window
    jobs = {info.job_type: info for info in window.model.jobs}
    for job_type, tab in (("train", "Progress"), ("analyze", "Results")):
        name = jobs[job_type].name
        with tour.step(f"{job_type} opened"):
            tour.open_job(name, tab)
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
        tour.until(lambda: window.pane.draft == "train" and window.pane.parameters is not None, "the form")


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
        away = np.abs(plot.points - np.median(plot.points, axis=0)).sum(axis=1)
        inner = plot.points[np.argmin(away)]  # a place with particles, and with room around it
        turn = np.linspace(0, 2 * np.pi, 40)
        shape = inner + np.stack([np.cos(turn), np.sin(turn)], axis=1) * plot.points.std(axis=0) * 0.5
        tour.drag(plot.canvas, shape)
        tour.until(lambda: "varies by" in scene.status.full_text(), "the mean of the selection")
    with tour.step("export"):
        tour.click("exportSelection")
        tour.until(lambda: explorer.selections._dialog.isVisible())
    tour.click(explorer.selections._dialog.findChild(QAbstractButton, "confirmExport"))
    tour.until(lambda: session.exported is not None, "the Select job")
    with tour.step("reconstruct form"):
        tour.click("reconstructThese")
        tour.until(lambda: window.pane.draft == "reconstruct" and window.pane.parameters is not None, "the form")
    tour.pause(1.5)
    maps = tour.run_form("reconstruct")
    with tour.step("reconstructed"):
        tour.finished(maps)
        tour.open_job(maps, "Results")
        window.pane.results.choose(lambda item: "not sharpened" in item.title.lower())
        tour.pause(2.0)
    window.pages.open_explorer(name)
    tour.until(lambda: window.middle.currentWidget() is explorer)
    with tour.step("path played"):
        explorer.show_panel(explorer.trajectory)
        player = explorer.trajectory.player
        explorer.trajectory.kind.setCurrentIndex(explorer.trajectory.kind.findData(BY_COMPONENT[0]))
        tour.click("decodePath")
        tour.until(lambda: len(player.meshes) == 30, "the frames")
        tour.click(player.play)
        tour.pause(1.5)
        tour.click(player.play)
    with tour.step("movie"):
        movie = tour.out / "path.gif"
        tour.pick(movie)
        explorer.trajectory.ask_movie()
        tour.until(movie.is_file, "the movie")
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
        tour.until(lambda: "Gaussians: " in explorer.panels["Mask"].text.text(), "the part of the mask")
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
        tour.until(lambda: window.pages.explorer is not None, "the explorer")
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


def compute(tour: Tour) -> None:
    """From a refinement to latents, by the forms: Preprocess, Train (aborted and continued), Analyze."""
    window = tour.window
    tour.picture("relion project")
    with tour.step("preprocess form"):
        tour.click("homeNext")
        tour.until(lambda: window.pane.draft == "preprocess" and window.pane.parameters is not None)
    tour.write("star_file", "Refine3D/job003/run_data.star")
    tour.write("consensus_map", "Refine3D/job003/run_class001.mrc")
    for name, value in (("zdim", "4"), ("qdim", "64"), ("batch_size", "16"), ("sample_interval", "2")):
        tour.write(name, value)
    tour.pause(1.5)
    tour.picture("preprocess form filled")
    prepared = tour.run_form("preprocess")
    with tour.step("preprocessed"):
        tour.finished(prepared)
    tour.open_job(prepared, "Results")
    with tour.step("train form"):
        tour.click("step-train")
        tour.until(lambda: window.pane.draft == "train" and window.pane.parameters is not None)
    for name, value in (("batch", "16"), ("epoch", "3")):
        tour.write(name, value)
    name = tour.run_form("train")
    with tour.step("training"):
        tour.until(lambda: window.model.info(name).status.state.value == "Running", "the training")
        tour.open_job(name, "Progress")
        tour.until(lambda: bool(list((window.model.root / name).glob("weights.0.pkl"))), "its first epoch")
        tour.pause(2)
    with tour.step("aborted"):
        tour.confirm()
        tour.click("stopButton")
        tour.until(lambda: window.model.info(name).status.state.value == "Aborted", "the end")
    tour.click("continueButton")
    tour.pause(1.0)
    tour.picture("continue form")
    tour.click("runButton")
    with tour.step("continued"):
        tour.until(lambda: window.model.info(name).status.state.value == "Running", "the training again")
        window.pane.show_tab("Progress")
        tour.finished(name)
    with tour.step("analyze form"):
        tour.click("step-analyze")
        tour.until(lambda: window.pane.draft == "analyze" and window.pane.parameters is not None)
    tour.write("nclass", "3")
    analyzed = tour.run_form("analyze")
    with tour.step("analyzed"):
        tour.finished(analyzed)
        tour.open_job(analyzed)


def main() -> int:
    """Take the tour."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--size", default="1600x1000")
    parser.add_argument("--theme", choices=["dark", "light"], default="dark")
    parser.add_argument("--parts", nargs="+", choices=["results", "explore"], default=["results", "explore"])
    parser.add_argument("--relion", type=Path, help="new directory for a project of RELION's, to work in")
    parser.add_argument("--again", type=int, default=0, help="how often to repeat the looking, for the memory")
    chosen = parser.parse_args()
    chosen.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:  # settings of its own
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "GAUSSIANEM_STATE_DIR"):
            os.environ[name] = folder
        os.environ.setdefault("QT_QPA_PLATFORM", "xcb")
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
        project = chosen.project.resolve()
        if chosen.relion is not None:
            simulated = next(project.glob("Simulate/job*/particles.star")).parent
            project = relion_project.write(chosen.relion.resolve(), simulated)
        open_project(tour, project)
        if chosen.relion is not None:
            compute(tour)
        for part in chosen.parts:
            {"results": results, "explore": explore}[part](tour)
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
            tour.window.open_project(project)
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
