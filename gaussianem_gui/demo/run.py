"""``gaussianem demo``: simulate the moving spliceosome, recover its motions, and show that they were recovered.

Everything goes through a project and its jobs, as a user's work would; the project can be opened afterwards.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.io.particle_table import row_count
from gaussianem_core.runtime.files import replacing
from gaussianem_gui.demo.molecule import PARTS, SWING_DEGREES, write_molecule
from gaussianem_gui.execution import runner, workflow
from gaussianem_gui.execution.workflow import Step, Workflow
from gaussianem_gui.explorer.reconstruct_job import state_values
from gaussianem_gui.explorer.sources import STAR, find_sources
from gaussianem_gui.project.job import Job, State
from gaussianem_gui.project.project import JobInfo, Project, remember_project

MODEL, FIGURE = "spliceosome.npz", "demo.png"
NEIGHBOURS = 40  # a twentieth of the particles, as in Evaluate below 1,200
RECOVERED = {"head": 0.7, "arm": 0.6, "arm there": 0.9, "junk": 0.9}  # R2, R2, ROC, ROC that count as recovered

DEMO = Workflow(
    name="Demo",
    steps=[
        Step(
            id="simulate",
            job_type="simulate",
            values={
                "model": MODEL,
                "particles": 1000,
                "box": 48,
                "apix": 8.5,
                "snr": 0.3,
                "noise": "coloured",
                "contrast_spread": 0.1,
                "motions": ";".join(PARTS),
                "missing": "arm",
                "missing_fraction": 0.2,
                "pose_error": 1.0,
                "shift_error": 0.3,
                "junk": 0.05,
                "consensus": "reconstructed",
            },
        ),
        Step(
            id="preprocess",
            job_type="preprocess",
            inputs_from=["simulate"],
            values={
                "sample_interval": 2,
                "scale_max": 1.5,
                "zdim": 4,
                "qdim": 256,
                "batch_size": 16,
            },
        ),
        Step(id="train", job_type="train", inputs_from=["preprocess"], values={"batch": 16, "epoch": 8}),
        Step(id="analyze", job_type="analyze", inputs_from=["train"], values={"nclass": 4, "no_umap": True}),
        Step(id="evaluate", job_type="evaluate", inputs_from=["train"], values={"volumes": 50}),
    ],
)


def main(argv: list[str] | None = None) -> int:
    """Run the demo in a directory; 0 if the truth was recovered, 1 if not or if a job did not succeed, 2 for bad input,
    130 after Ctrl+C (the jobs go on)."""
    parser = argparse.ArgumentParser(
        prog="gaussianem demo",
        description="Simulate the moving spliceosome and recover its motions: some five minutes on two CPU cores.",
    )
    parser.add_argument("directory", nargs="?", default="gaussianem-demo", help="new directory for the project")
    try:
        return run(Path(parser.parse_args(argv).directory))
    except InputError as error:
        print(f"gaussianem demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nThe jobs go on by themselves; `gaussianem job list` in the demo's directory shows them.")
        return 130


def run(directory: Path) -> int:
    """Make the project, run the workflow, print and draw what came out; 0 if every score reaches RECOVERED, else 1.

    Raises InputError if the directory holds a project already or cannot be written.
    """
    began = time.monotonic()
    project = Project.create(directory)
    remember_project(project.root)
    points = write_molecule(project.root / MODEL)
    particles = DEMO.steps[0].values
    print(f"Project {project.root}")
    print(
        f"The spliceosome (PDB 5NRL) as {points} points: its head and its arm turn by {2 * SWING_DEGREES:.0f} degrees, "
        f"each for itself,\nand the arm is absent in {100 * particles['missing_fraction']:.0f} % of "
        f"{particles['particles']:,} images. Orientations are wrong by {particles['pose_error']:g} degree and offsets "
        f"by {particles['shift_error']:g} px rms,\n{100 * particles['junk']:.0f} % of the images are junk, and the "
        "consensus map is reconstructed from these very images."
    )
    jobs = workflow.start(project, DEMO, {})
    if not follow(project, jobs):
        return 1
    by_type = {job.job_type: job for job in jobs}
    maps = reconstruct(project, by_type)
    if not follow(project, [maps]):
        return 1
    evaluated = json.loads((by_type["evaluate"].directory / "evaluate.json").read_text())
    found = scores(evaluated)
    draw(project, by_type, found, project.root / FIGURE)
    good = all(found[name] >= least for name, least in RECOVERED.items())
    print(f"""
The truth was {"recovered" if good else "NOT recovered"} in {time.monotonic() - began:.0f} s, from the images alone:
  angle of the head                          R2 {found["head"]:.2f}  (1 perfect, 0 nothing learned)
  angle of the arm, where there is one       R2 {found["arm"]:.2f}
  arm there or not                           area under the ROC {found["arm there"]:.3f}  (1 perfect, 0.5 guessing)
  junk or particle                           area under the ROC {found["junk"]:.3f}
{state_lines(maps)}

