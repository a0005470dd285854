"""Small pieces that every view is built from: cards, labels, badges, switches, banners, toasts, empty states."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import (
    Property,
    QEasingCurve,
    QEvent,
    QPoint,
    QPropertyAnimation,
    QRect,
    QRectF,
    QSize,
    Qt,
    QTimer,
    Signal,
)
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QLayoutItem,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from gaussianem_gui.views.toolkit.theme import theme

ICON_SIZE, ICON_GAP = 16, 5  # pixels of an icon in a button, and between it and the text


def label(text: str = "", role: str = "", *, wrap: bool = False, selectable: bool = False) -> QLabel:
    """A text label in one of the style sheet's roles ("title", "heading", "muted", "hint", "error", ...)."""
    widget = QLabel(text)
    widget.setTextFormat(Qt.TextFormat.PlainText)
    if role:
        widget.setProperty("role", role)
    widget.setWordWrap(wrap)
    if selectable:
        widget.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
    return widget


def button(
    text: str,
    kind: str = "",
    icon: str = "",
    on_click: Callable[[], object] | None = None,
    tip: str = "",
    name: str = "",
) -> QPushButton:
    """A push button; ``kind`` is "primary", "ghost", "danger", "link", "tile" or "" (plain)."""
    widget = QPushButton(text)
    widget.setCursor(Qt.CursorShape.PointingHandCursor)
    if kind:
        widget.setProperty("kind", kind)
    if icon:
        tint = {"primary": "on_accent", "danger": "danger"}.get(kind, "text")
        keep_icon(widget, icon, tint)
    if on_click is not None:
        widget.clicked.connect(lambda _checked=False: on_click())
    if tip:
        widget.setToolTip(tip)
    widget.setAccessibleName(text or tip)
    if name:
        widget.setObjectName(name)
    return widget


def icon_button(
    icon: str,
    tip: str,
    on_click: Callable[[], object] | None = None,
    *,
    checkable: bool = False,
    size: int = 18,
    name: str = "",
) -> QToolButton:
    """A button with an icon alone; ``tip`` is its tooltip and accessible name."""
    widget = QToolButton()
    widget.setProperty("kind", "ghost")
    widget.setCursor(Qt.CursorShape.PointingHandCursor)
    widget.setIconSize(QSize(size, size))
    widget.setCheckable(checkable)
    widget.setToolTip(tip)
    widget.setAccessibleName(tip)
    widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    keep_icon(widget, icon, "muted")
    if on_click is not None:
        widget.clicked.connect(lambda _checked=False: on_click())
    if name:
        widget.setObjectName(name)
    return widget


def tool_button(icon: str, text: str, tip: str) -> QToolButton:
    """A button of a tool bar that stays pressed; ``text`` stands below the icon."""
    item = icon_button(icon, tip, checkable=True)
    if text:
        item.setText(text)
        item.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextUnderIcon)
        item.setAccessibleName(text)
        item.setStyleSheet("font-size: 8pt; padding: 3px 1px; min-width: 44px; min-height: 36px;")
    return item


def keep_icon(widget: QAbstractButton, icon: str, tint: str = "muted") -> None:
    """Give ``widget`` a themed icon that follows the theme; call again to change it."""
    fresh = widget.property("themed_icon") is None
    widget.setProperty("themed_icon", icon)
    widget.setProperty("themed_tint", tint)
    _IconFollower.apply(widget)
    if fresh:
        slot = _IconFollower(widget)
        theme.changed.connect(slot.refresh)


class _IconFollower(QWidget):
    """Child of a button: a receiver that dies with it, so that theme changes never reach a deleted widget."""

    def __init__(self, target: QAbstractButton) -> None:
        super().__init__(target)
        self._target = target
        self.hide()

    def refresh(self) -> None:
        self.apply(self._target)

    @staticmethod
    def apply(target: QAbstractButton) -> None:
        """Set the icon in the theme's colours; before a text with a gap, which style sheets leave out."""
        gap = ICON_GAP if isinstance(target, QPushButton) and target.text() else 0
        target.setIcon(theme.icon(str(target.property("themed_icon")), str(target.property("themed_tint")), gap))
        if gap:
            target.setIconSize(QSize(ICON_SIZE + gap, ICON_SIZE))


def row(
    *items: QWidget | int | None, spacing: int = 8, margins: tuple[int, int, int, int] = (0, 0, 0, 0)
) -> QHBoxLayout:
    """Horizontal layout; None is a stretch, a number is a gap."""
    layout = QHBoxLayout()
    layout.setSpacing(spacing)
    layout.setContentsMargins(*margins)
    _fill(layout, items)
    return layout


def column(
    *items: QWidget | int | None, spacing: int = 8, margins: tuple[int, int, int, int] = (0, 0, 0, 0)
) -> QVBoxLayout:
    """Vertical layout; None is a stretch, a number is a gap."""
    layout = QVBoxLayout()
    layout.setSpacing(spacing)
    layout.setContentsMargins(*margins)
    _fill(layout, items)
    return layout


