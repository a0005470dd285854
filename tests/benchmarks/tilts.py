"""Tilt series against single images: ``python tests/benchmarks/tilts.py`` simulates, trains and measures.

Molecules in motion are seen in tilt series that reach from the least tilted images outwards: of 41 tilts 3 degrees
apart, 120 e/A^2 in all, the first 5, 11, 21 and 41. Beside each series stand single images of as many particles, each
with the whole signal of a particle's tilts: its SNR is that of an untilted, undamaged tilt times the sum over the tilts
of what dose and path leave of the signal's power, as measured here on clean images. Public commands with their default
options run in processes of their own. A line gives area under the FSC with the true volume of each particle (limit
(D/2 - 1) / D) of decoded volumes, masked and not, and of the mean of the true maps; error of latent neighbours (0
perfect, 1 nothing learned) beside that of an observer who knows all maps and poses and has all images of a particle;
and seconds. A tilt has 3 e/A^2, so its SNR is about a sixteenth of that of a single-particle image of 50 e/A^2.

    tilts.py --molecule adk spliceosome --at_once 4   all lines, four runs side by side (on one GPU, too)
    tilts.py --tilts 41 5 --no_single                 two series alone
    tilts.py --quick --device cpu                     tiny sizes: tests this script, measures nothing

Figures go to a JSON file after each run, so that a benchmark that is stopped leaves what it has.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

if __package__:
    from benchmarks import observer
    from benchmarks.accuracy import DATA, QUICK_NETWORK, StepFailed, cell, said, step, summary, write_report
else:  # run as a script
    import observer
    from accuracy import DATA, QUICK_NETWORK, StepFailed, cell, said, step, summary, write_report

from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.runtime.device import choose_device
from gaussianem_core.simulation.ground_truth import Truth, load_truth
from gaussianem_core.simulation.rendering import clean_images

STEP_DEGREES, TOTAL_DOSE, MOST_TILTS = 3.0, 120.0, 41
POWER_SAMPLE = 30
"""Particles whose clean images tell how much signal dose and path leave."""


@dataclass(frozen=True)
class Molecule:
    """``simulate``, ``quick``: words of the simulate command, and the ``snr`` of an untilted, undamaged tilt."""

    simulate: str
    quick: str
    snr: float


MOLECULES = {
    "adk": Molecule("--particles 2000 --box 64 --apix 2.25", "--particles 60 --box 24 --apix 5", 0.006),
    "spliceosome": Molecule("--particles 1000 --box 64 --apix 8.49", "--particles 60 --box 24 --apix 24", 0.003),
}
QUICK_SNR = 0.3


def every_image(truth: Truth) -> tuple[Truth, torch.Tensor]:  # -> with a row an image, (I, 9 or 15)
    """The truth as if each image were a particle, and the CTFs of the images with what dose and path leave."""
    assert truth.ctf is not None and truth.present is not None and truth.frame is not None and truth.state is not None
    optics = truth.ctf if truth.ctf_extra is None else np.concatenate([truth.ctf, truth.ctf_extra], axis=1)
    if truth.particle is None:
        return truth, torch.from_numpy(optics).float()
    own = {name: getattr(truth, name)[truth.particle] for name in ("present", "frame", "state")}
    return replace(truth, particle=None, **own), torch.from_numpy(optics).float()


def signal_left(truth: Truth, device: torch.device) -> float:
    """Power of the signal in all images of a particle over that of one untilted, undamaged image."""
    images, optics = every_image(truth)
    assert truth.ctf is not None
    few = torch.arange(min(len(optics), POWER_SAMPLE * (len(optics) // count(truth))), device=device)
    power = [
        float(torch.stack([clean_images(images, table, rows).var(dim=(1, 2)).sum() for rows in few.split(100)]).sum())
        for table in (optics.to(device), optics[:, :9].to(device))
    ]
    return power[0] / power[1] * len(optics) / count(truth)


def count(truth: Truth) -> int:
    """Number of particles."""
    assert truth.state is not None
    return len(truth.state)


@torch.no_grad()
def bound(folder: Path, particles: int, stride: int, device: torch.device) -> float:
    """Latent error of an observer who knows maps, poses and CTFs and has all images of some particles."""
    truth = load_truth(folder / "truth.npz")
    images, optics = every_image(truth)
    assert images.present is not None and images.positions is not None and truth.state is not None
    chosen = np.sort(np.random.default_rng(0).permutation(count(truth))[:particles])
    each = len(optics) // count(truth)
    rows = (chosen[:, None] * each + np.arange(each)).reshape(-1)
    seen = torch.from_numpy(ImageStack.from_file(folder / "particles.mrcs").read(rows)).to(device)
    frames = np.arange(0, len(images.positions), stride)
    found = observer.posteriors(images, optics.to(device), seen, rows, frames, None).known.sum(1)
    told = np.log(np.maximum(found, 1e-300)).reshape(len(chosen), each, -1).sum(1)
    shares = np.exp(told - told.max(1, keepdims=True))
    return observer.one_motion(truth, chosen, shares / shares.sum(1, keepdims=True), frames, 0)["latent_error"]


def run_case(
    name: str, source: Path, tilts: int, folder: Path, given: argparse.Namespace, words: Sequence[str]
) -> dict[str, Any]:
    """All steps on simulated images, ``tilts`` a particle (0: single); the figures of its line."""
    environment = dict(os.environ)
    common = ["--seed", str(given.seed), "--device", given.device, "--threads", str(given.threads)]
    seconds = {"simulate": step(folder, "simulate", [*words, *common], environment)}
    raw = folder / "simulate"
    preprocess = ["-s", str(raw), "--star_file", "particles.star", "--consensus_map", "consensus.mrc"]
    preprocess += ["--group_by", "rlnGroupName"] if tilts else []
    preprocess += shlex.split(QUICK_NETWORK) if given.quick else []
    seconds["preprocess"] = step(folder, "preprocess", [*preprocess, *common], environment)
    prepared = ["-s", str(folder / "preprocess")]
    train = ["--epoch", "1", "--batch", "20"] if given.quick else []
    seconds["train"] = step(folder, "train", [*prepared, *train, *shlex.split(given.train), *common], environment)
    last = max((folder / "train").glob("weights.*.output.pkl"), key=lambda path: int(path.name.split(".")[1]))
    results = ["--truth", str(raw / "truth.npz"), "--latent", str(last)]
    results += ["--model_weight", str(last.with_name(last.name.replace(".output", "")))]
    results += ["--volumes", "3" if given.quick else str(given.volumes)]
    seconds["evaluate"] = step(folder, "evaluate", [*prepared, *results, *common], environment)
    line = {"case": name, "tilts": tilts, "seed": given.seed, "seconds": seconds, "said": said(folder / "train")}
    line |= summary(json.loads((folder / "evaluate" / "evaluate.json").read_text()))
    if not given.no_bounds:
        few, stride = (20, 20) if given.quick else (given.observed, 2)
        line["bound"] = bound(raw, few, stride, choose_device(given.device, threads=given.threads))
    if not given.work:
        (raw / "particles.mrcs").unlink()
    return line


def run_pair(
    name: str, tilts: int, base: Path, given: argparse.Namespace, keep: Any
) -> None:  # keep: hears each line of the table
    """A tilt series, and the single images of the same signal."""
    molecule = MOLECULES[name]
    snr = QUICK_SNR if given.quick else molecule.snr
    words = ["--model", str(Path(getattr(given, name)).resolve()), "--float16"]
    words += shlex.split(molecule.quick if given.quick else molecule.simulate) + shlex.split(given.simulate)
    reach = STEP_DEGREES * (tilts - 1) / 2
    series = ["--snr", str(snr), "--tilts", str(tilts), "--tilt_range", str(reach)]
    series += ["--tilt_dose", str(TOTAL_DOSE / MOST_TILTS)]
    folder = base / f"{name}_{tilts}"
    folder.mkdir(parents=True)
    own = {"case": name, "tilts": tilts, "snr": snr}
    try:
        keep(own | run_case(name, folder, tilts, folder, given, [*words, *series]))
        left = signal_left(load_truth(folder / "simulate" / "truth.npz"), torch.device("cpu"))
        if given.no_single:
            return
        own = {"case": name, "tilts": 0, "of": tilts, "snr": snr * left}
        single = base / f"{name}_{tilts}_single"
        single.mkdir()
        keep(own | run_case(name, single, 0, single, given, [*words, "--snr", f"{snr * left:.6g}"]))
    except (StepFailed, OSError, subprocess.CalledProcessError) as error:
        keep(own | {"error": str(error)})


COLUMNS = (
    ("molecule", 12, lambda r: r["case"], ""),
    ("images a particle", 18, lambda r: r["tilts"] or f"1 (of {r['of']})", ""),
    ("SNR", 8, lambda r: r["snr"], ".4f"),
    ("latent", 7, lambda r: r.get("latent_error"), ".3f"),
    ("bound", 6, lambda r: r.get("bound"), ".3f"),
    ("model", 6, lambda r: r.get("area_model"), ".3f"),
    ("masked", 7, lambda r: r.get("area_model_masked"), ".3f"),
    ("mean", 6, lambda r: r.get("area_mean_map"), ".3f"),
    ("masked", 7, lambda r: r.get("area_mean_map_masked"), ".3f"),
    ("limit", 6, lambda r: r.get("limit"), ".3f"),
    *(
        (title, 9, lambda r, title=title: r.get("seconds", {}).get(title[:10]), ",.0f")
        for title in ("simulate", "preprocess", "train")
    ),
)


def table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """A line a run, series of a molecule by their length, each followed by its single images."""
    lines = [" ".join(title.rjust(width) for title, width, _, _ in COLUMNS)]
    for run in sorted(runs, key=lambda r: (r["case"], r["tilts"] or r["of"], not r["tilts"])):
        cells = [(value(run), width, form) for _, width, value, form in COLUMNS]
        lines.append(" ".join(cell(*entry) for entry in cells) + (f"  {run['error']}" if "error" in run else ""))
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecule", nargs="+", choices=MOLECULES, default=list(MOLECULES))
    parser.add_argument("--tilts", nargs="+", type=int, default=[41, 21, 11, 5], help="the longest first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at_once", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each run")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--adk", default=str(DATA / "adk_tmd.npz"), help="trajectory of adenylate kinase")
    parser.add_argument(
        "--spliceosome",
        default=str(DATA / "spliceosome" / "spliceosome_motion.npz"),
        help="the moving spliceosome, of molecules.py",
    )
    parser.add_argument("--simulate", default="", metavar="OPTIONS", help="further options of simulate, quoted")
    parser.add_argument("--train", default="", metavar="OPTIONS", help="further options of train, quoted")
    parser.add_argument("--volumes", type=int, default=60, help="particles whose volume is compared")
    parser.add_argument("--observed", type=int, default=300, help="particles of the perfect observer")
    parser.add_argument("--no_bounds", action="store_true", help="leave out the perfect observer")
    parser.add_argument("--no_single", action="store_true", help="leave out the single images")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, which test this script")
    parser.add_argument("--work", help="keep all files in this directory; else they are removed")
    parser.add_argument("--json", default="tilts.json", help="file for all figures")
    given = parser.parse_args(argv)
    pairs = [(name, tilts) for tilts in given.tilts for name in given.molecule if Path(getattr(given, name)).is_file()]
    runs: list[dict[str, Any]] = []
    writing = threading.Lock()

    def keep(line: dict[str, Any]) -> None:
        with writing:
            runs.append(line)
            print(table([line])[1], flush=True)
            write_report(Path(given.json), given.quick, runs)

    with tempfile.TemporaryDirectory(prefix="gaussianem_tilts_") as temporary:
        base = Path(given.work or temporary).resolve()
        with ThreadPoolExecutor(given.at_once) as pool:
            list(pool.map(lambda pair: run_pair(pair[0], pair[1], base, given, keep), pairs))
    print("\n".join(["", *table(runs)]))
    return 1 if not runs or any("error" in run for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
