"""The main window: project bar, docks, the middle with its pages, menus from tables."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QByteArray, QPoint, QSettings, Qt, QThreadPool, QTimer
from PySide6.QtGui import QAction, QCloseEvent, QIcon, QKeySequence
from PySide6.QtWidgets import (
    QApplication,
    QDockWidget,
    QFileDialog,
    QFrame,
    QLabel,
    QMainWindow,
    QMenu,
    QPushButton,
    QStackedWidget,
    QSystemTrayIcon,
    QToolBar,
    QWidget,
)

from gaussianem_core.errors import InputError
from gaussianem_core.options import JOB_OPTIONS
from gaussianem_gui.execution import workflow
from gaussianem_gui.execution.estimates import disk_warning
from gaussianem_gui.execution.history import Watcher
from gaussianem_gui.explorer.sources import EXPLORABLE
from gaussianem_gui.forms.actions import JOB_ACTIONS, PROJECT_ACTIONS, Action
from gaussianem_gui.forms.next_steps import BEFORE, ORDER, NextStep, picture, purpose
from gaussianem_gui.project import repair, trash
from gaussianem_gui.project.job import State
from gaussianem_gui.project.lock import LockHeld
from gaussianem_gui.project.project import JobInfo, Project, recent_projects, remember_project
from gaussianem_gui.project.settings import Settings
from gaussianem_gui.units import bytes_text, count_text
from gaussianem_gui.views.job.compare import Compare
from gaussianem_gui.views.job.job_pane import TABS, JobPane
from gaussianem_gui.views.job.jobs_panel import JobsPanel
from gaussianem_gui.views.plots.opengl_probe import OpenGL, probe
from gaussianem_gui.views.project_model import ProjectModel, job_label, state_word
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import STATES, logo, theme
from gaussianem_gui.views.toolkit.widgets import ToastStack, ask, button, icon_button, keep_icon, label, row
from gaussianem_gui.views.window import dialogs
from gaussianem_gui.views.window.errors import Guard, explain
from gaussianem_gui.views.window.job_actions import JobActions
from gaussianem_gui.views.window.machine import MachinePanel
from gaussianem_gui.views.window.palette import Palette, PaletteEntry
from gaussianem_gui.views.window.view_actions import ICONS, VIEW_ACTIONS
from gaussianem_gui.views.window.welcome import Home, Welcome

if TYPE_CHECKING:
    from gaussianem_gui.views.explorer.page import Explorer

LIVE_MILLISECONDS = 250
LAYOUT_VERSION = 1


class MainWindow(JobActions, QMainWindow):
    """Everything. ``open_project`` is where it begins."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__()
        self.setObjectName("mainWindow")
        self.setWindowTitle("GaussianEM")
        self.setWindowIcon(QIcon(logo(64)))
        self.resize(1320, 840)
        self.setMinimumSize(960, 600)
        self.settings = settings or Settings()
        self.watcher = Watcher(float(self.settings.get("poll_seconds")))
        self.model: ProjectModel | None = None
        self.guard = Guard(self)
        self.toasts = ToastStack(self)
        self._background = Background(self)
        self._sweeps: list[set[str]] = []
        self._swept: set[str] = set()  # jobs of sweeps: one note at the end of all says that they succeeded
        self._awaited = ("", "")  # a job to show, and its tab, as soon as the list has it
        self._last_job = ""  # shown when this project was closed
        self._disk_warned = False
        self._opengl: OpenGL | None = None
        self._tray: QSystemTrayIcon | None = None
        self.actions_by_id: dict[str, QAction] = {}

        self.explorer: Explorer | None = None
        self._build_middle()
        self._build_docks()
        self._build_menus()
        self._build_bar()
        self._build_status()
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._tick)
        self._timer.start(LIVE_MILLISECONDS)
        self._default_state = self.saveState(LAYOUT_VERSION)
        self._restore_layout()
        theme.changed.connect(self._theme_changed)
        self._show_project_state()

    # --- building --------------------------------------------------------------------------------------------------

    def _build_middle(self) -> None:
        self.welcome, self.home, self.pane, self.compare = Welcome(), Home(), JobPane(), Compare()
        self.middle = QStackedWidget()
        for page in (self.welcome, self.home, self.pane, self.compare):
            self.middle.addWidget(page)
        self.setCentralWidget(self.middle)
        self.welcome.demoRequested.connect(self.make_demo)
        self.welcome.openRequested.connect(self.ask_open)
        self.welcome.newRequested.connect(self.ask_new)
        self.welcome.recentChosen.connect(lambda path: self.open_project(Path(path)))
        self.welcome.guideRequested.connect(self.show_guide)
        self.home.newJobRequested.connect(self.new_job)
        self.home.workflowRequested.connect(self.show_workflow)
        self.pane.actionRequested.connect(self.trigger)
        self.pane.stepRequested.connect(self._take_step)
        self.pane.renamed.connect(self._rename)
        self.pane.moreRequested.connect(self._job_menu)
        self.compare.opened.connect(self.open_job)
        self.compare.closed.connect(self.show_home)

    def _build_docks(self) -> None:
        self.setDockNestingEnabled(True)
        self.jobs = JobsPanel()
        self.machine = MachinePanel()
        self.jobs_dock = self._dock("Jobs", "jobsDock", self.jobs)
        self.machine_dock = self._dock("This computer", "machineDock", self.machine)
        self.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, self.jobs_dock)
        self.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, self.machine_dock)
        self.resizeDocks([self.jobs_dock, self.machine_dock], [600, 150], Qt.Orientation.Vertical)
        self.resizeDocks([self.jobs_dock], [290], Qt.Orientation.Horizontal)
        self.jobs.list.opened.connect(self.open_job)
        self.jobs.flow.opened.connect(self.open_job)
        self.jobs.list.menuRequested.connect(self._job_menu)
        self.jobs.flow.menuRequested.connect(self._job_menu)
        menu = QMenu(self.jobs.new)
        for job_type in ("import", *ORDER):
            if job_type in JOB_OPTIONS:
                entry = menu.addAction(theme.icon(picture(job_type)), JOB_OPTIONS[job_type].title)
                entry.triggered.connect(lambda _c=False, t=job_type: self.new_job(t))
        menu.addSeparator()
        menu.addAction(theme.icon("graph"), "Start workflow …", self.show_workflow)
        self.jobs.new.setMenu(menu)

    def _dock(self, title: str, name: str, widget: QWidget) -> QDockWidget:
        dock = QDockWidget(title, self)
        dock.setObjectName(name)
        dock.setWidget(widget)
        return dock

    def _build_menus(self) -> None:
        menus: dict[str, QMenu] = {}
        for title in ("Project", "Job", "View", "Help"):
            menus[title] = self.menuBar().addMenu(title)
        self._menus = menus
        for action in (*PROJECT_ACTIONS, *JOB_ACTIONS):
            parent, _, child = action.menu.partition("/")
            if action.menu not in menus:
                menus[action.menu] = menus[parent].addMenu(child)
            menu = menus[action.menu]
            if action.id in ("clone", "command", "mark_succeeded", "delete", "new_job", "trash", "cluster"):
                menus[parent].addSeparator()
            self._add_action(
                menu,
                action.id,
                action.text,
                action.shortcut,
                action.tip,
                ICONS.get(action.id, "more"),
                lambda a=action: self.trigger(a.id),
            )
        for view in VIEW_ACTIONS:
            if view.id in ("save_workflow", "demo", "close_project", "reset_layout", "about"):
                menus[view.menu].addSeparator()
            self._add_action(
                menus[view.menu],
                view.id,
                view.text,
                view.shortcut,
                view.tip,
                view.icon,
                lambda v=view: getattr(self, v.handler)(),
            )
        menus["View"].addSeparator()
        for dock in (self.jobs_dock, self.machine_dock):
            menus["View"].addAction(dock.toggleViewAction())
        for title in ("Project", "Job"):
            menus[title].aboutToShow.connect(self._update_actions)

    def _add_action(
        self, menu: QMenu, identifier: str, text: str, shortcut: str, tip: str, icon: str, run: Callable[[], object]
    ) -> None:
        item = QAction(theme.icon(icon), text, self)
        if shortcut:
            item.setShortcut(QKeySequence(shortcut))
        item.setStatusTip(tip)
        item.setToolTip(tip)
        item.triggered.connect(lambda _c=False: run())
        item.setProperty("icon_name", icon)
        menu.addAction(item)
        self.addAction(item)
        self.actions_by_id[identifier] = item

    def _build_bar(self) -> None:
        bar = QToolBar("Project bar", self)
        bar.setObjectName("projectBar")
        bar.setMovable(False)
        bar.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
        holder = QFrame()
        holder.setProperty("role", "topbar")
        mark = QLabel()
        mark.setPixmap(logo(26))
        self.project_button = QPushButton("GaussianEM")
        self.project_button.setProperty("kind", "ghost")
        self.project_button.setProperty("menu", True)
        self.project_button.setObjectName("projectButton")
        self.project_button.setStyleSheet("font-weight: 600; font-size: 11pt;")
        self.project_menu = QMenu(self.project_button)
        self.project_menu.aboutToShow.connect(self._fill_project_menu)
        self.project_button.setMenu(self.project_menu)
        self.path_label = label("", "faint")
        search = button(
            "Jump to a job or action …          Ctrl+K", "search", "search", self.show_palette, name="searchButton"
        )
        keep_icon(search, "search", "faint")
        search.setMinimumWidth(310)
        search.setAccessibleName("Command palette")
        self.theme_button = icon_button("sun", "Dark or light (Ctrl+Shift+L)", self.toggle_theme, name="themeButton")
        layout = row(
            mark,
            self.project_button,
            self.path_label,
            None,
            search,
            None,
            self.theme_button,
            icon_button("settings", "Settings (Ctrl+,)", self.show_settings, name="settingsButton"),
            icon_button("book", "Guide (F1)", self.show_guide, name="guideButton"),
            spacing=8,
            margins=(14, 7, 12, 7),
        )
        holder.setLayout(layout)
        bar.addWidget(holder)
        holder.setSizePolicy(holder.sizePolicy().horizontalPolicy().Expanding, holder.sizePolicy().verticalPolicy())
        bar.layout().setContentsMargins(0, 0, 0, 0)
        self.addToolBar(bar)

    def _build_status(self) -> None:
        self.running_label = label("")
        self.lock_label = label("")
        self.running_label.setContentsMargins(10, 0, 0, 0)
        self.disk_button = button(
            "", "link", "", lambda: self.machine_dock.setVisible(True), "Disk use; open the panel of this computer"
        )
        self.statusBar().addWidget(self.running_label)
        self.statusBar().addPermanentWidget(self.lock_label)
        self.statusBar().addPermanentWidget(self.disk_button)
        self.statusBar().setSizeGripEnabled(False)

    # --- project ---------------------------------------------------------------------------------------------------

    def open_project(self, path: Path | str) -> bool:
        """Open a project; False (and a message) if that is not possible."""
        try:
            project = Project.open(path)
        except InputError as error:
            self.show_problem("Open the project", error)
            return False
        self._leave_project()
        self.settings = Settings(project.root)
        self.model = ProjectModel(project, self.watcher, self.settings, self)
        self.model.jobsChanged.connect(self._jobs_changed)
        self.model.loadChanged.connect(self._load_changed)
        self.model.sizesChanged.connect(self._sizes_changed)
        self.model.jobEnded.connect(self._job_ended)
        self.model.submitted.connect(self._submitted)
        self.model.failed.connect(self.show_problem)
        self.model.noted.connect(lambda text: self.toasts.show_toast("info", "Project", text, 12))
        self.jobs.list.set_model(self.model)
        self.jobs.flow.set_model(self.model)
        remember_project(project.root)
        self._sweeps = [set(map(str, names)) for names in _stored_list(f"sweeps/{_key(project.root)}")]
        self._swept = set().union(*self._sweeps)
        self._last_job = str(QSettings().value(f"last_job/{_key(project.root)}", "") or "")
        self.home.refresh(self.model)
        self.middle.setCurrentWidget(self.home)
        self._show_project_state()
        return True

    def _leave_project(self) -> None:
        if self.model is None:
            return
        closed = [dock.objectName() for dock in (self.jobs_dock, self.machine_dock) if dock.isHidden()]
        QSettings().setValue("window/hidden", closed)
        QSettings().setValue(
            f"last_job/{_key(self.model.root)}", self.pane.name if self.middle.currentWidget() is self.pane else ""
        )
        self.pane.notes.keep()
        self.pane.name = ""
        if self.explorer is not None:
            self.explorer.session.leave()
        self.model.close()
        self.model.deleteLater()
        self.model = None
        self.jobs.list.set_model(None)
        self.jobs.flow.set_model(None)

    def close_project(self) -> None:
        """Back to the first window."""
        self._leave_project()
        self._show_project_state()

    def _show_project_state(self) -> None:
        opened = self.model is not None
        stored = QSettings().value("window/hidden", [])
        hidden = [stored] if isinstance(stored, str) else list(stored) if isinstance(stored, list | tuple) else []
        for dock in (self.jobs_dock, self.machine_dock):
            dock.setVisible(opened and dock.objectName() not in hidden)
        self.project_button.setText(self.model.root.name if self.model is not None else "GaussianEM")
        self.path_label.setText(_short(self.model.root) if self.model is not None else "no project open")
        self.setWindowTitle(f"{self.model.root.name} – GaussianEM" if self.model is not None else "GaussianEM")
        self.statusBar().setVisible(opened)
        if not opened:
            self.welcome.set_recent(recent_projects())
            self.middle.setCurrentWidget(self.welcome)
        self._update_actions()

    def _fill_project_menu(self) -> None:
        menu = self.project_menu
        menu.clear()
        for identifier in ("open_project", "new_project", "demo"):
            menu.addAction(self.actions_by_id[identifier])
        recent = [p for p in recent_projects() if self.model is None or p != self.model.root][:8]
        if recent:
            menu.addSeparator()
            menu.addAction("Recent").setEnabled(False)
            for path in recent:
                menu.addAction(theme.icon("folder"), str(path), lambda p=path: self.open_project(p))
        if self.model is not None:
            menu.addSeparator()
            for identifier in ("import", "workflow", "trash", "cluster", "repair", "close_project"):
                menu.addAction(self.actions_by_id[identifier])

    def ask_open(self) -> None:
        """Ask for a directory and open it; offer to make a project where there is none."""
        start = self.model.root.parent if self.model is not None else Path.home()
        path = dialogs.pick_directory(self, "Open a RELION or GaussianEM project", start)
        if path is None:
            return
        if not Project.is_project(path):
            if any(path.glob("*/job[0-9][0-9][0-9]/job.star")):
                text = (
                    "There are jobs, but the file that lists them (default_pipeline.star) is gone. It can be made anew."
                )
                if ask(self, "Rebuild the project?", text, "Rebuild"):
                    self._background.run(
                        "rebuild",
                        lambda: repair.rebuild(path),
                        lambda _p: self.open_project(path),
                        lambda error: self.show_problem("Rebuild the project", error),
                    )
                return
            text = (
                f"{path} holds no project (no default_pipeline.star). A new one can be made there; "
                "files in it stay as they are."
            )
            if ask(self, "Make a project here?", text, "Make a project"):
                self._create(path)
            return
        self.open_project(path)

    def ask_new(self) -> None:
        """Ask for a directory and make a project in it."""
        start = self.model.root.parent if self.model is not None else Path.home()
        path = dialogs.pick_directory(self, "Choose or make an empty directory for the project", start)
        if path is not None:
            self.open_project(path) if Project.is_project(path) else self._create(path)

    def _create(self, path: Path) -> None:
        try:
            Project.create(path)
        except InputError as error:
            self.show_problem("Make the project", error)
            return
        self.open_project(path)

    def make_demo(self) -> None:
        """Ask where, make the demo project in the background, open it."""
        start = str(Path.home() / "gaussianem-demo")
        text = (
            "A project with 1,000 simulated particles of a molecule whose arm swings and whose lid comes and goes. "
            "It is made in this directory, takes a few megabytes, and runs in minutes without a GPU."
        )
        chosen = dialogs.ask_text(self, "Make a demo project", text, start, "Make it")
        if chosen:
            self.create_demo(Path(chosen).expanduser())

    def create_demo(self, path: Path) -> None:
        """Make the demo project in ``path`` and open it; an existing one is opened."""
        if Project.is_project(path):
            self.open_project(path)
            return
        from gaussianem_gui.demo import project as demo_project

        self.welcome.setEnabled(False)
        self.toasts.show_toast("info", "Making the demo project", str(path), 4)
        self._background.run(
            "demo", lambda: demo_project.create(path), lambda job: self._demo_made(path, job), self._demo_failed
        )

    def _demo_made(self, path: Path, job: str) -> None:
        self.welcome.setEnabled(True)
        if self.open_project(path):
            self._await(job, "Progress")

    def _demo_failed(self, error: Exception) -> None:
        self.welcome.setEnabled(True)
        self.show_problem("Make the demo project", error)

    # --- what is in the middle -------------------------------------------------------------------------------------

    def show_home(self) -> None:
        """The project's overview."""
        if self.model is not None:
            self.jobs.list.clearSelection()
            self.jobs.flow.set_current("")
            self.home.refresh(self.model)
            self.middle.setCurrentWidget(self.home)

    def open_job(self, name: str, tab: str = "") -> None:
        """Show a job."""
        info = self.model.info(name) if self.model is not None else None
        if info is None or self.model is None:
            return
        self.pane.show_job(self.model, info, tab)
        self.middle.setCurrentWidget(self.pane)
        if self.jobs.list.current_job() != name:
            self.jobs.list.select(name)
        self.jobs.flow.set_current(name)
        self._update_actions()

    def new_job(
        self, job_type: str = "", values: dict[str, Any] | None = None, inputs_from: list[str] | None = None
    ) -> None:
        """The form of a new job; without a type the overview, where one is chosen."""
        if self.model is None:
            return
        if not job_type:
            self.show_home()
            return
        self.jobs.list.clearSelection()
        self.jobs.flow.set_current("")
        self.pane.show_new(self.model, job_type, values or {}, inputs_from or self._likely_inputs(job_type))
        self.middle.setCurrentWidget(self.pane)

    def _likely_inputs(self, job_type: str) -> list[str]:
        """The newest finished job that usually comes before this type, if there is one."""
        assert self.model is not None
        for info in reversed(self.model.jobs):
            if info.job_type == BEFORE.get(job_type) and info.status.state is State.SUCCEEDED:
                return [info.name]
        return []

    def explore_current(self) -> None:
        """Explore the job that is shown or selected, else the newest that can be."""
        if self.model is None:
            return
        names = [self.pane.name] if self.middle.currentWidget() is self.pane else self.jobs.list.selected()
        names += [info.name for info in reversed(self.model.jobs)]
        for name in names:
            info = self.model.info(name)
            if info is not None and info.job_type in EXPLORABLE and not info.missing:
                self.open_explorer(name)
                return
        self.toasts.show_toast("info", "Nothing to explore yet", "Train first: the explorer shows a job's latents.")

    def open_explorer(self, name: str) -> None:
        """Show the latent explorer on a Train, Analyze or Decode job; it is built when first asked for."""
        if self.model is None:
            return
        if self.explorer is None:
            self._background.run("explorer", _import_explorer, lambda _r: self._show_explorer(name))
        else:
            self._show_explorer(name)

    def _show_explorer(self, name: str) -> None:
        if self.model is None:
            return
        if self.explorer is None:
            from gaussianem_gui.views.explorer.page import Explorer

            self.explorer = Explorer()
            self.middle.addWidget(self.explorer)
            self.explorer.closed.connect(lambda job: self.open_job(job) if job else self.show_home())
            self.explorer.session.noted.connect(
                lambda kind, title, text: self.toasts.show_toast(kind, title, text, 5 if kind == "success" else 10)
            )
            self.explorer.session.morphRequested.connect(
                lambda job: self.new_job(
                    "morph", {"z": f"{job}z.txt"}, [self.explorer.session.job] if self.explorer else []
                )
            )
        self.explorer.open(self.model, name)
        self.middle.setCurrentWidget(self.explorer)

    def compare_selected(self) -> None:
        """Compare the selected jobs."""
        names = self.jobs.list.selected()
        if len(names) < 2:
            self.toasts.show_toast(
                "info", "Select several jobs", "Hold Ctrl and click jobs in the list, then compare them."
            )
            return
        self.show_comparison(names)

    def show_comparison(self, names: list[str]) -> None:
        """Compare these jobs."""
        if self.model is not None:
            self.compare.set_jobs(self.model, [n for n in names if self.model.info(n) is not None])
            self.middle.setCurrentWidget(self.compare)

    def _tick(self) -> None:
        page = self.middle.currentWidget()
        if page is self.pane:
            self.pane.refresh()
        elif page is self.compare:
            self.compare.refresh()

    # --- news ------------------------------------------------------------------------------------------------------

    def _jobs_changed(self) -> None:
        model = self.model
        if model is None:
            return
        self.jobs.list.refresh()
        self.jobs.flow.refresh()
        self.jobs.note.setVisible(not model.jobs)
        counts = model.counts()
        running = counts.get(State.RUNNING, 0)
        waiting = sum(1 for info in model.jobs if info.status.state is State.SCHEDULED and info.status.detail)
        parts = [
            count_text(len(model.jobs), "job"),
            f"{running} running" if running else "",
            f"{waiting} waiting" if waiting else "",
        ]
        self.running_label.setText("  ·  ".join(p for p in parts if p))
        if self.middle.currentWidget() is self.home:
            self.home.refresh(model)
        last, self._last_job = self._last_job, ""
        if last and model.info(last) is not None and self.middle.currentWidget() is self.home:
            self.open_job(last)
        if self.pane.name and model.info(self.pane.name) is None and self.middle.currentWidget() is self.pane:
            self.show_home()
        self._show_awaited()
        self._check_sweeps()

    def _await(self, name: str, tab: str) -> None:
        """Show a job as soon as the list has it: it may have it already."""
        self._awaited = (name, tab)
        self._show_awaited()

    def _show_awaited(self) -> None:
        name, tab = self._awaited
        if name and self.model is not None and self.model.info(name) is not None:
            self._awaited = ("", "")
            self.open_job(name, tab)

    def _load_changed(self) -> None:
        if self.model is None:
            return
        load = self.model.load
        self.machine.show_load(load)
        self._disk_text()
        free, total = load.disk
        limit = float(self.settings.get("disk_warning_gb")) * 1e9
        warning = disk_warning(free, total) if total else ""
        if not warning and total and free < limit:
            warning = f"Only {bytes_text(free)} left on this disk. Clean up finished jobs, or empty the trash."
        if warning and not self._disk_warned:
            self.toasts.show_toast("warning", "The disk is filling up", warning, 15)
        self._disk_warned = bool(warning)
        self.disk_button.setStyleSheet(f"color: {theme.colour('warning' if warning else 'muted')}; margin-right: 8px;")

    def _sizes_changed(self) -> None:
        self.jobs.list.refresh()
        self._disk_text()

    def _disk_text(self) -> None:
        if self.model is not None:
            free, total = self.model.load.disk
            used = sum(self.model.sizes.values())
            self.disk_button.setText(
                f"Jobs {bytes_text(used)}  ·  {bytes_text(free)} free of {bytes_text(total)}" if total else ""
            )

    def _job_ended(self, info: JobInfo) -> None:
        if info.name in self._swept and info.status.state is State.SUCCEEDED:
            return
        kind = {State.SUCCEEDED: "success", State.FAILED: "danger"}.get(info.status.state, "warning")
        word = STATES[state_word(info)][2].lower()
        title = f"{job_label(info)} {word}"
        shown = self.middle.currentWidget() is self.pane and self.pane.name == info.name
        action = "" if shown else "Show it"
        self.toasts.show_toast(kind, title, info.status.detail, 7, action, lambda: self.open_job(info.name))
        self._notify(title, info.status.detail)

    def _notify(self, title: str, text: str) -> None:
        """Tell the desktop, when the window is not in front."""
        if not self.settings.get("notify"):
            return
        QApplication.alert(self)
        if QSystemTrayIcon.isSystemTrayAvailable() and not self.isActiveWindow():
            if self._tray is None:
                self._tray = QSystemTrayIcon(self.windowIcon(), self)
                self._tray.show()
            self._tray.showMessage(title, text or "GaussianEM", self.windowIcon())

    def _check_sweeps(self) -> None:
        if self.model is None:
            return
        for sweep in list(self._sweeps):
            found = [info for name in sweep if (info := self.model.info(name)) is not None]
            ended = [info.name for info in found if info.status.state.finished]
            if len(ended) + sum(self.model.gone(name) for name in sweep) < len(sweep):
                continue
            self._sweeps.remove(sweep)
            self._keep_sweeps()
            if len(ended) > 1:
                self._sweep_ended(sorted(ended))

    def _sweep_ended(self, names: list[str]) -> None:
        """Open the comparison, but never over a form that the user is filling in."""
        text = f"{len(names)} jobs"
        self._notify("The sweep has ended", text)
        if self.middle.currentWidget() is self.pane and self.pane.draft:
            self.toasts.show_toast(
                "success", "The sweep has ended", text, 20, "Compare them", lambda: self.show_comparison(names)
            )
            return
        self.show_comparison(names)
        self.toasts.show_toast("success", "The sweep has ended", f"{text} are compared here.")

    def _keep_sweeps(self) -> None:
        if self.model is not None:
            QSettings().setValue(f"sweeps/{_key(self.model.root)}", [sorted(s) for s in self._sweeps])

    def _submitted(self, names: list[str], run: bool) -> None:
        if not names or self.model is None:
            return
        tab = "Progress" if run else "Parameters"
        if len(names) > 1:
            self._sweeps.append(set(names))
            self._swept |= set(names)
            self._keep_sweeps()
            self.toasts.show_toast(
                "success", f"{len(names)} jobs submitted", "Their comparison opens when all have ended."
            )
        elif self.pane.name == names[0]:
            self.pane.reload_parameters()
            self.pane.show_tab(tab)
        if self.middle.currentWidget() is self.pane and (self.pane.draft or len(names) > 1):
            self.pane.draft = ""
            self._await(names[0], tab)
        self.model.refresh()

    def show_problem(self, what: str, error: object) -> None:
        """Say what went wrong and how to mend it."""
        assert isinstance(error, BaseException)
        if isinstance(error, LockHeld) and self.model is not None:
            holder = error.holder
            gone = " That program is gone." if holder.dead else ""
            if ask(
                self,
                "The project is locked",
                f"{holder.text}.{gone} Wait for it, or break the lock if nothing else writes to the project.",
                "Break the lock",
                danger=True,
            ):
                self.model.do("Break the lock", lambda p: p.break_lock())
            return
        message, details = explain(what, error)
        if details:
            self.guard.caught += 1
        self.guard.tell(what, message, details)

    # --- actions ---------------------------------------------------------------------------------------------------

    def chosen(self) -> list[str]:
        """Jobs that an action concerns: the selection if it holds the job shown, else that job."""
        selected = self.jobs.list.selected()
        shown = self.pane.name if self.middle.currentWidget() is self.pane else ""
        return selected if shown in selected or not shown else [shown]

    def _current(self) -> JobInfo | None:
        names = self.chosen()
        return self.model.info(names[0]) if names and self.model is not None else None

    def _update_actions(self) -> None:
        info, project = self._current(), self.model.project if self.model is not None else None
        for action in (*JOB_ACTIONS, *PROJECT_ACTIONS):
            self._enable(action, info, project)
        for identifier in ("home", "compare", "by_type", "flow", "find", "close_project"):
            self.actions_by_id[identifier].setEnabled(project is not None)

    def _enable(self, action: Action, info: JobInfo | None, project: Project | None) -> None:
        item = self.actions_by_id[action.id]
        reason = self._reason(action, info, project)
        item.setProperty("reason", reason)
        item.setToolTip(f"{action.tip}\nNot now: {reason}" if reason else action.tip)
        # A shortcut of a disabled action is dead and mute: the action stays on and says why it cannot be done.
        opened = self.sender() in (self._menus["Project"], self._menus["Job"])
        item.setEnabled(not reason or not opened)

    @staticmethod
    def _reason(action: Action, info: JobInfo | None, project: Project | None) -> str:
        try:
            return action.reason(info, project)
        except (InputError, OSError) as error:
            return str(error)

    def trigger(self, identifier: str) -> None:
        """Do an action by its id, or say why it is not possible now."""
        action = next(a for a in (*JOB_ACTIONS, *PROJECT_ACTIONS) if a.id == identifier)
        info, project = self._current(), self.model.project if self.model is not None else None
        reason = self._reason(action, info, project)
        if (
            identifier == "run"
            and self.middle.currentWidget() is self.pane
            and self.pane.draft
            and self.pane.parameters
        ):
            self.pane.parameters.submit(run=True)
            return
        if reason:
            self.toasts.show_toast(
                "info", f"{action.text.rstrip(' …')} is not possible now", reason[:1].upper() + reason[1:] + "."
            )
            return
        getattr(self, f"_do_{identifier}")()

    def _do_new_project(self) -> None:
        self.ask_new()

    def _do_open_project(self) -> None:
        self.ask_open()

    def _do_new_job(self) -> None:
        self.new_job()

    def _do_import(self) -> None:
        self.new_job("import")

    def _do_workflow(self) -> None:
        self.show_workflow()

    def save_workflow(self) -> None:
        """Keep what the selected jobs did as a workflow file."""
        names = self.chosen()
        if self.model is None or not names:
            self.toasts.show_toast("info", "Select jobs first", "Those that belong together, in the list.")
            return
        path, _ = QFileDialog.getSaveFileName(self, "Save a workflow", "workflow.json", "Workflow (*.json)")
        if path:
            name = Path(path).stem
            self.model.do(
                "Save the workflow",
                lambda p: workflow.save(workflow.from_jobs(p, names, name), path),
                lambda _r: self.toasts.show_toast(
                    "success", "Workflow saved", f"{path}. Start it from New job, Workflow."
                ),
            )

    def show_leftovers(self) -> None:
        """Processes that ended jobs have left behind."""
        if self.model is not None:
            dialogs.LeftoversDialog(self, self.model).exec()

    def show_workflow(self) -> None:
        """Start several jobs that follow each other."""
        if self.model is not None:
            dialogs.WorkflowDialog(self, self.model, self._workflow_started).exec()

    def _workflow_started(self, names: list[str]) -> None:
        self._await(names[0], "Progress")
        self.toasts.show_toast(
            "success", f"{len(names)} jobs started", "Each begins when the one before it has finished."
        )

    def _do_trash(self) -> None:
        if self.model is not None:
            dialogs.TrashDialog(self, self.model).exec()

    def _do_empty_trash(self) -> None:
        if self.model is not None and ask(
            self,
            "Empty the trash?",
            "All deleted jobs go for good. This cannot be undone.",
            "Delete for good",
            danger=True,
        ):
            self.model.do(
                "Empty the trash",
                lambda p: trash.empty(p),
                lambda freed: self.toasts.show_toast("success", "The trash is empty", f"{bytes_text(freed)} freed."),
            )

    def _do_cluster(self) -> None:
        dialog = dialogs.SettingsDialog(self, self.settings, self.model, self._set_theme)
        dialog.show_cluster()
        dialog.exec()

    def _do_repair(self) -> None:
        if self.model is not None:
            self.model.do("Repair the project", lambda p: repair.repair(p), self._repaired)

    def _repaired(self, sentences: list[str]) -> None:
        self.toasts.show_toast(
            "success", "Project repaired" if sentences else "Nothing to repair", "\n".join(sentences[:6]), 15
        )

    def _do_break_lock(self) -> None:
        if self.model is None:
            return
        holder = self.model.project.lock_holder()
        text = f"{holder.text if holder else 'Nobody holds it now'}. Break it only if nothing writes to the project."
        if ask(self, "Break the lock?", text, "Break the lock", danger=True):
            self.model.do("Break the lock", lambda p: p.break_lock())

    def _take_step(self, step: NextStep) -> None:
        if step.kind == "job":
            self.new_job(step.job_type, {}, [self.pane.name] if self.pane.name else None)
        elif step.kind == "results":
            self.pane.show_tab("Results")
            self.pane.results.choose(lambda item: item.kind in ("volume_series", "volume"))
        elif step.kind == "explore":
            self.open_explorer(self.pane.name)
        elif step.kind == "log":
            self.pane.show_tab("Log")
            self.pane.log.show_errors()
        else:
            self.trigger(step.kind)

    def _job_menu(self, place: QPoint) -> None:
        info, project = self._current(), self.model.project if self.model is not None else None
        self.popup = menu = QMenu(self)
        marks = QMenu("Mark as", menu)
        for action in JOB_ACTIONS:
            if action.id == "delete":
                if len(self.chosen()) > 1:
                    menu.addAction(self.actions_by_id["compare"])
                menu.addMenu(marks)
                menu.addSeparator()
            item = (marks if "/" in action.menu else menu).addAction(
                theme.icon(ICONS.get(action.id, "more"), "danger" if action.id == "delete" else "muted"), action.text
            )
            item.setShortcut(QKeySequence(action.shortcut))
            reason = self._reason(action, info, project)
            item.setEnabled(not reason)
            item.setToolTip(reason or action.tip)
            item.triggered.connect(lambda _c=False, a=action: self.trigger(a.id))
            if action.id in ("unrequest", "note", "folder"):
                menu.addSeparator()
        menu.setToolTipsVisible(True)
        menu.popup(place)

    # --- view ------------------------------------------------------------------------------------------------------

    def palette_entries(self) -> list[PaletteEntry]:
        """Everything that the command palette can jump to."""
        found: list[PaletteEntry] = []
        if self.model is not None:
            for info in reversed(self.model.jobs):
                found.append(
                    PaletteEntry(
                        job_label(info),
                        f"{info.title} · {STATES[state_word(info)][2]}",
                        picture(info.job_type),
                        lambda n=info.name: self.open_job(n),
                    )
                )
            for job_type, options in JOB_OPTIONS.items():
                found.append(
                    PaletteEntry(
                        f"New {options.title} job",
                        purpose(job_type),
                        picture(job_type),
                        lambda t=job_type: self.new_job(t),
                    )
                )
            if self.middle.currentWidget() is self.pane and self.pane.name:
                for tab in TABS:
                    found.append(
                        PaletteEntry(
                            f"Show {tab}", self.pane.title.text(), "chevron-right", lambda t=tab: self.pane.show_tab(t)
                        )
                    )
        current, project = self._current(), self.model.project if self.model is not None else None
        for action in (*JOB_ACTIONS, *PROJECT_ACTIONS):
            found.append(
                PaletteEntry(
                    action.text,
                    action.tip,
                    ICONS.get(action.id, "more"),
                    lambda a=action: self.trigger(a.id),
                    action.shortcut,
                    self._reason(action, current, project),
                )
            )
        for view in VIEW_ACTIONS:
            found.append(
                PaletteEntry(
                    view.text,
                    view.tip,
                    view.icon,
                    lambda v=view: getattr(self, v.handler)(),
                    view.shortcut,
                    "" if self.actions_by_id[view.id].isEnabled() else "open a project first",
                )
            )
        for path in recent_projects():
            found.append(
                PaletteEntry(f"Open {path.name}", str(path.parent), "folder", lambda p=path: self.open_project(p))
            )
        return found

    def show_palette(self) -> None:
        """The command palette."""
        self._palette = Palette(self, self.palette_entries())
        self._palette.show()

    def toggle_by_type(self) -> None:
        """Group the list by type, or not."""
        self.jobs.list.tree.set_by_type(not self.jobs.list.tree.by_type)
        self.jobs.list.expandAll()

    def toggle_flow(self) -> None:
        """The list, or the flow graph."""
        self.jobs.flow_button.toggle()

    def find_job(self) -> None:
        """The keyboard to the filter of the list (or of the log, when that is in front)."""
        if self.middle.currentWidget() is self.pane and self.pane.tab() == "Log":
            self.pane.log.search.setFocus()
            self.pane.log.search.selectAll()
            return
        self.jobs_dock.show()
        self.jobs.filter.setFocus()
        self.jobs.filter.selectAll()

    def toggle_theme(self) -> None:
        """Dark to light and back."""
        self._set_theme("light" if theme.name == "dark" else "dark")
        self.settings.set("theme", theme.choice)

    def _set_theme(self, choice: str) -> None:
        theme.apply(choice)

    def _theme_changed(self) -> None:
        keep_icon(self.theme_button, "sun" if theme.name == "dark" else "moon", "muted")
        for item in self.actions_by_id.values():
            item.setIcon(theme.icon(str(item.property("icon_name"))))

    def reset_layout(self) -> None:
        """All panels where they were at first."""
        self.restoreState(self._default_state, LAYOUT_VERSION)
        for dock in (self.jobs_dock, self.machine_dock):
            dock.setVisible(self.model is not None)

    def show_settings(self) -> None:
        """Settings of the program, the project, the cluster."""
        dialogs.SettingsDialog(self, self.settings, self.model, self._set_theme).exec()

    def show_guide(self) -> None:
        """The guide beside the window."""
        self._guide = dialogs.Guide(self)
        self._guide.show()

    def show_about(self) -> None:
        """Versions and the OpenGL renderer (asked first, in a process of its own)."""
        self._background.run("opengl", probe, lambda found: dialogs.about(self, found).exec())

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
        self.pane.shut_down()
        if self.explorer is not None:
            self.explorer.shut_down()
        self.watcher.stop()
        if self._tray is not None:
            self._tray.hide()
        QThreadPool.globalInstance().waitForDone(3000)
        self.guard.remove()
        super().closeEvent(event)


def _import_explorer() -> None:
    """The slow libraries behind the explorer, in a worker; widgets are made on the window's thread afterwards."""
    rooms = (
        "gaussianem_gui.explorer.particle_columns",
        "gaussianem_core.analysis.latent_density",
        "gaussianem_core.analysis.latent_paths",
        "gaussianem_gui.explorer.mask_job",
        "gaussianem_core.analysis.landscape",
    )
    for name in rooms:
        importlib.import_module(name)


def _short(path: Path) -> str:
    """A path with the home directory as ~, shortened in the middle."""
    text = str(path)
    home = str(Path.home())
    text = "~" + text[len(home) :] if text.startswith(home + "/") else text
    return text if len(text) < 48 else f"{text[:20]} … {text[-24:]}"


def _key(path: Path) -> str:
    return str(path).replace("/", "_")


def _stored_list(key: str) -> list[list[str]]:
    value = QSettings().value(key, [])
    return [list(v) for v in value if isinstance(v, list | tuple)] if isinstance(value, list | tuple) else []


__all__ = ["VIEW_ACTIONS", "MainWindow"]
