"""Particle files: real ones and hand-made ones, against starfile, gemmi, numpy and the physics of the images."""

from __future__ import annotations

from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from gaussianem_core.errors import InputError, ResourceError
from gaussianem_core.imaging.aberrations import State
from gaussianem_core.imaging.pose import rotations_from_angles
from gaussianem_core.io.cryosparc import load_cs, pose_to_angles
from gaussianem_core.io.particle_rows import write_cs_rows, write_star, write_star_rows
from gaussianem_core.io.particle_table import (
    column_names,
    read_particle_column,
    read_particles,
    table_to_star,
    write_cs_subset,
    write_particles_star,
    write_star_subset,
)
from gaussianem_core.io.relion import CTF_COLUMNS, POSE_COLUMNS
from gaussianem_core.io.star import find_particle_table, quote, read_column, scan_star, split_row


def make_stack(path: Path, n: int, box: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.arange(n * box * box, dtype=np.float32).reshape(n, box, box)
    with mrcfile.new(path, images, overwrite=True) as file:
        file.set_image_stack()
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project directory with the stacks that the hand-made STAR files name."""
    for folder in ("Particles", "Extract/job007", "."):
        make_stack(tmp_path / folder / "a.mrcs", 3, 16)
        make_stack(tmp_path / folder / "b.mrcs", 3, 12 if "Extract" in folder else 16)
    return tmp_path


# ---- STAR of every version -----------------------------------------------------------------------------------------


def test_relion2(data: Path, project: Path) -> None:
    table = read_particles(data / "star/relion2.star", project_dir=project)
    assert len(table) == 3
    assert table.stacks == (project / "Particles/a.mrcs", project / "Particles/b.mrcs")
    assert table.stack_index.tolist() == [0, 0, 1]
    assert table.image_index.tolist() == [2, 0, 1]
    np.testing.assert_allclose(table.pixel_size_angstrom, 1.0)  # 5 um * 10000 / 50000
    np.testing.assert_allclose(table.shifts_angstrom, [[1.5, -2.0], [0.0, 0.25], [-3.0, 0.0]])
    np.testing.assert_allclose(table.angles_deg[0], [10.5, 20.25, -30.125])
    np.testing.assert_allclose(table.defocus_u_angstrom, [15301.1, 15303.0, 25150.7])
    np.testing.assert_allclose(table.defocus_v_angstrom[2], 24766.0)
    np.testing.assert_allclose(table.defocus_angle_deg[2], 95.28)
    assert set(table.voltage_kv) == {300.0} and set(table.cs_mm) == {2.7} and set(table.amplitude_contrast) == {0.07}
    assert table.phase_shift_deg.tolist() == [0, 0, 0]
    assert table.box_size.tolist() == [16, 16, 16]  # from the stacks' headers
    assert table.micrographs == ("Micrographs/m1.mrc", "Micrographs/m2.mrc")
    assert table.micrograph_index.tolist() == [0, 0, 1]
    assert table.uid is None and set(table.optics_group) == {1}


def test_relion30_detector_pixel_size_alone_and_data_dir(data: Path, project: Path) -> None:
    table = read_particles(data / "star/relion30_no_final_newline.star", data_dir=project / "Particles")
    assert table.stacks == (project / "Particles/a.mrcs",)  # by bare name: lost/folder is nowhere
    assert table.image_index.tolist() == [1, 1, 0]  # repeated and zero-padded
    np.testing.assert_allclose(table.pixel_size_angstrom, 13.1)
    np.testing.assert_allclose(table.shifts_angstrom[0], [-2.672172 * 13.1, -2.528634 * 13.1])
    assert table.phase_shift_deg.tolist() == [90.0, 0.0, 45.0]  # NaN means none


def test_relion31_optics_after_particles(data: Path, project: Path) -> None:
    table = read_particles(data / "star/relion31_optics_last.star", project_dir=project)
    assert table.optics_group.tolist() == [7, 2, 2, 7]
    assert table.pixel_size_angstrom.tolist() == [1.25, 2.0, 2.0, 1.25]
    assert table.box_size.tolist() == [16, 12, 12, 16]
    assert table.voltage_kv.tolist() == [300.0, 200.0, 200.0, 300.0]
    assert table.cs_mm.tolist() == [2.7, 2.6, 2.6, 2.7]
    assert table.amplitude_contrast.tolist() == [0.1, 0.07, 0.07, 0.1]
    assert table.phase_shift_deg.tolist() == [0, 0, 90, 0]
    assert table.random_subset.tolist() == [1, 2, 1, 2]
    assert table.image_index.tolist() == [1, 0, 2, 0]
    np.testing.assert_allclose(table.shifts_angstrom[3], [4.867366, -0.46545])
    assert table.micrographs[0] == "Micrographs/with blank.mrc"
    unknown = read_particle_column(table.source, "someUnknownColumn")
    assert unknown.tolist() == ["", "it''s", "[1.5,2.5]", "none"]


def test_row_or_optics_group_wins_as_in_relion(data: Path, project: Path) -> None:
    """CTF constants of the row go before the group's; the pixel size is the group's alone."""
    changes = ("_rlnRandomSubset #13", "_rlnSphericalAberration #13"), ("_rlnPhaseShift #7", "_rlnImagePixelSize #7")
    path = edited(data, project, "relion31_optics_last.star", *changes)
    table = read_particles(path)
    assert table.cs_mm.tolist() == [1.0, 2.0, 1.0, 2.0]  # the column that was the half sets
    assert table.pixel_size_angstrom.tolist() == [1.25, 2.0, 2.0, 1.25]


def test_relion5_optics_as_list(data: Path, project: Path) -> None:
    table = read_particles(data / "star/relion5_one_optics_list.star", project_dir=project)
    assert table.stacks == (project / "a.mrcs", project / "b.mrcs")
    assert table.voltage_kv.tolist() == [100.0, 100.0] and table.pixel_size_angstrom.tolist() == [0.89, 0.89]
    np.testing.assert_allclose(table.angles_deg[1], [91.508618, 26.742536, -161.73962])
    assert table.aberrations.state.tolist() == [State.PREMULTIPLIED]


def test_values_agree_with_gemmi(data: Path) -> None:
    """gemmi's CIF grammar is an authority on quotes, empty strings, comments and where rows end."""
    for path in sorted((data / "star").glob("*.star")):
        ours = find_particle_table(scan_star(path))
        block = next(b for b in gemmi.cif.read(str(path)) if b.find_loop("_rlnImageName"))
        for name in ours.columns:
            theirs = [gemmi.cif.as_string(value) for value in block.find_loop(f"_{name}")]
            values = read_column(ours, name)
            if values.dtype.kind == "f":
                np.testing.assert_array_equal(values, [float(value) for value in theirs])
            else:
                assert values.tolist() == theirs


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        ("", '""'),
        ("#1", '"#1"'),
        ('a"b', 'a"b'),
        ('say "x" now', "'say \"x\" now'"),
        ("it's", "it's"),
        (3, "3"),
        (0.1, "0.1"),
        (np.float64(2.5), "2.5"),
        ("_name", '"_name"'),
    ],
)
def test_quoted_values_come_back(value: object, written: str) -> None:
    assert quote(value) == written
    assert split_row(f"1 {written} 2".encode()) == [b"1", str(value).encode(), b"2"]


