"""A project as RELION 5 leaves it after a refinement: job directories, their STAR files, and the list of them.

The images, poses and maps are those of a Simulate job; names, tables, labels and the order of columns are RELION's
(pipeliner.cpp, pipeline_jobs.cpp, ml_optimiser.cpp of its version 5).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import mrcfile
import numpy as np

PER_MICROGRAPH = 100
# Type of each job, its directory, what it reads and what it makes, as RELION labels them.
JOBS: tuple[tuple[str, str, tuple[str, ...], tuple[tuple[str, str], ...]], ...] = (
    ("relion.import.other", "Import/job001/", (), (("micrographs.star", "MicrographGroupMetadata.star.relion"),)),
    (
        "relion.extract",
        "Extract/job002/",
        ("Import/job001/micrographs.star",),
        (("particles.star", "ParticleGroupMetadata.star.relion"),),
    ),
    (
        "relion.refine3d",
        "Refine3D/job003/",
        ("Extract/job002/particles.star",),
        (
            ("run_data.star", "ParticleGroupMetadata.star.relion.refine3d"),
            ("run_class001.mrc", "DensityMap.mrc.relion.refine3d"),
            ("run_half1_class001_unfil.mrc", "DensityMap.mrc.relion.halfmap.refine3d"),
        ),
    ),
    (
        "relion.maskcreate",
        "MaskCreate/job004/",
        ("Refine3D/job003/run_class001.mrc",),
        (("mask.mrc", "Mask3D.mrc.relion"),),
    ),
)
COLUMNS = (
    "rlnImageName rlnMicrographName rlnOpticsGroup rlnDefocusU rlnDefocusV rlnDefocusAngle rlnPhaseShift rlnAngleRot "
    "rlnAngleTilt rlnAnglePsi rlnOriginXAngst rlnOriginYAngst rlnRandomSubset"
).split()


def write(root: Path, simulated: Path) -> Path:
    """Make the project in ``root`` from the directory of a Simulate job; returns ``root``.

    Raises ValueError if the particles of the simulation have other columns than it is known to write.
    """
    for label, directory, _, _ in JOBS:
        (root / directory).mkdir(parents=True)
        (root / directory / "job.star").write_text(_job(label))
        (root / directory / "RELION_JOB_EXIT_SUCCESS").touch()
        for name in ("run.out", "run.err", "note.txt"):
            (root / directory / name).touch()
        (root / directory / "job_pipeline.star").write_text(_pipeline(directory))
    (root / ".gui_projectdir").touch()
    (root / "default_pipeline.star").write_text(_pipeline())
    optics, columns, rows = _tables((simulated / "particles.star").read_text())
    if columns != COLUMNS:
        raise ValueError(f"the simulation's particles have the columns {columns}, not {COLUMNS}")
    extract, refine = root / JOBS[1][1], root / JOBS[2][1]
    (extract / "micrographs").mkdir()
    with mrcfile.open(simulated / "particles.mrcs") as stack:
        images, pixel = np.asarray(stack.data), float(stack.voxel_size.x)
    names = []
    for start in range(0, len(images), PER_MICROGRAPH):
        number = start // PER_MICROGRAPH + 1
        with mrcfile.new(extract / f"micrographs/mic{number:03d}.mrcs") as part:
            part.set_data(images[start : start + PER_MICROGRAPH])
            part.set_image_stack()
            part.voxel_size = (pixel, pixel, 1.0)
        names.append(f"micrographs/mic{number:03d}.mrc")
    for index, row in enumerate(rows):
        mic = names[index // PER_MICROGRAPH]
        row[0], row[1] = f"{index % PER_MICROGRAPH + 1:06d}@Extract/job002/{mic}s", mic
    group = "\n".join(f"{mic} 1" for mic in names)
    micrographs = (
        f"\n# version 50001\n\ndata_micrographs\n\nloop_ \n_rlnMicrographName #1 \n_rlnOpticsGroup #2 \n{group}\n"
    )
    (root / JOBS[0][1] / "micrographs.star").write_text(f"{optics}{micrographs}\n")
    unposed = [k for k, name in enumerate(columns) if not name.startswith(("rlnAngle", "rlnOrigin", "rlnRandom"))]
    (extract / "particles.star").write_text(optics + _loop([columns[k] for k in unposed], rows, unposed))
    (refine / "run_data.star").write_text(optics + _loop(columns, rows, range(len(columns))))
    shutil.copy(simulated / "consensus.mrc", refine / "run_class001.mrc")
    for half in (1, 2):
        found = simulated / f"consensus_half{half}.mrc"
        shutil.copy(
            found if found.is_file() else simulated / "consensus.mrc", refine / f"run_half{half}_class001_unfil.mrc"
        )
    with mrcfile.open(simulated / "consensus.mrc") as volume:
        density = np.asarray(volume.data)
    with mrcfile.new(root / JOBS[3][1] / "mask.mrc") as mask:
        mask.set_data((density > 2 * density.std()).astype(np.float32))
        mask.voxel_size = pixel
    return root


def _tables(text: str) -> tuple[str, list[str], list[list[str]]]:
    """The optics block as it stands, the particles' column names and their rows."""
    optics, particles = text.split("data_particles", 1)
    lines = [line.split() for line in particles.splitlines() if line.strip()]
    columns = [line[0].lstrip("_") for line in lines if line[0].startswith("_")]
    return optics.rsplit("# version", 1)[0], columns, [line for line in lines if len(line) == len(columns)]


