"""The main window on real projects whose jobs run: every state reached and undone, closed and opened again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import LONG, cut_off, finish
from PySide6.QtCore import Qt, QThreadPool, QTimer
from PySide6.QtWidgets import QAbstractButton, QAbstractSlider, QComboBox, QLabel, QLineEdit, QScrollBar, QWidget

from gaussianem_core.job.events import JobLog
from gaussianem_core.options import JOB_OPTIONS
from gaussianem_gui.execution import runner, workflow
from gaussianem_gui.execution.gpus import Gpu
from gaussianem_gui.forms.actions import JOB_ACTIONS, PROJECT_ACTIONS
from gaussianem_gui.project import trash
from gaussianem_gui.project.job import Job, State
from gaussianem_gui.project.project import Project, recent_projects
from gaussianem_gui.views.job.job_pane import TABS
from gaussianem_gui.views.toolkit import notices
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.window import main_window, project_actions
from gaussianem_gui.views.window.about import versions
from gaussianem_gui.views.window.errors import ErrorDialog
from gaussianem_gui.views.window.leftovers_dialog import LeftoversDialog
from gaussianem_gui.views.window.settings_dialog import SettingsDialog
from gaussianem_gui.views.window.trash_dialog import TrashDialog
from gaussianem_gui.views.window.workflow_dialog import WorkflowDialog

GUIDE = Path(__file__).parents[3] / "resources" / "guide"


def inputs(project: Project) -> None:
    """Files that a Preprocess job can take."""
    columns = "ImageName AngleRot AngleTilt AnglePsi DefocusU DefocusV DefocusAngle Voltage SphericalAberration"
    names = [*columns.split(), "AmplitudeContrast", "ImagePixelSize"]
    head = "".join(f"_rln{name} #{place}\n" for place, name in enumerate(names, start=1))
    rows = "".join(f"{i}@a.mrcs 10 20 {30 * i} 15000 14800 45 300 2.7 0.1 3.0\n" for i in (1, 2))
    (project.root / "particles.star").write_text(f"data_particles\n\nloop_\n{head}{rows}")
    import mrcfile
    import numpy as np

    from gaussianem_core.io.mrc import write_map

    with mrcfile.new(project.root / "a.mrcs") as file:
        file.set_data(np.zeros((2, 16, 16), np.float32))
        file.set_image_stack()
        file.voxel_size = 3.0
    write_map(project.root / "map.mrc", np.random.default_rng(0).random((16, 16, 16)).astype(np.float32), 3.0)


def preprocessed(window, qtbot) -> str:
    """A finished Preprocess job, run from the form."""
    inputs(window.model.project)
    window.pages.new_job("preprocess")
    form = window.pane.parameters.form
    form.rows["star_file"].editor.edit.setText("particles.star")
    form.rows["consensus_map"].editor.edit.setText("map.mrc")
    form.rows["downsample_size"].editor.edit.setText("16")
    submit(window, qtbot)
    finish(window, qtbot, "Preprocess/job001/")
    return "Preprocess/job001/"


def submit(window, qtbot) -> None:
    """Press Run when the form allows it."""
    panel, form = window.pane.parameters.panel, window.pane.parameters.form
    qtbot.waitUntil(lambda: not form.errors() and bool(panel.checks), timeout=LONG)
    qtbot.waitUntil(lambda: not form._pause.isActive() and not window.pane.parameters._pause.isActive(), timeout=LONG)
    qtbot.waitUntil(lambda: not form.path_errors(), timeout=LONG)
    qtbot.waitUntil(lambda: not [c for c in panel.checks if c.level == "error"], timeout=LONG)
    qtbot.mouseClick(panel.run, Qt.MouseButton.LeftButton)


def running(window, qtbot, engine, seconds: float) -> str:
    """A Train job that reports for ``seconds`` and runs until ``engine()`` lets it end."""
    before = preprocessed(window, qtbot)
    engine(seconds=seconds, hold=True)
    window.pages.new_job("train", {"epoch": 3}, [before])
    qtbot.waitUntil(lambda: "job001" in window.pane.parameters.form.values()["particle_name"], timeout=LONG)
    window.pane.parameters.form.rows["device"].editor.set_value("cpu")
    fake_sizes(window, qtbot)
    submit(window, qtbot)
    # It is made beside the window: until then another new job would take its number.
    qtbot.waitUntil(lambda: window.model.info("Train/job002/") is not None, timeout=LONG)
    return "Train/job002/"


def fake_sizes(window, qtbot) -> None:
    """The quick engine's stack is no MRC file; the form must say so, and here it gets a real one."""
    import mrcfile
    import numpy as np

    path = window.model.root / "Preprocess/job001/img_stack.mrcs"
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.zeros((20, 16, 16), np.float32))
        file.set_image_stack()
    window.pane.parameters.form.check()


def answer(monkeypatch, yes: bool = True) -> list[str]:
    """Answer every question; returns the questions asked."""
    asked: list[str] = []

    def reply(_parent, title, text, _yes, *, danger=False, details=""):
        asked.append(f"{title} {text} {details}")
        return yes

    monkeypatch.setattr(notices, "ask", reply)
    return asked


def notes(window, monkeypatch) -> list[tuple[str, str]]:
    """Title and button of every note that the window shows from now on, however soon it goes away."""
    shown: list[tuple[str, str]] = []
    real = window.toasts.show_toast

    def show(kind, title, text="", seconds=6.0, action="", on_action=None):
        shown.append((title, action))
        return real(kind, title, text, seconds, action, on_action)

    monkeypatch.setattr(window.toasts, "show_toast", show)
    return shown


def told(window, qtbot, words: str) -> QWidget:
    """The note in the window's corner with these words, as soon as it is there."""

    def found() -> list[QWidget]:
        return [toast for toast in window.toasts._toasts if words in toast.accessibleName()]

    qtbot.waitUntil(lambda: bool(found()), timeout=LONG)
    return found()[0]


