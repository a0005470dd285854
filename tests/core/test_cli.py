"""The program as a user meets it: the published manual's command lines, options, exit codes, events, messages."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_data import NETWORK, hasten, simulate, write_molecule

from gaussianem_core import __version__
from gaussianem_core.cli import COMMANDS, main, parse, visible_gpus
from gaussianem_core.errors import InputError
from gaussianem_core.job.events import ABORTED, EVENTS, FAILURE, HEARTBEAT, OPTIONS, SUCCESS, read_events
from gaussianem_core.options import JOB_OPTIONS, command_line, hints, options_json

PROGRAM = [sys.executable, "-m", "gaussianem_core"]

# The published manual's lines with the name of the program changed; blanks filled in with a small dataset's values.
PREPROCESS = """gaussianem preprocess --source_dir project --data_dir particles.mrcs --star_file particles.star
    --size 16 --downsample_size 12 --apix 8 --consensus_map consensus.mrc --map_thres 0.2 --sample_interval 1
    --output prepared --epoch 1"""
TRAIN = """gaussianem train -s project/prepared --particle_name img_stack.mrcs --pose poses.npy --ctf ctf.npy
    --point point_cloud.ply --cfg cfg.json --output trained --batch 8 --epoch 1"""
TRAIN_EXAMPLE = """gaussianem train -s dataset/IgG-1D \\
    --particle_name img_stack \\
    --pose poses.npy \\
    --ctf ctf.npy \\
    --point point_cloud.ply \\
    --cfg cfg_scale_0.5_1.0.json \\
    --output heter_zdim10 \\
    --batch 32 \\
    --epoch 20"""
ANALYZE_EXAMPLE = """gaussianem analyze --source_dir dataset/IgG-1D \\
    --gaussians point_cloud.ply \\
    --cfg cfg.json \\
    --model_weight weights.19.pkl \\
    --latent weights.19.output.pkl \\
    --nclass 10"""
MANUAL = {
    "preprocess": (
        "source_dir data_dir star_file size downsample_size apix no_invert consensus_map map_thres sample_interval "
        "output downsample_batch scale_min scale_max qdim zdim gaussian_kdim gaussian_embedding_dim feature_kdim "
        "feature_dim epoch batch_size no_window"
    ),
    "train": "particle_name pose ctf point cfg output batch epoch",
    "analyze": "source_dir gaussians cfg model_weight latent nclass",
}


def words(line: str) -> list[str]:
    """The arguments of a printed command line, without the program's name."""
    return line.replace("\\\n", " ").split()[1:]


# ---- the published manual ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_manuals_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hasten(monkeypatch)
    simulate(tmp_path / "project", box=16, particles=100, snr=2.0, frames=9)
    assert main([*words(PREPROCESS), *NETWORK]) == 0
    prepared = tmp_path / "project" / "prepared"
    assert json.loads((prepared / "cfg.json").read_text())["cfg"]["nDetector"] == [12, 12]
    assert main(words(TRAIN)) == 0
    assert (prepared / "trained" / "weights.0.output.pkl").exists()

    igg = tmp_path / "dataset" / "IgG-1D"
    igg.mkdir(parents=True)
    for name in ("img_stack.mrcs", "poses.npy", "ctf.npy", "point_cloud.ply"):
        shutil.copy(prepared / name, igg)
    shutil.copy(prepared / "cfg.json", igg / "cfg_scale_0.5_1.0.json")
    assert main(words(TRAIN_EXAMPLE)) == 0
    results = igg / "heter_zdim10"
    assert (results / SUCCESS).exists()
    for name in ("weights.19.pkl", "weights.19.output.pkl"):
        shutil.copy(results / name, igg)
    shutil.copy(igg / "cfg_scale_0.5_1.0.json", igg / "cfg.json")
    assert main([word.replace("_", "-") if word.startswith("--") else word for word in words(ANALYZE_EXAMPLE)]) == 0
    assert len(list((igg / "analyze" / "kmeans").glob("vol_*.mrc"))) == 10
    # A component that the images do not bear out has no trajectory.
    made = json.loads((igg / "analyze" / "summary.json").read_text())["trajectories"]
    assert made and all(len(list((igg / "analyze" / f"pc{i + 1}").glob("vol_*.mrc"))) == 10 for i in range(len(made)))