def _fill(layout: QHBoxLayout | QVBoxLayout, items: tuple[QWidget | int | None, ...]) -> None:
    for item in items:
        if item is None:
            layout.addStretch(1)
        elif isinstance(item, int):
            layout.addSpacing(item)
        else:
            layout.addWidget(item)


def frame(role: str = "card") -> QFrame:
    """A frame in one of the style sheet's roles."""
    widget = QFrame()
    widget.setProperty("role", role)
    return widget


def line() -> QFrame:
    """A hairline."""
    return frame("line")


def restyle(widget: QWidget, **properties: object) -> None:
    """Set dynamic properties and apply the style sheet's rules for them."""
    changed = False
    for name, value in properties.items():
        if widget.property(name) != value:
            widget.setProperty(name, value)
            changed = True
    if changed:
        widget.style().unpolish(widget)
        widget.style().polish(widget)


def scrolled(content: QWidget) -> QScrollArea:
    """``content`` in a frameless scroll area that resizes it."""
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(content)
    return area


def clear(layout: QHBoxLayout | QVBoxLayout) -> None:
    """Remove and delete everything in ``layout``."""
    while (item := layout.takeAt(0)) is not None:
        widget, inner = item.widget(), item.layout()
        if widget is not None:
            widget.hide()
            widget.deleteLater()
        elif isinstance(inner, QHBoxLayout | QVBoxLayout):
            clear(inner)


class Elided(QLabel):
    """One line of text, shortened in the middle or at the end; the whole is in the tooltip."""

    def __init__(self, text: str = "", role: str = "", mode: Qt.TextElideMode = Qt.TextElideMode.ElideRight) -> None:
        super().__init__()
        self._full, self._mode = "", mode
        if role:
            self.setProperty("role", role)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setText(text)

    def setText(self, text: str) -> None:
        self._full = text
        self._elide()

    def full_text(self) -> str:
        """The text without shortening."""
        return self._full

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._elide()

    def _elide(self) -> None:
        shown = QFontMetrics(self.font()).elidedText(self._full, self._mode, max(self.width(), 24))
        super().setText(shown)
        self.setToolTip(self._full if shown != self._full else "")


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
    """A sliding on/off switch."""

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


class Banner(QFrame):
    """A coloured strip with an icon, a sentence and an optional button: for warnings that stay."""

    def __init__(self, kind: str, text: str, action: str = "", on_action: Callable[[], object] | None = None) -> None:
        super().__init__()
        self.setProperty("role", f"banner-{kind}")
        icon = {"warning": "warning", "danger": "x-circle", "success": "check-circle", "info": "info"}[kind]
        picture = QLabel()
        picture.setPixmap(theme.pixmap(icon, "accent" if kind == "info" else kind, 18))
        self.text = label(text, wrap=True, selectable=True)
        items: list[QWidget | int | None] = [picture, self.text]
        layout = row(*items, spacing=10, margins=(12, 9, 12, 9))
        layout.setStretch(1, 1)
        if action and on_action is not None:
            layout.addWidget(button(action, on_click=on_action))
        self.setLayout(layout)
        self.setAccessibleName(text)


EMPTY_WIDTH = 420  # pixels of the sentence in an empty view


class EmptyState(QWidget):
    """A centred icon, heading, sentence and buttons: what a view shows before there is anything to show."""

    def __init__(self, icon: str, heading: str, text: str, buttons: list[QPushButton] | None = None) -> None:
        super().__init__()
        self._icon_name = icon
        self._icon = QLabel(alignment=Qt.AlignmentFlag.AlignCenter)
        self.heading = label(heading, "heading")
        self.text = label(text, "muted", wrap=True)
        self.text.setFixedWidth(EMPTY_WIDTH)
        for part in (self.heading, self.text):
            part.setAlignment(Qt.AlignmentFlag.AlignCenter)
        layout = column(None, self._icon, 4, self.heading, spacing=8, margins=(24, 24, 24, 24))
        layout.addWidget(self.text, 0, Qt.AlignmentFlag.AlignHCenter)
        if buttons:
            layout.addSpacing(8)
            layout.addLayout(row(None, *buttons, None, spacing=10))
        layout.addStretch(1)
        self.setLayout(layout)
        self.set_text(heading, text)
        self._refresh()
        theme.changed.connect(self._refresh)

    def set_text(self, heading: str, text: str) -> None:
        """Change what it says."""
        self.heading.setText(heading)
        self.text.setText(text)
        self.text.ensurePolished()
        # a centred label would be cut off; one without text has no height
        self.text.setMinimumHeight(max(self.text.heightForWidth(EMPTY_WIDTH), 0))

    def _refresh(self) -> None:
        self._icon.setPixmap(theme.pixmap(self._icon_name, "faint", 44))


