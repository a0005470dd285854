"""The jobs as a flow graph: who reads whose files. A job's layer is the longest way to it from a job that reads
nothing."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QContextMenuEvent,
    QFont,
    QFontMetrics,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPainterPath,
    QPen,
    QShowEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import (
    QGraphicsItem,
    QGraphicsObject,
    QGraphicsPathItem,
    QGraphicsScene,
    QGraphicsSceneHoverEvent,
    QGraphicsView,
    QStyleOptionGraphicsItem,
    QWidget,
)

from gaussianem_gui.forms.next_steps import picture
from gaussianem_gui.project.project import JobInfo
from gaussianem_gui.views.job.thumbnails import SIDE, Thumbnails
from gaussianem_gui.views.project_model import ProjectModel, job_label, state_word
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import plain

WIDTH, HEIGHT, GAP_X, GAP_Y = 210, 54, 26, 46
SMALLEST, LARGEST = 0.2, 3.0


def layers(links: dict[str, list[str]], numbers: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Place of each job as (layer, position), from 0: a job lies below everything it reads from, children near their
    parents.

    ``links`` maps a job to its parents, ``numbers`` to its number; a parent that is not in ``links`` is left out.
    """
    depth: dict[str, int] = {}
    for name in sorted(links, key=lambda n: numbers[n]):  # a job can only read from jobs with smaller numbers
        depth[name] = 1 + max((depth[p] for p in links[name] if p in depth), default=-1)
    places: dict[str, tuple[int, int]] = {}
    for layer in range(max(depth.values(), default=-1) + 1):
        members = [n for n in links if depth[n] == layer]

        def centre(name: str) -> tuple[float, int]:
            above = [places[p][1] for p in links[name] if p in places]
            return (sum(above) / len(above) if above else numbers[name], numbers[name])

        taken = -1
        for name in sorted(members, key=centre):
            wanted = round(centre(name)[0]) if layer else taken + 1
            taken = max(taken + 1, wanted)
            places[name] = (layer, taken)
    return places


def direct(links: dict[str, list[str]]) -> dict[str, list[str]]:
    """``links`` (a job -> its parents) without those that a longer way says as well: grandparents, mostly."""
    above: dict[str, set[str]] = {}

    def ancestors(name: str) -> set[str]:
        if name not in above:
            above[name] = set()  # a loop ends here
            for parent in links.get(name, []):
                above[name] |= {parent} | ancestors(parent)
        return above[name]

    return {
        name: [p for p in parents if not any(p in ancestors(other) for other in parents if other != p)]
        for name, parents in links.items()
    }