def test_every_option_of_the_manual_exists(shared_data: Path) -> None:
    manual = (shared_data.parent / "seed-README.md").read_text()
    sections = re.split(r"^### ", manual, flags=re.MULTILINE)
    for name, heading in (("preprocess", "Data Preprocess"), ("train", "Train"), ("analyze", "Analyze")):
        section = next(text for text in sections if text.startswith(heading))
        listed = set(re.findall(r"^--(\w+) \[", section, flags=re.MULTILINE))
        assert listed == set(MANUAL[name].split())


def test_the_manuals_options_and_defaults() -> None:
    for name, listed in MANUAL.items():
        assert set(listed.split()) <= set(JOB_OPTIONS[name].model_fields)
    fields = JOB_OPTIONS["preprocess"].model_fields
    stated = {"downsample_batch": 5000, "scale_min": 0.5, "scale_max": 1.0, "epoch": 2, "batch_size": 4}
    assert {name: fields[name].default for name in stated} == stated
    assert {fields[name].default for name in ("no_invert", "no_window")} == {False}


def test_underscores_hyphens_and_short_flags() -> None:
    model = JOB_OPTIONS["train"]
    given = parse(model, words(TRAIN_EXAMPLE)[1:])
    hyphens = [w.replace("_", "-") if w.startswith("--") else w for w in words(TRAIN_EXAMPLE)[1:]]
    long = ["--source_dir" if w == "-s" else w for w in words(TRAIN_EXAMPLE)[1:]]
    assert given == parse(model, hyphens) == parse(model, long)
    assert given.model_dump()["source_dir"] == "dataset/IgG-1D" and given.model_dump()["batch"] == 32
    joined = parse(JOB_OPTIONS["preprocess"], ["--star_file=a.star", "--consensus-map=m.mrc", "--map_thres", "-0.3"])
    assert joined.model_dump()["map_thres"] == "-0.3"
    assert parse(JOB_OPTIONS["preprocess"], command_line(joined)[2:]) == joined


def test_negative_numbers_flags_and_nothing() -> None:
    model, needed = JOB_OPTIONS["preprocess"], ["--star_file", "a.star", "--consensus_map", "m.mrc"]
    for text in ("-0.3", "-1e-3", "-2"):
        assert parse(model, [*needed, "--map-thres", text]) == parse(model, [*needed, f"--map_thres={text}"])
    given = parse(model, [*needed, "--float16", "--no_invert", "no", "--size", "None", "--passthrough", "a.cs", "b.cs"])
    values = given.model_dump()
    assert (values["float16"], values["no_invert"], values["size"]) == (True, False, None)
    assert values["passthrough"] == ["a.cs", "b.cs"]


def test_a_flag_of_the_file_can_be_taken_back(tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text(json.dumps({"model": "m.npz", "no_ctf": True, "box": 32}))
    given = parse(JOB_OPTIONS["simulate"], ["--options", str(tmp_path / "options.json"), "--no_ctf", "no"])
    assert given.model_dump()["no_ctf"] is False and given.model_dump()["box"] == 32


# ---- where output goes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("preprocess", ["--star_file", "x", "--consensus_map", "y", "--source_dir", "p", "--output", "o"], "p/o"),
        ("preprocess", ["--star_file", "x", "--consensus_map", "y", "-s", "p"], "p/preprocess"),
        ("preprocess", ["--star_file", "x", "--consensus_map", "y", "-s", "p", "--output", "/abs/o"], "/abs/o"),
        ("preprocess", ["--star_file", "x", "--consensus_map", "y", "-s", "p", "--output", "o", "--job_dir", "j"], "j"),
        ("train", ["-s", "p", "--output", "o"], "p/o"),
        ("train", [], "train"),
        ("train", ["-s", "p", "--job-dir", "Train/job002"], "Train/job002"),
        ("analyze", ["--model_weight", "w", "--latent", "l", "--source_dir", "p"], "p/analyze"),
        ("simulate", ["--model", "m", "--output", "o"], "o"),
    ],
)
def test_output_directory(name: str, arguments: list[str], expected: str) -> None:
    assert parse(JOB_OPTIONS[name], arguments).output_directory() == Path(expected)


