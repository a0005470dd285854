"""A form made from an option model: groups as cards, advanced options folded, errors where one types."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QLineEdit, QVBoxLayout, QWidget

from gaussianem_core.options import JobOptions, hints
from gaussianem_gui.forms import validation
from gaussianem_gui.views.job.editors import Context
from gaussianem_gui.views.job.fields import FieldRow, field_label
from gaussianem_gui.views.toolkit.controls import Section
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.widgets import column, frame, label, row, scrolled

TYPING_PAUSE = 180  # milliseconds before the disk is asked whether a path exists


class OptionForm(QWidget):
    """Editors for every option of ``model`` that the user decides. ``changed`` comes with each edit and each new
    error."""

    changed = Signal()

    def __init__(self, model: type[JobOptions], context: Context) -> None:
        super().__init__()
        self.model, self._context = model, context
        self.setObjectName("optionForm")
        self.rows: dict[str, FieldRow] = {}
        self._cards: list[tuple[QWidget, list[str], Section | None, list[str]]] = []
        self._errors: dict[str, str] = {}
        self._path_errors: dict[str, str] = {}
        self._show_required = False
        self._loading = False
        self._background = Background(self)
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.setInterval(TYPING_PAUSE)
        self._pause.timeout.connect(self._check_paths)

        self.filter = QLineEdit()
        self.filter.setPlaceholderText("Find an option")
        self.filter.setAccessibleName("Find an option")
        self.filter.setClearButtonEnabled(True)
        self.filter.textChanged.connect(self._filter)
        self._body: QVBoxLayout = column(spacing=14, margins=(20, 16, 12, 24))
        self._body.addWidget(self.filter)
        for group, names in self._groups().items():
            self._body.addWidget(self._card(group, names))
        self._body.addStretch(1)
        content = QWidget()
        content.setObjectName("page")
        content.setLayout(self._body)
        self.area = scrolled(content)
        layout = column(spacing=0)
        layout.addWidget(self.area)
        self.setLayout(layout)
        self.set_values({})

    def _groups(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for name in self.model.model_fields:
            if name not in validation.HIDDEN:
                groups.setdefault(hints(self.model, name)["group"], []).append(name)
        order = ["Input", "What to decode", "Images", "Gaussians", "Consensus fit", "Training", "Analysis", "Network"]
        rank = {group: place for place, group in enumerate(order)}
        last = {"Compute": 98, "Trust": 97, "Losses": 96, "Output": 99}
        return dict(sorted(groups.items(), key=lambda item: rank.get(item[0], last.get(item[0], 50))))

    def _card(self, group: str, names: list[str]) -> QWidget:
        card = frame("card")
        layout = column(label(group, "heading"), spacing=14, margins=(20, 16, 20, 16))
        plain = [n for n in names if not hints(self.model, n)["advanced"]]
        advanced = [n for n in names if hints(self.model, n)["advanced"]]
        for name in sorted(plain, key=lambda n: not self.model.model_fields[n].is_required()):
            layout.addWidget(self._row(name))
        section = None
        if advanced:
            inner = QWidget()
            inside = column(spacing=14, margins=(0, 4, 0, 0))
            for name in advanced:
                inside.addWidget(self._row(name))
            inner.setLayout(inside)
            section = Section(f"{len(advanced)} advanced option{'s' if len(advanced) > 1 else ''}", inner)
            section.head.setObjectName(f"advanced-{group}")
            layout.addWidget(section)
        card.setLayout(layout)
        self._cards.append((card, names, section, advanced))
        return card

    def _row(self, name: str) -> FieldRow:
        widget = FieldRow(self.model, name, self._context)
        widget.changed.connect(self._edited)
        self.rows[name] = widget
        return widget

    def values(self) -> dict[str, Any]:
        """By option, what is entered, as pydantic takes it."""
        return {name: item.editor.value() for name, item in self.rows.items()}

    def set_values(self, values: dict[str, Any]) -> None:
        """Show ``values``; options not in it get their defaults. Nothing counts as changed by the user then."""
        self._loading = True
        for name, item in self.rows.items():
            info = self.model.model_fields[name]
            item.editor.set_value(values.get(name, None if info.is_required() else info.default))
        for item in self.rows.values():
            item.touched = False
        for _, _, section, advanced in self._cards:
            if section is not None:
                differing = [n for n in advanced if n in values and values[n] != self.model.model_fields[n].default]
                section.set_open(bool(differing))
        self._loading = False
        self._show_required = False
        self._validate()

    def update_values(self, values: dict[str, Any], *, keep_typed: bool = False) -> None:
        """Show some values and keep the rest; with ``keep_typed`` those that the user has changed are kept, too."""
        self._loading = True
        for name, value in values.items():
            item = self.rows.get(name)
            if item is not None and not (keep_typed and item.touched):
                typed = item.touched
                item.editor.set_value(value)
                item.touched = typed
        self._loading = False
        self._validate()

    def dirty(self) -> bool:
        """True if the user has changed anything since the values were set."""
        return any(item.touched for item in self.rows.values())

    def sweeps(self) -> dict[str, list[Any]]:
        """The values of each option for which several are asked."""
        found = {name: item.editor.sweep() for name, item in self.rows.items()}
        return {name: values for name, values in found.items() if values is not None}

    def errors(self) -> dict[str, str]:
        """By field, what is wrong now ("": with the whole). Files that were not found are in :meth:`path_errors`."""
        return dict(self._errors)

    def require(self) -> None:
        """Show from now on what is missing as well: the user wants to run."""
        self._show_required = True
        self._show_errors()

    def focus_field(self, name: str) -> None:
        """Bring a field into view and give it the keyboard."""
        item = self.rows.get(name)
        if item is None:
            return
        self.filter.clear()
        for _, _, section, advanced in self._cards:
            if section is not None and name in advanced:
                section.set_open(True)
        self.area.ensureWidgetVisible(item, 0, 60)
        item.editor.focus()

    def set_read_only(self, read_only: bool) -> None:
        """Let nothing be changed, as for a job that has run, or let it be changed again."""
        for item in self.rows.values():
            item.editor.setEnabled(not read_only)
            if hasattr(item, "sweep_button"):
                item.sweep_button.setVisible(not read_only)

    def check(self) -> None:
        """Validate the values again, and look soon whether the files are there."""
        self._validate()

    def _edited(self, name: str) -> None:
        if not self._loading:
            self._validate()

    def _validate(self) -> None:
        values = self.values()
        required = validation.required_errors(self.model, values)
        errors = validation.field_errors(self.model, {**values, **validation.stand_ins(self.model, required)})
        for name, several in self.sweeps().items():
            if not several:
                errors[name] = "Give at least one value"
            for value in several:
                wrong = validation.field_errors(self.model, {**values, name: value}).get(name)
                if wrong:
                    errors[name] = f"{value}: {wrong}"
        self._errors = {**errors, **required}
        self._show_errors()
        self._pause.start()
        self.changed.emit()

    def _check_paths(self) -> None:
        values, model, root, expected = self.values(), self.model, self._context.root, self._context.expected()
        self._background.run(
            "paths", lambda: validation.path_errors(model, values, root, expected), self._take_path_errors
        )

    def _take_path_errors(self, errors: dict[str, str]) -> None:
        if errors != self._path_errors:
            self._path_errors = errors
            self._show_errors()
            self.changed.emit()

    def looking(self) -> bool:
        """True while the disk is being asked whether the inputs are there."""
        return self._pause.isActive() or self._background.busy("paths")

    def path_errors(self) -> dict[str, str]:
        """By field, what was wrong with a file or folder at the last look."""
        return dict(self._path_errors)

    def _show_errors(self) -> None:
        for name, item in self.rows.items():
            text = self._errors.get(name, "") or self._path_errors.get(name, "")
            missing = name in self._errors and self._errors[name] == "Needed"
            default = not item.touched and item.editor.value() == self.model.model_fields[name].default
            quiet = (missing and not item.touched and not self._show_required) or (
                default and not self._show_required and name not in self._errors
            )
            item.show_error("" if quiet else text)

    def _filter(self, text: str) -> None:
        words = text.lower().split()
        for card, names, section, advanced in self._cards:
            hits = [
                n for n in names if all(w in f"{n} {field_label(n)} {self.rows[n].help.text()}".lower() for w in words)
            ]
            for name in names:
                self.rows[name].setVisible(name in hits)
            card.setVisible(bool(hits))
            if section is not None and words:
                section.set_open(any(n in hits for n in advanced))


def form_row(title: str, editor: QWidget, help_text: str = "") -> QWidget:
    """A row like those of the form for an editor of no option (in settings, say); gives the editor ``title`` as
    accessible name."""
    widget = QWidget()
    left = column(label(title, "label"), spacing=2)
    if help_text:
        left.addWidget(label(help_text, "hint", wrap=True))
    layout = row(spacing=20)
    layout.addLayout(left, 5)
    layout.addWidget(editor, 6, Qt.AlignmentFlag.AlignVCenter)
    widget.setLayout(layout)
    editor.setAccessibleName(title)
    return widget
