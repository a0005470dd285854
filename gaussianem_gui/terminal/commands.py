"""``gaussianem project`` and ``gaussianem job``: everything that the application does with projects, in a terminal."""

from __future__ import annotations

import argparse
import codecs
import errno
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_origin

from pydantic import ValidationError

from gaussianem_core.errors import InputError, ResourceError, printable
from gaussianem_core.job.command_line import OptionParser, add_options
from gaussianem_core.options import JOB_OPTIONS, JobOptions, explain
from gaussianem_core.runtime.plain_files import open_regular
from gaussianem_gui.execution import cluster, estimates, runner, workflow
from gaussianem_gui.execution.logfile import ESCAPES as _ESCAPES
from gaussianem_gui.forms import validation
from gaussianem_gui.forms.actions import action
from gaussianem_gui.project import repair, trash
from gaussianem_gui.project.inputs import is_path_field
from gaussianem_gui.project.job import ERR, OUT, Job, State
from gaussianem_gui.project.project import JobInfo, Project, recent_projects, remember_project
from gaussianem_gui.project.settings import CHOICES, PROGRAM_ONLY, SHIPPED, Settings
from gaussianem_gui.units import bytes_text

EXIT_OF = {State.SUCCEEDED: 0, State.FAILED: 1, State.LOST: 1, State.ABORTED: 3}
FAILED, BAD_INPUT, TIMED_OUT = 1, 2, 4
LOG_BYTES = 1 << 20  # of a log that are printed at once
NEWEST = 200  # finished jobs that a list reads for times and reasons


# --- options of a job from its model ----------------------------------------------------------------------------


def parse_values(model: type[JobOptions], words: Sequence[str], project: Project, prog: str) -> dict[str, Any]:
    """The options of ``model`` that stand in ``words``, with its types; files named from the current directory become
    paths from the project. Raises InputError; --help prints the options and exits."""
    given = OptionParser(prog, model, ("job_dir", "output")).given(words)
    for name, value in given.items():
        if value is not None and is_path_field(model, name) and "source_dir" not in given:
            given[name] = (
                [_project_path(project, v) for v in value] if isinstance(value, list) else _project_path(project, value)
            )
    return validation.typed(model, given)


def _value(model: type[JobOptions], option: str, text: str) -> Any:
    """What stands behind ``--set OPTION=`` as the option's value; for a list of files it is one. Raises InputError."""
    several = get_origin(model.model_fields[option].annotation) is list
    return validation.typed(model, {option: [text] if several else text})[option]


def _project_path(project: Project, word: str) -> str:
    """A file named from the current directory, as the project names it."""
    here = Path.cwd() / word
    if not word or os.path.isabs(word) or Path.cwd() == project.root or not here.exists():
        return word
    return os.path.relpath(here, project.root) if here.resolve().is_relative_to(project.root) else str(here.resolve())


# --- output ---------------------------------------------------------------------------------------------------------


def row(info: JobInfo) -> dict[str, Any]:
    """A job as ``--json`` prints it: ``started`` and ``ended`` in Unix seconds, ``fraction`` from 0 to 1."""
    status = info.status
    return {
        "name": info.name,
        "number": info.number,
        "type": info.job_type or info.type_label,
        "title": info.title,
        "alias": info.alias,
        "state": status.state.value,
        "detail": status.detail,
        "stage": status.stage,
        "fraction": status.fraction,
        "left_seconds": status.left_seconds,
        "started": status.started,
        "ended": status.ended,
        "host": status.host,
        "gpus": list(status.gpus),
        "scheduler_id": status.scheduler_id,
        "missing": info.missing,
    }


def say(*words: object, end: str = "\n", error: bool = False, flush: bool = False) -> None:
    """Print words; control characters, which could steer the terminal, are made visible first."""
    print(printable(" ".join(map(str, words))), end=end, file=sys.stderr if error else sys.stdout, flush=flush)


def _print_json(value: Any) -> None:
    say(json.dumps(value, indent=1))