# ---- options files -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("cli"), "--seed", "3", box=16)


def test_options_file_reproduces_a_run(simulated: Path, tmp_path: Path) -> None:
    file = str(simulated / OPTIONS)
    assert main(["simulate", "--options", file, "--job_dir", str(tmp_path / "again")]) == 0
    for name in ("particles.mrcs", "particles.star", "consensus.mrc"):
        assert (tmp_path / "again" / name).read_bytes() == (simulated / name).read_bytes()
    before, after = (json.loads((folder / OPTIONS).read_text()) for folder in (simulated, tmp_path / "again"))
    assert {**before, "job_dir": ""} == {**after, "job_dir": ""} and after["seed"] == 3
    # The command line has the last word.
    assert main(["simulate", f"--options={file}", "--seed", "4", "--job_dir", str(tmp_path / "other")]) == 0
    assert json.loads((tmp_path / "other" / OPTIONS).read_text())["seed"] == 4
    assert (tmp_path / "other/particles.mrcs").read_bytes() != (simulated / "particles.mrcs").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxx": 16}, "option boxx: is unknown"),
        ({"box": "many"}, "option box"),
        ({"box": 2}, "option box: Input should be greater than or equal to 8"),
        ({"job_type": "train"}, "--options: must be of a simulate job"),
    ],
)
def test_faulty_options_file(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], message: str
) -> None:
    content = {**json.loads((simulated / OPTIONS).read_text()), **change}
    (tmp_path / OPTIONS).write_text(json.dumps(content))
    assert main(["simulate", "--options", str(tmp_path / OPTIONS), "--job_dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unreadable_options_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "text.json").write_text("box: 16")
    for name, message in (("list.json", "JSON object"), ("text.json", "readable JSON"), ("no.json", "readable JSON")):
        assert main(["simulate", "--options", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["simulate", "--options"])
    assert end.value.code == 2 and "argument --options: expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize("name", JOB_OPTIONS)
def test_every_jobs_options_survive_the_round_trip(name: str, tmp_path: Path) -> None:
    model = JOB_OPTIONS[name]
    needed = [word for field, info in model.model_fields.items() if info.is_required() for word in (f"--{field}", "x")]
    if name == "decode":
        needed += ["--z", "z.txt"]
    options = parse(model, needed)
    (tmp_path / OPTIONS).write_text(options_json(options))
    assert parse(model, ["--options", str(tmp_path / OPTIONS)]) == options
    assert parse(model, command_line(options)[2:]) == options


# ---- exit codes, events, files -----------------------------------------------------------------------------------


def test_usage_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(f"\n  {name}" in overview for name in (*JOB_OPTIONS, *COMMANDS))
    assert main([]) == 2
    assert main(["preproces"]) == 2
    assert "unknown command 'preproces'" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in JOB_OPTIONS if name not in COMMANDS])
def test_help_tells_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    common = capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main([name, "--help_all"])
    assert end.value.code == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─|]", " ", capsys.readouterr().out).split())
    for field, info in JOB_OPTIONS[name].model_fields.items():
        told = re.compile(rf"--{field}[ ,]")  # "--source_dir, -s DIR" from Python 3.13 on
        assert told.search(text)
        assert " ".join((info.description or "").split()) in text
        rare = bool(hints(JOB_OPTIONS[name], field)["advanced"])
        assert bool(told.search(common)) != rare


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_the_other_commands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([name, "--help"])
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 0
    output = capsys.readouterr().out
    assert output.startswith("usage: gaussianem") and name in output


