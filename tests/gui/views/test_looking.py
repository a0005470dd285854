"""Looking inside what jobs made: files by double click, images and reports in the results, volumes in the list."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import LONG
from live_engine import blob
from PySide6.QtCore import Qt
from PySide6.QtGui import QImage

from gaussianem_core.io.mrc import write_map
from gaussianem_core.io.stack_writer import StackWriter
from gaussianem_core.job.events import JobLog
from gaussianem_gui.explorer.thumbnails import thumbnail
from gaussianem_gui.explorer.volumes import read_table
from gaussianem_gui.project.job import State
from gaussianem_gui.views.window.welcome import EXPLORE, next_for

STAR = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnVoltage #2
1 300

data_particles

loop_
_rlnImageName #1
_rlnDefocusU #2
1@stack.mrcs 15000
2@stack.mrcs 16000
3@stack.mrcs 17000
"""


@pytest.fixture
def job(opened, qtbot):
    """A finished Analyze job with a file of each kind, shown in the window."""
    made = opened.model.project.new_job("analyze", {})
    folder = made.directory
    images = np.random.default_rng(0).normal(size=(50, 16, 16)).astype(np.float32)
    with StackWriter(folder / "stack.mrcs", 50, 16, 2.0) as writer:
        writer.append(images)
    (folder / "particles.star").write_text(STAR)
    write_map(folder / "volume.mrc", blob(4, 24), 2.0)
    QImage(8, 8, QImage.Format.Format_RGB32).save(str(folder / "plot.png"))
    (folder / "report.md").write_text("# Report\n\nTwo classes **differ**.\n")
    (folder / "summary.json").write_text(json.dumps({"classes": [{"class": 1, "share": 0.25}], "particles": 50}))
    with JobLog(folder, ["job"]) as log:
        for kind, name in (("stack", "stack.mrcs"), ("volume", "volume.mrc"), ("summary", "summary.json")):
            log.artifact(kind, name)
    opened.model.project.mark(made, State.SUCCEEDED)
    opened.model.refresh()
    qtbot.waitUntil(lambda: opened.model.info(made.name) is not None, timeout=LONG)
    opened.pages.open_job(made.name, "Files")
    qtbot.waitUntil(lambda: opened.pane.files.tree.topLevelItemCount() > 5, timeout=LONG)
    return opened, made


def look(window, qtbot, name: str):
    """Double click a file; the page that shows what is in it."""
    tree = window.pane.files.tree
    item = tree.findItems(name, Qt.MatchFlag.MatchExactly)[0]
    tree.scrollToItem(item)
    place = tree.visualItemRect(item).center()
    qtbot.mouseClick(tree.viewport(), Qt.MouseButton.LeftButton, pos=place)
    qtbot.mouseDClick(tree.viewport(), Qt.MouseButton.LeftButton, pos=place)
    files = window.pane.files
    qtbot.waitUntil(lambda: getattr(files, "looking", None) is not None, timeout=LONG)
    page, files.looking = files.looking.page, None
    return page


def test_a_double_click_shows_what_is_in_a_file(job, qtbot):
    window, _ = job
    stack = look(window, qtbot, "stack.mrcs")
    qtbot.waitUntil(lambda: stack.list.count() == 40, timeout=LONG)
    assert stack.text.text() == "1 to 40 of 50 images, 16 px"
    qtbot.mouseClick(stack.next, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: stack.list.count() == 10, timeout=LONG)
    assert stack.list.item(0).text() == "41" and not stack.next.isEnabled()

    table = look(window, qtbot, "particles.star")
    qtbot.waitUntil(lambda: table.grid.rowCount() == 3, timeout=LONG)
    assert table.grid.horizontalHeaderItem(1).text() == "rlnDefocusU"
    assert [table.grid.item(n, 1).text() for n in range(3)] == ["15000", "16000", "17000"]
    assert [table.which.itemText(n) for n in range(2)] == ["optics", "particles"]

    report = look(window, qtbot, "report.md")
    qtbot.waitUntil(lambda: "Two classes differ." in report.toPlainText(), timeout=LONG)
    text = look(window, qtbot, "summary.json")
    qtbot.waitUntil(lambda: "0.25" in text.toPlainText(), timeout=LONG)
    picture = look(window, qtbot, "plot.png")
    qtbot.waitUntil(lambda: not picture.pixmap().isNull(), timeout=LONG)


