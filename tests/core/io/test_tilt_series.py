"""Tilt series as RELION 5, WarpTools and grouped rows of RELION 3.1 have them, against geometry worked out by hand."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.pose import rotations_from_angles
from gaussianem_core.io.particle_table import read_particles, write_particles_star

FRAMES, BOX, PIXEL, CENTRE = 3, 8, 2.0, np.array([100.0, 200.0, 50.0])
TILTS, TURN = np.array([0.0, 30.0, -45.0]), 85.0
DOSE, U, V = np.array([0.0, 4.0, 8.0]), np.array([20000.0, 21000, 22000]), np.array([19000.0, 20000, 21000])
PLACE = np.array([[30.0, -40.0, 10.0], [-20.0, 5.0, -15.0]])  # A from the centre
ANGLES = np.array([[10.0, 20.0, 30.0], [-50.0, 60.0, 70.0]])
ORIGIN = np.array([[2.0, -3.0, 4.0], [0.0, 0.0, 0.0]])
SUB = np.array([[15.0, 25.0, -35.0], [0.0, 0.0, 0.0]])
VISIBLE = np.array([[1, 0, 1], [1, 1, 1]])


def matrices() -> np.ndarray:
    """The specimen tilted about y, then turned about z: scipy's right-handed rotations."""
    return np.stack([Rotation.from_euler("yz", [tilt, TURN], degrees=True).as_matrix() for tilt in TILTS])


def write_set(folder: Path, kind: str, *, premultiplied: int = 1, frames: np.ndarray = VISIBLE) -> Path:
    """An optimisation set: ``relion`` (RELION 5's angles, a file a series, stacks of what is visible) or ``warp``
    (matrices in one file, whole stacks, places in pixels)."""
    rng = np.random.default_rng(0)
    names = []
    for number, visible in enumerate(frames, start=1):
        count = int(visible.sum()) if kind == "relion" else FRAMES
        path = folder / f"stack{number}.mrcs"
        with mrcfile.new(path, rng.normal(size=(count, BOX, BOX)).astype(np.float32), overwrite=True) as file:
            file.set_image_stack()
            file.voxel_size = PIXEL * 2
        names.append(path.name)
    where = {"rlnCenteredCoordinate%sAngst": PLACE}
    if kind == "warp":
        where = {"rlnCoordinate%s": PLACE / PIXEL + CENTRE}
    columns = [f"_{name % axis}" for name in where for axis in "XYZ"]
    columns += [f"_rlnAngle{name}" for name in ("Rot", "Tilt", "Psi")] + [f"_rlnOrigin{axis}Angst" for axis in "XYZ"]
    columns += [f"_rlnTomoSubtomogram{name}" for name in ("Rot", "Tilt", "Psi")]
    columns += ["_rlnTomoName", "_rlnImageName", "_rlnTomoVisibleFrames", "_rlnOpticsGroup", "_rlnRandomSubset"]
    rows = []
    for p in range(2):
        numbers = [*next(iter(where.values()))[p], *ANGLES[p], *ORIGIN[p], *SUB[p]]
        shown = "[" + ",".join(map(str, frames[p])) + "]"
        rows.append(" ".join([*map(str, numbers), "TS_1", names[p], shown, "1", str(p + 1)]))
    optics = (
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnSphericalAberration\n_rlnVoltage\n"
        "_rlnAmplitudeContrast\n_rlnTomoTiltSeriesPixelSize\n_rlnCtfDataAreCtfPremultiplied\n_rlnImageDimensionality\n"
        "_rlnTomoSubtomogramBinning\n_rlnImagePixelSize\n_rlnImageSize\n"
        f"1 optics1 2.7 300 0.07 {PIXEL} {premultiplied} 2 2 {2 * PIXEL} {BOX}\n"
    )
    head = "data_general\n_rlnTomoSubTomosAre2DStacks 1\n\n" + optics + "\ndata_particles\nloop_\n"
    (folder / "particles.star").write_text(head + "\n".join([*columns, *rows]) + "\n")
    general = "data_global\nloop_\n_rlnTomoName\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
    general += "_rlnTomoTiltSeriesPixelSize\n_rlnTomoHand\n_rlnTomoSizeX\n_rlnTomoSizeY\n_rlnTomoSizeZ\n"
    values = f"TS_1 300 2.7 0.07 {PIXEL} -1 " + " ".join(f"{2 * c:.0f}" for c in CENTRE)
    images = ["_rlnDefocusU", "_rlnDefocusV", "_rlnDefocusAngle", "_rlnMicrographPreExposure"]
    each = [f"{U[f]} {V[f]} 33.0 {DOSE[f]}" for f in range(FRAMES)]
    if kind == "warp":
        images = [f"_rlnTomoProj{axis}" for axis in "XYZ"] + images + ["_rlnCtfScalefactor"]
        lists = ["[" + ",".join(f"{x:.9f}" for x in row) + ",0]" for m in matrices() for row in m]
        each = [" ".join([*lists[3 * f : 3 * f + 3], line, "0.5"]) for f, line in enumerate(each)]
        table = "\ndata_TS_1\nloop_\n" + "\n".join([*images, *each]) + "\n"
        (folder / "tomograms.star").write_text(general + values + "\n" + table)
    else:
        images = ["_rlnTomoXTilt", "_rlnTomoYTilt", "_rlnTomoZRot", "_rlnTomoXShiftAngst"] + images
        each = [f"0 {TILTS[f]} {TURN} 7.5 {line}" for f, line in enumerate(each)]
        (folder / "TS_1.star").write_text("data_TS_1\nloop_\n" + "\n".join([*images, *each]) + "\n")
        (folder / "tomograms.star").write_text(general + "_rlnTomoTiltSeriesStarFile\n" + values + " TS_1.star\n")
    path = folder / "a_optimisation_set.star"
    path.write_text("data_\n_rlnTomoParticlesFile particles.star\n_rlnTomoTomogramsFile tomograms.star\n")
    return path


