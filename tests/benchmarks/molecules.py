"""The molecules of the accuracy benchmark: an antibody made here, two assembly states, adenylate kinase, and the
spliceosome.

``python tests/benchmarks/molecules.py adk adk_tmd.npz`` makes adenylate kinase from a trajectory that comes with the
package MDAnalysisTests (``pip install MDAnalysis MDAnalysisTests``; seen with 2.11.0).

``python tests/benchmarks/molecules.py 5nrl.cif spliceosome_motion.npz`` makes the moving spliceosome from the PDB
entry 5NRL (https://files.rcsb.org/download/5nrl.cif.gz): every twelfth atom stands for twelve; the head, a fifth of the
mass, turns evenly from -10 to 16 degrees, the arm, another fifth, swings by 14 sin(1.3 pi t) - 8 t degrees.

``python tests/benchmarks/molecules.py 5nrl.cif resources/demo/spliceosome.npz --rest`` makes the demo's molecule from
the same entry: a third of these points at rest, with the axes about which the demo turns head and arm.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

FRAMES = 72  # of the antibody's full turn: 5 degrees apart
ATOMS_A_POINT = 12
SPLICEOSOME_FRAMES = 64
SPLICEOSOME_POINTS = 8373
HEAD = ((0, 51), (723, 806), (4971, 5021), (5865, 7419), (7432, 7493), (7853, 7902), (8126, 8175), (8322, 8370))
ARM = ((2316, 3450), (7902, 8126), (8175, 8322))
"""Ranges of points, in the order of the entry's atoms."""
HEAD_AXIS, HEAD_HINGE = (-0.00768, 0.95822, -0.28593), (45.556, 5.131, 15.973)
ADK_DOMAINS = {"lid": (122, 159), "nmp": (30, 59)}  # residues
ARM_AXIS, ARM_HINGE = (-0.43682, 0.65242, -0.61930), (-55.402, -7.063, 31.637)
"""Directions, and points on the axes in Angstrom from the mean of all atoms."""


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


def spliceosome(structure: Path) -> tuple[np.ndarray, np.ndarray]:  # -> (A, 3), (A,)
    """Points and weights of PDB entry 5NRL, about the mean of its atoms, head and arm at rest.

    Raises SystemExit for another structure: the ranges of head and arm hold for this entry's atoms alone.
    """
    from gaussianem_core.simulation.trajectory import read_trajectory

    model = read_trajectory(structure)
    xyz = model.positions_angstrom[0] - model.positions_angstrom[0].mean(axis=0)
    points, weight = xyz[::ATOMS_A_POINT], ATOMS_A_POINT * model.weights[::ATOMS_A_POINT]
    if len(points) != SPLICEOSOME_POINTS:
        raise SystemExit(
            f"{structure}: {len(points)} points instead of {SPLICEOSOME_POINTS}; this is not 5NRL as deposited"
        )
    return points, weight


def spliceosome_motion(points: np.ndarray) -> dict[str, np.ndarray]:  # (A, 3) -> arrays of the .npz
    """Frames (F, A, 3) of the points at rest, masks of head and arm, and their angles by frame."""
    along = np.linspace(0, 1, SPLICEOSOME_FRAMES)
    angles = {"head": -10 + 26 * along, "arm": 14 * np.sin(1.3 * np.pi * along) - 8 * along}
    frames = np.repeat(points[None], SPLICEOSOME_FRAMES, axis=0)
    content: dict[str, np.ndarray] = {}
    for name, ranges, axis, hinge in (("head", HEAD, HEAD_AXIS, HEAD_HINGE), ("arm", ARM, ARM_AXIS, ARM_HINGE)):
        mask = np.zeros(len(points), bool)
        for first, last in ranges:
            mask[first:last] = True
        for frame, angle in zip(frames, angles[name]):
            frame[mask] = hinge + (points[mask] - hinge) @ turn(np.array(axis), np.radians(angle)).T
        content |= {name: mask, f"{name}_degrees": angles[name].astype(np.float32)}
    return {"xyz": frames.astype(np.float32), **content}


def at_rest(points: np.ndarray, weight: np.ndarray, every: int = 3) -> dict[str, np.ndarray]:  # (A, 3), (A,)
    """The arrays of the demo's molecule: every third point, its part, and the axes."""
    content = {"xyz": points[::every].astype(np.float32), "weight": every * weight[::every].astype(np.float32)}
    for name, ranges, axis, hinge in (("head", HEAD, HEAD_AXIS, HEAD_HINGE), ("arm", ARM, ARM_AXIS, ARM_HINGE)):
        mask = np.zeros(len(points), bool)
        for first, last in ranges:
            mask[first:last] = True
        content |= {name: mask[::every], f"{name}_axis": np.array(axis), f"{name}_hinge": np.array(hinge)}
    return content


def adenylate_kinase() -> dict[str, np.ndarray]:
    """The arrays of the .npz of adenylate kinase closing: 100 frames of 1,656 atoms (A), superposed on the core.

    From the trajectory PSF_NAMD_GBIS, DCD_NAMD_GBIS of the public packages MDAnalysis and MDAnalysisTests, which are
    needed for this alone.
    """
    import MDAnalysis
    from MDAnalysisTests.datafiles import DCD_NAMD_GBIS, PSF_NAMD_GBIS

    universe = MDAnalysis.Universe(PSF_NAMD_GBIS, DCD_NAMD_GBIS)
    atoms = universe.select_atoms("protein and not name H*")
    frames = np.stack([atoms.positions.astype(np.float64) for _ in universe.trajectory])
    resid = atoms.resids.astype(np.int16)
    masks = {name: (first <= resid) & (resid <= last) for name, (first, last) in ADK_DOMAINS.items()}
    core = ~(masks["lid"] | masks["nmp"]) & (atoms.names == "CA")
    frames -= frames[:, core].mean(axis=1, keepdims=True)
    for frame in frames[1:]:  # Kabsch, Acta Cryst. A32, 1976
        u, _, vt = np.linalg.svd(frame[core].T @ frames[0, core])
        turned = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
        frame[:] = frame @ turned
    frames -= frames.mean(axis=(0, 1))
    number = np.array([{"H": 1, "C": 6, "N": 7, "O": 8, "S": 16}[name[0]] for name in atoms.names])
    return {"xyz": frames.astype(np.float32), "weight": number.astype(np.float32), "resid": resid, **masks}


def main(arguments: list[str]) -> int:
    rest = arguments[2:] == ["--rest"]
    if len(arguments) != 2 + rest:
        print(__doc__, file=sys.stderr)
        return 2
    if arguments[0] == "adk":
        np.savez_compressed(arguments[1], **adenylate_kinase())
        return 0
    points, weight = spliceosome(Path(arguments[0]))
    if rest:
        np.savez_compressed(arguments[1], **at_rest(points, weight))
    else:
        np.savez(arguments[1], weight=weight.astype(np.float32), **spliceosome_motion(points))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
