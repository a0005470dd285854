"""The explorer driven by the mouse: see the molecule at a click, lasso a state, take its original particles back."""

from __future__ import annotations

import json
from itertools import combinations, pairwise
from pathlib import Path

import exploring
import numpy as np
import psutil
import pytest
from PySide6.QtCore import QEvent, QObject, QPoint, QPointF, QRect, Qt
from PySide6.QtGui import QMouseEvent, QWheelEvent
from PySide6.QtWidgets import QApplication

from gaussianem_core.io.particle_table import column_names, read_particle_column
from gaussianem_gui.explorer.particle_columns import Column
from gaussianem_gui.explorer.selections import describe
from gaussianem_gui.explorer.sources import find_sources
from gaussianem_gui.project.project import Project
from gaussianem_gui.views.explorer import plot as explorer_plot
from gaussianem_gui.views.explorer import scene as explorer_scene
from gaussianem_gui.views.explorer.colours import Colouring
from gaussianem_gui.views.explorer.scene import LEAST_VIEW
from gaussianem_gui.views.toolkit.theme import theme

LEFT, NONE = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton


class Mouse:
    """Real mouse events on a plot, in its units."""

    def __init__(self, canvas, qtbot) -> None:
        self.canvas, self.qtbot = canvas, qtbot

    def event(self, kind: QEvent.Type, place, button=LEFT, buttons=LEFT) -> None:
        viewport = self.canvas.viewport()
        position = self.canvas.position(*map(float, place))
        everywhere = QPointF(viewport.mapToGlobal(position.toPoint()))
        none = Qt.KeyboardModifier.NoModifier
        QApplication.sendEvent(viewport, QMouseEvent(kind, position, everywhere, button, buttons, none))

    def drag(self, places, *, inside: bool = False) -> None:
        """From place to place; ``inside`` stays within the plot, where a hand would stop too."""
        if inside:
            ranges = np.array(self.canvas.getPlotItem().vb.viewRange())
            places = np.clip(places, *(ranges + np.diff(ranges) * [0.002, -0.002]).T)
        self.event(QEvent.Type.MouseButtonPress, places[0])
        for place in places[1:]:
            self.event(QEvent.Type.MouseMove, place, NONE, LEFT)
        self.event(QEvent.Type.MouseButtonRelease, places[-1], LEFT, NONE)

    def click(self, place) -> None:
        self.event(QEvent.Type.MouseButtonPress, place)
        self.event(QEvent.Type.MouseButtonRelease, place, LEFT, NONE)


def ellipse(x: float, y: float, a: float, b: float) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 60)
    return np.stack([x + a * np.cos(t), y + b * np.sin(t)], axis=1)


@pytest.fixture
def explored(window, tmp_path: Path, qtbot):
    """The main window with the explorer open on a trained model of two states; and who is in the second."""
    return explore(window, tmp_path, qtbot)


def explore(window, tmp_path: Path, qtbot, dimensions: int = 3):
    """Open the explorer on latents of which so many dimensions vary."""
    project, job, second = exploring.make(tmp_path / "a project", dimensions=dimensions)
    assert window.open_project(project.root)
    qtbot.waitUntil(lambda: window.model.loaded, timeout=60_000)
    window.pages.open_explorer(job)
    qtbot.waitUntil(lambda: window.pages.explorer is not None, timeout=60_000)
    explorer = window.pages.explorer
    qtbot.waitUntil(lambda: explorer.session.table is not None and explorer.session.density is not None, timeout=60_000)
    explorer.grid.set_plots(1)
    return window, explorer, second


def second_side(explorer, second: np.ndarray) -> float:
    """Where the second state's middle is along PC 1 (a component's sign is free)."""
    return float(explorer.grid.plots[0].points[second, 0].mean())


def confirm(explorer, qtbot, *, rest: bool = False) -> None:
    """Press Export, look at the dialog, and write."""
    qtbot.mouseClick(explorer.export, LEFT)
    dialog = explorer.panels["Selections"]._dialog
    assert dialog.isVisible()
    if rest:
        dialog.rest.setChecked(True)
    button = dialog.findChild(type(explorer.export), "confirmExport")
    assert f"{explorer.session.selections.selected:,}" in button.text()
    qtbot.mouseClick(button, LEFT)
    qtbot.waitUntil(lambda: explorer.session.exported is not None, timeout=60_000)


def rows_text(path: Path) -> list[str]:
    """The particle rows of a STAR file, as text."""
    lines = path.read_text().splitlines()
    start = lines.index("data_particles")
    return [line for line in lines[start:] if "@" in line]


def test_the_molecule_follows_the_selection_with_its_variation(explored, qtbot):
    _, explorer, second = explored
    qtbot.waitUntil(lambda: explorer.session.consensus is not None, timeout=120_000)
    explorer.session.select(second, {"shape": "test"})
    table = explorer.session.table
    said = explorer.scene.status
    qtbot.waitUntil(lambda: f"Mean of {second.sum():,} selected" in said.full_text(), timeout=60_000)
    np.testing.assert_allclose(explorer.session.latent, table.z[second].mean(axis=0), atol=1e-5)
    qtbot.waitUntil(lambda: "varies by" in said.full_text(), timeout=60_000)

    def variation() -> float:
        return float(said.full_text().split("varies by ")[1].split(" Å")[0])

    within = variation()
    explorer.session.select(np.ones(len(second), bool), {"shape": "test"})  # both states: they differ by more
    qtbot.waitUntil(
        lambda: f"Mean of {len(second):,}" in said.full_text() and "varies" in said.full_text(), timeout=60_000
    )
    assert variation() > 1.2 * within > 0
    before = explorer.session.latent
    qtbot.mouseClick(explorer.scene.follow, LEFT)  # no longer
    explorer.session.select(second, {"shape": "test"})
    qtbot.wait(500)
    assert explorer.session.latent is before


def test_the_palette_holds_what_can_be_done_in_the_explorer(explored, qtbot):
    window, explorer, second = explored
    entries = {entry.title: entry for entry in window.palette_entries()}
    wanted = {"Lasso tool", "Invert the selection", "Show Trajectory", "Four plots of the particles", "Draw as slices"}
    wanted |= {"Keep this state beside", "Colour the surface: displacement", "Colour particles by Rot (°)"}
    assert wanted <= set(entries)
    entries["Lasso tool"].run()
    assert explorer.grid.tool == "lasso"
    explorer.session.select(second, {"shape": "test"})
    entries["Invert the selection"].run()
    assert (explorer.session.selections.mask == ~second).all()
    entries["Show Trajectory"].run()
    assert explorer.panel() is explorer.trajectory
    entries["Colour particles by Rot (°)"].run()
    qtbot.waitUntil(lambda: explorer.session.colouring.column is not None, timeout=60_000)
    assert explorer.session.colouring.column.name == "Rot (°)"
    window.pages.show_home()
    assert "Lasso tool" not in {entry.title for entry in window.palette_entries()}