@pytest.mark.parametrize("kind", ["relion", "warp"])
def test_every_image_has_the_geometry_of_its_particle(tmp_path: Path, kind: str) -> None:
    table = read_particles(write_set(tmp_path, kind), project_dir=tmp_path)
    frame = np.array([0, 2, 0, 1, 2])
    assert table.particle is not None and table.particle.tolist() == [0, 0, 1, 1, 1]
    # RELION's stacks hold what is visible, WarpTools' all images.
    assert table.image_index.tolist() == ([0, 1, 0, 1, 2] if kind == "relion" else frame.tolist())
    assert [table.stack_names[i] for i in table.stack_index] == ["stack1.mrcs"] * 2 + ["stack2.mrcs"] * 3
    own, sub = rotations_from_angles(ANGLES), rotations_from_angles(SUB)
    for row, (p, f) in enumerate(zip(table.particle, frame)):
        projection = matrices()[f]
        turned = projection @ sub[p]
        np.testing.assert_allclose(
            rotations_from_angles(table.angles_deg[row : row + 1])[0], turned @ own[p], atol=1e-6
        )
        np.testing.assert_allclose(table.shifts_angstrom[row], (turned @ ORIGIN[p])[:2], atol=1e-6)
        # The hand is -1: what lies farther along the beam has less defocus.
        depth = -(projection @ (PLACE[p] - sub[p] @ ORIGIN[p]))[2]
        assert table.defocus_u_angstrom[row] == pytest.approx(U[f] + depth, abs=1e-4)
        assert table.defocus_v_angstrom[row] == pytest.approx(V[f] + depth, abs=1e-4)
    np.testing.assert_array_equal(table.aberrations.dose, DOSE[frame])
    assert (table.aberrations.scale == (0.5 if kind == "warp" else 1.0)).all()
    assert (table.aberrations.weighted == 1).all() and (table.pixel_size_angstrom == 2 * PIXEL).all()
    assert table.random_subset.tolist() == [1, 1, 2, 2, 2] and (table.defocus_angle_deg == 33).all()