def test_windows_line_ends(data: Path, project: Path) -> None:
    unix = (data / "star/relion31_optics_last.star").read_bytes()
    (project / "dos.star").write_bytes(unix.replace(b"\n", b"\r\n"))
    (project / "unix.star").write_bytes(unix)
    dos, table = (read_particles(project / name) for name in ("dos.star", "unix.star"))
    np.testing.assert_array_equal(dos.angles_deg, table.angles_deg)
    assert dos.stacks == table.stacks and dos.micrographs == table.micrographs
    write_star_subset(project / "dos.star", [0, 1, 2, 3], project / "all.star")
    assert (project / "all.star").read_bytes() == (project / "dos.star").read_bytes()


# ---- the real files ------------------------------------------------------------------------------------------------


def test_real_relion31(shared_data: Path) -> None:
    path = shared_data / "star/relion31.star"
    table = read_particles(path)
    frame = starfile.read(path)["particles"]
    assert len(table) == 5 and table.stacks == (shared_data / "star/relion31.mrcs",)
    np.testing.assert_array_equal(table.angles_deg, frame[list(POSE_COLUMNS)].to_numpy(float))
    np.testing.assert_array_equal(table.shifts_angstrom, frame[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(float))
    np.testing.assert_allclose(table.angles_deg[0], [-102.30296, 82.318041, 124.706463])
    np.testing.assert_allclose(table.shifts_angstrom[0], [0.019324, -0.64686])
    np.testing.assert_allclose(table.defocus_u_angstrom[0], 13108.082418)
    assert set(table.pixel_size_angstrom) == {2.806} and set(table.box_size) == {256}
    assert set(table.cs_mm) == {0.01} and set(table.voltage_kv) == {300.0}
    assert table.image_index.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(table.random_subset, frame["rlnRandomSubset"])


def test_real_six_optics_groups(shared_data: Path) -> None:
    path = shared_data / "star/relion31.6opticsgroups.star"
    table = read_particles(path, find_stacks=False)
    tables = starfile.read(path)
    frame = tables["particles"].merge(tables["optics"], on="rlnOpticsGroup", how="left")
    assert len(table) == 139 and set(table.optics_group) == {1, 2, 3, 4, 5, 6}
    ours = {
        "rlnImagePixelSize": table.pixel_size_angstrom,
        "rlnImageSize": table.box_size,
        "rlnVoltage": table.voltage_kv,
        "rlnSphericalAberration": table.cs_mm,
        "rlnAmplitudeContrast": table.amplitude_contrast,
        "rlnDefocusU": table.defocus_u_angstrom,
        "rlnDefocusV": table.defocus_v_angstrom,
        "rlnDefocusAngle": table.defocus_angle_deg,
        "rlnPhaseShift": table.phase_shift_deg,
        "rlnAngleTilt": table.angles_deg[:, 1],
        "rlnOriginYAngst": table.shifts_angstrom[:, 1],
    }
    for name, values in ours.items():
        np.testing.assert_array_equal(values, frame[name].to_numpy(float), err_msg=name)
    assert set(table.pixel_size_angstrom) == {1.24, 1.25} and set(table.box_size) == {196}
    assert set(table.cs_mm[table.optics_group == 4]) == {2.6} and set(table.cs_mm[table.optics_group != 4]) == {2.7}
    images = [f"{i + 1}@{table.stack_names[s]}" for i, s in zip(table.image_index, table.stack_index)]
    assert images == frame["rlnImageName"].tolist()
    assert [table.micrographs[i] for i in table.micrograph_index] == frame["rlnMicrographName"].tolist()


def test_real_relion5(shared_data: Path) -> None:
    path = shared_data / "star/relion5.star"
    table = read_particles(path, find_stacks=False)
    assert len(table) == 17 and table.stack_names == ("toy_images_a.mrcs", "toy_images_b.mrcs")
    np.testing.assert_allclose(table.angles_deg[0], [111.508618, 36.742536, 141.158035])
    np.testing.assert_allclose(table.shifts_angstrom[0], [-3.12578, -1.41031])
    assert set(table.pixel_size_angstrom) == {0.89} and set(table.voltage_kv) == {100.0} and set(table.cs_mm) == {1.6}
    assert set(table.box_size) == {448}
    # its stacks are toys of 30 pixels under the optics table of a box of 448: refused, both named
    with pytest.raises(InputError, match=r"image size.*30 pixels.*448"):
        read_particles(path, data_dir=shared_data / "star/toy_datadir")


def test_real_no_optics_two_stacks(shared_data: Path) -> None:
    path = shared_data / "star/toy_projections_dir.star"
    folder = shared_data / "star/toy_datadir"
    with pytest.raises(InputError, match="rlnAngleRot, rlnAngleTilt, rlnAnglePsi"):
        read_particles(path, data_dir=folder)
    with pytest.raises(InputError, match=r"pixel size.*--apix"):
        read_particles(path, data_dir=folder, require_pose=False)
    table = read_particles(path, data_dir=folder, require_pose=False, pixel_size_angstrom=1.7)
    assert len(table) == 1000 and set(table.box_size) == {30} and set(table.pixel_size_angstrom) == {1.7}
    assert table.stacks == (folder / "toy_images_b.mrcs", folder / "toy_images_a.mrcs")
    assert np.bincount(table.stack_index).tolist() == [900, 100]
    assert np.isnan(table.angles_deg).all() and set(table.phase_shift_deg) == {90.0}


def test_real_cryosparc_and_star_of_the_same_particles(shared_data: Path) -> None:
    star = read_particles(shared_data / "star/empiar_10076_7.star", require_pose=False)
    cs = read_particles(shared_data / "star/empiar_10076_7.cs", require_pose=False)
    assert star.stacks == cs.stacks == (shared_data / "star/empiar_10076_7.mrc",)
    for name in (
        "defocus_u_angstrom",
        "defocus_v_angstrom",
        "defocus_angle_deg",
        "voltage_kv",
        "cs_mm",
        "amplitude_contrast",
        "phase_shift_deg",
        "pixel_size_angstrom",
        "box_size",
        "image_index",
    ):
        np.testing.assert_allclose(getattr(cs, name), getattr(star, name), rtol=1e-6, err_msg=name)  # cs is float32
    np.testing.assert_allclose(star.pixel_size_angstrom, 5 * 1e4 / 38168)
    assert set(cs.data_sign) == {-1} and set(star.data_sign) == {0}
    with pytest.raises(InputError, match=r"alignments3D/pose, alignments3D/shift.*passthrough"):
        read_particles(shared_data / "star/empiar_10076_7.cs")


def test_real_cryosparc_refinement(shared_data: Path) -> None:
    path = shared_data / "star/cryosparc_P12_J24_001_particles.cs"
    raw = np.load(path, allow_pickle=False)
    table = read_particles(path, find_stacks=False)
    assert len(table) == 2019 and table.uid is not None
    np.testing.assert_array_equal(table.uid, raw["uid"])
    assert set(table.pixel_size_angstrom) == {2.95} and set(table.box_size) == {180}
    np.testing.assert_array_equal(table.image_index, raw["blob/idx"])
    assert [table.stack_names[i].encode() for i in table.stack_index] == raw["blob/path"].tolist()
    np.testing.assert_allclose(table.shifts_angstrom[0], [11.334375 * 2.95, -1.828125 * 2.95], rtol=1e-6)
    np.testing.assert_allclose(table.defocus_angle_deg[0], np.degrees(-1.3636448), rtol=1e-6)
    expected = Rotation.from_rotvec(raw["alignments3D/pose"].astype(float)).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(rotations_from_angles(table.angles_deg), expected, atol=1e-7)
    assert set(table.random_subset) == {1, 2}


def test_real_images_match_their_class(shared_data: Path) -> None:
    """Poses, origins, CTF and stack order together: each image resembles its own class's projection."""
    folder = shared_data / "empiar10076_two_state"
    table = read_particles(folder / "10076_both_32_sim.star", data_dir=folder)
    assert len(table) == 1296 and [path.name for path in table.stacks] == [
        "10076_classD_32_sim.mrcs",
        "10076_classE_32_sim.mrcs",
    ]
    assert np.bincount(table.stack_index).tolist() == [576, 720]
    assert set(table.pixel_size_angstrom) == {13.1} and set(table.phase_shift_deg) == {90.0}
    assert table.aberrations.bfactor_angstrom2[0] == 8.0 and set(table.box_size) == {32}
    np.testing.assert_allclose(table.shifts_angstrom[1], [0.2534852 * 13.1, -3.0803437 * 13.1])
    right, wrong, flipped = [], [], []
    maps = [np.fromfile(folder / f"10076_class{name}_32.mrc", "<f4", offset=1024).reshape(32, 32, 32) for name in "DE"]
    images = [np.fromfile(path, "<f4", offset=1024).reshape(-1, 32, 32) for path in table.stacks]
    for row in range(0, len(table), 9):
        label = table.stack_index[row]
        image = -images[label][table.image_index[row]]  # the protein is dark
        for kept, volume, sign in ((right, maps[label], 1), (wrong, maps[1 - label], 1), (flipped, maps[label], -1)):
            kept.append(np.corrcoef(_project(volume, table, row, sign).ravel(), image.ravel())[0, 1])
    # SNR 0.09 allows a correlation of sqrt(0.09 / 1.09) = 0.29; the classes differ little, so compare image by image
    assert np.mean(right) == pytest.approx(0.29, abs=0.02)
    assert np.mean(np.array(right) > np.array(wrong)) > 0.7
    assert np.mean(flipped) < 0.8 * np.mean(right)  # origins of the wrong sign do not fit


def _project(volume: np.ndarray, table: object, row: int, sign: int) -> np.ndarray:
    """Central slice of a map by trilinear interpolation in Fourier space, shifted, times the CTF."""
    from scipy.ndimage import map_coordinates

    size, pad = 32, 64
    wide = np.zeros((pad,) * 3)
    wide[16:48, 16:48, 16:48] = volume
    spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(wide)))
    axis = np.arange(size) - size // 2
    ky, kx = np.meshgrid(axis, axis, indexing="ij")
    points = np.stack([kx, ky, np.zeros_like(kx)], -1) @ rotations_from_angles(table.angles_deg[row])  # A^T k
    where = [points[..., i] * 2 + pad // 2 for i in (2, 1, 0)]
    slice_ = map_coordinates(spectrum.real, where, order=1) + 1j * map_coordinates(spectrum.imag, where, order=1)
    slice_ *= np.hypot(kx, ky) < size // 2
    shift = sign * table.shifts_angstrom[row] / table.pixel_size_angstrom[row]
    slice_ = slice_ * np.exp(2j * np.pi * (kx * shift[0] + ky * shift[1]) / size)  # moved by minus the origin
    q2 = (kx**2 + ky**2) / (size * table.pixel_size_angstrom[row]) ** 2
    volts, cs = table.voltage_kv[row] * 1e3, table.cs_mm[row] * 1e7
    wavelength = 12.2643 / np.sqrt(volts + 0.978466e-6 * volts**2)
    defocus = table.defocus_u_angstrom[row]  # U equals V here
    w = table.amplitude_contrast[row]
    chi = np.pi * wavelength * defocus * q2 - 0.5 * np.pi * cs * wavelength**3 * q2**2
    chi += np.arctan2(w, np.sqrt(1 - w**2)) + np.radians(table.phase_shift_deg[row])
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(slice_ * np.sin(chi)))).real


