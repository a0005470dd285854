"""Named selections, selecting by value or class, and the export of original particles."""

from __future__ import annotations

import time

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QWidget,
)

from gaussianem_core.errors import InputError
from gaussianem_gui.explorer.particle_columns import Column
from gaussianem_gui.explorer.select_job import Exported, export_selection
from gaussianem_gui.explorer.selections import class_step, describe
from gaussianem_gui.views.explorer.panel import Panel
from gaussianem_gui.views.explorer.session import ExplorerSession
from gaussianem_gui.views.plots.plot_style import dot
from gaussianem_gui.views.toolkit import notices
from gaussianem_gui.views.toolkit.controls import Switch, together, wrapping
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import button, column, icon_button, label, plain, row

LEAST_LIST = 44  # pixels of height


class ExportDialog(QDialog):
    """Says what will be written, with counts and path, before it is written; asks for the name and whether to write the
    rest."""

    def __init__(self, parent: QWidget, name: str, count: int, total: int, source: str, target: str) -> None:
        super().__init__(parent)
        self.setWindowTitle("Export particles")
        self.name = QLineEdit(name)
        self.name.setAccessibleName("Name of the selection")
        self.rest = Switch("Write the other particles too")
        self.rest.setObjectName("exportRest")
        self.rest.setEnabled(count < total)
        accept = button(f"Write {count:,} particles", "primary", "download", self.accept, name="confirmExport")
        accept.setDefault(True)
        lines = [
            ("Particles", f"{count:,} of {total:,}"),
            ("From", source),
            ("Into", target),
        ]
        layout = column(label("Export the selected particles", "heading"), spacing=10, margins=(22, 20, 22, 18))
        layout.addWidget(
            label(
                "The original rows are copied as they are: unbinned image paths, all columns, optics groups and order. "
                "The new Select job can be the input of RELION's next job.",
                "muted",
                wrap=True,
            )
        )
        for title, text in lines:
            entry = row(label(title, "muted"), spacing=10)
            entry.itemAt(0).widget().setFixedWidth(76)
            entry.addWidget(label(text, "label", wrap=True, selectable=True), 1)
            layout.addLayout(entry)
        named = row(label("Name", "muted"), spacing=10)
        named.itemAt(0).widget().setFixedWidth(76)
        named.addWidget(self.name, 1)
        layout.addLayout(named)
        layout.addLayout(row(self.rest, label(f"Write the other {total - count:,} too", "label"), None, spacing=10))
        layout.addSpacing(6)
        layout.addLayout(row(None, button("Cancel", on_click=self.reject, name="cancelExport"), accept))
        self.setLayout(layout)
        self.setMinimumWidth(520)


