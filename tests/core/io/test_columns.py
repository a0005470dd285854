"""Every column of RELION 5 and every field of cryoSPARC is used, refused, or changes nothing, as the guide says."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from gaussianem_core.errors import InputError
from gaussianem_core.io import columns
from gaussianem_core.io.columns import CRYOSPARC, RELION, Use, meaning
from gaussianem_core.io.particle_table import ParticleTable, read_particles

ROOT = Path(__file__).parents[3]
LISTS = ROOT / "tests" / "data"


def names(file: str) -> list[str]:
    return [line for line in (LISTS / file).read_text().splitlines() if not line.startswith("#")]


def differences(one: ParticleTable, other: ParticleTable) -> set[str]:
    """Names of what differs, the notes and the file's name left out."""
    found = {
        field.name
        for field in fields(one)
        if field.name not in ("source", "notes", "aberrations")
        and repr(getattr(one, field.name)) != repr(getattr(other, field.name))
    }
    a, b = one.aberrations, other.aberrations
    for name in ("magnification", "odd_zernike", "even_zernike", "state", "floor"):  # by particle
        if not np.array_equal(getattr(a, name)[a.group], getattr(b, name)[b.group]):
            found.add(name)
    same = np.array_equal(a.bfactor_angstrom2, b.bfactor_angstrom2) and np.array_equal(a.scale, b.scale)
    return found if same else found | {"envelope"}


# ---- RELION --------------------------------------------------------------------------------------------------------

PLAIN = {
    "rlnImageName": "3@a.mrcs",
    "rlnImagePixelSize": "1.5",
    **dict.fromkeys(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), "20"),
    **dict.fromkeys(("rlnDefocusU", "rlnDefocusV"), "9000"),
    "rlnDefocusAngle": "10",
    "rlnVoltage": "300",
    "rlnSphericalAberration": "2.7",
    "rlnAmplitudeContrast": "0.1",
}
# another value of each used column; what else the file has (None: has not), where that matters
OTHER: dict[str, tuple[str, dict[str, str | None]]] = {
    "rlnImageName": ("2@a.mrcs", {}),
    "rlnImageSize": ("64", {}),
    "rlnImagePixelSize": ("1.2", {}),
    "rlnDetectorPixelSize": ("5", {"rlnImagePixelSize": None, "rlnPixelSize": "1.5"}),
    "rlnMagnification": ("50000", {"rlnImagePixelSize": None, "rlnDetectorPixelSize": "5"}),
    "rlnPixelSize": ("1.2", {"rlnImagePixelSize": None, "rlnPixelSize": "1.5"}),
    **{f"rlnOrigin{axis}": ("3", {f"rlnOrigin{pair}": "1"}) for axis, pair in ("XY", "YX")},
    **{f"rlnOrigin{axis}Angst": ("3", {f"rlnOrigin{pair}Angst": "1"}) for axis, pair in ("XY", "YX")},
    "rlnVoltage": ("200", {}),
    "rlnSphericalAberration": ("1.2", {}),
    "rlnAmplitudeContrast": ("0.07", {}),
    "rlnPhaseShift": ("70", {}),
    "rlnCtfBfactor": ("50", {}),
    "rlnCtfScalefactor": ("0.7", {}),
    **{f"rlnMagMat{i}{j}": (str(float(i == j) + 0.02), {}) for i in (0, 1) for j in (0, 1)},
    "rlnOddZernike": ("[0.1,0.2]", {}),
    "rlnEvenZernike": ("[0.1,0.2]", {}),
    "rlnRandomSubset": ("2", {}),
    "rlnOpticsGroup": ("4", {}),
    "rlnMicrographName": ("m.mrc", {}),
}


def write_star(path: Path, values: dict[str, str | None]) -> Path:
    kept = {name: value for name, value in values.items() if value is not None}
    header = "".join(f"_{name}\n" for name in kept)
    path.write_text(f"data_particles\n\nloop_\n{header}" + f"{' '.join(kept.values())}\n" * 2)
    return path


def read_star(path: Path, values: dict[str, str | None]) -> ParticleTable:
    return read_particles(write_star(path, values), find_stacks=False)


