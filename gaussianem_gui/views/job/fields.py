"""Editors for one option each, made from the option model: text, number, switch, choice, path, paths, GPUs."""

from __future__ import annotations

import typing

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QWidget

from gaussianem_core.options import hints
from gaussianem_gui.forms.validation import field_label
from gaussianem_gui.views.job.editors import (
    ChoiceEditor,
    Context,
    Editor,
    GpuEditor,
    PathEditor,
    SwitchEditor,
    TextEditor,
    base_type,
)
from gaussianem_gui.views.toolkit.widgets import column, icon_button, label, row


def sentence(text: str) -> str:
    """``text`` with a capital, unless it begins with the name of a file, and with the Å that logs do without."""
    text = text.replace("(A)", "(Å)")
    first = text.split(" ", 1)[0]
    return text if "." in first.rstrip(".") else text[:1].upper() + text[1:]


def bounds_text(info: FieldInfo) -> str:
    """The allowed range of a number in words, such as "at least 1, less than 9"; "" if there is none."""
    parts = []
    for item in info.metadata:
        for attribute, word in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
            value = getattr(item, attribute, None)
            if value is not None:
                parts.append(f"{word} {value:g}" if isinstance(value, float) else f"{word} {value}")
    return ", ".join(parts)


def make_editor(model: type[BaseModel], name: str, context: Context) -> Editor:
    """The editor that fits option ``name`` of ``model``. KeyError if there is none of that name."""
    info, extra = model.model_fields[name], hints(model, name)
    kind, optional = base_type(info.annotation)
    if extra["widget"] == "gpu":
        return GpuEditor(name, info, context)
    if kind is bool:
        return SwitchEditor(name, info)
    if typing.get_origin(kind) is typing.Literal:
        return ChoiceEditor(name, info, [str(word) for word in typing.get_args(kind)])
    if extra["widget"] in ("file", "directory", "mask", "job_output"):
        return PathEditor(name, info, extra, context, several=typing.get_origin(kind) is list)
    several = typing.get_origin(kind) is list
    return TextEditor(name, info, number=kind in (int, float), optional=optional, unit=extra["unit"], several=several)


class FieldRow(QWidget):
    """An option in a form: name and help at the left, editor and error at the right. ``changed`` comes with the
    option's name."""

    changed = Signal(str)

    def __init__(self, model: type[BaseModel], name: str, context: Context) -> None:
        super().__init__()
        info, extra = model.model_fields[name], hints(model, name)
        self.name, self.required, self.touched = name, info.is_required(), False
        self.setObjectName(f"row-{name}")
        self.editor = make_editor(model, name, context)
        title = label(field_label(name), "label")
        title.setBuddy(self.editor)
        help_text = sentence((info.description or "").strip())
        self.help = label(help_text, "hint", wrap=True)
        if help_text.lower() == field_label(name).lower():
            self.help.hide()
        bounds = bounds_text(info)
        default = "" if info.is_required() or info.default in ("", None, []) else f"default {info.default}"
        tip = "\n".join(filter(None, [f"--{name}", bounds, default]))
        title.setToolTip(tip)
        self.editor.setToolTip(tip)
        self.error = label("", "error", wrap=True)
        self.error.setObjectName(f"error-{name}")
        self.error.hide()
        left = column(title, self.help, spacing=2)
        left.addStretch(1)
        right = column(spacing=4)
        line = row(self.editor, spacing=4)
        if context.sweeps and self.editor.can_sweep and extra["widget"] is None:
            self.sweep_button = icon_button(
                "sweep", "Try several values: one job each", lambda: self._sweep(), checkable=True, size=16
            )
            self.sweep_button.setAccessibleName(f"Try several values of {field_label(name)}")
            line.addWidget(self.sweep_button)
        right.addLayout(line)
        right.addWidget(self.error)
        right.addStretch(1)
        layout = row(spacing=20)
        layout.addLayout(left, 5)
        layout.addLayout(right, 6)
        self.setLayout(layout)
        self.editor.changed.connect(self._edited)

    def _edited(self) -> None:
        self.touched = True
        self.changed.emit(self.name)

    def _sweep(self) -> None:
        self.editor.set_sweeping(self.sweep_button.isChecked())
        self.editor.focus()

    def show_error(self, text: str) -> None:
        """Show ``text`` under the editor and mark it; "" takes both away."""
        self.error.setText(text)
        self.error.setVisible(bool(text))
        self.editor.set_invalid(bool(text))
        self.editor.setAccessibleDescription(f"Error: {text}" if text else self.help.text())
