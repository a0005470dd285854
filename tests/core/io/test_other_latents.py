"""Latents of other programs, read from files that these programs wrote (tests/data/other_programs)."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from gaussianem_core.errors import InputError
from gaussianem_core.io.latents import load_latents, save_latents
from gaussianem_core.io.other_latents import read_indices, read_other_latents, rows_of_latents


@pytest.fixture
def others(data: Path) -> Path:
    return data / "other_programs"


def test_cryodrgn_latents_and_their_variances(others: Path) -> None:
    found = read_other_latents(others / "z.2.pkl")
    with open(others / "z.2.pkl", "rb") as file:  # as cryoDRGN itself reads it
        mean, log_variance = pickle.load(file), pickle.load(file)  # noqa: S301
    assert found.program == "cryoDRGN"
    assert np.array_equal(found.z, mean) and found.z.shape == (50, 2)
    assert found.log_variance is not None and np.array_equal(found.log_variance, log_variance)


def test_recovar_latents(others: Path) -> None:
    found = read_other_latents(others / "latent_coords.npy")
    precision = np.load(others / "latent_precision.npy").astype(np.float64)
    assert (found.program, found.z.shape) == ("RECOVAR", (60, 2))
    assert found.log_variance is not None
    inverse = np.linalg.inv(precision[7])
    assert np.exp(found.log_variance[7]) == pytest.approx([inverse[0, 0], inverse[1, 1]], rel=1e-4)
    assert np.exp(found.log_variance).mean() < 0.1 * found.z.var()  # a precision, not a variance


def test_recovar_embeddings_in_one_pickle(others: Path, tmp_path: Path) -> None:
    """The dictionary of dictionaries that RECOVAR's ``build_embedding_dict`` lays out."""
    coords, precision = (np.load(others / f"latent_{name}.npy") for name in ("coords", "precision"))
    contrasts = np.ones(60, np.float32)
    content = {
        "latent_coords": {2: coords, 1: coords[:, :1]},
        "latent_coords_noreg": {2: 2 * coords, 1: 2 * coords[:, :1]},
        "latent_precision": {2: precision, 1: precision[:, :1, :1]},
        "contrasts": {2: contrasts, 1: contrasts},
    }
    (tmp_path / "embeddings.pkl").write_bytes(pickle.dumps(content))
    found, alone = (
        read_other_latents(tmp_path / "embeddings.pkl", ["2"]),
        read_other_latents(others / "latent_coords.npy"),
    )
    assert found.program == "RECOVAR" and np.array_equal(found.z, alone.z)
    assert found.log_variance is not None and alone.log_variance is not None
    assert np.array_equal(found.log_variance, alone.log_variance)
    assert read_other_latents(tmp_path / "embeddings.pkl", ["1"]).z.shape == (60, 1)
    for columns in ([], ["4"], ["1", "2"]):
        with pytest.raises(InputError, match=r"one of the zdim of .*It has 2, 1\."):
            read_other_latents(tmp_path / "embeddings.pkl", columns)
    (tmp_path / "embeddings.pkl").write_bytes(pickle.dumps({"latent_coords": {2: coords}, "zs": os.system}))
    with pytest.raises(InputError, match="numpy arrays and nothing else"):
        read_other_latents(tmp_path / "embeddings.pkl")


def test_cryodrgn_indices_give_the_rows(others: Path) -> None:
    found = read_other_latents(others / "z.2.pkl")
    rows = rows_of_latents(found, others / "particles.star", 60, others / "ind.pkl")
    assert np.array_equal(rows, np.arange(5, 55))
    with pytest.raises(InputError, match="60 rows"):
        rows_of_latents(found, others / "particles.star", 60, None)


def test_cryosparc_modes_are_joined_on_uid(tmp_path: Path) -> None:
    uid = np.array([11, 7, 9, 8], np.uint64)
    kind = [("uid", "<u8"), *((f"components_mode_{i}/value", "<f4") for i in (0, 1, 2, 10))]
    modes = np.zeros(4, kind)
    modes["uid"] = uid
    for place, name in enumerate(modes.dtype.names[1:]):
        modes[name] = np.arange(4) + 10 * place
    with open(tmp_path / "modes.cs", "wb") as file:
        np.save(file, modes)
    particles = np.zeros(3, [("uid", "<u8")])
    particles["uid"] = [7, 5, 11]
    with open(tmp_path / "particles.cs", "wb") as file:
        np.save(file, particles)
    found = read_other_latents(tmp_path / "modes.cs")
    assert found.z[1].tolist() == [1, 11, 21, 31]  # mode 10 after mode 2
    rows = rows_of_latents(found, tmp_path / "particles.cs", 3, None)
    assert rows.tolist() == [2, 0, -1, -1]


def test_tables_of_text(tmp_path: Path) -> None:
    (tmp_path / "z.csv").write_text("name,latent_2,latent_10,latent_1\na,2,10,1\nb,3,11,2\n")
    assert read_other_latents(tmp_path / "z.csv").z.tolist() == [[1, 2, 10], [2, 3, 11]]
    assert read_other_latents(tmp_path / "z.csv", ["latent_10"]).z.tolist() == [[10], [11]]
    with pytest.raises(InputError, match="columns of the latents"):
        read_other_latents(tmp_path / "z.csv", ["z"])
    (tmp_path / "z.txt").write_text("1 2\n3 4\n")
    assert read_other_latents(tmp_path / "z.txt").z.tolist() == [[1, 2], [3, 4]]
    (tmp_path / "z.txt").write_text("1 2\n3 nan\n")
    with pytest.raises(InputError, match="finite"):
        read_other_latents(tmp_path / "z.txt")


def test_a_star_table_is_joined_by_image_name(others: Path, tmp_path: Path) -> None:
    from gaussianem_core.io.particle_rows import write_star_rows

    write_star_rows(others / "particles.star", tmp_path / "half.star", np.arange(0, 60, 2))
    z = np.arange(60.0)
    columns = {"dynamightLatent1": z, "dynamightLatent2": -z}
    write_star_rows(others / "particles.star", tmp_path / "latents.star", None, columns)
    found = read_other_latents(tmp_path / "latents.star")
    rows = rows_of_latents(found, tmp_path / "half.star", 30, None)
    assert found.z.shape == (60, 2)
    assert np.array_equal(found.z[rows >= 0, 0], np.arange(0, 60, 2))


class _Runs:
    """A pickle of it runs a program when Python loads it."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self._trace}",)


@pytest.mark.parametrize("behind", [False, True], ids=["alone", "behind latents"])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, behind: bool) -> None:
    path, trace = tmp_path / "z.pkl", tmp_path / "ran"
    good = pickle.dumps(np.zeros((3, 2), np.float32)) if behind else b""
    path.write_bytes(good + pickle.dumps(_Runs(trace)))
    for read in (read_other_latents, lambda p: read_indices(p, 3)):
        with pytest.raises(InputError, match="wants to run"):
            read(path)
    assert not trace.exists()


@pytest.mark.parametrize("rows", [[0, 0], [0, 9], [-1, 2]])
def test_indices_beyond_the_particles_are_refused(tmp_path: Path, rows: list[int]) -> None:
    np.save(tmp_path / "ind.npy", np.array(rows))
    with pytest.raises(InputError, match="at most"):
        read_indices(tmp_path / "ind.npy", 5)


def test_latents_without_uncertainty_are_read_back(tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    save_latents(tmp_path / "z.pkl", z, None)
    back = load_latents(tmp_path / "z.pkl")
    assert np.array_equal(back["z_mu"], z) and "z_logvar" not in back
