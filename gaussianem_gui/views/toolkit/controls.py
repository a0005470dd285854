"""Badges, switches, folding sections, wrapping rows and figures."""

from __future__ import annotations

from PySide6.QtCore import (
    Property,
    QEasingCurve,
    QPoint,
    QPropertyAnimation,
    QRect,
    QRectF,
    QSize,
    Qt,
    Signal,
)
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import (
    QAbstractButton,
    QFrame,
    QLabel,
    QLayout,
    QLayoutItem,
    QSizePolicy,
    QWidget,
)

from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import (
    Elided,
    button,
    column,
    keep_icon,
    label,
    plain,
    row,
)


class Badge(QWidget):
    """A job's state as icon, colour and word."""

    def __init__(self, state: str = "draft", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._icon, self._word = QLabel(), QLabel()
        self.setLayout(row(self._icon, self._word, spacing=6, margins=(9, 3, 11, 3)))
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.state = state
        self.set_state(state)
        theme.changed.connect(self._refresh)

    def set_state(self, state: str) -> None:
        """Show ``state`` (a key of theme.STATES)."""
        self.state = state
        self._refresh()

    def _refresh(self) -> None:
        icon, colour, word = theme.state(self.state)
        self._icon.setPixmap(icon.pixmap(16, 16))
        self._word.setText(word)
        self._word.setStyleSheet(f"color: {colour}; font-weight: 600; font-size: 9pt;")
        self.setAccessibleName(f"State: {word}")
        self.updateGeometry()
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        colour = QColor(theme.state(self.state)[1])
        colour.setAlphaF(0.14)
        painter.setBrush(colour)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.drawRoundedRect(self.rect(), self.height() / 2, self.height() / 2)


class Switch(QAbstractButton):
    """A sliding on/off switch; ``name`` is its accessible name."""

    def __init__(self, name: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setCheckable(True)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName(name)
        self._place = 0.0
        self._animation = QPropertyAnimation(self, b"place", self)
        self._animation.setDuration(110)
        self._animation.setEasingCurve(QEasingCurve.Type.OutCubic)
        self.toggled.connect(self._slide)

    def sizeHint(self) -> QSize:
        return QSize(38, 22)

    def _slide(self, on: bool) -> None:
        self._animation.stop()
        self._animation.setEndValue(1.0 if on else 0.0)
        self._animation.start()

    def _get_place(self) -> float:
        return self._place

    def _set_place(self, value: float) -> None:
        self._place = value
        self.update()

    place = Property(float, _get_place, _set_place)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        track = QRectF(1, (self.height() - 20) / 2, 36, 20)
        fill = QColor(theme.colour("accent_fill" if self.isChecked() else "strong"))
        painter.setBrush(fill)
        focus = self.hasFocus()
        painter.setPen(QPen(QColor(theme.colour("text")), 1.5) if focus else Qt.PenStyle.NoPen)
        painter.drawRoundedRect(track, 10, 10)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor("#ffffff"))
        painter.drawEllipse(QRectF(track.x() + 3 + self._place * 16, track.y() + 3, 14, 14))


class Section(QWidget):
    """A heading that folds what is below it. ``toggled`` comes with whether it is unfolded."""

    toggled = Signal(bool)

    def __init__(self, title: str, content: QWidget, *, opened: bool = False) -> None:
        super().__init__()
        self.head = button(title, "ghost", on_click=lambda: self.set_open(not self.opened))
        self.head.setStyleSheet("text-align: left; padding: 6px 8px;")
        self.content = content
        self.opened = opened
        self.setLayout(column(self.head, content, spacing=4))
        self.set_open(opened)

    def set_open(self, opened: bool) -> None:
        """Unfold or fold."""
        self.opened = opened
        self.content.setVisible(opened)
        keep_icon(self.head, "chevron-down" if opened else "chevron-right", "muted")
        self.head.setAccessibleDescription("unfolded" if opened else "folded")
        self.toggled.emit(opened)


class Flow(QLayout):
    """Widgets in rows that wrap, like words."""

    def __init__(self, spacing: int = 6) -> None:
        super().__init__()
        self._items: list[QLayoutItem] = []
        self._gap = spacing
        self.setContentsMargins(0, 0, 0, 0)

    def addItem(self, item: QLayoutItem) -> None:
        self._items.append(item)

    def insert(self, place: int, widget: QWidget) -> None:
        """Add a widget before the one that is at ``place``."""
        self.addWidget(widget)
        self._items.insert(place, self._items.pop())

    def count(self) -> int:
        return len(self._items)

    def itemAt(self, index: int) -> QLayoutItem | None:  # type: ignore[override]
        return self._items[index] if 0 <= index < len(self._items) else None

    def takeAt(self, index: int) -> QLayoutItem | None:  # type: ignore[override]
        return self._items.pop(index) if 0 <= index < len(self._items) else None

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        return self._place(QRect(0, 0, width, 0), move=False)

    def sizeHint(self) -> QSize:
        return self.minimumSize()

    def minimumSize(self) -> QSize:
        size = QSize(0, 0)
        for item in self._items:
            size = size.expandedTo(item.minimumSize())
        return size.grownBy(self.contentsMargins())

    def setGeometry(self, rect: QRect) -> None:
        super().setGeometry(rect)
        self._place(rect, move=True)

    def _place(self, rect: QRect, *, move: bool) -> int:
        """Set the items, in the middle of the height of their line; the height that all lines need."""
        margins = self.contentsMargins()
        inner = rect.marginsRemoved(margins)
        y = inner.y()
        for line in self._lines(inner.width()):
            high = max(size.height() for _, size in line)
            x = inner.x()
            for item, size in line:
                if move:
                    item.setGeometry(QRect(QPoint(x, y + (high - size.height()) // 2), size))
                x += size.width() + self._gap
            y += high + self._gap
        return max(y - self._gap, inner.y()) + margins.bottom() - rect.y()

    def _lines(self, width: int) -> list[list[tuple[QLayoutItem, QSize]]]:
        """The items that are shown, in lines of at most ``width``."""
        lines: list[list[tuple[QLayoutItem, QSize]]] = []
        x = 0
        for item in self._items:
            if item.isEmpty():
                continue
            size = item.sizeHint()
            if not lines or x + size.width() > width:
                lines.append([])
                x = 0
            lines[-1].append((item, size))
            x += size.width() + self._gap
        return lines


def wrapping(*items: QWidget, spacing: int = 6, margins: tuple[int, int, int, int] = (0, 0, 0, 0)) -> QFrame:
    """A widget with ``items`` in a row that goes on below where the room is narrow."""
    holder, flow = QFrame(), Flow(spacing)
    flow.setContentsMargins(*margins)
    for item in items:
        flow.addWidget(item)
    holder.setLayout(flow)
    policy = holder.sizePolicy()
    policy.setHeightForWidth(True)
    policy.setVerticalPolicy(QSizePolicy.Policy.Minimum)
    holder.setSizePolicy(policy)
    return holder


def together(*items: QWidget, spacing: int = 5) -> QWidget:
    """Widgets that are not parted where a row of :func:`wrapping` goes on below."""
    holder = QWidget()
    holder.setLayout(row(*items, spacing=spacing))
    return holder


class Value(QFrame):
    """A value with its name above it, as in a row of figures over a plot; ``elided``: shortened where there is no
    room."""

    def __init__(self, name: str, value: str = "–", *, elided: bool = False) -> None:
        super().__init__()
        self.setProperty("role", "card")
        self.name, self.value = label(name, "faint"), Elided(value, "value") if elided else label(value, "value")
        self.setLayout(column(self.name, self.value, spacing=0, margins=(12, 5, 12, 6)))
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(92)

    def set(self, value: str) -> None:
        """Show ``value``."""
        if self.value.text() != value:
            self.value.setText(value)
            if not isinstance(self.value, Elided):  # which has a tooltip of its own
                self.value.setToolTip(plain(value))
            self.setAccessibleName(f"{self.name.text()}: {value}")