def test_where_nothing_varies_the_explorer_says_so_and_has_no_latent_axes(window, tmp_path: Path, qtbot):
    _, explorer, second = explore(window, tmp_path, qtbot, dimensions=0)
    qtbot.waitUntil(lambda: explorer.pages.currentWidget() is explorer.split, timeout=60_000)
    assert explorer.nothing.isVisible() and "no latent dimension varies" in explorer.subtitle.full_text()
    plot = explorer.grid.plots[0]
    offered = {plot.x_menu.itemText(n) for n in range(plot.x_menu.count())}
    assert offered and not any(name.startswith(("PC ", "z ", "UMAP")) for name in offered)
    assert len(plot.points) == len(second) and np.ptp(plot.points[:, 0]) > 0
    tabs = [explorer.tabs.tabText(n) for n in range(explorer.tabs.count()) if explorer.tabs.isTabVisible(n)]
    assert "Selections" in tabs and not {"Trajectory", "Landscape", "Domains"} & set(tabs)
    qtbot.waitUntil(lambda: explorer.session.consensus is not None, timeout=120_000)
    explorer.session.select(second, {"shape": "test"})  # particles can still be chosen
    assert explorer.export.isEnabled()
    with qtbot.waitSignal(explorer.scene.decodedShown, timeout=120_000):
        explorer.session.pick_particle(3)
    said = explorer.scene.status.full_text()
    assert "Particle 4" in said and "moves" not in said, "none moves"


def test_lasso_the_second_state_and_take_its_original_rows_back(explored, qtbot):
    window, explorer, second = explored
    plot = explorer.grid.plots[0]
    qtbot.mouseClick(explorer.grid.tool_buttons["lasso"], LEFT)
    side = np.sign(second_side(explorer, second))
    mouse = Mouse(plot.canvas, qtbot)
    low, high = np.abs(plot.points).max(axis=0)
    mouse.drag(ellipse(side * (low + 0.05) / 2, 0, (low - 0.05) / 2, high * 1.02))
    chosen = explorer.session.selections.mask
    assert chosen.any() and explorer.count_text.text().startswith(f"{chosen.sum():,} selected")
    confirm(explorer, qtbot, rest=True)

    made = explorer.session.exported
    assert made.job.name.startswith("Select/job")
    picked, others = (path for path, _ in made.files)
    original = window.model.root / "original.star"
    rows = rows_text(original)
    # the rows' text, order, columns and optics are the original's
    assert rows_text(picked) == [row for row, c in zip(rows, chosen) if c]
    assert rows_text(others) == [row for row, c in zip(rows, chosen) if not c]
    assert column_names(picked) == column_names(original)
    head = original.read_text().split(rows[0])[0]
    assert picked.read_text().startswith(head)
    assert [count for _, count in made.files] == [chosen.sum(), (~chosen).sum()]
    # the rows are the truth's to 95 %
    names = set(read_particle_column(picked, "myLabNote"))
    truth = {f"n{i}" for i in np.flatnonzero(second)}
    assert len(names & truth) / len(truth) > 0.95 and len(names & truth) / len(names) > 0.95

    project = Project.open(window.model.root)
    outputs = {choice.path: choice.kind for choice in project.outputs(made.job.name)}
    assert outputs[f"{made.job.name}particles_selected.star"] == "particles"
    assert "original.star" in project.inputs(made.job.name)
    ready = project.new_job(
        "preprocess", {"consensus_map": "consensus.mrc", "star_file": f"{made.job.name}particles_selected.star"}
    )
    assert made.job.name in project.parents(ready)
    note = json.loads((made.job.directory / "selection.json").read_text())
    assert note["particles"] == chosen.sum() and note["steps"][0]["shape"] == "lasso"
    assert note["steps"][0]["x"] == "PC 1" and len(note["steps"][0]["outline"]) == 60
    assert np.array_equal(np.load(made.job.directory / "selected_rows.npy"), np.flatnonzero(chosen))


def test_reconstruct_these_asks_for_a_map_of_the_selection_or_of_the_point(explored, qtbot):
    window, explorer, second = explored
    session, pane = explorer.session, window.pages.context.pane
    assert not explorer.reconstruct.isEnabled()
    session.select(second, {"column": "z 1", "shape": "range", "low": 0.0, "high": 9.0})
    assert explorer.reconstruct.isEnabled()
    qtbot.mouseClick(explorer.reconstruct, LEFT)
    qtbot.waitUntil(lambda: pane.draft == "reconstruct", timeout=60_000)
    values = pane.parameters.form.values()
    assert values["star_file"] == "original.star" and not values["latent"]
    rows = np.load(window.model.root / values["select"])
    assert np.array_equal(rows, np.flatnonzero(second))
    # A point, where nothing is selected: the particles around it.
    window.pages.open_explorer(session.job)
    assert window.jobs.list.current_job() == session.job, "the list shows which job is explored"
    session.clear_selection()
    session.show_latent(np.array([0.5, 0.0, -0.25]))
    pane.draft = ""
    qtbot.mouseClick(explorer.reconstruct, LEFT)
    qtbot.waitUntil(lambda: pane.draft == "reconstruct", timeout=60_000)
    values = pane.parameters.form.values()
    root = window.model.root
    np.testing.assert_allclose(np.loadtxt(root / values["around"]), [0.5, 0.0, -0.25])
    assert all((root / values[name]).is_file() for name in ("latent", "model_weight", "cfg")) and not values["select"]


@pytest.mark.slow
def test_from_a_selection_of_the_demo_to_its_map(finished_demo, window, qtbot):
    """The real thing, from the explorer through the queue to half maps and FSC."""
    assert window.open_project(finished_demo)
    qtbot.waitUntil(lambda: window.model.loaded, timeout=60_000)
    window.pages.open_explorer("Analyze/job004/")
    qtbot.waitUntil(
        lambda: window.pages.explorer is not None and window.pages.explorer.session.table is not None, timeout=120_000
    )
    explorer, pane = window.pages.explorer, window.pages.context.pane
    z = explorer.session.table.z
    mask = z[:, 0] > np.median(z[:, 0])
    explorer.session.select(mask, {"column": "z 1", "shape": "range", "low": 0, "high": 1})
    qtbot.mouseClick(explorer.reconstruct, LEFT)
    qtbot.waitUntil(lambda: pane.draft == "reconstruct", timeout=60_000)
    before = set((finished_demo / "Reconstruct").glob("job*/RELION_JOB_EXIT_*"))  # the demo's own states
    qtbot.mouseClick(pane.parameters.panel.run, LEFT)
    made: list[Path] = []

    def finished() -> bool:
        made[:] = set((finished_demo / "Reconstruct").glob("job*/RELION_JOB_EXIT_*")) - before
        return bool(made)

    qtbot.waitUntil(finished, timeout=300_000)
    assert made[0].name == "RELION_JOB_EXIT_SUCCESS"
    found = json.loads((made[0].parent / "results.json").read_text())
    assert found["particles"]["used"] == mask.sum() and found["fsc"]["corrected"][2] > 0.5


