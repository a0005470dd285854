"""The list of jobs: by type or by time, state as icon, colour and word, progress and time left of the running ones."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import (
    QAbstractItemModel,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    QPoint,
    QRect,
    QSize,
    QSortFilterProxyModel,
    Qt,
    Signal,
)
from PySide6.QtGui import QColor, QFont, QFontMetrics, QKeyEvent, QPainter, QPalette
from PySide6.QtWidgets import QAbstractItemView, QStyle, QStyledItemDelegate, QStyleOptionViewItem, QTreeView

from gaussianem_gui.forms.next_steps import picture
from gaussianem_gui.forms.stage_words import stage_words
from gaussianem_gui.project.project import JobInfo
from gaussianem_gui.units import ago_text, bytes_text, seconds_text
from gaussianem_gui.views.job.thumbnails import Thumbnails
from gaussianem_gui.views.project_model import ProjectModel, state_word
from gaussianem_gui.views.toolkit.theme import STATES, theme
from gaussianem_gui.views.toolkit.widgets import plain

Index = QModelIndex | QPersistentModelIndex
INFO, STATE, FRACTION, SUBTITLE, GROUP = (Qt.ItemDataRole.UserRole + n for n in range(1, 6))


def subtitle(info: JobInfo, size: int | None = None) -> str:
    """The second line of a row: what the job is doing, why it waits or failed, or when it ended, how long it took, and
    ``size`` in bytes."""
    status = info.status
    if info.missing:
        return "its directory is gone"
    word = state_word(info)
    if word in ("running", "stopping"):
        parts = [
            stage_words(status.stage) if status.stage else "",
            f"{status.fraction * 100:.0f} %" if status.fraction is not None else "",
        ]
        if status.left_seconds is not None:
            parts.append(f"{seconds_text(status.left_seconds)} left")
        if status.gpus:
            parts.append("GPU " + ", ".join(map(str, status.gpus)))
        return " · ".join(p for p in parts if p) or "starting"
    if word in ("queued", "failed", "lost") and status.detail:
        return status.detail
    if word == "scheduled":
        return "ready to run"
    parts = []
    if status.ended:
        parts.append(ago_text(status.ended))
        if status.started:
            parts.append(seconds_text(status.ended - status.started))
    if size:
        parts.append(bytes_text(size))
    return " · ".join(parts) or info.title


class JobTreeModel(QAbstractItemModel):
    """Groups and jobs as a tree; updated in place so that selection and scroll position stay."""

    def __init__(self) -> None:
        super().__init__()
        self.by_type = True
        self._groups: list[tuple[str, list[JobInfo]]] = []
        self._jobs: list[JobInfo] = []
        self._sizes: dict[str, int] = {}

    def set_jobs(self, jobs: list[JobInfo], sizes: dict[str, int]) -> None:
        """Show ``jobs``, newest first, with their disk use in bytes by name."""
        self._jobs, self._sizes = jobs, sizes
        groups: dict[str, list[JobInfo]] = {}
        for info in sorted(jobs, key=lambda j: -j.number):
            groups.setdefault(info.title if self.by_type else "All jobs", []).append(info)
        fresh = list(groups.items())
        same = [(g, [j.name for j in js]) for g, js in fresh] == [(g, [j.name for j in js]) for g, js in self._groups]
        if same:
            self._groups = fresh
            for place, (_, members) in enumerate(fresh):
                parent = self.index(place, 0)
                self.dataChanged.emit(self.index(0, 0, parent), self.index(len(members) - 1, 0, parent))
        else:
            self.beginResetModel()
            self._groups = fresh
            self.endResetModel()

    def set_by_type(self, by_type: bool) -> None:
        """Group the jobs by type, or show one list by time."""
        self.by_type = by_type
        self._groups = []
        self.set_jobs(self._jobs, self._sizes)

    def find(self, name: str) -> QModelIndex:
        """Index of the job of that name, an invalid one if it is not there."""
        for place, (_, members) in enumerate(self._groups):
            for number, info in enumerate(members):
                if info.name == name:
                    return self.index(number, 0, self.index(place, 0))
        return QModelIndex()

    def index(self, row: int, column: int, parent: Index = QModelIndex()) -> QModelIndex:  # noqa: B008
        if not self.hasIndex(row, column, parent):
            return QModelIndex()
        return self.createIndex(row, column, 0 if not parent.isValid() else parent.row() + 1)

    def parent(self, index: Index) -> QModelIndex:
        group = index.internalId() if index.isValid() else 0
        return self.createIndex(group - 1, 0, 0) if group else QModelIndex()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        if not parent.isValid():
            return len(self._groups)
        return len(self._groups[parent.row()][1]) if parent.internalId() == 0 else 0

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 1

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        group = index.internalId()
        if group == 0:
            title, members = self._groups[index.row()]
            return {Qt.ItemDataRole.DisplayRole: f"{title}  {len(members)}", GROUP: title}.get(role)
        info = self._groups[group - 1][1][index.row()]
        number = info.name.rstrip("/").rsplit("/", 1)[-1]
        if role == Qt.ItemDataRole.DisplayRole:
            return info.alias or (number if self.by_type else f"{info.title} {number}")
        if role == INFO:
            return info
        if role == STATE:
            return state_word(info)
        if role == FRACTION:
            return info.status.fraction if state_word(info) in ("running", "stopping") else None
        if role == SUBTITLE:
            text = subtitle(info, self._sizes.get(info.name))
            return f"{number} · {text}" if info.alias else text
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{info.name} {info.alias} {STATES[state_word(info)][2]} {subtitle(info)}"
        if role == Qt.ItemDataRole.ToolTipRole:
            words = [info.name, info.alias, STATES[state_word(info)][2], info.status.detail]
            return plain("\n".join(filter(None, words)))
        return None


class JobFilter(QSortFilterProxyModel):
    """Lets through jobs whose name, alias, type and state hold all words typed."""

    def __init__(self, model: JobTreeModel) -> None:
        super().__init__()
        self.words: list[str] = []
        self.setSourceModel(model)
        self.setRecursiveFilteringEnabled(True)

    def set_text(self, text: str) -> None:
        """Filter by ``text``."""
        self.words = text.lower().split()
        self.invalidate()

    def filterAcceptsRow(self, row: int, parent: Index) -> bool:
        info = self.sourceModel().index(row, 0, parent).data(INFO)
        if not isinstance(info, JobInfo):
            return not self.words
        text = f"{info.name} {info.alias} {info.title} {STATES[state_word(info)][2]}".lower()
        return all(word in text for word in self.words)


class JobDelegate(QStyledItemDelegate):
    """Paints a job in two lines with its volume at the left, its state at the right and a thin bar while it runs."""

    def __init__(self, parent: QObject, thumbnails: Thumbnails) -> None:
        super().__init__(parent)
        self.thumbnails = thumbnails

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        return QSize(200, 30 if index.data(GROUP) is not None else 50)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        group = index.data(GROUP)
        if group is not None:
            font = QFont(option.font)
            font.setPointSizeF(8.5)
            font.setWeight(QFont.Weight.DemiBold)
            painter.setFont(font)
            painter.setPen(QColor(theme.colour("faint")))
            painter.drawText(
                option.rect.adjusted(14, 6, -8, 0), Qt.AlignmentFlag.AlignVCenter, str(index.data()).upper()
            )
            painter.restore()
            return
        box = option.rect.adjusted(4, 1, -6, -1)
        chosen = bool(option.state & QStyle.StateFlag.State_Selected)
        over = bool(option.state & QStyle.StateFlag.State_MouseOver)
        if chosen or over:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(theme.colour("accent_soft" if chosen else "hover")))
            painter.drawRoundedRect(box, 8, 8)
        if option.state & QStyle.StateFlag.State_HasFocus and chosen:
            painter.setPen(QColor(theme.colour("accent")))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(box.adjusted(0, 0, -1, -1), 8, 8)
        info: JobInfo = index.data(INFO)
        state, colour, word = theme.state(str(index.data(STATE)))
        seen = self.thumbnails.of(info, painter.device().devicePixelRatioF())
        if seen is not None:
            painter.drawPixmap(box.left() + 5, box.top() + 6, seen)
        else:
            icon = theme.pixmap(picture(info.job_type), "accent" if chosen else "muted", 20)
            painter.drawPixmap(box.left() + 13, box.top() + 14, icon)
        left, right = box.left() + 48, box.right() - 10
        small = QFont(option.font)
        small.setPointSizeF(8.5)
        metrics = QFontMetrics(small)
        wide = metrics.horizontalAdvance(word) + 22
        painter.setFont(option.font)
        painter.setPen(option.palette.color(QPalette.ColorRole.Text))
        title = QFont(option.font)
        title.setWeight(QFont.Weight.Medium)
        painter.setFont(title)
        name = QFontMetrics(title).elidedText(
            str(index.data()), Qt.TextElideMode.ElideRight, max(right - wide - left - 6, 20)
        )
        painter.drawText(QRect(left, box.top() + 6, right - wide - left, 20), Qt.AlignmentFlag.AlignVCenter, name)
        painter.drawPixmap(right - wide + 2, box.top() + 8, state.pixmap(16, 16))
        painter.setFont(small)
        painter.setPen(QColor(colour))
        painter.drawText(
            QRect(right - wide, box.top() + 6, wide, 20),
            Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight,
            word,
        )
        painter.setPen(QColor(theme.colour("muted")))
        below = metrics.elidedText(str(index.data(SUBTITLE)), Qt.TextElideMode.ElideRight, right - left)
        painter.drawText(QRect(left, box.top() + 24, right - left, 18), Qt.AlignmentFlag.AlignVCenter, below)
        fraction = index.data(FRACTION)
        if fraction is not None:
            bar = QRect(left, box.bottom() - 4, right - left, 3)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(theme.colour("border")))
            painter.drawRoundedRect(bar, 1.5, 1.5)
            bar.setWidth(max(round(bar.width() * float(fraction)), 3))
            painter.setBrush(QColor(theme.colour("accent_fill")))
            painter.drawRoundedRect(bar, 1.5, 1.5)
        painter.restore()


class JobList(QTreeView):
    """The list. A click or the arrow keys open a job and leave the keyboard here, Enter goes into it; several may be
    selected, a context menu offers the actions."""

    opened = Signal(str)
    enterPressed = Signal(str)  # the job is to be opened, and to get the keyboard
    menuRequested = Signal(object)  # global position

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("jobList")
        self.setAccessibleName("Jobs")
        self.setHeaderHidden(True)
        self.setRootIsDecorated(False)
        self.setIndentation(0)
        self.setMouseTracking(True)
        self.setUniformRowHeights(False)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.tree = JobTreeModel()
        self.filter = JobFilter(self.tree)
        self.setModel(self.filter)
        self.thumbnails = Thumbnails(self)
        self.thumbnails.ready.connect(self.viewport().update)
        self.setItemDelegate(JobDelegate(self, self.thumbnails))
        self._model: ProjectModel | None = None
        self._setting = False
        self.filter.modelReset.connect(self.expandAll)
        self.filter.rowsInserted.connect(self.expandAll)
        self.customContextMenuRequested.connect(self._menu)
        self.selectionModel().currentChanged.connect(self._current)
        self.clicked.connect(lambda index: self._current(index, index))  # the current one, too: another page may be up
        theme.changed.connect(self.viewport().update)

    def set_model(self, model: ProjectModel | None) -> None:
        """Show the jobs of another project; none with None."""
        self._model = model
        self.thumbnails.set_project(model.project if model is not None else None)
        self.refresh()

    def refresh(self) -> None:
        """Take up the model's snapshot; the current job and the selection stay."""
        chosen, current = self.selected(), self.current_job()
        self._setting = True
        if self._model is None:
            self.tree.set_jobs([], {})
        else:
            self.tree.set_jobs(self._model.jobs, self._model.sizes)
        self.expandAll()
        if current and self.current_job() != current:
            self.select(current, chosen)
        self._setting = False

    def current_job(self) -> str:
        """Name of the current job, or ""."""
        info = self.currentIndex().data(INFO)
        return info.name if isinstance(info, JobInfo) else ""

    def first_job(self) -> str:
        """Name of the first job that is shown, or ""."""
        index = self.filter.index(0, 0)
        while index.isValid():
            if isinstance(info := index.data(INFO), JobInfo):
                return info.name
            index = self.indexBelow(index)
        return ""

    def selected(self) -> list[str]:
        """Names of the selected jobs."""
        return [i.data(INFO).name for i in self.selectionModel().selectedIndexes() if isinstance(i.data(INFO), JobInfo)]

    def select(self, name: str, also: list[str] | None = None) -> None:
        """Make ``name`` the current job and select it, and ``also`` others, without opening it. Nothing is selected if
        it is not shown."""
        before, self._setting = self._setting, True
        index = self.filter.mapFromSource(self.tree.find(name))
        flags = self.selectionModel().SelectionFlag
        if index.isValid():
            self.selectionModel().setCurrentIndex(index, flags.ClearAndSelect)
            for other in also or []:
                self.selectionModel().select(self.filter.mapFromSource(self.tree.find(other)), flags.Select)
            self.scrollTo(index)
        else:
            self.selectionModel().clear()
        self._setting = before

    def _current(self, index: QModelIndex, _before: QModelIndex) -> None:
        info = index.data(INFO)
        if isinstance(info, JobInfo) and not self._setting:
            self.opened.emit(info.name)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        name = self.current_job()
        if event.key() not in (Qt.Key.Key_Return, Qt.Key.Key_Enter) or not name:
            super().keyPressEvent(event)
            return
        if name not in self.selected():  # the overview, say, takes the selection away and leaves the current row
            self.select(name)
        self.enterPressed.emit(name)

    def _menu(self, place: QPoint) -> None:
        if isinstance(self.indexAt(place).data(INFO), JobInfo):
            self.menuRequested.emit(self.viewport().mapToGlobal(place))
