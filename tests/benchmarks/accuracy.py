"""How much of a known truth is recovered: ``python tests/benchmarks/accuracy.py`` simulates, trains and measures.

Each case runs through the public commands with their default options, in processes of their own, and gives one line
of a table: area under the FSC with the true volume of each particle (CryoBench's way; limit (D/2 - 1) / D), unmasked
and masked, for the decoded volumes and for the consensus map alone; error of latent neighbours (0 perfect,
1 nothing learned) beside what a perfect observer reaches (see observer.py); accuracy with which a linear probe reads
occupancy or class from the latents of particles that it has not seen; seconds of each step and images trained a
second. All figures also go to a JSON file.

    accuracy.py --case adk adk-lid --seeds 0 1 2 --gpus 0 1 2 3     six runs, four at a time, one on each GPU
    accuracy.py --train "--recipe published"                        with other options of the training
    accuracy.py --quick                                             tiny sizes: tests this script, measures nothing

Cases whose data are absent (--adk, --empiar) are left out with a note.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data"
FRAMES = 72  # of the antibody's full turn: 5 degrees apart
QUICK_NETWORK = (
    "--qdim 16 --qlayers 1 --zdim 2 --gaussian_kdim 16 --gaussian_klayers 1 --gaussian_embedding_dim 8 "
    "--feature_kdim 16 --feature_klayers 1 --feature_dim 16 --epoch 0"
)


@dataclass(frozen=True)
class Case:
    """One dataset with truth. ``model``: which trajectory; ``simulate``, ``quick``: words of the simulate command."""

    title: str
    model: str
    simulate: str = ""
    quick: str = ""
    preprocess: tuple[str, ...] = field(default=())


CASES = {
    "adk": Case(
        "AdK motion, SNR 0.1",
        "adk",
        "--particles 32000 --box 96 --apix 1.5 --snr 0.1",
        "--particles 120 --box 24 --apix 5 --snr 1",
    ),
    "adk-low": Case(
        "AdK motion, SNR 0.01",
        "adk",
        "--particles 100000 --box 96 --apix 1.5 --snr 0.01",
        "--particles 120 --box 24 --apix 5 --snr 0.5",
    ),
    "adk-lid": Case(
        "AdK motion, LID missing in 30 %",
        "adk",
        "--particles 32000 --box 96 --apix 1.5 --snr 0.1 --missing lid --missing_fraction 0.3",
        "--particles 120 --box 24 --apix 5 --snr 1 --missing lid --missing_fraction 0.3",
    ),
    "igg": Case(
        "IgG, one arm turning through 360 degrees",
        "igg",
        "--particles 32000 --box 96 --apix 3 --snr 0.1",
        "--particles 120 --box 24 --apix 12 --snr 1",
    ),
    "empiar10076": Case("EMPIAR-10076, two assembly states", "empiar"),
}


# ---- models ------------------------------------------------------------------------------------------------------


def turn(axis: np.ndarray, angle: float) -> np.ndarray:  # (3,), radians -> (3, 3)
    """Rotation about an axis (Rodrigues)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def antibody(points: int = 500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # -> (A, 3), (A,) bool, (3,)
    """A Y of three lobes the size of IgG's (Angstrom), which of its points are the arm that turns, and the hinge."""
    generator = np.random.default_rng(0)
    lobes = []
    for direction in ([0, 0, -1.0], [0.8, 0, 0.6], [-0.8, 0, 0.6]):
        along = np.array(direction) / np.linalg.norm(direction)
        inside = generator.normal(size=(points, 3))
        inside *= generator.random((points, 1)) ** (1 / 3) / np.linalg.norm(inside, axis=1, keepdims=True)
        # Two domains side by side in each lobe: a turn of the lobe shows.
        frame = np.linalg.qr(np.stack([along, [0.3, 1.0, 0.2], [1.0, 0.2, 0.1]], axis=1))[0]
        halves = np.where(np.arange(points)[:, None] % 2, 1.0, -0.5) * frame[:, 1] * 10
        lobes.append(along * 48 + halves + inside * [38, 17, 12] @ frame.T)
    return np.concatenate(lobes), np.arange(3 * points) >= 2 * points, np.zeros(3)


def antibody_of(ply: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points (A, 3), arm (A,), hinge (3,), weights and widths (A,) of published Gaussians with their cfg.json."""
    from scipy.cluster.vq import kmeans2

    from gaussianem_core.simulation.trajectory import read_trajectory

    model = read_trajectory(ply)
    xyz = model.positions_angstrom[0]
    centres, lobe = kmeans2(xyz, 3, seed=0, minit="++")
    hinge = centres.mean(axis=0)
    arm = lobe == int(np.linalg.norm(centres - hinge, axis=1).argmax())
    assert model.sigmas_angstrom is not None
    return xyz, arm, hinge, model.weights, model.sigmas_angstrom


def write_antibody(path: Path, ply: str) -> Path:
    """A periodic trajectory: the arm goes round a cone about an axis through the hinge, 45 degrees off the arm."""
    extra: dict[str, np.ndarray] = {}
    if ply:
        xyz, arm, hinge, extra["weight"], extra["sigma"] = antibody_of(Path(ply))
    else:
        xyz, arm, hinge = antibody()
        extra["weight"] = np.ones(len(xyz))
    along = xyz[arm].mean(axis=0) - hinge
    others = xyz[~arm].mean(axis=0) - hinge
    axis = along / np.linalg.norm(along) + np.cross(along, others) / np.linalg.norm(np.cross(along, others))
    frames = np.repeat(xyz[None], FRAMES, axis=0)
    for i in range(FRAMES):
        frames[i, arm] = hinge + (xyz[arm] - hinge) @ turn(axis, 2 * np.pi * i / FRAMES).T
    np.savez(path, xyz=frames.astype(np.float32), arm=arm, periodic=np.array(True), **extra)
    return path


def write_two_states(folder: Path, data: Path) -> list[str]:
    """truth.npz and the mean map of the two assembly states; returns the words of preprocess."""
    from gaussianem_core.io.mrc import read_map, write_map
    from gaussianem_core.io.particle_table import read_particles
    from gaussianem_core.simulation.ground_truth import Truth, save_truth

    star = next(data.glob("*_both_*.star"))
    table = read_particles(star, data)
    maps = [next(data.glob(f"*_class{name}_*[0-9].mrc")) for name in "DE"]
    label = np.array(["classE" in name for name in table.stack_names])[table.stack_index].astype(np.int32)
    volumes = np.stack([read_map(path).values for path in maps])
    save_truth(Truth(label=label, volumes=volumes), folder / "truth.npz")
    mean = np.tensordot(np.bincount(label) / len(label), volumes, 1)
    write_map(folder / "consensus.mrc", mean, float(table.pixel_size_angstrom[0]))
    return [
        "--star_file",
        str(star),
        "--data_dir",
        str(data),
        "--consensus_map",
        str(folder / "consensus.mrc"),
        "--no_invert",
    ]


# ---- running -----------------------------------------------------------------------------------------------------


class StepFailed(Exception):
    """A command did not succeed; the message is its last words."""


def step(folder: Path, name: str, arguments: Sequence[str], environment: dict[str, str]) -> float:
    """Run one command; returns its seconds, the start of the program included."""
    command = [sys.executable, "-m", "gaussianem_core", name, *arguments, "--job_dir", str(folder / name)]
    began = time.perf_counter()
    with open(folder / f"{name}.log", "w") as log:
        code = subprocess.run(command, stdout=log, stderr=log, env=environment, cwd=REPOSITORY).returncode
    if code:
        raise StepFailed(f"{name}: {(folder / f'{name}.log').read_text().strip().splitlines()[-1]}")
    return time.perf_counter() - began


def run_case(
    case: Case, seed: int, folder: Path, given: argparse.Namespace, environment: dict[str, str]
) -> dict[str, Any]:
    """All steps of one case; the figures of its line."""
    folder.mkdir(parents=True)
    seconds: dict[str, float] = {}
    common = ["--seed", str(seed), "--device", given.device]
    source = folder
    if case.model == "empiar":
        preprocess = write_two_states(folder, Path(given.empiar))
    else:
        model = Path(given.adk) if case.model == "adk" else write_antibody(folder / "antibody.npz", given.igg)
        words = shlex.split(case.quick if given.quick else case.simulate)
        seconds["simulate"] = step(folder, "simulate", ["--model", str(model.resolve()), *words, *common], environment)
        source = folder / "simulate"
        preprocess = ["-s", str(source), "--star_file", "particles.star", "--consensus_map", "consensus.mrc"]
    preprocess += shlex.split(QUICK_NETWORK if given.quick else "") + shlex.split(given.preprocess)
    seconds["preprocess"] = step(folder, "preprocess", [*preprocess, *common], environment)
    train = ["--epoch", "2", "--batch", "20"] if given.quick else []
    prepared = ["-s", str(folder / "preprocess")]
    seconds["train"] = step(folder, "train", [*prepared, *train, *shlex.split(given.train), *common], environment)
    last = max((folder / "train").glob("weights.*.output.pkl"), key=lambda path: int(path.name.split(".")[1]))
    weights = last.with_name(last.name.replace(".output", ""))
    evaluate = [
        *prepared,
        "--truth",
        str(source / "truth.npz"),
        "--model_weight",
        str(weights),
        "--latent",
        str(last),
        "--volumes",
        "3" if given.quick else str(given.volumes),
    ]
    seconds["evaluate"] = step(folder, "evaluate", [*evaluate, *common], environment)
    figures = json.loads((folder / "evaluate" / "evaluate.json").read_text())
    line = {**summary(figures), "seconds": seconds, "images_per_second": training_rate(folder / "train")}
    if case.model != "empiar":
        words = [str(source), str(folder / "preprocess" / "ctf.npy"), "--device", given.device]
        words += ["--particles", "20", "--stride", "10"] if given.quick else ["--particles", "1000"]
        observer = [sys.executable, str(Path(__file__).with_name("observer.py")), *words]
        line["bound"] = json.loads(subprocess.run(observer, stdout=subprocess.PIPE, env=environment, check=True).stdout)
    return line


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of a line of the table, from evaluate.json."""
    line = {
        name: figures.get(name)
        for name in ("particles", "gaussians", "box", "latent_error", "occupancy_accuracy", "label_accuracy")
    }
    fsc = figures.get("fsc", {})
    line["limit"] = fsc.get("limit")
    for name in ("model", "gaussians", "consensus", "mean_map"):
        for kind in ("", "_masked"):
            line[f"area_{name}{kind}"] = fsc.get(f"{name}{kind}", {}).get("area")
    return line


def training_rate(folder: Path) -> float | None:
    """Images a second that the training reported last."""
    from gaussianem_core.job.events import read_events

    rates = [
        e["rate"]
        for e in read_events(folder / "events.jsonl")[0]
        if e["type"] == "progress" and e["stage"] == "train" and e["rate"]
    ]
    return rates[-1] if rates else None


# ---- the table ---------------------------------------------------------------------------------------------------

Column = tuple[str, int, Callable[[dict[str, Any]], Any], str]
COLUMNS: tuple[Column, ...] = (
    ("case", 12, lambda r: r["case"], ""),
    ("seed", 5, lambda r: r["seed"], ""),
    ("model", 7, lambda r: r.get("area_model"), ".3f"),
    ("masked", 7, lambda r: r.get("area_model_masked"), ".3f"),
    ("consens.", 9, lambda r: r.get("area_mean_map"), ".3f"),
    ("masked", 7, lambda r: r.get("area_mean_map_masked"), ".3f"),
    ("limit", 6, lambda r: r.get("limit"), ".3f"),
    ("latent", 7, lambda r: r.get("latent_error"), ".3f"),
    ("bound", 6, lambda r: r.get("bound", {}).get("latent_error"), ".3f"),
    ("occup.", 7, lambda r: r.get("occupancy_accuracy"), ".3f"),
    ("bound", 6, lambda r: r.get("bound", {}).get("occupancy_accuracy"), ".3f"),
    ("label", 6, lambda r: r.get("label_accuracy"), ".3f"),
    *(
        (name[:8], 9, lambda r, name=name: r.get("seconds", {}).get(name), ",.0f")
        for name in ("simulate", "preprocess", "train")
    ),
    ("images/s", 9, lambda r: r.get("images_per_second"), ",.0f"),
)


def table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """One line a run, and of cases with several seeds their mean."""
    lines = [
        "FSC area: model, masked, consensus map, masked, limit; latent error and occupancy, each with the "
        "bound of an observer who knows all maps; label; seconds of each step",
        " ".join(title.rjust(width) for title, width, _, _ in COLUMNS),
    ]
    for case in dict.fromkeys(run["case"] for run in runs):
        several = [run for run in runs if run["case"] == case]
        for run in several:
            cells = [(value(run), width, form) for _, width, value, form in COLUMNS]
            lines.append(" ".join(cell(*entry) for entry in cells) + (f"  {run['error']}" if "error" in run else ""))
        good = [run for run in several if "error" not in run]
        if len(good) > 1:
            entries = [case.rjust(COLUMNS[0][1]), "mean".rjust(COLUMNS[1][1])]
            for _, width, value, form in COLUMNS[2:]:
                values = [v for run in good if (v := value(run)) is not None]
                entries.append(cell(float(np.mean(values)) if values else None, width, form))
            lines.append(" ".join(entries))
    return lines


def cell(value: Any, width: int, form: str) -> str:
    """A value of a column; a dash where there is none."""
    return ("-" if value is None else format(value, form)).rjust(width)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), help="cases to run; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--gpus", nargs="*", default=[], help="GPUs to use, one run on each at a time")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--adk", default=str(DATA / "adk_tmd.npz"), help="trajectory of adenylate kinase")
    parser.add_argument("--igg", default="", help="Gaussians of an antibody (.ply); without it a made-up Y")
    parser.add_argument("--empiar", default=str(DATA / "empiar10076_two_state"), help="folder of the two-state data")
    parser.add_argument("--preprocess", default="", metavar="OPTIONS", help="further options of preprocess, quoted")
    parser.add_argument("--train", default="", metavar="OPTIONS", help="further options of train, quoted")
    parser.add_argument("--volumes", type=int, default=100, help="particles whose volume is compared")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, which test this script")
    parser.add_argument("--work", help="keep all files in this directory; else they are removed")
    parser.add_argument("--json", default="accuracy.json", help="file for all figures")
    given = parser.parse_args(argv)
    present = {"adk": Path(given.adk).is_file(), "empiar": Path(given.empiar).is_dir(), "igg": True}
    runs = []
    for name in given.case:
        if present[CASES[name].model]:
            runs += [(name, seed) for seed in given.seeds]
        else:
            print(f"{name}: left out, its data are absent", file=sys.stderr)
    free: queue.Queue[str | None] = queue.Queue()
    for gpu in given.gpus or [None]:
        free.put(gpu)
    with tempfile.TemporaryDirectory(prefix="gaussianem_accuracy_") as temporary:
        base = Path(given.work or temporary).resolve()

        def run(entry: tuple[str, int]) -> dict[str, Any]:
            name, seed = entry
            gpu = free.get()
            environment = {**os.environ, **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})}
            try:
                figures = run_case(CASES[name], seed, base / f"{name}_{seed}", given, environment)
            except (StepFailed, OSError, subprocess.CalledProcessError) as error:
                figures = {"error": str(error)}
            finally:
                free.put(gpu)
            print(f"{name} seed {seed}: {figures.get('error', 'done')}", file=sys.stderr)
            return {"case": name, "title": CASES[name].title, "seed": seed, **figures}

        with ThreadPoolExecutor(max(1, len(given.gpus))) as pool:
            results = list(pool.map(run, runs))
    print("\n".join(table(results)))
    machine = {"host": platform.platform(), "cores": os.cpu_count(), "gpus": gpu_names()}
    report = {"quick": given.quick, "machine": machine, "runs": results}
    Path(given.json).write_text(json.dumps(report, indent=1) + "\n")
    return 1 if not results or any("error" in result for result in results) else 0


def gpu_names() -> list[str]:
    """Names of the GPUs of this machine."""
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


if __name__ == "__main__":
    sys.exit(main())
