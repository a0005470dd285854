"""The Results tab: what a job made, sorted by kind, and the one chosen shown beside it at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QBrush, QColor, QImage, QShowEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QSplitter,
    QStackedWidget,
    QTableWidget,
    QTableWidgetItem,
    QTextBrowser,
    QTreeWidget,
    QTreeWidgetItem,
    QWidget,
)

from gaussianem_core.job.events import WITH_IMAGES
from gaussianem_gui.execution.history import History
from gaussianem_gui.explorer.volumes import natural_key, read_table, series
from gaussianem_gui.project.inputs import Choice
from gaussianem_gui.project.project import JobInfo
from gaussianem_gui.views.job.fields import sentence
from gaussianem_gui.views.job.latent_panel import LatentPanel, latent_columns
from gaussianem_gui.views.job.look_inside import read_text
from gaussianem_gui.views.plots.image_view import ImageView, read_image
from gaussianem_gui.views.plots.stack_view import StackView
from gaussianem_gui.views.plots.viewer import Viewer
from gaussianem_gui.views.project_model import ProjectModel
from gaussianem_gui.views.toolkit.notices import EmptyState
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import column, frame, plain

SECTIONS = (
    ("Volumes", ("volume", "map", "half_map", "mask"), "cube"),
    ("Series", ("volume_series",), "cube"),
    ("Gaussians", ("gaussians",), "points"),
    ("Latents", ("latents",), "job-analyze"),
    ("Images", ("stack", "particles"), "image"),
    ("Plots", ("plot",), "image"),
    ("Summary", ("summary",), "list"),
)


READINGS = ("picture", "latents", "table", "series", "report")  # kinds of work in the background
NO_LATENTS = "No latent dimension tells the particles apart: there are no axes to plot, and one volume stands for all."
FOLDERS = {"kmeans": "Classes"}  # folders of volumes by what is in them


@dataclass(frozen=True)
class Item:
    """One thing to show, of a ``kind`` of SECTIONS: a file or folder, or several volumes with their names."""

    kind: str
    title: str
    paths: tuple[Path, ...]
    names: tuple[str, ...] = ()
    info: dict[str, Any] = field(default_factory=dict, compare=False)


def items(artifacts: list[dict[str, Any]], directory: Path) -> dict[str, list[Item]]:
    """Artifacts, paths from ``directory``, by section; more than two volumes of one folder are a series in natural
    order."""
    found: dict[str, list[Item]] = {}
    for section, kinds, _ in SECTIONS:
        mine = [a for a in artifacts if a.get("kind") in kinds]
        if section == "Volumes":
            folders: dict[str, list[dict[str, Any]]] = {}
            for artifact in mine:
                folders.setdefault(str(Path(str(artifact["path"])).parent), []).append(artifact)
            for folder, members in folders.items():
                members.sort(key=lambda a: natural_key(str(a["path"])))
                if len(members) > 2 and folder != ".":
                    paths = tuple(directory / str(a["path"]) for a in members)
                    names = tuple(str(a.get("label") or Path(str(a["path"])).stem) for a in members)
                    found.setdefault(section, []).append(
                        Item("volume_series", f"{FOLDERS.get(folder, folder)} ({len(paths)})", paths, names)
                    )
                else:
                    found.setdefault(section, []).extend(_item(a, directory) for a in members)
        else:
            found.setdefault(section, []).extend(_item(a, directory) for a in mine)
    return {
        section: sorted(members, key=lambda i: natural_key(i.title)) for section, members in found.items() if members
    }


def artifacts_of(outputs: list[Choice], job: str) -> list[dict[str, Any]]:
    """A job's outputs as artifacts that can be shown, paths from its directory; more than two volumes that differ by a
    number alone are one series."""
    volumes = [c.path.removeprefix(job) for c in outputs if c.kind in ("map", "volume")]
    stems = {re.sub(r"\d+(?=\.\w+$)", "", path) for path in volumes}
    found: list[dict[str, Any]] = [
        {"kind": c.kind, "path": c.path.removeprefix(job)} for c in outputs if c.kind in ("mask", "particles")
    ]
    if len(volumes) > 2 and len(stems) == 1:
        paths = sorted(volumes, key=natural_key)
        return [*found, {"kind": "volume_series", "path": paths[0], "label": f"Volumes ({len(paths)})", "paths": paths}]
    return [*found, *({"kind": "volume", "path": path} for path in volumes)]


def _item(artifact: dict[str, Any], directory: Path) -> Item:
    path = str(artifact["path"])
    title = str(artifact.get("label") or Path(path).name)
    info = artifact.get("info")
    paths = tuple(directory / name for name in artifact.get("paths", (path,)))
    return Item(str(artifact["kind"]), title, paths, (), info if isinstance(info, dict) else {})


class Results(QWidget):
    """The list of results and the view of the one chosen."""

    shown = Signal(str)  # kind of what is shown now

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("resultsView")
        self._background = Background(self)
        self.history: History | None = None
        self._seen: object = None
        self._job = ""
        self._outputs: list[dict[str, Any]] = []  # of a job that reports nothing
        self.tree = QTreeWidget()
        self.tree.setObjectName("resultList")
        self.tree.setAccessibleName("Results")
        self.tree.setHeaderHidden(True)
        self.tree.setRootIsDecorated(False)
        self.tree.setIndentation(0)
        self.tree.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.tree.setMinimumWidth(150)
        self.tree.currentItemChanged.connect(self._chosen)
        self.viewer = Viewer()
        self.picture = ImageView()
        self.latents = LatentPanel()
        self.table = QTableWidget(0, 2)
        self.table.setAccessibleName("Summary")
        self.table.horizontalHeader().hide()
        self.table.verticalHeader().hide()
        self.table.setShowGrid(False)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.report = QTextBrowser()
        self.report.setAccessibleName("Report")
        self.report.setProperty("role", "plain")
        self.report.setOpenLinks(False)
        self.report.document().setDocumentMargin(20)
        self.images = StackView()
        self.problem = EmptyState("warning", "This could not be shown", "")
        self.stack = QStackedWidget()
        pages = (self.viewer, self.picture, self.latents, self.images, self.table, self.report, self.problem)
        for page in pages:
            self.stack.addWidget(page)
        side, main = frame("card"), frame("card")
        side.setLayout(column(self.tree, margins=(8, 8, 4, 8)))
        main.setLayout(column(self.stack, margins=(1, 1, 1, 1)))
        self.split = QSplitter()
        self.split.addWidget(side)
        self.split.addWidget(main)
        self.split.setStretchFactor(1, 1)
        self.split.setSizes([246, 764])
        self.split.setHandleWidth(12)
        self.split.setStyleSheet("QSplitter::handle { background: transparent; }")
        self.empty = EmptyState(
            "cube", "No results yet", "Volumes, Gaussians and plots appear here as the job writes them."
        )
        layout = column(spacing=0, margins=(20, 14, 20, 16))
        layout.addWidget(self.split, 1)
        layout.addWidget(self.empty, 1)
        self.setLayout(layout)
        theme.changed.connect(self._restyle)

    def set_job(self, model: ProjectModel, info: JobInfo) -> None:
        """Show another job's results."""
        self.history = model.history(info.name)
        self._job, self._seen, self._outputs = info.name, None, []
        if not info.has_options:  # it reports nothing: what the project's graph says that it made is shown
            name = info.name
            model.ask("outputs", lambda p: (name, p.outputs(name)), self._take_outputs, self._background)
        for reading in READINGS:
            self._background.cancel(reading)
        self.tree.clear()
        self.viewer.clear()
        self.stack.setCurrentWidget(self.viewer)
        self.refresh()

    def refresh(self) -> bool:
        """Show new artifacts; True if there were any."""
        if self.history is None:
            return False
        artifacts = self.history.artifacts_of(*(kind for _, kinds, _ in SECTIONS for kind in kinds)) or self._outputs
        artifacts = [*artifacts, *self._reports(artifacts)]
        state = [(a["path"], a.get("t")) for a in artifacts]
        if state == self._seen:
            return False
        self._seen = state
        self._fill(items(artifacts, self.history.directory))
        return True

    def _reports(self, artifacts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The report in words that lies beside a summary."""
        assert self.history is not None
        beside = {Path(str(a["path"])).with_name("report.md") for a in artifacts if a.get("kind") == "summary"}
        there = sorted(path for path in beside if (self.history.directory / path).is_file())
        return [{"kind": "summary", "path": str(path), "label": "report"} for path in there]

    def _take_outputs(self, found: tuple[str, list[Choice]] | None) -> None:
        if found is not None and found[0] == self._job:
            self._outputs = artifacts_of(found[1], found[0])
            self.refresh()

    def _fill(self, found: dict[str, list[Item]]) -> None:
        chosen = self.tree.currentItem().data(0, Qt.ItemDataRole.UserRole) if self.tree.currentItem() else None
        self.tree.blockSignals(True)
        self.tree.clear()
        again: QTreeWidgetItem | None = None
        first: QTreeWidgetItem | None = None
        for section, _, icon in SECTIONS:
            if section not in found:
                continue
            head = QTreeWidgetItem([section.upper()])
            head.setFlags(Qt.ItemFlag.ItemIsEnabled)
            head.setForeground(0, _brush("faint"))
            font = head.font(0)
            font.setPointSizeF(8.5)
            head.setFont(0, font)
            self.tree.addTopLevelItem(head)
            for item in found[section]:
                node = QTreeWidgetItem([sentence(item.title)])
                node.setIcon(0, theme.icon(icon))
                node.setData(0, Qt.ItemDataRole.UserRole, item)
                node.setToolTip(0, plain("\n".join(str(p) for p in item.paths[:4])))
                head.addChild(node)
                first = first or node
                again = node if item == chosen else again
            head.setExpanded(True)
        self.tree.blockSignals(False)
        self.split.setVisible(first is not None)
        self.empty.setVisible(first is None)
        if again is not None:
            self.tree.blockSignals(True)
            self.tree.setCurrentItem(again)
            self.tree.blockSignals(False)
        else:
            QTimer.singleShot(0, self, self._show_first)  # once the list is drawn: a first picture takes longer

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        QTimer.singleShot(0, self, self._show_first)

    def _show_first(self) -> None:
        if not self.isVisible():
            return
        head = self.tree.topLevelItem(0)
        first = head.child(0) if head is not None else None
        if self.tree.currentItem() is None and first is not None:
            self.tree.setCurrentItem(first)

    def choose(self, test: Callable[[Item], bool]) -> bool:
        """Show the first result that passes ``test``; False if there is none."""
        for place in range(self.tree.topLevelItemCount()):
            head = self.tree.topLevelItem(place)
            for number in range(head.childCount()):
                node = head.child(number)
                if node is not None and test(node.data(0, Qt.ItemDataRole.UserRole)):
                    self.tree.setCurrentItem(node)
                    return True
        return False

    def _chosen(self, node: QTreeWidgetItem | None, _before: object = None) -> None:
        item = node.data(0, Qt.ItemDataRole.UserRole) if node is not None else None
        if isinstance(item, Item):
            self.show_item(item)

    def show_file(self, path: Path, kind: str) -> None:
        """Show a file, of a ``kind`` of SECTIONS, that need not be one of the results."""
        if not self.choose(lambda item: item.kind != "volume_series" and path in item.paths):
            self.split.show()
            self.empty.hide()
            self.tree.clearSelection()
            self.show_item(Item(kind, path.name, (path,)))

    def show_item(self, item: Item) -> None:
        """Show one result; what is still being read for one chosen before is dropped."""
        path = item.paths[0]
        for reading in READINGS:
            self._background.cancel(reading)
        if item.kind in SECTIONS[0][1]:
            self._volumes([path], None)
        elif item.kind == "volume_series":
            self._series(item)
        elif item.kind == "gaussians":
            self.stack.setCurrentWidget(self.viewer)
            self.viewer.show_gaussians(path, alone=True)
        elif item.kind == "plot":
            self._background.run("picture", lambda: read_image(path), lambda image: self._take_image(path, image))
        elif item.kind == "latents":
            self._background.run(
                "latents", lambda: latent_columns(path), self._take_latents, lambda e: self._problem(str(e))
            )
        elif item.kind in ("stack", "particles"):
            self.images.show_stack(path)
            self.stack.setCurrentWidget(self.images)
        elif item.kind == "summary" and path.suffix == ".md":
            self._background.run("report", lambda: read_text(path), self._take_report, lambda e: self._problem(str(e)))
        elif item.kind == "summary":
            self._background.run("table", lambda: read_table(path), self._take_table)
        self.shown.emit(item.kind)

    def _series(self, item: Item) -> None:
        if len(item.paths) > 1:
            self._volumes(list(item.paths), list(item.names) or None)
            return
        folder = item.paths[0]
        self._background.run(
            "series",
            lambda: series(folder),
            lambda paths: self._volumes(paths, None) if paths else self._problem(f"There are no volumes in {folder}."),
        )

    def _volumes(self, paths: list[Path], names: list[str] | None) -> None:
        self.stack.setCurrentWidget(self.viewer)
        self.viewer.show_volumes(paths, names)
        self.viewer.offer_maps(self._maps())
        gaussians = self.history.artifacts_of("gaussians") if self.history is not None else []
        beside = [self.history.directory / str(a["path"]) for a in gaussians] if self.history is not None else []
        self.viewer.show_gaussians(beside[0] if len(beside) == 1 else None)

    def _maps(self) -> list[tuple[str, Path]]:
        """All single maps of the job, and those of its classes."""
        found = []
        for place in range(self.tree.topLevelItemCount()):
            head = self.tree.topLevelItem(place)
            for number in range(head.childCount()):
                item = head.child(number).data(0, Qt.ItemDataRole.UserRole)
                if item.kind in SECTIONS[0][1] or (item.kind == "volume_series" and item.names):
                    found += list(zip(item.names or (sentence(item.title),), item.paths))
        return found

    def _take_image(self, path: Path, image: QImage) -> None:
        if image.isNull():
            self._problem(f"{path} is no picture that can be read.")
            return
        self.picture.set_image(image, figure=path.suffix == ".png" and not image.text(WITH_IMAGES))
        self.stack.setCurrentWidget(self.picture)

    def _take_latents(self, found: tuple[dict[str, np.ndarray], np.ndarray | None]) -> None:
        if not found[0]:
            self._problem(NO_LATENTS, "Nothing stands above the noise")
            return
        self.latents.set_table(*found)
        self.stack.setCurrentWidget(self.latents)

    def _take_table(self, values: dict[str, object]) -> None:
        self.table.setRowCount(len(values))
        for number, (name, value) in enumerate(values.items()):
            self.table.setItem(number, 0, QTableWidgetItem(sentence(name.replace("_", " "))))
            self.table.setItem(number, 1, QTableWidgetItem(str(value)))
        self.stack.setCurrentWidget(self.table)

    def _take_report(self, text: str) -> None:
        self.report.setMarkdown(text)
        self.stack.setCurrentWidget(self.report)

    def _problem(self, text: str, title: str = "This could not be shown") -> None:
        self.problem.set_text(title, text)
        self.stack.setCurrentWidget(self.problem)

    def _restyle(self) -> None:
        self._seen = None


def _brush(name: str) -> QBrush:
    return QBrush(QColor(theme.colour(name)))