def test_the_first_window_leads_to_a_project(window, qtbot, tmp_path: Path, monkeypatch) -> None:
    assert window.middle.currentWidget() is window.pages.welcome
    for tile in (window.pages.welcome.demo, window.pages.welcome.open, window.pages.welcome.new):
        assert tile.isVisible() and tile.isEnabled()
    shown = window.pages.welcome.findChild(QLabel, "moleculePicture")
    assert shown.isVisible() and shown.pixmap().height() > 100  # the demo's molecule
    assert not window.jobs_dock.isVisible()
    monkeypatch.setattr(project_actions, "pick_directory", lambda *_a: tmp_path / "fresh")
    qtbot.mouseClick(window.pages.welcome.new, Qt.MouseButton.LeftButton)
    assert window.model.root == tmp_path / "fresh" and Project.is_project(tmp_path / "fresh")
    assert window.middle.currentWidget() is window.pages.home and window.jobs_dock.isVisible()
    assert "Preprocess" in window.pages.home.next_button.text()
    assert window.context.settings.root == tmp_path / "fresh"
    window.close_project()
    assert window.context.settings.root is None, "what is set then is not the closed project's"
    assert window.middle.currentWidget() is window.pages.welcome and recent_projects() == [tmp_path / "fresh"]
    qtbot.mouseClick(window.pages.welcome._recent.itemAt(0).widget(), Qt.MouseButton.LeftButton)
    assert window.model is not None


def test_a_directory_without_a_project_is_offered_one(window, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "data.txt").write_text("mine")
    monkeypatch.setattr(project_actions, "pick_directory", lambda *_a: tmp_path / "old")
    asked = answer(monkeypatch, yes=False)
    window.project_actions.ask_open()
    assert asked and window.model is None
    answer(monkeypatch, yes=True)
    window.project_actions.ask_open()
    assert window.model is not None and (tmp_path / "old" / "data.txt").read_text() == "mine"


def test_from_the_form_to_the_end_of_a_job(opened, qtbot, monkeypatch) -> None:
    shown = notes(opened, monkeypatch)
    name = preprocessed(opened, qtbot)
    qtbot.waitUntil(lambda: ("Preprocess job001 succeeded", "") in shown, timeout=LONG)  # it is on the screen already
    qtbot.waitUntil(lambda: opened.pane.name == name, timeout=LONG)
    qtbot.waitUntil(lambda: opened.pane.badge.state == "succeeded", timeout=LONG)
    qtbot.waitUntil(lambda: opened.pane.steps.isVisible(), timeout=LONG)
    toast = opened.toasts.show_toast("info", "A note", "that never lies over the next steps")
    below = opened.pane.steps.mapTo(opened, opened.pane.steps.rect().topLeft()).y()
    assert toast.geometry().bottom() < below
    step = opened.pane.steps.findChild(QWidget, "step-train")
    qtbot.mouseClick(step, Qt.MouseButton.LeftButton)
    assert opened.pane.draft == "train"
    values = opened.pane.parameters.form.values
    qtbot.waitUntil(lambda: values()["pose"] == "Preprocess/job001/poses.npy", timeout=LONG)
    assert values()["point"] == "Preprocess/job001/point_cloud.ply"
    assert opened.pane.parameters.job_dir() == "Train/job002"


def test_inputs_that_arrive_late_do_not_undo_what_was_typed(opened, qtbot) -> None:
    name = preprocessed(opened, qtbot)
    opened.pages.new_job("train", {"epoch": 24}, [name])
    form = opened.pane.parameters.form
    form.rows["epoch"].editor.edit.selectAll()
    qtbot.keyClicks(form.rows["epoch"].editor.edit, "4")
    qtbot.waitUntil(lambda: form.values()["pose"] == "Preprocess/job001/poses.npy", timeout=LONG)
    assert form.values()["epoch"] == "4"


def test_a_form_whose_inputs_no_job_has_made_yet_leads_to_that_job(opened, qtbot) -> None:
    opened.pages.new_job("train")

    def first() -> list[QAbstractButton]:
        return [b for b in opened.pane.parameters.findChildren(QAbstractButton) if b.text() == "Preprocess first"]

    qtbot.waitUntil(lambda: bool(first()), timeout=LONG)
    qtbot.mouseClick(first()[0], Qt.MouseButton.LeftButton)
    assert opened.pane.draft == "preprocess"


def test_a_form_with_mistakes_is_not_submitted(opened, qtbot) -> None:
    opened.pages.new_job("preprocess")
    parameters = opened.pane.parameters
    parameters.form.rows["downsample_size"].editor.edit.setText("63")
    qtbot.mouseClick(parameters.panel.run, Qt.MouseButton.LeftButton)
    assert parameters.form.rows["star_file"].error.isVisible()
    assert "even" in parameters.form.rows["downsample_size"].error.text()
    qtbot.waitUntil(lambda: len([c for c in parameters.panel.checks if c.level == "error"]) == 3, timeout=LONG)
    assert opened.model.project.jobs() == []


def test_a_running_job_is_watched_stopped_continued_and_cloned(opened, qtbot, engine, monkeypatch) -> None:
    name = running(opened, qtbot, engine, seconds=60.0)
    finish(opened, qtbot, name, "Running")
    qtbot.waitUntil(lambda: opened.pane.name == name and "loss" in opened.pane.progress.plot.shown(), timeout=LONG)
    progress = opened.pane.progress
    first = len(progress.plot.shown()["loss"])
    qtbot.waitUntil(lambda: len(progress.plot.shown()["loss"]) > first, timeout=LONG)
    assert progress.values["Images/s"].value.text() == "1,234"
    opened.pane.show_tab("Log")
    qtbot.waitUntil(lambda: any("step" in line for line in opened.pane.log.text.visible_lines()), timeout=LONG)
    assert opened.pane.stop.isVisible() and opened.jobs.list.current_job() == name
    asked = answer(monkeypatch)
    qtbot.mouseClick(opened.pane.stop, Qt.MouseButton.LeftButton)
    finish(opened, qtbot, name, "Aborted")
    assert "checkpoint" in asked[0]
    engine(seconds=0.5)
    qtbot.waitUntil(lambda: opened.pane.again.isVisible(), timeout=LONG)
    qtbot.mouseClick(opened.pane.again, Qt.MouseButton.LeftButton)
    parameters = opened.pane.parameters
    assert parameters.continuing and parameters.panel.run.text() == "Continue"
    parameters.form.rows["epoch"].editor.edit.setText("5")
    assert "--resume" in parameters.panel.command.toPlainText()
    submit(opened, qtbot)
    finish(opened, qtbot, name, "Succeeded")
    assert opened.model.project.job(name).values()["epoch"] == 5
    history = opened.pane.progress.history
    qtbot.waitUntil(lambda: len(history.starts) == 2, timeout=LONG)  # the curves go on in the same plot
    qtbot.waitUntil(lambda: opened.pane.copy.isVisible(), timeout=LONG)
    qtbot.mouseClick(opened.pane.copy, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: opened.pane.draft == "train", timeout=LONG)
    assert opened.pane.parameters.form.values()["epoch"] == "5"