# ---- cryoSPARC -----------------------------------------------------------------------------------------------------


def make_cs(folder: Path, n: int = 6) -> tuple[Path, Path]:
    """A particles file with images and poses, and a passthrough file (other order, more particles) with the CTF."""
    rng = np.random.default_rng(3)
    uid = rng.integers(1, 2**63, n + 2).astype(np.uint64)
    main = np.zeros(
        n,
        [
            ("uid", "<u8"),
            ("blob/path", "S40"),
            ("blob/idx", "<u4"),
            ("blob/shape", "<u4", (2,)),
            ("blob/psize_A", "<f4"),
            ("alignments3D/psize_A", "<f4"),
            ("alignments3D/split", "<u4"),
            ("alignments3D/pose", "<f4", (3,)),
            ("alignments3D/shift", "<f4", (2,)),
        ],
    )
    main["uid"], main["blob/idx"], main["blob/shape"], main["blob/psize_A"] = uid[:n], np.arange(n) // 2, 16, 1.1
    main["blob/path"] = [b">J3/extract/b.mrcs" if i % 2 else b">J3/extract/a.mrcs" for i in range(n)]
    main["alignments3D/pose"], main["alignments3D/shift"] = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    main["alignments3D/psize_A"] = 2.2  # poses found on images binned twice
    extra = np.zeros(
        n + 2,
        [
            ("uid", "<u8"),
            *(
                (f"ctf/{name}", "<f4")
                for name in ("df1_A", "df2_A", "df_angle_rad", "phase_shift_rad", "accel_kv", "cs_mm", "amp_contrast")
            ),
        ],
    )
    extra["uid"] = uid
    extra["ctf/df1_A"], extra["ctf/df2_A"] = np.arange(n + 2) + 10000, np.arange(n + 2) + 9000
    extra["ctf/df_angle_rad"], extra["ctf/phase_shift_rad"], extra["ctf/accel_kv"] = 0.5, np.pi / 2, 300
    extra["ctf/cs_mm"], extra["ctf/amp_contrast"] = 2.7, 0.1
    paths = folder / "particles.cs", folder / "passthrough.cs"
    for path, values in zip(paths, (main, extra[rng.permutation(n + 2)])):
        with open(path, "wb") as file:
            np.save(file, values)
    for name in "ab":
        make_stack(folder / f"J3/extract/{name}.mrcs", 3, 16)
    return paths


