"""A project with a trained model whose two states are known, for tests and benchmarks of the explorer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from trained import BOX, PIXEL, write_model

from gaussianem_core.imaging.pose import angles_from_rotations, pack_poses, random_rotations
from gaussianem_core.io.image_rows import PARTICLES
from gaussianem_core.io.mrc import write_map
from gaussianem_core.io.stack_writer import StackWriter
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import Project

SEPARATION = 3.2  # between the states, in widths: some particles lie on the wrong side, as in real data


def truth_and_latents(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:  # (N,) bool, (N, 3)
    """Second state or not, and latents of two clusters."""
    generator = np.random.default_rng(seed)
    second = generator.random(count) < 0.35
    z = generator.normal(size=(count, 3)).astype(np.float32) * np.array([0.5, 0.4, 0.3], np.float32)
    z[:, 0] += np.where(second, SEPARATION / 2, -SEPARATION / 2).astype(np.float32)
    return second, z


def write_particles(path: Path, count: int, rotations: np.ndarray, generator: np.random.Generator) -> None:
    """A STAR file as a program and a hand leave it: comments, two optics groups, odd spacing, a column nobody knows."""
    angles = angles_from_rotations(rotations)
    lines = [
        "# version 30001",
        "",
        "data_optics",
        "",
        "loop_",
        "_rlnOpticsGroupName #1",
        "_rlnOpticsGroup #2",
        "_rlnVoltage #3",
        "_rlnSphericalAberration #4",
        "_rlnAmplitudeContrast #5",
        "_rlnImagePixelSize #6",
        "_rlnImageSize #7",
        "og1 1 300 2.7 0.1 1.25 96",
        "og2 2 300 2.7 0.07 1.25 96",
        "",
        "",
        "# version 30001",
        "",
        "data_particles",
        "",
        "loop_",
        "_rlnImageName #1",
        "_rlnMicrographName #2",
        "_rlnAngleRot #3",
        "_rlnAngleTilt #4",
        "_rlnAnglePsi #5",
        "_rlnOriginXAngst #6",
        "_rlnOriginYAngst #7",
        "_rlnDefocusU #8",
        "_rlnDefocusV #9",
        "_rlnDefocusAngle #10",
        "_rlnOpticsGroup #11",
        "_myLabNote #12",
    ]
    for i in range(count):
        gap = " " * int(generator.integers(1, 6))
        lines.append(
            f"{i % 97 + 1:06d}@Extract/job009/mic{i % 13}.mrcs{gap}mic{i % 13}.mrc {angles[i, 0]:12.6f} "
            f"{angles[i, 1]:.4f} {angles[i, 2]:.6f} 0 {gap}0 {15000 + 7 * i % 9000}.50 15000.0 45 {i % 2 + 1} n{i}"
        )
    path.write_text("\n".join([*lines, ""]))


def make(
    root: Path, count: int = 600, seed: int = 0, dimensions: int = 3, tilts: int = 1
) -> tuple[Project, str, np.ndarray]:
    """The project, its Train job and who is in the second state; only so many ``dimensions`` of the three vary."""
    generator = np.random.default_rng(seed)
    project = Project.create(root)
    second, z = truth_and_latents(count // tilts, seed)
    z[:, dimensions:] = 0.0
    rotations = random_rotations(count, generator)
    write_particles(root / "original.star", count, rotations, generator)
    ball = np.zeros((BOX,) * 3, np.float32)
    ball[8:16, 8:16, 8:16] = 1.0
    write_map(root / "consensus.mrc", ball, PIXEL)
    before = project.new_job("preprocess", {"star_file": "original.star", "consensus_map": "consensus.mrc"})
    train = project.new_job(
        "train",
        {
            "source_dir": before.name.rstrip("/"),
            "particle_name": "img_stack.mrcs",
            "epoch": 1,
            "job_dir": train_dir(before.number),
        },
    )
    write_model(train.directory, z, signal_fit=generator.normal(size=len(z)).astype(np.float32))
    for name in ("cfg.json", "point_cloud.ply"):
        (before.directory / name).write_bytes((train.directory / name).read_bytes())
    np.save(before.directory / "poses.npy", pack_poses(rotations, np.zeros((count, 2))))
    ctf = np.tile([BOX, PIXEL, 0, 0, 45, 300, 2.7, 0.1, 0], (count, 1)).astype(np.float32)
    ctf[:, 2] = ctf[:, 3] = generator.uniform(1e4, 2e4, count)
    np.save(before.directory / "ctf.npy", ctf)
    images = min(count, 2000)
    with StackWriter(before.directory / "img_stack.mrcs", images, BOX, PIXEL) as writer:
        writer.append(generator.normal(size=(images, BOX, BOX)).astype(np.float32))
    if tilts > 1:
        np.save(before.directory / PARTICLES, np.repeat(np.arange(len(z)), tilts))
    for job in (before, train):
        project.mark(job, State.SUCCEEDED)
    return project, train.name, second


def train_dir(number: int) -> str:
    """Directory of the job after number ``number``."""
    return f"Train/job{number + 1:03d}"