def _loop(columns: list[str], rows: list[list[str]], take: range | list[int]) -> str:
    head = "".join(f"_{name} #{number} \n" for number, name in enumerate(columns, start=1))
    body = "".join(" ".join(f"{row[k]:>12}" for k in take) + " \n" for row in rows)
    return f"\n# version 50001\n\ndata_particles\n\nloop_ \n{head}{body} \n"


def _job(label: str) -> str:
    return (
        "\n# version 50001\n\ndata_job\n\n"
        f"_rlnJobTypeLabel             {label}\n_rlnJobIsContinue                       0\n"
        "_rlnJobIsTomo                           0\n \n\n# version 50001\n\ndata_joboptions_values\n\nloop_ \n"
        "_rlnJobOptionVariable #1 \n_rlnJobOptionValue #2 \n  do_queue         No \nmin_dedicated          1 \n"
        'other_args         "" \n \n'
    )


def _pipeline(only: str = "") -> str:
    """``default_pipeline.star``, or the ``job_pipeline.star`` of one job."""
    jobs = [job for job in JOBS if only in ("", job[1])]
    processes = [f"{directory}       None {label}  Succeeded " for label, directory, _, _ in jobs]
    nodes = [f"{directory}{name} {kind} " for _, directory, _, made in jobs for name, kind in made]
    reads = [f"{node} {directory} " for _, directory, inputs, _ in jobs for node in inputs]
    makes = [f"{directory} {directory}{name} " for _, directory, _, made in jobs for name, _ in made]
    counter = f"{len(JOBS) + 1:>28}"
    text = f"\n# version 50001\n\ndata_pipeline_general\n\n_rlnPipeLineJobCounter {counter}\n \n"
    for block, columns, rows in (
        ("processes", "ProcessName ProcessAlias ProcessTypeLabel ProcessStatusLabel", processes),
        ("nodes", "NodeName NodeTypeLabel", nodes),
        ("input_edges", "EdgeFromNode EdgeProcess", reads),
        ("output_edges", "EdgeProcess EdgeToNode", makes),
    ):
        head = "".join(f"_rlnPipeLine{name} #{number} \n" for number, name in enumerate(columns.split(), start=1))
        if rows:
            body = "\n".join(rows)
            text += f"\n\n# version 50001\n\ndata_pipeline_{block}\n\nloop_ \n{head}{body}\n \n"
    return text
