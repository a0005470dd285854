"""The dock of jobs at the left."""

from __future__ import annotations

from PySide6.QtCore import QSize
from PySide6.QtWidgets import QLineEdit, QStackedWidget, QWidget

from gaussianem_gui.views.job.flow_graph import FlowGraph
from gaussianem_gui.views.job.job_list import JobList
from gaussianem_gui.views.toolkit.widgets import button, column, icon_button, label, row


class JobsPanel(QWidget):
    """New job, filter, and the jobs as a list or a flow."""

    def __init__(self) -> None:
        super().__init__()
        self.new = button("New job", "primary", "plus", None, "Start a job (Ctrl+N)", name="newJob")
        self.new.setProperty("menu", True)
        self.flow_button = icon_button("graph", "Show as a flow graph (Ctrl+G)", checkable=True, name="flowButton")
        tip = "The flow graph as a page, with room and zoom (Ctrl+Shift+G)"
        self.page_button = icon_button("external", tip, None, name="flowPageButton")
        self.page_button.hide()
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("Find a job")
        self.filter.setToolTip("Enter opens the first job found")
        self.filter.setAccessibleName("Find a job")
        self.filter.setClearButtonEnabled(True)
        self.filter.setObjectName("jobFilter")
        self.list = JobList()
        self.flow = FlowGraph(self.list.thumbnails)
        self.stack = QStackedWidget()
        self.stack.addWidget(self.list)
        self.stack.addWidget(self.flow)
        self.note = label("No jobs yet.", "muted", wrap=True)
        self.note.setContentsMargins(16, 4, 16, 4)
        head = row(self.new, self.flow_button, self.page_button, spacing=6)
        head.setStretch(0, 1)
        tools = column(spacing=8, margins=(10, 10, 10, 6))
        tools.addLayout(head)
        tools.addWidget(self.filter)
        layout = column(spacing=0)
        layout.addLayout(tools)
        layout.addWidget(self.note)
        layout.addWidget(self.stack, 1)
        self.setLayout(layout)
        self.setMinimumWidth(250)
        self.filter.textChanged.connect(self.list.filter.set_text)
        self.filter.textChanged.connect(lambda _t: self.list.expandAll())
        self.filter.returnPressed.connect(self._open_first)
        self.flow_button.toggled.connect(lambda on: self.stack.setCurrentIndex(int(on)))
        self.flow_button.toggled.connect(self.page_button.setVisible)

    def _open_first(self) -> None:
        if (name := self.list.first_job()) and self.filter.text():
            self.list.enterPressed.emit(name)

    def sizeHint(self) -> QSize:
        return QSize(288, 500)
