"""One job after the other in the window: each shows its own content, and says what can be done with it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import LONG, finish
from PySide6.QtCore import QEvent, QObject, QPoint, Qt, QTimer
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QLabel, QWidget
from test_window import answer, notes, preprocessed, running

from gaussianem_core.io.mrc import write_map
from gaussianem_core.job.events import JobLog
from gaussianem_core.options import JOB_OPTIONS
from gaussianem_gui.execution.history import History
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import Project
from gaussianem_gui.views.job.form import OptionForm
from gaussianem_gui.views.job.job_pane import TABS
from gaussianem_gui.views.job.parameters import Parameters
from gaussianem_gui.views.job.results import SECTIONS, Item, Results
from gaussianem_gui.views.window.errors import ErrorDialog

FOREIGN = {"Refine3D": "relion.refine3d", "Sharpen": "relion.external.gaussianem.sharpen", "Extract": "relion.extract"}


def texts(widget) -> str:
    """All that the labels below a widget say."""
    return "\n".join(label.text() for label in widget.findChildren(QLabel) if label.isVisibleTo(widget))


def record(project: Project, title: str) -> str:
    """A job that is made at once, as the explorer makes it."""

    def write(directory: Path) -> list[tuple[str, str]]:
        if title == "Select":
            (directory / "particles_selected.star").write_text("data_particles\n\nloop_\n_rlnImageName #1\n1@a.mrcs\n")
            return [("particles_selected.star", "particles")]
        names = ["mask.mrc"] if title == "Mask" else [f"vol_{i:03d}.mrc" for i in range(1, 4)]
        for name in names:
            write_map(directory / name, np.random.default_rng(0).random((12, 12, 12)).astype(np.float32), 3.0)
        return [(name, "mask" if title == "Mask" else "volume") for name in names]

    return project.record(title, write, inputs=["map.mrc"], note=f"{title} made by hand").name


@pytest.fixture
def every(opened, qtbot, engine):
    """A project with a job of every type, of this program and of others; the window, and the training among them."""
    train = running(opened, qtbot, engine, 0.2)
    engine()
    qtbot.waitUntil(lambda: opened.model.info(train) is not None, timeout=LONG)
    project = opened.model.project
    made = {title: record(project, title) for title in ("Select", "Mask", "Trajectory")}
    made |= {job_type: project.new_job(job_type, {}).name for job_type in JOB_OPTIONS}
    graph = project.root / "default_pipeline.star"
    for folder, label in FOREIGN.items():
        job = project.new_job("simulate", {})
        number = job.name.rstrip("/").rsplit("/", 1)[-1]
        (project.root / folder).mkdir()
        job.directory.rename(project.root / folder / number)
        text = graph.read_text().replace(job.name, f"{folder}/{number}/")
        lines = [
            line.replace(job.type_label, label) if f"{folder}/{number}/" in line else line for line in text.split("\n")
        ]
        graph.write_text("\n".join(lines))
        made[folder] = f"{folder}/{number}/"
    opened.model.refresh()
    qtbot.waitUntil(lambda: all(opened.model.info(name) is not None for name in made.values()), timeout=LONG)
    return opened, train, made


def test_a_job_of_every_type_opens_and_shows_itself_alone(every, qtbot):
    window, train, made = every
    pane = window.pane
    for title, name in made.items():
        window.pages.open_job(train)
        qtbot.waitUntil(lambda: "loss" in str(pane.progress.history.names()), timeout=LONG)
        for tab in TABS:
            pane.show_tab(tab)
        qtbot.waitUntil(lambda: "gaussianem train" in pane.notes.edit.toPlainText(), timeout=LONG)
        info = window.model.info(name)
        window.pages.open_job(name)
        assert pane.name == name and info.title in pane.title.text()
        # from the first moment: nothing of the training under another title
        forms = [f for f in pane.findChildren(OptionForm) if f.isVisibleTo(pane)]
        assert not forms or pane.parameters.job_type == info.job_type == title
        assert "gaussianem train" not in pane.notes.edit.toPlainText()
        assert pane.files.place.text() == name and pane.files.tree.topLevelItemCount() == 0
        assert pane.progress.plot._jobs[0][1].directory == window.model.root / name
        assert pane.progress.probe.epoch.text() == "" and pane.progress.plot.readout.isHidden()
        assert info.has_options == isinstance(pane.parameters, Parameters)
        for tab in TABS:
            pane.show_tab(tab)
        qtbot.wait(20)
        assert not [d.message.text() for d in window.findChildren(ErrorDialog)]
        if not info.has_options:
            assert pane.again.isHidden() and pane.copy.isHidden()


def test_what_was_made_in_the_window_tells_how_and_cannot_be_run(every, qtbot, monkeypatch):
    window, _, made = every
    told = notes(window, monkeypatch)
    for title in ("Select", "Mask", "Trajectory"):
        window.pages.open_job(made[title])
        page = window.pane._parameters_page
        qtbot.waitUntil(lambda p=page, t=title: f"{t} made by hand" in texts(p), timeout=LONG)
        assert "map.mrc" in texts(page)
        for action in ("run", "continue", "clone", "command"):
            window.trigger(action)
            assert "not possible" in told[-1][0] and window.pane.name == made[title], action
    results = window.pane.results
    window.pages.open_job(made["Trajectory"], "Results")
    qtbot.waitUntil(lambda: results.tree.topLevelItemCount() == 1, timeout=LONG)
    assert results.tree.topLevelItem(0).child(0).text(0) == "Volumes (3)"
    window.pages.open_job(made["Mask"], "Results")
    qtbot.waitUntil(lambda: results.tree.topLevelItemCount() == 1, timeout=LONG)
    assert "mask.mrc" in results.tree.topLevelItem(0).child(0).text(0)


def test_a_clone_names_the_job_that_its_files_come_from(opened, qtbot):
    first = preprocessed(opened, qtbot)
    project = opened.model.project
    train = project.new_job("train", {}, inputs_from=[first])
    other = project.new_job("preprocess", project.job(first).values() | {"job_dir": None})
    for name in ("img_stack.mrcs", "poses.npy", "ctf.npy", "point_cloud.ply", "cfg.json"):
        (other.directory / name).write_bytes((project.root / first / name).read_bytes())
    for job in (train, other):
        project.mark(job, State.SUCCEEDED)
    names = (first, train.name, other.name)
    qtbot.waitUntil(lambda: all(opened.model.info(n) and opened.model.info(n).status.state.finished for n in names))
    opened.pages.open_job(train.name)
    opened.trigger("clone")
    qtbot.waitUntil(lambda: opened.pane.draft == "train", timeout=LONG)
    page = opened.pane.parameters
    qtbot.waitUntil(lambda: page.source.count() > 2, timeout=LONG)
    qtbot.waitUntil(lambda: page.form.values()["pose"] == f"{first}poses.npy", timeout=LONG)
    assert page.source.currentData() == first
    # another job chosen there, and a path typed by hand: the box follows the fields
    page.source.setCurrentIndex(page.source.findData(other.name))
    page.source.activated.emit(page.source.currentIndex())
    qtbot.waitUntil(lambda: page.form.values()["pose"] == f"{other.name}poses.npy", timeout=LONG)
    assert page.source.currentData() == other.name
    for field in ("pose", "ctf", "point", "cfg", "particle_name"):
        page.form.rows[field].editor.edit.setText("elsewhere/" + field)
    assert not page.source.currentData()


def test_running_a_finished_job_again_warns_of_what_it_writes_over(opened, qtbot, monkeypatch):
    name = preprocessed(opened, qtbot)
    child = opened.model.project.new_job("train", {}, inputs_from=[name])
    qtbot.waitUntil(lambda: opened.model.info(child.name) is not None, timeout=LONG)
    opened.pages.open_job(name)
    asked = answer(monkeypatch, yes=False)
    before = (opened.model.root / name / "events.jsonl").stat().st_size
    opened.trigger("continue")
    page = opened.pane.parameters
    assert page.panel.run.text() == "Run again"
    qtbot.waitUntil(lambda: "writes over its results" in texts(page), timeout=LONG)
    qtbot.waitUntil(lambda: page.panel.run.isEnabled() and not page.form.looking(), timeout=LONG)
    page.submit(run=True)
    assert len(asked) == 1 and "Train job002" in asked[0]
    qtbot.wait(300)
    assert (opened.model.root / name / "events.jsonl").stat().st_size == before
    assert opened.model.info(name).status.state is State.SUCCEEDED


def test_a_click_on_the_current_job_brings_it_back(opened, qtbot):
    name = preprocessed(opened, qtbot)
    opened.pages.open_job(name)
    opened.pages.show_comparison([name])
    assert opened.middle.currentWidget() is opened.pages.compare
    jobs = opened.jobs.list
    place: QPoint = jobs.visualRect(jobs.currentIndex()).center()
    QTest.mouseClick(jobs.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert opened.middle.currentWidget() is opened.pane and opened.pane.name == name


def test_curves_of_failed_jobs_are_not_offered(opened, qtbot, engine):
    train = running(opened, qtbot, engine, 0.1)
    engine()
    project = opened.model.project
    states = {State.FAILED: "", State.SUCCEEDED: "", State.ABORTED: ""}
    for state in states:
        states[state] = project.mark(project.new_job("train", {}), state) or ""
    made = [job for job in project.jobs() if job.job_type == "train" and job.name != train]
    qtbot.waitUntil(lambda: all(opened.model.info(job.name) is not None for job in made), timeout=LONG)
    qtbot.waitUntil(lambda: all(opened.model.info(job.name).status.state.finished for job in made), timeout=LONG)
    opened.pages.open_job(train, "Progress")
    overlay = opened.pane.progress.overlay
    offered = {overlay.itemData(i) for i in range(1, overlay.count())}
    assert offered == {job.name for job in made if job.status.state is State.SUCCEEDED}


def test_progress_is_that_of_the_whole_job(opened, qtbot, engine):
    train = running(opened, qtbot, engine, 1.0)  # its epochs end, and then it goes on
    qtbot.waitUntil(lambda: opened.pane.name == train, timeout=LONG)
    opened.pane.show_tab("Progress")
    page = opened.pane.progress
    qtbot.waitUntil(lambda: page.values["Done"].value.text() == "80 %", timeout=LONG)
    assert page.bar.value() == 800
    assert page.stages.shown == [
        ("Find what varies", "done", ""),
        ("Train", "now", "100 %"),
        ("Teach the encoder", "later", ""),
    ]
    qtbot.waitUntil(lambda: opened.model.info(train).status.fraction == 0.8, timeout=LONG)
    status = opened.model.info(train).status
    assert status.left_seconds is None or status.left_seconds > 0
    qtbot.waitUntil(lambda: "Train · 80 %" in opened.pane.line.full_text(), timeout=LONG)
    # the stage says that it has nothing left; the job has, and the longer it waits the more
    qtbot.waitUntil(lambda: page.values["Time left"].value.text() not in ("0 s", "–", ""), timeout=LONG)
    said = texts(page.messages)
    assert "nats" not in said and "3 of 4 directions of variation are real" in said
    engine()
    finish(opened, qtbot, train)
    qtbot.waitUntil(lambda: all(state == "done" for _, state, _ in page.stages.shown), timeout=LONG)
    assert page.bar.value() == 1000


def test_every_stage_that_the_engine_plans_has_its_words():
    import gaussianem_core
    from gaussianem_core.commands import preprocess, train
    from gaussianem_core.options import PreprocessOptions
    from gaussianem_gui.forms.stage_words import STAGES, message_words, stage_words

    options = PreprocessOptions(star_file="p.star", consensus_map="m.mrc")
    plans = (train.LINEAR_STAGES, train.LATER_STAGES, train.OTHER_STAGES, preprocess.stages(options))
    assert {stage for plan in plans for stage in plan} <= set(STAGES)
    engine = Path(gaussianem_core.__file__).parent
    reported = {
        stage for path in engine.rglob("*.py") for stage in re.findall(r"\bprogress\(\"([^\"]+)\"", path.read_text())
    }
    assert "train" in reported and reported <= set(STAGES)
    assert stage_words("trajectory pc2") == "Decode along PC 2" and stage_words("new stage") == "New stage"
    assert message_words("anything else") == "anything else"
    assert message_words("half maps agree to 17.0 A (FSC 0.143)") == "half maps agree to 17.0 Å (FSC 0.143)"


def test_whether_a_training_has_settled_is_a_curve_of_fixed_particles(tmp_path: Path, themed, qtbot):
    from gaussianem_gui.views.plots.convergence_plot import ConvergencePlot, settling

    rng = np.random.default_rng(0)
    end = rng.normal(size=(50, 3))
    spread = np.sqrt(np.square(end - end.mean(axis=0)).sum(axis=1).mean())
    step = np.array([1.0, 0.0, 0.0])
    offsets = {1: 1.0, 2: 0.5, 3: 0.25, 4: 0.25}
    image = rng.normal(size=(2, 8, 8))
    image -= image.mean(axis=(1, 2), keepdims=True)
    for epoch, offset in offsets.items():  # renderings become the images
        drawn = image * (1 + 1 / epoch)
        noise = rng.normal(size=image.shape) / epoch**2
        z = end + offset * step
        np.savez(tmp_path / f"p{epoch}.npz", z=z, epoch=epoch, images=image + noise, renderings=drawn)
    paths = [tmp_path / f"p{epoch}.npz" for epoch in offsets]
    found = settling([*paths, tmp_path / "not there.npz"])
    np.testing.assert_allclose(found.moved[1:], np.array([0.5, 0.25, 0.0]) / spread)
    np.testing.assert_allclose(found.changed[1:], [(1 / (e - 1) - 1 / e) / (1 + 1 / e) for e in (2, 3, 4)])
    assert np.isnan(found.moved[0]) and (np.diff(found.agreement) > 0).all()
    plot = ConvergencePlot()
    qtbot.addWidget(plot)
    plot.set_probes(paths, 1)
    qtbot.waitUntil(lambda: plot.found is not None, timeout=LONG)
    said = plot.text.text()
    assert (
        "In epoch 4 the renderings of the example particles changed by 6.7 % of their contrast (at most 33.3 %" in said
    )
    assert f"moved by 0.0 % of their spread (at most {100 * 0.5 / spread:.1f} %, in epoch 2)" in said
    assert len(plot.plot.listDataItems()) == 3


def test_a_running_training_shows_whether_it_settles(opened, qtbot, engine):
    train = running(opened, qtbot, engine, 1.0)
    qtbot.waitUntil(lambda: opened.pane.name == train, timeout=LONG)
    opened.pane.show_tab("Progress")
    page = opened.pane.progress
    qtbot.waitUntil(lambda: page.curve_tabs.isTabVisible(1), timeout=LONG)
    page.curve_tabs.setCurrentIndex(1)
    qtbot.waitUntil(
        lambda: page.convergence.found is not None and len(page.convergence.found.epochs) == 3, timeout=LONG
    )
    assert "In epoch 3 the renderings of the example particles changed by" in page.convergence.text.text()
    engine()
    finish(opened, qtbot, train)


def test_a_volume_of_any_kind_is_shown(themed, qtbot, tmp_path: Path) -> None:
    """Half maps stood in the list, and a click on one showed nothing."""
    results = Results()
    qtbot.addWidget(results)
    path = tmp_path / "half_map_1.mrc"
    write_map(path, np.random.default_rng(0).random((12, 12, 12)).astype(np.float32), 3.0)
    for kind in SECTIONS[0][1]:
        results.viewer.clear()
        results.show_item(Item(kind, "one", (path,)))
        assert results.stack.currentWidget() is results.viewer and results.viewer._paths == [path], kind


def test_a_form_that_takes_long_is_announced_before_it_is_built(opened, qtbot):
    name = preprocessed(opened, qtbot)
    opened.pages.open_job(name, "Progress")
    pane = opened.pane
    qtbot.wait(50)
    assert pane._form is None, "nobody looks at it"
    pane.show_tab("Parameters")
    assert pane._form is None and "Reading the options" in texts(pane.tabs.currentWidget())
    qtbot.waitUntil(lambda: pane._form is not None, timeout=LONG)
    qtbot.waitUntil(lambda: pane._form.form.rows["star_file"].editor.value() == "particles.star", timeout=LONG)


def test_a_finished_job_without_curves_says_what_it_made(opened, qtbot):
    name = preprocessed(opened, qtbot)
    opened.pages.open_job(name, "Progress")
    page, pane = opened.pane.progress, opened.pane
    qtbot.waitUntil(lambda: page.made.list.topLevelItemCount() == 6, timeout=LONG)
    assert page.made.isVisible() and "preprocess begins" in texts(page.messages)
    rows = [page.made.list.topLevelItem(place) for place in range(6)]
    assert [row.text(1) for row in rows][-2:] == ["particles.star", "point_cloud.ply"]
    page.made.list.itemClicked.emit(rows[-1], 0)
    assert pane.tab() == "Results"
    assert pane.results.tree.currentItem().text(0) == "point_cloud.ply"
    page.made.list.itemClicked.emit(rows[1], 0)  # an array of poses is nothing to look at: it lies among the files
    assert pane.tab() == "Files"
    # the next job shows its own
    opened.pages.open_job(record(opened.model.project, "Mask"))
    qtbot.waitUntil(lambda: not page.made.isVisible() or page.made.list.topLevelItemCount() != 6, timeout=LONG)


def test_images_are_shown_in_the_contrast_of_their_renderings(tmp_path: Path, themed, qtbot):
    from gaussianem_gui.views.job.probe_panel import ProbePanel

    rng = np.random.default_rng(0)
    drawn = np.zeros((2, 16, 16))
    drawn[:, 6:10, 6:10] = 1.0
    for name, sign in (("dark", -1), ("bright", 1)):
        images = sign * drawn + 0.2 * rng.normal(size=drawn.shape)
        np.savez(tmp_path / f"{name}.npz", z=rng.normal(size=(9, 3)), epoch=1, images=images, renderings=drawn)
        panel = ProbePanel()
        qtbot.addWidget(panel)
        panel.set_probes([{"path": f"{name}.npz", "t": 1.0}], tmp_path)
        qtbot.waitUntil(lambda panel=panel: panel.montage.counts() == [2, 2], timeout=LONG)
        image, rendering = (row[0] for row in panel.montage._rows)
        assert image.pixelColor(8, 8).lightness() > 150 and rendering.pixelColor(8, 8).lightness() > 150
        assert ("inverted" in panel.montage.accessibleName()) == (name == "dark")


def test_a_form_is_built_when_it_is_looked_at_and_no_part_of_it_is_a_window(every, qtbot, qapp):
    """A click on a job is answered before its form is there; what is typed before its values are read stays."""
    window, train, made = every
    pane = window.pane
    window.pages.open_job(train, "Progress")
    windows: list[object] = []

    class Shown(QObject):
        def eventFilter(self, watched: QObject, event: QEvent) -> bool:
            if event.type() == QEvent.Type.Show and isinstance(watched, QWidget) and watched.isWindow():
                windows.append(watched)
            return False

    watcher = Shown()
    qapp.installEventFilter(watcher)
    try:
        for name in (made["analyze"], made["train"]):
            window.pages.open_job(name, "Progress")
            assert pane.name == name and pane._form is None  # said at once, without its form
            qtbot.wait(30)
            assert pane._form is None
            pane.show_tab("Parameters")
            qtbot.waitUntil(lambda: any(f.isVisible() for f in pane.findChildren(OptionForm)), timeout=LONG)
    finally:
        qapp.removeEventFilter(watcher)
    assert not windows
    form = pane.parameters.form
    form.rows["epoch"].editor.edit.setText("7")
    pane.parameters.show_job(window.model.info(made["train"]), {"epoch": 3, "batch": 5})
    assert form.values()["epoch"] == "7" and form.values()["batch"] == "5"


def test_a_click_on_explore_is_answered_at_once_and_the_window_lives_meanwhile(opened, qtbot):
    turns: list[None] = []
    turning = QTimer()
    turning.timeout.connect(lambda: turns.append(None))
    opened.pages.open_explorer("Train/job001/")
    assert opened.middle.currentWidget() is opened.pages.loading and opened.pages.loading.isVisible()
    qtbot.waitUntil(lambda: opened.pages._building is not None, timeout=LONG)
    turning.start(0)
    qtbot.waitUntil(lambda: opened.pages.explorer is not None, timeout=LONG)
    turning.stop()
    assert opened.middle.currentWidget() is opened.pages.explorer
    assert len(turns) > len(opened.pages.explorer.panels), "each panel is made in a turn of its own"


def test_who_goes_elsewhere_while_the_explorer_is_built_stays_there(opened, qtbot):
    opened.pages.open_explorer("Train/job001/")
    qtbot.waitUntil(lambda: opened.pages._building is not None, timeout=LONG)
    opened.pages.show_home()
    qtbot.waitUntil(lambda: opened.pages.explorer is not None, timeout=LONG)
    assert opened.middle.currentWidget() is opened.pages.home
    opened.pages.open_explorer("Train/job001/")
    assert opened.middle.currentWidget() is opened.pages.explorer


def test_a_single_number_is_no_curve(tmp_path: Path) -> None:
    """Reconstruct reports one resolution: its Progress showed empty axes."""
    history = History(tmp_path)
    with JobLog(tmp_path, ["gaussianem", "reconstruct"], "0") as log:
        for step, curved in ((0, False), (1, True)):
            log.metric("reconstruct", step, 0.0, resolution_angstrom=17.0)
            history.poll()
            assert history.names() and history.has_curves() is curved
