"""Jobs on a cluster: RELION's submission templates, presets for five schedulers, submit, state, cancel.

Only the scheduler's own commands are used, each as an argument list. The engine's command is quoted word by word
where it enters the script; the other values may hold nothing that a shell would read.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from gaussianem_core.errors import InputError
from gaussianem_core.job.events import ABORT, ABORTED, FAILURE, HEARTBEAT
from gaussianem_core.options import explain, option
from gaussianem_core.runtime.files import write_atomically
from gaussianem_core.runtime.interpreter import python
from gaussianem_core.runtime.plain_files import open_regular
from gaussianem_gui.project import small_files, wishes
from gaussianem_gui.project.job import ERR, EXIT, OUT, Job
from gaussianem_gui.project.small_files import LARGEST_BYTES, read_object
from gaussianem_gui.project.user_folders import config_folder
from gaussianem_gui.project.wishes import Wish

SCRIPT = "run_submit.script"
SETTINGS = ".gaussianem/cluster.json"  # of older versions: not used any more
ANSWER_SECONDS = 60.0
SETTLE_SECONDS = 30.0  # a network disk may show the exit file that much later than the scheduler the end


class ClusterSettings(BaseModel):
    """How jobs are submitted: the scheduler, its template, and what the template's variables are filled with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["slurm", "pbs", "torque", "sge", "lsf"] = option(
        "slurm", "the cluster's scheduler", group="Cluster"
    )
    template: str = option(
        "",
        "submission template of your site (as for RELION); without it the one that ships",
        group="Cluster",
        widget="file",
        filter="*.sh *.bash *.csh *.script *.template",
    )
    submit: str = option("", "command that submits; without it the scheduler's usual one", group="Cluster")
    queue: str = option("", "queue or partition (XXXqueueXXX)", group="Cluster")
    nodes: int = option(
        0,
        "nodes (XXXnodesXXX); 0: as the cores need. With Slurm a training runs on all of them, each with so many GPUs; "
        "other jobs compute on one",
        group="Cluster",
        ge=0,
        advanced=True,
    )
    mpi: int = option(1, "tasks (XXXmpinodesXXX)", group="Cluster", ge=1, advanced=True)
    threads: int = option(4, "CPU threads of a task (XXXthreadsXXX)", group="Cluster", ge=1)
    gpus: int = option(1, "GPUs (XXXgpusXXX); more than one trains through torchrun", group="Cluster", ge=0)
    dedicated: int = option(1, "cores of a node at least (XXXdedicatedXXX)", group="Cluster", ge=1, advanced=True)
    memory_gb: int = option(0, "memory (XXXmemoryXXX); 0: the queue's default", group="Cluster", unit="GB", ge=0)
    time: str = option("", "time limit as your scheduler writes it, e.g. 12:00:00 (XXXtimeXXX)", group="Cluster")
    extra1: str = option("", "XXXextra1XXX of the template", group="Cluster", advanced=True)
    extra2: str = option("", "XXXextra2XXX of the template", group="Cluster", advanced=True)
    extra3: str = option("", "XXXextra3XXX of the template", group="Cluster", advanced=True)

    @field_validator("queue", "time", "extra1", "extra2", "extra3")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not re.fullmatch(r"[\w.,:@/=+%\[\] -]*", value):
            raise ValueError("must hold letters, digits, blanks and . , : @ / = + % - [ ] alone")
        return value


@dataclass(frozen=True)
class Preset:
    """A scheduler: its commands, the pattern of a job's id in its answer, and its words for states.

    ``query`` is called with the ids appended (joined by ``join``, or as single words if that is empty); ``row`` finds
    id and state in its answer; ``words`` maps a state to ours: pending, running, done, failed, cancelled, lost,
    timeout, memory. ``resources`` are the parts of XXXresourcesXXX, for schedulers that take all in one directive; a
    part whose value is empty is left out. ``by_stdin``: the script is piped to ``submit`` instead of named.
    """

    title: str
    submit: tuple[str, ...]
    cancel: tuple[str, ...]
    query: tuple[str, ...]
    id_pattern: str
    row: str
    words: Mapping[str, str]
    template: str
    join: str = ""
    by_stdin: bool = False
    resources: tuple[str, ...] = ()


