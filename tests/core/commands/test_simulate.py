"""Simulated particles are where RELION says, as noisy as asked, and their truth file rebuilds them."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from gaussianem_core.commands import simulate
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import fourier_crop
from gaussianem_core.imaging.pose import rotations_from_angles
from gaussianem_core.imaging.projection import project
from gaussianem_core.io.image_stack import ImageStack, read_map
from gaussianem_core.io.particle_table import read_particle_column, read_particles
from gaussianem_core.job.events import JobLog, read_events
from gaussianem_core.options import SimulateOptions
from gaussianem_core.simulation.acquisition import draw_ctf
from gaussianem_core.simulation.ground_truth import load_truth, mean_volume, true_volumes
from gaussianem_core.simulation.population import draw_truth
from gaussianem_core.simulation.rendering import clean_images
from gaussianem_core.simulation.trajectory import read_trajectory, select_part, sigma_of_resolution


def arm(path: Path, frames: int = 5) -> Path:
    """A body on three axes of unequal length, and an arm of 8 points that swings."""
    body = np.array([[-20, 0, 0], [-10, 0, 0], [0, 0, 0], [10, 0, 0], [0, 15, 0], [0, 8, 0], [0, 0, 9.0]])
    turns = np.linspace(0, np.pi / 2, frames)
    reach = np.arange(4, 28, 3.0)
    arms = np.stack([np.outer(reach, [np.cos(t), 0, np.sin(t)]) for t in turns])
    xyz = np.concatenate([np.broadcast_to(body, (frames, *body.shape)), arms], axis=1)
    masked = np.arange(xyz.shape[1]) >= len(body)
    np.savez(path, xyz=xyz, weight=np.ones(xyz.shape[1]), resid=np.arange(xyz.shape[1]), arm=masked)
    return path


def simulated(tmp_path: Path, **values) -> tuple[SimulateOptions, Path]:  # type: ignore[no-untyped-def]
    model = values.pop("model", None) or str(arm(tmp_path / "arm.npz"))
    options = SimulateOptions(
        **{
            "particles": 40,
            "box": 32,
            "apix": 3.0,
            "device": "cpu",
            "model": model,
            "job_dir": str(tmp_path / "simulated"),
            **values,
        }
    )
    with JobLog(options.output_directory(), ["simulate"]) as log:
        simulate.run(options, log)
    return options, options.output_directory()


def test_a_point_appears_where_relion_says(tmp_path: Path) -> None:
    # One point off centre, no CTF, hardly any noise: the peak of the image is at D//2 + A r / apix - origin.
    np.savez(tmp_path / "point.npz", xyz=np.array([[[12.0, -21.0, 6.0], [-12.0, 21.0, -6.0]]]), weight=np.ones(2))
    _, folder = simulated(
        tmp_path, model=str(tmp_path / "point.npz"), no_ctf=True, snr=1e6, resolution=13.0, missing="", shift=3.0
    )
    table = read_particles(folder / "particles.star")
    images = ImageStack.from_table(table).read().astype(np.float64)
    radius = np.array([[12.0, -21.0, 6.0], [-12.0, 21.0, -6.0]])
    rotations = rotations_from_angles(table.angles_deg)
    where = 16 + (radius @ rotations.transpose(0, 2, 1))[..., :2] / 3 - table.shifts_angstrom[:, None] / 3
    axis = np.arange(32)
    sigma = sigma_of_resolution(13.0) / 3
    spots = [np.exp(-((axis - where[..., i, None]) ** 2) / (2 * sigma**2)) for i in (0, 1)]
    expected = np.einsum("nay,nax->nyx", spots[1], spots[0])
    for image, model in zip(images, expected):
        assert np.corrcoef(image.ravel(), model.ravel())[0, 1] > 0.9999
    assert (images.max(axis=(1, 2)) > 50 * np.abs(images.min(axis=(1, 2)))).all()  # white protein


def test_metadata_is_relions(tmp_path: Path) -> None:
    options, folder = simulated(tmp_path, missing="arm", missing_fraction=0.5)
    table, truth = read_particles(folder / "particles.star"), load_truth(folder / "truth.npz")
    assert truth.rotations is not None and truth.shifts is not None and truth.present is not None
    np.testing.assert_allclose(rotations_from_angles(table.angles_deg), truth.rotations, atol=1e-6)
    np.testing.assert_allclose(table.shifts_angstrom, truth.shifts * options.apix, atol=1e-5)
    assert np.unique(table.pixel_size_angstrom) == 3.0 and np.unique(table.box_size) == 32
    assert ((table.defocus_u_angstrom >= 8000) & (table.defocus_u_angstrom < 25200)).all()
    assert np.bincount(table.random_subset.astype(int)).tolist() == [0, 20, 20]
    assert 0 < truth.present.sum() < 40
    assert {e["kind"] for e in read_events(folder / "events.jsonl")[0] if e["type"] == "artifact"} == {
        "particles",
        "stack",
        "map",
        "truth",
    }


def test_snr_is_signal_variance_over_noise_variance(tmp_path: Path) -> None:
    options, folder = simulated(tmp_path, particles=200, snr=0.5, box=48)
    truth = load_truth(folder / "truth.npz")
    images = torch.from_numpy(ImageStack.from_file(folder / "particles.mrcs").read().astype(np.float32))
    transfer = draw_ctf(options, _after_truth(options))
    clean = clean_images(truth, torch.from_numpy(transfer), torch.arange(200))
    noise = images - clean
    assert clean.var(dim=(1, 2)).mean() == pytest.approx(0.5, rel=0.02)
    assert noise.var() == pytest.approx(1.0, rel=0.01)
    assert noise.mean() == pytest.approx(0.0, abs=0.01)
    # independent noise: the correlation with the signal and between images vanishes
    assert abs(np.corrcoef(noise.ravel(), clean.ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1


def _after_truth(options: SimulateOptions) -> np.random.Generator:
    """The generator as it stands when the CTFs are drawn."""
    generator = np.random.default_rng(options.seed)
    draw_truth(read_trajectory(options.model), options, generator)
    return generator


def test_truth_rebuilds_volumes(tmp_path: Path) -> None:
    # Projecting the true volume along z gives the clean image of a particle seen from the front.
    _, folder = simulated(tmp_path, missing="7-14", no_ctf=True)
    truth = load_truth(folder / "truth.npz")
    assert truth.present is not None and truth.positions is not None and truth.removable is not None
    rows = np.flatnonzero(truth.present)[:2]
    volumes = true_volumes(truth, rows, 32)
    assert truth.frame is not None
    for row, volume in zip(rows, volumes):
        fine = project(
            torch.from_numpy(truth.positions[truth.frame[row]]),
            torch.from_numpy(truth.densities),
            torch.from_numpy(truth.sigmas),
            torch.eye(3)[None],
            torch.zeros(1, 2),
            64,
        )
        image = fourier_crop(fine, 32)[0]
        np.testing.assert_allclose(volume.sum(0) * 2 / 32, image, atol=float(image.max()) * 1e-3)
    # the mean over particles is the consensus map, in RELION's scale
    mean = true_volumes(truth, np.arange(40), 32).mean(0)
    np.testing.assert_allclose(mean_volume(truth), mean, atol=float(mean.max()) * 1e-4)
    consensus = read_map(folder / "consensus.mrc")
    np.testing.assert_allclose(consensus.values, mean * 2 / 32, atol=float(mean.max()) * 1e-5)
    assert consensus.pixel_size_angstrom == pytest.approx(3.0)
    # volumes at another box are the same map, cropped in Fourier space
    np.testing.assert_allclose(true_volumes(truth, rows, 16), fourier_crop(volumes, 16, 3), atol=1e-3)


def test_same_seed_same_images(tmp_path: Path) -> None:
    _, first = simulated(tmp_path, job_dir=str(tmp_path / "a"))
    _, second = simulated(tmp_path, job_dir=str(tmp_path / "b"))
    _, other = simulated(tmp_path, job_dir=str(tmp_path / "c"), seed=1)
    assert (first / "particles.mrcs").read_bytes() == (second / "particles.mrcs").read_bytes()
    assert (first / "particles.star").read_bytes() == (second / "particles.star").read_bytes()
    assert (first / "particles.mrcs").read_bytes() != (other / "particles.mrcs").read_bytes()


def test_half_precision_rounds_the_same_images(tmp_path: Path) -> None:
    # 1,100 images: more than one batch on every device
    stacks = [
        simulated(tmp_path, particles=1100, box=16, float16=half, job_dir=str(tmp_path / f"half_{half}"))[1]
        for half in (False, True)
    ]
    single, half = (ImageStack.from_file(folder / "particles.mrcs") for folder in stacks)
    assert half.headers[0].dtype == np.float16
    np.testing.assert_array_equal(half.read(), single.read().astype(np.float16))


def test_models_of_gemmi(tmp_path: Path) -> None:
    structure = gemmi.Structure()
    for number in range(3):
        model = gemmi.Model(number + 1)
        chain = gemmi.Chain("B")
        for i in range(4):
            residue = gemmi.Residue()
            residue.name, residue.seqid = "ALA", gemmi.SeqId(i + 1, " ")
            atom = gemmi.Atom()
            atom.name, atom.element, atom.pos = "CA", gemmi.Element("C"), gemmi.Position(3.8 * i, number, 0)
            residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
        structure.add_model(model)
    structure.write_pdb(str(tmp_path / "m.pdb"))
    structure.make_mmcif_document().write_file(str(tmp_path / "m.cif"))
    for name in ("m.pdb", "m.cif"):
        trajectory = read_trajectory(tmp_path / name)
        assert trajectory.positions_angstrom.shape == (3, 4, 3) and set(trajectory.weights) == {6.0}
        np.testing.assert_allclose(trajectory.positions_angstrom[2, 3], [11.4, 2, 0], atol=1e-3)
        assert select_part(trajectory, "B:2-3").tolist() == [False, True, True, False]
        assert select_part(trajectory, "1,4").tolist() == [True, False, False, True]
    with pytest.raises(InputError, match="neither nothing nor all"):
        select_part(trajectory, "C:1-4")
    del structure[1][0][0]
    structure.write_pdb(str(tmp_path / "uneven.pdb"))
    with pytest.raises(InputError, match="same atoms in every model"):
        read_trajectory(tmp_path / "uneven.pdb")


def test_endpoints_and_labels(tmp_path: Path) -> None:
    _, folder = simulated(tmp_path, states="endpoints", missing="arm", missing_fraction=0.5, particles=64)
    truth = load_truth(folder / "truth.npz")
    assert truth.state is not None and truth.label is not None and truth.present is not None
    assert set(truth.state) == {0.0, 1.0} and set(truth.label) == {0, 1, 2, 3}
    for label in range(4):
        chosen = truth.label == label
        assert len(set(zip(truth.state[chosen], truth.present[chosen]))) == 1


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"box": 33}, "must be even"),
        ({"box": 8}, "must hold the molecule"),
        ({"missing": "leg"}, r"or a mask of the file \(arm\)"),
        ({"defocus_min": 3e4}, "must not exceed defocus_max"),
        ({"model": "nowhere.npz"}, "must name something that exists"),
    ],
)
def test_mistakes_leave_nothing(tmp_path: Path, values: dict, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        simulated(tmp_path, **values)
    assert not list((tmp_path / "simulated").glob("*particles*"))


def test_existing_results_stay(tmp_path: Path) -> None:
    _, folder = simulated(tmp_path)
    before = (folder / "particles.mrcs").read_bytes()
    with pytest.raises(InputError, match="must not hold results already"):
        simulated(tmp_path, seed=3)
    assert (folder / "particles.mrcs").read_bytes() == before
    simulated(tmp_path, seed=3, overwrite=True)
    assert (folder / "particles.mrcs").read_bytes() != before


def test_gaussian_ply(shared_data: Path) -> None:
    trajectory = read_trajectory(shared_data / "igg1d" / "point_cloud.ply")
    assert trajectory.positions_angstrom.shape == (1, 5965, 3)
    assert trajectory.sigmas_angstrom is not None
    # 0.3 to 0.6 pixel of 3 A
    assert 0.9 <= trajectory.sigmas_angstrom.min() and trajectory.sigmas_angstrom.max() <= 1.8
    assert np.abs(trajectory.positions_angstrom).max() < 192


def test_a_job_of_a_project_names_its_images_as_relion_looks_for_them(tmp_path: Path) -> None:
    # RELION runs in the project's directory and takes rlnImageName as a path from there.
    (tmp_path / "default_pipeline.star").write_text("# version 50001\n")
    _, folder = simulated(tmp_path, job_dir=str(tmp_path / "Simulate" / "job001"))
    names = read_particle_column(folder / "particles.star", "rlnImageName")
    assert {str(name).split("@")[1] for name in names} == {"Simulate/job001/particles.mrcs"}
    assert (tmp_path / "Simulate/job001/particles.mrcs").is_file()
    assert ImageStack.from_table(read_particles(folder / "particles.star")).read().shape == (40, 32, 32)
    # by itself the data set can be moved: images lie beside the particle file
    _, alone = simulated(tmp_path / "outside" / "alone", model=str(tmp_path / "arm.npz"))
    assert str(read_particle_column(alone / "particles.star", "rlnImageName")[0]) == "000001@particles.mrcs"