Look at
  {project.root / FIGURE}
  {by_type["analyze"].directory}   classes, trajectories, figures
  {maps.directory}   two states reconstructed from the images around them
  gaussianem gui {directory}       the project in the application
  gaussianem job --project {directory} list""")
    return 0 if good else 1


def scores(evaluated: dict[str, Any]) -> dict[str, float]:
    """What Evaluate found against the truth: R2 of the angles ("head", "arm"), area under the ROC of the arm's presence
    ("arm there") and of junk ("junk").

    A figure that could not be had, as where no latent dimension is real, counts as nothing learned: 0, or 0.5 for a
    ROC.
    """
    motions, junk = evaluated.get("motion_r2", {}), evaluated.get("junk_roc", {})
    return {
        **{name: float(motions.get(name, 0.0)) for name in PARTS},
        "arm there": float(evaluated.get("occupancy_roc", 0.5)),
        "junk": float(junk.get("junk_probability", junk.get("signal_fit", 0.5))),
    }


def reconstruct(project: Project, jobs: dict[str, Job]) -> Job:
    """Start a Reconstruct job of two states, the particles around the centres of the first and the last class; returns
    it without waiting. ``jobs`` are those of the demo by type."""
    sources = find_sources(project, jobs["train"].name)
    centres = np.loadtxt(jobs["analyze"].directory / "kmeans" / "z.txt", ndmin=2)
    values = state_values(project, sources, centres[[0, -1]], row_count(sources.model()[1].parent / STAR))
    job = project.new_job("reconstruct", values | {"no_local": True}, note="Two states of the demo")
    runner.request(project, job)
    return job


def state_lines(job: Job) -> str:
    """A line for each state of a Reconstruct job: its particles, and the resolution of its half maps in Angstrom."""
    entries = json.loads((job.directory / "results.json").read_text())["states"]
    lines = []
    for number, entry in enumerate(entries, start=1):
        count, reach = entry["state"]["chosen_particles"], entry["resolution_angstrom"]
        title = f"state {number}, reconstructed from the images"
        lines.append(f"  {title:<43}{count} particles around it, half maps agree to {reach:.0f} A")
    return "\n".join(lines)


def follow(project: Project, jobs: list[Job]) -> bool:
    """Print the jobs' progress until all have ended; False, with the reason, as soon as one did not succeed."""
    shown: dict[str, str] = {}
    names = {job.name for job in jobs}
    while True:
        rows = [info for info in project.jobs() if info.name in names]
        for info in rows:
            line = _progress(info)
            if line != shown.get(info.name):
                shown[info.name] = line
                if line:
                    print(line, flush=True)
        states = [info.status.state for info in rows]
        if any(state.finished and state is not State.SUCCEEDED for state in states):
            return False
        if all(state is State.SUCCEEDED for state in states):
            project.sync()
            return True
        runner.ensure_runner(project)
        time.sleep(0.5)


def _progress(info: JobInfo) -> str:
    """A line that changes with the state and each quarter of a stage."""
    status = info.status
    if status.state is State.SCHEDULED:
        return ""
    if status.state is State.RUNNING:
        part = "" if status.fraction is None else f" {25 * int(4 * status.fraction):3d} %  {status.stage}"
        return f"{info.name:<20} running{part}"
    took = f" after {status.ended - status.started:.0f} s" if status.started and status.ended else ""
    return f"{info.name:<20} {status.state.value.lower()}{took}" + (f": {status.detail}" if status.detail else "")


def draw(project: Project, jobs: dict[str, Job], found: dict[str, float], path: Path) -> None:
    """Write the demo's figure to ``path`` (PNG): latents coloured by the head's true angle, angles found against true
    ones in degrees, and volumes along the first component. ``found``: the scores, named in the legend.

    An angle is read from a particle's latents as Evaluate does: the mean of its nearest others'.
    """
    import mrcfile
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from scipy.spatial import cKDTree

    from gaussianem_core.io.latents import load_latents

    with np.load(jobs["simulate"].directory / "truth.npz", allow_pickle=False) as truth:
        real = truth["junk"] == 0
        angles, present = truth["motions"][real].astype(float), truth["present"][real].astype(bool)
    last = [a for a in jobs["train"].artifacts() if a.kind == "latents"][-1]
    z = np.asarray(load_latents(project.root / last.path)["z_mu"], dtype=np.float64)[real]  # (N, zdim)
    centred = z - z.mean(axis=0)
    components = centred @ np.linalg.svd(centred, full_matrices=False)[2].T

    figure = Figure(figsize=(13, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=[5, 4, 2])
    for there, marker, label in ((True, "o", "with arm"), (False, "^", "without arm")):
        points = left.scatter(
            *components[present == there, :2].T,
            c=angles[present == there, 0],
            s=12,
            marker=marker,
            label=label,
            cmap="coolwarm",
            vmin=-SWING_DEGREES,
            vmax=SWING_DEGREES,
        )
    left.set(xlabel="component 1", ylabel="component 2", title="What the images alone told")
    left.legend(fontsize=8)
    figure.colorbar(points, ax=left, label="true angle of the head (degrees)")
    middle.plot([-SWING_DEGREES, SWING_DEGREES], [-SWING_DEGREES, SWING_DEGREES], color="0.6", lw=1)
    for number, name in enumerate(PARTS):
        known = np.isfinite(angles[:, number])
        nearest = cKDTree(z[known]).query(z[known], k=NEIGHBOURS + 1)[1][:, 1:]  # the first is the particle itself
        middle.scatter(
            angles[known, number],
            angles[known, number][nearest].mean(axis=1),
            s=8,
            alpha=0.5,
            label=f"{name}, R2 {found[name]:.2f}",
        )
    middle.set(xlabel="true angle (degrees)", ylabel="angle found (degrees)", title="Read from the latents")
    middle.legend(fontsize=8)
    series = [a for a in jobs["analyze"].artifacts() if a.kind == "volume_series"]
    files = sorted((project.root / series[0].path).glob("*.mrc")) if series else []
    if files:
        images = []
        for file in (files[0], files[len(files) // 2], files[-1]):
            with mrcfile.open(file) as volume:
                images.append(np.asarray(volume.data, dtype=np.float32).sum(axis=0))
        right.imshow(np.concatenate(images, axis=0), cmap="gray", origin="lower")
    right.set(title="Decoded along\ncomponent 1", xticks=[], yticks=[])
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


if __name__ == "__main__":
    sys.exit(main())
