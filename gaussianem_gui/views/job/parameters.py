"""The Parameters tab: a job's form, and beside it what will run, the check before it runs, and the button."""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import ValidationError
from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QComboBox, QFrame, QSplitter, QWidget

from gaussianem_core.errors import InputError
from gaussianem_core.options import JOB_OPTIONS, JobOptions, hints
from gaussianem_gui.execution import estimates, runner
from gaussianem_gui.execution.cluster import load_settings
from gaussianem_gui.execution.estimates import Check
from gaussianem_gui.execution.runner import Launch
from gaussianem_gui.forms import validation
from gaussianem_gui.forms.next_steps import BEFORE
from gaussianem_gui.project.inputs import in_project, input_fields
from gaussianem_gui.project.job import State, folder_of
from gaussianem_gui.project.project import JobInfo, Project
from gaussianem_gui.views.job.editors import Context, OfferedFile
from gaussianem_gui.views.job.fields import field_label
from gaussianem_gui.views.job.form import OptionForm
from gaussianem_gui.views.job.submit_panel import SubmitPanel
from gaussianem_gui.views.project_model import ProjectModel, job_label
from gaussianem_gui.views.toolkit import notices
from gaussianem_gui.views.toolkit.notices import Banner
from gaussianem_gui.views.toolkit.tasks import Background, while_alive
from gaussianem_gui.views.toolkit.widgets import clear, column, label, row

OVERWRITES = "It runs from its beginning in the same directory and writes over its results."
ASK_AGAIN = 60  # milliseconds
CHECK_PAUSE = 350  # milliseconds after the last change before the checks run again


