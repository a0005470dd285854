"""What a user would do next with a job: buttons at the foot of its page."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFrame

from gaussianem_gui.forms.next_steps import NextStep, picture
from gaussianem_gui.views.toolkit.widgets import Elided, button, clear, label, row

ICONS = {"results": "cube", "explore": "explore", "log": "log", "clone": "clone", "continue": "continue"}


class StepsBar(QFrame):
    """The steps, and why one would take the first; hidden while there are none."""

    chosen = Signal(object)  # NextStep

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("nextSteps")
        self.setProperty("role", "footer")
        self._row = row(spacing=10, margins=(20, 10, 20, 10))
        self.setLayout(self._row)

    def show_steps(self, steps: list[NextStep], *, first_is_next: bool) -> None:
        """Offer these steps, the first in the colour of what comes next if ``first_is_next``."""
        clear(self._row)
        self.setVisible(bool(steps))
        if not steps:
            return
        self._row.addWidget(label("Next", "section"))
        for place, step in enumerate(steps):
            item = button(
                step.title,
                "primary" if place == 0 and first_is_next else "",
                ICONS.get(step.kind, picture(step.job_type)),
                lambda s=step: self.chosen.emit(s),
                step.why,
                name=f"step-{step.job_type or step.kind}",
            )
            self._row.addWidget(item)
        self._row.addWidget(Elided(steps[0].why, "hint"), 1)
