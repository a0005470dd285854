"""Clusters: templates and parsing for five schedulers; submit, run, cancel, node failure against a real Slurm."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ENGINE, add, asked, until

from gaussianem_core.errors import InputError
from gaussianem_core.job.events import HEARTBEAT, JobLog
from gaussianem_core.runtime.processes import identity
from gaussianem_gui.execution import cluster, runner
from gaussianem_gui.execution.cluster import PRESETS, ClusterSettings, fill_template
from gaussianem_gui.execution.launch import claim
from gaussianem_gui.execution.runner import Launch, Runner
from gaussianem_gui.project import trash, wishes
from gaussianem_gui.project.job import Job, State
from gaussianem_gui.project.project import Project
from gaussianem_gui.project.wishes import Wish

ROOT = Path(__file__).parents[3]
SLURM = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "a project; $(touch pwned)")


def refresh(job: Job) -> None:
    wish = job.wish()
    assert wish is not None
    cluster.refresh([(job, wish)])


# --- templates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_make_a_script_that_a_shell_accepts(project: Project, preset: str) -> None:
    settings = ClusterSettings(preset=preset, queue="gpu", gpus=2, threads=8, time="1:00:00", memory_gb=16)
    job = add(project)
    command = ["prog with blank", "--x", "$(touch pwned)", "it's", "a;b"]
    text = cluster.script(settings, job, command)
    assert "XXX" not in text.replace("XXXname", "") and "gpu" in text and "Simulate/job001/run.out" in text
    assert shlex.join(command) in text and not [line for line in text.splitlines() if line.endswith("= ")]
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    lean = cluster.script(ClusterSettings(preset=preset, gpus=0), job, command)
    assert "gpu:" not in lean and "ngpus" not in lean.split("\n\n")[0] and "num=" not in lean
    assert len(lean.splitlines()) < len(text.splitlines())


def test_the_command_reaches_the_program_word_by_word(project: Project) -> None:
    words = ["a b", "$(touch pwned)", "`touch pwned`", 'it\'s "x"', "; touch pwned", "*", "\\"]
    program = [sys.executable, "-c", "import sys; print(sys.argv[1:])", *words]
    text = cluster.script(ClusterSettings(), add(project), program)
    done = subprocess.run(["bash"], input=text, text=True, capture_output=True, check=True, cwd=project.root)
    assert done.stdout.strip() == repr(words) and not (project.root / "pwned").exists()


def test_relions_variables_in_a_template_of_the_site(project: Project) -> None:
    site = project.root.parent / "site.sh"
    site.write_text(
        "#!/bin/tcsh\n#$ -N XXXnameXXX\n#$ -pe XXXqueueXXX XXXcoresXXX\n# XXXmpinodesXXX XXXthreadsXXX XXXdedicatedXXX "
        "XXXnodesXXX XXXextra1XXX XXXerrfileXXX\nmpirun -np XXXmpinodesXXX XXXcommandXXX\n"
    )
    settings = ClusterSettings(template=str(site), queue="main.q", mpi=2, threads=6, dedicated=24, extra1="x=1")
    assert cluster.script(settings, add(project), ["go", "now"]).splitlines()[1:] == [
        "#$ -N Simulate_job001",
        "#$ -pe main.q 12",
        "# 2 6 24 1 x=1 Simulate/job001/run.err",
        "mpirun -np 2 go now",
    ]
    (site.parent / "empty.sh").write_text("#!/bin/sh\n")
    for bad, said in (("absent.sh", "readable"), ("empty.sh", "XXXcommandXXX")):
        with pytest.raises(InputError, match=said):
            cluster.template_text(ClusterSettings(template=str(site.parent / bad)), project.root)


def test_nothing_of_the_project_is_taken_for_a_template_or_a_command(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = project.root / "site.sh"
    inner.write_text("#!/bin/sh\nXXXcommandXXX\n")
    inner.chmod(0o755)
    link = tmp_path / "link.sh"
    link.symlink_to(inner)
    for template in ("site.sh", str(inner), str(link), "Simulate/../site.sh"):
        with pytest.raises(InputError, match="must lie outside the project"):
            cluster.save_settings(project.root, ClusterSettings(template=template))
    for program in (str(inner), str(link)):
        with pytest.raises(InputError, match="must lie outside the project"):
            cluster.check(ClusterSettings(submit=shlex.quote(program)), project.root)
    inner.rename(project.root / "sbatch")
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("PATH", f".:{os.environ['PATH']}")
    with pytest.raises(InputError, match="must lie outside the project"):
        cluster.check(ClusterSettings(), project.root)


def test_a_value_that_looks_like_a_variable_stays() -> None:
    assert fill_template("XXXaXXX XXXbXXX", {"a": "XXXbXXX", "b": "2"}) == "XXXbXXX 2\n"


def test_resources_as_pbs_and_torque_want_them(project: Project) -> None:
    job = add(project)
    wanted = {
        ("pbs", 2, 16): "select=1:ncpus=4:ngpus=2:mem=16gb",
        ("pbs", 0, 0): "select=1:ncpus=4",
        ("torque", 2, 16): "nodes=1:ppn=4:gpus=2,mem=16gb",
        ("torque", 0, 0): "nodes=1:ppn=4",
    }
    for (preset, gpus, memory), words in wanted.items():
        text = cluster.script(ClusterSettings(preset=preset, gpus=gpus, memory_gb=memory), job, ["go"])
        assert f"#PBS -l {words}" in text.splitlines()


@pytest.mark.parametrize("bad", ["a;b", "$(x)", "a\nb", "`x`", "a|b", "a&b", "'", "a>b"])
def test_settings_that_a_shell_would_read_are_refused(project: Project, bad: str) -> None:
    for name in ("queue", "time", "extra1"):
        with pytest.raises(ValueError, match="must hold"):
            ClusterSettings(**{name: bad})


def test_settings_are_kept_and_relions_variables_count(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELION_QUEUE_NAME", "from_relion")
    assert cluster.load_settings(project.root).queue == "from_relion"
    (project.root / cluster.SETTINGS).write_text('{"submit": "sh", "template": "evil.sh"}')
    assert cluster.load_settings(project.root).submit == "" and "not used" in cluster.settings_of_the_project(
        project.root
    )
    cluster.save_settings(project.root, ClusterSettings(preset="lsf", queue="mine"))
    assert cluster.load_settings(project.root) == ClusterSettings(preset="lsf", queue="mine")
    assert cluster.settings_of_the_project(project.root) == ""
    assert cluster.load_settings(tmp_path) == ClusterSettings(queue="from_relion")  # of another project
    (kept,) = (tmp_path / "config/gaussianem/clusters").iterdir()
    for damaged in ("[", '{"preset": 5}', "[" * 100_000):
        kept.write_text(damaged)
        with pytest.raises(InputError, match=r"cluster settings|preset"):
            cluster.load_settings(project.root)


def test_a_machine_without_the_scheduler_says_so(project: Project) -> None:
    job = add(project)
    with pytest.raises(InputError, match="no command no_such_sbatch"):
        runner.request(project, job, Launch("cluster", cluster=ClusterSettings(submit="no_such_sbatch")))
    assert not job.record().get("requested")


# What the schedulers print, from their manuals: submission, and the list of jobs.
ANSWERS = {
    "slurm": ("Submitted batch job 4711\n", "4711 RUNNING\n", "4711", "running"),
    "pbs": (
        "4711.server\n",
        "Job id            Name             User              Time Use S Queue\n"
        "----------------  ---------------- ----------------  -------- - -----\n"
        "4711.server       Train_job003     me                00:00:01 Q workq\n",
        "4711.server",
        "pending",
    ),
    "torque": (
        "4711.server\n",
        "Job ID                    Name             User            Time Use S Queue\n"
        "------------------------- ---------------- --------------- -------- - -----\n"
        "4711.server                Train_job003     me              00:00:01 R batch\n",
        "4711.server",
        "running",
    ),
    "sge": (
        'Your job 4711 ("Train_job003") has been submitted\n',
        "job-ID  prior   name       user         state submit/start at     queue  slots ja-task-ID\n"
        "-----------------------------------------------------------------------------------------\n"
        "   4711 0.55500 Train_job0 me           r     11/22/2026 10:00:00 all.q@node1    1\n",
        "4711",
        "running",
    ),
    "lsf": ("Job <4711> is submitted to queue <normal>.\n", "4711 PEND\n", "4711", "pending"),
}


@pytest.mark.parametrize("preset", list(PRESETS))
def test_ids_and_states_are_understood(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little programs in place of the schedulers' commands print what the manuals show; the calls are real."""
    said, listed, identifier, state = ANSWERS[preset]
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (
        (PRESETS[preset].submit[0], said),
        (PRESETS[preset].query[0], listed),
        (PRESETS[preset].cancel[0], ""),
    ):
        (programs / name).write_text(f"#!/bin/sh\necho \"$@\" >> '{programs}/{name}.calls'\ncat <<'END'\n{text}END\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("GAUSSIANEM_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(runner, "ensure_runner", lambda project: None)
    project = Project.create(tmp_path / "p")
    job, forgotten = add(project), add(project)
    for each in (job, forgotten):
        runner.request(project, each, Launch("cluster", cluster=ClusterSettings(preset=preset)))
    assert job.record()["scheduler_id"] == identifier and (job.directory / "run_submit.script").exists()
    assert job.status().state is State.SCHEDULED and f"as {identifier}" in job.status().detail
    refresh(job)
    assert job.status().state is (State.RUNNING if state == "running" else State.SCHEDULED)
    runner.abort(project, job)
    assert identifier in (programs / f"{PRESETS[preset].cancel[0]}.calls").read_text()
    (programs / PRESETS[preset].query[0]).write_text("#!/bin/sh\nexit 0\n")  # now it knows nothing of the job
    monkeypatch.setattr(cluster, "SETTLE_SECONDS", -1.0)
    for each in (job, forgotten):
        refresh(each)
        refresh(each)
    assert job.status().state is State.ABORTED
    assert forgotten.status().state is State.LOST and "left no result" in forgotten.status().detail


@pytest.fixture
def slow_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs in place of Slurm's: sbatch takes a while and notes each call, squeue has every job pending."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (
        ("sbatch", "sleep 0.5; echo Submitted batch job 7"),
        ("squeue", "echo 7 PENDING"),
        ("scancel", "true"),
    ):
        (programs / name).write_text(f"#!/bin/sh\necho \"$@\" >> '{programs}/{name}.calls'\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("GAUSSIANEM_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(runner, "ensure_runner", lambda project: None)
    return programs


def test_a_job_is_submitted_once(project: Project, slow_sbatch: Path) -> None:
    """By the request itself or by any of the runners that see it meanwhile, on this login node or another."""
    job, later = add(project), add(project)
    together = [threading.Thread(target=runner.request, args=(project, job, Launch("cluster")))]
    together += [threading.Thread(target=Runner(Project.open(project.root)).tick) for _ in range(3)]
    for number, thread in enumerate(together):
        thread.start()
        if number == 0:
            until(lambda: bool(job.record().get("requested")))
            assert job.status().state is State.SCHEDULED and job.status().detail == "is being submitted"
    for thread in together:
        thread.join()
    assert len((slow_sbatch / "sbatch.calls").read_text().splitlines()) == 1
    assert job.record()["scheduler_id"] == "7" and "queued in slurm as 7" in job.status().detail
    with pytest.raises(InputError, match="running or waiting"):
        runner.request(project, job, Launch("cluster"))
    with pytest.raises(InputError, match="must not be running"):
        trash.delete(project, job)
    runner.request(project, later, Launch("cluster", after=(job.name,)))
    project.mark(job, State.SUCCEEDED)
    together = [threading.Thread(target=Runner(Project.open(project.root)).tick) for _ in range(3)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert len((slow_sbatch / "sbatch.calls").read_text().splitlines()) == 2


def test_of_two_programs_that_submit_a_job_at_once_one_is_refused(project: Project, slow_sbatch: Path) -> None:
    job = add(project)
    refused: list[InputError] = []

    def ask() -> None:
        try:
            runner.request(Project.open(project.root), job.name, Launch("cluster"))
        except InputError as error:
            refused.append(error)

    together = [threading.Thread(target=ask) for _ in range(3)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert len((slow_sbatch / "sbatch.calls").read_text().splitlines()) == 1 and len(refused) == 2
    assert all("must not be running or waiting" in str(error) for error in refused)
    assert job.record()["scheduler_id"] == "7"


def test_a_job_that_is_stopped_while_it_is_submitted(project: Project, slow_sbatch: Path) -> None:
    job = add(project)
    thread = threading.Thread(target=runner.request, args=(project, job, Launch("cluster")))
    thread.start()
    until(lambda: bool(job.record().get("requested")))
    runner.abort(project, job)
    thread.join()
    assert (slow_sbatch / "scancel.calls").read_text() == "7\n"
    cluster.note_state(job, PRESETS["slurm"], "cancelled")
    assert job.status().state is State.ABORTED


def test_a_submission_that_was_killed(project: Project, slow_sbatch: Path) -> None:
    def killed() -> Job:
        job = add(project)
        wish = Wish(project=str(job.root), job=job.name, run=1, where="cluster", cluster=ClusterSettings().model_dump())
        wishes.keep(wish)
        job.write_record(run=1, token=wish.token, requested=1.0, where="cluster")
        claim(job.claim_path(1), {"submitting": {**identity(), "ticks": 1}})
        assert job.status().state is State.SCHEDULED and "was killed" in job.status().detail
        return job

    lost, started = killed(), killed()
    Runner(project).tick()
    assert not (slow_sbatch / "sbatch.calls").exists()  # whether the scheduler has it is not known
    runner.abort(project, lost)
    Runner(project).tick()
    assert lost.status().state is State.ABORTED
    with JobLog(started.directory, ["x"]):  # the scheduler had it: the program says its id
        beat = started.directory / HEARTBEAT
        beat.write_text(json.dumps({**json.loads(beat.read_text()), "scheduler_id": "99"}))
        Runner(project).tick()
        assert started.record()["scheduler_id"] == "99" and started.status().state is State.RUNNING
    assert started.status().state is State.SUCCEEDED
    runner.request(project, lost, Launch("cluster"))
    assert lost.record()["scheduler_id"] == "7" and lost.record()["run"] == 2


def test_training_on_several_gpus_goes_through_torchrun(project: Project, slow_sbatch: Path) -> None:
    job = add(project, "ok", "train", particle_name="s.mrcs", pose="p", ctf="c", point="g", cfg="j")
    runner.request(project, job, Launch("cluster", cluster=ClusterSettings(gpus=4)))
    script = (job.directory / "run_submit.script").read_text()
    assert "#SBATCH --gres=gpu:4" in script
    python = f"exec env PYTHONSAFEPATH=1 {sys.executable} -P"
    torchrun = f"{python} -m torch.distributed.run --standalone --nproc_per_node=4"
    assert f"{torchrun} -m gaussianem_core train " in script
    words = runner.engine_command(job, 4, "apptainer exec --nv image.sif gaussianem")
    assert words[:6] == ["apptainer", "exec", "--nv", "image.sif", "gaussianem", "train"]
    assert words[-2:] == ["--gpus", "0,1,2,3"]  # the container's own program starts the others


def test_training_on_several_nodes_goes_through_srun(project: Project, slow_sbatch: Path) -> None:
    given = {"particle_name": "s.mrcs", "pose": "p", "ctf": "c", "point": "g", "cfg": "$(touch pwned)"}
    job, settings = add(project, "ok", "train", **given), ClusterSettings(nodes=2, gpus=4, threads=8)
    runner.request(project, job, Launch("cluster", cluster=settings))
    script = (job.directory / "run_submit.script").read_text()
    for line in ("--nodes=2", "--ntasks=2", "--cpus-per-task=8", "--gres=gpu:4"):
        assert f"#SBATCH {line}\n" in script
    assert "--nnodes=2 --nproc_per_node=4 -m gaussianem_core train " in script
    (srun := project.root.parent / "srun").write_text('#!/bin/sh\necho "$PET_RDZV_ID $PET_RDZV_ENDPOINT" "$@"\n')
    srun.chmod(0o755)
    told = {"PATH": f"{srun.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "10007", "SLURM_CPUS_PER_TASK": "8"}
    done = subprocess.run(["bash"], input=script, text=True, capture_output=True, check=True, env=told)
    assert done.stdout.startswith(f"10007 {socket.gethostname()}:20007 --nodes=2 --ntasks=2 --ntasks-per-node=1")
    other = add(project)
    assert "#SBATCH --ntasks=1\n" in cluster.script(settings, other, ["true"])
    with pytest.raises(InputError, match="must be 1 with GAUSSIANEM_ENGINE"):
        runner.engine_command(job, 4, "apptainer exec --nv image.sif gaussianem", nodes=2)


@pytest.mark.parametrize(
    ("word", "state", "said"),
    [
        ("timeout", State.FAILED, "time limit"),
        ("memory", State.FAILED, "out of memory"),
        ("failed", State.FAILED, "run.err"),
        ("cancelled", State.ABORTED, "stopped"),
        ("lost", State.LOST, "node failed"),
    ],
)
def test_how_a_scheduler_says_it_ended(project: Project, word: str, state: State, said: str) -> None:
    job = add(project)
    job.write_record(run=1, requested=1.0, scheduler="slurm", scheduler_id="7", scheduler_state="running")
    cluster.note_state(job, PRESETS["slurm"], word)
    assert job.status().state is state and said in job.status().detail


@pytest.mark.parametrize("word", ["failed", "done", ""])
def test_what_was_cancelled_is_aborted_whatever_the_scheduler_calls_it(project: Project, word: str) -> None:
    job = add(project)
    job.write_record(run=1, requested=1.0, scheduler="lsf", scheduler_id="7", scheduler_state="pending", abort_at=2.0)
    cluster.note_state(job, PRESETS["lsf"], word)
    assert job.status().state is State.ABORTED


def test_a_scheduler_that_does_not_answer_changes_nothing(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    job = add(project)
    wish = asked(job, scheduler="slurm", scheduler_id="7", scheduler_state="running")
    wishes.keep(wish.model_copy(update={"scheduler": "slurm", "scheduler_id": "7"}))
    before = job.record()
    refresh(job)
    assert job.record() == before and job.status().state is State.RUNNING


# --- a real Slurm ---------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two nodes on loopback, with munge, configuration, state and ports of their own; SLURM_CONF names them."""
    missing = [name for name in SLURM if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no Slurm here: {', '.join(missing)} not installed (Debian: slurm-wlm munge)")
    if os.getuid() != 0:
        pytest.skip("Slurm's daemons are started by root")
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    key, sock = folder / "munge" / "key", folder / "munge" / "socket"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    host, user = socket.gethostname().split(".")[0], getpass.getuser()
    conf = folder / "slurm.conf"
    conf.write_text(f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={sock}
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={free_port()}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SchedulerParameters=sched_interval=1
ReturnToService=2
KillWait=5
MpiDefault=none
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=2 State=UNKNOWN
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=2 State=UNKNOWN
PartitionName=main Nodes=one Default=YES MaxTime=INFINITE State=UP
PartitionName=both Nodes=one,two MaxTime=INFINITE State=UP
""")
    os.environ["SLURM_CONF"] = str(conf)
    daemons = [
        [
            "munged",
            "--force",
            "--foreground",
            f"--key-file={key}",
            f"--socket={sock}",
            f"--pid-file={folder}/munge/pid",
            f"--log-file={folder}/munge/log",
            f"--seed-file={folder}/munge/seed",
        ],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", "one"],
        ["slurmd", "-D", "-N", "two"],
    ]
    started = []
    try:
        for command in daemons:
            with (folder / f"{command[0]}.out").open("ab") as out:
                started.append(subprocess.Popen(command, stdout=out, stderr=out))
            if command[0] == "munged":
                until(sock.exists)
        until(lambda: output("sinfo", "-h", "-N", "-p", "both", "-o", "%T").split() == ["idle"] * 2, 60)
        yield folder
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        os.environ.pop("SLURM_CONF", None)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.fixture
def on_cluster(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setenv("GAUSSIANEM_ENGINE", ENGINE)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("GAUSSIANEM_STATE_DIR", str(tmp_path))
    project = Project.create(tmp_path / "cluster project $(touch pwned)")
    cluster.save_settings(project.root, ClusterSettings(threads=1, gpus=0, queue="main"))
    yield project
    for name in project.graph().processes:
        if identifier := project.job(name).record().get("scheduler_id"):
            subprocess.run(["scancel", identifier], check=False, capture_output=True)
    until(lambda: not runner.runner_alive(project), 60)
    assert not (project.root / "pwned").exists()


@pytest.mark.slow
def test_slurm_runs_a_chain_of_jobs(on_cluster: Project) -> None:
    first = add(on_cluster, "sleep:1", "preprocess", star_file="p.star", consensus_map="m.mrc")
    train = on_cluster.new_job("train", {"epoch": 2}, inputs_from=[first])
    for job in (first, train):
        runner.request(on_cluster, job, Launch("cluster"))
    assert train.status().detail in ("waits for its turn", f"waits for {first.name}")
    assert first.record()["scheduler_id"].isdigit()
    assert runner.wait(on_cluster, train, 120) is State.SUCCEEDED, train.status().detail
    assert first.status().state is State.SUCCEEDED
    assert (first.directory / "run.out").read_text() == "preprocess sleep:1\n"
    log = first.directory / "events.jsonl"
    assert f'"scheduler_id": "{first.record()["scheduler_id"]}"' in log.read_text()


@pytest.mark.slow
def test_slurm_cancels_pending_and_running_jobs(on_cluster: Project) -> None:
    running = add(on_cluster, "sleep:300")
    runner.request(on_cluster, running, Launch("cluster", cluster=ClusterSettings(threads=2, gpus=0)))
    until(lambda: running.status().fraction is not None)
    waiting = add(on_cluster)
    runner.request(on_cluster, waiting, Launch("cluster"))
    assert "queued in slurm as" in waiting.status().detail and waiting.status().state is State.SCHEDULED
    for job in (waiting, running):
        runner.abort(on_cluster, job)
    for job in (waiting, running):
        assert runner.wait(on_cluster, job, 60) is State.ABORTED, job.status().detail
    until(lambda: output("squeue", "-h") == "")
    assert on_cluster.graph().processes[running.name].status == "Aborted"


@pytest.mark.slow
def test_slurm_says_when_it_refuses(on_cluster: Project) -> None:
    job = add(on_cluster)
    with pytest.raises(InputError, match="invalid partition"):
        runner.request(on_cluster, job, Launch("cluster", cluster=ClusterSettings(queue="nowhere", gpus=0)))
    assert job.status().state is State.SCHEDULED and not job.record().get("scheduler_id")
    runner.request(on_cluster, job, Launch("cluster"))
    assert runner.wait(on_cluster, job, 60) is State.SUCCEEDED


@pytest.mark.slow
def test_slurm_loses_a_node(on_cluster: Project) -> None:
    job = add(on_cluster, "deaf")  # on a node that dies no program gets to write how it ended
    runner.request(on_cluster, job, Launch("cluster"))
    until(lambda: any(event.get("text") == "deaf" for event in job.last_events()))
    subprocess.run(["scontrol", "update", "nodename=one", "state=down", "reason=test"], check=True)
    try:
        assert runner.wait(on_cluster, job, 90) is State.LOST and "node failed" in job.status().detail
        assert on_cluster.graph().processes[job.name].status == "Failed"
    finally:
        subprocess.run(["scontrol", "update", "nodename=one", "state=resume"], check=False)
        until(lambda: output("sinfo", "-h", "-p", "main", "-o", "%T").split() == ["idle"], 60)
    runner.continue_job(on_cluster, job, {"output": "ok"}, Launch("cluster"))
    assert runner.wait(on_cluster, job, 60) is State.SUCCEEDED


PROGRAM = """
import os, sys, torch
from gaussianem_core.runtime.device import distributed
ranks = distributed("cpu")
total = ranks.sum_(torch.tensor(ranks.rank + 1.0))
open(f"{sys.argv[1]}/{os.environ['SLURMD_NODENAME']}", "w").write(f"of {ranks.world}, sum {total:g}")
"""


@pytest.mark.slow
def test_slurm_joins_processes_on_two_nodes(on_cluster: Project, tmp_path: Path) -> None:
    (program := tmp_path / "program.py").write_text(PROGRAM)
    job, settings = add(on_cluster, "ok", "train"), ClusterSettings(nodes=2, threads=1, gpus=0, queue="both")
    command = cluster.command_on_nodes([str(program), str(tmp_path)], 2, 1)
    identifier = cluster.submit(settings, job, command, "")
    until(lambda: not output("squeue", "-h", "-j", identifier), 90)
    said = (job.directory / "run.err").read_text()
    assert all((tmp_path / node).is_file() for node in ("one", "two")), said
    assert {(tmp_path / node).read_text() for node in ("one", "two")} == {"of 2, sum 3"}
