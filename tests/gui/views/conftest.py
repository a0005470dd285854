"""What tests of the desktop application share: settings of their own, projects, the window, and waiting for files."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

from PySide6.QtCore import QSettings, QThreadPool
from PySide6.QtWidgets import QLabel, QWidget

from gaussianem_gui.execution.gpus import processes_of
from gaussianem_gui.project.project import Project

ENGINE = Path(__file__).with_name("live_engine.py")
LONG = 60_000  # milliseconds that a condition may take on a machine busy with other things; met at once elsewhere


@pytest.fixture(scope="session")
def qapp_args() -> list[str]:
    return ["gaussianem-tests"]


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("GAUSSIANEM_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "napari.yaml"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    QSettings.setDefaultFormat(QSettings.Format.IniFormat)
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(tmp_path / "qt"))


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Choose what jobs do: ``engine(seconds=2)``, ``engine(fail="no memory")``, or ``engine(hold=True)``: a training
    goes on until ``engine()`` lets it end."""

    wanted = tmp_path / "engine.json"

    def choose(seconds: float = 0.0, fail: str = "", hold: bool = False) -> None:
        fresh = wanted.with_suffix(".new")
        fresh.write_text(json.dumps({"seconds": seconds, "fail": fail, "hold": hold}))
        fresh.replace(wanted)

    monkeypatch.setenv("GAUSSIANEM_ENGINE", shlex.join([sys.executable, str(ENGINE), str(wanted)]))
    choose()
    return choose


@pytest.fixture
def project(tmp_path: Path, engine: Callable[..., None]) -> Iterator[Project]:
    """An empty project; whatever its jobs started is ended afterwards."""
    project = Project.create(tmp_path / "a project")
    yield project
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "gaussianem_gui.execution.runner" in words and str(project.root) in words:
                process.kill()
                process.wait(5)
    for directory, members in processes_of().items():
        for member in members if directory.startswith(str(project.root)) else ():
            with contextlib.suppress(psutil.Error):
                member.kill()


@pytest.fixture
def themed(qapp):
    """The application in its dark theme."""
    from gaussianem_gui.views.toolkit.theme import theme

    qapp.setOrganizationName("gaussianem-tests")
    qapp.setApplicationName("gaussianem-tests")
    theme.apply("dark")
    yield theme
    QThreadPool.globalInstance().waitForDone(LONG)


@pytest.fixture
def window(themed, qtbot):
    """The main window without a project."""
    from gaussianem_gui.views.window.main_window import MainWindow

    window = MainWindow()
    qtbot.addWidget(window)
    window.resize(1280, 720)
    window.show()
    yield window
    window.close()


@pytest.fixture
def opened(window, project: Project, qtbot):
    """The main window with the empty project open and read."""
    assert window.open_project(project.root)
    qtbot.waitUntil(lambda: window.model.loaded, timeout=LONG)
    return window


def cut_off(widget: QWidget) -> list[str]:
    """Texts of wrapped labels in ``widget`` that have less room than their lines need."""
    return [
        label.text()
        for label in widget.findChildren(QLabel)
        if label.isVisible() and label.wordWrap() and label.height() + 1 < label.heightForWidth(label.width())
    ]


def finish(window, qtbot, name: str, state: str = "Succeeded", timeout: int = LONG):
    """Wait until the window knows that a job is in ``state``; its row. An error that the window shows ends the wait."""
    from gaussianem_gui.views.window.errors import ErrorDialog

    def there() -> bool:
        told = [dialog.message.text() for dialog in window.findChildren(ErrorDialog)]
        assert not told, told
        info = window.model.info(name)
        return info is not None and info.status.state.value == state

    qtbot.waitUntil(there, timeout=timeout)
    return window.model.info(name)
