"""A log shown as it grows: any size, search, follow, copy. Only the lines on the screen are read."""

from __future__ import annotations

from bisect import bisect_left

from PySide6.QtCore import QPoint, QRect, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFontMetrics,
    QGuiApplication,
    QKeyEvent,
    QKeySequence,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QResizeEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QComboBox, QLineEdit, QSizePolicy, QWidget

from gaussianem_gui.execution.logfile import LogFile
from gaussianem_gui.units import bytes_text, count_text
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import mono_font, theme
from gaussianem_gui.views.toolkit.widgets import column, icon_button, label, row


class LogText(QAbstractScrollArea):
    """Lines of a LogFile, painted where they are visible."""

    followChanged = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName("Log")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setFrameShape(QAbstractScrollArea.Shape.NoFrame)
        self.viewport().setCursor(Qt.CursorShape.IBeamCursor)
        self._log: LogFile | None = None
        self._lines = (0, 0)  # lines and version of the log that are shown
        self._follow = True
        self._font = mono_font(9)
        metrics = QFontMetrics(self._font)
        self._height, self._width = metrics.height() + 3, metrics.horizontalAdvance("0")
        self._selection: tuple[int, int] | None = None
        self._matches: list[int] = []
        self._needle = ""
        self._current = -1
        self._moving = False
        self.verticalScrollBar().valueChanged.connect(self._scrolled)
        self.horizontalScrollBar().valueChanged.connect(self.viewport().update)
        theme.changed.connect(self.viewport().update)

    def set_log(self, log: LogFile | None) -> None:
        """Show another log, from its end."""
        self._log, self._lines, self._selection = log, (-1, 0), None
        self._matches, self._current = [], -1
        self._follow = True
        self.refresh()

    def refresh(self) -> bool:
        """Take up new lines; True if there were any."""
        count = len(self._log) if self._log is not None else 0
        version = self._log.version if self._log is not None else 0
        if (count, version) == self._lines:
            return False
        self._lines = (count, version)
        self._bars()
        if self._follow:
            self.to_end()
        self.viewport().update()
        return True

    def line_count(self) -> int:
        """Number of lines of the log."""
        return len(self._log) if self._log is not None else 0

    def visible_lines(self) -> list[str]:
        """The lines on the screen."""
        return self._log.lines(self.verticalScrollBar().value(), self._rows()) if self._log is not None else []

    def to_end(self) -> None:
        """Scroll to the end and follow it."""
        self._moving = True
        self.verticalScrollBar().setValue(self.verticalScrollBar().maximum())
        self._moving = False
        self._set_follow(True)

    def set_matches(self, needle: str, lines: list[int]) -> None:
        """Mark ``needle`` (in small letters) in the text, and make ``lines``, numbers from 0 in order, the places of
        next and previous."""
        self._needle, self._matches, self._current = needle, lines, -1
        self.viewport().update()

    def step_match(self, direction: int) -> int:
        """Go to the next (1) or previous (-1) match; its number from 1, or 0 if there is none."""
        if not self._matches:
            return 0
        if self._current < 0:
            at = bisect_left(self._matches, self.verticalScrollBar().value())
            self._current = at % len(self._matches) if direction > 0 else (at - 1) % len(self._matches)
        else:
            self._current = (self._current + direction) % len(self._matches)
        line = self._matches[self._current]
        self._set_follow(False)
        self.verticalScrollBar().setValue(max(line - self._rows() // 2, 0))
        self._selection = (line, line)
        self.viewport().update()
        return self._current + 1

    def copy(self) -> None:
        """Put the selected lines on the clipboard, at most 200,000."""
        if self._selection is not None and self._log is not None:
            first, last = sorted(self._selection)
            QGuiApplication.clipboard().setText("\n".join(self._log.lines(first, min(last - first + 1, 200_000))))

    def _rows(self) -> int:
        return max(self.viewport().height() // self._height, 1)

    def _bars(self) -> None:
        bar = self.verticalScrollBar()
        self._moving = True
        bar.setRange(0, max(self.line_count() - self._rows(), 0))
        bar.setPageStep(self._rows())
        self._moving = False
        self.horizontalScrollBar().setSingleStep(4 * self._width)
        self.horizontalScrollBar().setPageStep(self.viewport().width())

    def _scrolled(self) -> None:
        if not self._moving:
            self._set_follow(self.verticalScrollBar().value() >= self.verticalScrollBar().maximum())
        self.viewport().update()

    def _set_follow(self, follow: bool) -> None:
        if follow != self._follow:
            self._follow = follow
            self.followChanged.emit(follow)

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._bars()
        if self._follow:
            self.to_end()

    def _line_under(self, place: QPoint) -> int:
        return min(self.verticalScrollBar().value() + place.y() // self._height, max(self.line_count() - 1, 0))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        line = self._line_under(event.position().toPoint())
        extend = event.modifiers() & Qt.KeyboardModifier.ShiftModifier and self._selection is not None
        self._selection = (self._selection[0], line) if extend and self._selection else (line, line)
        self.viewport().update()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton and self._selection is not None:
            self._selection = (self._selection[0], self._line_under(event.position().toPoint()))
            self.viewport().update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        bar = self.verticalScrollBar()
        steps = {
            Qt.Key.Key_Down: 1,
            Qt.Key.Key_Up: -1,
            Qt.Key.Key_PageDown: bar.pageStep(),
            Qt.Key.Key_PageUp: -bar.pageStep(),
        }
        if event.matches(QKeySequence.StandardKey.Copy):
            self.copy()
        elif event.matches(QKeySequence.StandardKey.SelectAll):
            self._selection = (0, max(self.line_count() - 1, 0))
            self.viewport().update()
        elif event.key() == Qt.Key.Key_End:
            self.to_end()
        elif event.key() == Qt.Key.Key_Home:
            bar.setValue(0)
        elif event.key() in steps:
            bar.setValue(bar.value() + steps[Qt.Key(event.key())])
        else:
            super().keyPressEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self.viewport())
        painter.fillRect(event.rect(), QColor(theme.colour("field")))
        painter.setFont(self._font)
        first = self.verticalScrollBar().value()
        lines = self._log.lines(first, self._rows() + 1) if self._log is not None else []
        if not lines:
            painter.setPen(QColor(theme.colour("faint")))
            painter.drawText(self.viewport().rect(), Qt.AlignmentFlag.AlignCenter, "Nothing has been written here")
        gutter = max(len(str(self.line_count())), 3) * self._width + 22
        longest = max((len(line) for line in lines), default=0) * self._width + gutter + 20
        if self.horizontalScrollBar().maximum() != max(longest - self.viewport().width(), 0):
            self.horizontalScrollBar().setRange(0, max(longest - self.viewport().width(), 0))
        shift = self.horizontalScrollBar().value()
        chosen = sorted(self._selection) if self._selection is not None else (0, -1)
        for index, line in enumerate(lines):
            y = index * self._height
            box = QRect(0, y, self.viewport().width(), self._height)
            if chosen[0] <= first + index <= chosen[1]:
                painter.fillRect(box, QColor(theme.colour("selection")))
            painter.setPen(QColor(theme.colour("faint")))
            painter.drawText(
                QRect(0, y, gutter - 12, self._height),
                Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter,
                str(first + index + 1),
            )
            painter.setClipRect(QRect(gutter, y, self.viewport().width() - gutter, self._height))
            if self._needle:
                self._mark(painter, line, gutter - shift, y)
            painter.setPen(QColor(theme.colour(_tone(line))))
            painter.drawText(
                QRect(gutter - shift, y, longest + shift, self._height), Qt.AlignmentFlag.AlignVCenter, line
            )
            painter.setClipping(False)

    def _mark(self, painter: QPainter, line: str, left: int, y: int) -> None:
        metrics, low = painter.fontMetrics(), line.lower()
        at = low.find(self._needle)
        while at >= 0:
            start = left + metrics.horizontalAdvance(line[:at])
            width = metrics.horizontalAdvance(line[at : at + len(self._needle)])
            painter.fillRect(QRect(start, y, width, self._height), QColor(theme.colour("warning_soft")))
            at = low.find(self._needle, at + len(self._needle))

    def sizeHint(self) -> QSize:
        return QSize(600, 300)


def _tone(line: str) -> str:
    low = line[:400].lower()
    if "error" in low or "traceback" in low or "failed" in low:
        return "danger"
    return "warning" if "warning" in low else "text"


class LogView(QWidget):
    """A job's run.out and run.err with search."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("logView")
        self._background = Background(self)
        self._logs: dict[str, LogFile] = {}
        self._errors_wanted = False
        self.which = QComboBox()
        self.which.setAccessibleName("Which log")
        self.which.addItem("Output (run.out)", "run.out")
        self.which.addItem("Errors (run.err)", "run.err")
        self.which.setMinimumWidth(self.which.fontMetrics().horizontalAdvance("Errors (run.err) · 10,000 lines") + 72)
        self.search = QLineEdit()
        self.search.setPlaceholderText("Find in log")
        self.search.setAccessibleName("Find in log")
        self.search.setClearButtonEnabled(True)
        self.search.setMaximumWidth(260)
        self.search.setMinimumWidth(90)
        self.found = label("", "hint")
        self.found.setMinimumWidth(96)
        self.text = LogText()
        previous = icon_button("chevron-up", "Previous match (Shift+F3)", lambda: self._step(-1))
        following = icon_button("chevron-down", "Next match (F3)", lambda: self._step(1))
        self.end = icon_button("download", "Go to the end and follow it (End)", self.text.to_end, checkable=True)
        self.end.setChecked(True)
        self.copy = icon_button("copy", "Copy the selected lines (Ctrl+C)", self.text.copy)
        self.length = label("", "hint")
        tools = row(
            self.which,
            8,
            self.search,
            previous,
            following,
            self.found,
            None,
            self.length,
            self.copy,
            self.end,
            spacing=6,
        )
        layout = column(spacing=10, margins=(20, 14, 20, 16))
        layout.addLayout(tools)
        layout.addWidget(self.text, 1)
        self.setLayout(layout)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.which.currentIndexChanged.connect(self._switch)
        self.which.activated.connect(self._chosen)
        self.search.textChanged.connect(self._search)
        self.search.returnPressed.connect(lambda: self._step(1))
        self.text.followChanged.connect(self.end.setChecked)

    def set_logs(self, logs: dict[str, LogFile]) -> None:
        """Show these logs by name (run.out, run.err); a Watcher polls them."""
        self._logs, self._errors_wanted = logs, False
        self.which.setCurrentIndex(0)
        self._switch()

    def refresh(self) -> bool:
        """Show what is new, True if the log in front has new lines; call from a timer."""
        error = self._logs.get("run.err")
        if error is not None:
            count = len(error)
            self.which.setItemText(1, f"Errors (run.err) · {count_text(count, 'line') if count else 'empty'}")
            if self._errors_wanted and count:
                self._errors_wanted = False
                self.which.setCurrentIndex(1)
        changed = self.text.refresh()
        log = self._logs.get(self.which.currentData())
        size = log.size if log is not None else 0
        self.length.setText(f"{count_text(self.text.line_count(), 'line')}, {bytes_text(size)}" if size else "")
        return changed

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.matches(QKeySequence.StandardKey.Find):
            self.search.setFocus()
            self.search.selectAll()
        elif event.key() == Qt.Key.Key_F3:
            self._step(-1 if event.modifiers() & Qt.KeyboardModifier.ShiftModifier else 1)
        else:
            super().keyPressEvent(event)

    def show_errors(self) -> None:
        """Switch to run.err if it holds anything, now or as soon as it was read; else to run.out."""
        self._errors_wanted = True
        self.which.setCurrentIndex(0)
        self.refresh()

    def _chosen(self, _index: int) -> None:
        self._errors_wanted = False  # what the user picked stays

    def _switch(self) -> None:
        self.text.set_log(self._logs.get(self.which.currentData()))
        self.refresh()
        self._search()

    def _search(self) -> None:
        log, needle = self._logs.get(self.which.currentData()), self.search.text().strip().lower()
        if log is None or not needle:
            self._background.cancel("search")
            self.text.set_matches("", [])
            self.found.setText("")
            return
        self.found.setText("searching …")
        self._background.run("search", lambda: log.find(needle), lambda lines: self._show_matches(needle, lines))

    def _show_matches(self, needle: str, lines: list[int]) -> None:
        self.text.set_matches(needle, lines)
        self.found.setText(f"{len(lines):,} lines" if lines else "not found")
        if lines:
            self._step(1)

    def _step(self, direction: int) -> None:
        number = self.text.step_match(direction)
        if number:
            self.found.setText(f"{number:,} of {len(self.text._matches):,}")
