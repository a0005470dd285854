"""The Files and Notes tabs of a job."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import Qt, QTimer, QUrl, Signal
from PySide6.QtGui import QDesktopServices, QGuiApplication, QShowEvent, QTextCursor
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QPlainTextEdit, QTreeWidget, QTreeWidgetItem, QWidget

from gaussianem_core.errors import InputError
from gaussianem_gui.explorer.chimerax_live import ChimeraX
from gaussianem_gui.project.job import Job
from gaussianem_gui.project.project import JobInfo
from gaussianem_gui.units import ago_text, bytes_text
from gaussianem_gui.views.job.look_inside import LookInside, kind_of
from gaussianem_gui.views.project_model import ProjectModel
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import mono_font, theme
from gaussianem_gui.views.toolkit.widgets import button, column, frame, label, row

MOST_FILES = 5000
SAVE_PAUSE = 900  # milliseconds after the last key before the notes are kept


@dataclass(frozen=True)
class JobFile:
    """A file or folder of a job: path relative to the job, size in bytes, time of its last change (Unix seconds)."""

    path: str
    size: int
    changed: float
    folder: bool


def entries(directory: Path) -> list[JobFile]:
    """Files and folders below ``directory``, hidden ones left out, at most MOST_FILES."""
    found: list[JobFile] = []
    for root, folders, names in os.walk(directory):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in [*folders, *sorted(names)]:
            if name.startswith("."):
                continue
            full = Path(root) / name
            try:
                stat = full.stat()
            except OSError:
                continue
            found.append(JobFile(str(full.relative_to(directory)), stat.st_size, stat.st_mtime, full.is_dir()))
            if len(found) >= MOST_FILES:
                return found
    return found


class Files(QWidget):
    """What lies in the job's directory. A double click looks inside; ``volumeChosen`` comes with a file for the 3D view
    and its kind."""

    volumeChosen = Signal(object, str)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("filesView")
        self._background = Background(self)
        self._directory: Path | None = None
        self.tree = QTreeWidget()
        self.tree.setAccessibleName("Files of the job")
        self.tree.setColumnCount(3)
        self.tree.setHeaderLabels(["Name", "Size", "Changed"])
        self.tree.setAlternatingRowColors(False)
        self.tree.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.tree.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.tree.header().setStretchLastSection(False)
        self.tree.itemActivated.connect(self._open)
        self.place = label("", "muted", selectable=True)
        self.total = label("", "hint")
        tools = row(
            self.place,
            None,
            self.total,
            button("Copy path", "", "copy", self.copy_path),
            button("To ChimeraX", "", "cube", self.to_chimerax, "Open what is chosen in a running ChimeraX"),
            button("Open folder", "", "external", self.open_folder),
            spacing=8,
        )
        card = frame("card")
        card.setLayout(column(self.tree, margins=(6, 6, 6, 6)))
        layout = column(spacing=12, margins=(20, 14, 20, 16))
        layout.addLayout(tools)
        layout.addWidget(card, 1)
        self.setLayout(layout)

    def set_job(self, model: ProjectModel, info: JobInfo) -> None:
        """List another job's files."""
        self._directory = model.root / info.name
        self.place.setText(info.name)
        self._background.cancel("files")
        self.tree.clear()
        self.total.setText("")
        if self.isVisible():
            self.refresh()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.refresh()

    def refresh(self) -> None:
        """Look at the directory again, in a worker."""
        directory = self._directory
        if directory is not None:
            self._background.run("files", lambda: entries(directory), self._take)

    def _take(self, found: list[JobFile]) -> None:
        state = [(e.path, e.size) for e in found]
        if state == getattr(self, "_shown", None) and self.tree.topLevelItemCount():
            return
        self._shown = state
        self.tree.clear()
        nodes: dict[str, QTreeWidgetItem] = {}
        for entry in found:
            parent = nodes.get(str(Path(entry.path).parent))
            size = "" if entry.folder else bytes_text(entry.size)
            node = QTreeWidgetItem([Path(entry.path).name, size, ago_text(entry.changed)])
            node.setIcon(0, theme.icon("folder" if entry.folder else "file"))
            node.setTextAlignment(1, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            node.setData(0, Qt.ItemDataRole.UserRole, entry.path)
            nodes[entry.path] = node
            if parent is None:
                self.tree.addTopLevelItem(node)
            else:
                parent.addChild(node)
        total = sum(e.size for e in found if not e.folder)
        more = " (and more)" if len(found) >= MOST_FILES else ""
        self.total.setText(f"{sum(not e.folder for e in found):,} files, {bytes_text(total)}{more}")

    def _chosen(self) -> list[str]:
        assert self._directory is not None
        return [str(self._directory / i.data(0, Qt.ItemDataRole.UserRole)) for i in self.tree.selectedItems()]

    def copy_path(self) -> None:
        """Put the selected paths (or the directory's) on the clipboard."""
        if self._directory is not None:
            QGuiApplication.clipboard().setText("\n".join(self._chosen() or [str(self._directory)]))

    def open_folder(self) -> None:
        """Show the directory in the desktop's file manager."""
        if self._directory is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._directory)))

    def to_chimerax(self) -> None:
        """Open the chosen maps, models and scripts (classes, a trajectory, a morph) in a running ChimeraX."""
        paths = [Path(path) for path in self._chosen()]
        if not paths:
            self.total.setText("Choose maps, models or a .cxc first.")
            return
        self._background.run(
            "chimerax",
            lambda: [ChimeraX().open_file(path) for path in paths],
            lambda opened: self.total.setText(f"{len(opened)} opened in ChimeraX"),
            self._not_shown,
        )

    def _open(self, node: QTreeWidgetItem) -> None:
        """Show what is in a file; what cannot be shown here is left to the desktop."""
        assert self._directory is not None
        if node.childCount():
            return
        path = self._directory / node.data(0, Qt.ItemDataRole.UserRole)
        self._background.run("kind", lambda: kind_of(path), lambda kind: self._show(path, kind), self._not_shown)

    def _show(self, path: Path, kind: str) -> None:
        if kind in ("volume", "gaussians"):
            self.volumeChosen.emit(path, kind)
        elif kind:
            self.looking = LookInside(self.window(), path, kind)
            self.looking.show()
        else:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(path)))

    def _not_shown(self, error: Exception) -> None:
        self.total.setText(str(error))


