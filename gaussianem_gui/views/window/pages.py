"""What stands in the middle of the window: overview, a job, the form of a new one, the comparison, the explorer."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, QTimer, QUrl, Signal
from PySide6.QtGui import QDesktopServices

from gaussianem_gui.explorer.sources import explorable
from gaussianem_gui.forms.next_steps import BEFORE, NextStep
from gaussianem_gui.project.job import State
from gaussianem_gui.views.job.compare import Compare
from gaussianem_gui.views.job.flow_page import FlowPage
from gaussianem_gui.views.plots.canvas3d import import_napari
from gaussianem_gui.views.plots.canvas_starter import know_opengl
from gaussianem_gui.views.plots.viewer_actions import viewer_actions
from gaussianem_gui.views.toolkit.notices import EmptyState
from gaussianem_gui.views.toolkit.palette_entry import PaletteEntry
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.window.context import WindowContext
from gaussianem_gui.views.window.welcome import Home, Welcome

if TYPE_CHECKING:
    from gaussianem_gui.views.explorer.page import Explorer

REFINEMENT = "Refine3D/"  # where RELION keeps particles with poses beside the one map that they make


class Pages(QObject):
    """Brings a page to the front, with what it is to show."""

    actionWanted = Signal(str)  # id of a command on the job shown

    def __init__(self, context: WindowContext) -> None:
        super().__init__(context)
        self.context = context
        self.welcome, self.home, self.compare = Welcome(), Home(), Compare()
        self.flow = FlowPage(context.jobs.list.thumbnails)
        self.explorer: Explorer | None = None
        self._building: tuple[Explorer, Iterator[None]] | None = None  # the explorer, and its parts that are to come
        self._to_explore = ""  # the job asked for last
        text = "Plots, 3D view and tools are being made. This takes a moment the first time."
        self.loading = EmptyState("explore", "Opening the explorer", text)
        self._background = Background(self)
        for page in (self.welcome, self.home, context.pane, self.compare, self.flow, self.loading):
            context.middle.addWidget(page)
        context.jobWanted.connect(self.open_job)
        context.formWanted.connect(self.new_job)
        self.home.newJobRequested.connect(self.new_job)
        self.compare.opened.connect(self.open_job)
        self.compare.closed.connect(self.show_home)
        context.pane.actionRequested.connect(self.actionWanted)
        context.pane.stepRequested.connect(self.take_step)
        self.flow.closed.connect(self.show_home)
        for jobs in (context.jobs.list, context.jobs.flow, self.flow.graph):
            jobs.opened.connect(self.open_job)
            jobs.enterPressed.connect(self._enter_job)

    def show_home(self) -> None:
        """Show the project's overview."""
        if self.context.model is not None:
            self.context.jobs.list.clearSelection()
            self.context.jobs.flow.set_current("")
            self.home.refresh(self.context.model)
            self.context.middle.setCurrentWidget(self.home)

    def open_job(self, name: str, tab: str = "") -> None:
        """Show a job, in ``tab`` if that is named; nothing if there is none of that name."""
        info = self.context.model.info(name) if self.context.model is not None else None
        if info is None or self.context.model is None:
            return
        self.context.pane.show_job(self.context.model, info, tab)
        self.context.middle.setCurrentWidget(self.context.pane)
        if self.context.jobs.list.current_job() != name:
            self.context.jobs.list.select(name)
        self.context.jobs.flow.set_current(name)

    def _enter_job(self, name: str) -> None:
        self.open_job(name)
        self.context.pane.take_keyboard()

    def new_job(
        self, job_type: str = "", values: dict[str, Any] | None = None, inputs_from: list[str] | None = None
    ) -> None:
        """Show the form of a new job; without a type the overview, where one is chosen. Without ``inputs_from`` the
        files of the newest job that fits fill it; with an empty list none do."""
        if self.context.model is None:
            return
        if not job_type:
            self.show_home()
            return
        self.context.jobs.list.clearSelection()
        self.context.jobs.flow.set_current("")
        sources = self._likely_inputs(job_type) if inputs_from is None else inputs_from
        self.context.pane.show_new(self.context.model, job_type, values or {}, sources)
        self.context.middle.setCurrentWidget(self.context.pane)

    def _likely_inputs(self, job_type: str) -> list[str]:
        """The newest finished job that usually comes before this type; for Preprocess a refinement of RELION's too."""
        assert self.context.model is not None
        for info in reversed(self.context.model.jobs):
            refined = job_type == "preprocess" and info.name.startswith(REFINEMENT)
            if (refined or info.job_type == BEFORE.get(job_type)) and info.status.state is State.SUCCEEDED:
                return [info.name]
        return []

    def explore_current(self) -> None:
        """Explore the job that is shown or selected, else the newest that can be."""
        if self.context.model is None:
            return
        names = (
            [self.context.pane.name]
            if self.context.middle.currentWidget() is self.context.pane
            else self.context.jobs.list.selected()
        )
        names += [info.name for info in reversed(self.context.model.jobs)]
        for name in names:
            info = self.context.model.info(name)
            if info is None or info.missing:
                continue
            if explorable(self.context.model.project, name, info.job_type):
                self.open_explorer(name)
                return
        self.context.toasts.show_toast(
            "info", "Nothing to explore yet", "Train first: the explorer shows a job's latents."
        )

    def open_explorer(self, name: str) -> None:
        """Show the latent explorer on a Train, Analyze or Decode job, or an Import job with latents; it is built when
        first asked for."""
        if self.context.model is None:
            return
        self._to_explore = name
        if self.explorer is not None:
            self._show_explorer()
            return
        self.context.middle.setCurrentWidget(self.loading)  # at once: libraries and widgets take a moment
        self._background.run("explorer", _import_explorer, lambda _r: self._explorer_loaded())

    def _explorer_loaded(self) -> None:
        if self._building is None and self.explorer is None:
            from gaussianem_gui.views.explorer.page import Explorer

            explorer = Explorer()
            self.context.middle.addWidget(explorer)
            self._building = explorer, explorer.parts()
            self._build_on()

    def _build_on(self) -> None:
        """One part of the explorer, and the next when the window has done what waits."""
        assert self._building is not None
        explorer, parts = self._building
        for _ in parts:
            QTimer.singleShot(0, self, self._build_on)
            return
        self.explorer, self._building = explorer, None
        session = explorer.session
        explorer.closed.connect(lambda job: self.open_job(job) if job else self.show_home())
        session.noted.connect(
            lambda kind, title, text: self.context.toasts.show_toast(kind, title, text, 5 if kind == "success" else 10)
        )
        session.morphRequested.connect(lambda job: self.new_job("morph", {"z": f"{job}z.txt"}, [session.job]))
        session.reconstructRequested.connect(lambda values: self.new_job("reconstruct", values, []))
        if self.context.middle.currentWidget() is self.loading:  # else the user has gone elsewhere meanwhile
            self._show_explorer()

    def _show_explorer(self) -> None:
        explorer = self.explorer
        if self.context.model is None or explorer is None:
            return
        explorer.open(self.context.model, self._to_explore)
        self.context.middle.setCurrentWidget(explorer)
        if self.context.jobs.list.current_job() != self._to_explore:
            self.context.jobs.list.select(self._to_explore)
        self.context.jobs.flow.set_current(self._to_explore)

    def show_flow(self) -> None:
        """Show the flow of jobs as a page, all of it in view."""
        if self.context.model is not None:
            self.context.middle.setCurrentWidget(self.flow)
            self.flow.graph.set_current(self.context.job_shown())
            self.flow.graph.fit()

    def compare_selected(self) -> None:
        """Compare the jobs selected in the list; says how to select where there are fewer than two."""
        names = self.context.jobs.list.selected()
        if len(names) < 2:
            text = "Hold Ctrl and click jobs in the list, then compare them."
            self.context.toasts.show_toast("info", "Select several jobs", text)
            return
        self.show_comparison(names)

    def show_comparison(self, names: list[str]) -> None:
        """Compare the jobs of these names, trainings first."""
        if self.context.model is not None:
            infos = [info for name in names if (info := self.context.model.info(name)) is not None]
            infos.sort(key=lambda info: info.job_type != "train")  # those that have curves first
            self.compare.set_jobs(self.context.model, [info.name for info in infos])
            self.context.middle.setCurrentWidget(self.compare)

    def take_step(self, step: NextStep) -> None:
        """Do the next step that the user chose for the job shown."""
        if step.kind == "job":
            self.new_job(step.job_type, {}, [self.context.pane.name] if self.context.pane.name else None)
        elif step.kind == "results":
            self.context.pane.show_tab("Results")
            self.context.pane.results.choose(lambda item: item.kind in ("volume_series", "volume"))
        elif step.kind == "explore":
            self.open_explorer(self.context.pane.name)
        elif step.kind == "report":
            self.open_report(self.context.pane.name)
        elif step.kind == "log":
            self.context.pane.show_tab("Log")
            self.context.pane.log.show_errors()
        else:
            self.actionWanted.emit(step.kind)

    def open_report(self, name: str) -> None:
        """Show an analysis's report.html in the browser; where there is none, as of an older analysis, it is made
        first."""
        if self.context.model is None:
            return
        directory = self.context.model.root / name

        def there() -> Path:
            from gaussianem_core.analysis.html_report import NAME, write_html_report  # its libraries take a moment

            path = directory / NAME
            return path if path.is_file() else write_html_report(directory)

        self._background.run(
            "report",
            there,
            lambda path: QDesktopServices.openUrl(QUrl.fromLocalFile(str(path))),
            lambda error: self.context.toasts.show_toast("danger", "There is no report", str(error)),
        )

    def refresh(self) -> None:
        """Follow what the page in front shows; call from a timer."""
        page = self.context.middle.currentWidget()
        if page is self.context.pane:
            self.context.pane.refresh()
        elif page is self.compare:
            self.compare.refresh()

    def actions(self) -> list[PaletteEntry]:
        """What can be done in the page in front, for the palette."""
        page, pane = self.context.middle.currentWidget(), self.context.pane
        if self.explorer is not None and page is self.explorer:
            return self.explorer.actions()
        if page is pane and pane.tab() == "Results" and pane.results.viewer.isVisible():
            return viewer_actions(pane.results.viewer)
        return []

    def load_in_background(self) -> None:
        """Load what the explorer and the 3D view need while the user looks around: both then open at once."""
        self._background.run("libraries", _import_slow, lambda _r: None, lambda _e: None)  # tried again when needed

    def leave_project(self) -> None:
        """Keep the notes of the job shown, and let go of the project's jobs."""
        self.context.pane.notes.keep()
        self.context.pane.name = ""
        if self.explorer is not None:
            self.explorer.session.leave()

    def shut_down(self) -> None:
        """Let go of the canvases; call before the window goes."""
        self.context.pane.shut_down()
        if self.explorer is not None:
            self.explorer.shut_down()


def _import_slow() -> None:
    """For a worker: the explorer's libraries, the 3D view's, and who draws it."""
    _import_explorer()
    import_napari()
    know_opengl()


def _import_explorer() -> None:
    """The slow libraries behind the explorer, in a worker; widgets are made on the window's thread afterwards."""
    rooms = (
        "gaussianem_gui.explorer.particle_columns",
        "gaussianem_core.analysis.latent_density",
        "gaussianem_core.analysis.latent_paths",
        "gaussianem_gui.explorer.mask_job",
        "gaussianem_core.analysis.landscape",
        "gaussianem_gui.views.explorer.page",
    )
    for name in rooms:
        importlib.import_module(name)