def test_the_window_is_closed_during_training_and_opened_again(opened, qtbot, engine, themed) -> None:
    name = running(opened, qtbot, engine, seconds=3.0)
    finish(opened, qtbot, name, "Running")
    qtbot.waitUntil(lambda: "loss" in opened.pane.progress.plot.shown(), timeout=LONG)
    root = opened.model.root
    opened.close()
    assert Project.open(root).job(name).status().state is State.RUNNING, "the job does not need the window"
    again = main_window.MainWindow()
    qtbot.addWidget(again)
    again.show()
    again.open_project(root)
    qtbot.waitUntil(lambda: again.pane.name == name, timeout=LONG)
    qtbot.waitUntil(lambda: len(again.pane.progress.plot.shown().get("loss", [])) > 0, timeout=LONG)
    assert again.model.info(name).status.state is State.RUNNING
    engine()
    finish(again, qtbot, name, "Succeeded")
    qtbot.waitUntil(lambda: len(again.pane.progress.plot.shown()["loss"]) == 60, timeout=LONG)
    again.close()


def test_run_waits_until_the_disk_has_said_whether_the_inputs_are_there(opened, qtbot) -> None:
    inputs(opened.model.project)
    opened.pages.new_job("preprocess")
    parameters = opened.pane.parameters
    parameters.form.rows["star_file"].editor.edit.setText("particles.star")
    parameters.form.rows["consensus_map"].editor.edit.setText("no.mrc")
    qtbot.mouseClick(parameters.panel.run, Qt.MouseButton.LeftButton)
    qtbot.mouseClick(parameters.panel.run, Qt.MouseButton.LeftButton)
    assert parameters.panel.note.text().startswith("Looking")
    row = parameters.form.rows["consensus_map"]
    qtbot.waitUntil(lambda: row.error.text().startswith("Not found") and not parameters.panel.note.text(), timeout=LONG)
    parameters.form.rows["consensus_map"].editor.edit.setText("map.mrc")
    qtbot.waitUntil(lambda: not parameters.form.looking() and not parameters.form.path_errors(), timeout=LONG)
    qtbot.waitUntil(lambda: not [c for c in parameters.panel.checks if c.level == "error"], timeout=LONG)
    parameters.form.check()  # it looks again: the click below has to wait for it
    qtbot.mouseClick(parameters.panel.run, Qt.MouseButton.LeftButton)
    qtbot.mouseClick(parameters.panel.run, Qt.MouseButton.LeftButton)
    finish(opened, qtbot, "Preprocess/job001/")
    assert len(opened.model.jobs) == 1, "however often one clicks"


def test_a_failure_is_explained_and_can_be_corrected(opened, qtbot, engine, monkeypatch) -> None:
    shown = notes(opened, monkeypatch)
    engine(fail="CUDA out of memory: a batch of 8 would fit")
    inputs(opened.model.project)
    opened.model.project.new_job("preprocess", {"star_file": "particles.star", "consensus_map": "map.mrc"})
    qtbot.waitUntil(lambda: opened.model.info("Preprocess/job001/") is not None, timeout=LONG)
    opened.pages.open_job("Preprocess/job001/", "Progress")
    opened.trigger("run")
    finish(opened, qtbot, "Preprocess/job001/", "Failed")
    qtbot.waitUntil(lambda: any("failed" in title for title, _ in shown), timeout=LONG)
    qtbot.waitUntil(lambda: "batch of 8 would fit" in opened.pane.line.full_text(), timeout=LONG)
    qtbot.waitUntil(lambda: opened.pane.steps.findChild(QWidget, "step-log") is not None, timeout=LONG)
    qtbot.mouseClick(opened.pane.steps.findChild(QWidget, "step-log"), Qt.MouseButton.LeftButton)
    assert opened.pane.tab() == "Log"
    qtbot.waitUntil(lambda: any("out of memory" in t for t in opened.pane.log.text.visible_lines()), timeout=LONG)


def test_a_sweep_makes_a_job_a_value_and_opens_their_comparison(opened, qtbot, engine) -> None:
    before = preprocessed(opened, qtbot)
    opened.pages.new_job("train", {"epoch": 3}, [before])
    form = opened.pane.parameters.form
    qtbot.waitUntil(lambda: "job001" in form.values()["particle_name"], timeout=LONG)
    fake_sizes(opened, qtbot)
    form.rows["device"].editor.set_value("cpu")
    form.rows["batch"].sweep_button.click()
    form.rows["batch"].editor.edit.setText("4, 8, 16")
    assert opened.pane.parameters.panel.run.text() == "Run 3 jobs"
    submit(opened, qtbot)
    qtbot.waitUntil(lambda: opened.middle.currentWidget() is opened.pages.compare, timeout=LONG)
    assert opened.pages.compare.names == ["Train/job002/", "Train/job003/", "Train/job004/"]
    assert [opened.model.info(n).alias for n in opened.pages.compare.names] == ["batch_4", "batch_8", "batch_16"]
    qtbot.waitUntil(lambda: opened.pages.compare._differences == {"batch": [4, 8, 16]}, timeout=LONG)
    qtbot.waitUntil(lambda: len(opened.pages.compare.plot._curves) >= 3, timeout=LONG)
    assert not [toast for toast in opened.toasts._toasts if "job002" in toast.accessibleName()], "told with the sweep"
    engine(hold=True)
    runner.continue_job(opened.model.project, "Train/job002/", {"epoch": 4}, runner.Launch())
    qtbot.waitUntil(lambda: opened.model.info("Train/job002/").status.state is State.RUNNING, timeout=LONG)
    engine()
    told(opened, qtbot, "batch_4 (job002) succeeded")  # by itself: its sweep has ended
    opened.close_project()
    assert opened.news.sweeps.running == []


