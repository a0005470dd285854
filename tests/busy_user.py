"""A user who never rests, for the fault tests: adds, runs, names, clones, deletes jobs until it is killed.

Called with a project and a journal. A line is written to the journal after each call that returned, and before each
one that takes a job away: what the journal says was promised must be true after the kill.
"""

import os
import random
import sys
from pathlib import Path

from gaussianem_core.errors import InputError
from gaussianem_gui.execution import runner
from gaussianem_gui.project import trash
from gaussianem_gui.project.project import Project


def main(root: str, journal: str, seed: int) -> None:
    chance = random.Random(seed)
    project = Project.open(root)
    with open(journal, "a", buffering=1) as out:

        def told(what: str, name: str) -> None:
            out.write(f"{what} {name}\n")
            os.fsync(out.fileno())

        while True:
            try:
                job = project.new_job("simulate", {"model": "m", "output": f"sleep:{chance.uniform(0.05, 0.6):.2f}"})
                told("made", job.name)
                if chance.random() < 0.5:
                    project.set_alias(job, f"name {job.number}")
                if chance.random() < 0.5:
                    runner.request(project, job)
                    told("asked", job.name)
                if chance.random() < 0.2:
                    told("made", project.clone(job).name)
                done = [i for i in project.jobs(details=0) if i.status.state.finished]
                if done and chance.random() < 0.4:
                    name = chance.choice(done).name
                    told("deletes", name)
                    trash.delete(project, name)
                    if chance.random() < 0.5:
                        trash.restore(project, name)
                waiting = [i for i in project.jobs(details=0) if not i.status.state.finished]
                while len(waiting) > 12:  # let them run down
                    waiting = [
                        i
                        for i in project.jobs(details=0)
                        if project.job(i.name).record().get("requested") and not i.status.state.finished
                    ]
            except InputError as error:
                told("error", " ".join(str(error).split()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(Path(sys.argv[3]).name))