def test_help_loads_no_torch() -> None:
    """So that it comes at once, and works where torch is broken."""
    script = (
        "import sys\nfrom gaussianem_core.cli import main\ntry:\n    main(['train', '--help'])\n"
        "except SystemExit:\n    pass\nprint('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False" and "--particle_name" in done.stdout


def test_a_job_is_loaded_without_searching_for_garbage() -> None:
    """Afterwards it is searched for as before, and at the end no library reports a leak (triton would)."""
    script = (
        "import gc, importlib.util, sys\n"
        "if importlib.util.find_spec('triton'):\n    import triton\n"
        "from gaussianem_core.cli import load_job\nfrom gaussianem_core.options import TrainOptions\n"
        "rounds = []\ngc.callbacks.append(lambda phase, info: rounds.append('torch' in sys.modules))\n"
        "job = load_job(TrainOptions(device='cpu'))\n"
        "print(any(rounds), gc.isenabled(), 'torch' in sys.modules, job.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "gaussianem_core.commands.train"]
    assert not done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus", "1"], "unknown option --bogus"),
        (["--partcles", "1"], "unknown option --partcles; --particles is the nearest"),
        (["--box"], "--box"),
        (["--box", "wide"], "option box: Input should be a valid integer"),
        (["--no_ctf", "perhaps"], "option no_ctf: Input should be a valid boolean"),
        (["--device", "tpu"], "option device: Input should be 'auto', 'cpu' or 'cuda' (got tpu)"),
        (["--part", "3"], "unknown option --part"),  # no abbreviations: a later option could take their meaning
        ([], "option model: Field required"),
    ],
)
def test_words_that_cannot_be_understood(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code: object = main(["simulate", *(["--model", "m.npz"] if arguments else []), *arguments])
    except SystemExit as end:
        code = end.code
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_values_out_of_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--model", "m.npz", "--missing_fraction", "1.5"]) == 2
    error = capsys.readouterr().err
    assert "option missing_fraction: Input should be less than or equal to 1 (got 1.5)" in error
    assert "pydantic" not in error


def test_events_of_a_run(simulated: Path) -> None:
    events, end = read_events(simulated / EVENTS)
    assert end == (simulated / EVENTS).stat().st_size
    start, last = events[0], events[-1]
    assert start["type"] == "start" and start["command"][:2] == ["gaussianem", "simulate"]
    assert start["version"] == __version__ and start["pid"] > 0 and start["host"]
    progress = [e for e in events if e["type"] == "progress"]
    assert [e["done"] for e in progress] == sorted(e["done"] for e in progress)
    assert progress[-1]["done"] == progress[-1]["total"] == 40 and progress[-1]["unit"] == "images"
    artifacts = [e for e in events if e["type"] == "artifact"]
    assert {e["kind"] for e in artifacts} == {"particles", "stack", "map", "truth"}
    assert all((simulated / e["path"]).is_file() and e["label"] for e in artifacts)
    assert last["type"] == "end" and last["status"] == "succeeded" and last["seconds"] > 0
    assert [e["t"] for e in events] == sorted(e["t"] for e in events)
    assert (simulated / SUCCESS).exists() and not (simulated / FAILURE).exists()
    assert not (simulated / HEARTBEAT).exists()
    assert json.loads((simulated / OPTIONS).read_text())["job_type"] == "simulate"


def test_failure_is_told_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_molecule(tmp_path / "m.npz")
    arguments = ["simulate", "--model", str(model), "--box", "17", "--job_dir", str(tmp_path / "out")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error == "gaussianem simulate: option box: must be even (got 17). Give 18.\n"
    last = read_events(tmp_path / "out" / EVENTS)[0][-1]
    assert last["status"] == "failed" and last["reason"] in error
    assert (tmp_path / "out" / FAILURE).exists() and not (tmp_path / "out" / HEARTBEAT).exists()
    if not torch.cuda.is_available():
        assert main([*arguments[:3], "--device", "cuda", "--job_dir", str(tmp_path / "gpu")]) == 1
        assert "use --device cpu" in capsys.readouterr().err
    # A second try in the same place wipes out the mark of the first.
    assert main([*arguments, "--box", "32", "--particles", "5"]) == 0
    assert (tmp_path / "out" / SUCCESS).exists() and not (tmp_path / "out" / FAILURE).exists()


def test_finished_job_is_left_alone(simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / "job"
    shutil.copytree(simulated, job)
    before = {p.name: p.read_bytes() for p in job.iterdir()}
    arguments = ["simulate", "--options", str(job / OPTIONS), "--job_dir", str(job), "--seed", "9"]
    assert main(arguments) == 2
    assert "give --overwrite to replace them" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in job.iterdir()} == before
    assert main([*arguments, "--overwrite"]) == 0
    assert (job / "particles.mrcs").read_bytes() != before["particles.mrcs"]


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "abort file"])
def test_stopping(how: str, tmp_path: Path) -> None:
    model = write_molecule(tmp_path / "m.npz")
    out = tmp_path / "out"
    command = [
        *PROGRAM,
        "simulate",
        "--model",
        str(model),
        "--particles",
        "100000",
        "--box",
        "64",
        "--job_dir",
        str(out),
        "--device",
        "cpu",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: "progress" in (out / EVENTS).read_text() if (out / EVENTS).exists() else False)
        if how == "abort file":
            (out / "RELION_JOB_ABORT_NOW").touch()
        else:
            process.send_signal(getattr(signal, how))
        _, error = process.communicate(timeout=60)
    assert process.returncode == 3 and error == "gaussianem simulate: stopped on request\n"
    assert (out / ABORTED).exists() and not (out / "RELION_JOB_ABORT_NOW").exists()
    assert read_events(out / EVENTS)[0][-1]["status"] == "aborted"
    assert not [p.name for p in out.iterdir() if "particles.mrcs" in p.name]


