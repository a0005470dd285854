"""``gaussianem demo``: simulate a small moving molecule, recover its motion, and show that it was recovered.

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
from gaussianem_gui.demo.molecule import LID, SWING_DEGREES, write_molecule
from gaussianem_gui.execution import runner, workflow
from gaussianem_gui.execution.workflow import Step, Workflow
from gaussianem_gui.explorer.reconstruct_job import state_values
from gaussianem_gui.explorer.sources import STAR, find_sources
from gaussianem_gui.project.job import Job, State
from gaussianem_gui.project.project import JobInfo, Project, remember_project

MODEL, FIGURE = "molecule.cif", "demo.png"
RECOVERED = 0.7  # correlation of the found with the true angle that counts as recovered

DEMO = Workflow(
    name="Demo",
    steps=[
        Step(
            id="simulate",
            job_type="simulate",
            values={
                "model": MODEL,
                "particles": 1000,
                "box": 32,
                "apix": 5.0,
                "snr": 1.0,
                "missing": LID,
                "missing_fraction": 0.3,
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
        Step(id="train", job_type="train", inputs_from=["preprocess"], values={"batch": 16, "epoch": 24}),
        Step(id="analyze", job_type="analyze", inputs_from=["train"], values={"nclass": 4, "no_umap": True}),
        Step(id="evaluate", job_type="evaluate", inputs_from=["train"], values={"volumes": 50}),
    ],
)


def main(argv: list[str] | None = None) -> int:
    """Run the demo in a directory; 0 if the truth was recovered, 1 if not, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="gaussianem demo",
        description="Simulate a small moving molecule and recover its motion: under five minutes on two CPU cores.",
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
    """Make the project, run the workflow, print and draw what came out."""
    began = time.monotonic()
    project = Project.create(directory)
    remember_project(project.root)
    atoms = write_molecule(project.root / MODEL)
    print(f"Project {project.root}")
    print(
        f"A molecule of {atoms} residues: an arm swings by {2 * SWING_DEGREES:.0f} degrees, a lid is absent in 30 % "
        "of the particles."
    )
    jobs = workflow.start(project, DEMO, {})
    if not follow(project, jobs):
        return 1
    by_type = {job.job_type: job for job in jobs}
    maps = reconstruct(project, by_type)
    if not follow(project, [maps]):
        return 1
    found = recovered(project, by_type)
    draw(project, by_type, found, project.root / FIGURE)
    good = found["angle_correlation"] >= RECOVERED
    evaluated = json.loads((by_type["evaluate"].directory / "evaluate.json").read_text())
    print(f"""
The truth was {"recovered" if good else "NOT recovered"} in {time.monotonic() - began:.0f} s:
  angle of the arm, from the latents alone   correlation with the truth {found["angle_correlation"]:.2f}
  lid there or not, from the latents alone   right for {100 * evaluated["occupancy_accuracy"]:.0f} % of the particles \
({100 * evaluated["occupancy_chance"]:.0f} % by guessing)
  latent error                               {evaluated["latent_error"]:.2f}  (0 perfect, 1 nothing learned)
{state_lines(maps)}

Look at
  {project.root / FIGURE}
  {by_type["analyze"].directory}   classes, trajectories, figures
  {maps.directory}   two states reconstructed from the images around them
  gaussianem gui {directory}       the project in the application
  gaussianem job --project {directory} list""")
    return 0 if good else 1


def reconstruct(project: Project, jobs: dict[str, Job]) -> Job:
    """Ask for maps of the first and the last class, from the images of the particles around their centres."""
    sources = find_sources(project, jobs["train"].name)
    centres = np.loadtxt(jobs["analyze"].directory / "kmeans" / "z.txt", ndmin=2)
    values = state_values(project, sources, centres[[0, -1]], row_count(sources.model()[1].parent / STAR))
    job = project.new_job("reconstruct", values | {"no_local": True}, note="Two states of the demo")
    runner.request(project, job)
    return job


def state_lines(job: Job) -> str:
    """What the half maps of the two states say, a line each."""
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


def recovered(project: Project, jobs: dict[str, Job]) -> dict[str, Any]:
    """True angles and those that a quadratic fit of the latents gives, each particle's by a fit to the others."""
    from gaussianem_core.io.latents import load_latents

    with np.load(jobs["simulate"].directory / "truth.npz", allow_pickle=False) as truth:
        frame, present = truth["frame"], truth["present"].astype(bool)
    last = [a for a in jobs["train"].artifacts() if a.kind == "latents"][-1]
    z = np.asarray(load_latents(project.root / last.path)["z_mu"], dtype=np.float64)  # (N, zdim)
    centred = z - z.mean(axis=0)
    components = centred @ np.linalg.svd(centred, full_matrices=False)[2].T
    angle = SWING_DEGREES * (2.0 * (frame - frame.min()) / max(1, np.ptp(frame)) - 1.0)
    products = [components[:, i] * components[:, j] for i in range(z.shape[1]) for j in range(i, z.shape[1])]
    design = np.stack([np.ones(len(z)), *components.T, *products], axis=1)
    fold = np.arange(len(z)) % 5
    guess = np.zeros(len(z))
    for k in range(5):
        guess[fold == k] = design[fold == k] @ np.linalg.lstsq(design[fold != k], angle[fold != k], rcond=None)[0]
    spread = guess.std() > 0
    return {
        "components": components,
        "angle": angle,
        "guess": guess,
        "present": present,
        "angle_correlation": float(np.corrcoef(guess, angle)[0, 1]) if spread else 0.0,
    }


def draw(project: Project, jobs: dict[str, Job], found: dict[str, Any], path: Path) -> None:
    """Latents coloured by the true angle, found against true angle, and volumes along the first component."""
    import mrcfile
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=[5, 4, 2])
    components, angle, present = found["components"], found["angle"], found["present"]
    for there, marker, label in ((True, "o", "with lid"), (False, "^", "without lid")):
        chosen = present == there
        points = left.scatter(
            *components[chosen, :2].T,
            c=angle[chosen],
            s=12,
            marker=marker,
            label=label,
            cmap="coolwarm",
            vmin=-SWING_DEGREES,
            vmax=SWING_DEGREES,
        )
    left.set(xlabel="component 1", ylabel="component 2", title="What the images alone told")
    left.legend(fontsize=8)
    figure.colorbar(points, ax=left, label="true angle of the arm (degrees)")
    middle.plot([-SWING_DEGREES, SWING_DEGREES], [-SWING_DEGREES, SWING_DEGREES], color="0.6", lw=1)
    middle.scatter(angle, found["guess"], s=8, alpha=0.6)
    middle.set(
        xlabel="true angle (degrees)",
        ylabel="angle found (degrees)",
        title=f"Correlation {found['angle_correlation']:.2f}",
    )
    series = [a for a in jobs["analyze"].artifacts() if a.kind == "volume_series"]
    files = sorted((project.root / series[0].path).glob("*.mrc")) if series else []
    if files:
        chosen_files = [files[0], files[len(files) // 2], files[-1]]
        images = []
        for file in chosen_files:
            with mrcfile.open(file) as volume:
                images.append(np.asarray(volume.data, dtype=np.float32).sum(axis=0))
        right.imshow(np.concatenate(images, axis=0), cmap="gray", origin="lower")
    right.set(title="Decoded along\ncomponent 1", xticks=[], yticks=[])
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


if __name__ == "__main__":
    sys.exit(main())
