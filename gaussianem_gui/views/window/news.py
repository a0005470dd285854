"""What the window tells without being asked: jobs that have ended, sweeps, a disk that fills up."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QApplication, QSystemTrayIcon

from gaussianem_gui.execution.estimates import disk_warning
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import JobInfo
from gaussianem_gui.units import bytes_text
from gaussianem_gui.views.project_model import job_label, state_word
from gaussianem_gui.views.toolkit.theme import STATES
from gaussianem_gui.views.window.context import WindowContext
from gaussianem_gui.views.window.sweeps import Sweeps

KINDS = {State.SUCCEEDED: "success", State.FAILED: "danger"}


class News(QObject):
    """Notes in the window's corner, and of the desktop while the window is not in front."""

    comparisonWanted = Signal(list)  # names of the jobs of a sweep

    def __init__(self, context: WindowContext) -> None:
        super().__init__(context)
        self.context = context
        self.sweeps = Sweeps(self)
        self.sweeps.ended.connect(self._sweep_ended)
        self._disk_warned = False
        self._tray: QSystemTrayIcon | None = None

    def job_ended(self, info: JobInfo) -> None:
        """Tell that a job has ended; one that succeeded as part of a sweep is told with the sweep."""
        if info.name in self.sweeps and info.status.state is State.SUCCEEDED:
            return
        context = self.context
        title = f"{job_label(info)} {STATES[state_word(info)][2].lower()}"
        context.toasts.show_toast(
            KINDS.get(info.status.state, "warning"),
            title,
            info.status.detail,
            7,
            "" if context.job_shown() == info.name else "Show it",
            lambda: context.jobWanted.emit(info.name, ""),
        )
        self._notify(title, info.status.detail)

    def _notify(self, title: str, text: str) -> None:
        """Tell the desktop, when the window is not in front."""
        window = self.context.window
        if not self.context.settings.get("notify"):
            return
        QApplication.alert(window)
        if QSystemTrayIcon.isSystemTrayAvailable() and not window.isActiveWindow():
            if self._tray is None:
                self._tray = QSystemTrayIcon(window.windowIcon(), self)
                self._tray.show()
            self._tray.showMessage(title, text or "GaussianEM", window.windowIcon())

    def _sweep_ended(self, names: list[str]) -> None:
        """Open the comparison, but never over a form that the user is filling in."""
        text = f"{len(names)} jobs"
        toasts, wanted = self.context.toasts, self.comparisonWanted
        self._notify("The sweep has ended", text)
        if self.context.draft_shown():
            toasts.show_toast("success", "The sweep has ended", text, 20, "Compare them", lambda: wanted.emit(names))
            return
        wanted.emit(names)
        toasts.show_toast("success", "The sweep has ended", f"{text} are compared here.")

    def disk_fills(self) -> bool:
        """True if the project's disk is filling up; told once, until it is not any more."""
        if self.context.model is None:
            return False
        free, total = self.context.model.load.disk
        limit = float(self.context.settings.get("disk_warning_gb")) * 1e9
        warning = disk_warning(free, total) if total else ""
        if not warning and total and free < limit:
            warning = f"Only {bytes_text(free)} left on this disk. Clean up finished jobs, or empty the trash."
        if warning and not self._disk_warned:
            self.context.toasts.show_toast("warning", "The disk is filling up", warning, 15)
        self._disk_warned = bool(warning)
        return bool(warning)

    def shut_down(self) -> None:
        """Take the icon of the desktop's tray away."""
        if self._tray is not None:
            self._tray.hide()
