"""Particles with corrected poses: what is corrected changes, all else stays byte for byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gaussianem_core.imaging.pose import rotations_from_angles
from gaussianem_core.io.corrected_particles import write_corrected_star
from gaussianem_core.io.particle_table import read_particles

OPTICS = """# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnImagePixelSize #2
_rlnImageSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
1 2.0 64 300 2.7 0.1

data_particles

loop_
"""
COLUMNS = (
    "rlnImageName",
    "rlnAngleRot",
    "rlnAngleTilt",
    "rlnAnglePsi",
    "rlnOriginX{0}",
    "rlnOriginY{0}",
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnOpticsGroup",
    "myOwnColumn",
)


def particles(path: Path, unit: str) -> Path:
    """Four rows in RELION's layout, origins in Angstrom (``unit`` "Angst") or in pixels ("")."""
    lines = [f"_{name.format(unit)} #{i + 1}" for i, name in enumerate(COLUMNS)]
    for i in range(4):
        lines.append(
            f"00000{i + 1}@s.mrcs  {10 * i + 1}.50 {20 * i + 5} -17.25 {i}.25 -0.5 15000.0 14500 30 1 'it  is {i}'"
        )
    path.write_text(OPTICS + "\n".join(lines) + "\n# the end\n")
    return path


@pytest.mark.parametrize("unit", ["Angst", ""])
def test_corrected_values_are_read_back(tmp_path: Path, unit: str) -> None:
    source, target = particles(tmp_path / "a.star", unit), tmp_path / "b.star"
    before = read_particles(source, find_stacks=False)
    turn = Rotation.from_rotvec([[1, 2, 3], [-2, 0, 1], [0, 0, 5], [4, -1, 0]], degrees=True).as_matrix()
    rotations = turn @ rotations_from_angles(before.angles_deg)
    shift, defocus = np.arange(8).reshape(4, 2) / 4, np.array([100.0, -50, 0, 20])
    assert write_corrected_star(source, target, None, rotations, shift, defocus) == 4
    after = read_particles(target, find_stacks=False)
    np.testing.assert_allclose(rotations_from_angles(after.angles_deg), rotations, atol=1e-6)
    np.testing.assert_allclose(after.shifts_angstrom, before.shifts_angstrom + shift, atol=1e-5)
    np.testing.assert_allclose(after.defocus_u_angstrom, before.defocus_u_angstrom + defocus)
    np.testing.assert_allclose(after.defocus_v_angstrom, before.defocus_v_angstrom + defocus)
    changed = target.read_text()
    assert changed.count("'it  is ") == 4 and changed.endswith("# the end\n") and OPTICS in changed
    assert (
        changed.splitlines()[: len(OPTICS.splitlines()) + len(COLUMNS)]
        == source.read_text().splitlines()[: len(OPTICS.splitlines()) + len(COLUMNS)]
    ), "no column comes or goes"


def test_what_is_not_corrected_stays_to_the_last_digit(tmp_path: Path) -> None:
    source = particles(tmp_path / "a.star", "Angst")
    write_corrected_star(source, tmp_path / "b.star", None, None, None, None)
    assert (tmp_path / "b.star").read_bytes() == source.read_bytes()
    write_corrected_star(source, tmp_path / "c.star", None, None, None, np.full(4, 10.0))
    words = [line.split()[:6] for line in (tmp_path / "c.star").read_text().splitlines() if "@" in line]
    assert words == [line.split()[:6] for line in source.read_text().splitlines() if "@" in line]


def test_a_part_of_the_rows(tmp_path: Path) -> None:
    source, target = particles(tmp_path / "a.star", "Angst"), tmp_path / "b.star"
    before = read_particles(source, find_stacks=False)
    shift = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert write_corrected_star(source, target, np.array([1, 3]), None, shift, None) == 2
    after = read_particles(target, find_stacks=False)
    np.testing.assert_allclose(after.shifts_angstrom, before.shifts_angstrom[[1, 3]] + shift)
