"""Jobs that were submitted together, with several values of an option: their comparison comes when all have ended."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QObject, QSettings, Signal

from gaussianem_gui.project.project import JobInfo
from gaussianem_gui.views.project_model import ProjectModel


def settings_key(path: Path) -> str:
    """A project's directory as a part of a settings key."""
    return str(path).replace("/", "_")


class Sweeps(QObject):
    """Sets of job names of the open project that have not all ended; kept over the end of the program. A job is "in" it
    while its end is told with its sweep's."""

    ended = Signal(list)  # names of the jobs, sorted

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.running: list[set[str]] = []
        self._members: set[str] = set()
        self._key = ""

    def open(self, root: Path) -> None:
        """Read the sweeps of the project in ``root`` that had not ended."""
        self._key = f"sweeps/{settings_key(root)}"
        stored = QSettings().value(self._key, [])
        lists = stored if isinstance(stored, list | tuple) else []
        self.running = [set(map(str, names)) for names in lists if isinstance(names, list | tuple)]
        self._members = set().union(*self.running)

    def add(self, names: list[str]) -> None:
        """Take up jobs that were just submitted together."""
        self.running.append(set(names))
        self._members |= set(names)
        self._keep()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def look(self, model: ProjectModel) -> None:
        """Tell in ``ended`` of each sweep of which every job has ended, and forget it; jobs that were deleted leave
        their sweep, and one job alone is none."""
        before = [set(names) for names in self.running]
        for sweep in self.running:
            sweep -= {name for name in sweep if model.gone(name)}
        self.running = [sweep for sweep in self.running if len(sweep) > 1]
        self._members = set().union(*self.running)  # also of those that end now: the news of their last jobs follow
        ended = [sweep for sweep in self.running if all(_finished(model.info(name)) for name in sweep)]
        self.running = [sweep for sweep in self.running if sweep not in ended]
        if self.running != before:
            self._keep()
        for sweep in ended:
            self.ended.emit(sorted(sweep))

    def _keep(self) -> None:
        QSettings().setValue(self._key, [sorted(s) for s in self.running])


def _finished(info: JobInfo | None) -> bool:
    return info is not None and info.status.state.finished
