"""Processes that ended jobs have left behind."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QListWidget,
    QListWidgetItem,
    QWidget,
)

from gaussianem_gui.execution import runner
from gaussianem_gui.units import bytes_text
from gaussianem_gui.views.project_model import ProjectModel
from gaussianem_gui.views.toolkit.tasks import while_alive
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import button, label, plain
from gaussianem_gui.views.window.dialog import Dialog


class LeftoversDialog(Dialog):
    """Processes of jobs that are over: end those that hold memory."""

    def __init__(self, parent: QWidget, model: ProjectModel) -> None:
        super().__init__(parent, "Leftover processes", 640)
        self.model = model
        self.note = label("Looking …", "muted", wrap=True)
        self.list = QListWidget()
        self.list.setAccessibleName("Leftover processes")
        self.list.setMinimumHeight(200)
        self.body.addWidget(self.note)
        self.body.addWidget(self.list, 1)
        self.end = button("End it", "danger", "x", self._end, name="endProcess")
        self.buttons.addWidget(self.end)
        self.add_close()
        self.finished.connect(self.deleteLater)
        self._load()

    def _load(self, _result: object = None) -> None:
        self.model.ask("leftovers", runner.zombies, self._take, self.background)

    def _take(self, found: list[runner.Zombie] | None) -> None:
        self.list.clear()
        for zombie in found or []:
            memory = f", {bytes_text(zombie.gpu_bytes)} of GPU memory" if zombie.gpu_bytes else ""
            item = QListWidgetItem(theme.icon("gpu"), f"{zombie.job.rstrip('/')}: process {zombie.pid}{memory}")
            item.setToolTip(plain(zombie.command))
            item.setData(Qt.ItemDataRole.UserRole, zombie)
            self.list.addItem(item)
        count = self.list.count()
        self.note.setText(
            f"{count} process{'es' if count > 1 else ''} of jobs that are over."
            if count
            else "None: every ended job has left nothing."
        )
        self.end.setEnabled(bool(count))
        self.list.setCurrentRow(0)

    def _end(self) -> None:
        item = self.list.currentItem()
        if item is not None:
            zombie = item.data(Qt.ItemDataRole.UserRole)
            self.model.do("End the process", lambda p: runner.kill_zombie(p, zombie), while_alive(self, self._load))
