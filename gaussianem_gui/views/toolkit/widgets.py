"""Small pieces that every view is built from: labels, buttons, icons, rows and columns."""

from __future__ import annotations

import html
from collections.abc import Callable

from PySide6.QtCore import (
    QSize,
    Qt,
)
from PySide6.QtGui import QFontMetrics, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from gaussianem_gui.views.toolkit.theme import theme

ICON_SIZE, ICON_GAP = 16, 5  # pixels of an icon in a button, and between it and the text


def plain(text: str) -> str:
    """``text`` for a tooltip or a plot's label, where Qt would take what looks like HTML for HTML: shown as it is."""
    if "<" not in text and "&" not in text:
        return text
    return f"<qt>{html.escape(text)}</qt>".replace("\n", "<br>")


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
    """A button of a tool bar that stays pressed; ``text``, if any, stands below the icon."""
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
    """A thin line between parts of a view."""
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
        shown = QFontMetrics(self.font()).elidedText(self._full, self._mode, max(self.contentsRect().width(), 24))
        super().setText(shown)
        self.setToolTip(plain(self._full) if shown != self._full else "")
