"""The flow of jobs as a page of its own, with its zoom in plain sight."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFrame, QWidget

from gaussianem_gui.views.job.flow_graph import FlowGraph
from gaussianem_gui.views.job.thumbnails import Thumbnails
from gaussianem_gui.views.toolkit.widgets import column, icon_button, label, row

STEP = 1.25


class FlowPage(QWidget):
    """The graph with room; ``closed`` when the user is done with it."""

    closed = Signal()

    def __init__(self, thumbnails: Thumbnails) -> None:
        super().__init__()
        self.setObjectName("flowPage")
        self.graph = FlowGraph(thumbnails)
        self.graph.setObjectName("flowGraphPage")
        self.percent = label("", "muted")
        self.percent.setMinimumWidth(44)
        head = QFrame()
        head.setProperty("role", "header")
        parts = row(
            label("Flow of jobs", "title"),
            label("Who reads whose files. A click opens a job.", "muted"),
            None,
            icon_button("minus", "Smaller (Ctrl and the wheel)", lambda: self.graph.zoom(1 / STEP), name="zoomOut"),
            self.percent,
            icon_button("plus", "Larger (Ctrl and the wheel)", lambda: self.graph.zoom(STEP), name="zoomIn"),
            icon_button("fit", "Show all of it", self.graph.fit, name="zoomFit"),
            icon_button("x", "Back to the overview", self.closed.emit, name="closeFlow"),
            spacing=10,
            margins=(20, 11, 16, 9),
        )
        head.setLayout(parts)
        layout = column(head, spacing=0)
        layout.addWidget(self.graph, 1)
        self.setLayout(layout)
        self.graph.zoomed.connect(lambda factor: self.percent.setText(f"{100 * factor:.0f} %"))
        self.graph.zoom(1.0)