def test_cryosparc_passthrough_joined_on_uid(tmp_path: Path) -> None:
    main, extra = make_cs(tmp_path)
    table = read_particles(main, passthrough=[extra])
    np.testing.assert_array_equal(table.defocus_u_angstrom, np.arange(6) + 10000)
    np.testing.assert_allclose(table.defocus_angle_deg, np.degrees(0.5), rtol=1e-6)
    np.testing.assert_allclose(table.phase_shift_deg, 90.0, rtol=1e-6)
    assert table.voltage_kv.tolist() == [300.0] * 6 and table.cs_mm.tolist() == [2.7] * 6
    assert table.pixel_size_angstrom.tolist() == [1.1] * 6
    np.testing.assert_allclose(table.shifts_angstrom, np.load(main)["alignments3D/shift"] * 2.2, rtol=1e-6)
    assert table.stacks == (tmp_path / "J3/extract/a.mrcs", tmp_path / "J3/extract/b.mrcs")
    assert table.stack_names == (">J3/extract/a.mrcs", ">J3/extract/b.mrcs")
    with pytest.raises(InputError, match=r"ctf/df1_A.*--passthrough"):
        read_particles(main)


def test_cryosparc_passthrough_that_lacks_particles(tmp_path: Path) -> None:
    main, extra = make_cs(tmp_path)
    values = np.load(extra)
    keep = values["uid"] != np.load(main)["uid"][2]
    with open(extra, "wb") as file:
        np.save(file, values[keep])
    with pytest.raises(InputError, match="1 of 6 uids lacking"):
        read_particles(main, passthrough=[extra])