class Toast(QFrame):
    """A message in the window's corner that goes away by itself."""

    clicked = Signal()
    closed = Signal()

    def __init__(
        self,
        parent: QWidget,
        kind: str,
        title: str,
        text: str,
        seconds: float = 6.0,
        action: str = "",
        on_action: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("toast")
        self.setProperty("role", "toast")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground, True)
        icon, tint = {
            "success": ("check-circle", "success"),
            "danger": ("x-circle", "danger"),
            "warning": ("warning", "warning"),
            "info": ("info", "accent"),
        }[kind]
        picture = QLabel(alignment=Qt.AlignmentFlag.AlignTop)
        picture.setPixmap(theme.pixmap(icon, tint, 20))
        body = column(label(title, "label"), spacing=2)
        if text:
            body.addWidget(label(text, "muted", wrap=True))
        if action and on_action is not None:
            body.addLayout(row(button(action, "link", on_click=lambda: (on_action(), self.close())), None))
        close = icon_button("x", "Dismiss", self.close, size=14)
        layout = row(picture, spacing=10, margins=(14, 12, 8, 12))
        layout.addLayout(body, 1)
        layout.addWidget(close, 0, Qt.AlignmentFlag.AlignTop)
        self.setLayout(layout)
        self.setFixedWidth(360)
        self.setAccessibleName(f"{title}. {text}")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        QTimer.singleShot(round(seconds * 1000), self, self.close)
        self.adjustSize()

    def mousePressEvent(self, event) -> None:  # type: ignore[no-untyped-def]
        self.clicked.emit()
        self.close()

    def closeEvent(self, event) -> None:  # type: ignore[no-untyped-def]
        self.closed.emit()
        super().closeEvent(event)


TOAST_MARGIN = 104  # pixels to the window's lower edge: the status bar and the buttons of the next steps stay free


class ToastStack(QWidget):
    """Keeps toasts stacked in the lower right corner of ``host``, the newest below, the oldest going first."""

    MOST = 4

    def __init__(self, host: QWidget) -> None:
        super().__init__(host)
        self.hide()
        self._host = host
        self._toasts: list[Toast] = []
        host.installEventFilter(self)

    def show_toast(
        self,
        kind: str,
        title: str,
        text: str = "",
        seconds: float = 6.0,
        action: str = "",
        on_action: Callable[[], object] | None = None,
    ) -> Toast:
        """Show a message of kind success, danger, warning or info, with a button if ``action`` names one."""
        toast = Toast(self._host, kind, title, text, seconds, action, on_action)
        key = id(toast)
        toast.closed.connect(lambda: self._forget(key))
        self._toasts.append(toast)
        for old in self._toasts[: -self.MOST]:
            old.close()
        toast.show()
        toast.raise_()
        self._place()
        return toast

    def eventFilter(self, watched, event) -> bool:  # type: ignore[no-untyped-def]
        if event.type() == QEvent.Type.Resize:
            self._place()
        return False

    def _forget(self, key: int) -> None:
        self._toasts = [t for t in self._toasts if id(t) != key]
        self._place()

    def _place(self) -> None:
        bottom = self._host.height() - TOAST_MARGIN
        for toast in reversed(self._toasts):
            bottom -= toast.height()
            toast.move(self._host.width() - toast.width() - 20, bottom)
            bottom -= 10


class Section(QWidget):
    """A heading that folds what is below it."""

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
        return size

    def setGeometry(self, rect: QRect) -> None:
        super().setGeometry(rect)
        self._place(rect, move=True)

    def _place(self, rect: QRect, *, move: bool) -> int:
        x, y, high = rect.x(), rect.y(), 0
        for item in self._items:
            hint = item.sizeHint()
            if x > rect.x() and x + hint.width() > rect.right() + 1:
                x, y, high = rect.x(), y + high + self._gap, 0
            if move:
                item.setGeometry(QRect(QPoint(x, y), hint))
            x, high = x + hint.width() + self._gap, max(high, hint.height())
        return y + high - rect.y()


class Value(QFrame):
    """A number with its name above it, as in a row of figures over a plot."""

    def __init__(self, name: str, value: str = "–") -> None:
        super().__init__()
        self.setProperty("role", "card")
        self.name, self.value = label(name, "faint"), label(value, "value")
        self.setLayout(column(self.name, self.value, spacing=0, margins=(12, 5, 12, 6)))
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(92)

    def set(self, value: str) -> None:
        """Show ``value``."""
        if self.value.text() != value:
            self.value.setText(value)
            self.setAccessibleName(f"{self.name.text()}: {value}")


def ask(parent: QWidget | None, title: str, text: str, yes: str, *, danger: bool = False, details: str = "") -> bool:
    """Ask a question with ``yes`` or Cancel as the answers; the dialog names what will happen."""
    from PySide6.QtWidgets import QDialog

    dialog = QDialog(parent)
    dialog.setWindowTitle(title)
    accept = button(yes, "danger" if danger else "primary", on_click=dialog.accept, name="confirm")
    cancel = button("Cancel", on_click=dialog.reject, name="cancel")
    accept.setDefault(not danger)
    cancel.setDefault(danger)
    layout = column(label(title, "heading"), label(text, "muted", wrap=True), spacing=12, margins=(22, 20, 22, 18))
    if details:
        layout.addWidget(label(details, "hint", wrap=True, selectable=True))
    layout.addSpacing(6)
    layout.addLayout(row(None, cancel, accept))
    dialog.setLayout(layout)
    dialog.setMinimumWidth(420)
    return dialog.exec() == QDialog.DialogCode.Accepted
