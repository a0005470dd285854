"""Values that no microscope, image or pose has are refused where they enter, naming file, column and row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_data import preprocess, simulate

from gaussianem_core.cli import main
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.ctf import COLUMNS, load_ctf
from gaussianem_core.imaging.pose import load_poses, pack_poses, random_rotations
from gaussianem_core.io.particle_table import read_particles
from gaussianem_core.model.configuration import load_configuration
from gaussianem_core.options import JOB_OPTIONS, TrainOptions

GOOD = np.array([64, 1.5, 15000, 14000, 30, 300, 2.7, 0.1, 0])
STAR = """data_particles

loop_
_rlnImageName
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginXAngst
_rlnOriginYAngst
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnPhaseShift
_rlnPixelSize
1@a.mrcs 10 20 30 1.5 -2 15000 14000 30 300 2.7 0.1 0 1.5
2@a.mrcs ROW
"""
ROW = {
    "rot": "10",
    "tilt": "20",
    "psi": "30",
    "x": "1.5",
    "y": "-2",
    "u": "15000",
    "v": "14000",
    "angle": "30",
    "voltage": "300",
    "cs": "2.7",
    "contrast": "0.1",
    "phase": "0",
    "pixel": "1.5",
}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("contrast", "10", "amplitude contrast.*from 0 to 1.*got 10 in row 2.*not 10 per cent"),
        ("contrast", "-0.1", "amplitude contrast"),
        ("voltage", "300000", "voltage.*300, not 300000"),
        ("voltage", "0", "voltage"),
        ("cs", "2700", "spherical aberration.*millimetres"),
        ("u", "1e9", "defocus U"),
        ("v", "nan", "defocus V"),
        ("angle", "1e30", "defocus angle"),
        ("phase", "5000", "phase shift"),
        ("pixel", "1.5e-10", "pixel size"),
        ("pixel", "-1", "pixel size"),
        ("tilt", "inf", "rot, tilt, psi"),
        ("x", "1e30", "origins"),
        ("y", "nan", "origins"),
    ],
)
def test_particles_with_an_impossible_value(tmp_path: Path, column: str, value: str, message: str) -> None:
    path = tmp_path / "particles.star"
    path.write_text(STAR.replace("ROW", " ".join(ROW.values())))
    assert len(read_particles(path, find_stacks=False)) == 2
    path.write_text(STAR.replace("ROW", " ".join({**ROW, column: value}.values())))
    with pytest.raises(InputError, match=message) as refused:
        read_particles(path, find_stacks=False)
    assert str(path) in str(refused.value) and "in row 2" in str(refused.value)


def test_defocus_in_micrometres_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "particles.star"
    text = STAR.replace("ROW", " ".join(ROW.values())).replace(" 15000 14000 ", " 1.5 1.4 ")
    path.write_text(text)
    with pytest.raises(InputError, match=r"defocus U and V.*must be in Angstrom.*Multiply micrometres by 10,000"):
        read_particles(path, find_stacks=False)
    np.save(tmp_path / "ctf.npy", np.tile(GOOD, (5, 1)) * [1, 1, 1e-4, 1e-4, 1, 1, 1, 1, 1])
    with pytest.raises(InputError, match="micrometres"):
        load_ctf(tmp_path / "ctf.npy")


@pytest.mark.parametrize("column", range(9))
@pytest.mark.parametrize("value", [-1e6, 1e6, np.inf, -np.inf, np.nan])
def test_every_column_of_the_ctf_has_a_range(tmp_path: Path, column: int, value: float) -> None:
    table = np.tile(GOOD, (5, 1))
    table[3, column] = value
    np.save(tmp_path / "ctf.npy", table)
    if column == 8 and np.isnan(value):  # stands for none
        assert load_ctf(tmp_path / "ctf.npy")[3, 8] == 0
        return
    with pytest.raises(InputError, match=rf"ctf\.npy, column {COLUMNS[column]}.*in row 4"):
        load_ctf(tmp_path / "ctf.npy")


def test_a_ctf_that_lets_nothing_through(tmp_path: Path) -> None:
    np.save(tmp_path / "ctf.npy", np.tile(GOOD * [1, 1, 0, 0, 1, 1, 0, 0, 0], (4, 1)))
    with pytest.raises(InputError, match="such images are empty"):
        load_ctf(tmp_path / "ctf.npy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: 0 * r, "orthogonal"),
        (lambda r: 1.1 * r, "orthogonal"),
        (lambda r: r * [1, 1, -1], "mirror"),
        (lambda r: -r, "mirror"),
        (lambda r: r + np.array([[0, 0, 0], [0, 0, 0.1], [0, 0, 0]]), "orthogonal"),
    ],
)
def test_rotations_turn_and_nothing_else(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    rotations = random_rotations(5, np.random.default_rng(0))
    np.save(tmp_path / "poses.npy", pack_poses(rotations.round(4), np.zeros((5, 2))))
    load_poses(tmp_path / "poses.npy")
    rotations[2] = change(rotations[2])
    np.save(tmp_path / "poses.npy", pack_poses(rotations, np.zeros((5, 2))))
    with pytest.raises(InputError, match=rf"poses\.npy, column rotation: .*{message}.* in row 3"):
        load_poses(tmp_path / "poses.npy")


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("nDetector", [0, 0]),
        ("nDetector", [32, 64]),
        ("nDetector", 32),
        ("nDetector", [31.5, 31.5]),
        ("pixelSize", float("nan")),
        ("pixelSize", "1.5"),
        ("pixelSize", 0),
        ("scale_min", -1),
        ("scale_max", 5),
        ("scale_max", 0.001),
        ("std", 0),
        ("std", float("inf")),
        ("zdim", 10**9),
        ("qdim", 2.5),
        ("invert_contrast", "false"),
        ("origin_angstrom", [1, 2]),
        ("origin_angstrom", ["a", 0, 0]),
    ],
)
def test_every_entry_of_the_configuration_has_a_range(tmp_path: Path, data: Path, entry: str, value: object) -> None:
    content = json.loads((data / "published_model" / "cfg.json").read_text())
    content["cfg"][entry] = value
    path = tmp_path / "cfg.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"cfg\.json, entry {entry}"):
        load_configuration(path)


def test_every_number_among_the_options_is_bounded() -> None:
    """So that neither an infinite weight nor a seed of 30 digits reaches a library."""
    for model in JOB_OPTIONS.values():
        for name, field in model.model_fields.items():
            if any(kind in str(field.annotation) for kind in ("int", "float")) and "Literal" not in str(
                field.annotation
            ):
                rules = " ".join(map(str, field.metadata))
                assert ("ge=" in rules or "gt=" in rules) and ("le=" in rules or "lt=" in rules), f"{model}: {name}"


@pytest.mark.parametrize(
    "words",
    [
        ("--beta", "inf"),
        ("--lr", "nan"),
        ("--seed", "1" + 30 * "0"),
        ("--gpus", "0,0"),
        ("--gpus", "99999"),
        ("--batch", "0"),
        ("--w_distance", "-1"),
    ],
)
def test_options_that_no_library_takes(tmp_path: Path, words: tuple[str, str], capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "-s", str(tmp_path), "--job_dir", str(tmp_path / "out"), *words]) == 2
    assert words[0][2:] in capsys.readouterr().err and not (tmp_path / "out" / "training_state.pt").exists()


def test_gpus_where_there_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training on the CPU without a word would take days."""
    for number in ("0", "0,1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # present for the program, and not there
        assert main(["train", "-s", str(tmp_path), "--job_dir", str(tmp_path / number), "--gpus", number]) == 2
        assert "--gpus: must name GPUs of this machine" in capsys.readouterr().err
        assert (tmp_path / number / "RELION_JOB_EXIT_FAILURE").exists()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranges")
    simulate(folder / "sim")
    assert preprocess(folder / "sim", folder / "pre") == 0
    return folder / "pre"


def test_faulty_data_is_refused_before_training(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Each of these ended in a traceback of linear algebra, or in latents of zero and success."""

    def ctf(folder: Path, column: int, value: float) -> None:
        table = np.load(folder / "ctf.npy")
        table[:, column] = value
        np.save(folder / "ctf.npy", table)

    def stack(folder: Path, change) -> None:  # type: ignore[no-untyped-def]
        whole = (folder / "img_stack.mrcs").read_bytes()
        images = np.frombuffer(whole[1024:], np.float32)
        (folder / "img_stack.mrcs").write_bytes(whole[:1024] + change(images).astype(np.float32).tobytes())

    def poses(folder: Path, factor: float) -> None:
        table = np.load(folder / "poses.npy")
        table[:, 9:] *= factor
        table[:, 9:] += factor
        np.save(folder / "poses.npy", table)

    faults = {
        "amplitude contrast": lambda f: ctf(f, 7, 7.0),
        "voltage": lambda f: ctf(f, 5, 0.0),
        "not constant": lambda f: stack(f, np.zeros_like),
        "that are not constant": lambda f: stack(f, lambda images: np.full_like(images, 3.5)),
        "NaN or infinite": lambda f: stack(f, lambda images: np.full_like(images, np.nan)),
        "two boxes": lambda f: poses(f, 500.0),
    }
    for number, (message, damage) in enumerate(faults.items()):
        folder = tmp_path / str(number)
        shutil.copytree(prepared, folder)
        damage(folder)
        words = ["train", "-s", str(folder), "--job_dir", str(folder / "train"), "--epoch", "1", "--device", "cpu"]
        assert main([*words, "--threads", "1"]) == 2
        assert message in capsys.readouterr().err
        assert not list((folder / "train").glob("weights*"))


def test_preprocess_refuses_per_cent(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Amplitude contrast 10: asin gives NaN, for which every check of the results is false."""
    folder = simulate(tmp_path / "sim")
    text = (folder / "particles.star").read_text()
    assert " 0.1 " in text
    (folder / "particles.star").write_text(text.replace(" 0.1 ", " 10 ", 1))
    assert preprocess(folder, tmp_path / "pre") == 2
    said = capsys.readouterr().err
    assert "particles.star, column amplitude contrast" in said and "0.1, not 10 per cent" in said
    assert not (tmp_path / "pre" / "point_cloud.ply").exists()


def test_options_of_a_job_know_no_infinity() -> None:
    with pytest.raises(ValueError, match="finite number"):
        TrainOptions(beta=float("inf"))
