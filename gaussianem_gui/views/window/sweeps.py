"""Jobs that were submitted together, with several values of an option: their comparison comes when all have ended."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QObject, QSettings, Signal

from gaussianem_gui.views.project_model import ProjectModel


def settings_key(path: Path) -> str:
    """A project's directory as a part of a settings key."""
    return str(path).replace("/", "_")


class Sweeps(QObject):
    """Sets of job names of the open project that have not all ended; kept over the end of the program."""

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
        """Tell in ``ended`` of each sweep of which every job has ended or is gone, if two or more are left to
        compare."""
        for sweep in list(self.running):
            found = [info for name in sweep if (info := model.info(name)) is not None]
            ended = [info.name for info in found if info.status.state.finished]
            if len(ended) + sum(model.gone(name) for name in sweep) < len(sweep):
                continue
            self.running.remove(sweep)
            self._keep()
            if len(ended) > 1:
                self.ended.emit(sorted(ended))

    def _keep(self) -> None:
        QSettings().setValue(self._key, [sorted(s) for s in self.running])