def _line(info: JobInfo) -> str:
    status = info.status
    progress = f"{100 * status.fraction:3.0f} %" if status.fraction is not None else ""
    left = f", {_duration(status.left_seconds)} left" if status.left_seconds is not None else ""
    words = " ".join(word for word in (progress + left, status.stage, status.detail) if word)
    return f"{info.name:<22} {info.alias:<20} {status.state.value:<10} {words}".rstrip()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{rest:02d}s"


def _tell_notes(project: Project) -> None:
    for note in project.notes:
        say(f"gaussianem: {note}", error=True)


# --- gaussianem project ---------------------------------------------------------------------------------------------


def _project_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gaussianem project", description="Make, list and repair projects.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, default: str | None = ".") -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        if default is not None:
            sub.add_argument("directory", nargs="?", default=default, help="directory of the project")
        return sub

    add("new", action("new_project").tip)
    add("open", "Check a project and say what is in it").add_argument("--json", action="store_true")
    add("list", "Projects opened lately by this user", None).add_argument("--json", action="store_true")
    sub = add("repair", action("repair").tip)
    sub.add_argument("--break_lock", action="store_true", help=action("break_lock").tip)
    sub.add_argument("--rebuild", action="store_true", help="make a graph that is gone anew, from the job directories")
    add("empty_trash", action("empty_trash").tip)
    sub = add("settings", "Settings of this project; without --set, show those in force")
    sub.add_argument("--all_projects", action="store_true", help="change them for all projects of this user instead")
    sub.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        dest="values",
        help="NAME= removes a value; TYPE.OPTION=VALUE presets an option in the forms of new jobs",
    )
    sub.add_argument("--json", action="store_true")
    sub = add("cluster", action("cluster").tip + "; without options, show it")
    sub.add_argument("--json", action="store_true")
    add_options(sub, cluster.ClusterSettings)
    return parser


def project_main(argv: list[str] | None = None) -> int:
    """``gaussianem project COMMAND``; returns the exit code: 0, 1 where disk or machine refused, 2 for bad input, 4
    where a wait timed out, 130 after Ctrl+C."""
    return _guarded("project", lambda: _project_command(_project_parser().parse_args(argv)))


def _project_command(given: argparse.Namespace) -> int:
    if given.command == "list":
        found = recent_projects()
        _print_json([str(path) for path in found]) if given.json else say("\n".join(map(str, found)))
        return 0
    if given.command == "new":
        project = Project.create(given.directory)
        remember_project(project.root)
        say(project.root)
        return 0
    if given.command == "repair" and given.rebuild:
        project = repair.rebuild(Path(given.directory).resolve())
    else:
        project = Project.open(given.directory)
    if given.command == "repair":
        told = project.notes + repair.repair(project, given.break_lock)
        say("\n".join(dict.fromkeys(told)) or "nothing was wrong")
        return 0
    if given.command == "empty_trash":
        say(f"{trash.empty(project) / 2**20:.1f} MiB freed")
        return 0
    if given.command == "cluster":
        return _cluster_command(project, given)
    if given.command == "settings":
        return _settings_command(project, given)
    remember_project(project.root)
    rows = project.jobs(details=0)
    counts = {state.value: sum(i.status.state is state for i in rows) for state in State}
    holder = project.lock_holder()
    if given.json:
        _print_json(
            {
                "root": str(project.root),
                "jobs": len(rows),
                "states": counts,
                "read_only": project.read_only,
                "notes": project.notes,
                "lock": holder.text if holder else "",
            }
        )
        return 0
    _tell_notes(project)
    say(f"{project.root}: {len(rows)} jobs" + "".join(f", {n} {s.lower()}" for s, n in counts.items() if n))
    if holder:
        say(f"locked: {holder.text}")
    try:
        runner.ensure_runner(project)  # for what this user asked for here, if anything waits
    except (InputError, OSError) as error:
        say(f"gaussianem: waiting jobs cannot be started now: {error}", error=True)
    return 0


