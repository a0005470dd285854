"""The stages of a job, one after the other: what is done, what goes on, what is to come."""

from __future__ import annotations

from typing import Any

from PySide6.QtWidgets import QLabel, QWidget

from gaussianem_gui.execution.history import History
from gaussianem_gui.forms.stage_words import stage_words
from gaussianem_gui.views.toolkit.controls import Flow
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import label, row

ICONS = {"done": ("check", "success"), "now": ("play", "accent"), "later": ("clock", "faint")}


def stages_of(history: History, finished: bool) -> list[tuple[str, str, str]]:
    """(words; "done", "now" or "later"; how much of it in %, while it is now) of each stage of the job's plan, in
    order. Neighbours of the same words are one."""
    reached = [history.progress_by_stage.get(stage) for stage in history.plan]
    last = max((place for place, progress in enumerate(reached) if progress), default=-1)
    found: list[tuple[str, str, str]] = []
    for place, (stage, progress) in enumerate(zip(history.plan, reached)):
        words = stage_words(stage)
        if found and found[-1][0] == words:
            continue
        state = "done" if finished or place < last else "now" if place == last else "later"
        found.append((words, state, _share(progress) if state == "now" else ""))
    return found


def _share(progress: dict[str, Any] | None) -> str:
    done, total = (progress or {}).get("done"), (progress or {}).get("total")
    return f"{100 * min(float(done) / float(total), 1.0):.0f} %" if done is not None and total else ""


class StageList(QWidget):
    """The stages as words with a sign each, in rows that wrap."""

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName("Stages of the job")
        self.shown: list[tuple[str, str, str]] = []
        self._flow = Flow(14)
        self.setLayout(self._flow)
        theme.changed.connect(lambda: self.show_stages([]))

    def show_stages(self, stages: list[tuple[str, str, str]]) -> None:
        """Show stages as ``stages_of`` gives them; nothing is redrawn while they are the same."""
        if stages == self.shown:
            return
        self.shown = stages
        while (item := self._flow.takeAt(0)) is not None:
            if item.widget() is not None:
                item.widget().deleteLater()
        for words, state, share in stages:
            icon, tint = ICONS[state]
            sign = QLabel()
            sign.setPixmap(theme.pixmap(icon, tint, 14))
            part = QWidget()
            text = label(f"{words}  {share}".strip(), "label" if state == "now" else "muted")
            part.setLayout(row(sign, text, spacing=5))
            part.setAccessibleName(f"{words}: {state}")
            self._flow.addWidget(part)
        self.setVisible(bool(stages))
