"""Deleted jobs, to restore one or to delete all for good."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QListWidget,
    QListWidgetItem,
    QWidget,
)

from gaussianem_gui.project import trash
from gaussianem_gui.project.project import Trashed
from gaussianem_gui.units import ago_text, bytes_text, count_text
from gaussianem_gui.views.project_model import ProjectModel
from gaussianem_gui.views.toolkit import notices
from gaussianem_gui.views.toolkit.tasks import while_alive
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import button, label
from gaussianem_gui.views.window.dialog import Dialog


class TrashDialog(Dialog):
    """Deleted jobs: restore one, or delete all for good."""

    def __init__(self, parent: QWidget, model: ProjectModel) -> None:
        super().__init__(parent, "Trash", 600)
        self.model = model
        self.list = QListWidget()
        self.list.setMinimumHeight(260)
        self.list.setAccessibleName("Deleted jobs")
        self.note = label("", "muted", wrap=True)
        self.body.addWidget(self.note)
        self.body.addWidget(self.list, 1)
        self.restore = button("Restore", "", "restore", self._restore, name="restoreJob")
        self.empty = button("Delete all for good …", "danger", "trash", self._empty, name="emptyTrash")
        self.buttons.insertWidget(0, self.empty)
        self.buttons.addWidget(self.restore)
        self.add_close()
        self.list.itemDoubleClicked.connect(lambda _i: self._restore())
        model.jobsChanged.connect(self._load)
        self.finished.connect(self.deleteLater)
        self._load()

    def _load(self, _result: object = None) -> None:
        self.model.ask("trash", lambda p: trash.contents(p), self._take, self.background)

    def _take(self, found: list[Trashed] | None) -> None:
        chosen = self.list.currentRow()
        self.list.clear()
        for item in found or []:
            entry = QListWidgetItem(theme.icon("trash"), f"{item.name.rstrip('/')}   deleted {ago_text(item.deleted)}")
            entry.setData(Qt.ItemDataRole.UserRole, item)
            if not item.restorable:
                entry.setFlags(Qt.ItemFlag.NoItemFlags)
                entry.setToolTip("Something else has its place now")
            self.list.addItem(entry)
        count = self.list.count()
        self.note.setText(
            f"{count_text(count, 'job')} in the trash. Restored jobs come back where they were."
            if count
            else "The trash is empty."
        )
        self.restore.setEnabled(bool(count))
        self.empty.setEnabled(bool(count))
        self.list.setCurrentRow(min(max(chosen, 0), count - 1))

    def _restore(self) -> None:
        item = self.list.currentItem()
        if item is not None:
            name = item.data(Qt.ItemDataRole.UserRole).name
            self.model.do("Restore the job", lambda p: trash.restore(p, name), while_alive(self, self._load))

    def _empty(self) -> None:
        count = self.list.count()
        text = f"{count_text(count, 'job')} will be deleted for good. This cannot be undone."
        if notices.ask(self, "Empty the trash?", text, "Delete for good", danger=True):
            self.model.do("Empty the trash", lambda p: trash.empty(p), while_alive(self, self._emptied))

    def _emptied(self, freed: int) -> None:
        self._load()
        self.note.setText(f"The trash is empty; {bytes_text(freed)} freed.")
