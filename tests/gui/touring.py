"""The real window driven by mouse and keyboard: pictures of it, and the seconds that each step took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PySide6.QtCore import QEvent, QEventLoop, QPointF, Qt, QTimer
from PySide6.QtGui import QMouseEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication, QFileDialog, QLineEdit, QWidget

LEFT, NONE = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
PATIENCE = 900  # seconds that a step may take on a busy machine


class Tour:
    """The window, the pictures taken of it, and how long each step took."""

    def __init__(self, out: Path, size: tuple[int, int], theme: str) -> None:
        from gaussianem_gui.views.window.main_window import MainWindow

        self.out, self.theme, self.seconds = out, theme, {}
        began = time.perf_counter()
        self.window = MainWindow()
        self.window.resize(*size)
        self.window.show()
        self.until(lambda: self.window.pages.welcome.isVisible())
        self.seconds["first window"] = time.perf_counter() - began

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step and take a picture of what it shows."""
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began
        self.picture(name)

    def picture(self, name: str) -> None:
        """Save the window as it is."""
        self.pause(0.4)
        file = self.out / f"{len(list(self.out.glob('*.png'))) + 1:02d}-{name.replace(' ', '-')}.png"
        screen = self.window.screen().grabWindow(0)
        ratio = screen.devicePixelRatio()
        frame = self.window.geometry()
        corner = frame.topLeft() * ratio
        screen.copy(corner.x(), corner.y(), round(frame.width() * ratio), round(frame.height() * ratio)).save(str(file))
        print(f"{file.name:<44}{self.seconds.get(name, 0.0):8.2f} s", flush=True)

    def until(self, there: Callable[[], bool], what: str = "") -> None:
        """Let the window live until something is there."""
        end = time.monotonic() + PATIENCE
        while not there():
            if time.monotonic() > end:
                self.picture("failed")
                raise SystemExit(f"the tour ends here: {what or 'a step'} did not come within {PATIENCE} s")
            self.pause(0.02)

    @staticmethod
    def pause(seconds: float) -> None:
        """Let the window live for a while, in an event loop of its own: without one, what is deleted later stays."""
        loop = QEventLoop()
        QTimer.singleShot(round(1000 * seconds), loop.quit)
        loop.exec()

    def find(self, name: str, inside: QWidget | None = None) -> QWidget:
        """A visible widget by its name."""

        def seen() -> list[QWidget]:
            return [w for w in (inside or self.window).findChildren(QWidget, name) if w.isVisible()]

        self.until(lambda: bool(seen()), name)
        return seen()[0]

    def click(self, target: str | QWidget, inside: QWidget | None = None) -> None:
        """Click a widget, or the one of a name."""
        widget = self.find(target, inside) if isinstance(target, str) else target
        self.until(widget.isEnabled, f"{widget.objectName()} that can be clicked")
        QTest.mouseClick(widget, LEFT)

    def confirm(self) -> None:
        """Say yes to the question that the next click raises, as soon as it stands there."""
        question = QApplication.activeModalWidget()
        answer = question.findChild(QAbstractButton, "confirm") if question is not None else None
        if answer is None:
            QTimer.singleShot(200, self.confirm)
        else:
            QTest.mouseClick(answer, LEFT)

    def drag(self, canvas: QWidget, places: np.ndarray) -> None:
        """Drag the left button over places of a plot, in its units."""
        kinds = (
            (QEvent.Type.MouseButtonPress, LEFT, LEFT),
            (QEvent.Type.MouseMove, NONE, LEFT),
            (QEvent.Type.MouseButtonRelease, LEFT, NONE),
        )
        viewport = canvas.viewport()
        for number, place in enumerate(places):
            kind = 0 if number == 0 else 2 if number == len(places) - 1 else 1
            where = canvas.position(*map(float, place))
            everywhere = QPointF(viewport.mapToGlobal(where.toPoint()))
            type_, button, held = kinds[kind]
            event = QMouseEvent(type_, where, everywhere, button, held, Qt.KeyboardModifier.NoModifier)
            QApplication.sendEvent(viewport, event)

    def open_job(self, name: str, tab: str = "") -> None:
        """Click a job's row in the list, and one of its tabs."""
        listed = self.window.jobs.list
        row = listed.filter.mapFromSource(listed.tree.find(name))
        listed.scrollTo(row)
        QTest.mouseClick(listed.viewport(), LEFT, pos=listed.visualRect(row).center())
        self.until(lambda: self.window.pane.name == name, name)
        if tab:
            self.window.pane.show_tab(tab)

    def write(self, name: str, text: str) -> None:
        """Type into a field of a form, in place of what stands there; what is folded away is unfolded."""
        form = self.window.pane.parameters.form
        form.focus_field(name)
        edit = self.find(f"edit-{name}", form)
        self.until(edit.isEnabled, name)
        assert isinstance(edit, QLineEdit)
        edit.selectAll()
        QTest.keyClicks(edit, text)

    def pick(self, place: Path) -> None:
        """Type a file or directory into the dialog that the next click raises, as soon as it stands there."""
        dialog = QApplication.activeModalWidget()
        if not isinstance(dialog, QFileDialog):
            QTimer.singleShot(200, lambda: self.pick(place))
            return
        edit = dialog.findChild(QLineEdit, "fileNameEdit")
        edit.setCompleter(None)  # on a busy machine its list would come late and take the last key
        edit.selectAll()
        QTest.keyClicks(edit, str(place))
        self._enter(dialog, edit)

    def _enter(self, dialog: QFileDialog, edit: QLineEdit) -> None:
        """Return, until the dialog has taken it: on a busy machine it may still be reading its directory."""
        QTest.keyClick(edit, Qt.Key.Key_Return)
        if dialog.isVisible():
            QTimer.singleShot(500, edit, lambda: self._enter(dialog, edit))

    def run_form(self, job_type: str) -> str:
        """Run the form that is shown; returns the new job's name once it has begun."""
        known = {info.name for info in self.window.model.jobs}
        self.pause(1.0)
        self.click("runButton")
        self.until(lambda: any(info.name not in known for info in self.window.model.jobs), f"the {job_type} job")
        return next(info.name for info in self.window.model.jobs if info.name not in known)

    def finished(self, name: str) -> None:
        """Wait until a job has succeeded; a job that ends otherwise ends the tour."""
        self.until(lambda: self.window.model.info(name).status.state.finished, name)
        state = self.window.model.info(name).status.state.value
        if state != "Succeeded":
            raise SystemExit(f"the tour ends here: {name} {state}")