def test_a_volume_is_shown_in_the_3d_view_of_the_results(job, qtbot):
    window, made = job
    tree = window.pane.files.tree
    item = tree.findItems("volume.mrc", Qt.MatchFlag.MatchExactly)[0]
    tree.itemActivated.emit(item, 0)
    results = window.pane.results
    qtbot.waitUntil(lambda: window.pane.tab() == "Results" and results.viewer.picture is not None, timeout=LONG)
    assert results.viewer.picture.path == made.directory / "volume.mrc"


def test_results_hold_the_images_the_report_and_a_summary_in_words(job, qtbot):
    window, _ = job
    window.pane.show_tab("Results")
    results = window.pane.results
    assert results.choose(lambda item: item.kind == "stack")
    qtbot.waitUntil(lambda: results.images.list.count() == 40, timeout=LONG)
    assert results.stack.currentWidget() is results.images
    assert results.choose(lambda item: item.paths[0].name == "report.md")
    qtbot.waitUntil(lambda: "differ" in results.report.toPlainText(), timeout=LONG)
    assert results.choose(lambda item: item.paths[0].name == "summary.json")
    qtbot.waitUntil(lambda: results.stack.currentWidget() is results.table, timeout=LONG)
    cells = [results.table.item(n, 1).text() for n in range(results.table.rowCount())]
    assert "class 1, share 0.25" in cells and not any("{" in cell for cell in cells)


def test_lists_of_lists_and_of_dictionaries_are_words(tmp_path: Path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"a": [[1, 2.5], [3, 4]], "b": {"c": [{"d": {"e": 1.23456}}]}, "f": [1, 2]}))
    assert read_table(path) == {"a 1": "1 2.5", "a 2": "3 4", "b · c 1": "d e 1.235", "f": "1, 2"}


def test_a_thumbnail_is_the_volume_seen_from_the_front(tmp_path: Path):
    path = tmp_path / "off.mrc"
    write_map(path, np.roll(blob(0, 24), 5, axis=1), 2.0)  # it is cropped to what is there
    found = thumbnail(path)
    bright, seen = found[..., 0], found[..., 1] > 0.5
    assert found.shape[0] == found.shape[1] and 0.5 < seen[3:-3, 3:-3].mean() <= 1 and not seen[0].any()
    rows, columns = np.nonzero(seen)
    assert abs(rows.mean() - columns.mean()) < 0.6  # a ball in the middle
    assert (
        bright[: len(bright) // 2][seen[: len(bright) // 2]].mean()
        > bright[len(bright) // 2 :][seen[len(bright) // 2 :]].mean()
    )  # lit from above


def test_the_row_of_a_job_shows_its_volume(job, qtbot):
    window, _ = job
    project = window.model.project
    other = project.new_job("decode", {})
    write_map(other.directory / "vol_000.mrc", blob(0, 24), 2.0)
    with JobLog(other.directory, ["job"]) as log:
        log.artifact("volume", "vol_000.mrc")
    project.mark(other, State.SUCCEEDED)
    window.model.refresh()
    qtbot.waitUntil(lambda: window.model.info(other.name) is not None, timeout=LONG)
    info = window.model.info(other.name)
    qtbot.waitUntil(lambda: window.jobs.list.thumbnails.of(info) is not None, timeout=LONG)


def test_after_analyze_one_explores(opened):
    assert next_for({"preprocess", "train", "analyze"}, foreign=False)[2] == EXPLORE
    assert next_for({"preprocess", "train"}, foreign=False)[2] == "analyze"
