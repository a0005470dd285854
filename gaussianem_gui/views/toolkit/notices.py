"""What the window says: banners, empty views, messages in the corner, and questions."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import (
    QEvent,
    QObject,
    QSize,
    Qt,
    QTimer,
    Signal,
)
from PySide6.QtGui import QCloseEvent, QMouseEvent, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import (
    QFrame,
    QLabel,
    QPushButton,
    QWidget,
)

from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import (
    button,
    column,
    icon_button,
    label,
    row,
)

EMPTY_WIDTH = 420  # pixels of the sentence in an empty view
TOAST_MARGIN = 104  # pixels to the window's lower edge: the status bar and the buttons of the next steps stay free


class Banner(QFrame):
    """A coloured strip with an icon, a sentence and an optional button, for what stays; ``kind``: warning, danger,
    success or info."""

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


EMPTY_MARGIN = 24
EMPTY_LEAST = QSize(230, 130)


class EmptyState(QWidget):
    """A centred icon, heading, sentence and buttons: what a view shows before there is anything to show."""

    def __init__(self, icon: str, heading: str, text: str, buttons: list[QPushButton] | None = None) -> None:
        super().__init__()
        self._icon_name = icon
        self._icon = QLabel(alignment=Qt.AlignmentFlag.AlignCenter)
        self.heading = label(heading, "heading")
        self.text = label(text, "muted", wrap=True)
        for part in (self.heading, self.text):
            part.setAlignment(Qt.AlignmentFlag.AlignCenter)
        layout = column(None, self._icon, 4, self.heading, spacing=8, margins=(EMPTY_MARGIN,) * 4)
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
        """Show another heading and sentence."""
        self.heading.setText(heading)
        self.text.setText(text)
        self.text.ensurePolished()
        self._fit()

    def _fit(self) -> None:
        """The sentence as wide as is good to read, or as there is room, and as high as it then needs."""
        wide = min(EMPTY_WIDTH, max(self.width() - 2 * EMPTY_MARGIN, EMPTY_LEAST.width() - 2 * EMPTY_MARGIN))
        self.text.setFixedWidth(wide)
        # a centred label would be cut off; one without text has no height
        self.text.setMinimumHeight(max(self.text.heightForWidth(wide), 0))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def minimumSizeHint(self) -> QSize:
        return EMPTY_LEAST

    def _refresh(self) -> None:
        self._icon.setPixmap(theme.pixmap(self._icon_name, "faint", 44))


class Toast(QFrame):
    """A message in the window's corner that goes away after so many seconds; ``kind`` as of :class:`Banner`."""

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

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self.clicked.emit()
        self.close()

    def closeEvent(self, event: QCloseEvent) -> None:
        self.closed.emit()
        super().closeEvent(event)


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

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
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


def ask(parent: QWidget | None, title: str, text: str, yes: str, *, danger: bool = False, details: str = "") -> bool:
    """Ask a question with ``yes`` or Cancel as the answers; True for yes. The dialog names what will happen; with
    ``danger`` Enter cancels."""
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


class Waiting(QLabel):
    """Words in the place of what takes long to build. ``drawn`` comes when they are on the screen."""

    drawn = Signal()

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.setProperty("role", "muted")
        self.setContentsMargins(20, 16, 20, 16)
        self.setAlignment(Qt.AlignmentFlag.AlignTop)

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        QTimer.singleShot(0, self, self.drawn.emit)
