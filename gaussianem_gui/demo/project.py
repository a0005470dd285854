"""The demo as the application offers it: a project whose first job makes the particles, and whose forms are filled in.

The user runs the rest, one job after the other, as with data of their own. No Qt here.
"""

from __future__ import annotations

from pathlib import Path

from gaussianem_gui.demo.molecule import write_molecule
from gaussianem_gui.demo.run import DEMO, MODEL
from gaussianem_gui.execution import runner
from gaussianem_gui.project.project import Project
from gaussianem_gui.project.settings import Settings

FIRST = "demo_particles"  # alias of the job that makes the particles


def create(directory: Path | str) -> str:
    """Make the project, keep the demo's values as its presets, start the simulation; the name of that job.

    Raises InputError if the directory holds a project already or cannot be written.
    """
    project = Project.create(directory)
    write_molecule(project.root / MODEL)
    settings = Settings(project.root)
    for step in DEMO.steps:
        if step.job_type != "simulate":
            settings.set_defaults(step.job_type, step.values, "project")
    job = project.new_job("simulate", DEMO.steps[0].values, alias=FIRST, note="The demo's particles, with known truth")
    runner.request(project, job)
    return job.name