class SelectionsPanel(Panel):
    """The list of named selections and ways to select without the mouse."""

    def __init__(self, session: ExplorerSession) -> None:
        super().__init__(session)
        self.name = QLineEdit()
        self.name.setPlaceholderText("Name of the selection")
        self.name.setAccessibleName("Name of the selection")
        self.name.setObjectName("selectionName")
        self.name.returnPressed.connect(self.keep)
        self.keep_button = button(
            "Save", "", "plus", self.keep, "Keep the current selection under this name", name="keepSelection"
        )
        self.list = QListWidget()
        self.list.setObjectName("selectionList")
        self.list.setAccessibleName("Named selections")
        self.list.setMinimumHeight(LEAST_LIST)
        self.list.itemDoubleClicked.connect(lambda _i: self.use())
        self.list.itemSelectionChanged.connect(self._enable)
        self.use_button = button(
            "Use", "", "", self.use, "Combine it with the current selection, as the mode says", name="useSelection"
        )
        self.remove_button = icon_button("trash", "Forget this selection", self.remove, name="removeSelection")
        self.export_button = button("Export …", "", "download", self.ask_export, name="exportFromPanel")
        self.how = label("", "hint", wrap=True)
        self.by = QComboBox()
        self.by.setAccessibleName("Quantity to select by")
        self.by.setMinimumWidth(120)
        self.by.activated.connect(lambda _i: self._by_changed())
        self.low, self.high = QLineEdit(), QLineEdit()
        self.low.setPlaceholderText("from")
        self.high.setPlaceholderText("to")
        self.low.setAccessibleName("Lowest value")
        self.high.setAccessibleName("Highest value")
        for field in (self.low, self.high):
            field.setMaximumWidth(84)
            field.returnPressed.connect(self.select_by)
        self.value = QComboBox()
        self.value.setAccessibleName("Class to select")
        self.value.setMinimumWidth(140)
        self.value.setEditable(True)  # a name may be typed: there can be thousands of micrographs
        self.value.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.value.hide()
        self.by_button = button("Select", "", "", self.select_by, name="selectBy")
        by = wrapping(together(label("By value", "muted"), self.by), self.low, self.high, self.value, self.by_button)
        first = row(spacing=6)
        first.addWidget(self.name, 1)
        first.addWidget(self.keep_button)
        last = row(self.use_button, self.remove_button, None, self.export_button, spacing=6)
        layout = column(spacing=6, margins=(6, 6, 6, 2))
        layout.addLayout(first)
        layout.addWidget(self.list, 1)
        layout.addWidget(self.how)
        layout.addLayout(last)
        layout.addWidget(by)
        self.setLayout(layout)
        self._column: Column | None = None
        self._dialog: ExportDialog | None = None
        session.selectionChanged.connect(self._selection_changed)
        session.namedChanged.connect(self._fill)

    def opened(self) -> None:
        assert self.session.table is not None
        for place, names in enumerate(self.session.table.names().values()):
            if place:
                self.by.insertSeparator(self.by.count())
            self.by.addItems(names)
        self._by_changed()

    def closed(self) -> None:
        self._column = None
        self.by.clear()
        for field in (self.low, self.high, self.name):
            field.clear()
        self.value.clear()
        self.name.setModified(False)

    def _selection_changed(self) -> None:
        book = self.session.selections
        if not self.name.isModified() or not self.name.text():
            self.name.setText(book.free_name())
            self.name.setModified(False)
        self.keep_button.setEnabled(bool(book.selected))
        self.export_button.setEnabled(bool(book.selected))
        self.how.setText(describe(book.steps) if book.steps else "Draw a lasso in a plot, or choose values below.")
        self._enable()

    def _fill(self) -> None:
        book = self.session.selections
        self.list.clear()
        for selection in book.named:
            share = 100 * selection.count / max(book.count, 1)
            item = QListWidgetItem(
                dot(theme.series(selection.colour)), f"{selection.name}    {selection.count:,}  ({share:.1f} %)"
            )
            item.setData(Qt.ItemDataRole.UserRole, selection.name)
            made = time.strftime("%Y-%m-%d %H:%M", time.localtime(selection.created))
            item.setToolTip(plain(f"{describe(selection.steps)}\n{made}"))
            self.list.addItem(item)
        self._enable()

    def _enable(self) -> None:
        chosen = self.list.currentItem() is not None
        self.use_button.setEnabled(chosen)
        self.remove_button.setEnabled(chosen)

    def _chosen(self) -> str:
        item = self.list.currentItem()
        return str(item.data(Qt.ItemDataRole.UserRole)) if item is not None else ""

    def keep(self) -> None:
        """Save the current selection under the name in the field; asks before one of that name is replaced."""
        book = self.session.selections
        name = self.name.text().strip()
        if any(s.name == name for s in book.named) and not notices.ask(
            self, "Replace it?", f"There is a selection “{name}” already.", "Replace"
        ):
            return
        try:
            self.session.keep_selection(name)
        except InputError as error:
            self.session.say_error(error)
            return
        self.name.setText(book.free_name())
        self.name.setModified(False)
        self.list.setCurrentRow(self.list.count() - 1)

    def use(self) -> None:
        """Combine the chosen named selection with the current one, as the mode says."""
        if self._chosen():
            self.session.use_selection(self._chosen())

    def remove(self) -> None:
        """Remove the chosen named selection from the list, after a question."""
        name = self._chosen()
        if name and notices.ask(
            self, "Forget this selection?", f"“{name}” is removed from the list.", "Forget", danger=True
        ):
            self.session.remove_selection(name)

    # --- by value --------------------------------------------------------------------------------------------------

    def _by_changed(self) -> None:
        table, name = self.session.table, self.by.currentText()
        if table is None or not name:
            return
        self.by_button.setEnabled(False)
        self.background.run("column", lambda: table.column(name), self._take_column, self.session.say_error)

    def _take_column(self, found: Column) -> None:
        self._column = found
        self.by_button.setEnabled(True)
        for field in (self.low, self.high):
            field.setVisible(not found.classes)
        self.value.setVisible(found.classes)
        if found.classes:
            self.value.clear()
            self.value.addItems(list(found.names[:1000]))
        else:
            for field, end in zip((self.low, self.high), _ends(found)):
                field.setText(f"{end:.6g}")

    def select_by(self) -> None:
        """Select by the range or class in the fields."""
        found, session = self._column, self.session
        if found is None:
            return
        if found.classes:
            name = self.value.currentText().strip()
            if name not in found.names:
                session.say_error(InputError(found.name, "must be one of its values", name, "Choose one of the list."))
                return
            code = found.names.index(name)
            session.select(found.values == code, class_step(found, code))
            return
        try:
            # the fields show six digits: an end that was left as it is means the end itself
            low, high = (
                end if field.text() == f"{end:.6g}" else float(field.text())
                for field, end in zip((self.low, self.high), _ends(found))
            )
        except ValueError:
            given = self.low.text(), self.high.text()
            session.say_error(InputError("range", "must be two numbers", given, "Mend them."))
            return
        with np.errstate(invalid="ignore"):
            mask = (found.values >= low) & (found.values <= high)
        session.select(mask, {"column": found.name, "shape": "range", "low": low, "high": high})

    # --- export ----------------------------------------------------------------------------------------------------

    def ask_export(self) -> None:
        """Show what will be written, then write the selected particles as a Select job, in a worker."""
        session = self.session
        book, sources = session.selections, session.sources
        if sources is None or session.model is None or not book.selected:
            return
        if sources.original is None:
            session.say_error(InputError("particle file", "must be known", "none", "Restore the Preprocess job."))
            return
        target = f"a new Select job of {session.root}"
        name = next((s.name for s in book.named if np.array_equal(s.mask, book.mask)), self.name.text())
        dialog = ExportDialog(self, name, book.selected, book.count, str(sources.original), target)
        dialog.setObjectName("exportDialog")
        self._dialog = dialog
        dialog.accepted.connect(lambda: self._export(dialog.name.text(), dialog.rest.isChecked()))
        dialog.open()

    def _export(self, name: str, rest: bool) -> None:
        session = self.session
        sources, book, model = session.sources, session.selections, session.model
        if sources is None or model is None:
            return
        mask, steps = book.mask.copy(), book.steps
        model.do(
            "Export the selection",
            lambda project: export_selection(project, sources, mask, name=name, steps=steps, complement=rest),
            self._exported,
        )

    def _exported(self, made: Exported) -> None:
        counts = ", ".join(f"{count:,} in {path.name}" for path, count in made.files)
        self.session.noted.emit("success", f"{made.job.name} written", f"{counts}. Checked by reading it back.")
        self.session.exported = made


def _ends(column: Column) -> tuple[float, float]:
    """Least and greatest value, (0, 1) where there is none."""
    values = column.values[np.isfinite(column.values)]
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