_SLURM = {
    "PENDING": "pending",
    "CONFIGURING": "pending",
    "SUSPENDED": "running",
    "RUNNING": "running",
    "COMPLETING": "running",
    "STAGE_OUT": "running",
    "COMPLETED": "done",
    "FAILED": "failed",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "OUT_OF_MEMORY": "memory",
    "CANCELLED": "cancelled",
    "NODE_FAIL": "lost",
    "BOOT_FAIL": "lost",
    "PREEMPTED": "lost",
    "REQUEUED": "pending",
    "REVOKED": "cancelled",
}
PRESETS: dict[str, Preset] = {
    "slurm": Preset(
        "Slurm",
        ("sbatch",),
        ("scancel",),
        ("squeue", "--noheader", "--states=all", "--format=%i %T", "--jobs"),
        r"Submitted batch job (\d+)|^(\d+)",
        r"^(\d+) (\w+)",
        _SLURM,
        "slurm.sh",
        join=",",
    ),
    "pbs": Preset(
        "PBS",
        ("qsub",),
        ("qdel",),
        ("qstat", "-x"),
        r"^(\d+(?:\[\])?(?:\.\S+)?)\s*$",
        r"^(\d+\S*)\s.*\s([A-Z])\s+\S+\s*$",
        {
            "Q": "pending",
            "H": "pending",
            "W": "pending",
            "T": "pending",
            "S": "running",
            "R": "running",
            "E": "running",
            "C": "done",
            "F": "done",
            "X": "done",
        },
        "pbs.sh",
        resources=("select={nodes}:ncpus={cores}", ":ngpus={gpus}", ":mem={memory}gb"),
    ),
    "sge": Preset(
        "Grid Engine",
        ("qsub",),
        ("qdel",),
        ("qstat",),
        r"Your job (\d+)",
        r"^\s*(\d+)\s+\S+\s+\S+\s+\S+\s+(\w+)\s",
        {
            "qw": "pending",
            "hqw": "pending",
            "Eqw": "failed",
            "r": "running",
            "t": "running",
            "dr": "running",
            "s": "running",
            "S": "running",
            "T": "running",
        },
        "sge.sh",
    ),
    "lsf": Preset(
        "LSF",
        ("bsub",),
        ("bkill",),
        ("bjobs", "-noheader", "-o", "jobid stat"),
        r"Job <(\d+)>",
        r"^(\d+)\s+(\w+)",
        {
            "PEND": "pending",
            "PSUSP": "pending",
            "WAIT": "pending",
            "RUN": "running",
            "USUSP": "running",
            "SSUSP": "running",
            "DONE": "done",
            "EXIT": "failed",
            "ZOMBI": "lost",
        },
        "lsf.sh",
        by_stdin=True,
    ),
}
# The same commands; but -x has another meaning, and resources have other names.
PRESETS["torque"] = replace(
    PRESETS["pbs"],
    title="Torque",
    query=("qstat",),
    resources=("nodes={nodes}:ppn={cores}", ":gpus={gpus}", ",mem={memory}gb"),
)
_ENDED = {
    "failed": "{who} says it failed; see run.err",
    "timeout": "{who} ended it at its time limit",
    "memory": "out of memory: {who} ended it, ask for more memory",
}


def presets() -> dict[str, Preset]:
    """The schedulers by name."""
    return dict(PRESETS)


def _settings_file(root: Path) -> Path:
    """The user's settings for one project: in the user's own folder, since they say what is run."""
    name = re.sub(r"[^\w.-]", "_", root.name)[:40]
    return config_folder() / "clusters" / f"{name}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.json"


def load_settings(root: Path) -> ClusterSettings:
    """This user's settings for a project; without them RELION's environment variables (RELION_QSUB_TEMPLATE, ...).

    A file of settings in the project itself is never used, as it may come from anyone. Raises InputError where there
    is one and the user has given none, and for settings that are damaged.
    """
    path = _settings_file(root)
    environment = {
        "template": os.environ.get("RELION_QSUB_TEMPLATE", ""),
        "queue": os.environ.get("RELION_QUEUE_NAME", ""),
        "submit": os.environ.get("RELION_QSUB_COMMAND", ""),
    }
    values: dict[str, Any] = {name: value for name, value in environment.items() if value}
    try:
        if path.exists():
            values = read_object(path)
        return ClusterSettings(**values)
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, ValidationError):
            raise explain(error) from error
        raise InputError("cluster settings", "must be readable", path, f"{error}.") from error