def _settings_command(project: Project, given: argparse.Namespace) -> int:
    settings, layer = Settings(project.root), "program" if given.all_projects else "project"
    for word in given.values:
        name, _, text = word.partition("=")
        job_type, _, option = name.partition(".")
        if "=" in word and option and option in (JOB_OPTIONS[job_type].model_fields if job_type in JOB_OPTIONS else ()):
            kept = ((settings.program if given.all_projects else settings.project).get("defaults") or {}).get(job_type)
            values = {k: v for k, v in (kept or {}).items() if k != option}
            preset = {option: _value(JOB_OPTIONS[job_type], option, text)} if text else {}
            settings.set_defaults(job_type, values | preset, layer)
        elif "=" in word and name in SHIPPED and name != "defaults":
            settings.set(name, _like(name, text) if text else None, "program" if name in PROGRAM_ONLY else layer)
        else:
            known = ", ".join(n for n in SHIPPED if n != "defaults")
            raise InputError("--set", "must be NAME=VALUE or TYPE.OPTION=VALUE", word, f"Names: {known}.")
    shown = {name: settings.get(name) for name in SHIPPED if name != "defaults"}
    presets = {t: values for t in JOB_OPTIONS if (values := settings.defaults(t))}
    if given.json:
        _print_json({**shown, "defaults": presets})
        return 0
    say("\n".join(f"{name:<16} {value!s:<10} {settings.layer(name)}" for name, value in shown.items()))
    say("".join(f"{t}.{n:<{15 - len(t)}} {v}\n" for t, values in presets.items() for n, v in values.items()), end="")
    return 0


def _like(name: str, text: str) -> Any:
    """``text`` as a value of setting ``name``. Raises InputError."""
    example = SHIPPED[name]
    if text not in CHOICES.get(name, (text,)):
        raise InputError(name, f"must be {' or '.join(CHOICES[name])}", text, "Choose one.")
    try:
        if isinstance(example, bool):
            return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}[text.lower()]
        return type(example)(text)
    except (KeyError, ValueError):
        kind = "yes or no" if isinstance(example, bool) else "a number"
        raise InputError(name, f"must be {kind}", text, "Correct it.") from None


def _cluster_command(project: Project, given: argparse.Namespace) -> int:
    fields = cluster.ClusterSettings.model_fields
    changes = {name: value for name in fields if (value := getattr(given, name)) is not None}
    settings = cluster.load_settings(project.root)
    if given.template and os.path.exists(given.template):
        changes["template"] = os.path.abspath(given.template)
    if changes:
        try:
            settings = cluster.ClusterSettings(**{**settings.model_dump(), **changes})
        except ValidationError as error:
            raise explain(error) from None
        cluster.save_settings(project.root, settings)
    elif said := cluster.settings_of_the_project(project.root):
        say(f"gaussianem: {said}", error=True)
    if given.json:
        _print_json(settings.model_dump())
    else:
        say("\n".join(f"{name:<10} {value}" for name, value in settings.model_dump().items()))
    return 0


# --- gaussianem job -------------------------------------------------------------------------------------------------