def apart(session, axes: tuple[str, str], state: np.ndarray) -> float:
    """How far two states lie apart in a plot, in units of their spread."""
    points = np.stack([session.table.column(axis).values for axis in axes], axis=1)
    step = np.median(points[state], axis=0) - np.median(points[~state], axis=0)
    spread = np.cov(points[state].T) + np.cov(points[~state].T)
    return float(step @ np.linalg.solve(spread, step))


@pytest.mark.slow
def test_the_second_state_of_the_demo_is_lassoed_and_its_rows_go_into_the_next_job(finished_demo, window, qtbot):
    """The real thing: images simulated of molecules with and without their arm, latents that training found."""
    from gaussianem_core.io.particle_table import read_particles

    with np.load(finished_demo / "Simulate/job001/truth.npz", allow_pickle=False) as truth:
        real = truth["junk"] == 0  # images of nothing have no state
        without = ~truth["present"].astype(bool) & real
    assert window.open_project(finished_demo)
    qtbot.waitUntil(lambda: window.model.loaded, timeout=60_000)
    window.pages.open_explorer("Analyze/job004/")
    qtbot.waitUntil(
        lambda: window.pages.explorer is not None and window.pages.explorer.session.table is not None, timeout=120_000
    )
    explorer = window.pages.explorer
    explorer.grid.set_plots(1)
    plot = explorer.grid.plots[0]
    axes = explorer.session.table.axes()["Components"]
    pairs = combinations(axes[:4], 2)
    explorer.grid.set_axes(plot, *max(pairs, key=lambda pair: apart(explorer.session, pair, without)))
    # the states lie side by side, perhaps obliquely: a hand goes round one of them through the emptiest place between
    centres = [np.median(plot.points[which], axis=0) for which in (real & ~without, without)]
    spread = sum(np.cov(plot.points[which].T) for which in (real & ~without, without))
    across = np.linalg.solve(spread, centres[1] - centres[0])
    along = np.array([-across[1], across[0]])
    height = plot.points @ across
    there, here = centres[0] @ across, centres[1] @ across
    counts, edges = np.histogram(height, np.linspace(there, here, 31))
    emptiest = np.flatnonzero(counts == counts.min())
    gap = edges[emptiest[len(emptiest) // 2]] + np.diff(edges)[0] / 2
    reach = 20 * np.ptp(plot.points) / np.linalg.norm(along)
    border = across * gap / (across @ across) + np.linspace(-reach, reach, 2001)[:, None] * along
    far = across * reach / np.linalg.norm(across) * np.linalg.norm(along)
    qtbot.mouseClick(explorer.grid.tool_buttons["lasso"], LEFT)
    outline = [*border, border[-1] + far, border[0] + far]
    Mouse(plot.canvas, qtbot).drag(np.array(outline), inside=True)
    chosen = explorer.session.selections.mask
    confirm(explorer, qtbot)
    picked = explorer.session.exported.files[0][0]
    rows = rows_text(finished_demo / "Simulate/job001/particles.star")
    assert rows_text(picked) == [row for row, c in zip(rows, chosen) if c]
    both = (chosen & without).sum()
    assert both > 0.9 * without.sum() and both > 0.9 * (chosen & real).sum()
    # the next job reads them, with their images
    table = read_particles(picked, project_dir=finished_demo)
    assert len(table.image_index) == chosen.sum() and all(stack.is_file() for stack in table.stacks)


def test_a_click_decodes_in_the_worker_and_the_window_goes_on(explored, qtbot):
    _, explorer, second = explored
    qtbot.waitUntil(lambda: explorer.session.consensus is not None, timeout=120_000)
    plot = explorer.grid.plots[0]
    row = int(np.flatnonzero(second)[0])
    with qtbot.waitSignal(explorer.scene.decodedShown, timeout=60_000):
        Mouse(plot.canvas, qtbot).click(plot.points[row])
    assert explorer.session.particle >= 0
    # the nearest on the screen: pixels are coarser than points
    assert np.abs(plot.points[explorer.session.particle] - plot.points[row]).max() < 0.1
    assert np.array_equal(
        explorer.session.latent.astype(np.float32), explorer.session.table.z[explorer.session.particle]
    )
    assert "moves up to" in explorer.scene.status.full_text() and explorer.scene.viewer.positions is not None
    shown: list[int] = []
    explorer.scene.decodedShown.connect(lambda: shown.append(1))
    Mouse(plot.canvas, qtbot).drag(np.stack([np.linspace(-1, 1, 80), np.zeros(80)], axis=1))
    qtbot.waitUntil(lambda: explorer.session.picture.id == explorer.session.decoder._count, timeout=60_000)
    assert len(shown) < 80  # stale requests of the drag were dropped, here or in the worker
    with qtbot.waitSignal(explorer.scene.decodedShown, timeout=60_000):
        explorer.grid.place_kind.setCurrentIndex(1)  # the exact place
        Mouse(plot.canvas, qtbot).click((0.3, 0.1))
    place = explorer.session.table.project("PC 1", "PC 2", explorer.session.latent)[0]
    assert place == pytest.approx([0.3, 0.1], abs=0.05)
    assert explorer.session.decoder.alive()


def test_a_coarse_picture_comes_at_once_and_a_fine_one_at_rest(explored, qtbot, monkeypatch):
    _, explorer, _ = explored
    qtbot.waitUntil(lambda: explorer.session.consensus is not None, timeout=120_000)
    box = explorer.session.consensus.box
    monkeypatch.setattr(explorer_scene, "QUICK_LIVE", box // 2)
    sides: list[int] = []
    explorer.scene.viewer.drawn.connect(lambda: sides.append(explorer.scene.viewer.picture.values.shape[0]))
    with qtbot.waitSignal(explorer.scene.decodedShown, timeout=60_000):
        explorer.session.show_latent(explorer.session.table.z[5].astype(float))
    assert sides[-1] == box // 2
    told = explorer.scene.status.full_text()
    qtbot.waitUntil(lambda: sides[-1] == box, timeout=60_000)
    assert explorer.scene.status.full_text() == told and len(explorer.scene.latency) == 1  # only sharper


def test_shapes_and_set_operations_undo_and_names_are_kept(explored, qtbot, tmp_path):
    window, explorer, _ = explored
    plot, book = explorer.grid.plots[0], explorer.session.selections
    mouse = Mouse(plot.canvas, qtbot)
    x = plot.points[:, 0]
    qtbot.mouseClick(explorer.grid.tool_buttons["rectangle"], LEFT)
    (x0, x1), (y0, y1) = plot.canvas.getPlotItem().vb.viewRange()
    inside = (x0 + 1e-3 * (x1 - x0), y0 + 1e-3 * (y1 - y0)), (0.0, y1 - 1e-3 * (y1 - y0))
    mouse.drag(inside)
    edge = float(np.array(book.steps[-1]["outline"])[:, 0].max())
    assert np.array_equal(book.mask, x <= edge) and abs(edge) < 0.05
    left = book.mask.copy()
    qtbot.mouseClick(explorer.grid.mode_buttons["add"], LEFT)
    qtbot.mouseClick(explorer.grid.tool_buttons["polygon"], LEFT)
    for corner in ((0.5, y0 / 2), (2.5, y0 / 2), (2.5, y1 / 2), (0.5, y1 / 2)):
        mouse.click(corner)
    qtbot.keyClick(plot.canvas, Qt.Key.Key_Return)
    assert book.steps[-1]["shape"] == "polygon" and book.selected > left.sum() and (book.mask[left]).all()
    both = book.mask.copy()
    qtbot.mouseClick(explorer.grid.mode_buttons["subtract"], LEFT)
    qtbot.mouseClick(explorer.grid.tool_buttons["rectangle"], LEFT)
    mouse.drag(inside)
    assert np.array_equal(book.mask, both & ~left)
    explorer.session.undo()
    assert np.array_equal(book.mask, both)
    explorer.session.redo()
    explorer.session.undo()
    explorer.session.invert()
    assert np.array_equal(book.mask, ~both)
    panel = explorer.panels["Selections"]
    panel.name.setText("The others")
    qtbot.mouseClick(panel.keep_button, LEFT)
    assert [s.name for s in book.named] == ["The others"] and panel.list.count() == 1
    # kept in the job: another explorer reads it back
    from gaussianem_gui.explorer.selections import Selections

    again = Selections(len(x), find_sources(window.model.project, explorer.session.job).directory)
    assert np.array_equal(again.find("The others").mask, ~both)
    assert [step.get("mode", step["shape"]) for step in again.named[0].steps] == ["replace", "add", "invert"]


def test_plots_are_linked_and_show_any_column(explored, qtbot):
    _, explorer, second = explored
    explorer.grid.set_plots(4)
    first, other = explorer.grid.plots[0], explorer.grid.plots[2]
    mask = second.copy()
    explorer.session.select(mask, {"shape": "test"}, "replace")
    for plot in explorer.grid.shown_plots():
        assert len(plot._chosen.data) == mask.sum()
    explorer.grid.set_axes(other, "rlnDefocusU", "Tilt (°)")
    qtbot.waitUntil(lambda: other.x_name == "rlnDefocusU", timeout=60_000)
    assert other.points[3, 0] == pytest.approx(15021.5)
    explorer.session.show_latent(explorer.session.table.z[7].astype(float))
    assert first._marker.data["x"][0] == pytest.approx(first.points[7, 0], abs=1e-5)
    assert other._marker.data["x"][0] == pytest.approx(other.points[7, 0])
    for name in ("rlnMicrographName", "Class", "Signal found less expected (σ)"):
        if explorer.grid.colour.findData(name) >= 0:
            explorer.grid.colour.setCurrentIndex(explorer.grid.colour.findData(name))
            explorer.grid.colour.activated.emit(explorer.grid.colour.currentIndex())
            qtbot.waitUntil(lambda n=name: getattr(explorer.session.colouring.column, "name", "") == n, timeout=60_000)


def test_above_the_limit_counts_are_drawn_and_every_particle_is_picked(explored, qtbot, monkeypatch):
    _, explorer, second = explored
    monkeypatch.setattr(explorer_plot, "DENSE_FROM", 100)
    plot = explorer.grid.plots[0]
    plot.set_points(plot.points, "PC 1", "PC 2")
    assert plot.dense() and plot._image.isVisible() and not plot._dots.isVisible()
    image = plot._image.image
    assert (image[..., 3] > 0).sum() > 50
    qtbot.mouseClick(explorer.grid.tool_buttons["lasso"], LEFT)
    side = np.sign(second_side(explorer, second))
    Mouse(plot.canvas, qtbot).drag(ellipse(side * 1.8, 0, 1.6, 3))
    assert abs(explorer.session.selections.selected - second.sum()) < 0.1 * second.sum()
    assert plot._over.image is not None and (plot._over.image[..., 3] > 0).any()
    # zoomed in, single points again
    x, y = map(float, plot.points[5])
    plot.canvas.setRange(xRange=(x - 0.05, x + 0.05), yRange=(y - 0.05, y + 0.05), padding=0)
    plot.redraw_image()
    assert plot._cells[3] is None


def test_a_path_through_clicked_points_is_decoded_and_written(explored, qtbot, tmp_path):
    window, explorer, _ = explored
    qtbot.waitUntil(lambda: explorer.session.consensus is not None, timeout=120_000)
    panel, plot = explorer.panels["Trajectory"], explorer.grid.plots[0]
    qtbot.mouseClick(explorer.grid.tool_buttons["anchor"], LEFT)
    assert explorer.panel() is panel
    for place in ((-1.5, 0.0), (0.0, 0.3), (1.5, 0.0)):
        Mouse(plot.canvas, qtbot).click(place)
    assert len(explorer.session.anchors) == 3
    panel.count.setValue(7)
    qtbot.mouseClick(panel.make, LEFT)
    qtbot.waitUntil(lambda: len(panel.player.frames) == 7, timeout=60_000)
    assert panel.player.counts.counts.sum() == 600 and panel.player.slider.maximum() == 6
    shown = explorer.session.table.project("PC 1", "PC 2", explorer.session.path)
    assert np.allclose(plot._way.getData()[0], shown[:, 0])
    steps = np.linalg.norm(np.diff(explorer.session.path, axis=0), axis=1)
    assert np.allclose(steps, steps.mean(), rtol=0.5)
    panel.player.slider.setValue(4)
    qtbot.waitUntil(lambda: getattr(explorer.scene.viewer.picture, "path", Path()).name == "4", timeout=60_000)
    panel.export_volumes()
    qtbot.waitUntil(lambda: "Written" in panel.text.text(), timeout=120_000)
    job = sorted((window.model.root / "Trajectory").iterdir())[0]
    assert len(list(job.glob("vol_*.mrc"))) == 7
    assert np.allclose(np.loadtxt(job / "z.txt"), explorer.session.path, atol=1e-5)
    script = (job / "play.cxc").read_text()
    assert "vseries" in script and "vol_007.mrc" in script
    movie, told = tmp_path / "movie.gif", []
    panel.player.told.connect(told.append)
    noted: list[tuple[str, str, str]] = []
    explorer.session.noted.connect(lambda *words: noted.append(words))
    del panel.player.frames[2]  # as if it were not decoded yet
    panel.player.record(movie)
    qtbot.waitUntil(lambda: told[-1] == "6 frames in movie.gif", timeout=60_000)
    assert noted[-1][:2] == ("warning", "Part of a movie saved") and "6 of 7 frames" in noted[-1][2]
    from PIL import Image

    with Image.open(movie) as image:
        assert image.n_frames == 10  # to and fro


def test_every_panel_works_on_the_model(explored, qtbot):
    window, explorer, second = explored
    qtbot.waitUntil(lambda: explorer.session.consensus is not None, timeout=120_000)
    explorer.session.select(second, {"shape": "test"}, "replace")
    particles = explorer.panels["Particles"]
    explorer.show_panel(particles)
    qtbot.waitUntil(lambda: len(particles.tiles.images) > 0, timeout=60_000)
    assert f"of {second.sum():,}" in particles.text.full_text()
    particles.averages.setChecked(True)
    qtbot.waitUntil(lambda: "views" in particles.text.full_text(), timeout=60_000)
    domains = explorer.panels["Domains"]
    explorer.show_panel(domains)
    qtbot.mouseClick(domains.go, LEFT)
    qtbot.waitUntil(lambda: domains.found is not None, timeout=60_000)
    assert domains.list.count() == domains.found.count
    land = explorer.panels["Landscape"]
    explorer.show_panel(land)
    qtbot.mouseClick(land.go, LEFT)
    qtbot.waitUntil(lambda: land.result is not None, timeout=120_000)
    assert land.list.count() == len(land.states) and "resampling" in land.words.text()
    trust = explorer.panels["Trust"]
    assert trust.rows.count() > 2
    mask = explorer.panels["Mask"]
    explorer.show_panel(mask)
    qtbot.waitUntil(lambda: mask.volume is not None, timeout=60_000)
    qtbot.waitUntil(lambda: "inside" in mask.text.text(), timeout=60_000)
    drawn: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask.viewer, "show_surface", lambda name, *_a: drawn.append(name))
        qtbot.mouseClick(mask.save, LEFT)
        qtbot.waitUntil(lambda: "Saved" in mask.text.text(), timeout=60_000)
        mask._preview()  # its timer, on a busy machine: one that comes late does not hide that the mask was saved
        qtbot.waitUntil(lambda: "mask" in drawn, timeout=60_000)
        assert "Saved" in mask.text.text()
    mask.dilate.setValue(mask.dilate.value() + 2)
    qtbot.waitUntil(lambda: "inside" in mask.text.text(), timeout=60_000)
    from gaussianem_core.io.mrc import read_map

    made = sorted((window.model.root / "Mask").iterdir())[0]
    volume = read_map(made / "mask.mrc")
    assert volume.values.min() == 0 and volume.values.max() == 1
    assert window.model.project.outputs(f"Mask/{made.name}/")[0].kind == "mask"


def test_latents_of_one_dimension_are_explored(window, tmp_path, qtbot):
    """What training finds no use for does not vary: plots, path and landscape must do without."""
    _, explorer, second = explore(window, tmp_path, qtbot, dimensions=1)
    explorer.grid.set_plots(4)
    explorer.grid.set_plots(1)
    plot = explorer.grid.plots[0]
    assert explorer.session.table.axes()["Components"] == ["PC 1"]
    assert np.isfinite(plot.canvas.getPlotItem().vb.viewRange()).all()
    qtbot.mouseClick(explorer.grid.tool_buttons["lasso"], LEFT)
    side = np.sign(second_side(explorer, second))
    bottom, top = plot.canvas.getPlotItem().vb.viewRange()[1]
    low, high = np.abs(plot.points[:, 0]).max(), (top - bottom) / 2.1
    around = ellipse(side * (low + 0.05) / 2, (bottom + top) / 2, (low - 0.05) / 2, high)
    Mouse(plot.canvas, qtbot).drag(around, inside=True)
    assert (explorer.session.selections.mask == second).mean() > 0.9
    land = explorer.panels["Landscape"]
    explorer.show_panel(land)
    qtbot.mouseClick(land.go, LEFT)
    qtbot.waitUntil(lambda: land.result is not None, timeout=120_000)
    assert land.list.count() == len(land.states) >= 1


def test_the_legend_names_the_colours_and_chooses_classes(explored, qtbot):
    _, explorer, _ = explored
    legend, found = explorer.grid.legend, Column("Class", "", np.arange(600) % 3, ("class 1", "class 2", "class 3"))
    explorer.session.table.columns["Class"] = found
    explorer.grid.fill_colours()
    for name, words in (("Class", "class 2"), ("rlnDefocusU", " to ")):
        explorer.grid.colour.setCurrentIndex(explorer.grid.colour.findData(name))
        explorer.grid.colour.activated.emit(explorer.grid.colour.currentIndex())
        qtbot.waitUntil(lambda n=name: getattr(explorer.session.colouring.column, "name", "") == n, timeout=60_000)
        assert legend.isVisible() and words in legend.accessibleName()
    explorer.session.set_colouring(Colouring.of(found))
    qtbot.waitUntil(lambda: len(legend._places) == 3, timeout=60_000)
    qtbot.mouseClick(legend, LEFT, pos=legend.place(1).toPoint())
    assert np.array_equal(explorer.session.selections.mask, np.arange(600) % 3 == 1)
    assert describe(explorer.session.selections.steps) == "Class: class 2"
    # chosen particles keep the colours of their column; the others fade
    plot = explorer.grid.plots[0]
    assert plot._dots.opacity() < 0.5
    assert plot._chosen.data["brush"][0].color().name() == theme.series(1)
    explorer.session.set_colouring(Colouring())
    assert legend.isHidden()


def test_values_that_are_typed_select_exactly(explored, qtbot):
    _, explorer, _ = explored
    panel = explorer.panels["Selections"]

    def by(name: str) -> None:
        panel.by.setCurrentText(name)
        panel._by_changed()
        qtbot.waitUntil(lambda: panel._column is not None and panel._column.name == name, timeout=60_000)

    by("rlnDefocusU")
    values = explorer.session.table.column("rlnDefocusU").values
    qtbot.mouseClick(panel.by_button, LEFT)
    assert explorer.session.selections.selected == 600  # the ends are inside, though shown with six digits
    panel.high.setText("15100.49")
    qtbot.mouseClick(panel.by_button, LEFT)
    assert np.array_equal(explorer.session.selections.mask, values <= 15100.49)
    by("rlnMicrographName")
    panel.value.setEditText("mic7.mrc")
    qtbot.mouseClick(panel.by_button, LEFT)
    assert np.array_equal(explorer.session.selections.mask, np.arange(600) % 13 == 7)
    panel.name.setText("Seventh")
    qtbot.mouseClick(panel.keep_button, LEFT)
    qtbot.mouseClick(explorer.export, LEFT)
    assert panel._dialog.name.text() == "Seventh"  # the export has the name of what is exported
    panel._dialog.reject()
    said: list[str] = []
    explorer.session.noted.connect(lambda _kind, _title, text: said.append(text))
    panel.value.setEditText("no such micrograph")
    qtbot.mouseClick(panel.by_button, LEFT)
    assert "must be one of its values" in said[-1]


def test_a_path_says_what_it_lacks_and_where_it_leaves_the_particles(explored, qtbot):
    _, explorer, second = explored
    qtbot.waitUntil(lambda: explorer.session.consensus is not None, timeout=120_000)
    panel = explorer.panels["Trajectory"]
    explorer.show_panel(panel)
    panel.kind.setCurrentIndex(panel.kind.findData("selections"))
    assert not panel.make.isEnabled() and "two selections" in panel.text.text()
    for name, mask in (("A", second), ("B", ~second)):
        explorer.session.select(mask, {"shape": "test"}, "replace")
        explorer.session.keep_selection(name)
    assert panel.make.isEnabled()
    panel.kind.setCurrentIndex(panel.kind.findData("classes"))
    assert not panel.make.isEnabled() and "Analyze" in panel.text.text()
    middles = np.stack([explorer.session.table.z[part].mean(axis=0) for part in (second, ~second)])
    far = middles[0] + 2.5 * (middles[0] - middles[1])  # beyond all particles
    for place in (middles[1], far):
        panel.add_anchor(place)
    panel.count.setValue(6)
    qtbot.mouseClick(panel.make, LEFT)
    qtbot.waitUntil(lambda: len(panel.player.frames) == 6, timeout=60_000)
    empty = panel.player.counts.unpopulated
    assert empty[-1] and not empty[0] and "Hardly any particle" in panel.warning.text()
    panel.player.slider.setValue(5)
    assert explorer.scene.status.full_text() == "Frame 6 of 6" and explorer.scene.trust.full_text().startswith("⚠")
    with qtbot.waitSignal(explorer.scene.decodedShown, timeout=60_000):
        explorer.session.show_latent(middles[1])
    assert explorer.scene.trust.full_text().startswith("Denser than around")


def test_a_picture_that_comes_after_its_job_was_left_is_dropped(explored, qtbot):
    _, explorer, _ = explored
    qtbot.waitUntil(lambda: explorer.session.consensus is not None, timeout=120_000)
    explorer.session.show_latent(explorer.session.table.z[0].astype(float), 0)
    qtbot.waitUntil(lambda: explorer.session.picture is not None, timeout=60_000)
    late = explorer.session.picture
    explorer.session.close()
    explorer.session.picture = None
    explorer.session.decoded.emit(late)
    assert explorer.session.picture is None


def test_slices_are_written_as_a_figure(explored, qtbot, tmp_path):
    _, explorer, _ = explored
    qtbot.waitUntil(
        lambda: explorer.session.consensus is not None and explorer.scene.viewer.slices.shown(0) is not None,
        timeout=120_000,
    )
    explorer.scene.write_view(tmp_path / "slices.svg")
    qtbot.waitUntil((tmp_path / "slices.svg").exists, timeout=60_000)
    text = (tmp_path / "slices.svg").read_text()
    assert all(word in text for word in ("XY", "XZ", "YZ", "Å"))


def test_leaving_the_job_ends_the_worker(explored, qtbot):
    window, explorer, _ = explored
    qtbot.waitUntil(lambda: explorer.session.decoder is not None and explorer.session.decoder.pid > 0, timeout=60_000)
    decoder = explorer.session.decoder
    window.close_project()
    qtbot.waitUntil(lambda: not decoder.alive(), timeout=60_000)


def test_a_worker_that_dies_is_said_and_started_again_by_the_next_click(explored, qtbot):
    _, explorer, _ = explored
    qtbot.waitUntil(lambda: explorer.session.consensus is not None, timeout=120_000)
    said: list[str] = []
    explorer.session.noted.connect(lambda _kind, title, _text: said.append(title))
    worker = psutil.Process(explorer.session.decoder.pid)
    worker.suspend()
    domains, path = explorer.panels["Domains"], explorer.panels["Trajectory"]
    explorer.show_panel(domains)
    qtbot.mouseClick(domains.go, LEFT)
    assert not domains.go.isEnabled() and domains.status.text() == "Decoding …"
    explorer.session.set_path(explorer.session.table.z[:5].astype(float))
    path.player.start(np.zeros(5, int), np.zeros(5, bool))
    assert path.text.text() == "Decoding …"
    worker.kill()
    qtbot.waitUntil(lambda: said == ["The decoder stopped"], timeout=60_000)
    assert domains.go.isEnabled() and domains.status.text() == "Not decoded"
    assert path.text.text() == "Decoding stopped after 0 of 5 frames"
    assert explorer.session.decoder is None and "Click in a plot" in explorer.scene.status.full_text()
    with qtbot.waitSignal(explorer.scene.decodedShown, timeout=120_000):
        explorer.session.show_latent(explorer.session.table.z[3].astype(float))
    assert explorer.session.decoder.alive()


def test_two_trainings_are_aligned_whatever_their_coordinates(explored, qtbot):
    from gaussianem_core.analysis.latent_alignment import align
    from gaussianem_core.errors import InputError
    from gaussianem_core.io.latents import save_latents

    window, explorer, second = explored
    generator = np.random.default_rng(1)
    z = explorer.session.table.z.astype(float)
    turned = z @ generator.normal(size=(3, 3)) + 5
    found = align(z, turned)
    scores = explorer.session.table.components.scores(z)
    assert np.allclose(found.scores, scores - scores.mean(axis=0), atol=1e-6)
    assert found.correlations == pytest.approx([1, 1, 1])
    assert align(z, generator.normal(size=(600, 4))).correlations[0] < 0.3
    with pytest.raises(InputError, match="600 particles"):
        align(z, turned[:10])

    project = window.model.project
    other = project.new_job("train", {"source_dir": "Preprocess/job001", "particle_name": "img_stack.mrcs", "epoch": 2})
    (other.directory / "weights.1.pkl").write_bytes((explorer.session.sources.weights).read_bytes())
    save_latents(other.directory / "weights.1.output.pkl", turned, np.zeros_like(turned))
    project.mark(other, exploring.State.SUCCEEDED)
    qtbot.waitUntil(lambda: window.model.info(other.name) is not None, timeout=60_000)
    panel = explorer.panels["Compare"]
    explorer.show_panel(panel)
    panel.shown()
    qtbot.waitUntil(lambda: panel.job.count() > 0, timeout=60_000)
    qtbot.mouseClick(panel.go, LEFT)
    qtbot.waitUntil(lambda: panel.found is not None, timeout=60_000)
    assert "agree: canonical correlations 1.00" in panel.text.text()
    assert f"{panel.found.explained:.0%} of the variance" in panel.text.text()
    panel.map.setCurrentText("Turned only")
    assert np.allclose(panel.plot.points, panel.found.turned[:, :2], atol=1e-5)
    panel.map.setCurrentText("Stretched to fit")
    assert np.allclose(panel.plot.points, panel.found.scores[:, :2], atol=1e-5)
    names = {panel.table.item(row, 0).text() for row in range(panel.table.rowCount())}
    assert "epoch" in names
    explorer.session.select(second, {"shape": "test"}, "replace")
    assert len(panel.plot._chosen.data) == second.sum()


def said(explorer) -> dict[str, object]:
    """What every part of the explorer says and offers."""
    from PySide6.QtWidgets import (
        QAbstractButton,
        QAbstractSlider,
        QComboBox,
        QLabel,
        QLineEdit,
        QListWidget,
        QScrollBar,
    )

    found: dict[str, object] = {}
    for kind, read in (
        (QLabel, lambda w: getattr(w, "full_text", w.text)()),
        (QLineEdit, lambda w: w.text()),
        (QComboBox, lambda w: ([w.itemText(i) for i in range(w.count())], w.currentText())),
        (QListWidget, lambda w: [w.item(i).text() for i in range(w.count())]),
        (QAbstractSlider, lambda w: (w.minimum(), w.maximum(), w.value())),
        (QAbstractButton, lambda w: (w.text(), w.isEnabled(), w.isChecked())),
    ):
        for part in (explorer.grid, explorer.scene, *explorer.panels.values()):
            widgets = [w for w in part.findChildren(kind) if w.isVisibleTo(part) and not isinstance(w, QScrollBar)]
            widgets = [w for w in widgets if not explorer.scene.second.isAncestorOf(w)]  # folded away
            found[f"{type(part).__name__} {kind.__name__}"] = sorted(
                f"{w.accessibleName()}: {read(w)}" for w in widgets
            )
    for number, plot in enumerate([*explorer.grid.plots, explorer.panels["Compare"].plot]):
        way, marker = plot._way.getData(), plot._marker.data
        found[f"plot {number}"] = (
            len(plot.points),
            0 if way[0] is None else len(way[0]),
            len(marker),
            plot._mask is None,
        )
    found["counts"] = len(explorer.trajectory.player.counts.counts)
    found["table"] = explorer.panels["Compare"].table.rowCount()
    return found


def test_another_job_finds_nothing_of_the_one_before(window, tmp_path, qtbot):
    project, job, second = exploring.make(tmp_path / "a project")
    other = project.new_job("train", project.job(job).values() | {"job_dir": None})
    failed = project.new_job("train", {})
    for name in ("weights.0.pkl", "weights.0.output.pkl", "cfg.json", "point_cloud.ply"):
        if (project.root / job / name).exists():
            (other.directory / name).write_bytes((project.root / job / name).read_bytes())
    project.mark(other, exploring.State.SUCCEEDED)
    project.mark(failed, exploring.State.FAILED)
    assert window.open_project(project.root)
    qtbot.waitUntil(lambda: len(window.model.jobs) == 4, timeout=60_000)

    def show(name: str):
        window.pages.open_explorer(name)
        qtbot.waitUntil(lambda: window.pages.explorer is not None, timeout=60_000)
        explorer = window.pages.explorer
        session = explorer.session
        qtbot.waitUntil(lambda: session.job == name and session.consensus is not None, timeout=120_000)
        qtbot.waitUntil(lambda: session.density is not None, timeout=60_000)
        trust = explorer.panels["Trust"].rows
        qtbot.waitUntil(lambda: trust.count() > 1 and explorer.scene.viewer.picture is not None, timeout=60_000)
        qtbot.waitUntil(lambda: explorer.selections.by_button.isEnabled(), timeout=60_000)
        return explorer

    explorer = show(other.name)
    explorer.show_panel(explorer.selections)
    qtbot.wait(200)
    fresh = said(explorer)

    show(job)
    session, player = explorer.session, explorer.trajectory.player
    session.select(second, {"shape": "test"}, "replace")
    session.keep_selection("Second state")
    explorer.show_panel(explorer.trajectory)
    for row in np.flatnonzero(second)[:3]:
        explorer.trajectory.add_anchor(session.table.z[row] + 9)
    explorer.trajectory.start()
    qtbot.waitUntil(lambda: len(player.frames) == 30, timeout=120_000)
    player.slider.setValue(7)
    assert "Hardly any" in explorer.trajectory.warning.text() and len(player.counts.counts) == 30
    for name, done in (
        ("Particles", lambda p: len(p.tiles.images) > 0),
        ("Mask", lambda p: "kDa" in p.text.text()),
        ("Landscape", lambda p: p.result is not None),
        ("Domains", lambda p: p.found is not None),
        ("Compare", lambda p: p.found is not None),
    ):
        panel = explorer.panels[name]
        explorer.show_panel(panel)
        if name == "Compare":
            qtbot.waitUntil(lambda p=panel: p.job.count() > 0, timeout=60_000)
            assert [panel.job.itemData(i) for i in range(panel.job.count())] == [other.name]  # the failed one is not
        if hasattr(panel, "go"):
            qtbot.mouseClick(panel.go, LEFT)
        qtbot.waitUntil(lambda p=panel, d=done: d(p), timeout=120_000)
    with qtbot.waitSignal(explorer.scene.decodedShown, timeout=60_000):
        session.pick_particle(5)
    qtbot.mouseClick(explorer.scene.keep_button, LEFT)
    explorer.scene.difference.setChecked(True)
    explorer.scene.viewer.level.sigma.setText("5")
    explorer.scene.viewer.level.sigma.editingFinished.emit()
    explorer.show_panel(explorer.selections)
    assert said(explorer) != fresh

    show(other.name)
    qtbot.wait(200)
    again = said(explorer)
    other_than = [f"{name}: {fresh[name]} -> {again.get(name)}" for name in fresh if fresh[name] != again.get(name)]
    assert not other_than, "\n".join(other_than)
    assert not session.selections.named and not len(session.path) and session.kept is None


def test_single_keys_act_on_the_plots_and_are_typed_elsewhere(explored, qtbot):
    _, explorer, second = explored
    session, canvas = explorer.session, explorer.grid.plots[0].canvas
    session.select(second, {"shape": "test"}, "replace")
    for name in ("iris", "Inner"):
        session.keep_selection(name)
    named = explorer.selections.list
    explorer.show_panel(explorer.selections)
    for key in (Qt.Key.Key_I, Qt.Key.Key_1, Qt.Key.Key_Backspace):
        for widget in (named, explorer.selections.by, explorer.grid.colour, explorer.selections.name):
            widget.setFocus()
            qtbot.keyClick(widget, key)
        assert np.array_equal(session.selections.mask, second), key
    canvas.setFocus()
    qtbot.keyClick(canvas, Qt.Key.Key_I)
    assert np.array_equal(session.selections.mask, ~second)
    qtbot.keyClick(explorer.grid.tool_buttons["decode"], Qt.Key.Key_2)
    assert explorer.grid.tool == "lasso"
    qtbot.keyClick(canvas, Qt.Key.Key_Backspace)
    assert not session.selections.selected


@pytest.mark.parametrize("size", [(1100, 700), (1320, 840)])
def test_controls_neither_overlap_nor_move_from_tab_to_tab(explored, qtbot, size):
    from PySide6.QtWidgets import (
        QAbstractButton,
        QAbstractScrollArea,
        QComboBox,
        QLabel,
        QLineEdit,
        QScrollBar,
        QSlider,
    )

    window, explorer, _ = explored
    qtbot.waitUntil(lambda: explorer.session.consensus is not None, timeout=120_000)
    qtbot.waitUntil(lambda: explorer.scene.viewer.picture is not None, timeout=60_000)
    window.resize(*size)
    qtbot.wait(200)
    assert (window.width(), window.height()) == size
    bars = set()
    for panel in explorer.panels.values():
        explorer.show_panel(panel)
        qtbot.wait(50)
        bars.add(explorer.tabs.tabBar().mapTo(window, QPoint(0, 0)).y())
        for part in (explorer.grid, explorer.scene, panel):
            kinds = (QAbstractButton, QComboBox, QLineEdit, QSlider, QLabel)
            found = [w for kind in kinds for w in part.findChildren(kind) if w.isVisible()]
            found = [w for w in found if not isinstance(w, QScrollBar) and not isinstance(w.parent(), QComboBox)]
            found = [w for w in found if not isinstance(w.parent(), QAbstractScrollArea) and w.width() > 0]
            boxes = [QRect(w.mapTo(window, QPoint(0, 0)), w.size()) for w in found]
            for i, box in enumerate(boxes):
                over = [found[j] for j in range(i) if box.intersects(boxes[j]) and not related(found[i], found[j])]
                assert not over, (type(panel).__name__, found[i].accessibleName(), [w.accessibleName() for w in over])
            if part is not panel:  # a panel scrolls where the window is low
                inside = QRect(part.mapTo(window, QPoint(0, 0)), part.size())
                assert all(inside.contains(box) for box in boxes), type(part).__name__
            else:
                assert panel.width() <= explorer.tabs.width(), type(panel).__name__
    assert len(bars) == 1


def test_the_view_has_room_where_its_tools_are_unfolded_in_a_low_window(explored, qtbot):
    window, explorer, _ = explored
    qtbot.waitUntil(lambda: explorer.scene.viewer.picture is not None, timeout=120_000)
    scene = explorer.scene
    window.resize(1100, 700)
    scene.viewer.fold.setChecked(True)
    scene.viewer.colour_by.setCurrentIndex(scene.viewer.colour_by.findData("displacement"))
    qtbot.waitUntil(lambda: scene.views.height() >= LEAST_VIEW and scene.viewer.colour_bar.isVisible(), timeout=10_000)
    qtbot.wait(100)
    parts = [scene.viewer.bar, scene.viewer.tools, scene.views, scene.viewer.colour_bar, scene.status, explorer.tabs]
    tops = [QRect(part.mapTo(window, QPoint(0, 0)), part.size()) for part in parts]
    assert all(above.bottom() < below.top() for above, below in pairwise(tops)), tops
    assert tops[-1].bottom() <= window.height()
    scene.viewer.fold.setChecked(False)


def test_neither_pictures_nor_surfaces_of_former_clicks_are_kept(explored, qtbot):
    _, explorer, _ = explored
    qtbot.waitUntil(lambda: explorer.session.consensus is not None, timeout=120_000)
    viewer = explorer.scene.viewer
    for row in range(3):
        with qtbot.waitSignal(explorer.scene.decodedShown, timeout=60_000):
            explorer.session.show_latent(explorer.session.table.z[row].astype(float), row)
    qtbot.waitUntil(lambda: not viewer.surfaces.busy(), timeout=10_000)
    assert len(viewer._cache) == 1 and viewer.picture.path in viewer._cache
    assert len(viewer.surfaces.kept) <= 1


def related(one, other) -> bool:
    """True if one widget is a part of the other."""
    return one.isAncestorOf(other) or other.isAncestorOf(one)


def test_a_turn_of_the_wheel_paints_the_plot_once(explored, qtbot):
    """Where 3D is drawn by the processor each painting has it put the whole window together again."""
    _, explorer, _ = explored
    plot = explorer.grid.plots[0]
    views = [part.viewport() for part in (plot.canvas, plot.top, plot.side)]
    painted: list[QObject] = []  # in their order

    class Watch(QObject):
        def eventFilter(self, watched: QObject, event: QEvent) -> bool:
            if event.type() == QEvent.Type.Paint:
                painted.append(watched)
            return False

    watch = Watch()
    qtbot.waitUntil(lambda: explorer.session.consensus is not None, timeout=120_000)
    for view in views:
        view.installEventFilter(watch)
    for _ in range(60):  # until it is at rest
        painted.clear()
        qtbot.wait(500)
        if not painted:
            break
    before, middle = plot.canvas.getPlotItem().vb.viewRange(), QPointF(views[0].rect().center())
    keys, buttons = Qt.KeyboardModifier.NoModifier, Qt.MouseButton.NoButton
    everywhere = QPointF(views[0].mapToGlobal(middle.toPoint()))
    turn = QWheelEvent(middle, everywhere, QPoint(), QPoint(0, 120), buttons, keys, Qt.ScrollPhase.NoScrollPhase, False)
    QApplication.sendEvent(views[0], turn)
    qtbot.waitUntil(lambda: set(painted) == set(views), timeout=60_000)
    qtbot.wait(300)
    assert painted.count(views[0]) == 1
    (low, high), _ = plot.canvas.getPlotItem().vb.viewRange()
    assert high - low < np.ptp(before[0]) and all(view.updatesEnabled() for view in views)
    for view in views:
        view.removeEventFilter(watch)