def test_particles_find_the_set_beside_them_and_selections_are_read_again(tmp_path: Path) -> None:
    write_set(tmp_path, "relion")
    table = read_particles(tmp_path / "particles.star", project_dir=tmp_path)
    out = tmp_path / "selected" / "chosen.star"
    out.parent.mkdir()
    assert write_particles_star(table, out, rows=np.array([1])) == 1
    tables = starfile.read(out, always_dict=True)
    assert tables["particles"]["rlnImageName"].tolist() == ["stack2.mrcs"]
    assert tables["particles"]["rlnTomoVisibleFrames"].tolist() == ["[1,1,1]"]
    again = read_particles(out, project_dir=tmp_path, data_dir=tmp_path)
    assert len(again) == 3 and again.image_index.tolist() == [0, 1, 2]
    chosen = table.particle == 1
    np.testing.assert_allclose(again.angles_deg, table.angles_deg[chosen])
    named = starfile.read(out.with_name("chosen_optimisation_set.star"), always_dict=True)
    assert "chosen.star" in str(next(iter(named.values())))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = write_set(tmp_path, "relion")
    whole = (tmp_path / "particles.star").read_text()
    (tmp_path / "particles.star").write_text(whole.replace("[1,0,1]", "[1,0,1,1]"))
    with pytest.raises(InputError, match="rlnTomoVisibleFrames"):
        read_particles(path, project_dir=tmp_path)
    (tmp_path / "particles.star").write_text(whole.replace("[1,0,1]", "[0,0,0]"))
    with pytest.raises(InputError, match="must leave each particle an image"):
        read_particles(path, project_dir=tmp_path)
    (tmp_path / "particles.star").write_text(whole.replace("[1,0,1]", "[1,0,0]"))
    with pytest.raises(InputError, match="stack of the visible images"):
        read_particles(path, project_dir=tmp_path)
    (tmp_path / "particles.star").write_text(whole.replace("TS_1", "TS_2"))
    with pytest.raises(InputError, match="tomograms"):
        read_particles(path, project_dir=tmp_path)
    (tmp_path / "particles.star").write_text(whole)
    with pytest.raises(InputError, match="--group_by"):
        read_particles(path, project_dir=tmp_path, group_by="rlnGroupName")
    path.unlink()
    with pytest.raises(InputError, match="geometry of its tilt series"):
        read_particles(tmp_path / "particles.star", project_dir=tmp_path)


def write_grouped(path: Path, groups: int, images: int, dose: bool = True) -> Path:
    """Rows of RELION 3.1, as WarpTools and M exported them: dose in the B-factor, cosine of the tilt in the scale."""
    names = ["rlnImageName", "rlnGroupName", "rlnCtfBfactor", "rlnCtfScalefactor", "rlnAngleRot", "rlnAngleTilt"]
    names += ["rlnAnglePsi", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnVoltage", "rlnSphericalAberration"]
    names += ["rlnAmplitudeContrast", "rlnPixelSize"]
    rows = []
    for g in range(groups):
        for i in range(images):
            weight = f"{-8 * i - 8} {np.cos(np.deg2rad(3 * i)):.6f}" if dose else "0 1"
            rows.append(
                f"{g * images + i + 1}@s.mrcs g{(7 * g) % groups} {weight} {g} {3 * i} 0 1e4 1e4 0 300 2.7 0.1 4"
            )
    path.write_text("data_\nloop_\n" + "\n".join(f"_{name}" for name in names) + "\n" + "\n".join(rows) + "\n")
    return path


def test_grouped_rows_are_particles_only_where_that_is_said(tmp_path: Path) -> None:
    path = write_grouped(tmp_path / "a.star", 5, 4)
    plain = read_particles(path, find_stacks=False)
    assert plain.particle is None and any("--group_by rlnGroupName" in note for note in plain.notes)
    grouped = read_particles(path, find_stacks=False, group_by="rlnGroupName")
    assert grouped.particle is not None and grouped.particle.tolist() == np.repeat(np.arange(5), 4).tolist()
    assert grouped.aberrations.bfactor_angstrom2[:4].tolist() == [8, 16, 24, 32] and not grouped.notes
    assert read_particles(path, find_stacks=False, group_by="none").notes == ()
    # Groups of micrographs: no doses, and many rows.
    single = write_grouped(tmp_path / "b.star", 5, 4, dose=False)
    assert read_particles(single, find_stacks=False).notes == ()
    with pytest.raises(InputError, match="groups of micrographs"):
        read_particles(write_grouped(tmp_path / "c.star", 2, 301), find_stacks=False, group_by="rlnGroupName")