def test_a_sweep_is_not_given_up_before_the_list_has_its_jobs(opened, qtbot) -> None:
    number = opened.model.counter
    names = [f"Train/job{number:03d}/", f"Train/job{number + 1:03d}/"]
    opened._submitted(names, True)
    opened._jobs_changed()  # a look that began before the jobs were made
    assert opened.news.sweeps.running == [set(names)] and not opened.model.gone(names[0])
    for _ in names:
        opened.model.project.new_job("train", {})
    qtbot.waitUntil(lambda: len(opened.model.jobs) == 2, timeout=LONG)
    opened.pages.new_job("simulate")
    trash.delete(opened.model.project, names[0])
    opened.model.project.mark(names[1], State.FAILED)
    qtbot.waitUntil(lambda: not opened.news.sweeps.running, timeout=LONG)
    assert opened.model.gone(names[0]) and opened.pane.draft == "simulate", "nothing is left to compare"


def test_a_sweep_that_is_saved_for_later_is_not_said_to_run(opened, qtbot, monkeypatch) -> None:
    shown = notes(opened, monkeypatch)
    opened.pages.new_job("train", {}, [])
    form = opened.pane.parameters.form
    form.rows["batch"].sweep_button.click()
    form.rows["batch"].editor.edit.setText("4, 8")
    opened.pane.parameters.submit(run=False)
    qtbot.waitUntil(lambda: len(opened.model.jobs) == 2, timeout=LONG)
    qtbot.waitUntil(lambda: bool(shown), timeout=LONG)
    assert [title for title, _ in shown] == ["2 jobs saved for later"]
    assert {info.status.detail for info in opened.model.jobs} == {""}, "none of them waits to run"


def test_a_job_that_is_deleted_leaves_its_sweep(opened, qtbot) -> None:
    project, sweeps = opened.model.project, opened.news.sweeps
    names = [project.new_job("train", {}).name for _ in range(3)]
    qtbot.waitUntil(lambda: len(opened.model.jobs) == 3, timeout=LONG)
    opened._submitted(names, True)
    trash.delete(project, names[0])
    qtbot.waitUntil(lambda: sweeps.running == [set(names[1:])], timeout=LONG)
    assert [name in sweeps for name in names] == [False, True, True]
    trash.delete(project, names[1])
    qtbot.waitUntil(lambda: sweeps.running == [], timeout=LONG)
    assert names[2] not in sweeps, "the one that is left tells its own end"
    sweeps.open(project.root)
    assert sweeps.running == [], "the end of the program changes nothing"


def test_a_sweep_that_ends_does_not_cover_a_form(opened, qtbot) -> None:
    names = [opened.model.project.new_job("train", {}).name for _ in range(2)]
    qtbot.waitUntil(lambda: len(opened.model.jobs) == 2, timeout=LONG)
    opened._submitted(names, True)
    opened.pages.new_job("simulate")
    for name in names:
        opened.model.project.mark(name, State.FAILED)
    toast = told(opened, qtbot, "The sweep has ended")
    assert opened.middle.currentWidget() is opened.pane and opened.pane.draft == "simulate"
    compare = next(b for b in toast.findChildren(QAbstractButton) if b.text() == "Compare them")
    qtbot.mouseClick(compare, Qt.MouseButton.LeftButton)
    assert opened.middle.currentWidget() is opened.pages.compare and opened.pages.compare.names == names


def test_answers_for_a_form_that_is_closed_are_dropped(opened, qtbot, monkeypatch) -> None:
    gate, deleted = threading.Event(), []
    for question in ("input_jobs", "fill"):
        monkeypatch.setattr(opened.model.project, question, lambda *_a: gate.wait(60) and {})
    opened.guard.install()
    try:
        opened.pages.new_job("train", {}, ["Preprocess/job001/"])
        opened.pane.parameters.destroyed.connect(lambda: deleted.append(True))
        opened.pages.new_job("train", {}, [])
        qtbot.waitUntil(lambda: bool(deleted), timeout=LONG)
        gate.set()
        QThreadPool.globalInstance().waitForDone(LONG)
        job = opened.model.project.new_job("simulate", {"model": "m.pdb"})
        qtbot.waitUntil(lambda: opened.model.info(job.name) is not None, timeout=LONG)
        opened.pages.new_job("simulate")
        opened.pane.parameters.form.rows["model"].editor.edit.setText("m.pdb")
        opened.pane.parameters.submit(run=False)
        opened.pages.open_job(job.name)  # the form is gone before the job is made
        qtbot.waitUntil(lambda: len(opened.model.jobs) == 2, timeout=LONG)
        dialog = TrashDialog(opened, opened.model)
        dialog.show()
        dialog.accept()
        trash.delete(opened.model.project, job.name)
        qtbot.waitUntil(lambda: len(opened.model.jobs) == 1, timeout=LONG)
        QThreadPool.globalInstance().waitForDone(LONG)
        qtbot.wait(50)
    finally:
        opened.guard.remove()
    assert opened.guard.caught == 0 and not opened.findChildren(ErrorDialog)


def test_a_project_that_cannot_be_read_for_a_moment_is_told_once(opened, qtbot, monkeypatch) -> None:
    model, asked = opened.model, []

    def jobs(*_a: object) -> list:
        asked.append(1)
        raise OSError(116, "Stale file handle", "default_pipeline.star")

    monkeypatch.setattr(model.project, "jobs", jobs)
    model.refresh()
    qtbot.waitUntil(lambda: len(asked) >= 5, timeout=LONG)
    found = opened.findChildren(ErrorDialog)
    assert len(found) == 1 and "Stale file handle" in found[0].message.text()
    found[0].close()
    monkeypatch.undo()
    qtbot.waitUntil(lambda: model._failed_looks == 0, timeout=LONG)


def test_a_job_made_and_ended_between_two_looks_is_told(opened, qtbot) -> None:
    model = opened.model
    model._timer.stop()
    qtbot.waitUntil(lambda: not model._background.busy("jobs"), timeout=LONG)
    job = model.project.new_job("simulate", {"model": "m.pdb"})
    runner.request(model.project, job)
    qtbot.waitUntil(lambda: job.status().state is State.SUCCEEDED, timeout=LONG)
    ended: list[str] = []
    model.jobEnded.connect(lambda info: ended.append(info.name))
    model.refresh()
    qtbot.waitUntil(lambda: ended == [job.name], timeout=LONG)
    model.refresh()
    qtbot.waitUntil(lambda: not model._background.busy("jobs"), timeout=LONG)
    assert ended == [job.name], "told once"
    runner.continue_job(model.project, job.name, {})
    qtbot.waitUntil(lambda: job.status().state is State.SUCCEEDED, timeout=LONG)
    model.refresh()
    qtbot.waitUntil(lambda: ended == [job.name] * 2, timeout=LONG)  # run again and ended, with the same word


