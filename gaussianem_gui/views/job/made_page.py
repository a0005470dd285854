"""How a job without options came about: a selection, mask or trajectory that was made in the window."""

from __future__ import annotations

from PySide6.QtWidgets import QGridLayout, QWidget

from gaussianem_gui.project.project import JobInfo, Project
from gaussianem_gui.views.project_model import ProjectModel
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.widgets import column, frame, label, scrolled

MOST_FILES = 12  # named of what it was made from, and of what it holds


class MadePage(QWidget):
    """In place of a form: what the job was made from, what it holds, and its note."""

    def __init__(self, model: ProjectModel, info: JobInfo) -> None:
        super().__init__()
        self.setObjectName("madePage")
        self._background = Background(self)
        text = "It was made at once, in the window, and has no options. To change it, make another one."
        self.facts = QGridLayout()
        self.facts.setHorizontalSpacing(18)
        self.facts.setVerticalSpacing(10)
        self.facts.setColumnStretch(1, 1)
        inside = column(label(f"How this {info.title} job was made", "heading"), spacing=10, margins=(18, 16, 18, 16))
        inside.addWidget(label(text, "muted", wrap=True))
        inside.addLayout(self.facts)
        card = frame("card")
        card.setLayout(inside)
        holder = QWidget()
        holder.setLayout(column(card, None, margins=(20, 16, 20, 16)))
        self.setLayout(column(scrolled(holder)))
        name = info.name

        def read(project: Project) -> list[tuple[str, str]]:
            made = [choice.path.removeprefix(name) for choice in project.outputs(name)]
            return [
                ("Made from", _listed(project.inputs(name)) or "files that are not of this project"),
                ("Holds", _listed(made) or "nothing that another job reads"),
                ("Note", project.job(name).note().strip() or "none"),
            ]

        model.ask(f"made-{name}", read, self._show, self._background)

    def _show(self, facts: list[tuple[str, str]] | None) -> None:
        for place, (name, text) in enumerate(facts or []):
            self.facts.addWidget(label(name, "muted"), place, 0)
            self.facts.addWidget(label(text, wrap=True, selectable=True), place, 1)


def _listed(paths: list[str]) -> str:
    more = f"\n… and {len(paths) - MOST_FILES} more" if len(paths) > MOST_FILES else ""
    return "\n".join(paths[:MOST_FILES]) + more
