"""The program ``gaussianem``: one subcommand a job, made from the option models."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

from gaussianem_core import __version__
from gaussianem_core.errors import AbortRequested, InputError, ResourceError, ResultError
from gaussianem_core.options import JOB_OPTIONS, JobOptions, explain, load_options
from gaussianem_core.runtime.interpreter import distrust_working_directory, python
from gaussianem_core.runtime.sources import sources_kept

# Jobs are loaded when called: the others' libraries (torch, Qt) stay unloaded.
COMMANDS = {
    "gui": ("gaussianem_gui.app:main", "open the desktop application"),
    "project": ("gaussianem_gui.terminal.commands:project_main", "make, list and repair projects"),
    "job": ("gaussianem_gui.terminal.commands:job_main", "make, run, watch and undo jobs of a project"),
    "import": ("gaussianem_gui.project.import_job:main", "register particles, maps, masks or models of a project"),
    "serve": ("gaussianem_core.commands.serve:main", "decode on request, for the explorer"),
    "demo": ("gaussianem_gui.demo.run:main", "simulate a small moving molecule and recover its motion"),
}

WAITING = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "5000"}
"""Environment of OpenMP, read when torch and numba load: threads that wait spin for tens of microseconds, then sleep.

Threads that spin for long take cores from each other and from other programs. Threads that sleep at once, which
"passive" makes them do wherever there are more threads than cores, whatever the count, must be woken by the system for
each small step. Either made small steps 40 times slower.
"""
PATIENCE_SECONDS = 30.0
"""How long the processes of a training may outlive one of them."""


def usage() -> str:
    """The overview that ``gaussianem --help`` prints."""
    lines = [f"gaussianem {__version__}: heterogeneity in cryo-EM with 3D Gaussians", "", "Commands:"]
    for name, model in JOB_OPTIONS.items():
        if name in COMMANDS:
            continue
        lines.append(f"  {name:<12}{(model.__doc__ or '').strip().splitlines()[0]}")
    lines += [f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items()]
    last = "gaussianem COMMAND --help lists a command's options; --install_completion [bash|zsh|fish] completes them."
    return "\n".join([*lines, "", last])


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or those of ``job.events`` (1 failure, 2 bad input, 3 aborted)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal does not have must not end a job
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
    distrust_working_directory()
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(__version__)
        return 0
    if argv[0] in ("--install_completion", "--install-completion"):
        return _install_completion(argv[1] if len(argv) > 1 else "")
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
    return _leave_group(run_job(options, [name, *rest]))


def _install_completion(shell: str) -> int:
    from gaussianem_core.job.completion import install

    try:
        path = install(shell, {name: text for name, (_, text) in COMMANDS.items()})
    except (InputError, OSError) as error:
        print(f"gaussianem: {error}", file=sys.stderr)
        return 2
    print(f"wrote {path}: open a new shell to use it")
    return 0


def parse(model: type[JobOptions], arguments: list[str]) -> JobOptions:
    """Options from the command line, over those of ``--options FILE``.

    Raises InputError for a value that the model refuses or a file that cannot be read. ``--help`` and unknown options
    exit the process.
    """
    from pydantic import ValidationError

    from gaussianem_core.job.command_line import OptionParser, without_blanks

    parser = OptionParser(f"gaussianem {model.job_type}", model)
    parser.add_argument("--options", metavar="FILE", help="take the options that are not given from this file")
    given = parser.given(arguments)
    source = given.pop("options", None)
    try:
        return model(**{**(load_options(model, source) if source is not None else {}), **without_blanks(model, given)})
    except ValidationError as error:
        raise explain(error) from error


def run_job(options: JobOptions, command: list[str]) -> int:
    """Run a job in its output directory with its events; messages and errors go to the terminal. Returns the exit code.

    Errors other than those of ``errors``, too little memory and a failing disk are raised.
    """
    from gaussianem_core.job.events import EXIT_ABORTED, EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_SUCCESS, OPTIONS, JobLog
    from gaussianem_core.job.input_paths import input_files
    from gaussianem_core.job.terminal import Terminal
    from gaussianem_core.options import options_json
    from gaussianem_core.runtime.files import write_atomically

    directory = options.output_directory()
    prefix = f"gaussianem {options.job_type}"
    try:
        rank = int(os.environ.get("RANK", "0"))
        if rank:
            return _run_silent_rank(options)
        refuse_finished(directory, options)
        gpus = [g for g in getattr(options, "gpus", "").split(",") if g]
        if gpus and "RANK" not in os.environ:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpus(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
            if len(gpus) > 1 and gpus_present(len(gpus), options):
                return _launch_ranks(len(gpus), command, directory)
        with Terminal() as terminal, JobLog(directory, ["gaussianem", *command], __version__, terminal.show) as log:
            job = load_job(options)
            target = directory / OPTIONS
            before = target.read_text(errors="replace") if target.is_file() else None
            if before != options_json(options):
                write_atomically(target, options_json(options))
            try:
                if gpus and not gpus_present(len(gpus), options):
                    raise InputError(
                        "--gpus",
                        "must name GPUs of this machine that torch can use",
                        ",".join(gpus),
                        "Check nvidia-smi and that torch is a CUDA build, or leave it out to train on the CPU.",
                    )
                with sources_kept(input_files(options)):
                    job.run(options, log)
            except InputError:
                if before is not None:  # what made the results that are there
                    write_atomically(target, before)
                raise
        return EXIT_SUCCESS
    except AbortRequested as stop:
        if os.environ.get("RANK", "0") == "0":  # the others say the same
            print(f"{prefix}: {stop}", file=sys.stderr)
        return EXIT_ABORTED
    except KeyboardInterrupt:
        return EXIT_ABORTED
    except InputError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # the others say the same
            print(f"{prefix}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except (ResourceError, ResultError, MemoryError) as error:
        print(f"{prefix}: {error or 'out of memory'}", file=sys.stderr)
        return EXIT_FAILURE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
            raise
        print(
            f"{prefix}: {error.strerror} ({error.filename or directory}). "
            "Free some space or choose another output directory.",
            file=sys.stderr,
        )
        return EXIT_FAILURE


def load_job(options: JobOptions) -> ModuleType:
    """The module of the job with its libraries, loaded while the CUDA context of a job that takes a GPU is made."""
    from gaussianem_core.runtime.cuda_context import begin_context

    name = f"gaussianem_core.commands.{options.job_type}"
    if name in sys.modules:
        return sys.modules[name]
    if getattr(options, "device", "cpu") != "cpu":
        begin_context(int(os.environ.get("LOCAL_RANK", "0")))
    collects = gc.isenabled()
    gc.collect()
    # Libraries make half a million objects that stay. To search them for garbage again and again, now and later, takes
    # half a second before a training's first step.
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # libraries count what is left over at the end
        if collects:
            gc.enable()


def refuse_finished(directory: Path, options: JobOptions) -> None:
    """Raise InputError if the job in ``directory`` has succeeded, unless ``overwrite`` or ``resume`` is set.

    Nothing in ``directory`` is touched.
    """
    from gaussianem_core.job.events import SUCCESS

    if (directory / SUCCESS).exists() and not options.overwrite and not getattr(options, "resume", False):
        raise InputError(
            "output",
            "must not hold the results of a finished job",
            directory,
            "Choose another --output, or give --overwrite to replace them.",
        )


def visible_gpus(wanted: list[str], visible: str | None) -> str:
    """CUDA_VISIBLE_DEVICES for the GPUs ``wanted``, by number, or by place among those ``visible`` to this process.

    Raises InputError if they are neither.
    """
    present = [word.strip() for word in (visible or "").split(",") if word.strip()]
    if visible is None or all(gpu in present for gpu in wanted):
        return ",".join(wanted)
    if all(int(gpu) < len(present) for gpu in wanted):
        return ",".join(present[int(gpu)] for gpu in wanted)
    raise InputError(
        "--gpus",
        "must be among those that CUDA_VISIBLE_DEVICES leaves",
        ",".join(wanted),
        f"Choose from {','.join(present) or 'none'}.",
    )


def gpus_present(count: int, options: JobOptions) -> bool:
    """Whether torch sees ``count`` GPUs; True for a job on the CPU, where --gpus gives the number of processes."""
    if getattr(options, "device", "auto") == "cpu":
        return True
    import torch

    return torch.cuda.is_available() and torch.cuda.device_count() >= count


def _launch_ranks(count: int, command: list[str], directory: Path) -> int:
    """Start one process a GPU on this machine; the first speaks for all. Returns the exit code of the first to fail.

    A request to stop becomes the abort file, which the first process obeys and tells the others of; a second request
    ends them at once. When one dies the others, which may wait for it for ever, are ended after a while.
    """
    from gaussianem_core.job.events import ABORT, ABORTED, FAILURE, SUCCESS

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, **group}
    program = python("-m", "gaussianem_core", *command)
    ranks: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def stop(number: int, frame: object) -> None:
        asked.append(number)
        if len(asked) == 1 and directory.is_dir():
            (directory / ABORT).touch()
        else:
            for process in ranks:
                process.kill()

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for i in range(count):
            ranks.append(subprocess.Popen(program, env={**environment, "RANK": str(i), "LOCAL_RANK": str(i)}))
        deadline = None
        while any(process.poll() is None for process in ranks):
            if deadline is None and any(process.poll() not in (None, 0) for process in ranks):
                deadline = time.monotonic() + PATIENCE_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                for process in ranks:
                    process.kill()
            time.sleep(0.1)
    finally:
        for process in ranks:
            process.kill()
            process.wait()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    codes = [process.returncode for process in ranks]
    if not any((directory / name).exists() for name in (SUCCESS, FAILURE, ABORTED)) and directory.is_dir():
        (directory / FAILURE).touch()
    return next((code if code > 0 else 1 for code in codes if code), 0)


def _run_silent_rank(options: JobOptions) -> int:
    """The other processes of a training compute and write nothing; requests to stop reach them through the first."""
    from gaussianem_core.job.events import NullLog

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    load_job(options).run(options, NullLog(options.output_directory()))
    return 0


def _leave_group(code: int) -> int:
    """End here a process that trains with others; return the exit code of one that works alone.

    The threads of gloo and of its store outlive the group. One that wants the interpreter while it is taken down ends
    the whole process with SIGABRT, after all its work is done and written: so it is not taken down.
    """
    from gaussianem_core.job.events import EXIT_ABORTED, EXIT_SUCCESS

    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return code
    if code in (EXIT_SUCCESS, EXIT_ABORTED):  # the others come here too, where after a failure they may wait for it
        torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