def test_jobs_are_renamed_marked_deleted_and_restored(opened, qtbot, monkeypatch) -> None:
    project = opened.model.project
    first = project.new_job("simulate", {"model": "m.pdb"})
    qtbot.waitUntil(lambda: opened.model.info(first.name) is not None, timeout=LONG)
    opened.pages.open_job(first.name)
    opened.pane.alias.setText("my test")
    opened.pane.alias.editingFinished.emit()
    qtbot.waitUntil(lambda: opened.model.info(first.name).alias == "my_test", timeout=LONG)
    opened.trigger("mark_failed")
    finish(opened, qtbot, first.name, "Failed")
    opened.trigger("mark_succeeded")
    finish(opened, qtbot, first.name, "Succeeded")
    answer(monkeypatch)
    opened.trigger("delete")
    qtbot.waitUntil(lambda: opened.model.info(first.name) is None, timeout=LONG)
    assert opened.middle.currentWidget() is opened.pages.home
    toast = told(opened, qtbot, "moved to the trash")
    undo = next(b for b in toast.findChildren(QAbstractButton) if b.text() == "Undo")
    qtbot.mouseClick(undo, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: opened.model.info(first.name) is not None, timeout=LONG)
    opened.pages.open_job(first.name)
    opened.trigger("delete")
    qtbot.waitUntil(lambda: opened.model.info(first.name) is None, timeout=LONG)
    trash = TrashDialog(opened, opened.model)
    qtbot.addWidget(trash)
    qtbot.waitUntil(lambda: trash.list.count() == 1, timeout=LONG)
    qtbot.mouseClick(trash.restore, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: opened.model.info(first.name) is not None, timeout=LONG)
    qtbot.waitUntil(lambda: trash.list.count() == 0, timeout=LONG)


def test_deleting_names_the_jobs_that_depend_on_it(opened, qtbot, monkeypatch) -> None:
    preprocessed(opened, qtbot)
    child = opened.model.project.new_job("train", {}, inputs_from=["Preprocess/job001/"])
    qtbot.waitUntil(lambda: opened.model.info(child.name) is not None, timeout=LONG)
    opened.pages.open_job("Preprocess/job001/")
    asked = answer(monkeypatch, yes=False)
    opened.trigger("delete")
    assert "Train/job002/" in asked[0]
    assert opened.model.info("Preprocess/job001/") is not None


def test_every_action_has_a_handler_and_a_reason(opened, qtbot) -> None:
    for action in (*JOB_ACTIONS, *PROJECT_ACTIONS):
        assert opened.commands[action.id].text == action.text and callable(opened.commands[action.id].run)
    opened.pages.show_home()
    opened.trigger("abort")
    assert any("not possible" in t.accessibleName() for t in opened.toasts._toasts)
    for menu in opened.commands.menus.values():
        texts = [a.text() for a in menu.actions() if not a.isSeparator()]
        assert len(texts) == len(set(texts)) and all(texts), texts
    shortcuts = [a.shortcut().toString() for a in opened.commands.actions.values() if not a.shortcut().isEmpty()]
    assert len(shortcuts) == len(set(shortcuts)), "no shortcut is given twice"


def test_notes_are_kept_as_one_types(opened, qtbot) -> None:
    job = opened.model.project.new_job("simulate", {"model": "m.pdb"})
    job.add_note("made by hand")
    qtbot.waitUntil(lambda: opened.model.info(job.name) is not None, timeout=LONG)
    opened.pages.open_job(job.name, "Notes")
    notes = opened.pane.notes
    qtbot.waitUntil(lambda: "made by hand" in notes.edit.toPlainText(), timeout=LONG)
    notes.edit.moveCursor(notes.edit.textCursor().MoveOperation.End)
    qtbot.keyClicks(notes.edit, "and mine")
    qtbot.waitUntil(lambda: job.note().endswith("and mine"), timeout=LONG)
    job.add_note("from the runner")
    opened.pages.show_home()
    notes.edit.clearFocus()
    opened.pages.open_job(job.name, "Notes")
    notes.reload()
    qtbot.waitUntil(lambda: "from the runner" in notes.edit.toPlainText(), timeout=LONG)


def test_notes_that_come_late_or_cannot_be_kept_are_not_lost(opened, qtbot, monkeypatch) -> None:
    job = opened.model.project.new_job("simulate", {"model": "m.pdb"})
    job.add_note("made by hand")
    qtbot.waitUntil(lambda: opened.model.info(job.name) is not None, timeout=LONG)
    gate, read = threading.Event(), Job.note_to_edit
    monkeypatch.setattr(Job, "note_to_edit", lambda self: read(self) if gate.wait(60) else "")
    notes = opened.pane.notes
    opened.pages.open_job(job.name, "Notes")
    qtbot.keyClicks(notes.edit, "too early")
    assert notes.edit.toPlainText() == "", "it would take the place of what is there"
    gate.set()
    qtbot.waitUntil(lambda: "made by hand" in notes.edit.toPlainText(), timeout=LONG)

    def full(*_a: object) -> None:
        raise OSError(28, "No space left on device", "note.txt")

    with monkeypatch.context() as patch:
        patch.setattr(Job, "change_note", full)
        notes.edit.moveCursor(notes.edit.textCursor().MoveOperation.End)
        qtbot.keyClicks(notes.edit, "and mine")
        qtbot.waitUntil(lambda: notes.state.text() == "not kept", timeout=LONG)
        opened.findChildren(ErrorDialog)[0].close()
    notes.keep()
    qtbot.waitUntil(lambda: job.note().endswith("and mine"), timeout=LONG)
    assert "made by hand" in job.note()
    qtbot.waitUntil(lambda: notes.state.text() == "kept", timeout=LONG)
    qtbot.keyClicks(notes.edit, " while it starts")
    job.add_note("from the runner")
    qtbot.waitUntil(lambda: "from the runner" in notes.edit.toPlainText(), timeout=LONG)
    assert "mine while it starts" in job.note() and notes.edit.toPlainText() == job.note()
    qtbot.keyClicks(notes.edit, ", and after")
    qtbot.waitUntil(lambda: "starts, and after" in job.note(), timeout=LONG)
    assert "from the runner" in job.note()

    (job.directory / "note.txt").write_bytes(b"caf\xe9")
    notes.set_job(opened.model, opened.model.info(job.name))
    qtbot.waitUntil(lambda: "caf" in notes.edit.toPlainText(), timeout=LONG)
    assert notes.edit.isReadOnly() and notes.state.text() == "cannot be changed here"


