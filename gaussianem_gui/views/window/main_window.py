"""The main window: project bar, docks, the middle with its pages, and the commands that act on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from PySide6.QtCore import QByteArray, QPoint, QSettings, Qt, QThreadPool, QTimer
from PySide6.QtGui import QCloseEvent, QIcon
from PySide6.QtWidgets import QDockWidget, QMainWindow, QMenu, QWidget

from gaussianem_core.errors import InputError
from gaussianem_core.options import JOB_OPTIONS
from gaussianem_gui.execution.history import Watcher
from gaussianem_gui.forms.next_steps import ORDER, picture
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import Project, recent_projects, remember_project
from gaussianem_gui.project.settings import Settings
from gaussianem_gui.units import bytes_text, count_text
from gaussianem_gui.views.plots.opengl_probe import probe
from gaussianem_gui.views.project_model import ProjectModel
from gaussianem_gui.views.toolkit.palette_entry import PaletteEntry
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import logo, theme
from gaussianem_gui.views.toolkit.widgets import button, label
from gaussianem_gui.views.window.about import about
from gaussianem_gui.views.window.command import Command, Commands, always
from gaussianem_gui.views.window.context import WindowContext
from gaussianem_gui.views.window.guide import Guide
from gaussianem_gui.views.window.job_actions import JobActions
from gaussianem_gui.views.window.job_menu import job_menu
from gaussianem_gui.views.window.machine import MachinePanel
from gaussianem_gui.views.window.news import News
from gaussianem_gui.views.window.pages import Pages
from gaussianem_gui.views.window.palette import Palette
from gaussianem_gui.views.window.palette_jobs import job_entries
from gaussianem_gui.views.window.project_actions import ProjectActions
from gaussianem_gui.views.window.project_bar import ProjectBar
from gaussianem_gui.views.window.sweeps import settings_key
from gaussianem_gui.views.window.view_actions import VIEW_ACTIONS

LIVE_MILLISECONDS = 250
LAYOUT_VERSION = 1


class MainWindow(QMainWindow):
    """The main window; it builds docks, pages and commands, and opens and closes projects (``open_project``)."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__()
        self.setObjectName("mainWindow")
        self.setWindowTitle("GaussianEM")
        self.setWindowIcon(QIcon(logo(64)))
        self.resize(1320, 840)
        self.setMinimumSize(960, 600)
        self.context = context = WindowContext(self, settings or Settings())
        self.guard, self.toasts = context.guard, context.toasts
        self.jobs, self.pane, self.middle = context.jobs, context.pane, context.middle
        self.watcher = Watcher(float(context.settings.get("poll_seconds")))
        self.news = News(context)
        self.job_actions, self.project_actions = JobActions(context), ProjectActions(context)
        self.commands = Commands(self, self._refused)
        self.pages = Pages(context)
        self._background = Background(self)
        self._awaited = ("", "")  # a job to show, and its tab, as soon as the list has it
        self._last_job = ""  # shown when this project was closed

        self.setCentralWidget(self.middle)
        self._build_docks()
        self._build_commands()
        self.bar = ProjectBar(self.commands, self.open_project)
        self.addToolBar(self.bar)
        self._build_status()
        self._connect()
        self._timer = QTimer(self)
        self._timer.timeout.connect(self.pages.refresh)
        self._timer.start(LIVE_MILLISECONDS)
        self._default_state = self.saveState(LAYOUT_VERSION)
        self._restore_layout()
        self._show_project_state()

    @property
    def model(self) -> ProjectModel | None:
        """The open project, None if there is none."""
        return self.context.model

    @property
    def settings(self) -> Settings:
        """Settings of the project opened last, or of the program before one was opened."""
        return self.context.settings

    # --- building --------------------------------------------------------------------------------------------------

    def _build_docks(self) -> None:
        self.setDockNestingEnabled(True)
        self.machine = MachinePanel()
        self.jobs_dock = self._dock("Jobs", "jobsDock", self.jobs)
        self.machine_dock = self._dock("This computer", "machineDock", self.machine)
        self.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, self.jobs_dock)
        self.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, self.machine_dock)
        self.resizeDocks([self.jobs_dock, self.machine_dock], [600, 150], Qt.Orientation.Vertical)
        self.resizeDocks([self.jobs_dock], [290], Qt.Orientation.Horizontal)
        menu = QMenu(self.jobs.new)
        for job_type in ("import", *ORDER):
            if job_type in JOB_OPTIONS:
                entry = menu.addAction(theme.icon(picture(job_type)), JOB_OPTIONS[job_type].title)
                entry.triggered.connect(lambda _c=False, t=job_type: self.pages.new_job(t))
        menu.addSeparator()
        menu.addAction(theme.icon("graph"), "Start workflow …", self.project_actions.show_workflow)
        self.jobs.new.setMenu(menu)

    def _dock(self, title: str, name: str, widget: QWidget) -> QDockWidget:
        dock = QDockWidget(title, self)
        dock.setObjectName(name)
        dock.setWidget(widget)
        return dock

    def _build_commands(self) -> None:
        self.commands.add(self.project_actions.commands())
        self.commands.add(self.job_actions.commands())
        self.commands.add(self._view_commands())
        self.commands.fill(self.menuBar())
        view = self.commands.menus["View"]
        view.addSeparator()
        for dock in (self.jobs_dock, self.machine_dock):
            view.addAction(dock.toggleViewAction())

    def _view_commands(self) -> list[Command]:
        """What concerns the window itself."""
        project = self.project_actions
        runs: dict[str, Callable[[], object]] = {
            "palette": self.show_palette,
            "home": self.pages.show_home,
            "compare": self.pages.compare_selected,
            "explore": self.pages.explore_current,
            "by_type": self.toggle_by_type,
            "flow": self.jobs.flow_button.toggle,
            "flow_page": self.pages.show_flow,
            "find": self.find_job,
            "theme": self.toggle_theme,
            "reset_layout": self.reset_layout,
            "settings": project.show_settings,
            "guide": self.show_guide,
            "leftovers": project.show_leftovers,
            "demo": project.ask_demo,
            "close_project": self.close_project,
            "quit": self.close,
            "about": self.show_about,
            "save_workflow": project.save_workflow,
        }
        return [
            Command(
                view.id,
                view.text,
                view.shortcut,
                view.tip,
                view.menu,
                view.icon,
                runs[view.id],
                always if view.always else self.context.no_project,
                view.parted,
            )
            for view in VIEW_ACTIONS
        ]

    def _build_status(self) -> None:
        self.running_label = label("")
        self.running_label.setContentsMargins(10, 0, 0, 0)
        tip = "Disk use; open the panel of this computer"
        self.disk_button = button("", "link", "", lambda: self.machine_dock.setVisible(True), tip)
        self.statusBar().addWidget(self.running_label)
        self.statusBar().addPermanentWidget(self.disk_button)
        self.statusBar().setSizeGripEnabled(False)

    def _connect(self) -> None:
        context, project = self.context, self.project_actions
        context.awaited.connect(self._await)
        self.news.comparisonWanted.connect(self.pages.show_comparison)
        self.pages.actionWanted.connect(self.trigger)
        project.chosen.connect(self.open_project)
        project.demoBegins.connect(lambda: self.pages.welcome.setEnabled(False))
        project.demoEnds.connect(lambda: self.pages.welcome.setEnabled(True))
        self.pages.welcome.demoRequested.connect(project.ask_demo)
        self.pages.welcome.openRequested.connect(project.ask_open)
        self.pages.welcome.newRequested.connect(project.ask_new)
        self.pages.welcome.recentChosen.connect(self.open_project)
        self.pages.welcome.guideRequested.connect(self.show_guide)
        self.pages.home.workflowRequested.connect(project.show_workflow)
        self.pages.home.exploreRequested.connect(self.pages.explore_current)
        self.pane.renamed.connect(self.job_actions.rename)
        self.pane.moreRequested.connect(self._job_menu)
        self.jobs.page_button.clicked.connect(self.pages.show_flow)
        for jobs in (self.jobs.list, self.jobs.flow, self.pages.flow.graph):
            jobs.menuRequested.connect(self._job_menu)

    # --- project ---------------------------------------------------------------------------------------------------

    def open_project(self, path: Path | str) -> bool:
        """Open a project; False (and a message) if that is not possible."""
        try:
            project = Project.open(path)
        except InputError as error:
            self.context.show_problem("Open the project", error)
            return False
        self._leave_project()
        self.context.settings = Settings(project.root)
        self.context.model = model = ProjectModel(project, self.watcher, self.context.settings, self)
        model.jobsChanged.connect(self._jobs_changed)
        model.loadChanged.connect(self._load_changed)
        model.sizesChanged.connect(self._sizes_changed)
        model.jobEnded.connect(self.news.job_ended)
        model.submitted.connect(self._submitted)
        model.failed.connect(self.context.show_problem)
        model.noted.connect(lambda text: self.toasts.show_toast("info", "Project", text, 12))
        self.jobs.list.set_model(model)
        self.jobs.flow.set_model(model)
        self.pages.flow.graph.set_model(model)
        remember_project(project.root)
        self.news.sweeps.open(project.root)
        self._last_job = str(QSettings().value(f"last_job/{settings_key(project.root)}", "") or "")
        self.pages.home.refresh(model)
        self.middle.setCurrentWidget(self.pages.home)
        self._show_project_state()
        return True

    def _leave_project(self) -> None:
        model = self.model
        if model is None:
            return
        closed = [dock.objectName() for dock in (self.jobs_dock, self.machine_dock) if dock.isHidden()]
        QSettings().setValue("window/hidden", closed)
        QSettings().setValue(f"last_job/{settings_key(model.root)}", self.context.job_shown())
        self.pages.leave_project()
        model.close()
        model.deleteLater()
        self.context.model = None
        self.context.settings = Settings()  # without the closed project's layer
        self.jobs.list.set_model(None)
        self.jobs.flow.set_model(None)
        self.pages.flow.graph.set_model(None)

    def close_project(self) -> None:
        """Close the project and show the first window; jobs go on."""
        self._leave_project()
        self._show_project_state()

    def _show_project_state(self) -> None:
        root = self.model.root if self.model is not None else None
        stored = QSettings().value("window/hidden", [])
        hidden = [stored] if isinstance(stored, str) else list(stored) if isinstance(stored, list | tuple) else []
        for dock in (self.jobs_dock, self.machine_dock):
            dock.setVisible(root is not None and dock.objectName() not in hidden)
        self.bar.show_project(root)
        self.setWindowTitle(f"{root.name} – GaussianEM" if root is not None else "GaussianEM")
        self.statusBar().setVisible(root is not None)
        if root is None:
            self.pages.welcome.set_recent(recent_projects())
            self.middle.setCurrentWidget(self.pages.welcome)

    # --- what follows the project ----------------------------------------------------------------------------------

    def _jobs_changed(self) -> None:
        model = self.model
        if model is None:
            return
        self.jobs.list.refresh()
        self.jobs.flow.refresh()
        self.pages.flow.graph.refresh()
        self.jobs.note.setVisible(not model.jobs)
        running = model.counts().get(State.RUNNING, 0)
        waiting = sum(1 for info in model.jobs if info.status.state is State.SCHEDULED and info.status.detail)
        parts = [
            count_text(len(model.jobs), "job"),
            f"{running} running" if running else "",
            f"{waiting} waiting" if waiting else "",
        ]
        self.running_label.setText("  ·  ".join(p for p in parts if p))
        if self.middle.currentWidget() is self.pages.home:
            self.pages.home.refresh(model)
        last, self._last_job = self._last_job, ""
        if last and model.info(last) is not None and self.middle.currentWidget() is self.pages.home:
            self.pages.open_job(last)
        shown = self.context.job_shown()
        if shown and model.info(shown) is None:
            self.pages.show_home()
        self._show_awaited()
        self.news.sweeps.look(model)

    def _await(self, name: str, tab: str) -> None:
        """Show a job as soon as the list has it: it may have it already."""
        self._awaited = (name, tab)
        self._show_awaited()

    def _show_awaited(self) -> None:
        name, tab = self._awaited
        if name and self.model is not None and self.model.info(name) is not None:
            self._awaited = ("", "")
            self.pages.open_job(name, tab)

    def _load_changed(self) -> None:
        if self.model is not None:
            self.machine.show_load(self.model.load)
            self._disk_text()
            colour = theme.colour("warning" if self.news.disk_fills() else "muted")
            self.disk_button.setStyleSheet(f"color: {colour}; margin-right: 8px;")

    def _sizes_changed(self) -> None:
        self.jobs.list.refresh()
        self._disk_text()

    def _disk_text(self) -> None:
        if self.model is not None:
            free, total = self.model.load.disk
            used = sum(self.model.sizes.values())
            text = f"Jobs {bytes_text(used)}  ·  {bytes_text(free)} free of {bytes_text(total)}"
            self.disk_button.setText(text if total else "")

    def _submitted(self, names: list[str], run: bool) -> None:
        if not names or self.model is None:
            return
        tab = "Progress" if run else "Parameters"
        if len(names) > 1:
            self.news.sweeps.add(names)
            title = f"{len(names)} jobs {'submitted' if run else 'saved for later'}"
            text = "Their comparison opens when all have ended."
            self.toasts.show_toast("success", title, text if run else f"Run them from the list. {text}")
        elif self.pane.name == names[0]:
            self.pane.reload_parameters()
            self.pane.show_tab(tab)
        if self.middle.currentWidget() is self.pane and (self.pane.draft or len(names) > 1):
            self.pane.draft = ""
            self._await(names[0], tab)
        self.model.refresh()

    # --- commands --------------------------------------------------------------------------------------------------

    def chosen(self) -> list[str]:
        """Names of the jobs that an action concerns."""
        return self.context.chosen()

    def trigger(self, identifier: str) -> None:
        """Do a command by its id, or say why it is not possible now."""
        self.commands.trigger(identifier)

    def _refused(self, command: Command, reason: str) -> None:
        title = f"{command.text.rstrip(' …')} is not possible now"
        self.toasts.show_toast("info", title, reason[:1].upper() + reason[1:] + ".")

    def _job_menu(self, place: QPoint) -> None:
        self.popup = job_menu(self.commands, self.job_actions.commands(), self, several=len(self.chosen()) > 1)
        self.popup.popup(place)

    def palette_entries(self) -> list[PaletteEntry]:
        """Everything that the command palette offers: jobs, what the page in front can do, commands, recent
        projects."""
        found = [*job_entries(self.context, self.pages), *self.pages.actions()]
        found += [command.entry() for command in self.commands]
        for path in recent_projects():
            run = partial(self.open_project, path)
            found.append(PaletteEntry(f"Open {path.name}", str(path.parent), "folder", run))
        return found

    def show_palette(self) -> None:
        """Open the command palette."""
        self._palette = Palette(self, self.palette_entries())
        self._palette.show()

    # --- view ------------------------------------------------------------------------------------------------------

    def toggle_by_type(self) -> None:
        """Group the list of jobs by type, or show it by time."""
        self.jobs.list.tree.set_by_type(not self.jobs.list.tree.by_type)
        self.jobs.list.expandAll()

    def find_job(self) -> None:
        """Give the keyboard to the filter of the list (or of the log, when that is in front)."""
        if self.middle.currentWidget() is self.pane and self.pane.tab() == "Log":
            self.pane.log.search.setFocus()
            self.pane.log.search.selectAll()
            return
        self.jobs_dock.show()
        self.jobs.filter.setFocus()
        self.jobs.filter.selectAll()

    def toggle_theme(self) -> None:
        """Switch from dark to light or back, and keep the choice."""
        theme.apply("light" if theme.name == "dark" else "dark")
        self.settings.set("theme", theme.choice)

    def reset_layout(self) -> None:
        """Put all panels where they were at first."""
        self.restoreState(self._default_state, LAYOUT_VERSION)
        for dock in (self.jobs_dock, self.machine_dock):
            dock.setVisible(self.model is not None)

    def show_guide(self) -> None:
        """Open the guide in a window beside this one."""
        self._guide = Guide(self)
        self._guide.show()

    def show_about(self) -> None:
        """Show versions and the OpenGL renderer, which is asked first, in a process of its own."""
        self._background.run("opengl", probe, lambda found: about(self, found).exec())

    # --- begin and end ---------------------------------------------------------------------------------------------

    def _restore_layout(self) -> None:
        geometry, state = QSettings().value("window/geometry"), QSettings().value("window/state")
        if isinstance(geometry, QByteArray) and not geometry.isEmpty():
            self.restoreGeometry(geometry)
        if isinstance(state, QByteArray) and not state.isEmpty():
            self.restoreState(state, LAYOUT_VERSION)

    def closeEvent(self, event: QCloseEvent) -> None:
        if self.model is not None:
            QSettings().setValue("window/geometry", self.saveGeometry())
            QSettings().setValue("window/state", self.saveState(LAYOUT_VERSION))
        self._timer.stop()
        self._leave_project()
        self.pages.shut_down()
        self.watcher.stop()
        self.news.shut_down()
        QThreadPool.globalInstance().waitForDone(3000)
        self.guard.remove()
        super().closeEvent(event)
