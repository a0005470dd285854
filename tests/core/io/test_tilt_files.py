"""Particles of tilt series in the forms that RELION 5 and M write: small files of the same columns and tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.pose import rotations_from_angles
from gaussianem_core.io.particle_table import read_particles, write_chosen_particles, write_particles_star

PLACES = {
    "relion5_optimisation_set.star": "Class3D/job031/run_it020_optimisation_set.star",
    "run_it020_data.star": "Class3D/job031/run_it020_data.star",
    "tomograms.star": "Tomograms/job012/tomograms.star",
    "TS_A.star": "Tomograms/job012/tilt_series/TS_A.star",
}
PARTICLES, SERIES = (PLACES[name] for name in ("run_it020_data.star", "TS_A.star"))


@pytest.fixture
def relion5(data: Path, tmp_path: Path) -> Path:
    """The optimisation set of a RELION 5 project that classified 2D stacks."""
    for source, target in PLACES.items():
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / "tilt_series" / source, tmp_path / target)
    return tmp_path / PLACES["relion5_optimisation_set.star"]


@pytest.mark.parametrize("given", ["set", "particles"])
def test_classified_stacks_of_relion5(relion5: Path, tmp_path: Path, given: str) -> None:
    path = relion5 if given == "set" else tmp_path / PARTICLES
    table = read_particles(path, project_dir=tmp_path, find_stacks=False)
    assert table.particle is not None and table.particle.tolist() == [0, 0, 1, 1, 1]
    assert [Path(name).name for name in table.stack_names] == ["3_stack2d.mrcs", "8_stack2d.mrcs"]
    assert table.aberrations.dose.tolist() == [6, 3, 6, 3, 9] and (table.aberrations.weighted == 1).all()
    assert table.aberrations.scale.tolist() == [0.99863, 1, 0.99863, 1, 0.99863]
    assert (table.pixel_size_angstrom == 3.2).all() and (table.box_size == 32).all()
    assert table.random_subset.tolist() == [1, 1, 2, 2, 2]
    # Particle 8, image TS_A_003: the specimen is turned about x, then y, then z (scipy's fixed axes), and the hand -1
    # takes away what lies farther along the beam.
    projection = Rotation.from_euler("xyz", [0, 3.2, 84.5], degrees=True).as_matrix()
    sub, own = (
        rotations_from_angles(np.array([angles]))[0] for angles in ([-15.25, 60.5, 45.0], [31.0, 97.25, -100.5])
    )
    origin, place = np.array([0, 0, -4.0]), np.array([-95.0, 310.0, -60.5])
    np.testing.assert_allclose(rotations_from_angles(table.angles_deg[4:])[0], projection @ sub @ own, atol=1e-6)
    np.testing.assert_allclose(table.shifts_angstrom[4], (projection @ sub @ origin)[:2], atol=1e-6)
    depth = (projection @ (place - sub @ origin))[2]
    assert table.defocus_u_angstrom[4] == pytest.approx(31100 - depth, abs=1e-4)
    assert table.defocus_v_angstrom[4] == pytest.approx(30650 - depth, abs=1e-4)
    assert table.defocus_angle_deg[4] == 29


def test_a_selection_of_stacks_is_relion5s_again(relion5: Path, tmp_path: Path) -> None:
    table = read_particles(relion5, project_dir=tmp_path, find_stacks=False)
    target = tmp_path / "chosen.star"
    assert write_particles_star(table, target, rows=[1]) == 1
    before, after = (starfile.read(path, always_dict=True) for path in (tmp_path / PARTICLES, target))
    assert int(after["general"]["rlnTomoSubTomosAre2DStacks"]) == 1 and after["optics"].equals(before["optics"])
    assert after["particles"].equals(before["particles"][1:].reset_index(drop=True))
    again = read_particles(target.with_name("chosen_optimisation_set.star"), project_dir=tmp_path, find_stacks=False)
    np.testing.assert_array_equal(again.defocus_u_angstrom, table.defocus_u_angstrom[2:])


def test_what_a_set_may_name_beside_stacks_is_told_apart(relion5: Path, tmp_path: Path) -> None:
    particles, series = tmp_path / PARTICLES, tmp_path / SERIES
    whole, images = particles.read_text(), series.read_text()
    volumes = whole.replace("rlnTomoVisibleFrames", "rlnCtfImage").replace("_stack2d.mrcs", "_data.mrc")
    particles.write_text(volumes)
    for path in (relion5, particles):
        with pytest.raises(InputError, match="3D subtomograms"):
            read_particles(path, project_dir=tmp_path, find_stacks=False)
    picked = "data_particles\nloop_\n_rlnTomoName\n"
    for columns in ("_rlnCenteredCoordinate{}Angst\n", "_rlnCoordinate{}\n"):
        named = "".join(columns.format(axis) for axis in "XYZ")
        particles.write_text(f"{picked}{named}TS_A 1 2 3\n")
        for path in (relion5, particles):
            with pytest.raises(InputError, match="picked coordinates"):
                read_particles(path, project_dir=tmp_path, find_stacks=False)
    particles.write_text(whole)
    # A series that was imported, neither aligned nor with a CTF.
    series.write_text("data_TS_A\nloop_\n_rlnMicrographMovieName\n_rlnTomoNominalStageTiltAngle\na.mrc 0\nb.mrc 3\n")
    with pytest.raises(InputError, match=r"no rlnTomoYTilt.*rlnDefocusU.*Align the tilt series"):
        read_particles(relion5, project_dir=tmp_path, find_stacks=False)
    series.write_text(images)
    assert len(read_particles(relion5, project_dir=tmp_path, find_stacks=False)) == 5


def test_rows_of_m(data: Path, tmp_path: Path) -> None:
    """M gives each image its own spherical aberration, dose as a negative B-factor and tilt as the scale."""
    source = data / "tilt_series" / "m_grouped.star"
    table = read_particles(source, find_stacks=False, group_by="rlnGroupName")
    assert table.particle is not None and table.particle.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(table.cs_mm, [2.81, 2.76, 2.64, 2.91, 2.86, 2.74])
    np.testing.assert_allclose(table.pixel_size_angstrom, 3.2)  # 3.2 um on the detector, magnified 10,000 times
    np.testing.assert_allclose(table.aberrations.bfactor_angstrom2, [13.04, 26.08, 39.12] * 2)
    np.testing.assert_allclose(table.aberrations.scale, [1, 0.9986, 0.9986] * 2)
    np.testing.assert_allclose(table.angles_deg[4], [-101.5, 91.5, 30.0])
    assert table.image_index.tolist() == list(range(6)) and table.random_subset.tolist() == [1, 1, 1, 2, 2, 2]
    assert not table.shifts_angstrom.any() and table.defocus_u_angstrom[5] == 19100
    target = tmp_path / "chosen.star"
    write_chosen_particles(source, target, np.array([False, True]), table.particle)
    before, after = starfile.read(source), starfile.read(target)
    assert after.equals(before[3:].reset_index(drop=True))
