"""The command palette (Ctrl+K): jump to any job, view or action by a few letters of its name."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QModelIndex, QObject, QPersistentModelIndex, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QKeyEvent, QPainter, QPainterPath, QRegion, QResizeEvent
from PySide6.QtWidgets import (
    QDialog,
    QFrame,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from gaussianem_gui.views.toolkit.palette_entry import PaletteEntry
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import column, label

MOST = 60  # entries shown
CORNER = 12  # pixels, as in the style sheet
Index = QModelIndex | QPersistentModelIndex


def score(words: str, text: str) -> int:
    """How well ``text`` fits the letters typed, 0 for not at all: words found in one piece, near its beginning and at
    the start of a word, count most; letters in their order with few between them count less."""
    words, text = words.lower().strip(), text.lower()
    if not words:
        return 1
    total = 0
    for word in words.split():
        at = text.find(word)
        if at >= 0:
            total += 100 - min(at, 50) + (40 if at == 0 or not text[at - 1].isalnum() else 0)
            continue
        place, gaps = -1, 0
        for letter in word:
            found = text.find(letter, place + 1)
            if found < 0:
                return 0
            gaps += found - place - 1
            place = found
        total += max(30 - gaps, 1)
    return total


class _Delegate(QStyledItemDelegate):
    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        return QSize(200, 40)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        entry: PaletteEntry = index.data(Qt.ItemDataRole.UserRole)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        box = option.rect.adjusted(4, 1, -4, -1)
        if option.state & QStyle.StateFlag.State_Selected:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(theme.colour("accent_soft")))
            painter.drawRoundedRect(box, 8, 8)
        painter.drawPixmap(
            box.left() + 10, box.top() + 10, theme.pixmap(entry.icon, "faint" if entry.reason else "muted", 18)
        )
        font = QFont(option.font)
        font.setWeight(QFont.Weight.Medium)
        painter.setFont(font)
        painter.setPen(QColor(theme.colour("faint" if entry.reason else "text")))
        metrics = QFontMetrics(font)
        wide = metrics.horizontalAdvance(entry.title)
        painter.drawText(
            QRect(box.left() + 40, box.top(), wide + 4, box.height()), Qt.AlignmentFlag.AlignVCenter, entry.title
        )
        painter.setFont(option.font)
        right = entry.shortcut
        room = QFontMetrics(option.font).horizontalAdvance(right) + 16 if right else 6
        painter.setPen(QColor(theme.colour("faint")))
        painter.drawText(
            QRect(box.right() - room, box.top(), room - 8, box.height()),
            Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight,
            right,
        )
        left = box.left() + 40 + wide + 14
        detail = QFontMetrics(option.font).elidedText(
            entry.reason or entry.detail, Qt.TextElideMode.ElideRight, max(box.right() - room - left, 10)
        )
        painter.drawText(
            QRect(left, box.top(), box.right() - room - left, box.height()), Qt.AlignmentFlag.AlignVCenter, detail
        )
        painter.restore()


class Palette(QDialog):
    """A search field over a list; Enter runs what is chosen."""

    def __init__(self, parent: QWidget, entries: list[PaletteEntry]) -> None:
        super().__init__(parent, Qt.WindowType.Popup | Qt.WindowType.FramelessWindowHint)
        self.setObjectName("palette")
        self.setAttribute(Qt.WidgetAttribute.WA_TranslucentBackground)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setAccessibleName("Command palette")
        self._entries = entries
        self.search = QLineEdit()
        self.search.setPlaceholderText("Jump to a job, a view or an action …")
        self.search.setAccessibleName("Search jobs and actions")
        self.search.setStyleSheet("font-size: 12pt; padding: 10px 14px; border: none; background: transparent;")
        self.list = QListWidget()
        self.list.setItemDelegate(_Delegate(self.list))
        self.list.setAccessibleName("What was found")
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.list.setStyleSheet("background: transparent;")
        box = QFrame()
        box.setProperty("role", "toast")
        rule = QFrame()
        rule.setProperty("role", "line")
        self.none = label("Nothing fits.", "muted")
        self.none.setContentsMargins(18, 10, 18, 14)
        inside = column(self.search, rule, self.list, self.none, spacing=6, margins=(6, 6, 6, 6))
        box.setLayout(inside)
        self.setLayout(column(box))
        self.resize(620, 420)
        self.search.textChanged.connect(self._filter)
        self.search.installEventFilter(self)
        self.list.itemClicked.connect(lambda item: self._run(item))
        self._filter("")
        corner = parent.mapToGlobal(parent.rect().topLeft())
        self.move(corner.x() + (parent.width() - self.width()) // 2, corner.y() + 90)
        self.search.setFocus()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Round corners also where nothing composes windows (remote desktops): there they would be black."""
        super().resizeEvent(event)
        shape = QPainterPath()
        shape.addRoundedRect(QRectF(self.rect()), CORNER, CORNER)
        self.setMask(QRegion(shape.toFillPolygon().toPolygon()))

    def titles(self) -> list[str]:
        """Titles of what is listed."""
        return [self.list.item(n).data(Qt.ItemDataRole.UserRole).title for n in range(self.list.count())]

    def _filter(self, text: str) -> None:
        ranked = [
            (max(score(text, e.title) * 2, score(text, f"{e.title} {e.detail}")), -n, e)
            for n, e in enumerate(self._entries)
        ]
        found = [e for value, _, e in sorted(ranked, key=lambda r: r[:2], reverse=True) if value > 0][:MOST]
        self.list.clear()
        for entry in found:
            item = QListWidgetItem(entry.title)
            item.setData(Qt.ItemDataRole.UserRole, entry)
            self.list.addItem(item)
        self.list.setCurrentRow(0)
        self.none.setVisible(not found)

    def _run(self, item: QListWidgetItem | None) -> None:
        if item is None:
            return
        entry: PaletteEntry = item.data(Qt.ItemDataRole.UserRole)
        if entry.reason:
            return
        self.close()
        entry.run()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            key, row = event.key(), self.list.currentRow()
            if key in (Qt.Key.Key_Down, Qt.Key.Key_Up):
                step = 1 if key == Qt.Key.Key_Down else -1
                self.list.setCurrentRow(max(0, min(row + step, self.list.count() - 1)))
                return True
            if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
                self._run(self.list.currentItem())
                return True
            if key == Qt.Key.Key_Escape:
                self.close()
                return True
        return False