class JobNode(QGraphicsObject):
    """One job in the graph."""

    def __init__(self, info: JobInfo, thumbnails: Thumbnails) -> None:
        super().__init__()
        self._thumbnails = thumbnails
        self.info, self.current = info, False
        self.setAcceptHoverEvents(True)
        self.setFlag(QGraphicsItem.GraphicsItemFlag.ItemIsFocusable)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self._hover = False

    def update_info(self, info: JobInfo, current: bool) -> None:
        """Take up a newer state, and whether this is the job that the pane shows."""
        if info != self.info or current != self.current:
            self.info, self.current = info, current
            self.update()
        self.setToolTip(plain("\n".join(filter(None, [info.name, info.alias, info.status.detail]))))

    def boundingRect(self) -> QRectF:
        return QRectF(-2, -2, WIDTH + 4, HEIGHT + 4)

    def paint(self, painter: QPainter, option: QStyleOptionGraphicsItem, widget: QWidget | None = None) -> None:
        icon, colour, word = theme.state(state_word(self.info))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setBrush(
            QColor(theme.colour("accent_soft" if self.current else ("hover" if self._hover else "surface")))
        )
        painter.setPen(QPen(QColor(theme.colour("accent" if self.current else "strong")), 1.5 if self.current else 1))
        painter.drawRoundedRect(QRectF(0, 0, WIDTH, HEIGHT), 10, 10)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colour))
        painter.drawRoundedRect(QRectF(0, 12, 3, HEIGHT - 24), 1.5, 1.5)
        painter.drawPixmap(12, 17, theme.pixmap(picture(self.info.job_type), "muted", 20))
        font = QFont(painter.font())
        font.setPointSizeF(9.5)
        font.setWeight(QFont.Weight.Medium)
        painter.setFont(font)
        painter.setPen(QColor(theme.colour("text")))
        seen = self._thumbnails.of(self.info, painter.device().devicePixelRatioF())
        room = WIDTH - 52 - (SIDE if seen is not None else 0)
        if seen is not None:
            painter.drawPixmap(WIDTH - SIDE - 8, (HEIGHT - SIDE) // 2, seen)
        title = QFontMetrics(font).elidedText(
            self.info.alias or job_label(self.info), Qt.TextElideMode.ElideRight, room
        )
        painter.drawText(QRectF(42, 7, WIDTH - 50, 20), Qt.AlignmentFlag.AlignVCenter, title)
        painter.drawPixmap(42, 29, icon.pixmap(14, 14))
        font.setPointSizeF(8.5)
        font.setWeight(QFont.Weight.Normal)
        painter.setFont(font)
        painter.setPen(QColor(colour))
        fraction = self.info.status.fraction
        text = f"{word} {fraction * 100:.0f} %" if word == "Running" and fraction is not None else word
        painter.drawText(QRectF(61, 26, WIDTH - 68, 20), Qt.AlignmentFlag.AlignVCenter, text)

    def hoverEnterEvent(self, event: QGraphicsSceneHoverEvent) -> None:
        self._hover = True
        self.update()

    def hoverLeaveEvent(self, event: QGraphicsSceneHoverEvent) -> None:
        self._hover = False
        self.update()


class FlowGraph(QGraphicsView):
    """The graph. A click opens a job, the wheel with Ctrl zooms, a drag moves; Up and Down walk along edges, Left and
    Right within a layer."""

    opened = Signal(str)
    enterPressed = Signal(str)  # the job is to be opened, and to get the keyboard
    menuRequested = Signal(object)
    zoomed = Signal(float)

    def __init__(self, thumbnails: Thumbnails) -> None:
        super().__init__()
        self._thumbnails = thumbnails
        thumbnails.ready.connect(self.viewport().update)
        self.setObjectName("flowGraph")
        self.setAccessibleName("Flow of jobs")
        self.setScene(QGraphicsScene(self))
        self.setRenderHint(QPainter.RenderHint.Antialiasing)
        self.setDragMode(QGraphicsView.DragMode.ScrollHandDrag)
        self.setTransformationAnchor(QGraphicsView.ViewportAnchor.AnchorUnderMouse)
        self._model: ProjectModel | None = None
        self.nodes: dict[str, JobNode] = {}
        self._edges: list[tuple[str, str, QGraphicsPathItem]] = []
        self._shape: object = None
        self._current = ""
        theme.changed.connect(self._restyle)

    def set_model(self, model: ProjectModel | None) -> None:
        """Show the jobs of another project; none with None."""
        self._model, self._shape = model, None
        self.refresh()

    def refresh(self) -> None:
        """Take up the model's snapshot."""
        jobs = self._model.jobs if self._model is not None else []
        links = self._model.links if self._model is not None else {}
        shape = tuple((info.name, tuple(links.get(info.name, []))) for info in jobs)
        if shape != self._shape:
            self._shape = shape
            self._rebuild(jobs, links)
        for info in jobs:
            self.nodes[info.name].update_info(info, info.name == self._current)

    def set_current(self, name: str) -> None:
        """Mark the job that the pane shows."""
        self._current = name
        self.refresh()
        if name in self.nodes:
            self.ensureVisible(self.nodes[name])
        self._restyle()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        name = self._current if self._current in self.nodes else next(reversed(self.nodes), "")  # the newest
        if name:
            self.centerOn(self.nodes[name])

    def _rebuild(self, jobs: list[JobInfo], links: dict[str, list[str]]) -> None:
        self.scene().clear()
        self.nodes, self._edges = {}, []
        shown = direct({i.name: links.get(i.name, []) for i in jobs})
        places = layers(shown, {i.name: i.number for i in jobs})
        for info in jobs:
            node = JobNode(info, self._thumbnails)
            layer, position = places[info.name]
            node.setPos(position * (WIDTH + GAP_X), layer * (HEIGHT + GAP_Y))
            self.scene().addItem(node)
            self.nodes[info.name] = node
        for child, parents in shown.items():
            for parent in parents:
                if parent in self.nodes:
                    self._connect(parent, child)
        self.setSceneRect(self.scene().itemsBoundingRect().adjusted(-24, -24, 24, 24))
        self._restyle()

    def _connect(self, parent: str, child: str) -> None:
        start = self.nodes[parent].pos() + QPointF(WIDTH / 2, HEIGHT)
        end = self.nodes[child].pos() + QPointF(WIDTH / 2, 0)
        bend = max((end.y() - start.y()) / 2, 20)
        path = QPainterPath(start)
        path.cubicTo(start + QPointF(0, bend), end - QPointF(0, bend), end)
        item = QGraphicsPathItem(path)
        item.setZValue(-1)
        self.scene().addItem(item)
        self._edges.append((parent, child, item))

    def _restyle(self) -> None:
        for parent, child, item in self._edges:
            near = self._current in (parent, child)
            item.setPen(QPen(QColor(theme.colour("accent" if near else "strong")), 2 if near else 1.3))
        self.viewport().update()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        item = self.itemAt(event.position().toPoint())
        if isinstance(item, JobNode) and event.button() == Qt.MouseButton.LeftButton:
            self.opened.emit(item.info.name)
        super().mouseReleaseEvent(event)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        item = self.itemAt(event.pos())
        if isinstance(item, JobNode):
            self.opened.emit(item.info.name)
            self.menuRequested.emit(event.globalPos())

    def zoom(self, factor: float) -> None:
        """Enlarge by ``factor``, within SMALLEST and LARGEST of the size as drawn; ``zoomed`` comes with the new
        size."""
        now = self.transform().m11()
        wanted = min(max(now * factor, SMALLEST), LARGEST)
        self.scale(wanted / now, wanted / now)
        self.zoomed.emit(wanted)

    def fit(self) -> None:
        """Show all of the graph, no larger than it is drawn."""
        room, whole = self.viewport().rect(), self.sceneRect()
        share = min(room.width() / max(whole.width(), 1.0), room.height() / max(whole.height(), 1.0), 1.0)
        self.zoom(share / self.transform().m11())
        self.centerOn(whole.center())

    def wheelEvent(self, event: QWheelEvent) -> None:
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self.zoom(1.15 if event.angleDelta().y() > 0 else 1 / 1.15)
        else:
            super().wheelEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        links = self._model.links if self._model is not None else {}
        if self._current in self.nodes and event.key() in (
            Qt.Key.Key_Up,
            Qt.Key.Key_Down,
            Qt.Key.Key_Left,
            Qt.Key.Key_Right,
        ):
            here = self.nodes[self._current]
            if event.key() == Qt.Key.Key_Up:
                found = links.get(self._current, [])
            elif event.key() == Qt.Key.Key_Down:
                found = [c for c, parents in links.items() if self._current in parents]
            else:
                right = event.key() == Qt.Key.Key_Right
                beside = [
                    n
                    for n, i in self.nodes.items()
                    if i.y() == here.y() and (i.x() > here.x()) == right and i is not here
                ]
                found = sorted(beside, key=lambda n: abs(self.nodes[n].x() - here.x()))
            if found and found[0] in self.nodes:
                self.opened.emit(found[0])
        elif self._current in self.nodes and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.enterPressed.emit(self._current)
        elif self.nodes and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Down):
            self.opened.emit(next(iter(self.nodes)))
        else:
            super().keyPressEvent(event)