def settings_of_the_project(root: Path) -> str:
    """A sentence if the project holds cluster settings that are not used, and the user has given none; "" otherwise."""
    if not (root / SETTINGS).exists() or _settings_file(root).exists():
        return ""
    return (
        f"The cluster settings in {SETTINGS} came with the project and are not used, since they say what is run. "
        "Give your own once: gaussianem project cluster --preset ..., or Settings, Cluster."
    )


def save_settings(root: Path, settings: ClusterSettings) -> None:
    """Write the user's settings for a project, outside of it. Raises InputError as :func:`template_text`, OSError."""
    if settings.template:
        template_text(settings, root)
    path = _settings_file(root)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, json.dumps(settings.model_dump(), indent=1) + "\n")


def template_text(settings: ClusterSettings, root: Path) -> str:
    """The text of the template. Raises InputError if it cannot be read, lies in the project or lacks XXXcommandXXX."""
    if not settings.template:
        folder = importlib.resources.files("gaussianem_resources")
        return (folder / "queues" / PRESETS[settings.preset].template).read_text()
    path = root / os.path.expanduser(settings.template)
    _refuse_inside(root, path, "option template")
    try:
        with open_regular(path) as file:
            text = file.read(LARGEST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("option template", "must be a readable script", path, f"{error}.") from error
    if "XXXcommandXXX" not in text:
        raise InputError("option template", "must hold XXXcommandXXX", path, "Put it where the program is to run.")
    return text


def _refuse_inside(root: Path, path: Path, argument: str) -> None:
    """Raise InputError for a file of the project: whoever made the project could run anything by it."""
    inside = os.path.abspath(path), os.path.realpath(path)
    if any(Path(place).is_relative_to(root) for place in inside):
        rule = "must lie outside the project, whose files may come from others"
        raise InputError(argument, rule, path, "Look at it, copy it to a folder of your own, and name it there.")


def variables(settings: ClusterSettings, job: Job, command: Sequence[str]) -> dict[str, str]:
    """Values of the template's variables (XXXnameXXX) by name, RELION's first."""
    tasks = max(settings.mpi, settings.nodes) if on_all_nodes(settings, job) else settings.mpi
    cores = tasks * settings.threads
    values = {
        "name": job.name.rstrip("/").replace("/", "_"),
        "outfile": job.path(OUT),
        "errfile": job.path(ERR),
        "queue": settings.queue,
        "mpinodes": str(tasks),
        "threads": str(settings.threads),
        "cores": str(cores),
        "dedicated": str(settings.dedicated),
        "nodes": str(settings.nodes or max(1, math.ceil(cores / max(settings.dedicated, cores)))),
        "command": shlex.join(command),
        "extra1": settings.extra1,
        "extra2": settings.extra2,
        "extra3": settings.extra3,
        "gpus": str(settings.gpus or ""),
        "memory": str(settings.memory_gb or ""),
        "time": settings.time,
    }
    parts = PRESETS[settings.preset].resources
    kept = [part for part in parts if all(values[name] for name in re.findall(r"{(\w+)}", part))]
    return {**values, "resources": "".join(kept).format(**values)}


def on_all_nodes(settings: ClusterSettings, job: Job) -> bool:
    """Whether a job computes on all nodes asked for: a training under Slurm, whose srun starts a process on each."""
    return settings.preset == "slurm" and settings.nodes > 1 and job.job_type == "train"


def command_on_nodes(module: Sequence[str], nodes: int, processes: int) -> list[str]:
    """The argument list that trains on all nodes of a Slurm job, ``processes`` on each, from the script on its first.

    srun starts a torchrun on each node, with the rendezvous on the first. The shell script is a fixed text; the user's
    values are its arguments.
    """
    torchrun = ["-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc_per_node={processes}"]
    return ["sh", "-c", _ON_NODES, "sh", str(nodes), *python(*torchrun), *module]


# srun does not take over the cores of a task from sbatch. Ports in use by two jobs of one node: their numbers differ.
_ON_NODES = """
nodes=$1
shift
export PYTHONSAFEPATH=1 PET_RDZV_BACKEND=c10d PET_RDZV_ID="$SLURM_JOB_ID"
export PET_RDZV_ENDPOINT="$(hostname):$((20000 + SLURM_JOB_ID % 10000))"
exec srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \\
    --kill-on-bad-exit=1 "$@"
""".strip()


def fill_template(text: str, values: Mapping[str, str]) -> str:
    """Put values in place of ``XXXnameXXX``; a scheduler's directive whose value is empty is left out.

    All are replaced at once, so that a value that looks like a variable stays as it is.
    """
    pattern = re.compile("XXX(" + "|".join(map(re.escape, values)) + ")XXX")
    lines = []
    for line in text.splitlines():
        names = pattern.findall(line)
        if re.match(r"#(SBATCH|PBS|\$|BSUB|MSUB|OAR)\b|#\$ ", line) and any(not values[name] for name in names):
            continue
        lines.append(pattern.sub(lambda match: values[match.group(1)], line))
    return "\n".join(lines) + "\n"


def script(settings: ClusterSettings, job: Job, command: Sequence[str], template: str = "") -> str:
    """The script that would be submitted, from the text of ``template`` or of that of the settings.

    Raises InputError as :func:`template_text`.
    """
    return fill_template(template or template_text(settings, job.root), variables(settings, job, command))


def check(settings: ClusterSettings, root: Path) -> None:
    """Raise InputError if the template cannot be used or the scheduler's command is not on this machine."""
    template_text(settings, root)
    _program(_submit_words(settings)[0], root)


def _program(name: str, root: Path) -> str:
    """Where a scheduler's command lies. Raises InputError if it is not on this machine, or a file of the project."""
    found = shutil.which(os.path.expanduser(name))
    if found is None:
        raise InputError(
            "cluster",
            "must be reachable from this machine",
            f"no command {name}",
            "Log in to the cluster's login node, choose the right scheduler, or run the job here.",
        )
    _refuse_inside(root, Path(found), "cluster command")
    return os.path.abspath(found)


def _submit_words(settings: ClusterSettings) -> list[str]:
    try:
        words = shlex.split(settings.submit)
    except ValueError as error:
        raise InputError("option submit", "must be a command", settings.submit, f"{error}.") from error
    return words or list(PRESETS[settings.preset].submit)


def _call(words: Sequence[str], cwd: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [_program(words[0], cwd), *words[1:]],
            cwd=cwd,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_SECONDS,
            **({"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}),  # type: ignore[arg-type]
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError("cluster", "must answer", words[0], f"{error}.") from error


def submit(settings: ClusterSettings, job: Job, command: Sequence[str], template: str) -> str:
    """Write the script into the job's directory and submit it from the project; returns the scheduler's id of the job.

    ``template`` is the template's text at the time of the request. Raises InputError with the scheduler's message if it
    refuses the job or does not answer.
    """
    root = job.root
    preset = PRESETS[settings.preset]
    text = script(settings, job, command, template)
    write_atomically(job.file(SCRIPT), text)
    words = _submit_words(settings)
    by_stdin = preset.by_stdin
    if words[-1] == "<":  # RELION's way of writing "bsub <"
        words, by_stdin = words[:-1], True
    answer = _call(words if by_stdin else [*words, job.path(SCRIPT)], root, text if by_stdin else None)
    match = re.search(preset.id_pattern, answer.stdout.strip(), re.MULTILINE)
    if answer.returncode or match is None:
        said = " ".join((answer.stderr or answer.stdout).split())[:500] or f"exit code {answer.returncode}"
        raise InputError("cluster", "must take the job", said, "Check queue, limits and template.")
    identifier = next(group for group in match.groups() if group)
    if not is_identifier(identifier):
        raise InputError("cluster", "must answer with a job's number", identifier, "Look into its queue by hand.")
    return identifier


def is_identifier(word: str) -> bool:
    """True for a well-formed job id; no other word may be passed to a scheduler's command as one."""
    return re.fullmatch(r"\d[\w.\[\]-]{0,200}", word) is not None


def cancel(wish: Wish) -> None:
    """Ask the scheduler to cancel a job that this user submitted. Raises InputError with its message if it does not."""
    preset = PRESETS[wish.scheduler]
    answer = _call([*preset.cancel, wish.scheduler_id], Path(wish.project))
    if answer.returncode:
        said = " ".join((answer.stderr or answer.stdout).split())
        # A job that ended meanwhile cannot be cancelled: that is no error.
        if not re.search(r"invalid|unknown|finished|completed|not found|already", said, re.IGNORECASE):
            raise InputError("cluster", "must cancel the job", said, "Cancel it by hand.")


def states(preset: Preset, ids: Sequence[str], cwd: Path) -> dict[str, str] | None:
    """State of each id, in the words of :class:`Preset`; an id that the scheduler does not know any more is absent.

    None if the scheduler answers with an error alone. Raises InputError if its command cannot be run.
    """
    if preset.join:
        answer = _call([*preset.query, preset.join.join(ids)], cwd)
    else:
        answer = _call(preset.query if preset.title == "Grid Engine" else [*preset.query, *ids], cwd)
    forgotten = r"invalid job id|unknown job|not found|do not exist|no unfinished job|has finished"
    unknown = re.search(forgotten, answer.stderr, re.IGNORECASE)
    if answer.returncode and not answer.stdout.strip() and not unknown:
        return None
    found = {}
    for match in re.finditer(preset.row, answer.stdout, re.MULTILINE):
        number = match.group(1)
        wanted = next((i for i in ids if i == number or i.split(".")[0] == number.split(".")[0]), None)
        if wanted is not None:
            found[wanted] = preset.words.get(match.group(2), "running")
    return found


def _accounting(identifier: str, cwd: Path) -> str:
    """What Slurm's accounting remembers of a job that the queue forgot; "" where there is no accounting."""
    if shutil.which("sacct") is None:
        return ""
    with contextlib.suppress(InputError):
        answer = _call(["sacct", "-n", "-X", "-P", "-o", "State", "-j", identifier], cwd)
        words = answer.stdout.split()
        return _SLURM.get(words[0], "") if words and answer.returncode == 0 else ""
    return ""


def refresh(submitted: Sequence[tuple[Job, Wish]]) -> None:
    """Query the schedulers for the states of jobs that this user submitted, and note them in the jobs' directories."""
    for name, preset in PRESETS.items():
        mine = {wish.scheduler_id: job for job, wish in submitted if wish.scheduler == name and wish.scheduler_id}
        open_ones = {i: job for i, job in mine.items() if job.exit_state() is None}
        if not open_ones:
            continue
        root = next(iter(open_ones.values())).root
        with contextlib.suppress(InputError):  # no answer: nothing is known, the next look will tell
            found = states(preset, list(open_ones), root)
            for identifier, job in open_ones.items() if found is not None else ():
                word = (found or {}).get(identifier, "")
                if not word and name == "slurm":
                    word = _accounting(identifier, root)
                note_state(job, preset, word)


def with_found_id(job: Job, wish: Wish) -> Wish:
    """The wish with the id that the job found in its own environment, where the submitting program was killed.

    Only for a run of this user whose submission was not answered; other wishes are returned unchanged.
    """
    record = job.record()
    if wish.where != "cluster" or wish.scheduler_id or job.submitting(record) is not False:
        return wish
    found = str(small_files.read(job.directory / HEARTBEAT, small_files.HEARTBEAT)[0].get("scheduler_id", ""))
    if not is_identifier(found):
        return wish
    preset = ClusterSettings(**(wish.cluster or {})).preset
    wish = wish.model_copy(update={"scheduler": preset, "scheduler_id": found})
    wishes.keep(wish)
    job.write_record(scheduler_id=found, scheduler=preset, scheduler_state="running")
    return wish


def note_state(job: Job, preset: Preset, word: str) -> None:
    """Note a scheduler's word on a job: its state, or how it ended where the program left no exit file."""
    record = job.record()
    if word in ("pending", "running"):
        if record.get("scheduler_state") != word:
            job.write_record(scheduler_state=word, scheduler_gone_at=None)
        return
    if record.get("abort_at") and word in ("failed", "done", ""):
        word = "cancelled"  # as asked; not every scheduler has a word for it
    if word in _ENDED:
        reason = _ENDED[word].format(who=preset.title)
        write_atomically(job.file(EXIT), json.dumps({"run": record.get("run"), "reason": reason, "code": 1}))
        if job.exit_state() is None:
            job.touch(FAILURE)
        return
    if word == "cancelled":
        if job.exit_state() is None:
            job.touch(ABORTED)
        job.remove(ABORT)
        return
    if word == "lost":
        job.write_record(scheduler_state="gone", scheduler_note=f"{preset.title} lost it: its node failed")
        return
    gone_at = record.get("scheduler_gone_at")
    if gone_at is None:  # done, or forgotten: the exit file should be there in a moment
        job.write_record(scheduler_gone_at=time.time())
    elif abs(time.time() - gone_at) > SETTLE_SECONDS:
        said = "says it is done" if word == "done" else "does not know it any more"
        job.write_record(scheduler_state="gone", scheduler_note=f"{preset.title} {said}, and it left no result")
