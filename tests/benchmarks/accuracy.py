"""How much of a known truth is recovered: ``python tests/benchmarks/accuracy.py`` simulates, trains and measures.

Each case runs through the public commands with their default options, in processes of their own, and gives one line
of a table: area under the FSC with the true volume of each particle (CryoBench's way; limit (D/2 - 1) / D), unmasked
and masked, for the decoded volumes and for the consensus map alone; error of latent neighbours (0 perfect,
1 nothing learned) beside what a perfect observer reaches (see observer.py); accuracy with which a linear probe reads
occupancy or class from the latents of particles that it has not seen; seconds of each step and images trained a
second. The spliceosome's cases, whose particles are as a microscope gives them (wrong poses, junk, coloured noise, a
consensus map reconstructed from the same images), have a table of their own: motions, presence and junk read from the
latents, errors of the poses before and after, and the FSC shell by shell. All figures also go to a JSON file.

    accuracy.py --case adk adk-lid --seeds 0 1 2 --gpus 0 1 2 3     six runs, four at a time, one on each GPU
    accuracy.py --case spliceosome spliceosome-rigid betagal        wrong poses; nothing moves; real particles
    accuracy.py --train "--recipe published"                        with other options of the training
    accuracy.py --simulate "--particles 3000 --box 48 --apix 11.32" smaller than the case says
    accuracy.py --quick                                             tiny sizes: tests this script, measures nothing

Cases whose data are absent are left out with a note. --spliceosome: made from PDB entry 5NRL by molecules.py; --views:
any RELION particles file with orientations and CTFs (by default those of EMPIAR-10180); --betagal: a folder with
particles (.star), their stack, and a map (*_map.mrc), by default 1,211 particles of EMPIAR-10204.
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
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

if __package__:
    from benchmarks.molecules import write_antibody, write_two_states
else:  # run as a script
    from molecules import write_antibody, write_two_states

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data"
QUICK_NETWORK = (
    "--qdim 16 --qlayers 1 --zdim 2 --gaussian_kdim 16 --gaussian_klayers 1 --gaussian_embedding_dim 8 "
    "--feature_kdim 16 --feature_klayers 1 --feature_dim 16 --epoch 0"
)


ERRORS = "--pose_error 1.5 --shift_error 0.35 --defocus_error 150 --contrast_spread 0.2 --junk 0.08"
MICROSCOPE = "--box 96 --apix 5.66 --snr 0.05 --noise coloured --consensus reconstructed"
QUICK_MICROSCOPE = "--particles 120 --box 24 --apix 24 --snr 1 --noise coloured --consensus reconstructed"
MOVING = "--motions 'head; arm' --missing arm --missing_fraction 0.2"
STILL = "--basins 0.5:0:1"  # every particle in the middle frame


@dataclass(frozen=True)
class Case:
    """One dataset. ``model``: which molecule; ``simulate``, ``quick``: words of the simulate command."""

    title: str
    model: str
    simulate: str = ""
    quick: str = ""


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
    "spliceosome": Case(
        "spliceosome, two motions, a part missing in 20 %, wrong poses, junk",
        "spliceosome",
        f"--particles 32000 {MICROSCOPE} {MOVING} {ERRORS}",
        f"{QUICK_MICROSCOPE} {MOVING} {ERRORS}",
    ),
    "spliceosome-rigid": Case(
        "the same molecule, nothing moves, the same errors",
        "spliceosome",
        f"--particles 16000 {MICROSCOPE} {STILL} {ERRORS}",
        f"{QUICK_MICROSCOPE} {STILL} {ERRORS}",
    ),
    "spliceosome-exact": Case(
        "spliceosome without errors",
        "spliceosome",
        f"--particles 32000 {MICROSCOPE} {MOVING}",
        f"{QUICK_MICROSCOPE} {MOVING}",
    ),
    "betagal": Case("real beta-galactosidase, nothing known to move", "betagal"),
    "empiar10076": Case("EMPIAR-10076, two assembly states", "empiar"),
}


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
    simulated = case.model not in ("empiar", "betagal")
    if case.model == "empiar":
        preprocess = write_two_states(folder, Path(given.empiar))
    elif case.model == "betagal":
        particles, density = (next(Path(given.betagal).resolve().glob(p)) for p in ("*.star", "*_map.mrc"))
        preprocess = ["--star_file", str(particles), "--consensus_map", str(density)]
        preprocess += ["--downsample_size", "32", "--max_gaussians", "500"] if given.quick else []
    else:
        words = ["--model", str(molecule(case, folder, given).resolve())]
        if case.model == "spliceosome":
            words += ["--poses", str(Path(given.views).resolve())]
        words += shlex.split(case.quick if given.quick else case.simulate) + shlex.split(given.simulate)
        seconds["simulate"] = step(folder, "simulate", [*words, *common], environment)
        source = folder / "simulate"
        preprocess = ["-s", str(source), "--star_file", "particles.star", "--consensus_map", "consensus.mrc"]
    preprocess += shlex.split(QUICK_NETWORK if given.quick else "") + shlex.split(given.preprocess)
    seconds["preprocess"] = step(folder, "preprocess", [*preprocess, *common], environment)
    train = ["--epoch", "2", "--batch", "20"] if given.quick else []
    prepared = ["-s", str(folder / "preprocess")]
    seconds["train"] = step(folder, "train", [*prepared, *train, *shlex.split(given.train), *common], environment)
    last = max((folder / "train").glob("weights.*.output.pkl"), key=lambda path: int(path.name.split(".")[1]))
    weights = last.with_name(last.name.replace(".output", ""))
    line: dict[str, Any] = {"said": said(folder / "train"), "seconds": seconds}
    line["images_per_second"] = training_rate(folder / "train")
    if case.model == "betagal":  # nothing is known of these particles to compare with
        return line
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
    line |= summary(figures)
    if simulated and not given.no_bounds:
        words = [str(source), str(folder / "preprocess" / "ctf.npy"), "--device", given.device]
        few = ["--particles", "20", "--stride", "10" if case.model != "spliceosome" else "30"]
        many = ["--particles", "400", "--stride", "4"] if case.model == "spliceosome" else ["--particles", "1000"]
        words += few if given.quick else many
        observer = [sys.executable, str(Path(__file__).with_name("observer.py")), *words]
        line["bound"] = json.loads(subprocess.run(observer, stdout=subprocess.PIPE, env=environment, check=True).stdout)
    return line


def molecule(case: Case, folder: Path, given: argparse.Namespace) -> Path:
    """The file of the case's molecule; the antibody's is written into ``folder``."""
    if case.model == "igg":
        return write_antibody(folder / "antibody.npz", given.igg)
    return Path(given.adk if case.model == "adk" else given.spliceosome)


def said(folder: Path) -> list[str]:
    """What the training said of its components: whether anything moves."""
    from gaussianem_core.job.events import read_events

    texts = [event["text"] for event in read_events(folder / "events.jsonl")[0] if event["type"] == "message"]
    return [text for text in texts if "component" in text or "nothing stands" in text]


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of a line of the table, from evaluate.json."""
    line = {
        name: figures.get(name)
        for name in ("particles", "gaussians", "box", "latent_error", "occupancy_accuracy", "label_accuracy")
    }
    line |= {name: figures.get(name) for name in ("motion_r2", "occupancy_roc", "junk_roc", "poses")}
    fsc = figures.get("fsc", {})
    line["limit"], line["shells_angstrom"] = fsc.get("limit"), fsc.get("shells_angstrom")
    for name in ("model", "gaussians", "consensus", "consensus_map", "mean_map"):
        for kind in ("", "_masked"):
            line[f"area_{name}{kind}"] = fsc.get(f"{name}{kind}", {}).get("area")
            line[f"curve_{name}{kind}"] = fsc.get(f"{name}{kind}", {}).get("curve")
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