class Parameters(QWidget):
    """The form of a new job, or of one in the project, with checks, command and buttons beside it."""

    cloneRequested = Signal(str)
    firstRequested = Signal(str)  # the job type that has to run before this one

    def __init__(self, model: ProjectModel, job_type: str) -> None:
        super().__init__()
        self.model, self.job_type = model, job_type
        self.options: type[JobOptions] = JOB_OPTIONS[job_type]
        self.info: JobInfo | None = None
        self.continuing = False
        self._from: list[str] = []
        self._rate: float | None = None
        self._background = Background(self)
        context = Context(model.root, self._choices, self._gpus, lambda: model.expected)
        self.form = OptionForm(self.options, context)
        self.panel = SubmitPanel()
        self.panel.where.setCurrentIndex(max(self.panel.where.findData(model.settings.get("where")), 0))

        self.source = QComboBox()
        self.source.setObjectName("inputJob")
        self.source.setAccessibleName("Take inputs from job")
        self.source.setMinimumWidth(220)
        self._source_bar = QFrame()
        self._source_bar.setProperty("role", "inset")
        words = label("Take all inputs from", "label")
        self._source_bar.setLayout(row(words, self.source, None, spacing=12, margins=(14, 8, 14, 8)))
        self._banner = column(spacing=0)
        top = column(spacing=10, margins=(20, 16, 12, 0))
        top.addLayout(self._banner)
        top.addWidget(self._source_bar)
        left = QWidget()
        inside = column(spacing=0)
        inside.addLayout(top)
        inside.addWidget(self.form, 1)
        left.setLayout(inside)
        split = QSplitter()
        split.addWidget(left)
        split.addWidget(self.panel)
        split.setStretchFactor(0, 3)
        split.setStretchFactor(1, 2)
        split.setChildrenCollapsible(False)
        split.setSizes([640, 330])
        layout = column(spacing=0)
        layout.addWidget(split)
        self.setLayout(layout)

        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.setInterval(CHECK_PAUSE)
        self._pause.timeout.connect(self._check)
        self._again = QTimer(self)
        self._again.setSingleShot(True)
        self._again.setInterval(ASK_AGAIN)
        self._again.timeout.connect(lambda: self.submit(run=True))
        self.form.changed.connect(self._changed)
        self.panel.runRequested.connect(lambda: self.submit(run=True))
        self.panel.saveRequested.connect(lambda: self.submit(run=False))
        self.panel.fieldRequested.connect(self.form.focus_field)
        self.panel.keepRequested.connect(self._keep_defaults)
        self.panel.where.currentIndexChanged.connect(self._changed)
        self.source.activated.connect(self._source_chosen)
        self._fill_sources()
        model.ask("rate", estimates.last_rate, self._take_rate, self._background)
        self._changed()

    # --- what is shown ---------------------------------------------------------------------------------------------

    def start_new(self, values: dict[str, Any], inputs_from: list[str]) -> None:
        """Fill the form of a new job with the presets and, over them, ``values``; inputs that neither names come from
        the jobs ``inputs_from``."""
        presets = self.model.settings.defaults(self.job_type)
        self.form.set_values({**presets, **values})
        if inputs_from:
            self._fill_from(inputs_from, {**presets, **values})

    def show_job(self, info: JobInfo, values: dict[str, Any]) -> None:
        """Show the options of a job in the project; they can be changed while it has not run. What the user has typed
        already stays."""
        self.info = info
        if self.form.dirty():  # typed before the values were read
            self.form.update_values(values, keep_typed=True)
        else:
            self.form.set_values(values)
        self.update_state(info)

    def update_state(self, info: JobInfo) -> None:
        """Follow the job's state: what may be changed, what the button does."""
        before, self.info = self.info, info
        editable = info.status.state is State.SCHEDULED and not info.status.detail
        if (
            before is None
            or before.status.state is not info.status.state
            or not self._banner.count()
            or (before.status.detail != info.status.detail)
        ):
            clear(self._banner)
            self.form.set_read_only(not editable and not self.continuing)
            self.panel.buttons.setVisible(editable or self.continuing)
            self._source_bar.setVisible(editable)
            self._show_banner(info, editable)
        self._changed()

    def _show_banner(self, info: JobInfo, editable: bool) -> None:
        clone = partial(self.cloneRequested.emit, info.name)
        if self.continuing and self.goes_on:
            self._banner.addWidget(
                Banner("info", "Change what should be different, then continue in the same directory.")
            )
        elif self.continuing:
            self._banner.addWidget(Banner("warning", f"{OVERWRITES} To keep them, make a copy.", "Clone", clone))
        elif info.status.state.finished:
            text = "These are the options that ran. To change them, make a copy."
            self._banner.addWidget(Banner("info", text, "Clone", clone))
        elif not editable:
            text = "The job is running." if info.status.state is State.RUNNING else info.status.detail
            self._banner.addWidget(Banner("info", f"{text[:1].upper()}{text[1:]}"))

    @property
    def goes_on(self) -> bool:
        """True for jobs that go on from what they have written; others begin anew and write over it."""
        return "resume" in self.options.model_fields

    def start_continue(self) -> None:
        """Let the user change options of a finished job and run it again in its directory."""
        assert self.info is not None
        self.continuing = True
        clear(self._banner)
        self.panel.run.setText("Continue" if self.goes_on else "Run again")
        self.panel.save.hide()
        self.form.set_read_only(False)
        self.panel.buttons.setVisible(True)
        self._show_banner(self.info, True)
        self._changed()

    # --- inputs of other jobs --------------------------------------------------------------------------------------

    def _choices(self, kind: str) -> list[OfferedFile]:
        found = []
        for choice in self.model.project.choices(kind):
            info = self.model.info(choice.job)
            where = job_label(info) if info is not None else (choice.job or "file")
            later = "" if getattr(choice, "ready", True) else " (not there yet)"
            found.append(OfferedFile(choice.path, f"{where}: {choice.path.rsplit('/', 1)[-1]}{later}"))
        return found

    def _gpus(self) -> list[tuple[int, str]]:
        return [
            (
                g.index,
                f"GPU {g.index} · {(g.memory_total - g.memory_used) / 2**30:.0f} GiB free",
            )
            for g in self.model.load.gpus
        ]

    def _fill_sources(self) -> None:
        job_type = self.job_type
        self.model.ask("sources", lambda p: p.input_jobs(job_type), self._take_sources, self._background)

    def _take_sources(self, jobs: list[JobInfo] | None) -> None:
        self.source.clear()
        self.source.addItem("choose a job …", "")
        for info in jobs or []:
            self.source.addItem(job_label(info), info.name)
        self._source_bar.setVisible(bool(jobs) and (self.info is None or self.info.status.state is State.SCHEDULED))
        self._name_source()
        before = BEFORE.get(self.job_type, "")
        if self.info is None and not jobs and before in BEFORE:
            first = JOB_OPTIONS[before].title
            text = f"{self.options.title} reads what a {first} job made, and there is none yet. Or choose files below."
            clear(self._banner)
            self._banner.addWidget(Banner("info", text, f"{first} first", lambda: self.firstRequested.emit(before)))

    def _name_source(self) -> None:
        """The box names the job that the form's files come from, and none where they come from elsewhere."""
        makers = self._makers()
        if self.source.currentData() not in makers:
            places = [self.source.findData(name) for name in [*self._from, *makers] if name in makers]
            self.source.setCurrentIndex(max([place for place in places if place >= 0], default=0))

    def _makers(self) -> list[str]:
        """Jobs in whose directories the files of the form lie, in the order of the fields."""
        values = self.values()
        paths = [in_project(values, str(values[f])) for f in input_fields(self.options) if values.get(f)]
        return list(dict.fromkeys("/".join(p.split("/")[:2]) + "/" for p in paths if p.count("/") >= 2))

    def _source_chosen(self) -> None:
        name = self.source.currentData()
        if name:
            self._fill_from([name], {}, keep_typed=False)

    def _fill_from(self, jobs: list[str], values: dict[str, Any], *, keep_typed: bool = True) -> None:
        self._from, job_type = jobs, self.job_type
        self.source.setCurrentIndex(max(self.source.findData(jobs[0]), 0))
        self.model.ask(
            "fill",
            lambda p: p.fill(job_type, jobs, values),
            lambda filled: self.form.update_values(filled, keep_typed=keep_typed) if filled else None,
            self._background,
        )

    # --- checks ----------------------------------------------------------------------------------------------------

    def _take_rate(self, rate: float | None) -> None:
        self._rate = rate
        self._pause.start()

    def values(self) -> dict[str, Any]:
        """By option, what the form holds."""
        return self.form.values()

    def variants(self) -> list[dict[str, Any]]:
        """One set of values for each job that would be made: several in a sweep."""
        return validation.expand(self.values(), self.form.sweeps())

    def job_dir(self) -> str:
        """Directory, from the project, of the job, or the one that a new job would get."""
        if self.info is not None:
            return self.info.name.rstrip("/")
        return f"{folder_of(self.job_type)}/job{self.model.counter:03d}"

    def _changed(self) -> None:
        errors = self.form.errors()
        several = len(self.variants()) if not errors else 1
        self._name_source()
        if not self.continuing:
            self.panel.run.setText(f"Run {several} jobs" if several > 1 else "Run")
        self._show_command()
        self._pause.start()

    def _show_command(self) -> None:
        if self.form.errors():
            self.panel.show_command("The command appears here once the form is complete.", "")
            return
        try:
            options = validation.complete(self.options, self.variants()[0], self.job_dir())
        except (ValidationError, IndexError):
            self.panel.show_command("The command appears here once the form is complete.", "")
            return
        if self.continuing and self.goes_on:
            options = options.model_copy(update={"resume": True})
        self.panel.show_command(validation.command_text(options), str(self.model.root))

    def _form_checks(self) -> list[Check]:
        found = []
        for name, text in self.form.errors().items():
            title = field_label(name) if name else ""
            if text == "Needed":
                found.append(Check("error", f"{title}: needed", name))
            else:
                found.append(Check("error", f"{title}: {text[:1].lower()}{text[1:]}" if title else text, name))
        for name, text in self.form.path_errors().items():
            found.append(Check("error", f"{field_label(name)}: {text[:1].lower()}{text[1:]}", name))
        several = len(self.variants())
        if several > 1:
            found.append(Check("info", f"{several} jobs, one for each value; they run as GPUs become free"))
        return found

    def _check(self) -> None:
        mine = self._form_checks()
        if self.info is not None and not self.panel.buttons.isVisibleTo(self):
            self.panel.show_checks([Check("ok", "This job has been submitted")])
            return
        if any(c.level == "error" for c in mine):
            self._background.cancel("checks")
            self.panel.show_checks(mine)
            return
        job_type, values, root = self.job_type, self.values(), self.model.root
        machine, rate = self.model.load.machine(), self._rate
        self._background.run(
            "checks",
            lambda: estimates.checks(job_type, values, root, machine, rate),
            lambda more: self.panel.show_checks(mine + more),
            lambda error: self.panel.show_checks([*mine, Check("warning", f"No estimate: {error}")]),
        )

    def _keep_defaults(self) -> None:
        fields = self.options.model_fields
        values = {
            name: value
            for name, value in self.values().items()
            if hints(self.options, name)["widget"] is None and value != fields[name].default
        }
        errors = self.form.errors()
        known = validation.plain_values(self.options, {n: v for n, v in values.items() if n not in errors})
        self.model.settings.set_defaults(self.job_type, known, "program")
        self.panel.say(
            f"Kept {len(known)} value{'s' if len(known) != 1 else ''} for new {self.options.title} jobs; see Settings."
        )

    # --- submit ----------------------------------------------------------------------------------------------------

    def submit(self, *, run: bool) -> None:
        """Make the job or jobs, or change the one shown, and with ``run`` start them. Shows what is wrong instead if
        anything is; asks before results are written over."""
        self.form.require()
        errors = {name: text for name, text in self.form.errors().items() if run or text != "Needed"}
        if run and not errors:
            if self.form.looking():  # just typed, or a slow disk: whether the inputs are there is not known yet
                self.panel.say("Looking whether the files are there …")
                self._again.start()
                return
            errors = self.form.path_errors()
        self.panel.say("")
        if errors:
            self.form.focus_field(next(iter(errors)))
            self._check()
            return
        blocking = [c for c in self.panel.checks if c.level == "error"]
        if run and blocking:
            self.panel.say("Solve what is marked red first.")
            return
        if run and not self._agreed():
            return
        self.panel.run.setEnabled(False)
        where, sweeps = self.panel.where.currentData(), self.form.sweeps()
        variants = [validation.typed(self.options, values) for values in self.variants()]
        info, job_type, continuing = self.info, self.job_type, self.continuing
        preset = int(self.model.settings.get("gpus"))
        gpus = preset if preset and job_type == "train" and not variants[0].get("gpus") else None

        def work(project: Project) -> list[str]:
            cluster = load_settings(project.root) if where == "cluster" else None
            launch = Launch(where=where, gpus=gpus, cluster=cluster)
            if info is not None and continuing:
                runner.continue_job(project, info.name, variants[0], launch)
                return [info.name]
            names = []
            for values in variants:
                if info is not None and len(variants) == 1:
                    project.update(info.name, values)
                    names.append(info.name)
                else:
                    alias = ""
                    if len(variants) > 1:
                        alias = validation.sweep_alias("", {name: values[name] for name in sweeps})
                    names.append(_make(project, job_type, values, alias))
            if run:
                for name in names:
                    runner.request(project, name, launch)
            return names

        what = f"Submit {self.options.title}" if run else f"Keep {self.options.title}"
        model = self.model  # it is told even if the form is closed by then; the button stays off: a new form follows
        again = while_alive(self, lambda _error: self.panel.run.setEnabled(True))
        model.do(what, work, lambda names: model.submitted.emit(names, run), again)

    def _agreed(self) -> bool:
        """False if the user does not want results to be written over."""
        info = self.info
        if info is None or not self.continuing or self.goes_on or info.status.state is not State.SUCCEEDED:
            return True
        following = [job_label(child) for name in self.model.children(info.name) if (child := self.model.info(name))]
        text = f"{OVERWRITES} Clone the job instead to keep them."
        if following:
            text += f" Made from them: {', '.join(following)}."
        return notices.ask(self, f"Run {job_label(info)} again?", text, "Run again", danger=True)


def _make(project: Project, job_type: str, values: dict[str, Any], alias: str) -> str:
    """A new job; a sweep's name that is taken already gives way to none."""
    if alias:
        try:
            return project.new_job(job_type, values, alias=alias).name
        except InputError:
            pass
    return project.new_job(job_type, values).name