@pytest.fixture
def star(tmp_path: Path) -> Path:
    return tmp_path / "particles.star"


def test_relion_columns_that_are_used_change_what_is_read(star: Path) -> None:
    used = [name for name in names("relion5_columns.txt") if (m := meaning(name, RELION)) and m.use is Use.USED]
    assert len(used) > 30
    for name in used:
        value, more = OTHER.get(name, ("1", {}))
        without = {**PLAIN, **more}
        if name == "rlnImageDimensionality":
            with pytest.raises(InputError, match="rlnImageDimensionality 2"):
                read_star(star, {**PLAIN, name: "3"})
            continue
        if name.startswith("rlnOrigin"):  # both or neither: the other one is there alone in the other file, with 0
            without[name] = "0"
        assert differences(read_star(star, without), read_star(star, {**without, name: value})), name


def test_relion_columns_that_are_refused_are_named(star: Path) -> None:
    plain = read_star(star, {**PLAIN})
    refused = [m for m in RELION if m.use is Use.REFUSED]
    known = [name for name in names("relion5_columns.txt") if meaning(name, RELION) in refused]
    for name in (*known, "rlnCtfOfTheFuture", "rlnBeamTiltZ"):
        with pytest.raises(InputError, match=name):
            read_star(star, {**PLAIN, name: "2"})
        found = meaning(name, RELION)
        assert found is not None
        if found.neutral and (not name.startswith("rlnTomo") or name == "rlnTomoSubTomosAre2DStacks"):
            assert not differences(plain, read_star(star, {**PLAIN, name: f"{found.neutral[0]:g}"})), name
    assert len(known) > 60


def test_relion_columns_that_are_ignored_change_nothing_and_unknown_ones_are_said(star: Path) -> None:
    plain = read_star(star, {**PLAIN})
    every = names("relion5_columns.txt")
    assert len(every) > 600 and all(meaning(name, RELION) for name in every)
    ignored = [name for name in every if (m := meaning(name, RELION)) and m.use is Use.IGNORED]
    table = read_star(star, {**PLAIN, **dict.fromkeys(ignored, "7")})  # all at once: none of them does anything
    assert not differences(plain, table) and table.notes == plain.notes == ()
    table = read_star(star, {**PLAIN, "rlnSomethingNew": "7", "wrpSomething": "x", "gaussianemClass": "1"})
    assert not differences(plain, table)
    assert table.notes == ("not known, and not used: rlnSomethingNew, wrpSomething",)


def test_detectors_that_differ_are_said(star: Path) -> None:
    write_star(star, {**PLAIN, "rlnOpticsGroup": "1"})
    for second, told in (("mtf_k2.star", 0), ("mtf_k3.star", 1)):
        optics = f"data_optics\nloop_\n_rlnOpticsGroup\n_rlnMtfFileName\n1 mtf_k2.star\n2 {second}\n\n"
        both = star.with_name("both.star")
        both.write_text(optics + star.read_text())
        assert len(read_particles(both, find_stacks=False).notes) == told


# ---- cryoSPARC -----------------------------------------------------------------------------------------------------

# each field's dtype, its value and another one
FIELDS: dict[str, tuple[str | tuple[str, tuple[int, ...]], object, object]] = {
    "uid": ("<u8", 5, 7),
    "blob/path": ("S20", b"a.mrcs", b"b.mrcs"),
    "blob/idx": ("<u4", 1, 2),
    "blob/shape": (("<u4", (2,)), 32, 64),
    "blob/psize_A": ("<f4", 1.5, 1.2),
    "blob/sign": ("<f4", 1, -1),
    "alignments3D/pose": (("<f4", (3,)), 0.3, 0.4),
    "alignments3D/shift": (("<f4", (2,)), 1, 2),
    "alignments3D/psize_A": ("<f4", 1.5, 3),
    "alignments3D/split": ("<u4", 0, 1),
    "location/micrograph_path": ("S20", b"m.mrc", b"n.mrc"),
    "ctf/exp_group_id": ("<u4", 1, 2),
    "ctf/accel_kv": ("<f4", 300, 200),
    "ctf/cs_mm": ("<f4", 2.7, 1.2),
    "ctf/amp_contrast": ("<f4", 0.1, 0.07),
    **{f"ctf/{name}": ("<f4", 9000, 9900) for name in ("df1_A", "df2_A")},
    **{f"ctf/{name}": ("<f4", 0, 0.5) for name in ("df_angle_rad", "phase_shift_rad")},
    "ctf/bfactor": ("<f4", 0, 50),
    "ctf/scale": ("<f4", 1, 0.7),
    **{f"ctf/{name}": (("<f4", (2,)), 0, 0.3) for name in ("shift_A", "tilt_A", "trefoil_A")},
    "ctf/tetra_A": (("<f4", (4,)), 0, 200),
    "ctf/anisomag": (("<f4", (4,)), 0, 0.02),
}