def microscope_table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """A column a run of the spliceosome: what is asked of particles as a microscope gives them."""
    runs = [run for run in runs if run.get("poses")]
    if not runs:
        return []
    rows: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = []
    for name in dict.fromkeys(name for run in runs for name in run["motion_r2"] or {}):
        rows.append((f"{name}, R2 (60 nearest latents)", lambda r, n=name: (r["motion_r2"] or {}).get(n), ".3f"))
        for title, ending in (("perfect observer", ""), ("the same, who does not know the poses", "_poses_unknown")):
            key = f"motion_r2_{name}{ending}"
            rows.append((f"   {title}", lambda r, n=key: r.get("bound", {}).get(n), ".3f"))
    rows.append(("part there or not, area under the ROC", lambda r: r["occupancy_roc"], ".3f"))
    rows.append(("   perfect observer", lambda r: r.get("bound", {}).get("occupancy_roc"), ".3f"))
    for name in dict.fromkeys(name for run in runs for name in run["junk_roc"]):
        rows.append((f"junk, area under the ROC of {name}", lambda r, n=name: r["junk_roc"].get(n), ".3f"))
    for title, name in (("rotation error, degrees rms", "rotation_deg"), ("shift error, px rms", "shift_px")):
        rows.append((f"{title}, before", lambda r, n=name: r["poses"].get("before", {}).get(n), ".3f"))
        rows.append((f"{title}, after", lambda r, n=name: r["poses"].get("after", {}).get(n), ".3f"))
        rows.append(("   perfect observer", lambda r, n=name: r.get("bound", {}).get(n), ".3f"))
    for kind, words in (("", "no mask"), ("_masked", "masked")):
        for title, name in (
            ("decoded", "model"),
            ("consensus map", "consensus_map"),
            ("mean of the truth", "mean_map"),
        ):
            rows.append((f"FSC area, {words}: {title}", lambda r, n=name + kind: r[f"area_{n}"], ".3f"))
    for name in ("simulate", "preprocess", "train"):
        rows.append((f"seconds: {name}", lambda r, n=name: r["seconds"].get(n), ",.0f"))
    titles = [f"{run['case']} {run['seed']}" for run in runs]
    width = max(map(len, titles)) + 2
    lines = ["", " " * 44 + "".join(title.rjust(width) for title in titles)]
    lines += [title.ljust(44) + "".join(cell(value(run), width, form) for run in runs) for title, value, form in rows]
    for run in runs:
        shells = run["shells_angstrom"] or [None]
        chosen = np.unique(np.linspace(1, len(shells) - 1, 11).round().astype(int)) if len(shells) > 11 else []
        lines += ["", f"{run['case']} {run['seed']}, masked FSC by shell, A".ljust(44)]
        lines[-1] += "".join(f"{shells[i]:6.1f}" for i in chosen)
        for title, name in (
            ("decoded", "model"),
            ("consensus map", "consensus_map"),
            ("mean of the truth", "mean_map"),
        ):
            curve = run[f"curve_{name}_masked"]
            lines.append(f"   {title}".ljust(44) + "".join(f"{curve[i]:6.2f}" for i in chosen if curve))
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
    parser.add_argument(
        "--spliceosome",
        default=str(DATA / "spliceosome" / "spliceosome_motion.npz"),
        help="the moving spliceosome, of molecules.py",
    )
    parser.add_argument(
        "--views",
        default=str(DATA / "spliceosome" / "empiar10180_poses_ctf.star"),
        help="orientations and CTFs of the spliceosome's cases",
    )
    parser.add_argument("--betagal", default=str(DATA / "betagal"), help="folder of the real particles")
    parser.add_argument("--simulate", default="", metavar="OPTIONS", help="further options of simulate, quoted")
    parser.add_argument("--preprocess", default="", metavar="OPTIONS", help="further options of preprocess, quoted")
    parser.add_argument("--train", default="", metavar="OPTIONS", help="further options of train, quoted")
    parser.add_argument("--volumes", type=int, default=100, help="particles whose volume is compared")
    parser.add_argument("--no_bounds", action="store_true", help="leave out the perfect observer")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, which test this script")
    parser.add_argument("--work", help="keep all files in this directory; else they are removed")
    parser.add_argument("--json", default="accuracy.json", help="file for all figures")
    given = parser.parse_args(argv)
    present = {
        "adk": Path(given.adk).is_file(),
        "empiar": Path(given.empiar).is_dir(),
        "igg": True,
        "spliceosome": Path(given.spliceosome).is_file() and Path(given.views).is_file(),
        "betagal": Path(given.betagal).is_dir(),
    }
    runs = []
    for name in given.case:
        if present[CASES[name].model]:
            runs += [(name, seed) for seed in given.seeds]
        else:
            print(f"{name}: left out, its data are absent", file=sys.stderr)
    free: queue.Queue[str | None] = queue.Queue()
    for gpu in given.gpus or [None]:
        free.put(gpu)
    results: dict[tuple[str, int], dict[str, Any]] = {}
    writing = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="gaussianem_accuracy_") as temporary:
        base = Path(given.work or temporary).resolve()

        def run(entry: tuple[str, int]) -> None:
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
            with writing:  # after each run, so that a benchmark that is stopped leaves the figures it has
                results[entry] = {"case": name, "title": CASES[name].title, "seed": seed, **figures}
                write_report(Path(given.json), given.quick, [results[each] for each in runs if each in results])

        with ThreadPoolExecutor(max(1, len(given.gpus))) as pool:
            list(pool.map(run, runs))
    found = [results[each] for each in runs]
    print("\n".join([*table(found), *microscope_table(found)]))
    for result in found:
        for text in result.get("said", ()):
            print(f"{result['case']} seed {result['seed']} says: {text}")
    return 1 if not found or any("error" in result for result in found) else 0


def write_report(path: Path, quick: bool, runs: list[dict[str, Any]]) -> None:
    """All figures as JSON."""
    machine = {"host": platform.platform(), "cores": os.cpu_count(), "gpus": gpu_names()}
    path.write_text(json.dumps({"quick": quick, "machine": machine, "runs": runs}, indent=1) + "\n")


def gpu_names() -> list[str]:
    """Names of the GPUs of this machine."""
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


if __name__ == "__main__":
    sys.exit(main())