def test_cryosparc_pose_is_the_transpose_of_relions(tmp_path: Path) -> None:
    """A quarter turn about z by cryoSPARC's right-handed pose is psi (plus rot) of +90 degrees in RELION's angles."""
    pose = np.array([[0, 0, np.pi / 2], [0.3, -1.2, 2.0], [0, 0, 0], [np.pi, 0, 0]])
    matrices = rotations_from_angles(pose_to_angles(pose))
    np.testing.assert_allclose(matrices, Rotation.from_rotvec(pose).as_matrix().transpose(0, 2, 1), atol=1e-12)
    rot, tilt, psi = pose_to_angles(pose)[0]
    assert tilt == pytest.approx(0, abs=1e-9) and (rot + psi) == pytest.approx(90)
    # scipy's own intrinsic ZYZ decomposition of the pose gives rot, tilt, psi in this order
    np.testing.assert_allclose(pose_to_angles(pose)[1], Rotation.from_rotvec(pose[1]).as_euler("ZYZ", degrees=True))


def test_cryosparc_files_that_are_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.cs"
    with open(bad, "wb") as file:
        np.save(file, np.array([{"uid": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="without objects"):
        load_cs(bad)
    bad.write_bytes(b"\x94CSDAT and more")
    with pytest.raises(InputError, match="CSDAT"):
        load_cs(bad)
    main, _ = make_cs(tmp_path)
    bad.write_bytes(main.read_bytes()[:-7])
    with pytest.raises(InputError, match="cut off"):
        load_cs(bad)
    values = np.load(main)
    values["uid"][1] = values["uid"][0]
    with open(bad, "wb") as file:
        np.save(file, values)
    with pytest.raises(InputError, match="repeated uids"):
        load_cs(bad)
    with open(bad, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match="field uid"):
        load_cs(bad)


def test_headers_of_any_length_are_read(tmp_path: Path) -> None:
    """Each class of a 3D classification leaves eighteen fields in every later file: 1,000 of them and more."""
    particles, _ = make_cs(tmp_path)
    data = load_cs(particles)
    more = [(f"alignments_class3D_{k}/{name}", "<f4") for k in range(60) for name in "abcdefghijklmnopqr"]
    wide = np.zeros(len(data), [*data.dtype.descr, *more])
    for name in data.dtype.names or ():
        wide[name] = data[name]
    with open(tmp_path / "wide.cs", "wb") as file:
        np.save(file, wide)
    assert wide.dtype.names is not None and len(str(wide.dtype.descr)) > 10_000
    for mmap in (False, True):
        assert load_cs(tmp_path / "wide.cs", mmap=mmap)["uid"].tolist() == data["uid"].tolist()
    assert write_cs_rows(tmp_path / "wide.cs", tmp_path / "few.cs", [0, 2]) == 2
    assert load_cs(tmp_path / "few.cs").dtype == wide.dtype


def test_cryosparc_subset_keeps_bytes(tmp_path: Path) -> None:
    main, extra = make_cs(tmp_path)
    assert write_cs_subset(main, [4, 1, 1], tmp_path / "some.cs") == 2
    some = np.load(tmp_path / "some.cs", allow_pickle=False)
    assert some.dtype == np.load(main).dtype and some.tobytes() == np.load(main)[[1, 4]].tobytes()
    assert write_cs_rows(extra, tmp_path / "more.cs", uids=some["uid"]) == 2
    again = read_particles(tmp_path / "some.cs", passthrough=[tmp_path / "more.cs"])
    assert again.uid is not None and again.uid.tolist() == np.load(main)["uid"][[1, 4]].tolist()
    assert again.defocus_u_angstrom.tolist() == [10001, 10004]
    with pytest.raises(InputError, match="1 uids not in it"):
        write_cs_rows(extra, tmp_path / "more.cs", uids=np.array([7], np.uint64))


def test_cryosparc_as_star(tmp_path: Path) -> None:
    main, extra = make_cs(tmp_path)
    table = read_particles(main, passthrough=[extra])
    labels = np.arange(6) % 3
    assert write_particles_star(table, tmp_path / "out.star", {"_gemClass": labels}, rows=[5, 0, 3]) == 3
    again = read_particles(tmp_path / "out.star")
    for name in ("angles_deg", "shifts_angstrom", "defocus_u_angstrom", "phase_shift_deg", "pixel_size_angstrom"):
        np.testing.assert_allclose(getattr(again, name), getattr(table, name)[[0, 3, 5]], rtol=1e-12, err_msg=name)
    assert read_particle_column(tmp_path / "out.star", "gemClass").tolist() == [0, 0, 2]
    assert [again.stacks[i] for i in again.stack_index] == [table.stacks[i] for i in table.stack_index[[0, 3, 5]]]


# ---- writing STAR --------------------------------------------------------------------------------------------------


def rows_of(path: Path) -> list[bytes]:
    """Lines of the particle table, found by their image names alone."""
    return [line for line in path.read_bytes().splitlines(keepends=True) if b"@" in line]


@pytest.mark.parametrize(
    "name",
    ["relion2.star", "relion30_no_final_newline.star", "relion31_optics_last.star", "relion5_one_optics_list.star"],
)
def test_subset_is_the_source_without_other_rows(data: Path, tmp_path: Path, name: str) -> None:
    source = data / "star" / name
    rows = rows_of(source)
    everything = tmp_path / "all.star"
    assert write_star_subset(source, np.arange(len(rows))[::-1], everything) == len(rows)
    assert everything.read_bytes() == source.read_bytes()
    for drop in range(len(rows)):
        target = tmp_path / "some.star"
        write_star_subset(source, np.arange(len(rows)) != drop, target)
        assert target.read_bytes() == source.read_bytes().replace(rows[drop], b"", 1)


def test_subset_of_real_files_keeps_the_text(shared_data: Path, tmp_path: Path) -> None:
    files = [*(shared_data / "star").glob("*.star"), *(shared_data / "empiar10076_two_state").glob("*.star")]
    assert len(files) == 6
    for source in files:
        before = rows_of(source)
        keep = np.random.default_rng(0).random(len(before)) < 0.4
        keep[0] = True
        target = tmp_path / source.name
        write_star_subset(source, keep, target)
        assert rows_of(target) == [row for row, kept in zip(before, keep) if kept]
        rest = [line for line in source.read_bytes().splitlines(keepends=True) if b"@" not in line]
        assert [line for line in target.read_bytes().splitlines(keepends=True) if b"@" not in line] == rest
        columns = starfile.read(source, always_dict=True)
        again = starfile.read(target, always_dict=True)
        key = "particles" if "particles" in columns else next(iter(columns))
        assert columns[key][keep].reset_index(drop=True).equals(again[key])


def test_appended_columns(data: Path, project: Path) -> None:
    for name in ("relion2.star", "relion31_optics_last.star", "relion30_no_final_newline.star"):
        source = data / "star" / name
        table = read_particles(source, project_dir=project, data_dir=project / "Particles")
        n = len(table)
        target = project / "labelled.star"
        added = {"_gemCluster": np.arange(n) * 2, "gemNote": ["a b", "", *["x"] * (n - 2)]}
        assert write_particles_star(table, target, added, rows=[1, 0]) == 2
        assert column_names(target) == (*column_names(source), "gemCluster", "gemNote")
        assert read_particle_column(target, "gemCluster").tolist() == [0, 2]
        assert read_particle_column(target, "gemNote").tolist() == ["a b", ""]
        again = read_particles(target, project_dir=project, data_dir=project / "Particles")
        np.testing.assert_array_equal(again.angles_deg, table.angles_deg[:2])
        np.testing.assert_array_equal(again.optics_group, table.optics_group[:2])
        for before, after in zip(rows_of(source), rows_of(target)):
            words = split_row(after)
            assert words[:-2] == split_row(before)


def test_renewed_columns(data: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.star"
    source.write_text(
        "data_\n\nloop_\n_rlnImageName #1\n_gemNote #2\n_rlnAngleRot #3\n"
        '1@a.mrcs "old note" 1.50\n  2@a.mrcs "" 2.50  # comment\n3@a.mrcs\tx 3.50\n'
    )
    target = tmp_path / "out.star"
    new = {"rlnAngleRot": [7, 8, 9], "gemNote": ["a b", "c", ""], "gemMore": [1, 2, 3]}
    assert write_star_rows(source, target, [0, 1, 2], new, renew=True) == 3
    assert target.read_text().splitlines()[3:] == [
        "_rlnImageName #1",
        "_gemNote #2",
        "_rlnAngleRot #3",
        "_gemMore #4",
        '1@a.mrcs "a b" 7 1',
        "  2@a.mrcs c 8 2  # comment",
        '3@a.mrcs\t"" 9 3',
    ]


def test_renewed_rows_keep_their_blanks_and_ends(tmp_path: Path) -> None:
    source, target = tmp_path / "in.star", tmp_path / "out.star"
    rows = ["1@a.mrcs  1.5\t10  ", "   2@a.mrcs 2.5   20\r", "it's 3.5 30", "\t4@a.mrcs 4.5 40"]
    source.write_bytes(("data_\n\nloop_\n_rlnImageName\n_a\n_b\n" + "\n".join(rows)).encode())
    new = {"b": np.array([0.1, 0.25, 1e-7, -4]), "a": np.arange(4), "c": ["p", "q", "r", "s t"]}
    assert write_star_rows(source, target, [3, 1, 2], new, renew=True) == 3
    assert target.read_bytes().splitlines(keepends=True)[6:] == [
        b"_c\n",
        b"   2@a.mrcs 1   0.25 q\r\n",
        b"it's 2 1e-07 r\n",
        b'\t4@a.mrcs 3 -4.0 "s t"\n',
    ]


def test_appending_is_refused(data: Path, tmp_path: Path) -> None:
    table = read_particles(data / "star/relion2.star", find_stacks=False)
    target = tmp_path / "out.star"
    with pytest.raises(InputError, match=r"rlnVoltage.*new name"):
        write_particles_star(table, target, {"rlnVoltage": [1, 2, 3]})
    with pytest.raises(InputError, match="must hold 3 values"):
        write_particles_star(table, target, {"gemX": [1, 2]})
    for rows, message in (([], "at least one"), ([3], "0 to 2"), ([-1], "0 to 2"), ([0.5], "row numbers")):
        with pytest.raises(InputError, match=message):
            write_star_subset(table.source, rows, target)
    with pytest.raises(InputError, match="mask of 3 rows"):
        write_star_subset(table.source, [True, False], target)
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_failed_write_keeps_the_old_file(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.star"
    target.write_text("old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(ResourceError, match="disk is full"):
        write_star_subset(data / "star/relion2.star", [0], target)
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_unwritable_output(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be writable.*No such file"):
        write_star_subset(data / "star/relion2.star", [0], tmp_path / "absent/out.star")


def test_table_to_star_splits_groups_by_pixel_size(data: Path, project: Path) -> None:
    table = read_particles(data / "star/relion31_optics_last.star", project_dir=project)
    target = project / "plain.star"
    table_to_star(table, target, {"gemIndex": np.arange(4)})
    again = read_particles(target)
    for name in (
        "angles_deg",
        "shifts_angstrom",
        "pixel_size_angstrom",
        "box_size",
        "voltage_kv",
        "image_index",
        "random_subset",
        "phase_shift_deg",
        "micrograph_index",
    ):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name), err_msg=name)
    frame = starfile.read(target)["particles"]  # starfile reads what is written here
    assert frame["gemIndex"].tolist() == [0, 1, 2, 3]
    assert frame["rlnMicrographName"][0] == "Micrographs/with blank.mrc"


# ---- errors --------------------------------------------------------------------------------------------------------


def edited(data: Path, project: Path, name: str, *changes: tuple[str, str]) -> Path:
    text = (data / "star" / name).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = project / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("column", [*POSE_COLUMNS, *CTF_COLUMNS])
def test_missing_column_is_named(data: Path, project: Path, column: str) -> None:
    path = edited(data, project, "relion2.star", (f"_{column} ", "_other "))
    with pytest.raises(InputError, match=f"no {column}"):
        read_particles(path)
    lenient = read_particles(path, require_pose=False, require_ctf=False)
    assert len(lenient) == 3


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("relion2.star", "25150.700000", "nan", r"defocus U.*finite.*row 3"),
        ("relion2.star", "25150.700000", "abc", r"rlnDefocusU, row 3.*number.*abc"),
        ("relion2.star", "20.250000", '""', r"rot, tilt, psi.*row 1"),
        ("relion2.star", "-70.000000", "inf", r"rot, tilt, psi.*row 3"),
        ("relion2.star", "_rlnOriginY ", "_other ", r"both or neither.*only rlnOriginX"),
        ("relion2.star", " 50000.000000", " 0.000000", r"pixel size.*positive"),
        ("relion2.star", "000002@Particles/b", "000004@Particles/b", r"image number.*3 images of.*4 in row 3"),
        ("relion2.star", "000002@Particles/b", "000000@Particles/b", r"from 1.*row 3"),
        ("relion2.star", "-3.000000 ", "", r"row 3.*15 values.*14 values"),
        ("relion2.star", "_rlnAnglePsi ", "_rlnAngleRot ", r"once.*rlnAngleRot"),
        ("relion2.star", "_rlnImageName ", "_rlnOther ", r"column rlnImageName"),
        ("relion2.star", "data_images", "images", r"data_ block"),
        ("relion31_optics_last.star", "Talos 2 ", "Talos 7 ", r"once.*group 7 2 times"),
        ("relion31_optics_last.star", "Talos 2 ", "Talos 3 ", r"groups in data_optics \(3, 7\).*got 2 in rows 2, 3"),
        ("relion31_optics_last.star", "_rlnOpticsGroup #3", "_rlnOther #3", r"rlnOpticsGroup, as there are 2"),
        ("relion31_optics_last.star", "_rlnOpticsGroup #2", "_rlnOther #2", r"data_optics: must have the column"),
        ("relion31_optics_last.star", "1.250000 16 2", "1.250000 32 2", r"image size.*16 pixels.*32 in rows 1, 4"),
        ("relion31_optics_last.star", "1.250000 16 2", "1.250000 16 3", r"2D images.*subtomograms"),
        ("relion31_optics_last.star", 'Krios, second session"', "Krios, second session", r"8 values"),
        ("relion5_one_optics_list.star", "_rlnOpticsGroup ", "_rlnOther ", r"data_optics: must have the column"),
        ("relion31_optics_last.star", "300.000000 2.7", "0 2.7", r"column voltage: .*positive.*got 0 in rows 1, 4"),
    ],
)
def test_faulty_star(data: Path, project: Path, name: str, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_particles(edited(data, project, name, (old, new)))


def test_empty_optics_table(data: Path, project: Path) -> None:
    path = edited(data, project, "relion31_optics_last.star")
    path.write_text(path.read_text().partition('"Krios')[0])
    with pytest.raises(InputError, match="at least one optics group"):
        read_particles(path)


def test_many_bad_rows_are_counted(data: Path, project: Path) -> None:
    path = project / "many.star"
    head, _, row = (data / "star/relion2.star").read_text().rstrip().rpartition("\n")
    path.write_text(head + "\n" + (row.replace("25150.700000", "NaN") + "\n") * 9)
    with pytest.raises(InputError, match="rows 3, 4, 5, 6, 7 and 4 more"):
        read_particles(path)


def test_no_particles_and_no_file(data: Path, tmp_path: Path) -> None:
    text = (data / "star/relion2.star").read_text()
    empty = tmp_path / "empty.star"
    empty.write_text(text[: text.index("  300.0")])
    with pytest.raises(InputError, match="0 rows"):
        read_particles(empty)
    empty.write_text("")
    with pytest.raises(InputError, match="at least one table"):
        read_particles(empty)
    with pytest.raises(InputError, match="No such file"):
        read_particles(tmp_path / "absent.star")
    with pytest.raises(InputError, match="No such file"):
        read_particles(tmp_path / "absent.cs")
    with pytest.raises(InputError, match="passthrough"):
        read_particles(data / "star/relion2.star", passthrough=[empty])


def test_pixel_size_given_must_agree(data: Path, project: Path) -> None:
    path = data / "star/relion31_optics_last.star"
    with pytest.raises(InputError, match=r"agree with the 1.25 A/px.*got 2 in rows 2, 3"):
        read_particles(path, project_dir=project, pixel_size_angstrom=1.25)
    table = read_particles(data / "star/relion2.star", project_dir=project, pixel_size_angstrom=1.0004)
    assert set(table.pixel_size_angstrom) == {1.0}


# ---- where stacks are ----------------------------------------------------------------------------------------------


def one_particle(data: Path, folder: Path, image: str) -> Path:
    text = (data / "star/relion2.star").read_text()
    rows = [line for line in text.splitlines(keepends=True) if "@" in line]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run_data.star"
    path.write_text(text.replace("".join(rows[1:]), "").replace("000003@Particles/a.mrcs", image))
    return path


def test_stack_places(data: Path, tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    star = one_particle(data, root / "Refine3D/job019", "1@Extract/job007/mic/x.mrcs")
    with pytest.raises(InputError) as error:
        read_particles(star, data_dir=root, project_dir=elsewhere)
    for place in (root, elsewhere, star.parent):
        assert str(place / "Extract/job007/mic/x.mrcs") in str(error.value)
    assert str(root / "mic/x.mrcs") in str(error.value) and "--data_dir" in str(error.value)
    # from the least to the most trusted place
    for kwargs, place in (
        ({"data_dir": elsewhere}, elsewhere / "x.mrcs"),
        ({"data_dir": elsewhere}, elsewhere / "mic/x.mrcs"),
        ({}, root / "Extract/job007/mic/x.mrcs"),  # parent of the job: the project's root
        ({}, star.parent / "Extract/job007/mic/x.mrcs"),
        ({"project_dir": elsewhere}, elsewhere / "Extract/job007/mic/x.mrcs"),
    ):
        make_stack(place, 1, 16)
        assert read_particles(star, **kwargs).stacks == (place,)
    absolute = make_stack(tmp_path / "far/away.mrcs", 1, 16)
    assert read_particles(one_particle(data, root, f"1@{absolute}")).stacks == (absolute,)


def test_data_dir_may_be_the_stack(data: Path, tmp_path: Path) -> None:
    star = one_particle(data, tmp_path, "1@gone/x.mrcs")
    stack = make_stack(tmp_path / "other/y.mrcs", 1, 16)
    assert read_particles(star, data_dir=stack).stacks == (stack,)
    with pytest.raises(InputError, match="data_dir: must exist"):
        read_particles(star, data_dir=tmp_path / "absent")


def test_two_names_for_one_file_are_ambiguous(data: Path, tmp_path: Path) -> None:
    text = (data / "star/relion2.star").read_text().replace("Particles/b.mrcs", "Other/a.mrcs")
    star = tmp_path / "run_data.star"
    star.write_text(text)
    make_stack(tmp_path / "flat/a.mrcs", 3, 16)
    with pytest.raises(InputError, match=r"'Particles/a.mrcs' and 'Other/a.mrcs' both lead to"):
        read_particles(star, data_dir=tmp_path / "flat")


def test_an_imported_link_leads_to_its_projects_images(data: Path, tmp_path: Path) -> None:
    """The particle file is a link: its images are named relative to the project where it really is."""
    far = tmp_path / "far"
    stack = make_stack(far / "Extract/job010/mic/p.mrcs", 3, 16)
    real = one_particle(data, far / "Refine3D/job019", "000002@Extract/job010/mic/p.mrcs")
    link = tmp_path / "project/Import/job001/run_data.star"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    table = read_particles(link)
    assert table.stacks == (stack,) and table.image_index.tolist() == [1]
    # what lies beside the link comes first
    near = make_stack(tmp_path / "project/Extract/job010/mic/p.mrcs", 3, 16)
    assert read_particles(link).stacks == (near,)


def test_names_without_a_number(data: Path, tmp_path: Path) -> None:
    make_stack(tmp_path / "one.mrcs", 1, 16)
    make_stack(tmp_path / "many.mrcs", 5, 16)
    table = read_particles(one_particle(data, tmp_path, "one.mrcs"))
    assert table.image_index.tolist() == [0] and len(table) == 1
    several = one_particle(data, tmp_path, "many.mrcs")
    with pytest.raises(
        InputError, match=r"must be number@stack where .*many.mrcs with its 5 \(got many.mrcs in row 1\)"
    ):
        read_particles(several)
    assert len(read_particles(several, find_stacks=False)) == 1


def test_constants_that_a_file_lacks_can_be_given(shared_data: Path) -> None:
    star = shared_data / "star_more/FinalRefinement-OriginalParticles-PfCRT.star"
    with pytest.raises(InputError, match="no rlnAmplitudeContrast") as caught:
        read_particles(star, find_stacks=False)
    assert caught.value.remedy == "Give --amplitude_contrast."
    table = read_particles(star, find_stacks=False, amplitude_contrast=0.07, voltage_kv=300)
    assert set(table.amplitude_contrast) == {0.07} and set(table.voltage_kv) == {300.0} and set(table.cs_mm) == {0.001}
    assert len(table) == 5
    with pytest.raises(InputError, match=r"voltage: must agree with the 200 given \(got 300 in rows 1"):
        read_particles(star, find_stacks=False, amplitude_contrast=0.07, voltage_kv=200)


def test_what_lacks_poses_is_told_where_they_come_from(shared_data: Path) -> None:
    for name, words in (
        ("star_more/toy_projections_13.star", "have no orientations yet: refine them in 3D"),
        ("star_more/cryosparc_J2_particles_exported.cs", "aligned in 2D alone: refine them in 3D"),
        ("star/empiar_10076_7.cs", "give it with --passthrough"),
    ):
        with pytest.raises(InputError) as caught:
            read_particles(shared_data / name, find_stacks=False)
        assert words in caught.value.remedy and Path(name).name not in caught.value.remedy


def test_written_tables_are_read_by_starfile(tmp_path: Path) -> None:
    write_star(tmp_path / "t.star", {"a": {"rlnX": [1, 2], "rlnY": ["p q", ""]}, "b": {"rlnZ": np.array([0.5])}})
    tables = starfile.read(tmp_path / "t.star", always_dict=True)
    assert tables["a"]["rlnX"].tolist() == [1, 2] and tables["a"]["rlnY"].tolist() == ["p q", ""]
    with pytest.raises(InputError, match="one length"):
        write_star(tmp_path / "t.star", {"a": {"rlnX": [1], "rlnY": [1, 2]}})


def test_tables_of_a_file_that_grew_are_found_anew(tmp_path: Path) -> None:
    path = tmp_path / "particles.star"
    path.write_text("data_particles\n\nloop_\n_rlnImageName\n1@a.mrcs\n")
    assert scan_star(path) is scan_star(path) and find_particle_table(scan_star(path)).n_rows == 1
    with path.open("a") as file:
        file.write("2@a.mrcs\n")
    assert find_particle_table(scan_star(path)).n_rows == 2
