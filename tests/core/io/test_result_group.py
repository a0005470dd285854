"""cryoSPARC's result groups: read for the .cs files that they name, written so that a YAML reader finds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from gaussianem_core.errors import InputError
from gaussianem_core.io.particle_table import column_names, read_particles
from gaussianem_core.io.result_group import particle_files, write_result_group

BLOB = [("uid", "u8"), ("blob/path", "S32"), ("blob/idx", "u4"), ("blob/psize_A", "f4")]
CTF = [("uid", "u8"), *((f"ctf/{name}", "f4") for name in ("df1_A", "df2_A", "df_angle_rad", "accel_kv", "cs_mm"))]
GROUP = """created: 2024-01-01 10:00:00.000000
group:
  description: All particles
  name: particles
  title: All particles
  type: particle
results:
  blob: {metafile: '>J42_particles.cs', num_items: 4, type: particle.blob}
  ctf:
    metafile: '>J42_passthrough_particles.cs'
    num_items: 4
    type: particle.ctf
version: v4.5.3
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job's directory with a group, its particles, and their CTF in a passthrough file."""
    folder = tmp_path / "J42"
    folder.mkdir()
    for name, fields in (("particles", BLOB), ("passthrough_particles", CTF)):
        data = np.zeros(4, fields)
        data["uid"] = np.arange(4) + 10**15
        values = {"blob/idx": np.arange(4), "blob/psize_A": 1.2, "ctf/df1_A": np.arange(4) + 1e4, "ctf/accel_kv": 300}
        for field, value in values.items():
            if field in data.dtype.names:
                data[field] = value
        with open(folder / f"J42_{name}.cs", "wb") as file:
            np.save(file, data)
    (folder / "J42_particles.csg").write_text(GROUP)
    return folder


def test_a_group_is_its_files(job: Path) -> None:
    main, more = particle_files(job / "J42_particles.csg", ["other.cs"])
    assert main == job / "J42_particles.cs"
    assert more == (job / "J42_passthrough_particles.cs", Path("other.cs"))
    assert particle_files("particles.star") == (Path("particles.star"), ())


def test_particles_are_read_through_a_group_and_a_link_to_it(job: Path, tmp_path: Path) -> None:
    link = tmp_path / "imported.csg"
    link.symlink_to(job / "J42_particles.csg")
    for path in (job / "J42_particles.csg", link):
        table = read_particles(path, require_pose=False, find_stacks=False, amplitude_contrast=0.1)
        assert table.defocus_u_angstrom.tolist() == [10000, 10001, 10002, 10003]
        assert set(table.amplitude_contrast) == {0.1} and set(table.voltage_kv) == {300.0}
        assert column_names(path) == tuple(name for name, _ in BLOB)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must be cryoSPARC's result group"),
        ("a: [1\n", r"must be cryoSPARC's result group \(YAML\)"),
        ("results: {map: {metafile: '>map.cs'}}\n", "must be a result group of particles with images.*got map"),
        (GROUP.replace("J42_particles.cs", "J43_particles.cs"), "must name .cs files that exist .*J43_particles"),
        ("a: !!python/object/apply:os.system ['touch pwned']\n", "must be cryoSPARC's result group"),
    ],
)
def test_other_files_are_refused(job: Path, text: str, message: str) -> None:
    (job / "J42_particles.csg").write_text(text)
    with pytest.raises(InputError, match=message):
        particle_files(job / "J42_particles.csg")
    assert not Path("pwned").exists()


def test_a_written_group_names_each_field_once(job: Path) -> None:
    write_result_group(job / "mine.csg", [job / "J42_particles.cs", job / "J42_passthrough_particles.cs"])
    content = yaml.safe_load((job / "mine.csg").read_text())
    assert content["group"]["type"] == "particle"
    assert content["results"] == {
        "blob": {"metafile": ">J42_particles.cs", "num_items": 4, "type": "particle.blob"},
        "ctf": {"metafile": ">J42_passthrough_particles.cs", "num_items": 4, "type": "particle.ctf"},
    }
    assert particle_files(job / "mine.csg") == particle_files(job / "J42_particles.csg")