def _job_parser() -> argparse.ArgumentParser:
    types = ", ".join(JOB_OPTIONS)
    parser = argparse.ArgumentParser(
        prog="gaussianem job",
        description="Make, run, watch and undo jobs of a project.",
        epilog=f"Job types: {types}. JOB is a name (Train/job003), a number or an alias. The options of a type are "
        "those of `gaussianem TYPE --help`.",
        allow_abbrev=False,
    )
    parser.add_argument("--project", default="", help="directory of the project; without it this one or one above it")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *arguments: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        # Wherever it stands it means the same; the default must not hide one given before the command.
        sub.add_argument("--project", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        for argument in arguments:
            sub.add_argument(argument.rstrip("*+"), nargs=argument[-1] if argument[-1] in "*+" else None)
        return sub

    def make(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--from", dest="inputs_from", nargs="+", default=[], metavar="JOB", help="jobs whose files fill the inputs"
        )
        sub.add_argument("--alias", default="", help=action("alias").tip)
        sub.add_argument("--note", default="", help=action("note").tip)

    def launch(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--after", nargs="+", default=[], metavar="JOB", help="start only when these have succeeded")
        sub.add_argument("--wait", action="store_true", help="return when the job has ended, with its exit code")

    new = add("new", action("new_job").tip + ": TYPE and its options", "type")
    make(new)
    for name in ("run", "submit"):
        sub = add(name, action(name).tip + ". JOB, or TYPE and its options to make a new one", "job")
        make(sub)
        launch(sub)
        if name == "run":
            sub.add_argument("--gpu_count", type=int, default=None, help="GPUs to give the job")
    sub = add(
        "check",
        "Say before it runs whether a job can: inputs, particles, disk, GPU memory, time. JOB, or TYPE and its options",
        "job",
    )
    sub.add_argument(
        "--from", dest="inputs_from", nargs="+", default=[], metavar="JOB", help="jobs whose files fill the inputs"
    )
    sub = add("continue", action("continue").tip + "; options change it", "job")
    launch(sub)
    sub.add_argument("--submit", action="store_true", help=action("submit").tip)
    sub = add("clone", action("clone").tip, "job")
    sub.add_argument("--alias", default="", help=action("alias").tip)
    sub = add("abort", action("abort").tip, "jobs+")
    sub.add_argument("--wait", action="store_true", help="return when it has ended")
    sub.add_argument("--grace_seconds", type=float, default=20.0, help="time to obey before signals are sent")
    add("unrequest", action("unrequest").tip, "jobs+")
    sub = add("delete", action("delete").tip, "jobs+")
    sub.add_argument("--with_dependents", action="store_true", help="delete the jobs that depend on it as well")
    add("restore", "Bring a job back from the trash", "jobs+")
    sub = add("list", "List the jobs of the project")
    sub.add_argument("--json", action="store_true")
    sub.add_argument(
        "--full", action="store_true", help=f"times and reasons of all finished jobs, not of the newest {NEWEST} alone"
    )
    sub.add_argument("--trash", action="store_true", help=action("trash").tip)
    sub.add_argument("--state", default="", help="only jobs in this state")
    sub = add("show", "Show all about a job", "job")
    sub.add_argument("--json", action="store_true")
    sub = add("log", "Print what the job has written", "job")
    sub.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    sub.add_argument("--error", action="store_true", help="run.err instead of run.out")
    sub = add("wait", "Wait until the jobs have ended; the exit code is that of the worst", "jobs+")
    sub.add_argument("--timeout", type=float, default=None, help="seconds")
    add("alias", action("alias").tip, "job", "alias")
    add("note", "Add to the job's note, or show it", "job", "text*")
    sub = add("mark", "Set the state of a job that does not run", "job", "state")
    sub = add("cleanup", action("cleanup").tip, "jobs+")
    sub.add_argument("--harsh", action="store_true", help=action("cleanup_harsh").tip)
    sub.add_argument("--dry_run", action="store_true", help="only say what would go")
    sub = add("gpus", "List the GPUs of this machine and who holds them")
    sub.add_argument("--json", action="store_true")
    sub = add("zombies", "List processes that ended jobs have left behind")
    sub.add_argument("--json", action="store_true")
    sub.add_argument("--kill", action="store_true", help="end them")
    sub = add("workflow", action("workflow").tip, "name*")
    sub.add_argument("--set", nargs="+", default=[], metavar="STEP.OPTION=VALUE", dest="values")
    sub.add_argument("--from", dest="inputs_from", nargs="+", default=[], metavar="JOB")
    sub.add_argument("--save", default="", metavar="FILE", help="write the jobs named as a workflow into this file")
    sub.add_argument("--submit", action="store_true", help=action("submit").tip)
    sub = add("exec", "Run a job's options in this process (what RELION calls for jobs of ours)")
    sub.add_argument("--o", required=True, help="directory of the job, from the project")
    sub.add_argument("--j", default="", help=argparse.SUPPRESS)
    return parser


_TAKES_OPTIONS = ("new", "run", "submit", "check", "continue", "clone")


def job_main(argv: list[str] | None = None) -> int:
    """``gaussianem job COMMAND``; returns the exit code: 0, 1 for a failed or lost job or where disk or machine
    refused, 2 for bad input, 3 for an aborted job, 4 where a wait timed out, 130 after Ctrl+C."""
    words = list(sys.argv[1:] if argv is None else argv)

    def go() -> int:
        given, rest = _job_parser().parse_known_args(words)
        if rest and given.command not in _TAKES_OPTIONS:
            _job_parser().error(f"unrecognized arguments: {' '.join(rest)}")
        project = Project.open(given.project) if given.project else Project.find(".")
        _tell_notes(project)
        return _JOB_COMMANDS[given.command](project, given, rest)

    return _guarded("job", go)


def _guarded(name: str, go: Callable[[], int]) -> int:
    try:
        return go()
    except InputError as error:
        say(f"gaussianem {name}: {error}", error=True)
        return BAD_INPUT
    except TimeoutError as error:
        say(f"gaussianem {name}: {error}", error=True)
        return TIMED_OUT
    except BrokenPipeError:  # the reader of our output went away
        sys.stdout = open(os.devnull, "w")
        return 0
    except KeyboardInterrupt:
        return 130
    except (ResourceError, OSError) as error:  # a full disk, a project that may not be written
        say(f"gaussianem {name}: {_reason(error)}", error=True)
        return FAILED


def _reason(error: Exception) -> str:
    """A sentence on what the disk or the machine refused."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}. Free some space and do it again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"this may not be written or read{where}: {error.strerror}. Ask its owner, or work on a copy."
    return f"{error.strerror}{where}."


def _made(project: Project, given: argparse.Namespace, word: str, rest: list[str]) -> Job:
    model = JOB_OPTIONS[word]
    values = parse_values(model, rest, project, f"gaussianem job {given.command} {word}")
    return project.new_job(
        word, values, inputs_from=[project.job(name) for name in given.inputs_from], alias=given.alias, note=given.note
    )


def _new(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    if given.type not in JOB_OPTIONS:
        raise InputError("job type", "must be one of " + ", ".join(JOB_OPTIONS), given.type, "Choose one of them.")
    say(_made(project, given, given.type, rest).name)
    return 0


def _run(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    if given.job in JOB_OPTIONS:
        job = _made(project, given, given.job, rest)
    else:
        job = project.job(given.job)
        if rest:
            if job.model is None:
                raise InputError("job", "must be one of GaussianEM's", job.name, "Run it where it was made.")
            project.update(job, parse_values(job.model, rest, project, f"gaussianem job {given.command}"))
    launch = runner.Launch(
        "cluster" if given.command == "submit" else "local", getattr(given, "gpu_count", None), tuple(given.after)
    )
    runner.request(project, job, launch)
    return _started(project, job, given.wait)


def _started(project: Project, job: Job, wait: bool) -> int:
    identifier = job.record().get("scheduler_id")
    say(job.name + (f" (scheduler's id {identifier})" if identifier else ""), flush=True)
    return _wait_for(project, [job], None) if wait else 0


def _check(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    if given.job in JOB_OPTIONS:
        job_type = given.job
        values = project.fill(job_type, given.inputs_from, parse_values(JOB_OPTIONS[job_type], rest, project, "check"))
    else:
        job = project.job(given.job)
        if job.model is None:
            raise InputError("job", "must be one of GaussianEM's", job.name, "Check it where it was made.")
        job_type = job.job_type
        values = {**job.values(), **parse_values(job.model, rest, project, "gaussianem job check")}
    model = JOB_OPTIONS[job_type]
    values = {n: f.default for n, f in model.model_fields.items() if not f.is_required()} | values
    wrong = {
        **validation.path_errors(model, values, project.root, frozenset(project.graph().nodes)),
        **validation.field_errors(model, values),
    }
    found = [estimates.Check("error", f"--{n}: {t[:1].lower()}{t[1:]}" if n else t) for n, t in wrong.items()]
    if not wrong:
        machine = estimates.Machine.of(runner.gpus())
        found = estimates.checks(job_type, values, project.root, machine, estimates.last_rate(project))
    say("\n".join(f"{check.level:<8} {check.text}" for check in found))
    return BAD_INPUT if any(check.level == "error" for check in found) else 0


def _continue(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    job = project.job(given.job)
    changes = parse_values(job.model, rest, project, "gaussianem job continue") if job.model is not None else {}
    launch = runner.Launch("cluster" if given.submit else "local", None, tuple(given.after))
    runner.continue_job(project, job, changes, launch)
    return _started(project, job, given.wait)


def _clone(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    old = project.job(given.job)
    changes = parse_values(old.model, rest, project, "gaussianem job clone") if old.model is not None else {}
    job = project.clone(old, changes)
    if given.alias:
        project.set_alias(job, given.alias)
    say(job.name)
    return 0


def _abort(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    for word in given.jobs:
        runner.abort(project, word, grace_seconds=given.grace_seconds, wait=given.wait)
    return 0


def _unrequest(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    for word in given.jobs:
        runner.unrequest(project, word)
    return 0


def _delete(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    for word in given.jobs:
        gone = {info.name for info in project.jobs(details=0) if info.missing}
        for name in trash.delete(project, word, with_dependents=given.with_dependents):
            say(f"{name} " + ("taken out of the list" if name in gone else "moved to the trash"))
    return 0


def _restore(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    for name in given.jobs:
        say(trash.restore(project, name).name)
    return 0


def _list(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    if given.trash:
        gone = trash.contents(project)
        if given.json:
            _print_json([{"name": t.name, "deleted": t.deleted, "restorable": t.restorable} for t in gone])
        else:
            say("\n".join(f"{t.name:<22} {time.strftime('%F %T', time.localtime(t.deleted))}" for t in gone))
        return 0
    if not project.read_only:
        try:
            project.sync()
        except (InputError, OSError) as error:  # a full disk: what is there can be read all the same
            say(f"gaussianem: the states could not be noted in the project: {error}", error=True)
    rows = [
        i
        for i in project.jobs(details=1_000_000 if given.full else NEWEST)
        if given.state.lower() in ("", i.status.state.value.lower())
    ]
    if given.json:
        _print_json([row(info) for info in rows])
    elif rows:
        say("\n".join(map(_line, rows)))
    return 0


def _show(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    job, info = project.job(given.job), project.info(given.job)
    about = {
        **row(info),
        "inputs": project.inputs(job),
        "outputs": [choice.path for choice in project.outputs(job)],
        "parents": project.parents(job),
        "children": project.children(job),
        "values": job.values() if job.exists() else {},
        "next": project.suggestions(job),
        "size_bytes": job.size_bytes(),
    }
    if given.json:
        _print_json(about)
        return 0
    say(f"{_line(info)}\ndisk: {bytes_text(about['size_bytes'])}")
    for title in ("inputs", "outputs", "parents", "children", "next"):
        say(f"{title}:" + "".join(f"\n  {word}" for word in about[title]))
    if job.model is not None and job.exists():
        try:
            say("command:\n  " + shlex.join(job.command()))
        except InputError as error:
            say(f"not complete: {error}")
    say(job.note(), end="")
    return 0


def _log(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    job = project.job(given.job)
    path = job.directory / (ERR if given.error else OUT)
    offset = 0
    if given.follow:
        runner.check_asked(job)
    while True:
        finished = job.status().state.finished or not given.follow
        offset = _print_from(path, offset)
        if finished:
            if given.follow and job.status().detail:
                say(f"{job.name} {job.status().state}: {job.status().detail}", error=True)
            return 0
        time.sleep(0.5)


def _print_from(path: Path, offset: int) -> int:
    """Print a log from a byte on, piece by piece; the byte to go on from."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size < offset:  # it was replaced
                offset = 0
            file.seek(offset)
            while data := file.read(LOG_BYTES):
                offset += len(data)
                sys.stdout.write(_log_text(decoder.decode(data)))
    except FileNotFoundError:
        return offset
    kept = len(decoder.getstate()[0])  # a character of which a part is still to be written
    sys.stdout.flush()
    return offset - kept


def _log_text(text: str) -> str:
    """A piece of a log with line ends as they are: a progress bar writes over its line, and steers nothing else."""
    return "\r".join(map(printable, _ESCAPES.sub("", text).split("\r")))


def _wait(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    return _wait_for(project, [project.job(word) for word in given.jobs], given.timeout)


def _wait_for(project: Project, jobs: Sequence[Job], timeout: float | None) -> int:
    worst = 0
    for job in jobs:
        state = runner.wait(project, job, timeout)
        detail = job.status().detail
        say(f"{job.name} {state}" + (f": {detail}" if detail else ""), flush=True)
        worst = max(worst, EXIT_OF[state])
    return worst


def _alias(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    project.set_alias(given.job, given.alias)
    return 0


def _note(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    job = project.job(given.job)
    if given.text:
        job.add_note(" ".join(given.text))
    else:
        say(job.note(), end="")
    return 0


def _mark(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    state = next((s for s in State if s.value.lower() == given.state.lower()), None)
    if state is None:
        raise InputError("state", "must be succeeded, failed or aborted", given.state, "Choose one.")
    project.mark(given.job, state)
    return 0


def _cleanup(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    for word in given.jobs:
        say("\n".join(trash.cleanup(project, word, harsh=given.harsh, dry_run=given.dry_run)))
    return 0


def _gpus(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    cards = runner.gpus()
    if given.json:
        _print_json([card.__dict__ for card in cards])
    else:
        for c in cards:
            load = f"{100 * c.load:3.0f} %" if c.load is not None else "   ?"
            say(f"{c.index} {c.name} {c.memory_used / 2**30:.1f} of {c.memory_total / 2**30:.1f} GiB {load} {c.job}")
        if not cards:
            say("no GPU on this machine")
    return 0


def _zombies(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    found = runner.zombies(project)
    for zombie in found if given.kill else ():
        runner.kill_zombie(project, zombie)
    if given.json:
        _print_json([zombie.__dict__ for zombie in found])
    else:
        for z in found:
            say(f"{z.pid} {z.job} {z.gpu_bytes / 2**30:.1f} GiB of GPU memory: {z.command}")
    return 0


def _workflow(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    if given.save:
        workflow.save(workflow.from_jobs(project, given.name, Path(given.save).stem), given.save)
        return 0
    known = workflow.builtin()
    if not given.name:
        for name, each in known.items():
            say(f"{name:<26} {each.name}; needs {', '.join(each.needs()) or 'nothing'}")
        return 0
    chosen = known[given.name[0]] if given.name[0] in known else workflow.load(given.name[0])
    values: dict[str, Any] = {}
    for word in given.values:
        key, equals, value = word.partition("=")
        step = next((s for s in chosen.steps if s.id == key.partition(".")[0]), None)
        option = key.partition(".")[2]
        if not equals or step is None or option not in JOB_OPTIONS[step.job_type].model_fields:
            steps = ", ".join(s.id for s in chosen.steps)
            raise InputError("--set", "must be STEP.OPTION=VALUE", word, f"Steps: {steps}.")
        model = JOB_OPTIONS[step.job_type]
        values[key] = _value(model, option, _project_path(project, value) if is_path_field(model, option) else value)
    launch = runner.Launch("cluster" if given.submit else "local")
    for job in workflow.start(project, chosen, values, inputs=given.inputs_from, launch=launch):
        say(job.name)
    return 0


def _exec(project: Project, given: argparse.Namespace, rest: list[str]) -> int:
    """Run the engine in place of this process, on the options in the directory that RELION names."""
    job = project.job(os.path.relpath(Path(given.o).resolve(), project.root))
    job.options()
    os.chdir(project.root)
    command = runner.engine_command(job, 1, os.environ.get(runner.ENGINE, ""))
    os.execvp(command[0], command)
    return 0


_JOB_COMMANDS: dict[str, Callable[[Project, argparse.Namespace, list[str]], int]] = {
    "new": _new,
    "run": _run,
    "submit": _run,
    "check": _check,
    "continue": _continue,
    "clone": _clone,
    "abort": _abort,
    "unrequest": _unrequest,
    "delete": _delete,
    "restore": _restore,
    "list": _list,
    "show": _show,
    "log": _log,
    "wait": _wait,
    "alias": _alias,
    "note": _note,
    "mark": _mark,
    "cleanup": _cleanup,
    "gpus": _gpus,
    "zombies": _zombies,
    "workflow": _workflow,
    "exec": _exec,
}
