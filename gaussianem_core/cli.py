"""The program ``gaussianem``: one subcommand a job, made from the option models."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from typing import Any

from gaussianem_core import __version__
from gaussianem_core.errors import AbortRequested, InputError, ResourceError
from gaussianem_core.options import JOB_OPTIONS, JobOptions, hints, load_options

# Jobs are loaded when called: the others' libraries (torch, Qt) stay unloaded.
COMMANDS = {
    "gui": ("gaussianem_gui.app:main", "open the desktop application"),
    "project": ("gaussianem_gui.commands:project_main", "make, list and repair projects"),
    "job": ("gaussianem_gui.commands:job_main", "make, run, watch and undo jobs of a project"),
    "serve": ("gaussianem_core.serve:main", "decode on request, for the explorer"),
    "demo": ("gaussianem_gui.demo:main", "simulate a small moving molecule and recover its motion"),
}


def usage() -> str:
    """The overview that ``gaussianem --help`` prints."""
    lines = [f"gaussianem {__version__}: heterogeneity in cryo-EM with 3D Gaussians", "", "Commands:"]
    for name, model in JOB_OPTIONS.items():
        lines.append(f"  {name:<12}{(model.__doc__ or '').strip().splitlines()[0]}")
    lines += [f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([*lines, "", "gaussianem COMMAND --help lists a command's options."])


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code (see ``events``)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(__version__)
        return 0
    name, rest = argv[0], argv[1:]
    if name in COMMANDS:
        module, function = COMMANDS[name][0].split(":")
        return int(getattr(importlib.import_module(module), function)(rest) or 0)
    if name not in JOB_OPTIONS:
        print(f"gaussianem: unknown command {name!r}\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        options = parse(JOB_OPTIONS[name], rest)
    except InputError as error:
        print(f"gaussianem {name}: {error}", file=sys.stderr)
        return 2
    return run_job(options, [name, *rest])


def parse(model: type[JobOptions], arguments: list[str]) -> JobOptions:
    """Options from the command line over those of ``--options FILE``. Raises InputError; --help exits."""
    import tyro
    from pydantic import ValidationError

    from gaussianem_core.options import explain

    aliases = {alias: f"--{name}" for name in model.model_fields if (alias := hints(model, name)["alias"])}
    arguments = [aliases.get(argument, argument) for argument in arguments]
    defaults: dict[str, Any] = {}
    for flag in ("--options", "--options="):
        for i, argument in enumerate(arguments):
            if argument == flag and i + 1 < len(arguments):
                defaults = load_options(model, arguments[i + 1])
                del arguments[i : i + 2]
                break
            if flag.endswith("=") and argument.startswith(flag):
                defaults = load_options(model, argument.removeprefix(flag))
                del arguments[i]
                break
    try:
        return tyro.cli(
            tyro.conf.configure(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)(model),
            args=arguments, prog=f"gaussianem {model.job_type}", description=model.__doc__, use_underscores=True,
            default=model.model_construct(**{**_blank(model), **defaults}) if defaults else tyro.MISSING_NONPROP,
        )  # fmt: skip
    except ValidationError as error:
        raise explain(error) from error


def _blank(model: type[JobOptions]) -> dict[str, Any]:
    import tyro

    return {
        name: tyro.MISSING if field.is_required() else field.get_default() for name, field in model.model_fields.items()
    }


def run_job(options: JobOptions, command: list[str]) -> int:
    """Run a job in its output directory with its events; messages go to the terminal. Returns the exit code."""
    from gaussianem_core.events import (
        EXIT_ABORTED,
        EXIT_BAD_INPUT,
        EXIT_FAILURE,
        EXIT_SUCCESS,
        OPTIONS,
        JobLog,
        write_atomically,
    )
    from gaussianem_core.options import options_json
    from gaussianem_core.terminal import Terminal

    gpus = [g for g in getattr(options, "gpus", "").split(",") if g]
    if gpus and "RANK" not in os.environ:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(gpus))
        if len(gpus) > 1:
            return _launch_ranks(len(gpus), command)
    directory = options.output_directory()
    prefix = f"gaussianem {options.job_type}"
    try:
        if int(os.environ.get("RANK", "0")):
            return _run_silent_rank(options)
        with Terminal() as terminal, JobLog(directory, ["gaussianem", *command], __version__, terminal.show) as log:
            job = importlib.import_module(f"gaussianem_core.{options.job_type}")
            target = directory / OPTIONS
            if not target.exists() or target.read_text() != options_json(options):
                write_atomically(target, options_json(options))
            job.run(options, log)
        return EXIT_SUCCESS
    except AbortRequested as stop:
        print(f"{prefix}: {stop}", file=sys.stderr)
        return EXIT_ABORTED
    except InputError as error:
        print(f"{prefix}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except (ResourceError, MemoryError) as error:
        print(f"{prefix}: {error or 'out of memory'}", file=sys.stderr)
        return EXIT_FAILURE


def _launch_ranks(count: int, command: list[str]) -> int:
    """Start one process a GPU on this machine with torchrun and pass signals on to it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    with subprocess.Popen([*launcher, "-m", "gaussianem_core", *command]) as process:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda n, frame: process.send_signal(n))
        return process.wait()


def _run_silent_rank(options: JobOptions) -> int:
    """The other processes of a training compute and write nothing."""
    from gaussianem_core.events import NullLog

    importlib.import_module(f"gaussianem_core.{options.job_type}").run(options, NullLog(options.output_directory()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
