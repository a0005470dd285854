"""One editor for each kind of value in a form: text and numbers, switch, choice, files, GPUs."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QComboBox, QFileDialog, QLineEdit, QMenu, QPushButton, QWidget

from gaussianem_gui.forms.validation import field_label
from gaussianem_gui.views.toolkit.controls import Flow, Switch
from gaussianem_gui.views.toolkit.widgets import column, icon_button, label, restyle, row


@dataclass(frozen=True)
class OfferedFile:
    """A file that can fill a path: shown as ``label``, worth ``path`` (from the project's directory)."""

    path: str
    label: str


@dataclass
class Context:
    """What editors need to know about the project: where paths start, what earlier jobs made by kind, which GPUs there
    are (index and text)."""

    root: Path
    choices: Callable[[str], list[OfferedFile]]
    gpus: Callable[[], list[tuple[int, str]]]
    expected: Callable[[], frozenset[str]] = frozenset  # files that jobs will write
    sweeps: bool = True  # several values may be given, for a job each


def base_type(annotation: Any) -> tuple[Any, bool]:
    """The type of an annotation without None, and whether None was allowed."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return inner[0], len(inner) < len(typing.get_args(annotation))
    return annotation, False


class Editor(QWidget):
    """Base of the editors. ``value()`` is what pydantic is given; ``sweep()`` the values of a sweep, or None."""

    changed = Signal()
    can_sweep = False

    def value(self) -> Any:
        """The value entered, as pydantic is given it. NotImplementedError in the base."""
        raise NotImplementedError

    def set_value(self, value: Any) -> None:
        """Show ``value``, None for an empty editor. NotImplementedError in the base."""
        raise NotImplementedError

    def set_invalid(self, invalid: bool) -> None:
        """Mark the editor as holding an error, or not."""

    def sweep(self) -> list[Any] | None:
        """The values of a sweep; None while one value is asked for."""
        return None

    def set_sweeping(self, on: bool) -> None:
        """Take several values instead of one, or one again."""

    def focus(self) -> None:
        """Give the keyboard to the editor."""
        self.setFocus()


class TextEditor(Editor):
    """Text or a number, with its unit; several, separated by commas, in a sweep."""

    can_sweep = True

    def __init__(
        self, name: str, info: FieldInfo, *, number: bool, optional: bool, unit: str | None, several: bool = False
    ) -> None:
        super().__init__()
        self._number, self._optional, self._sweeping = number, optional, False
        self._several = several  # a list of words
        self.edit = QLineEdit()
        self.edit.setAccessibleName(field_label(name))
        self.edit.setAccessibleDescription(info.description or "")
        self.edit.setPlaceholderText("automatic" if optional else "")
        self.edit.setObjectName(f"edit-{name}")
        self.unit = label(unit or "", "muted")
        if not unit:  # a widget without parent is never told to show: it would be a window for a moment
            self.unit.hide()
        self.unit.setMinimumWidth(34)
        if number:
            self.edit.setMaximumWidth(150)
            self.setLayout(row(self.edit, self.unit, None))
        else:
            self.setLayout(row(self.edit, self.unit))
        self.edit.textChanged.connect(self._changed)
        self.setFocusProxy(self.edit)

    def _changed(self) -> None:
        self.changed.emit()

    def _parse(self, text: str) -> Any:
        text = text.strip()
        if self._several:
            return text.replace(";", " ").split()
        return None if self._number and self._optional and text in ("", "None") else text

    def value(self) -> Any:
        return self.sweep()[0] if self._sweeping and self.sweep() else self._parse(self.edit.text())  # type: ignore[index]

    def set_value(self, value: Any) -> None:
        if isinstance(value, list):
            value = "; ".join(map(str, value))
        # all digits that a decimal number keeps as a float: what is shown is what runs
        self.edit.setText("" if value is None else (f"{value:.15g}" if isinstance(value, float) else str(value)))

    def set_invalid(self, invalid: bool) -> None:
        restyle(self.edit, invalid=invalid)

    def sweep(self) -> list[Any] | None:
        if not self._sweeping:
            return None
        return [self._parse(part) for part in self.edit.text().split(",") if part.strip()]

    def set_sweeping(self, on: bool) -> None:
        self._sweeping = on
        self.edit.setMaximumWidth(16777215 if on or not self._number else 150)
        self.edit.setPlaceholderText("several values, e.g. 4, 8, 16" if on else ("automatic" if self._optional else ""))
        self.changed.emit()


class SwitchEditor(Editor):
    """A switch for yes or no."""

    def __init__(self, name: str, info: FieldInfo) -> None:
        super().__init__()
        self.switch = Switch(field_label(name))
        self.switch.setAccessibleDescription(info.description or "")
        self.switch.setObjectName(f"edit-{name}")
        self.setLayout(row(self.switch, None))
        self.switch.toggled.connect(lambda _on: self.changed.emit())
        self.setFocusProxy(self.switch)

    def value(self) -> bool:
        return self.switch.isChecked()

    def set_value(self, value: Any) -> None:
        self.switch.setChecked(value in (True, "true", "True", "Yes", "yes", "1", 1))


class ChoiceEditor(Editor):
    """A menu of a few words; several of them, typed and separated by commas, in a sweep."""

    can_sweep = True

    def __init__(self, name: str, info: FieldInfo, words: list[str]) -> None:
        super().__init__()
        self.words = words
        self.combo = QComboBox()
        self.combo.setObjectName(f"edit-{name}")
        self.combo.setAccessibleName(field_label(name))
        self.combo.setAccessibleDescription(info.description or "")
        self.combo.addItems(words)
        self.combo.setMinimumWidth(150)
        self.combo.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.combo.wheelEvent = lambda event: event.ignore()  # type: ignore[method-assign]
        self.several = QLineEdit()
        self.several.setAccessibleName(f"{field_label(name)}, several values")
        self.several.setPlaceholderText(", ".join(words))
        self.several.hide()
        self._sweeping = False
        self.setLayout(row(self.combo, self.several, None))
        self.combo.currentIndexChanged.connect(lambda _i: self.changed.emit())
        self.several.textChanged.connect(lambda _t: self.changed.emit())
        self.setFocusProxy(self.combo)

    def value(self) -> Any:
        chosen = self.sweep()
        return chosen[0] if chosen else self.combo.currentText()

    def set_value(self, value: Any) -> None:
        self.combo.setCurrentIndex(max(self.combo.findText(str(value)), 0))

    def set_invalid(self, invalid: bool) -> None:
        restyle(self.combo, invalid=invalid)
        restyle(self.several, invalid=invalid)

    def sweep(self) -> list[Any] | None:
        return [w.strip() for w in self.several.text().split(",") if w.strip()] if self._sweeping else None

    def set_sweeping(self, on: bool) -> None:
        self._sweeping = on
        self.combo.setVisible(not on)
        self.several.setVisible(on)
        if on and not self.several.text():
            self.several.setText(self.combo.currentText())
        self.setFocusProxy(self.several if on else self.combo)
        self.changed.emit()


class PathEditor(Editor):
    """A file or directory: typed, picked from the disk, dropped, or taken from an earlier job; with ``several`` a list
    of them."""

    def __init__(self, name: str, info: FieldInfo, extra: dict[str, Any], context: Context, *, several: bool) -> None:
        super().__init__()
        self._context, self._extra, self._several = context, extra, several
        self._title = field_label(name)
        self.edit = QLineEdit()
        self.edit.setObjectName(f"edit-{name}")
        self.edit.setAccessibleName(self._title)
        self.edit.setAccessibleDescription(info.description or "")
        self.edit.setPlaceholderText(
            {"directory": "folder", "mask": "none"}.get(extra["widget"] or "", extra["filter"] or "")
            if info.is_required() or extra["widget"] != "file"
            else f"none ({extra['filter'] or 'any file'})"
        )
        self.browse = icon_button("folder", f"Choose {self._title.lower()} on the disk", self._browse)
        self.browse.setObjectName(f"browse-{name}")
        items: list[QWidget | int | None] = [self.edit, self.browse]
        if extra["produces"]:
            self.earlier = icon_button("job-import", f"Take {self._title.lower()} from an earlier job", self._menu)
            self.earlier.setObjectName(f"earlier-{name}")
            items.append(self.earlier)
        self.setLayout(row(*items, spacing=2))
        self.edit.textChanged.connect(lambda _t: self.changed.emit())
        self.setFocusProxy(self.edit)
        self.setAcceptDrops(True)

    def value(self) -> Any:
        text = self.edit.text().strip()
        return [part.strip() for part in text.split(";") if part.strip()] if self._several else text

    def set_value(self, value: Any) -> None:
        self.edit.setText("; ".join(map(str, value)) if isinstance(value, list) else str(value or ""))

    def set_invalid(self, invalid: bool) -> None:
        restyle(self.edit, invalid=invalid)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        self._take([url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()])

    def _browse(self) -> None:
        start = str(self._context.root)
        current = Path(self.edit.text().strip() or ".")
        here = current if current.is_absolute() else self._context.root / current
        if here.parent.is_dir():
            start = str(here if here.is_dir() else here.parent)
        if self._extra["widget"] == "directory":
            chosen = [QFileDialog.getExistingDirectory(self, self._title, start)]
        else:
            patterns = self._extra["filter"] or "*"
            kinds = f"{self._title} ({patterns});;All files (*)"
            if self._several:
                chosen = QFileDialog.getOpenFileNames(self, self._title, start, kinds)[0]
            else:
                chosen = [QFileDialog.getOpenFileName(self, self._title, start, kinds)[0]]
        self._take([path for path in chosen if path])

    def _take(self, paths: list[str]) -> None:
        short = [project_path(path, self._context.root) for path in paths]
        if short:
            self.set_value(short if self._several else short[0])

    def _menu(self) -> None:
        self.popup = menu = QMenu(self)
        for choice in self._context.choices(self._extra["produces"])[:40]:
            menu.addAction(choice.label, lambda path=choice.path: self.set_value([path] if self._several else path))
        if menu.isEmpty():
            menu.addAction("No earlier job has made this yet").setEnabled(False)
        menu.popup(self.earlier.mapToGlobal(self.earlier.rect().bottomLeft()))


class GpuEditor(Editor):
    """Which GPUs to use: a button each, or numbers typed where none is seen (for a cluster)."""

    can_sweep = False

    def __init__(self, name: str, info: FieldInfo, context: Context) -> None:
        super().__init__()
        self._buttons: dict[int, QPushButton] = {}
        self.edit = QLineEdit()
        self.edit.setObjectName(f"edit-{name}")
        self.edit.setAccessibleName(field_label(name))
        self.edit.setAccessibleDescription(info.description or "")
        self.edit.setPlaceholderText("automatic, or e.g. 0,1")
        chips = Flow(6)
        layout = column(self.edit, spacing=6)
        layout.addLayout(chips)
        self.setLayout(layout)
        for index, text in context.gpus():
            chip = QPushButton(text)
            chip.setCheckable(True)
            chip.setAccessibleName(f"Use {text}")
            chip.setStyleSheet("padding: 5px 9px;")
            chip.toggled.connect(self._from_buttons)
            chips.addWidget(chip)
            self._buttons[index] = chip
        if self._buttons:
            self.edit.hide()
        self.edit.textChanged.connect(lambda _t: self.changed.emit())
        self.setFocusProxy(self.edit if not self._buttons else next(iter(self._buttons.values())))

    def _from_buttons(self) -> None:
        self.edit.setText(",".join(str(i) for i, chip in self._buttons.items() if chip.isChecked()))

    def value(self) -> Any:
        return self.edit.text().strip().replace(" ", "")

    def set_value(self, value: Any) -> None:
        wanted = {part for part in str(value or "").split(",") if part}
        for index, chip in self._buttons.items():
            chip.blockSignals(True)
            chip.setChecked(str(index) in wanted)
            chip.blockSignals(False)
        self.edit.setText(str(value or ""))

    def set_invalid(self, invalid: bool) -> None:
        restyle(self.edit, invalid=invalid)


def project_path(path: str, root: Path) -> str:
    """``path`` relative to the project if it lies inside it, links resolved; else as it was given."""
    try:
        return str(Path(path).resolve().relative_to(root.resolve()))
    except ValueError:
        return str(path)
