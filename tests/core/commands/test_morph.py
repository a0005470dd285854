"""Atoms follow the Gaussians: rigid motions exactly, AdK's own transition closely, and bonds stay bonds."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from trained import write_model

from gaussianem_core.commands import morph
from gaussianem_core.errors import InputError
from gaussianem_core.job.events import JobLog
from gaussianem_core.model.trained_model import load_model
from gaussianem_core.options import MorphOptions


def rmsd(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a - b).sum(axis=1).mean()))


def bonds(model: np.ndarray) -> np.ndarray:
    return cKDTree(model).query_pairs(2.1, output_type="ndarray")


def lengths(positions: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)


@pytest.mark.parametrize("neighbours", [1, 4, 16])
def test_rigid_motion_is_followed_exactly(neighbours: int) -> None:
    generator = np.random.default_rng(0)
    gaussians = generator.uniform(-20, 20, (500, 3))
    atoms = generator.uniform(-18, 18, (80, 3))
    turn, shift = Rotation.from_rotvec([0.5, -0.9, 1.7]).as_matrix(), np.array([3.0, -7.0, 1.0])
    moved = morph.follow(atoms, gaussians, gaussians @ turn.T + shift, neighbours, generator.random(500))
    np.testing.assert_allclose(moved, atoms @ turn.T + shift, atol=1e-6)


def test_no_mirror_images() -> None:
    # Gaussians in a plane that turn over must not turn the atoms inside out.
    generator = np.random.default_rng(0)
    gaussians = np.c_[generator.uniform(-20, 20, (200, 2)), np.zeros(200)]
    atoms = generator.uniform(-8, 8, (40, 3))
    moved = morph.follow(atoms, gaussians, gaussians * [1, 1, -1], 8)
    np.testing.assert_allclose(moved, atoms, atol=1e-6)


@pytest.mark.parametrize(("noise_angstrom", "limit_angstrom"), [(0.0, 0.45), (0.5, 0.55)])
def test_adenylate_kinase_follows_its_transition(
    shared_data: Path, noise_angstrom: float, limit_angstrom: float
) -> None:
    # Gaussians on a 2 A grid around the middle frame carry the motion of the atoms around them: from 3.6 to 0.4 A.
    xyz = np.load(shared_data / "adk_tmd.npz")["xyz"].astype(float)
    generator = np.random.default_rng(0)
    middle = xyz[50]
    axes = [np.arange(low, high, 2.0) for low, high in zip(middle.min(0) - 3, middle.max(0) + 3)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[cKDTree(middle).query(grid)[0] < 2.0]
    distance, near = cKDTree(middle).query(grid, k=4)
    weight = 1 / (distance**2 + 0.5)
    weight /= weight.sum(axis=1, keepdims=True)
    pairs = bonds(middle)
    for frame in (0, 99):
        motion = np.einsum("nk,nki->ni", weight, (xyz[frame] - middle)[near])
        carried = grid + motion + noise_angstrom * generator.normal(size=grid.shape)
        moved = morph.restore_geometry(morph.follow(middle, grid, carried), middle)
        assert rmsd(middle, xyz[frame]) > 3.5
        assert rmsd(moved, xyz[frame]) < limit_angstrom
        # 0.02 A is a refined structure's own deviation from ideal bond lengths
        assert rmsd(lengths(moved, pairs)[:, None], lengths(middle, pairs)[:, None]) < 0.02


def test_geometry_is_restored() -> None:
    generator = np.random.default_rng(0)
    helix = np.stack([2.3 * np.cos(1.745 * np.arange(50)), 2.3 * np.sin(1.745 * np.arange(50)), 1.5 * np.arange(50)], 1)
    dense = np.concatenate([helix, helix + [1.4, 0, 0]])
    pairs = bonds(dense)
    shaken = dense + 0.3 * generator.normal(size=dense.shape)
    before = rmsd(lengths(shaken, pairs)[:, None], lengths(dense, pairs)[:, None])
    restored = morph.restore_geometry(shaken, dense)
    after = rmsd(lengths(restored, pairs)[:, None], lengths(dense, pairs)[:, None])
    assert before > 0.2 and after < 0.01
    np.testing.assert_allclose(morph.restore_geometry(dense, dense), dense, atol=1e-12)
    lone = np.array([[0.0, 0, 0], [50, 0, 0]])
    np.testing.assert_array_equal(morph.restore_geometry(lone + 1, lone), lone + 1)


def peptide(path: Path, positions: np.ndarray) -> gemmi.Structure:
    """A chain of CA atoms with B factors, an insertion code and two models, so that the file's details are seen."""
    structure = gemmi.Structure()
    structure.name = "fitted"
    for number in (1, 2):
        model = gemmi.Model(number)
        chain = gemmi.Chain("B")
        for i, (x, y, z) in enumerate(positions):
            residue = gemmi.Residue()
            residue.name, residue.seqid = "GLY", gemmi.SeqId(i // 2 + 5, " A"[i % 2])
            atom = gemmi.Atom()
            atom.name, atom.element, atom.b_iso, atom.pos = "CA", gemmi.Element("C"), 10.0 + i, gemmi.Position(x, y, z)
            residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
        structure.add_model(model)
    structure.setup_entities()
    if path.suffix == ".pdb":
        structure.write_pdb(str(path))
    else:
        structure.make_mmcif_document().write_file(str(path))
    return structure


def run(folder: Path, **values) -> Path:  # type: ignore[no-untyped-def]
    options = MorphOptions(
        **{
            "source_dir": str(folder),
            "model_weight": "weights.0.pkl",
            "model": "fitted.cif",
            "z": "z.txt",
            "device": "cpu",
            "job_dir": str(folder / "morph"),
            "neighbours": 1,
            **values,
        }
    )
    with JobLog(options.output_directory(), ["morph"]) as log:
        morph.run(options, log)
    return options.output_directory()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    z = np.linspace(-1, 1, 4)[:, None] * np.ones(3)
    folder = write_model(tmp_path / "model", z.astype(np.float32), motion=0.05)
    np.savetxt(folder / "z.txt", z)
    return folder


@pytest.mark.parametrize("kind", ["cif", "pdb"])
def test_atoms_on_gaussians_move_with_them(folder: Path, kind: str) -> None:
    # An atom exactly on a Gaussian, carried by one Gaussian, goes where the network says, in the maps' frame.
    model = load_model(folder / "cfg.json", folder / "weights.0.pkl", folder / "point_cloud.ply", device="cpu")
    here = morph.gaussian_positions(model, model.gaussians.positions)
    # voxel index times pixel size: box 24, 4 A
    np.testing.assert_allclose(here, (12 + model.gaussians.positions.numpy() * 12) * 4, atol=1e-5)
    apart = [0]
    for i in range(len(here)):
        if cKDTree(here[apart]).query(here[i])[0] > 6:
            apart.append(i)
    peptide(folder / f"fitted.{kind}", here[apart])
    out = run(folder, model=f"fitted.{kind}", format=kind)
    result = gemmi.read_structure(str(out / f"morph.{kind}"))
    deformed = model.deform(np.loadtxt(folder / "z.txt"))
    assert len(result) == 4
    for frame, positions in zip(result, deformed.positions):
        expected = morph.gaussian_positions(model, positions)[apart]
        found = np.array([site.atom.pos.tolist() for site in frame.all()])
        np.testing.assert_allclose(found, expected, atol=2e-3)  # three decimals in the file
    first = next(iter(result[0].all()))
    last = list(result[3].all())[-1]
    assert (first.chain.name, str(first.residue.seqid), first.residue.name) == ("B", "5", "GLY")
    assert last.atom.b_iso == pytest.approx(10 + len(apart) - 1)


def test_model_elsewhere(folder: Path) -> None:
    peptide(folder / "fitted.cif", np.array([[500.0, 500, 500], [504, 500, 500]]))
    with pytest.raises(InputError, match="must be fitted to the consensus map"):
        run(folder)
    with pytest.raises(InputError, match="readable PDB or mmCIF"):
        (folder / "fitted.cif").write_text("no structure")
        run(folder)
    assert not (folder / "morph" / "morph.cif").exists()