class Notes(QWidget):
    """note.txt of the job: the program's dated commands and whatever the user adds; kept as one types."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("notesView")
        self._model: ProjectModel | None = None
        self._name = ""
        self._kept = ""
        self.edit = QPlainTextEdit()
        self.edit.setAccessibleName("Notes")
        self.edit.setFont(mono_font(9.5))
        self.edit.setPlaceholderText("Why this job, what to look at, what came out …")
        self.state = label("", "hint")
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.setInterval(SAVE_PAUSE)
        self._pause.timeout.connect(self.keep)
        self.edit.textChanged.connect(self._typed)
        layout = column(spacing=10, margins=(20, 14, 20, 16))
        layout.addLayout(
            row(label("Kept in note.txt, as RELION does; every run adds its command.", "muted"), None, self.state)
        )
        layout.addWidget(self.edit, 1)
        self.setLayout(layout)

    def set_job(self, model: ProjectModel, info: JobInfo) -> None:
        """Show another job's notes; what was typed for the one before is kept first."""
        self.keep()
        self._model, self._name = model, info.name
        self.edit.setReadOnly(True)  # until they are there: what is typed before would take their place in the file
        self._show("")
        self._read()

    def reload(self) -> None:
        """Read the notes again unless the user is typing."""
        if self._model is not None and not self._pause.isActive() and not self.edit.hasFocus():
            self._read()

    def _read(self) -> None:
        name = self._name
        if self._model is not None:
            self._model.ask("note", lambda p: (name, *_note(p.job(name))), self._take)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.reload()

    def _take(self, found: tuple[str, str, str] | None) -> None:
        if self._model is None or found is None or found[0] != self._name or self._pause.isActive():
            return
        _, text, why = found
        self._show(text)
        self.edit.setReadOnly(bool(why) or self._model.project.read_only)
        self.state.setText(why and "cannot be changed here")
        self.state.setToolTip(why)

    def _show(self, text: str) -> None:
        self._kept = text
        if self.edit.toPlainText() != text:
            self.edit.blockSignals(True)
            self.edit.setPlainText(text)
            self.edit.blockSignals(False)
        self.state.setText("")

    def _typed(self) -> None:
        self.state.setText("…")
        self._pause.start()

    def keep(self) -> None:
        """Write what was typed into note.txt, in a worker; nothing where it is the same or the project is read-only.
        What could not be written is tried again with the next call."""
        self._pause.stop()
        text, name = self.edit.toPlainText(), self._name
        if self._model is None or not name or text == self._kept or self.edit.isReadOnly():
            return
        before, self._kept = self._kept, text

        def kept(whole: str) -> None:
            if (name, text) != (self._name, self._kept):
                return
            self.state.setText("kept")
            if self.edit.toPlainText() == text:  # else what a run added meanwhile is still at the end next time
                self._kept = whole
                cursor, end = self.edit.textCursor(), QTextCursor(self.edit.document())
                anchor, place = cursor.anchor(), cursor.position()
                end.movePosition(QTextCursor.MoveOperation.End)
                self.edit.blockSignals(True)
                end.insertText(whole[len(text) :])
                cursor.setPosition(anchor)
                cursor.setPosition(place, QTextCursor.MoveMode.KeepAnchor)
                self.edit.setTextCursor(cursor)
                self.edit.blockSignals(False)

        def not_kept(_error: Exception) -> None:
            if (name, text) == (self._name, self._kept):
                self._kept = before
                self.state.setText("not kept")

        self._model.do("Keep the notes", lambda p: p.job(name).change_note(before, text), kept, not_kept)


def _note(job: Job) -> tuple[str, str]:
    """The notes of a job, and why they are only shown ("" where they may be changed)."""
    try:
        return job.note_to_edit(), ""
    except InputError as error:
        return job.note(), str(error)
