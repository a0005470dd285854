"""Decode gives the volumes of the latents or particles that were asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from trained import BOX, PIXEL, write_model

from gaussianem_core.commands import decode
from gaussianem_core.errors import InputError
from gaussianem_core.io.latents import load_latents, read_latent_rows
from gaussianem_core.job.events import JobLog, read_events
from gaussianem_core.job.input_paths import resolve_input
from gaussianem_core.model.configuration import load_configuration, write_configuration
from gaussianem_core.model.trained_model import load_model
from gaussianem_core.options import DecodeOptions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    z = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    return write_model(tmp_path / "model", z, density=True)


def run(folder: Path, **values) -> Path:  # type: ignore[no-untyped-def]
    options = DecodeOptions(
        **{
            "source_dir": str(folder),
            "model_weight": "weights.0.pkl",
            "device": "cpu",
            "job_dir": str(folder / "decode"),
            **values,
        }
    )
    with JobLog(options.output_directory(), ["decode"]) as log:
        decode.run(options, log)
    return options.output_directory()


def volumes(folder: Path, z: np.ndarray, box: int = BOX) -> list[np.ndarray]:
    model = load_model(folder / "cfg.json", folder / "weights.0.pkl", folder / "point_cloud.ply", device="cpu")
    return [volume.numpy() for volume in model.volumes(z, box)]


@pytest.mark.parametrize("name", ["z.txt", "z.csv", "z.npy"])
def test_latents_from_files(folder: Path, name: str) -> None:
    z = np.array([[0.5, -1, 2], [0, 0, 0]])
    if name == "z.npy":
        np.save(folder / name, z)
    else:
        np.savetxt(folder / name, z, delimiter="," if name == "z.csv" else " ")
    out = run(folder, z=name, box=32)
    for i, volume in enumerate(volumes(folder, z, 32), start=1):
        with mrcfile.open(out / f"vol_{i:03d}.mrc", permissive=False) as file:
            np.testing.assert_allclose(file.data, volume, atol=1e-5)
            assert float(file.voxel_size.x) == pytest.approx(PIXEL * BOX / 32)
    np.testing.assert_allclose(np.loadtxt(out / "z.txt"), z)
    kinds = [e["kind"] for e in read_events(out / "events.jsonl")[0] if e["type"] == "artifact"]
    assert kinds.count("volume") == 2 and kinds.count("gaussians") == 2 and "script" in kinds


def test_particles(folder: Path) -> None:
    (folder / "rows.txt").write_text("7\n10-12, 3  # a range and a number\n\n")
    out = run(folder, latent="weights.0.output.pkl", particle_indices="rows.txt")
    rows = [7, 10, 11, 12, 3]
    z = load_latents(folder / "weights.0.output.pkl")["z_mu"]
    np.testing.assert_allclose(np.loadtxt(out / "z.txt"), z[rows], atol=1e-6)
    np.testing.assert_array_equal(np.loadtxt(out / "particles.txt"), rows)
    with mrcfile.open(out / "vol_005.mrc") as file:
        np.testing.assert_allclose(file.data, volumes(folder, z[[3]])[0], atol=1e-5)


@pytest.mark.parametrize("text", ["40", "5-3", "-2", "x", "1.5", "", "# nothing"])
def test_bad_indices(folder: Path, text: str) -> None:
    (folder / "rows.txt").write_text(text)
    with pytest.raises(InputError, match="particle_indices"):
        run(folder, latent="weights.0.output.pkl", particle_indices="rows.txt")
    assert not list((folder / "decode").glob("vol_*"))


def test_bad_latents(folder: Path) -> None:
    (folder / "z.txt").write_text("1 2\n3 4\n")
    with pytest.raises(InputError, match=r"must have 3 values a row"):
        run(folder, z="z.txt")
    (folder / "z.txt").write_text("1 2 3\n3 4\n")
    with pytest.raises(InputError, match=r"one row of numbers a volume|readable text with numbers"):
        run(folder, z="z.txt")
    (folder / "z.txt").write_text("1 nan 3\n")
    with pytest.raises(InputError, match="must be finite"):
        run(folder, z="z.txt")


def test_chunks_do_not_change_the_volumes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    z = np.random.default_rng(1).normal(size=(7, 3))
    together = volumes(folder, z)
    monkeypatch.setattr("gaussianem_core.model.trained_model._CHUNK_ELEMENTS", 60 * 32 * 2)  # two at a time
    apart = volumes(folder, z)
    np.testing.assert_allclose(np.stack(apart), np.stack(together), atol=1e-5)


def test_volumes_lie_where_the_consensus_map_lies(folder: Path) -> None:
    # The configuration says where the consensus map's voxel 0 is; an odd box moves the centre by half a voxel of it.
    configuration = load_configuration(folder / "cfg.json")
    moved = replace(configuration, extra={**configuration.extra, "origin_angstrom": [10.0, -20.0, 30.0]})
    write_configuration(moved, folder / "cfg.json")
    (folder / "z.txt").write_text("0 0 0\n")
    for box, shift in ((BOX, 0.0), (2 * BOX, 0.0), (BOX + 1, BOX // 2 * (PIXEL - PIXEL * BOX / (BOX + 1)))):
        out = run(folder, z="z.txt", box=box, overwrite=True)
        with mrcfile.open(out / "vol_001.mrc") as file:
            origin = [float(file.header.origin[axis]) for axis in "xyz"]
        np.testing.assert_allclose(origin, np.array([10, -20, 30]) + shift, atol=1e-4)


def test_paths_are_looked_for_in_both_places(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    options = DecodeOptions(source_dir=str(folder), model_weight="weights.0.pkl", z="z.txt")
    with pytest.raises(InputError) as caught:
        resolve_input(options, "z")
    assert str(folder / "z.txt") in str(caught.value) and str(elsewhere / "z.txt") in str(caught.value)
    (elsewhere / "z.txt").write_text("1 2 3\n")
    assert resolve_input(options, "z").read_text() == "1 2 3\n"
    (folder / "z.txt").write_text("4 5 6\n")  # the source directory comes first
    assert resolve_input(options, "z").read_text() == "4 5 6\n"
    np.testing.assert_array_equal(read_latent_rows(resolve_input(options, "z")), [[4, 5, 6]])


def test_published_model(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "legacy_model"
    expected = np.load(source / "expected.npz")
    np.save(tmp_path / "z.npy", expected["z"])
    out = run(source, z=str(tmp_path / "z.npy"), job_dir=str(tmp_path / "decode"))
    model = load_model(source / "cfg.json", source / "weights.0.pkl", source / "point_cloud.ply", device="cpu")
    deformed = model.deform(expected["z"])
    np.testing.assert_allclose(deformed.displacement, expected["d_xyz"], atol=1e-5)
    np.testing.assert_allclose(deformed.density_change, expected["d_density"][..., 0], atol=1e-5)
    assert len(list(out.glob("vol_*.mrc"))) == len(expected["z"])
