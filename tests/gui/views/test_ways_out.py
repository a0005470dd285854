"""What leads from the window to other programs: ChimeraX, a browser with the report, a STAR file of tilt series."""

from __future__ import annotations

import functools
from pathlib import Path

import exploring
import mrcfile
import numpy as np
from answering_chimerax import answering
from conftest import LONG
from PySide6.QtCore import QObject, Qt, QUrl, Slot
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QAbstractButton

from gaussianem_core.io.star import find_particle_table, read_column, scan_star
from gaussianem_gui.explorer.chimerax_live import ChimeraX
from gaussianem_gui.views.job import files_notes


class Browser(QObject):
    """Stands where the desktop's browser does, as Qt provides for it."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[Path] = []
        QDesktopServices.setUrlHandler("file", self, "open")

    @Slot(QUrl)
    def open(self, url: QUrl) -> None:
        self.opened.append(Path(url.toLocalFile()))


def explore(window, root: Path, qtbot, **more: int):
    project, job, second = exploring.make(root, **more)
    assert window.open_project(project.root)
    qtbot.waitUntil(lambda: window.model.loaded, timeout=LONG)
    window.pages.open_explorer(job)
    qtbot.waitUntil(lambda: window.pages.explorer is not None, timeout=LONG)
    explorer = window.pages.explorer
    qtbot.waitUntil(lambda: explorer.session.consensus is not None and explorer.session.table is not None, timeout=LONG)
    return explorer, second


def test_what_is_clicked_is_shown_in_chimerax_while_its_button_is_down(window, tmp_path: Path, qtbot) -> None:
    explorer, _ = explore(window, tmp_path / "project", qtbot)
    session, button = explorer.session, explorer.scene.chimerax
    with answering() as (port, heard):
        explorer.scene.link.chimerax = ChimeraX(port)
        session.show_latent(session.table.z[0].astype(float), 0)
        qtbot.waitUntil(lambda: session.picture is not None, timeout=LONG)
        assert not heard, "it is not asked for"
        level = session.consensus.mean + 2.2 * session.consensus.sigma
        explorer.scene.viewer.set_contour(level)
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: len(heard) == 3, timeout=LONG)
        written = Path(heard[1].split('"')[1])
        with mrcfile.open(written) as volume:
            assert np.array_equal(volume.data, session.picture.volume)
        first = session.picture
        session.show_latent(session.table.z[1].astype(float), 1)
        qtbot.waitUntil(lambda: len(heard) == 6, timeout=LONG)
        assert session.picture is not first
        assert all(f"level {level:.6g} " in heard[i] for i in (2, 5)), "contoured as in the 3D view"
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    told: list[str] = []
    session.noted.connect(lambda _kind, _title, text: told.append(text))
    explorer.scene.link.chimerax = ChimeraX(1)  # nobody listens there
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(told), timeout=LONG)
    assert not button.isChecked() and "remotecontrol rest start" in told[0], "what to do"


def test_chosen_files_are_opened_in_chimerax(window, tmp_path: Path, qtbot, monkeypatch) -> None:
    explore(window, tmp_path / "project", qtbot)
    project = window.model.project
    job = next(info for info in window.model.jobs if info.job_type == "train")
    with mrcfile.new(project.root / job.name / "map.mrc") as made:
        made.set_data(np.zeros((4, 4, 4), np.float32))
    window.pages.open_job(job.name, "Files")
    files = window.pane.files
    qtbot.waitUntil(lambda: bool(files.tree.findItems("map.mrc", Qt.MatchFlag.MatchRecursive)), timeout=LONG)
    files.to_chimerax()
    assert "Choose" in files.total.text()
    files.tree.setCurrentItem(files.tree.findItems("map.mrc", Qt.MatchFlag.MatchRecursive)[0])
    with answering() as (port, heard):
        monkeypatch.setattr(files_notes, "ChimeraX", functools.partial(ChimeraX, port))
        files.to_chimerax()
        qtbot.waitUntil(lambda: "1 opened in ChimeraX" in files.total.text(), timeout=LONG)
        assert heard == [f'open "{project.root / job.name}/map.mrc"']


def test_the_report_of_an_analysis_is_opened_in_the_browser(window, qtbot, finished_demo: Path) -> None:
    assert window.open_project(finished_demo)
    qtbot.waitUntil(lambda: window.model.loaded, timeout=LONG)
    job = next(info for info in window.model.jobs if info.job_type == "analyze")
    window.pages.open_job(job.name)
    browser = Browser()
    try:
        qtbot.waitUntil(lambda: window.pane.findChild(QObject, "step-report") is not None, timeout=LONG)
        qtbot.mouseClick(window.pane.findChild(QObject, "step-report"), Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: bool(browser.opened), timeout=LONG)
    finally:
        QDesktopServices.unsetUrlHandler("file")
    assert browser.opened == [finished_demo / job.name / "report.html"]
    assert "<html" in browser.opened[0].read_text()


def test_tilt_series_are_selected_by_particle(window, tmp_path: Path, qtbot) -> None:
    explorer, _ = explore(window, tmp_path / "project", qtbot, count=180, tilts=3)
    session = explorer.session
    chosen = 7
    assert len(session.table) == 60, "a latent a particle"
    mask = np.zeros(60, bool)
    mask[10 : 10 + chosen] = True
    session.select(mask, {"shape": "rectangle"})
    panel = explorer.panels["Particles"]
    explorer.show_panel(panel)
    qtbot.waitUntil(lambda: f"of {3 * chosen} tilt images" in panel.text.full_text(), timeout=LONG)
    explorer.selections.ask_export()
    confirm = explorer.selections._dialog.findChild(QAbstractButton, "confirmExport")
    qtbot.mouseClick(confirm, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: session.exported is not None, timeout=LONG)
    written = next((window.model.root / "Select").glob("job*/*.star"))
    names, source = images(written), images(window.model.root / "original.star")
    assert names == source[30 : 30 + 3 * chosen], "all images of each"


def images(path: Path) -> list[str]:
    """The image of each row."""
    return [str(name) for name in read_column(find_particle_table(scan_star(path)), "rlnImageName")]