def read_cs(path: Path, extra: dict[str, tuple[str, object]] | None = None, **changed: object) -> ParticleTable:
    """Two particles, with fields added, or ``name`` (of FIELDS) holding another value."""
    kinds = {**{name: kind for name, (kind, _, _) in FIELDS.items()}, **{n: k for n, (k, _) in (extra or {}).items()}}
    data = np.zeros(2, [(name, *([kind] if isinstance(kind, str) else kind)) for name, kind in kinds.items()])
    for name, (_, value, _) in FIELDS.items():
        data[name] = value
    for name, (_, value) in (extra or {}).items():
        data[name] = value
    for name, value in changed.items():
        data[name] = value
    data["uid"] += np.arange(2, dtype=np.uint64)
    with open(path, "wb") as file:
        np.save(file, data)
    return read_particles(path, find_stacks=False)


def test_cryosparc_fields_that_are_used_change_what_is_read(tmp_path: Path) -> None:
    plain = read_cs(tmp_path / "a.cs")
    used = [name for name in names("cryosparc_fields.txt") if (m := meaning(name, CRYOSPARC)) and m.use is Use.USED]
    assert sorted(used) == sorted(FIELDS)
    for name, (_, _, other) in FIELDS.items():
        assert differences(plain, read_cs(tmp_path / "a.cs", **{name: other})), name


def test_cryosparc_fields_that_are_ignored_refused_or_unknown(tmp_path: Path) -> None:
    plain = read_cs(tmp_path / "a.cs")
    every = names("cryosparc_fields.txt")
    assert all(meaning(name, CRYOSPARC) for name in every)
    ignored = [name for name in every if (m := meaning(name, CRYOSPARC)) and m.use is Use.IGNORED]
    table = read_cs(tmp_path / "a.cs", dict.fromkeys(ignored, ("<f4", 7.0)))
    assert not differences(plain, table) and table.notes == ()
    with pytest.raises(InputError, match="ctf/fivefold_A: is not supported, and would change the images"):
        read_cs(tmp_path / "a.cs", {"ctf/fivefold_A": ("<f4", 7.0)})
    assert not differences(plain, read_cs(tmp_path / "a.cs", {"ctf/fivefold_A": ("<f4", 0.0)}))
    assert read_cs(tmp_path / "a.cs", {"mine/x": ("<f4", 0.0)}).notes == ("not known, and not used: mine/x",)


# ---- the guide -----------------------------------------------------------------------------------------------------


def test_the_guides_page_is_the_table(tmp_path: Path) -> None:
    text = (ROOT / "resources" / "guide" / "08-columns.md").read_text()
    inside = text.partition(columns.BEGIN)[2].partition(columns.END)[0]
    assert inside.strip() == columns.page().strip(), (
        "renew it: python -m gaussianem_core.io.columns resources/guide/08-columns.md"
    )
    file = tmp_path / "page.md"
    file.write_text(f"before\n{columns.BEGIN}\nstale\n{columns.END}\nafter\n")
    assert columns.main([str(file)]) == 0
    assert file.read_text().startswith("before\n") and "stale" not in file.read_text()
    file.write_text("nothing")
    with pytest.raises(InputError, match="must hold the lines"):
        columns.main([str(file)])