def wait_for(condition, seconds: float = 60.0) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def test_progress_bar_on_a_terminal(tmp_path: Path) -> None:
    model = write_molecule(tmp_path / "m.npz")
    ours, theirs = pty.openpty()
    command = [
        *PROGRAM,
        "simulate",
        "--model",
        str(model),
        "--particles",
        "50",
        "--box",
        "32",
        "--job_dir",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment)
    os.close(theirs)
    output = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        output += chunk
    os.close(ours)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.decode())
    assert re.search(r"simulate .*100% .*images/s .*0:00:00", text), text


# ---- several processes -------------------------------------------------------------------------------------------


def test_gpus_by_number_or_by_place() -> None:
    assert visible_gpus(["2", "3"], None) == "2,3"
    assert visible_gpus(["2", "3"], "2,3") == "2,3"
    assert visible_gpus(["0", "1"], "2,3") == "2,3"
    assert visible_gpus(["1"], "GPU-a,GPU-b") == "GPU-b"
    with pytest.raises(InputError, match=r"--gpus.*Choose from 2,3"):
        visible_gpus(["4"], "2,3")


@pytest.mark.slow
def test_training_in_two_processes_from_one_command(tmp_path: Path) -> None:
    """``--gpus 0,1`` starts both; they end with the first one's code, and stop together."""
    simulate(tmp_path / "sim", particles=32, box=16)
    assert (
        main(
            [
                "preprocess",
                "-s",
                str(tmp_path / "sim"),
                "--star_file",
                "particles.star",
                "--consensus_map",
                "consensus.mrc",
                "--job_dir",
                str(tmp_path / "pre"),
                "--device",
                "cpu",
                *NETWORK,
            ]
        )
        == 0
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(name: str, *more: str) -> list[str]:
        return [
            *PROGRAM,
            "train",
            "-s",
            str(tmp_path / "pre"),
            "--job_dir",
            str(tmp_path / name),
            "--device",
            "cpu",
            "--gpus",
            "0,1",
            "--batch",
            "8",
            *more,
        ]

    done = subprocess.run(command("ok", "--epoch", "2"), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    events = read_events(tmp_path / "ok" / EVENTS)[0]
    assert [e["type"] for e in events].count("start") == 1 and events[-1]["status"] == "succeeded"
    assert any("2 x cpu" in e["text"] for e in events if e["type"] == "message")

    done = subprocess.run(
        command("bad", "--pose", "no.npy"), env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert done.stderr.count("option pose: must name something that exists") == 1

    with subprocess.Popen(command("stop", "--epoch", "9999"), env=environment, stdout=subprocess.DEVNULL) as process:
        wait_for(
            lambda: (
                '"stage": "train"' in (tmp_path / "stop" / EVENTS).read_text()
                if (tmp_path / "stop" / EVENTS).exists()
                else False
            ),
            120,
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 3
    assert (tmp_path / "stop" / ABORTED).exists()
