"""The particles of a simulation: which state, composition, view and offset each of them has."""

from __future__ import annotations

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.pose import random_rotations
from gaussianem_core.options import SimulateOptions
from gaussianem_core.runtime.streams import stream
from gaussianem_core.simulation.ground_truth import Truth
from gaussianem_core.simulation.trajectory import Trajectory, select_part, sigma_of_resolution


def draw_truth(trajectory: Trajectory, options: SimulateOptions, generator: np.random.Generator) -> Truth:
    """Draw states, composition, poses and shifts; centre the molecule and convert Angstrom to world units.

    Raises InputError if the molecule does not fit the box, or an option names no part of it.
    """
    n, xyz, mass = options.particles, trajectory.positions_angstrom, trajectory.weights
    names = [name.strip() for name in options.motions.split(";") if name.strip()]
    part = moving_parts(trajectory, names) if names else None
    frame = draw_frames(options, len(xyz), max(len(names), 1), generator)
    present = np.ones(n, bool)
    removable = None
    if options.missing:
        removable = select_part(trajectory, options.missing)
        present = generator.random(n) >= options.missing_fraction
    centre = np.average(xyz.mean(axis=0), axis=0, weights=mass)
    positions = (xyz - centre) * (2 / (options.box * options.apix))
    check_reach(positions, options)
    sigma = point_sigmas(trajectory, options)
    steps = len(xyz) if trajectory.periodic else max(len(xyz) - 1, 1)
    label = (~present).astype(np.int32) + (2 * (frame[:, 0] > 0) if options.states == "endpoints" else 0)
    motion_names, motions = motion_values(trajectory, names, frame, steps)
    if removable is not None:
        absent = [name in trajectory.masks and bool(removable[trajectory.masks[name]].all()) for name in motion_names]
        motions[:, absent] = np.where(present[:, None], motions[:, absent], np.nan)
    single = frame.shape[1] == 1
    return Truth(
        label=np.unique(label, return_inverse=True)[1].astype(np.int32),
        state=((frame[:, 0] if single else frame) / steps).astype(np.float32),
        frame=(frame[:, 0] if single else frame).astype(np.int32),
        present=present,
        positions=positions.astype(np.float32),
        densities=point_densities(mass, sigma, mass.mean(), sigma.mean()),
        sigmas=sigma.astype(np.float32),
        removable=removable,
        rotations=random_rotations(n, generator).astype(np.float32),
        shifts=generator.normal(0, options.shift, (n, 2)).astype(np.float32),
        offset_angstrom=centre,
        part=part,
        motion_names=np.array(motion_names),
        motions=motions.astype(np.float32),
        box=options.box,
        apix=options.apix,
        snr=options.snr,
        periodic=trajectory.periodic,
    )


def draw_frames(
    options: SimulateOptions, frames: int, motions: int, generator: np.random.Generator
) -> np.ndarray:  # -> (N, M)
    """The frame of every particle in each of M independent motions.

    Raises InputError for basins that cannot be read.
    """
    n = options.particles
    basins = parse_basins(options.basins)
    drawn = []
    for motion in range(motions):
        source = stream(options.seed, f"motion {motion}") if motion or basins else generator
        if basins:
            centre, width, share = np.array(basins).T
            chosen = source.choice(len(basins), n, p=share / share.sum())
            state = np.clip(source.normal(centre[chosen], width[chosen]), 0, 1)
            drawn.append(np.rint(state * (frames - 1)).astype(int))
        elif options.states == "endpoints":
            drawn.append(source.integers(0, 2, n) * (frames - 1))
        else:
            drawn.append(source.integers(0, frames, n))
    return np.stack(drawn, axis=1)


def parse_basins(text: str) -> list[tuple[float, float, float]]:
    """Basins written as ``centre:width:share, ...``: centre and standard deviation from 0 (first frame) to 1 (last).

    Shares are in any unit. Raises InputError for text of another form.
    """
    found = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        numbers = word.split(":")
        try:
            centre, width, share = (float(number) for number in numbers)
        except ValueError:
            centre = width = share = np.nan
        if not (0 <= centre <= 1 and 0 <= width < np.inf and 0 < share < np.inf):
            raise InputError(
                "option basins",
                "must list centre:width:share, with centres from 0 to 1",
                word,
                "Write for example 0.2:0.05:0.6,0.8:0.1:0.4.",
            )
        found.append((centre, width, share))
    return found


def moving_parts(trajectory: Trajectory, names: list[str]) -> np.ndarray:  # -> (A,)
    """Which of the named motions moves each point; -1 for the rest, which stays in its first frame.

    Raises InputError for a name that selects nothing, and for parts that share points.
    """
    part = np.full(len(trajectory.weights), -1, np.int16)
    for number, name in enumerate(names):
        chosen = select_part(trajectory, name, "motions")
        if (part[chosen] >= 0).any():
            other = names[int(part[chosen].max())]
            raise InputError("motions", "must name parts that share no points", f"{other}; {name}", "Part them.")
        part[chosen] = number
    return part


def motion_values(
    trajectory: Trajectory, names: list[str], frame: np.ndarray, steps: int
) -> tuple[list[str], np.ndarray]:  # (N, M) -> K names, (N, K)
    """Names and values of the motions: the file's own curves (``arm_degrees``), else the place from 0 to 1.

    ``frame`` (N, M) of each particle; ``steps``: frames from place 0 to 1.
    """
    if names:
        curves = [trajectory.curves.get(name, np.arange(len(trajectory.positions_angstrom)) / steps) for name in names]
        return names, np.stack([curve[frame[:, i]] for i, curve in enumerate(curves)], axis=1)
    if trajectory.curves:
        return list(trajectory.curves), np.stack([c[frame[:, 0]] for c in trajectory.curves.values()], axis=1)
    return ["motion"], frame / steps


def point_sigmas(trajectory: Trajectory, options: SimulateOptions) -> np.ndarray:  # -> (A,)
    """Sigmas of the points in world units: the file's, else by the resolution asked for, or twice the pixel size."""
    sigma = trajectory.sigmas_angstrom
    if options.resolution is not None or sigma is None:
        sigma = np.full(len(trajectory.weights), sigma_of_resolution(options.resolution or 2 * options.apix))
    return np.asarray(sigma) * (2 / (options.box * options.apix))


def point_densities(mass: np.ndarray, sigma: np.ndarray, mean_mass: float, mean_sigma: float) -> np.ndarray:
    """Peak densities (A,) of points of masses and sigmas (A,), 1 for a point of the mean mass and mean sigma given."""
    return (mass / mean_mass / (sigma / mean_sigma) ** 3).astype(np.float32)


def check_reach(positions: np.ndarray, options: SimulateOptions) -> None:  # (F, A, 3) world units
    """Raise InputError unless the molecule lies within the sphere that the box holds, in every frame."""
    reach = float(np.linalg.norm(positions, axis=-1).max())
    if reach >= 1:
        needed = 2 * int(np.ceil(reach * options.box / 2))
        raise InputError(
            "option box",
            f"must hold the molecule, {reach * options.box * options.apix:.0f} A across",
            f"{options.box * options.apix:.0f} A",
            f"Give --box {needed} or more.",
        )