def test_files_of_a_job_are_listed(opened, qtbot) -> None:
    preprocessed(opened, qtbot)
    opened.pages.open_job("Preprocess/job001/", "Files")
    tree = opened.pane.files.tree
    qtbot.waitUntil(lambda: tree.topLevelItemCount() > 5, timeout=LONG)
    names = {tree.topLevelItem(n).text(0) for n in range(tree.topLevelItemCount())}
    assert {"poses.npy", "run.out", "options.json"} <= names


def test_the_flow_graph_and_the_list_show_the_same_jobs(opened, qtbot) -> None:
    preprocessed(opened, qtbot)
    opened.model.project.new_job("train", {}, inputs_from=["Preprocess/job001/"])
    qtbot.waitUntil(lambda: len(opened.model.jobs) == 2, timeout=LONG)
    opened.trigger("flow")
    flow = opened.jobs.flow
    assert set(flow.nodes) == {"Preprocess/job001/", "Train/job002/"} and len(flow._edges) == 1
    assert flow.nodes["Train/job002/"].y() > flow.nodes["Preprocess/job001/"].y()
    place = flow.mapFromScene(flow.nodes["Train/job002/"].pos() + flow.nodes["Train/job002/"].boundingRect().center())
    qtbot.mouseClick(flow.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert opened.pane.name == "Train/job002/"
    qtbot.keyClick(flow, Qt.Key.Key_Up)
    assert opened.pane.name == "Preprocess/job001/"
    opened.trigger("flow")
    qtbot.mouseClick(opened.jobs.flow_button, Qt.MouseButton.LeftButton)
    qtbot.mouseClick(opened.jobs.page_button, Qt.MouseButton.LeftButton)
    page = opened.pages.flow
    assert opened.middle.currentWidget() is page and set(page.graph.nodes) == set(flow.nodes)
    whole = page.graph.mapFromScene(page.graph.sceneRect()).boundingRect()
    assert page.graph.viewport().rect().adjusted(-1, -1, 1, 1).contains(whole)  # all of it is in view
    before = page.percent.text()
    qtbot.mouseClick(page.findChild(QWidget, "zoomIn"), Qt.MouseButton.LeftButton)
    assert int(page.percent.text().split()[0]) == pytest.approx(1.25 * int(before.split()[0]), abs=2)
    qtbot.mouseClick(page.findChild(QWidget, "zoomFit"), Qt.MouseButton.LeftButton)
    assert page.percent.text() == before
    place = page.graph.mapFromScene(page.graph.nodes["Train/job002/"].sceneBoundingRect().center())
    qtbot.mouseClick(page.graph.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert opened.middle.currentWidget() is opened.pane and opened.pane.name == "Train/job002/"
    opened.trigger("flow")
    opened.find_job()
    qtbot.keyClicks(opened.jobs.filter, "train")
    assert opened.jobs.list.filter.rowCount() == 1
    opened.jobs.filter.clear()
    opened.toggle_by_type()
    assert (
        opened.jobs.list.filter.rowCount() == 1
        and opened.jobs.list.tree.rowCount(opened.jobs.list.tree.index(0, 0)) == 2
    )


def test_enter_in_the_list_opens_the_job_and_gives_it_the_keyboard(opened, qtbot) -> None:
    names = [opened.model.project.new_job("train", {}).name for _ in range(2)]
    qtbot.waitUntil(lambda: len(opened.model.jobs) == 2, timeout=LONG)
    jobs = opened.jobs.list
    jobs.select(names[0])
    jobs.setFocus()
    qtbot.keyClick(jobs, Qt.Key.Key_Up)
    assert opened.pane.name == names[1] and opened.focusWidget() is jobs, "the arrow keys go on through the list"
    opened.pages.show_home()
    assert opened.focusWidget() is jobs and jobs.selected() == []
    qtbot.keyClick(jobs, Qt.Key.Key_Return)
    assert opened.middle.currentWidget() is opened.pane and opened.pane.name == names[1]
    assert jobs.selected() == [names[1]] and opened.focusWidget() is opened.pane.tabs.tabBar()
    jobs.setFocus()
    jobs.selectAll()
    qtbot.keyClick(jobs, Qt.Key.Key_Enter)  # of the keys for numbers
    assert opened.pane.name == names[1] and set(jobs.selected()) == set(names), "several stay selected"
    assert opened.focusWidget() is opened.pane.tabs.tabBar()


def test_enter_in_the_search_field_opens_what_was_found_and_in_the_flow_goes_into_the_job(opened, qtbot) -> None:
    made = [opened.model.project.new_job(kind, {}).name for kind in ("preprocess", "train", "preprocess")]
    qtbot.waitUntil(lambda: len(opened.model.jobs) == 3, timeout=LONG)
    search, tabs = opened.jobs.filter, opened.pane.tabs.tabBar()
    opened.pages.show_home()
    search.setFocus()
    qtbot.keyClick(search, Qt.Key.Key_Return)
    assert opened.middle.currentWidget() is opened.pages.home, "nothing is searched for"
    qtbot.keyClicks(search, "train")
    qtbot.keyClick(search, Qt.Key.Key_Return)
    assert opened.pane.name == made[1] and opened.jobs.list.selected() == [made[1]] and opened.focusWidget() is tabs
    search.setText("no such job")
    search.setFocus()
    qtbot.keyClick(search, Qt.Key.Key_Return)
    assert opened.pane.name == made[1] and opened.focusWidget() is search
    search.clear()
    opened.jobs.flow_button.setChecked(True)
    flow = opened.jobs.flow
    flow.setFocus()
    qtbot.keyClick(flow, Qt.Key.Key_Return)
    assert opened.pane.name == made[1] and opened.focusWidget() is tabs


def test_what_cannot_be_read_for_an_action_is_told(opened, qtbot, monkeypatch) -> None:
    job = opened.model.project.new_job("preprocess", {})
    qtbot.waitUntil(lambda: opened.model.info(job.name) is not None, timeout=LONG)
    opened.pages.open_job(job.name)
    shown = notes(opened, monkeypatch)

    def said(words: str) -> bool:
        dialogs = [dialog for dialog in opened.findChildren(ErrorDialog) if words in dialog.message.text()]
        for dialog in dialogs:
            dialog.close()
        return bool(dialogs)

    opened.trigger("command")
    qtbot.waitUntil(lambda: said("option star_file"), timeout=LONG)
    opened.job_actions.clean_up(harsh=False)
    qtbot.waitUntil(lambda: said("must have succeeded"), timeout=LONG)
    (job.directory / "options.json").write_text("{")
    opened.trigger("clone")
    qtbot.waitUntil(lambda: said("Clone the job"), timeout=LONG)
    assert opened.pane.draft == "" and shown == []


def test_an_exception_in_a_view_is_told_and_ends_nothing(opened, qtbot, monkeypatch) -> None:
    opened.guard.install()
    try:
        QTimer.singleShot(0, lambda: {}["missing"])
        qtbot.waitUntil(lambda: bool(opened.findChildren(ErrorDialog)), timeout=LONG)
        monkeypatch.setattr(type(opened.pane.progress.plot), "refresh", lambda _self: 1 / 0)
        monkeypatch.setattr(opened.pane, "isVisible", lambda: True)
        opened.resize(1300, 730)
    finally:
        opened.guard.remove()
    found = opened.findChildren(ErrorDialog)
    assert opened.guard.caught == 1 and len(found) == 1
    assert "KeyError" in found[0].message.text() and "Traceback" in found[0].details.toPlainText()
    found[0].close()
    assert opened.isVisible()


def test_an_exception_in_a_qt_method_does_not_crash() -> None:
    """In a process of its own: without protection the interpreter dies of a signal."""
    script = (
        "import sys, types\n"
        "from PySide6.QtWidgets import QApplication, QWidget\n"
        "app = QApplication([])\n"
        "module = types.ModuleType('gaussianem_gui.views.trial'); sys.modules[module.__name__] = module\n"
        "class Bad(QWidget):\n"
        "    def resizeEvent(self, event): raise ValueError('resize')\n"
        "    def paintEvent(self, event): raise ValueError('paint')\n"
        "    def sizeHint(self): raise ValueError('hint')\n"
        "Bad.__module__ = module.__name__; module.Bad = Bad\n"
        "from gaussianem_gui.views.window.errors import protect_views\n"
        "told = []; sys.excepthook = lambda kind, value, trace: told.append(str(value))\n"
        "protect_views(); protect_views()\n"
        "widget = Bad(); widget.adjustSize(); widget.show(); widget.resize(200, 200); widget.repaint()\n"
        "app.processEvents(); print(sorted(set(told)))\n"
    )
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.strip() == "['hint', 'paint', 'resize']", done.stderr


def test_every_control_can_be_reached_and_has_a_name(opened, qtbot) -> None:
    preprocessed(opened, qtbot)
    opened.pages.open_job("Preprocess/job001/")
    for tab in TABS:
        opened.pane.show_tab(tab)
        qtbot.wait(50)
        for widget in opened.findChildren(QWidget):
            control = isinstance(widget, QAbstractButton | QLineEdit | QComboBox | QAbstractSlider)
            if not control or isinstance(widget, QScrollBar) or not widget.isVisible():
                continue
            if widget.objectName().startswith(("qt_", "ScrollLeft", "ScrollRight")) or isinstance(
                widget.parent(), QLineEdit
            ):
                continue
            name = widget.accessibleName() or (widget.text() if isinstance(widget, QAbstractButton) else "")
            assert name, f"{type(widget).__name__} {widget.objectName()} of {type(widget.parent()).__name__} in {tab}"
            if widget.focusPolicy() == Qt.FocusPolicy.NoFocus:
                assert "dock" in type(widget.parent()).__name__.lower() or not widget.isEnabled(), (name, tab)


def test_everything_fits_into_a_small_screen(opened, qtbot, monkeypatch) -> None:
    opened.resize(1280, 720)
    cards = [Gpu(n, "NVIDIA H100 80GB HBM3", f"u{n}", 80 << 30, 3 << 30, 0.5, "Train/job002/") for n in range(8)]
    monkeypatch.setattr(runner, "gpus", lambda *_a: cards)
    qtbot.waitUntil(lambda: len(opened.model.load.gpus) == 8, timeout=LONG)
    assert not cut_off(opened)
    preprocessed(opened, qtbot)
    for tab in TABS:
        opened.pages.open_job("Preprocess/job001/", tab)
        qtbot.waitUntil(lambda: not cut_off(opened), timeout=LONG)
        assert (opened.width(), opened.height()) == (1280, 720), tab
        assert opened.minimumSizeHint().width() <= 1280 and opened.minimumSizeHint().height() <= 720, tab
    for job_type in JOB_OPTIONS:
        opened.pages.new_job(job_type)
        qtbot.waitUntil(lambda: not cut_off(opened), timeout=LONG)
        assert opened.minimumSizeHint().width() <= 1280


def test_the_theme_is_switched_and_kept(opened, qtbot) -> None:
    assert theme.name == "dark"
    opened.toggle_theme()
    assert theme.name == "light" and opened.settings.get("theme") == "light"
    opened.toggle_theme()
    assert theme.name == "dark"


def test_the_layout_is_kept(opened, qtbot) -> None:
    root = opened.model.root
    opened.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, opened.jobs_dock)
    opened.machine_dock.close()
    opened.close()
    again = main_window.MainWindow()
    qtbot.addWidget(again)
    again.show()
    again.open_project(root)
    assert again.dockWidgetArea(again.jobs_dock) == Qt.DockWidgetArea.RightDockWidgetArea
    assert again.jobs_dock.isVisible() and not again.machine_dock.isVisible()
    again.reset_layout()
    assert again.dockWidgetArea(again.jobs_dock) == Qt.DockWidgetArea.LeftDockWidgetArea
    assert again.machine_dock.isVisible()
    again.close()


def test_settings_keep_what_is_chosen(opened, qtbot) -> None:
    dialog = SettingsDialog(opened, opened.settings, opened.model, theme.apply)
    qtbot.addWidget(dialog)
    dialog.show()
    combo = dialog.findChild(QComboBox, "project-where")
    combo.setCurrentIndex(combo.findData("cluster"))
    combo.activated.emit(combo.currentIndex())
    opened.pages.new_job("simulate")
    assert opened.pane.parameters.panel.where.currentData() == "cluster"
    form = opened.pane.parameters.form
    form.rows["particles"].editor.edit.setText("77")
    opened.pane.parameters.panel.keep.click()
    opened.pages.new_job("simulate")
    assert opened.pane.parameters.form.values()["particles"] == "77"


def test_the_palette_opens_jobs_and_starts_actions(opened, qtbot) -> None:
    preprocessed(opened, qtbot)
    opened.pages.show_home()
    opened.show_palette()
    qtbot.keyClicks(opened._palette.search, "job001")
    qtbot.keyClick(opened._palette.search, Qt.Key.Key_Return)
    assert opened.pane.name == "Preprocess/job001/"
    opened.show_palette()
    qtbot.keyClicks(opened._palette.search, "new train")
    qtbot.keyClick(opened._palette.search, Qt.Key.Key_Return)
    assert opened.pane.draft == "train"


def test_jobs_of_other_programs_are_shown_as_they_are(window, qtbot, tmp_path: Path) -> None:
    project = Project.create(tmp_path / "relion")
    job = project.new_job("simulate", {"model": "m.pdb"})
    graph = project.root / "default_pipeline.star"
    (project.root / "Refine3D/job001").mkdir(parents=True)
    text = graph.read_text().replace(job.name, "Refine3D/job001/").replace(job.type_label, "relion.refine3d")
    graph.write_text(text.replace("Scheduled", "Succeeded"))
    assert window.open_project(project.root)
    qtbot.waitUntil(lambda: len(window.model.jobs) == 1, timeout=LONG)
    window.pages.open_job("Refine3D/job001/")
    assert not window.pane.again.isVisible() and not window.pane.stop.isVisible()
    assert "RELION project" in window.pages.home._next_text.text() or window.pages.home.refresh(window.model) is None
    assert "another program" in window.pane._parameters_page.findChildren(QWidget)[0].heading.text()


def test_a_workflow_is_started_from_its_dialog(opened, qtbot) -> None:
    inputs(opened.model.project)
    names: list[str] = []
    dialog = WorkflowDialog(opened, opened.model, names.extend)
    qtbot.addWidget(dialog)
    dialog.show()
    qtbot.mouseClick(dialog.start, Qt.MouseButton.LeftButton)
    assert dialog.problem.text() and not names
    for need, value in (("star_file", "particles.star"), ("consensus_map", "map.mrc")):
        next(r for k, r in dialog.rows.items() if k.endswith(need)).editor.edit.setText(value)
    qtbot.mouseClick(dialog.start, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(names) == 3, timeout=LONG)
    finish(opened, qtbot, names[-1], "Succeeded")


def test_a_project_whose_list_of_jobs_is_gone_is_rebuilt(window, qtbot, tmp_path: Path, monkeypatch) -> None:
    project = Project.create(tmp_path / "lost")
    project.new_job("simulate", {"model": "m.pdb"})
    for path in (project.root / "default_pipeline.star", *project.root.glob(".gaussianem/*")):
        path.unlink()
    monkeypatch.setattr(project_actions, "pick_directory", lambda *_a: project.root)
    asked = answer(monkeypatch)
    window.project_actions.ask_open()
    assert "Rebuild" in asked[0]
    qtbot.waitUntil(lambda: window.model is not None and len(window.model.jobs) == 1, timeout=LONG)


def test_what_jobs_did_is_kept_as_a_workflow(opened, qtbot, tmp_path: Path, monkeypatch) -> None:
    preprocessed(opened, qtbot)
    opened.pages.open_job("Preprocess/job001/")
    picker = type("Picker", (), {"getSaveFileName": staticmethod(lambda *_a: (str(tmp_path / "flow.json"), ""))})
    monkeypatch.setattr(project_actions, "QFileDialog", picker)
    opened.project_actions.save_workflow()
    qtbot.waitUntil((tmp_path / "flow.json").exists, timeout=LONG)
    assert workflow.load(tmp_path / "flow.json").steps[0].job_type == "preprocess"


def test_leftover_processes_are_listed(opened, qtbot) -> None:
    dialog = LeftoversDialog(opened, opened.model)
    qtbot.addWidget(dialog)
    qtbot.waitUntil(lambda: dialog.note.text().startswith("None"), timeout=LONG)
    assert not dialog.end.isEnabled()


def test_the_guide_and_the_versions_are_there(window, qtbot) -> None:
    window.show_guide()
    assert len(window._guide.pages) == len(list(GUIDE.glob("*.md"))) >= 6
    for number, (title, _) in enumerate(window._guide.pages):
        window._guide.list.setCurrentRow(number)
        assert title in window._guide.text.toPlainText()
    text = versions(None)
    assert "PySide6 6" in text and "OpenGL" in text
    window._guide.close()


def test_nothing_heavy_is_loaded_at_start() -> None:
    script = (
        "import sys; from PySide6.QtWidgets import QApplication; app = QApplication([])\n"
        "from gaussianem_gui.views.toolkit.theme import theme; theme.apply('dark')\n"
        "from gaussianem_gui.views.window.main_window import MainWindow\n"
        "w = MainWindow(); w.show(); app.processEvents()\n"
        "print([m for m in ('torch', 'napari', 'vispy', 'skimage', 'sklearn') if m in sys.modules]); w.close()"
    )
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_read_only_project_can_be_looked_at(window, qtbot, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    project = Project.create(tmp_path / "closed")
    project.root.chmod(0o555)
    try:
        window.open_project(project.root)
        window.trigger("new_job")
        assert any("read-only" in t.accessibleName() for t in window.toasts._toasts)
    finally:
        project.root.chmod(0o755)


def test_what_a_job_says_is_on_the_screen_when_it_has_no_curves(opened, qtbot) -> None:
    job = opened.model.project.new_job("simulate", {"model": "m.pdb"})
    with JobLog(job.directory, ["gaussianem", "simulate"]) as log:
        log.message("200 particles written")
    qtbot.waitUntil(lambda: opened.model.info(job.name) is not None, timeout=LONG)
    opened.pages.open_job(job.name, "Progress")
    qtbot.waitUntil(lambda: opened.pane.progress.messages.isVisible(), timeout=LONG)
    assert not opened.pane.progress.curves.isVisible()
