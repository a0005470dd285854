"""Exceptions that nobody caught: told in a dialog with details, counted, and never the end of the program or a job."""

from __future__ import annotations

import functools
import sys
import threading
import traceback
from collections.abc import Callable
from types import FunctionType, TracebackType
from typing import Any

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QDialog, QPlainTextEdit, QWidget
from shiboken6 import Shiboken

from gaussianem_core.errors import InputError
from gaussianem_gui.views.toolkit.theme import mono_font, theme
from gaussianem_gui.views.toolkit.widgets import button, column, label, row


class ErrorDialog(QDialog):
    """A message, and the details for a report."""

    def __init__(self, parent: QWidget | None, title: str, text: str, details: str) -> None:
        super().__init__(parent)
        self.setObjectName("errorDialog")
        self.setWindowTitle(title)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowModality(Qt.WindowModality.NonModal)
        self.setMinimumWidth(520)
        picture = label("")
        picture.setPixmap(theme.pixmap("warning", "warning", 26))
        self.message = label(text, "", wrap=True, selectable=True)
        self.message.setMinimumWidth(420)
        words = column(label(title, "heading"), self.message, spacing=6)
        head = row(spacing=14)
        head.addWidget(picture, 0, Qt.AlignmentFlag.AlignTop)
        head.addLayout(words, 1)
        self.details = QPlainTextEdit(details)
        self.details.setReadOnly(True)
        self.details.setFont(mono_font(8.5))
        self.details.setMinimumHeight(200)
        self.details.setAccessibleName("Details of the error")
        self.details.hide()
        self._toggle = button("Details", "ghost", "chevron-down", self._show_details)
        self._toggle.setVisible(bool(details))
        copy = button("Copy details", "", "copy", lambda: QGuiApplication.clipboard().setText(f"{text}\n\n{details}"))
        close = button("Close", "primary", "", self.close, name="closeError")
        close.setDefault(True)
        layout = column(spacing=14, margins=(22, 20, 22, 18))
        layout.addLayout(head)
        layout.addWidget(self.details)
        layout.addLayout(row(self._toggle, None, copy, close))
        self.setLayout(layout)

    def _show_details(self) -> None:
        self.details.setVisible(not self.details.isVisible())
        self.adjustSize()


class Guard(QObject):
    """Takes the place of Python's exception hooks. ``caught`` counts what was caught; the same error is shown once
    while its dialog is open."""

    happened = Signal(str, str)  # message, traceback

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._parent = parent
        self.caught = 0
        self._open: dict[str, ErrorDialog] = {}
        self._before = sys.excepthook
        self._before_thread = threading.excepthook
        self.happened.connect(self._show, Qt.ConnectionType.QueuedConnection)

    def install(self) -> None:
        """Catch from now on, in every view loaded so far."""
        protect_views()
        sys.excepthook = self._hook
        threading.excepthook = lambda a: self._hook(
            a.exc_type, a.exc_value if a.exc_value is not None else a.exc_type(), a.exc_traceback
        )

    def remove(self) -> None:
        """Put back the hooks that were there before."""
        sys.excepthook = self._before
        threading.excepthook = self._before_thread

    def _hook(self, kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            self._before(kind, value, trace)
            return
        details = "".join(traceback.format_exception(kind, value, trace))
        print(details, file=sys.stderr)
        self.caught += 1
        self.happened.emit(f"{kind.__name__}: {value}", details)

    def _show(self, message: str, details: str) -> None:
        text = (
            f"{message}\n\nThe program goes on, and running jobs are not affected. "
            "If a view looks wrong now, open it again. Please report this with the details."
        )
        self.tell("Something went wrong in this view", text, details)

    def tell(self, title: str, text: str, details: str = "") -> None:
        """Show a message that stays until it is closed; the same one is shown once while it is open."""
        key = f"{title}\n{details.splitlines()[-1] if details else text}"
        if key in self._open:
            return
        dialog = ErrorDialog(self._parent, title, text, details)
        self._open[key] = dialog
        dialog.destroyed.connect(lambda _o=None, k=key: self._open.pop(k, None))
        dialog.show()


def explain(what: str, error: BaseException) -> tuple[str, str]:
    """Message and details of an error that came up while doing ``what``; no details for a user's mistake."""
    if isinstance(error, InputError):
        value = str(error.value)
        return f"{what}: {error.argument} {error.rule}" + (f" ({value})" if value else "") + f". {error.remedy}", ""
    if isinstance(error, OSError):
        return f"{what}: {error.strerror or error} ({error.filename})" if error.filename else f"{what}: {error}", ""
    return f"{what}: {type(error).__name__}: {error}", "".join(traceback.format_exception(error))


# What an override answers when it has failed and Qt's own answer is of no use either.
_ANSWERS: dict[str, object] = {"eventFilter": False, "rowCount": 0, "columnCount": 0, "heightForWidth": 0}
_PROTECTED = "_is_protected"


def protect_views() -> None:
    """Keep exceptions of the views' overridden Qt methods inside them. Cheap to call again after loading more views.

    PySide leaves an exception of an override (a paintEvent, say) pending until the C++ call returns; if Qt calls
    another override in between, the interpreter crashes. So each override reports its own exceptions and lets Qt's
    own method answer instead.
    """
    for name, module in list(sys.modules.items()):
        if not name.startswith("gaussianem_gui.views"):
            continue
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__module__ == name and issubclass(value, Shiboken.Object):
                _protect(value)


def _protect(kind: type) -> None:
    bases = [base for base in kind.__mro__ if base.__module__.startswith("PySide6.")]
    for name, function in list(vars(kind).items()):
        if not isinstance(function, FunctionType) or name.startswith("__") or hasattr(function, _PROTECTED):
            continue
        base = next((b for b in bases if name in vars(b) or hasattr(b, name)), None)
        if base is not None:
            setattr(kind, name, _protected(function, getattr(base, name), _ANSWERS.get(name)))


def _protected(function: Callable[..., Any], fallback: Callable[..., Any], answer: object) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*arguments: Any, **names: Any) -> Any:
        try:
            return function(*arguments, **names)
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
            try:
                return fallback(*arguments, **names)
            except Exception:  # abstract in Qt, or failing for the same reason
                return answer

    setattr(inner, _PROTECTED, True)
    return inner
